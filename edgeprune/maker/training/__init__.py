"""Samples, metrics and the training loop."""

"""Quantization-aware training: a model that computes as its int8 file will, and what that file rounds."""

"""Core ML: packages, programs, neural networks, compiled models."""

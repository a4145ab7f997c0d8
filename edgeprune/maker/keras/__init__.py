"""Keras model files in and out."""

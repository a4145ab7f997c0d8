"""The checker: what a model file costs, without TensorFlow, Keras or coremltools."""

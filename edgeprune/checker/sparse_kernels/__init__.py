"""A .tflite file that XNNPACK runs with sparse kernels, made out of one that it does not: no TensorFlow."""

"""The maker: load, prune, train, calibrate. The only place, with the converters, that imports TensorFlow."""

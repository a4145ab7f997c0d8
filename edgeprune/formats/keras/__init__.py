"""Keras files: HDF5 in an archive or by itself."""

"""TFLite files: the flatbuffer read back without an interpreter."""

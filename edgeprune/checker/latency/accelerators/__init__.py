"""Which operations of a .tflite file an accelerator takes, by its published rules (the .toml files here)."""

"""Inference next door: `session` is the parent's side, `worker` the child process that holds the interpreter."""

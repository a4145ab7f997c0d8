"""Code to paste: how an app loads a model file, with the names, shapes, types and scales of this very file."""

"""Trace a model whose sizes may change: what Keras works out from sizes in Python is left to the graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import AnyModel, Tensor

__all__ = ["sizes_left_open"]


@contextlib.contextmanager
def sizes_left_open(model: AnyModel) -> Iterator[None]:
    """While this is open, a trace of `model` may leave sizes of its inputs open; afterwards the model is as it was.

    Keras 3.15 compares the sizes that UpSampling2D resizes to in Python, which a graph cannot. Raises Unsupported for
    a model that needs to know its sizes.
    """
    changed = [layer for layer in _layers(model) if layer.interpolation != "nearest"]
    for layer in changed:
        object.__setattr__(layer, "_resize_images", _resized)  # on the instance, past the bookkeeping of layers
    try:
        yield
    except InputError as cause:
        raise Unsupported(f"{cause}: not with sizes that may change; give one size, --input-shape 1,...") from cause
    finally:
        for layer in changed:
            object.__delattr__(layer, "_resize_images")


def _layers(model: AnyModel) -> list[Any]:
    if not hasattr(model, "_flatten_layers"):
        return []
    kind = keras_module().layers.UpSampling2D
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def _resized(x: Tensor, height: int, width: int, data_format: str, interpolation: str) -> Tensor:
    """What UpSampling2D computes, from the sizes that there are when it runs."""
    import tensorflow as tf

    first = data_format == "channels_first"
    x = tf.transpose(x, [0, 2, 3, 1]) if first else x
    made = tf.image.resize(x, tf.shape(x)[1:3] * [height, width], method=interpolation)
    return tf.transpose(made, [0, 3, 1, 2]) if first else made

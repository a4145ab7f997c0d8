"""Tensors and arrays on the backend that Keras runs on, once it is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeprune.maker.keras.types import Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["conversions", "on_tensorflow"]


def on_tensorflow() -> bool:
    """Whether Keras runs on TensorFlow."""
    return bool(sys.modules["keras"].backend.backend() == "tensorflow")


def conversions() -> tuple[Callable[[np.ndarray], Tensor], Callable[[Tensor], np.ndarray]]:
    """What makes a tensor of an array, and an array of a tensor."""
    if not on_tensorflow():
        ops = sys.modules["keras"].ops
        return ops.convert_to_tensor, ops.convert_to_numpy
    import tensorflow as tf

    return tf.constant, lambda tensor: tensor.numpy()

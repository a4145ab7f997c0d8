"""Batch normalization of training batches in one operation of TensorFlow instead of ten.

Keras 3 computes it from mean and variance; the fused kernel gives the same numbers to within rounding and takes a third
off a training step of a mobile network on a CPU (benchmarks/epoch_time.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from edgeprune.maker.keras.resolution import replaced
from edgeprune.maker.keras.types import Tensor

__all__ = ["fused_norms"]

LEAST_EPSILON = 1.001e-5  # TensorFlow takes this in place of a smaller one


@contextlib.contextmanager
def fused_norms(keras: ModuleType) -> Iterator[None]:
    """While this is open, BatchNormalization over the last axis of float32 pictures is computed by the fused kernel
    where it trains; every other stays as it is. A function that is traced meanwhile keeps what it was traced with.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    with replaced(keras.layers.BatchNormalization, "call", _fused):
        yield


def _fused(original: Callable[..., Any]) -> Callable[..., Any]:
    """`call` of BatchNormalization with the fused kernel where it computes the same."""

    def call(layer: Any, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is None and training and layer.trainable and _can_fuse(layer, inputs):
            return _normalized(layer, inputs)
        return original(layer, inputs, training=training, mask=mask)

    return call


def _can_fuse(layer: Any, inputs: Any) -> bool:
    plain = not (getattr(layer, "renorm", False) or layer.synchronized)
    floats = layer.compute_dtype == layer.variable_dtype == inputs.dtype == "float32"
    return plain and floats and len(inputs.shape) == 4 and layer.axis in (-1, 3) and layer.epsilon >= LEAST_EPSILON


def _normalized(layer: Any, inputs: Any) -> Tensor:
    import tensorflow as tf

    channels = inputs.shape[-1]
    scale = layer.gamma.value if layer.scale else tf.ones(channels)
    offset = layer.beta.value if layer.center else tf.zeros(channels)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=scale, offset=offset, mean=tf.zeros(0), variance=tf.zeros(0), epsilon=layer.epsilon
    )
    count = tf.cast(tf.size(inputs) // channels, tf.float32)
    variance *= (count - 1) / count  # the kernel gives the estimate for the population, Keras keeps that of the batch
    for moving, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return outputs

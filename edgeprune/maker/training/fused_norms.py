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
    """While this is open, BatchNormalization over the last axis of float32 pictures is computed by the fused kernel, of
    a teacher too; every other stays as it is. A function that is traced meanwhile keeps what it was traced with.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    with replaced(keras.layers.BatchNormalization, "call", _fused):
        yield


def _fused(original: Callable[..., Any]) -> Callable[..., Any]:
    """`call` of BatchNormalization with the fused kernel where it computes the same."""

    def call(layer: Any, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is None and _can_fuse(layer, inputs):
            return _by_batch(layer, inputs) if training and layer.trainable else _by_averages(layer, inputs)
        return original(layer, inputs, training=training, mask=mask)

    return call


def _can_fuse(layer: Any, inputs: Any) -> bool:
    plain = not (getattr(layer, "renorm", False) or layer.synchronized)
    floats = layer.compute_dtype == layer.variable_dtype == inputs.dtype == "float32"
    return plain and floats and len(inputs.shape) == 4 and layer.axis in (-1, 3) and layer.epsilon >= LEAST_EPSILON


def _by_averages(layer: Any, inputs: Any) -> Tensor:
    return _kernel(layer, inputs, layer.moving_mean.value, layer.moving_variance.value, is_training=False)[0]


def _kernel(layer: Any, inputs: Any, mean: Tensor, variance: Tensor, *, is_training: bool) -> Any:
    import tensorflow as tf

    return tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=layer.gamma.value if layer.scale else tf.ones(inputs.shape[-1]),
        offset=layer.beta.value if layer.center else tf.zeros(inputs.shape[-1]),
        mean=mean,
        variance=variance,
        epsilon=layer.epsilon,
        is_training=is_training,
    )


def _by_batch(layer: Any, inputs: Any) -> Tensor:
    import tensorflow as tf

    outputs, mean, variance, *_ = _kernel(layer, inputs, tf.zeros(0), tf.zeros(0), is_training=True)
    count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
    variance *= (count - 1) / count  # the kernel gives the estimate for the population, Keras keeps that of the batch
    for moving, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return outputs

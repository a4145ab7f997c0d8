"""Batch normalization of training batches in one operation of TensorFlow instead of ten.

Keras 3 computes it from mean and variance; the fused kernel gives the same numbers to within rounding and takes a third
off a training step of a mobile network on a CPU (benchmarks/epoch_time.py).

On x86 TensorFlow takes oneDNN's kernel, whose way through channels is three to eight times slower where the processor's
widest vectors do not divide their number and vectors of eight do: [64, 28, 28, 56] takes 20 ms forward with AVX-512, 48
channels 2.5 ms; with AVX2 any multiple of eight above eight is slow. There the forward half is computed step by step,
and the kernel only does the gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from edgeprune.host.processor import has_avx512, is_x86
from edgeprune.maker.keras.resolution import replaced
from edgeprune.maker.keras.types import Tensor

__all__ = ["fused_norms"]

LEAST_EPSILON = 1.001e-5  # TensorFlow takes this in place of a smaller one
_OCTET = 8  # numbers of four bytes in a vector of AVX2


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


def _is_slow(inputs: Any) -> bool:
    """Whether the kernel would take its slow way; a GPU has another kernel."""
    import tensorflow as tf

    channels = inputs.shape[-1]
    if channels <= _OCTET or channels % _OCTET or not is_x86() or tf.config.list_physical_devices("GPU"):
        return False
    return not has_avx512() or channels % (2 * _OCTET) != 0


def _by_averages(layer: Any, inputs: Any) -> Tensor:
    mean, variance = layer.moving_mean.value, layer.moving_variance.value
    # Behind a convolution the kernel becomes a part of it.
    if _is_slow(inputs) and getattr(getattr(inputs, "op", None), "type", "") != "Conv2D":
        return _stretched(inputs, *_affine(layer, inputs), mean, variance, layer.epsilon)
    return _kernel(layer, inputs, mean, variance, is_training=False)[0]


def _kernel(layer: Any, inputs: Any, mean: Tensor, variance: Tensor, *, is_training: bool) -> Any:
    import tensorflow as tf

    scale, offset = _affine(layer, inputs)
    return tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=layer.epsilon,
        is_training=is_training,
    )


def _affine(layer: Any, inputs: Any) -> tuple[Any, Any]:
    """(gamma, beta), of those that the layer has."""
    import tensorflow as tf

    channels = inputs.shape[-1]
    return (
        layer.gamma.value if layer.scale else tf.ones(channels),
        layer.beta.value if layer.center else tf.zeros(channels),
    )


def _stretched(inputs: Any, scale: Any, offset: Any, mean: Any, variance: Any, epsilon: float) -> Any:
    """Inputs with this mean and variance, normalized."""
    import tensorflow as tf

    slope = scale * tf.math.rsqrt(variance + epsilon)
    return inputs * slope + (offset - mean * slope)


def _by_batch(layer: Any, inputs: Any) -> Tensor:
    import tensorflow as tf

    if _is_slow(inputs):
        outputs, mean, variance = _by_steps(layer, inputs)
    else:
        outputs, mean, variance, *_ = _kernel(layer, inputs, tf.zeros(0), tf.zeros(0), is_training=True)
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        variance *= (count - 1) / count  # the kernel gives the population's estimate, Keras keeps that of the batch
    for moving, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return outputs


def _by_steps(layer: Any, inputs: Any) -> tuple[Any, Any, Any]:
    """(Outputs, mean, variance) of a batch, whose gradient is the kernel's."""
    import tensorflow as tf

    scale, offset = _affine(layer, inputs)

    def normalized(x: Any, scale: Any, offset: Any) -> Any:
        places = (0, 1, 2)
        mean = tf.reduce_mean(x, places)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), places)

        def gradient(upstream: Any, *_: Any) -> tuple[Any, Any, Any]:
            made = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=x,
                scale=scale,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros(0),
                epsilon=layer.epsilon,
                is_training=True,
            )
            return made.x_backprop, made.scale_backprop, made.offset_backprop

        return (_stretched(x, scale, offset, mean, variance, layer.epsilon), mean, variance), gradient

    outputs, mean, variance = tf.custom_gradient(normalized)(inputs, scale, offset)
    return outputs, mean, variance

"""Products, reductions and normalizations."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from edgeprune.converters.evaluator.arguments import Arguments, Kernel
from edgeprune.converters.types import Value

__all__ = ["KERNELS"]


def _linear(a: Arguments) -> Value:
    made = tf.matmul(tf.convert_to_tensor(a["x"]), a["weight"], transpose_b=True)
    return made if a.get("bias") is None else made + a["bias"]


def _matmul(a: Arguments) -> Value:
    x, y = tf.convert_to_tensor(a["x"]), tf.convert_to_tensor(a["y"])
    flip_x, flip_y = a.flag("transpose_x"), a.flag("transpose_y")
    vector_x, vector_y = x.shape.rank == 1, y.shape.rank == 1
    x, y = (x[None, :] if vector_x else x), (y[:, None] if vector_y else y)
    made = tf.matmul(x, y, transpose_a=flip_x and not vector_x, transpose_b=flip_y and not vector_y)
    made = tf.squeeze(made, -2) if vector_x else made
    return tf.squeeze(made, -1) if vector_y else made


def _attention(a: Arguments) -> Value:
    """softmax(q k^T / sqrt(d) + mask) v; a truth mask lets through where it is true."""
    query, key, mask = a["query"], a["key"], a.get("attn_mask")
    scores = tf.matmul(query, key, transpose_b=True) / tf.sqrt(float(query.shape[-1]))
    if mask is not None:
        mask = tf.convert_to_tensor(mask)
        scores = tf.where(mask, scores, -1e30) if mask.dtype == tf.bool else scores + mask
    return tf.matmul(tf.nn.softmax(scores), a["value"])


def _reduced(function: Callable[..., Value]) -> Kernel:
    def kernel(a: Arguments) -> Value:
        axes = None if a.get("axes") is None else a.integers("axes")
        return function(tf.convert_to_tensor(a["x"]), axes, a.flag("keep_dims"))

    return kernel


def _argument(function: Callable[..., Value]) -> Kernel:
    def kernel(a: Arguments) -> Value:
        axis = a.integer("axis", -1)
        found = function(a["x"], axis=axis, output_type=tf.int32)
        return tf.expand_dims(found, axis) if a.flag("keep_dims") else found

    return kernel


def _batch_norm(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])

    def along(name: str, default: float) -> Value | float:
        values = a.get(name)
        return default if values is None else tf.reshape(values, [1, -1, *[1] * (x.shape.rank - 2)])

    scale = along("gamma", 1.0) * tf.math.rsqrt(along("variance", 1.0) + a.number("epsilon", 1e-5))
    return x * scale + (along("beta", 0.0) - along("mean", 0.0) * scale)  # in the order in which Keras rounds


def _normalized(x: Value, axes: list[int], epsilon: float) -> Value:
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + epsilon)


def _layer_norm(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    axes = sorted(axis % x.shape.rank for axis in a.integers("axes", list(range(x.shape.rank))))
    made = _normalized(x, axes, a.number("epsilon", 1e-5))
    shape = [size if i in axes else 1 for i, size in enumerate(x.shape.as_list())]
    made = made if a.get("gamma") is None else made * tf.reshape(a["gamma"], shape)
    return made if a.get("beta") is None else made + tf.reshape(a["beta"], shape)


def _instance_norm(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    made = _normalized(x, list(range(2, x.shape.rank)), a.number("epsilon", 1e-5))
    shape = [1, -1, *[1] * (x.shape.rank - 2)]
    made = made if a.get("gamma") is None else made * tf.reshape(a["gamma"], shape)
    return made if a.get("beta") is None else made + tf.reshape(a["beta"], shape)


def _l2_norm(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    return x * tf.math.rsqrt(tf.reduce_sum(tf.square(x), [-3, -2, -1], keepdims=True) + a.number("epsilon", 1e-6))


def _local_response_norm(a: Arguments) -> Value:
    """Over `size` neighbouring channels (axis 1)."""
    x, size = tf.convert_to_tensor(a["x"]), a.integer("size")
    squares = tf.square(x)
    before, channels = size // 2, x.shape[1]
    wide = tf.pad(squares, [[0, 0], [before, size - 1 - before], *[[0, 0]] * (x.shape.rank - 2)])
    total = tf.add_n([wide[:, i : i + channels] for i in range(size)])
    base = a.number("k", 1.0) + a.number("alpha", 1e-4) / size * total
    return x / tf.pow(base, a.number("beta", 0.75))


KERNELS: dict[str, Kernel] = {
    "batch_norm": _batch_norm,
    "einsum": lambda a: tf.einsum(a.text("equation"), *a.listed("values")),
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "local_response_norm": _local_response_norm,
    "matmul": _matmul,
    "reduce_argmax": _argument(tf.argmax),
    "reduce_argmin": _argument(tf.argmin),
    "reduce_l1_norm": _reduced(lambda x, axes, keep: tf.reduce_sum(tf.abs(x), axes, keep)),
    "reduce_l2_norm": _reduced(lambda x, axes, keep: tf.sqrt(tf.reduce_sum(tf.square(x), axes, keep))),
    "reduce_log_sum": _reduced(lambda x, axes, keep: tf.math.log(tf.reduce_sum(x, axes, keep))),
    "reduce_log_sum_exp": _reduced(tf.reduce_logsumexp),
    "reduce_max": _reduced(tf.reduce_max),
    "reduce_mean": _reduced(tf.reduce_mean),
    "reduce_min": _reduced(tf.reduce_min),
    "reduce_prod": _reduced(tf.reduce_prod),
    "reduce_sum": _reduced(tf.reduce_sum),
    "reduce_sum_square": _reduced(lambda x, axes, keep: tf.reduce_sum(tf.square(x), axes, keep)),
    "scaled_dot_product_attention": _attention,
    "softmax": lambda a: tf.nn.softmax(a["x"], axis=a.integer("axis", -1)),
}

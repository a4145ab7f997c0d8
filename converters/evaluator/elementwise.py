"""Element by element: activations, unary and binary operations, comparisons, casts."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from edgeprune.converters.evaluator.arguments import Arguments, Kernel, UnknownOperationError
from edgeprune.converters.types import Value

__all__ = ["KERNELS"]


def _unary(function: Callable[..., Value]) -> Kernel:
    return lambda a: function(tf.convert_to_tensor(a["x"]))


def _binary(function: Callable[..., Value]) -> Kernel:
    def kernel(a: Arguments) -> Value:
        x, y = tf.convert_to_tensor(a["x"]), tf.convert_to_tensor(a["y"])
        if x.dtype != y.dtype:  # MIL lets a scalar constant be of another type
            wide = x.dtype if x.dtype.is_floating else y.dtype
            x, y = tf.cast(x, wide), tf.cast(y, wide)
        return function(x, y)

    return kernel


def _real_div(x: Value, y: Value) -> Value:
    return x / y if x.dtype.is_floating else tf.cast(x, tf.float32) / tf.cast(y, tf.float32)


def _clamped_relu(a: Arguments) -> Value:
    x, alpha, beta = a["x"], a["alpha"], a["beta"]
    return tf.minimum(beta, tf.where(x >= 0, x, alpha * x))


def _prelu(a: Arguments) -> Value:
    """One slope for each index along axis 1."""
    x, alpha = tf.convert_to_tensor(a["x"]), tf.convert_to_tensor(a["alpha"])
    return tf.where(x > 0, x, x * _by_channel(alpha, x.shape.rank))


def _by_channel(values: Value, rank: int) -> Value:
    return tf.reshape(values, [1, -1, *[1] * (rank - 2)]) if rank > 1 else values


def _softplus_parametric(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    alpha, beta = (_by_channel(tf.convert_to_tensor(a[name]), x.shape.rank) for name in ("alpha", "beta"))
    return alpha * tf.math.softplus(beta * x)


def _gelu(a: Arguments) -> Value:
    mode, x = a.text("mode", "EXACT"), a["x"]
    if mode == "SIGMOID_APPROXIMATION":
        return x * tf.sigmoid(1.702 * x)
    return tf.nn.gelu(x, approximate=mode == "TANH_APPROXIMATION")


def _cast(a: Arguments) -> Value:
    x, wanted = tf.convert_to_tensor(a["x"]), a.text("dtype")
    if wanted == "bool":
        return x if x.dtype == tf.bool else tf.not_equal(x, tf.zeros_like(x))
    return tf.cast(x, tf.float32 if wanted.startswith("fp") else tf.int32)


def _clip(a: Arguments) -> Value:
    return tf.minimum(tf.maximum(a["x"], a["alpha"]), a["beta"])


def _select(a: Arguments) -> Value:
    return tf.where(tf.cast(a["cond"], tf.bool), a["a"], a["b"])


def _along(values: Value, rank: int, axis: int) -> Value:
    values = tf.convert_to_tensor(values)
    if values.shape.rank == 0:
        return values
    return tf.reshape(values, [-1 if i == int(axis) % rank else 1 for i in range(rank)])


def _quantize(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["input"])
    rank, axis = x.shape.rank, a.integer("axis", 0)
    zero = _along(tf.cast(a.get("zero_point", 0), tf.float32), rank, axis)
    limits = {"int8": (-128, 127), "uint8": (0, 255)}.get(a.text("output_dtype"))
    if limits is None:
        raise UnknownOperationError(f"quantize to {a.text('output_dtype')}")
    steps = tf.round(x / _along(a["scale"], rank, axis)) + zero
    return tf.cast(tf.clip_by_value(steps, *limits), tf.int32)


def _dequantize(a: Arguments) -> Value:
    x = tf.cast(a["input"], tf.float32)
    rank, axis = x.shape.rank, a.integer("axis", 0)
    zero = _along(tf.cast(a.get("zero_point", 0), tf.float32), rank, axis)
    return _along(a["scale"], rank, axis) * (x - zero)


KERNELS: dict[str, Kernel] = {
    "abs": _unary(tf.abs),
    "acos": _unary(tf.acos),
    "asin": _unary(tf.asin),
    "atan": _unary(tf.atan),
    "atanh": _unary(tf.atanh),
    "ceil": _unary(tf.math.ceil),
    "cos": _unary(tf.cos),
    "cosh": _unary(tf.cosh),
    "erf": _unary(tf.math.erf),
    "exp": _unary(tf.exp),
    "exp2": _unary(lambda x: tf.exp(x * math.log(2.0))),
    "floor": _unary(tf.floor),
    "identity": _unary(tf.identity),
    "inverse": lambda a: 1.0 / (a["x"] + a.number("epsilon", 1e-4)),
    "log": lambda a: tf.math.log(a["x"] + a.number("epsilon", 1e-45)),
    "logical_not": _unary(lambda x: tf.logical_not(tf.cast(x, tf.bool))),
    "round": _unary(tf.round),
    "rsqrt": lambda a: tf.math.rsqrt(a["x"] + a.number("epsilon", 1e-12)),
    "sign": _unary(tf.sign),
    "sin": _unary(tf.sin),
    "sinh": _unary(tf.sinh),
    "sqrt": _unary(tf.sqrt),
    "square": _unary(tf.square),
    "tan": _unary(tf.tan),
    "tanh": _unary(tf.tanh),
    "threshold": lambda a: tf.maximum(a["x"], a["alpha"]),
    "clip": _clip,
    "cast": _cast,
    "select": _select,
    "quantize": _quantize,
    "dequantize": _dequantize,
    # Activations.
    "clamped_relu": _clamped_relu,
    "elu": lambda a: tf.where(a["x"] > 0, a["x"], a["alpha"] * tf.math.expm1(a["x"])),
    "gelu": _gelu,
    "leaky_relu": lambda a: tf.where(a["x"] >= 0, a["x"], a["alpha"] * a["x"]),
    "linear_activation": lambda a: a["x"] * a["alpha"] + a["beta"],
    "prelu": _prelu,
    "relu": _unary(tf.nn.relu),
    "relu6": _unary(tf.nn.relu6),
    "scaled_tanh": lambda a: a["alpha"] * tf.tanh(a["beta"] * a["x"]),
    "sigmoid": _unary(tf.sigmoid),
    "sigmoid_hard": lambda a: tf.clip_by_value(a["alpha"] * a["x"] + a["beta"], 0.0, 1.0),
    "silu": _unary(tf.nn.silu),
    "softplus": _unary(tf.math.softplus),
    "softplus_parametric": _softplus_parametric,
    "softsign": _unary(tf.nn.softsign),
    "thresholded_relu": lambda a: tf.where(a["x"] >= a["alpha"], a["x"], tf.zeros_like(a["x"])),
    # Binary.
    "add": _binary(tf.add),
    "equal": _binary(tf.equal),
    "floor_div": _binary(tf.math.floordiv),
    "greater": _binary(tf.greater),
    "greater_equal": _binary(tf.greater_equal),
    "less": _binary(tf.less),
    "less_equal": _binary(tf.less_equal),
    "logical_and": _binary(tf.logical_and),
    "logical_or": _binary(tf.logical_or),
    "logical_xor": _binary(tf.math.logical_xor),
    "maximum": _binary(tf.maximum),
    "minimum": _binary(tf.minimum),
    "mod": _binary(tf.math.floormod),
    "mul": _binary(tf.multiply),
    "not_equal": _binary(tf.not_equal),
    "pow": _binary(tf.pow),
    "real_div": _binary(_real_div),
    "sub": _binary(tf.subtract),
}

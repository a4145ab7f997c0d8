"""The reference evaluator: each operation against coremltools' own constant folding, plain NumPy loops or Keras."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from places import TESTS

from edgeprune.converters.evaluator import program
from edgeprune.converters.evaluator.arguments import Arguments, UnknownOperationError
from edgeprune.converters.evaluator.program import KERNELS, Evaluator, unknown_operations
from edgeprune.converters.evaluator.widening import RULES, widened
from edgeprune.errors import ConversionError, InputError
from edgeprune.formats.coreml.mil import Block, Constant, Feature, Operation, Package, Port
from edgeprune.formats.coreml.mil_reader import read_coreml

FILES = TESTS / "files"
RNG = np.random.default_rng(0)
# Parameters that depend on the model's inputs; all others are constants.
COMPUTED = {"a", "b", "cond", "data", "indices", "input", "key", "query", "ref_tensor", "updates", "value", "x", "y"}


def floats(*shape: int) -> np.ndarray:
    """Normal numbers, float32."""
    return RNG.normal(size=shape).astype(np.float32)


def run(kind: str, outputs: int = 1, **given: Any) -> Any:
    """One operation, its outputs as arrays."""
    values = {
        name: tf.constant(value) if name in COMPUTED and not isinstance(value, str) else value
        for name, value in given.items()
    }
    made = KERNELS[kind](Arguments(kind=kind, values=values, outputs=outputs))
    return tuple(map(np.asarray, made)) if isinstance(made, tuple) else np.asarray(made)


# --- against coremltools' constant folding --------------------------------------------------------------------------

X, Y, Z = floats(2, 3, 4), floats(2, 3, 4), floats(2, 3, 4)
POSITIVE = np.abs(X) + np.float32(0.1)
UNIT = np.clip(X, -0.9, 0.9)
WHOLE = RNG.integers(-7, 8, (2, 3, 4)).astype(np.int32)
DIVISOR = RNG.choice([-3, -2, 2, 3], (2, 3, 4)).astype(np.int32)
TIES = np.array([-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5], np.float32)
TRUE = X > 0
F = np.float32
Q, K, V = floats(2, 3, 4), floats(2, 5, 4), floats(2, 5, 6)
# fmt: off
NUMBERS = [
    "abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "identity", "relu", "relu6", "round",
    "sigmoid", "sign", "sin", "sinh", "softplus", "softsign", "square", "tan", "tanh",
]
# fmt: on

CASES: dict[str, list[dict[str, Any]]] = {
    **{kind: [{"x": X}, {"x": TIES}] for kind in NUMBERS},
    **{kind: [{"x": UNIT}] for kind in ("acos", "asin", "atanh")},
    **{kind: [{"x": POSITIVE}, {"x": POSITIVE, "epsilon": F(0.5)}] for kind in ("inverse", "log", "rsqrt")},
    "sqrt": [{"x": POSITIVE}],
    "logical_not": [{"x": TRUE}],
    "threshold": [{"x": X, "alpha": F(0.3)}],
    "clip": [{"x": X, "alpha": F(-0.3), "beta": F(0.4)}],
    "cast": [
        {"x": X * 9, "dtype": "int32"},
        {"x": WHOLE, "dtype": "fp32"},
        {"x": X, "dtype": "fp16"},
        {"x": WHOLE, "dtype": "bool"},
        {"x": TRUE, "dtype": "fp32"},
        {"x": TRUE, "dtype": "int32"},
    ],
    "select": [{"cond": TRUE, "a": X, "b": Y}],
    "quantize": [
        {"input": X * 50, "scale": F(0.5), "output_dtype": "int8"},
        {"input": X * 99, "scale": F(0.5), "zero_point": np.uint8(99), "output_dtype": "uint8"},
        {
            "input": X,
            "scale": np.array([0.1, 0.2, 0.02], F),
            "zero_point": np.array([1, -2, 3], np.int8),
            "axis": 1,
            "output_dtype": "int8",
        },
    ],
    "clamped_relu": [{"x": X, "alpha": F(0.2), "beta": F(0.5)}],
    "elu": [{"x": X, "alpha": F(0.7)}],
    "gelu": [{"x": X, "mode": mode} for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")] + [{"x": X}],
    "leaky_relu": [{"x": X, "alpha": F(0.1)}],
    "linear_activation": [{"x": X, "alpha": F(2), "beta": F(-1)}],
    "prelu": [{"x": floats(2, 3, 4, 5), "alpha": np.array([0.1, 0.2, 0.3], F)}],
    "scaled_tanh": [{"x": X, "alpha": F(2), "beta": F(0.5)}],
    "sigmoid_hard": [{"x": X, "alpha": F(0.4), "beta": F(0.3)}],
    "softplus_parametric": [{"x": X, "alpha": np.array([1, 2, 3], F), "beta": np.array([0.5, 1, 2], F)}],
    "thresholded_relu": [{"x": X, "alpha": F(0.3)}],
    **{
        kind: [{"x": X, "y": Y}, {"x": X, "y": Y[:, :1]}, {"x": X, "y": F(0.5)}, {"x": WHOLE, "y": DIVISOR}]
        for kind in ("add", "maximum", "minimum", "mul", "sub", "greater", "greater_equal", "less", "less_equal")
    },
    **{kind: [{"x": WHOLE, "y": DIVISOR}, {"x": X, "y": X}, {"x": X, "y": Y}] for kind in ("equal", "not_equal")},
    "floor_div": [{"x": WHOLE, "y": DIVISOR}, {"x": X * 9, "y": POSITIVE}],
    "mod": [{"x": WHOLE, "y": DIVISOR}, {"x": X * 9, "y": POSITIVE}],
    "real_div": [{"x": X, "y": POSITIVE}],
    "pow": [{"x": POSITIVE, "y": Y}],
    **{kind: [{"x": TRUE, "y": Y > 0}] for kind in ("logical_and", "logical_or", "logical_xor")},
    "reshape": [{"x": X, "shape": [4, -1]}, {"x": X, "shape": [6, 4]}],
    "expand_dims": [{"x": X, "axes": [0]}, {"x": X, "axes": [1, -1]}, {"x": X, "axes": [-3, 0]}],
    "squeeze": [{"x": X[:1, :, :1]}, {"x": X[:1, :, :1], "axes": [0]}, {"x": X[:1, :, :1], "axes": [-1]}],
    "split": [
        {"x": X, "num_splits": 2, "axis": 2},
        {"x": X, "split_sizes": [1, 3], "axis": -1},
        {"x": X, "num_splits": 3, "axis": 1},
    ],
    "concat": [
        {"values": [X, Y], "axis": 1},
        {"values": [X, Y[:, :1]], "axis": -2},
    ],
    "stack": [{"values": [X, Y], "axis": 1}, {"values": [X, Y, Z], "axis": -1}],
    "pad": [
        {"x": X, "pad": [1, 2], "mode": "constant", "constant_val": F(7)},
        {"x": X, "pad": [1, 0, 2, 1], "mode": "constant"},
        {"x": X, "pad": [1, 2, 0, 3], "mode": "reflect"},
        {"x": X, "pad": [0, 2, 3, 1], "mode": "replicate"},
        {"x": X, "pad": [0, 1, 1, 0, 2, 2]},
    ],
    "gather": [
        {"x": X, "indices": np.array([2, 0, -1], np.int32), "axis": 1},
        {"x": X, "indices": np.array([[1, 0], [0, 1]], np.int32), "axis": 0},
        {"x": X, "indices": np.array([[1, 0], [0, -1]], np.int32), "axis": 2, "batch_dims": 1},
        {"x": X, "indices": np.int32(1), "axis": -1},
    ],
    "gather_along_axis": [
        {"x": X, "indices": RNG.integers(-3, 3, (2, 2, 4)).astype(np.int32), "axis": 1},
        {"x": X, "indices": RNG.integers(0, 4, (2, 3, 6)).astype(np.int32), "axis": -1},
    ],
    "slice_by_size": [
        {"x": X, "begin": [0, 1, 1], "size": [2, 1, 2]},
        {"x": X, "begin": [1, 0, 2], "size": [-1, -1, 1]},
    ],
    "slice_by_index": [
        {"x": X, "begin": [0, 1, 1], "end": [2, 3, 3]},
        {"x": X, "begin": [0, 1, -3], "end": [2, -1, -1]},
        {"x": X, "begin": [0, 0, 3], "end": [2, 3, 0], "stride": [1, 2, -2]},
        {
            "x": X,
            "begin": [1, 1, 1],
            "end": [1, 2, 2],
            "begin_mask": [True, False, False],
            "end_mask": [True, False, True],
        },
        {
            "x": X,
            "begin": [1, 1, 1],
            "end": [2, 2, 2],
            "begin_mask": [False, True, True],
            "end_mask": [False, False, True],
        },
        {"x": X, "begin": [1, 2, 0], "end": [2, 3, 4], "squeeze_mask": [True, False, False]},
        {"x": X, "begin": [1, -1, 0], "end": [2, 0, 4], "squeeze_mask": [False, True, False]},
        {
            "x": X,
            "begin": [0, 0, 0],
            "end": [0, 0, 0],
            "stride": [1, -1, 3],
            "begin_mask": [True, True, True],
            "end_mask": [True, True, True],
        },
        {
            "x": X,
            "begin": [1, 0, 2],
            "end": [2, 1, 4],
            "squeeze_mask": [True, False, False],
            "end_mask": [False, True, False],
        },
    ],
    "reverse": [{"x": X}, {"x": X, "axes": [1]}, {"x": X, "axes": [0, -1]}],
    "argsort": [{"x": X}, {"x": X, "axis": 1, "ascending": True}, {"x": X, "axis": 0}],
    "topk": [
        {"x": X, "k": 2},
        {"x": X, "k": 2, "axis": 1, "ascending": True},
        {"x": X, "k": 1, "axis": 0, "ascending": False},
    ],
    "band_part": [{"x": X, "lower": 0, "upper": 1}, {"x": X, "lower": 1}, {"x": X}],
    "cumsum": [{"x": X}, {"x": X, "axis": 2}, {"x": X, "axis": 1, "reverse": True}],
    "fill": [{"shape": [2, 3], "value": F(1.5)}, {"shape": [2], "value": np.int32(3)}],
    "fill_like": [{"ref_tensor": X, "value": F(1.5)}],
    "flatten2d": [{"x": X, "axis": axis} for axis in (1, 2, -1)] + [{"x": X}],
    "range_1d": [
        {"start": np.int32(1), "end": np.int32(8), "step": np.int32(3)},
        {"start": F(0), "end": F(1), "step": F(0.25)},
    ],
    "shape": [{"x": X}],
    "tile": [{"x": X, "reps": [1, 2, 3]}],
    "transpose": [{"x": X, "perm": [2, 0, 1]}, {"x": X, "perm": [-1, -3, -2]}],
    "linear": [
        {"x": X, "weight": floats(5, 4), "bias": floats(5)},
        {"x": X[0], "weight": floats(5, 4)},
    ],
    "matmul": [
        {"x": X, "y": floats(2, 4, 5)},
        {"x": X, "y": floats(5, 4), "transpose_y": True},
        {"x": X, "y": floats(2, 3, 5), "transpose_x": True},
        {"x": X[0, 0], "y": floats(4, 5)},
    ],
    "einsum": [{"values": [floats(2, 3, 4, 5), floats(2, 5, 4, 6)], "equation": "nchw,nwhu->nchu"}],
    "l2_norm": [{"x": floats(2, 3, 4, 5)}, {"x": floats(2, 3, 4, 5), "epsilon": F(0.5)}],
    "layer_norm": [
        {"x": X, "axes": [2], "gamma": floats(4), "beta": floats(4)},
        {"x": X, "axes": [1, -1], "gamma": floats(3, 4), "beta": floats(3, 4), "epsilon": F(0.1)},
        {"x": X, "axes": [-2]},
    ],
    "softmax": [{"x": X}, {"x": X, "axis": 1}],
    **{
        kind: [{"x": X}, {"x": X, "axis": 1, "keep_dims": True}, {"x": X, "axis": -2}, {"x": WHOLE, "axis": 0}]
        for kind in ("reduce_argmax", "reduce_argmin")
    },
    **{
        kind: [
            {"x": X},
            {"x": X, "axes": [1]},
            {"x": X, "axes": [0, -1], "keep_dims": True},
        ]
        for kind in ["l1_norm", "l2_norm", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square"]
        for kind in [f"reduce_{kind}"]
    },
    "reduce_log_sum": [{"x": POSITIVE, "axes": [1]}, {"x": POSITIVE}],
    "scaled_dot_product_attention": [
        {"query": Q, "key": K, "value": V},
        {"query": Q, "key": K, "value": V, "attn_mask": floats(3, 5)},
        {"query": Q, "key": K, "value": V, "attn_mask": np.tri(3, 5, 1) > 0},
    ],
}
TABLE = [(kind, index) for kind, cases in CASES.items() for index in range(len(cases))]


@pytest.fixture(scope="module")
def folded() -> Any:
    """(operation, arguments) -> the values that coremltools computes from constants for iOS 18."""
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function

    def fold(kind: str, given: Mapping[str, Any]) -> list[np.ndarray]:
        with Function({}, opset_version=ct.target.iOS18):
            made = getattr(Builder, kind)(**given)
        made = made if isinstance(made, list | tuple) else [made]
        assert all(value.val is not None for value in made), kind
        return [np.asarray(value.val) for value in made]

    return fold


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "index"), TABLE, ids=[f"{kind}-{index}" for kind, index in TABLE])
def test_as_coremltools_folds_it(folded: Any, kind: str, index: int) -> None:
    """Same shape, same kind of numbers, same values."""
    given = CASES[kind][index]
    wanted = folded(kind, copy.deepcopy(given))  # it may write into what it is given
    arrays = {k: np.array(v) if isinstance(v, list) and k != "values" else v for k, v in given.items()}
    found = run(kind, len(wanted), **arrays)
    found = list(found) if isinstance(found, tuple) else [found]
    assert [value.shape for value in found] == [value.shape for value in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        same_kind = {ours.dtype.kind, theirs.dtype.kind} <= {"i", "u"} or ours.dtype.kind == theirs.dtype.kind
        assert same_kind, (ours.dtype, theirs.dtype)
        loose = kind == "cast" and given["dtype"] == "fp16"  # rounded where the program declares it, not here
        np.testing.assert_allclose(ours, theirs, rtol=1e-3 if loose else 2e-5, atol=2e-6)


# Not folded by coremltools; their tests follow.
# fmt: off
BY_HAND = frozenset(
    {
        "avg_pool", "batch_norm", "batch_to_space", "conv", "conv_transpose", "crop", "depth_to_space", "dequantize",
        "gather_nd", "instance_norm", "l2_pool", "local_response_norm", "lstm", "max_pool", "one_hot", "pixel_shuffle",
        "pixel_unshuffle", "resize_bilinear", "resize_nearest_neighbor", "scatter_nd", "silu", "space_to_batch",
        "space_to_depth", "upsample_bilinear", "upsample_nearest_neighbor",
    }
)
# fmt: on


def test_every_operation_has_a_test() -> None:
    """An operation is either in the table above or in the list of those tested by hand."""
    assert set(CASES) | BY_HAND == set(KERNELS)
    assert not set(CASES) & BY_HAND


# --- convolution ----------------------------------------------------------------------------------------------------


def same_pads(sizes: Sequence[int], extent: Sequence[int], strides: Sequence[int], lower: bool) -> list[int]:
    """What "same" adds so that ceil(size / stride) results come out; the odd one after, or before."""
    pads = []
    for size, reach, stride in zip(sizes, extent, strides, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
        pads += [math.ceil(total / 2), total // 2] if lower else [total // 2, math.ceil(total / 2)]
    return pads


def windows(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """(place in the output, the window there) of x [n, c, spatial]."""
    counts = [
        (size - (k - 1) * d - 1) // s + 1 for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    for place in itertools.product(*map(range, counts)):
        cut = tuple(
            slice(p * s, p * s + (k - 1) * d + 1, d)
            for p, s, k, d in zip(place, strides, kernel, dilations, strict=True)
        )
        yield place, x[(slice(None), slice(None), *cut)]


def padded(x: np.ndarray, pads: Sequence[int], value: float = 0.0) -> np.ndarray:
    """x with (before, after) of each spatial axis."""
    pairs = [(0, 0), (0, 0), *zip(pads[::2], pads[1::2], strict=True)]
    return np.pad(x, pairs, constant_values=value)


def gathered(found: Mapping[tuple[int, ...], np.ndarray]) -> np.ndarray:
    """Results [n, c] by place as [n, c, spatial]."""
    shape = [max(place[axis] for place in found) + 1 for axis in range(len(next(iter(found))))]
    made = np.zeros((*next(iter(found.values())).shape, *shape), np.float64)
    for place, value in found.items():
        made[(slice(None), slice(None), *place)] = value
    return made


def convolved(
    x: np.ndarray,
    weight: np.ndarray,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    pads: Sequence[int],
) -> np.ndarray:
    """MIL's conv by loops over places and output channels."""
    inner = weight.shape[1]
    found = {}
    for place, window in windows(padded(x, pads).astype(np.float64), weight.shape[2:], strides, dilations):
        values = np.zeros((len(x), len(weight)))
        for out, kernel in enumerate(weight):
            first = out // (len(weight) // groups) * inner
            values[:, out] = (window[:, first : first + inner] * kernel).reshape(len(x), -1).sum(1)
        found[place] = values
    return gathered(found)


CONVS = [
    ((1, 4, 9), (6, 4, 3), [1], [1], 1),
    ((2, 4, 9), (6, 2, 3), [2], [2], 2),
    ((1, 4, 9), (8, 1, 3), [2], [1], 4),
    ((1, 4, 9), (4, 1, 2), [1], [3], 4),
    ((1, 3, 7, 8), (5, 3, 3, 2), [1, 1], [1, 1], 1),
    ((2, 3, 7, 8), (5, 3, 2, 3), [2, 3], [1, 1], 1),
    ((1, 3, 8, 9), (5, 3, 3, 2), [1, 1], [2, 3], 1),
    ((1, 4, 7, 8), (6, 2, 3, 3), [2, 2], [1, 1], 2),
    ((1, 4, 7, 8), (4, 1, 3, 3), [2, 2], [1, 1], 4),
    ((1, 4, 7, 8), (8, 1, 3, 2), [2, 1], [1, 1], 4),
    ((1, 4, 9, 9), (4, 1, 3, 3), [1, 1], [2, 3], 4),
    ((1, 4, 9, 9), (4, 1, 3, 3), [2, 3], [2, 1], 4),
    ((1, 2, 5, 4, 5), (3, 2, 3, 2, 2), [1, 1, 1], [1, 1, 1], 1),
    ((1, 2, 5, 4, 5), (3, 2, 2, 2, 2), [2, 1, 2], [1, 1, 1], 1),
    ((1, 2, 5, 4, 5), (4, 1, 2, 2, 2), [1, 1, 1], [2, 1, 3], 2),
]


@pytest.mark.parametrize("mode", ["valid", "same", "same_lower", "custom"])
@pytest.mark.parametrize(("shape", "kernel", "strides", "dilations", "groups"), CONVS)
def test_conv(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: list[int],
    dilations: list[int],
    groups: int,
    mode: str,
) -> None:
    """One to three axes, groups, depthwise with and without a multiplier, uneven strides, dilation, every padding."""
    x, weight, bias = floats(*shape), floats(*kernel), floats(kernel[0])
    extent = [(k - 1) * d + 1 for k, d in zip(kernel[2:], dilations, strict=True)]
    custom = [1, 0, 2, 1, 0, 3][: 2 * len(strides)]
    pads = {"valid": [0] * 6, "custom": custom}.get(mode, same_pads(shape[2:], extent, strides, mode == "same_lower"))
    given = {"x": x, "strides": strides, "dilations": dilations, "groups": groups, "pad_type": mode, "pad": custom}
    wanted = convolved(x, weight, strides, dilations, groups, pads[: 2 * len(strides)])
    found = run("conv", **given, weight=weight, bias=bias)
    np.testing.assert_allclose(found, wanted + bias.reshape(-1, *[1] * len(strides)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run("conv", **given, weight=tf.constant(weight)), wanted, rtol=1e-4, atol=1e-5)


def test_padding_that_is_not_known() -> None:
    """A pad_type of another kind is named."""
    with pytest.raises(UnknownOperationError, match="conv with pad_type 'mirror'"):
        run("conv", x=floats(1, 1, 3), weight=floats(1, 1, 1), pad_type="mirror")


def spread(
    x: np.ndarray, weight: np.ndarray, strides: Sequence[int], dilations: Sequence[int], groups: int
) -> np.ndarray:
    """Transposed convolution without padding: each input adds its kernel, by loops."""
    outer, inner = weight.shape[1], len(weight) // groups
    sizes = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(x.shape[2:], strides, weight.shape[2:], dilations, strict=True)
    ]
    made = np.zeros((len(x), outer * groups, *sizes))
    for channel in range(len(weight)):
        first = channel // inner * outer
        for place in itertools.product(*map(range, x.shape[2:])):
            for offset in itertools.product(*map(range, weight.shape[2:])):
                at = tuple(p * s + o * d for p, s, o, d in zip(place, strides, offset, dilations, strict=True))
                share = x[(slice(None), channel, *place)][:, None] * weight[(channel, slice(None), *offset)]
                made[(slice(None), slice(first, first + outer), *at)] += share
    return made


TRANSPOSED = [
    ((1, 4, 5), (4, 3, 3), [2], [1], 1),
    ((2, 4, 5), (4, 3, 2), [1], [3], 2),
    ((1, 3, 4, 3), (3, 2, 3, 2), [1, 1], [1, 1], 1),
    ((2, 4, 4, 3), (4, 2, 3, 3), [2, 3], [1, 1], 2),
    ((1, 4, 3, 3), (4, 1, 3, 2), [2, 2], [2, 1], 4),
    ((1, 2, 3, 2, 3), (2, 3, 3, 2, 2), [2, 1, 2], [1, 1, 1], 1),
]


@pytest.mark.parametrize("mode", ["valid", "custom"])
@pytest.mark.parametrize(("shape", "kernel", "strides", "dilations", "groups"), TRANSPOSED)
def test_conv_transpose(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: list[int],
    dilations: list[int],
    groups: int,
    mode: str,
) -> None:
    """One to three axes, groups, uneven strides, dilation; custom padding crops the full result."""
    x, weight, bias = floats(*shape), floats(*kernel), floats(kernel[1] * groups)
    pad = [1, 0, 0, 1, 0, 0][: 2 * len(strides)]
    wanted = spread(x, weight, strides, dilations, groups) + bias.reshape(-1, *[1] * len(strides))
    if mode == "custom":
        for axis in range(len(strides)):
            stop = wanted.shape[axis + 2] - pad[2 * axis + 1]
            wanted = wanted.take(range(pad[2 * axis], stop), axis + 2)
    given = {"strides": strides, "dilations": dilations, "groups": groups, "pad_type": mode, "pad": pad}
    found = run("conv_transpose", x=x, weight=weight, bias=bias, **given)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conv_transpose_same_as_keras(keras: Any, size: int, stride: int) -> None:
    """ "same" gives stride times the input and cuts the odd element behind, as Keras does."""
    x, weight = floats(1, 2, 4, 5), floats(2, 3, size, size)
    layer = keras.layers.Conv2DTranspose(3, size, strides=stride, padding="same", use_bias=False)
    layer.build((1, 4, 5, 2))
    layer.set_weights([weight.transpose(2, 3, 1, 0)])
    wanted = np.asarray(layer(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    found = run("conv_transpose", x=x, weight=weight, strides=[stride, stride], pad_type="same")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    told = {"strides": [stride, stride], "pad_type": "same", "output_shape": [1, 3, 4 * stride, 5 * stride]}
    np.testing.assert_array_equal(run("conv_transpose", x=x, weight=weight, **told), found)


def test_conv_transpose_of_a_told_shape() -> None:
    """An output shape beyond the full result is filled up with the bias; below it, the rest is cut off."""
    x, weight, bias = floats(1, 1, 3), floats(1, 1, 2), np.array([5], np.float32)
    full = spread(x, weight, [3], [1], 1) + 5
    for size in (7, 8, 9):
        found = run("conv_transpose", x=x, weight=weight, bias=bias, strides=[3], output_shape=[1, 1, size])
        wanted = np.concatenate([full[0, 0], [5.0]])[:size]
        np.testing.assert_allclose(found[0, 0], wanted, rtol=1e-5)


# --- pooling --------------------------------------------------------------------------------------------------------

POOLS = [
    ((1, 2, 9), [3], [1]),
    ((1, 2, 9), [2], [3]),
    ((2, 2, 7, 8), [3, 2], [2, 1]),
    ((1, 2, 7, 8), [2, 2], [3, 4]),
    ((1, 2, 7, 8), [1, 3], [2, 2]),
    ((1, 2, 5, 4, 5), [2, 2, 3], [1, 2, 2]),
]


@pytest.mark.parametrize("mode", ["valid", "same", "same_lower", "custom"])
@pytest.mark.parametrize(("shape", "kernel", "strides"), POOLS)
def test_pooling(shape: tuple[int, ...], kernel: list[int], strides: list[int], mode: str) -> None:
    """Largest, mean with and without the padding, root of the sum of squares; strides may leave elements out."""
    x = floats(*shape)
    custom = [1, 0, 0, 1, 1, 1][: 2 * len(strides)]
    if kernel[0] == 1:
        custom[0] = 0
    pads = {"valid": [0] * 6, "custom": custom}.get(mode, same_pads(shape[2:], kernel, strides, mode == "same_lower"))
    pads = pads[: 2 * len(strides)]
    ones = [1] * len(strides)

    def by_hand(values: np.ndarray, reduce: Any, fill: float = 0.0) -> np.ndarray:
        found = windows(padded(values, pads, fill), kernel, strides, ones)
        return gathered({place: reduce(window.reshape(*shape[:2], -1)) for place, window in found})

    given = {"x": x, "kernel_sizes": kernel, "strides": strides, "pad_type": mode, "pad": custom}
    largest = by_hand(x, lambda w: w.max(-1), -np.inf)
    mean, inside = by_hand(x, lambda w: w.mean(-1)), by_hand(np.ones_like(x), lambda w: w.mean(-1))
    np.testing.assert_allclose(run("max_pool", **given), largest)
    np.testing.assert_allclose(run("avg_pool", **given), mean, rtol=1e-4, atol=1e-6)
    found = run("avg_pool", **given, exclude_padding_from_average=True)
    np.testing.assert_allclose(found, mean / inside, rtol=1e-4, atol=1e-6)
    root = np.sqrt(by_hand(x**2, lambda w: w.sum(-1)))
    np.testing.assert_allclose(run("l2_pool", **given), root, rtol=1e-4, atol=1e-6)


def test_pooling_with_a_last_window_that_is_not_full() -> None:
    """ceil_mode: the window at the end counts when it starts inside; a mean over it is not known."""
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    given = {"x": x, "kernel_sizes": [3], "strides": [2], "pad_type": "valid"}
    assert run("max_pool", **given)[0, 0].tolist() == [2, 4]
    assert run("max_pool", **given, ceil_mode=True)[0, 0].tolist() == [2, 4, 5]
    assert run("max_pool", **{**given, "x": x[..., :5]}, ceil_mode=True)[0, 0].tolist() == [2, 4]
    beyond = {"x": x[..., :3], "kernel_sizes": [1], "strides": [4], "pad_type": "valid", "ceil_mode": True}
    assert run("max_pool", **beyond)[0, 0].tolist() == [0]
    with pytest.raises(UnknownOperationError, match="avg_pool with ceil_mode"):
        run("avg_pool", **given, ceil_mode=True)
    assert run("avg_pool", **{**given, "x": x[..., :5]}, ceil_mode=True)[0, 0].tolist() == [1, 3]


# --- normalization --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 2, 2)])
def test_batch_and_instance_norm(shape: tuple[int, ...]) -> None:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta for each channel; the mean told, or that of the sample."""
    x, gamma, beta, mean = floats(*shape), floats(3), floats(3), floats(3)
    variance = RNG.uniform(0.5, 1.5, 3).astype(np.float32)

    def wide(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, *[1] * (len(shape) - 2))

    plain = (x - wide(mean)) / np.sqrt(wide(variance) + 0.1)
    given = {"x": x, "mean": mean, "variance": variance, "epsilon": 0.1}
    np.testing.assert_allclose(run("batch_norm", **given), plain, rtol=1e-4, atol=1e-5)
    found = run("batch_norm", **given, gamma=gamma, beta=beta)
    np.testing.assert_allclose(found, plain * wide(gamma) + wide(beta), rtol=1e-4, atol=1e-5)
    if len(shape) > 2:
        axes = tuple(range(2, len(shape)))
        own = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.1)
        found = run("instance_norm", x=x, gamma=gamma, beta=beta, epsilon=0.1)
        np.testing.assert_allclose(found, own * wide(gamma) + wide(beta), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run("instance_norm", x=x, epsilon=0.1), own, rtol=1e-4, atol=1e-5)


def test_default_epsilons() -> None:
    """1e-5 of batch_norm, instance_norm and layer_norm, 1e-6 of l2_norm, as the documentation of MIL says."""
    x = np.full((1, 1, 1, 2), 1e-3, np.float32) * np.array([1, -1], np.float32)
    one = np.ones(1, np.float32)
    scaled = x / np.sqrt(1e-6 + 1e-5)
    for kind in ("instance_norm", "layer_norm"):
        axes = {"axes": [3]} if kind == "layer_norm" else {}
        np.testing.assert_allclose(run(kind, x=x, **axes), scaled, rtol=1e-4)
    found = run("batch_norm", x=x, mean=0 * one, variance=one * 1e-6)
    np.testing.assert_allclose(found, scaled, rtol=1e-4)
    np.testing.assert_allclose(run("l2_norm", x=x), x / np.sqrt(2e-6 + 1e-6), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm(size: int) -> None:
    """x / (k + alpha / size * sum of squares of the neighbouring channels) ** beta, channel by channel."""
    x = floats(2, 6, 3, 2)
    wanted = np.zeros_like(x)
    for channel in range(6):
        near = x[:, max(0, channel - size // 2) : channel + size // 2 + 1]
        wanted[:, channel] = x[:, channel] / (0.5 + 0.9 / size * np.square(near).sum(1)) ** 0.6
    found = run("local_response_norm", x=x, size=size, alpha=0.9, beta=0.6, k=0.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_silu_and_dequantize() -> None:
    """x * sigmoid(x); scale * (x - zero point) along an axis."""
    x = floats(3, 4)
    np.testing.assert_allclose(run("silu", x=x), x / (1 + np.exp(-x)), rtol=1e-5)
    whole = np.array([[1, 2], [3, 4]], np.int32)
    given = {"input": whole, "scale": np.array([0.5, 2], np.float32), "axis": 1}
    assert run("dequantize", **given).tolist() == [[0.5, 4], [1.5, 8]]
    assert run("dequantize", **given, zero_point=np.array([1, 2], np.int32)).tolist() == [[0, 0], [1, 4]]
    assert run("dequantize", **{**given, "axis": 0}).tolist() == [[0.5, 1], [6, 8]]


# --- resizing -------------------------------------------------------------------------------------------------------

GRIDS = [
    ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
    ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
    ("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
    ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
    ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    ("UNALIGN_CORNERS", [0, 0, 0.333333, 0.666667, 1, 1]),
    ("STRICT_ALIGN_CORNERS", [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ("DEFAULT", [0, 0.333333, 0.666667, 1, 1, 1]),
    ("OFFSET_CORNERS", [0.083333, 0.25, 0.416667, 0.583333, 0.75, 0.916667]),
    ("ALIGN_CORNERS", [0.5]),
    ("STRICT_ALIGN_CORNERS", [0]),
]


@pytest.mark.parametrize(("mode", "grid"), GRIDS)
def test_resize_bilinear_grids(mode: str, grid: list[float]) -> None:
    """The published grid points of an axis of two elements, read off an axis that counts 0, 1."""
    x = np.array([0, 1], np.float32).reshape(1, 1, 1, 2)
    given = {"target_size_height": 1, "target_size_width": len(grid), "sampling_mode": mode}
    np.testing.assert_allclose(run("resize_bilinear", x=x, **given)[0, 0, 0], grid, atol=1e-5)
    given = {"target_size_height": len(grid), "target_size_width": 1, "sampling_mode": mode}
    turned = run("resize_bilinear", x=x.reshape(1, 1, 2, 1), **given)
    np.testing.assert_allclose(turned[0, 0, :, 0], grid, atol=1e-5)


@pytest.mark.parametrize("sizes", [(7, 9), (2, 3), (10, 12), (5, 6)])
@pytest.mark.parametrize(
    ("mode", "corners", "half"),
    [("DEFAULT", False, False), ("STRICT_ALIGN_CORNERS", True, False), ("UNALIGN_CORNERS", False, True)],
)
def test_resize_bilinear_as_tensorflow(sizes: tuple[int, int], mode: str, corners: bool, half: bool) -> None:
    """The modes of which MIL says that they are TensorFlow's, on pictures, larger and smaller."""
    x = floats(2, 3, 5, 6)
    last = x.transpose(0, 2, 3, 1)
    wanted = tf.raw_ops.ResizeBilinear(images=last, size=sizes, align_corners=corners, half_pixel_centers=half)
    found = run("resize_bilinear", x=x, target_size_height=sizes[0], target_size_width=sizes[1], sampling_mode=mode)
    np.testing.assert_allclose(found, np.asarray(wanted).transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("corners", "half"), [(True, False), (False, True), (False, False)])
def test_upsample_bilinear(corners: bool, half: bool) -> None:
    """Twice and three times as large, as TensorFlow samples with the same two flags."""
    x = floats(1, 2, 3, 4)
    last = x.transpose(0, 2, 3, 1)
    wanted = tf.raw_ops.ResizeBilinear(images=last, size=(6, 12), align_corners=corners, half_pixel_centers=half)
    given = {"scale_factor_height": 2, "scale_factor_width": 3, "align_corners": corners, "half_pixel_centers": half}
    found = run("upsample_bilinear", x=x, **given)
    np.testing.assert_allclose(found, np.asarray(wanted).transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_nearest() -> None:
    """Whole factors repeat or skip; others are not specified and refused."""
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    given = {"scale_factor_height": 1, "scale_factor_width": 2}
    assert run("upsample_nearest_neighbor", x=x, **given)[0, 0].tolist() == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]
    told = {"target_size_height": 4, "target_size_width": 1}
    assert run("resize_nearest_neighbor", x=x, **told)[0, 0].tolist() == [[0], [0], [3], [3]]
    with pytest.raises(UnknownOperationError, match="from 3 to 4"):
        run("resize_nearest_neighbor", x=x, target_size_height=2, target_size_width=4)


# --- rearranging ----------------------------------------------------------------------------------------------------


def test_depth_and_space() -> None:
    """As TensorFlow between channels last, and back again; pixel_shuffle keeps the channel outermost."""
    x = floats(2, 12, 3, 4)
    wanted = np.asarray(tf.nn.depth_to_space(x.transpose(0, 2, 3, 1), 2)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(run("depth_to_space", x=x, block_size=2), wanted)
    np.testing.assert_array_equal(run("space_to_depth", x=wanted, block_size=2), x)
    shuffled = run("pixel_shuffle", x=x, upscale_factor=2)
    for c, i, j in itertools.product(range(3), range(2), range(2)):
        np.testing.assert_array_equal(shuffled[:, c, i::2, j::2], x[:, 4 * c + 2 * i + j])
    np.testing.assert_array_equal(run("pixel_unshuffle", x=shuffled, downscale_factor=2), x)


def test_space_and_batch() -> None:
    """As TensorFlow between channels last, and back again."""
    x = floats(1, 3, 4, 5)
    given = {"block_shape": [2, 3], "paddings": [[0, 2], [1, 0]]}
    wanted = tf.space_to_batch(x.transpose(0, 2, 3, 1), [2, 3], [[0, 2], [1, 0]])
    found = run("space_to_batch", x=x, **given)
    np.testing.assert_array_equal(found, np.asarray(wanted).transpose(0, 3, 1, 2))
    back = run("batch_to_space", x=found, block_shape=[2, 3], crops=[[0, 2], [1, 0]])
    np.testing.assert_array_equal(back, x)


def test_interleaved() -> None:
    """The published example: rows of the inputs in turn; coremltools' own folding forgets it."""
    first, second = np.arange(1, 7).reshape(3, 2), np.arange(7, 13).reshape(3, 2)
    found = run("concat", values=[first, second], axis=0, interleave=True)
    assert found.tolist() == [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]]
    found = run("concat", values=[first, second], axis=-1, interleave=True)
    assert found.tolist() == [[1, 7, 2, 8], [3, 9, 4, 10], [5, 11, 6, 12]]


def test_what_coremltools_fails_to_fold() -> None:
    """Exclusive sums, all axes on one side of the cut, all elements sorted, and products with a vector, by NumPy."""
    assert run("cumsum", x=np.array([1, 2, 3], np.float32), axis=0, exclusive=True).tolist() == [0, 1, 3]
    assert run("flatten2d", x=X, axis=0).shape == (1, 24)
    values, places = run("topk", 2, x=np.array([[1, 3, 2]], np.float32), k=-1)
    assert (values.tolist(), places.tolist()) == ([[3, 2, 1]], [[1, 2, 0]])
    assert run("flatten2d", x=X, axis=3).shape == (24, 1)
    vector = floats(4)
    np.testing.assert_allclose(run("matmul", x=X, y=vector), X @ vector, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run("matmul", x=vector, y=vector), vector @ vector, rtol=1e-4)


def test_crop() -> None:
    """(before, after) of the last two axes are cut off."""
    x = floats(1, 2, 5, 6)
    found = run("crop", x=x, crop_height=[1, 0], crop_width=[2, 1])
    np.testing.assert_array_equal(found, x[:, :, 1:, 2:-1])


def test_one_hot() -> None:
    """On at the index, off elsewhere, along any axis; an index outside is off everywhere."""
    given = {"indices": np.array([2, 0, 5], np.int32), "one_hot_vector_size": 3}
    assert run("one_hot", **given).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    found = run("one_hot", **given, axis=0, on_value=np.float32(5), off_value=np.float32(-1))
    assert found.T.tolist() == [[-1, -1, 5], [5, -1, -1], [-1, -1, -1]]


def test_gather_nd() -> None:
    """Each row of indexes picks an element or a slice, also batch by batch; negative ones count from the end."""
    x = floats(2, 3, 4)
    indices = np.array([[1, 2], [0, -1]], np.int32)
    np.testing.assert_array_equal(run("gather_nd", x=x, indices=indices), np.stack([x[1, 2], x[0, -1]]))
    rows = np.array([[2], [-3]], np.int32)
    np.testing.assert_array_equal(run("gather_nd", x=x, indices=rows, batch_dims=1), np.stack([x[0, 2], x[1, 0]]))


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("add", [11, 2, 3, 44]),
        ("sub", [-9, 2, 3, -36]),
        ("update", [10, 2, 3, 40]),
        ("max", [10, 2, 3, 40]),
        ("min", [1, 2, 3, 4]),
    ],
)
def test_scatter_nd(mode: str, wanted: list[int]) -> None:
    """Places by index, negative ones from the end, receive the updates."""
    given = {
        "data": np.array([1, 2, 3, 4], np.float32),
        "indices": np.array([[0], [-1]], np.int32),
        "updates": np.array([10, 40], np.float32),
    }
    assert run("scatter_nd", **given, mode=mode).tolist() == wanted
    with pytest.raises(UnknownOperationError, match="mode 'mul'"):
        run("scatter_nd", **given, mode="mul")


# --- lstm -----------------------------------------------------------------------------------------------------------


def gates(array: np.ndarray) -> np.ndarray:
    """Keras' order input, forget, cell, output as MIL's input, forget, output, cell; units first."""
    i, f, c, o = np.split(array.T, 4)
    return np.concatenate([i, f, o, c])


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_lstm(keras: Any, direction: str, sequences: bool) -> None:
    """As Keras' layer with the same weights, forwards and backwards, all steps or the last, with its states."""
    layer = keras.layers.LSTM(
        4, return_sequences=sequences, return_state=True, go_backwards=direction == "reverse", use_bias=True
    )
    x = floats(2, 5, 3)
    layer.build(x.shape)
    weights = [floats(*w.shape) for w in layer.get_weights()]
    layer.set_weights(weights)
    h, c = floats(2, 4), floats(2, 4)
    wanted = [np.asarray(value) for value in layer(x, initial_state=[h, c])]
    given = {
        "initial_h": h,
        "initial_c": c,
        "weight_ih": gates(weights[0]),
        "weight_hh": gates(weights[1]),
        "bias": gates(weights[2]),
        "direction": direction,
        "output_sequence": sequences,
    }
    every, last, memory = run("lstm", 3, x=x.transpose(1, 0, 2), **given)
    if sequences:  # Keras gives the steps in the order in which it took them, MIL in that of time
        steps = wanted[0] if direction == "forward" else wanted[0][:, ::-1]
        np.testing.assert_allclose(every, steps.transpose(1, 0, 2), rtol=1e-4, atol=1e-5)
    else:
        assert every.shape == (1, 2, 4)
        np.testing.assert_allclose(every[0], wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, wanted[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(memory, wanted[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sequences", [False, True])
def test_lstm_both_ways(keras: Any, sequences: bool) -> None:
    """As Keras' Bidirectional: both directions side by side, each at the same step of time."""
    layer = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=sequences))
    x = floats(2, 5, 3)
    layer.build(x.shape)
    weights = [floats(*w.shape) for w in layer.get_weights()]
    layer.set_weights(weights)
    names = ["weight_ih", "weight_hh", "bias", "weight_ih_back", "weight_hh_back", "bias_back"]
    given = dict(zip(names, map(gates, weights), strict=True))
    zeros = {"initial_h": np.zeros((2, 8), np.float32), "initial_c": np.zeros((2, 8), np.float32)}
    told = {"direction": "bidirectional", "output_sequence": sequences}
    every, _, _ = run("lstm", 3, x=x.transpose(1, 0, 2), **given, **zeros, **told)
    wanted = np.asarray(layer(x))
    found = every.transpose(1, 0, 2) if sequences else every[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"clip": 1.0}, "lstm with clip"),
        ({"peephole": np.zeros(12, np.float32)}, "lstm with peepholes"),
        ({"activation": "gelu"}, "lstm with activation 'gelu'"),
    ],
)
def test_lstm_that_is_not_known(extra: dict[str, Any], word: str) -> None:
    """Clipping, peepholes and activations that are not known are named."""
    state = np.zeros((1, 4), np.float32)
    given = {"initial_h": state, "initial_c": state, "weight_ih": floats(16, 3), "weight_hh": floats(16, 4)}
    with pytest.raises(UnknownOperationError, match=word):
        run("lstm", 3, x=floats(2, 1, 3), **given, **extra)


# --- whole programs -------------------------------------------------------------------------------------------------


def port(name: str, shape: tuple[int | None, ...], dtype: str = "float32") -> Port:
    """A value of a program."""
    return Port(name=name, dtype=dtype, shape=shape)


def operation(kind: str, outputs: Sequence[Port], **inputs: Any) -> Operation:
    """An operation; strings are names of values, arrays constants."""
    bound = {name: (value,) if isinstance(value, str | Constant) else tuple(value) for name, value in inputs.items()}
    return Operation(kind=kind, inputs=bound, outputs=tuple(outputs), attributes={})


def package(
    inputs: Sequence[Port],
    operations: Sequence[Operation],
    outputs: Sequence[str],
    *,
    features: tuple[Feature, ...] = (),
    predicted: str = "",
) -> Package:
    """A program made by hand."""
    block = Block(inputs=tuple(inputs), outputs=tuple(outputs), operations=tuple(operations))
    return Package(
        path=Path("m.mlpackage"),
        specification=7,
        what="an ML program",
        inputs=features,
        outputs=(),
        program=block,
        predicted=predicted,
    )


@pytest.fixture
def half() -> Package:
    """The float16 package of tests/files/make_packages.py."""
    return read_coreml(FILES / "half.mlpackage")


def test_a_package_computes_its_network(half: Package) -> None:
    """The network of make_packages.py by NumPy from the package's own weights, one sample at a time or twenty."""
    from edgeprune.formats.coreml.storage import constants_of, weights_of

    made, (conv, dense) = constants_of(half), weights_of(half)
    x = RNG.uniform(0, 1, (20, 6, 6, 2)).astype(np.float32)
    h = np.maximum(convolved(x.transpose(0, 3, 1, 2), made[conv.name], [1, 1], [1, 1], 1, [0] * 4) + 0.5, 0)
    wanted = h.transpose(0, 2, 3, 1).reshape(20, -1) @ made[dense.name].astype(np.float64).T + 0.125
    told: list[tuple[int, int]] = []
    many = Evaluator(half).run({"image": x}, lambda done, of: told.append((done, of)))
    assert list(many) == ["scores"]
    assert many["scores"].dtype == np.float32
    np.testing.assert_allclose(many["scores"], wanted, rtol=5e-3)
    few = Evaluator(half).run({"image": x[:3]})
    np.testing.assert_allclose(few["scores"], many["scores"][:3], rtol=2e-3)
    assert told == [(1, 20), (17, 20), (20, 20)]


def test_values_are_rounded_to_float16(half: Package) -> None:
    """What the program declares float16 has no more than float16's digits, at every step."""
    x = RNG.uniform(0, 1, (2, 6, 6, 2)).astype(np.float32)
    steps = Evaluator(half).trace({"image": x})
    assert [step.kind for step in steps] == ["cast", "transpose", "conv", "transpose", "relu", "reshape", "linear"]
    for step in steps:
        assert step.values.shape[0] == 2
        np.testing.assert_array_equal(step.values, step.values.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(steps[0].values, x.astype(np.float16))
    assert (steps[-1].name, steps[-1].values.shape) == ("scores", (2, 12))


def test_large_steps_are_left_out(half: Package) -> None:
    """A trace keeps no tensor above the size that it is told."""
    x = np.zeros((2, 6, 6, 2), np.float32)
    assert [step.kind for step in Evaluator(half).trace({"image": x}, largest=24)] == ["linear"]


def test_float32_is_not_rounded() -> None:
    """1 + 2^-20 survives where the program declares float32, and not where it declares float16."""
    x = np.array([[1 + 2.0**-20]], np.float32)
    for dtype, wanted in (("float32", 1 + 2.0**-20), ("float16", 1.0)):
        made = package([port("x", (1, 1))], [operation("identity", [port("y", (1, 1), dtype)], x="x")], ["y"])
        assert Evaluator(made).run({"x": x})["y"].item() == wanted


def test_unknown_operations_are_named(half: Package) -> None:
    """Operations that are not known, nested ones too, are listed before anything runs."""
    assert unknown_operations(half) == []
    assert half.program is not None
    inner = Block(inputs=(), outputs=(), operations=(operation("crop_resize", []), operation("relu", [])))
    loop = replace(operation("while_loop", []), blocks=(inner,))
    broken = replace(half, program=replace(half.program, operations=(*half.program.operations, loop)))
    assert unknown_operations(broken) == ["crop_resize", "while_loop"]
    with pytest.raises(UnknownOperationError, match=r"^crop_resize, while_loop$"):
        Evaluator(broken)


def test_a_model_that_is_no_program() -> None:
    """A neural network of the old kind is not evaluated."""
    old = Package(path=Path("m.mlmodel"), specification=4, what="a neural network", inputs=(), outputs=(), program=None)
    assert unknown_operations(old) == []
    with pytest.raises(UnknownOperationError, match="a neural network"):
        Evaluator(old)


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ({"photo": np.zeros((1, 6, 6, 2))}, "its inputs are image; samples are named photo"),
        ({}, "its inputs are image"),
        ({"image": np.zeros((1, 6, 6, 3))}, r"input 'image' takes \[1, 6, 6, 2\], a sample is \[6, 6, 3\]"),
        ({"image": np.zeros((0, 6, 6, 2))}, "no samples"),
    ],
)
def test_wrong_inputs(half: Package, inputs: dict[str, np.ndarray], word: str) -> None:
    """Other names, other shapes and no samples at all are refused."""
    for play in (Evaluator(half).run, Evaluator(half).trace):
        with pytest.raises(ConversionError, match=word):
            play(inputs)


def test_open_sizes_take_any() -> None:
    """A program whose input has an open size takes every size of it, and refuses another fixed one with its shape."""
    made = package([port("x", (1, None, 2))], [operation("relu", [port("y", (1, None, 2))], x="x")], ["y"])
    for size in (3, 5):
        assert Evaluator(made).run({"x": np.full((4, size, 2), -1.0)})["y"].shape == (4, size, 2)
    with pytest.raises(ConversionError, match=r"input 'x' takes \[1, None, 2\], a sample is \[3, 4\]"):
        Evaluator(made).run({"x": np.zeros((1, 3, 4))})


def test_a_fixed_batch_is_filled_up() -> None:
    """A program of batches gives each sample its own rows, also where the last batch is not full."""
    made = package([port("x", (3, 2))], [operation("relu", [port("y", (3, 2))], x="x")], ["y"])
    x = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(Evaluator(made).run({"x": x})["y"], x)
    (step,) = Evaluator(made).trace({"x": x})
    np.testing.assert_array_equal(step.values, x)


def test_a_picture_becomes_planes() -> None:
    """Pixels [height, width, channels] of an image input come as planes [channels, height, width]."""
    x = np.arange(24).reshape(2, 2, 2, 3)
    for shape, pixels in (((1, 3, 2, 2), x), ((1, 1, 2, 6), x.reshape(2, 2, 6))):
        told = (Feature(name="x", kind="image", shape=shape[2:], color="RGB" if shape[1] == 3 else "GRAYSCALE"),)
        made = package([port("x", shape)], [operation("identity", [port("y", shape)], x="x")], ["y"], features=told)
        planes = np.moveaxis(pixels, -1, 1) if pixels.ndim == 4 else pixels[:, None]
        np.testing.assert_array_equal(Evaluator(made).run({"x": pixels})["y"], planes)


def test_a_classifier_gives_probabilities() -> None:
    """The predicted label is the app's; the probabilities come out under the name of the program."""
    outputs = [port("classLabel", (), "string"), port("classLabel_probs", (), "dictionary")]
    ends = {"probabilities": "x", "classes": Constant(dtype="list", shape=(2,), values=["a", "b"])}
    made = package(
        [port("x", (1, 2))],
        [operation("classify", outputs, **ends)],
        ["classLabel", "classLabel_probs"],
        predicted="classLabel",
    )
    found = Evaluator(made).run({"x": np.array([[0.25, 0.75]], np.float32)})
    assert {name: values.tolist() for name, values in found.items()} == {"classLabel_probs": [[0.25, 0.75]]}


def test_a_program_that_contradicts_itself() -> None:
    """An operation that cannot be carried out, or names what is not there, is told in one line with its name."""
    ends = [port("y", (1, 3))]
    for kind, inputs in (("add", {"x": "x", "y": "absent"}), ("matmul", {"x": "x", "y": "x"})):
        made = package([port("x", (1, 2))], [operation(kind, ends, **inputs)], ["y"])
        with pytest.raises(InputError, match=rf"operation {kind} \('y'\) cannot be carried out") as caught:
            Evaluator(made).run({"x": np.zeros((1, 2), np.float32)})
        assert "\n" not in str(caught.value)
    made = package([port("x", (1, 2))], [], ["y"])
    with pytest.raises(InputError, match="nothing in the program makes its output 'y'"):
        Evaluator(made).run({"x": np.zeros((1, 2), np.float32)})
    made = package([port("x", (1, 2), "uint4")], [], ["x"])
    with pytest.raises(UnknownOperationError, match="an input of type uint4"):
        Evaluator(made).run({"x": np.zeros((1, 2), np.float32)})
    made = package([port("x", (1, 2))], [operation("relu", ends)], ["y"])
    with pytest.raises(UnknownOperationError, match="relu without 'x'"):
        Evaluator(made).run({"x": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("conv", {"weight": np.ones((1, 1, 1, 1), np.float32), "strides": [0, 0]}),
        ("conv", {"weight": np.ones((1, 1, 1, 1), np.float32), "strides": [0, 0], "pad_type": "same"}),
        ("conv", {"weight": np.ones((1, 1, 1, 1), np.float32), "groups": 0}),
        ("conv", {"weight": "none"}),
        ("max_pool", {"kernel_sizes": [1, 1], "strides": [0, 0]}),
        ("max_pool", {"kernel_sizes": [1, 1], "strides": [0, 0], "ceil_mode": True}),
        ("pixel_shuffle", {"upscale_factor": 0}),
        ("local_response_norm", {"size": 0}),
        ("one_hot", {"one_hot_vector_size": -1, "indices": [0]}),
    ],
)
def test_numbers_that_make_no_sense(kind: str, extra: dict[str, Any]) -> None:
    """A stride, a window or a group of 0 in a program is told in one line."""

    def held(value: Any) -> Constant:
        array = np.asarray(value)
        if isinstance(value, str):
            return Constant(dtype="string", shape=(), values=value)
        dtype = "int32" if array.dtype.kind == "i" else str(array.dtype)
        return Constant(dtype=dtype, shape=array.shape, values=array)

    bound = {name: held(value) for name, value in extra.items()}
    made = package([port("x", (1, 1, 2, 3))], [operation(kind, [port("y", (1, 1, 2, 3))], x="x", **bound)], ["y"])
    with pytest.raises(InputError, match=f"operation {kind} .* cannot be carried out"):
        Evaluator(made).run({"x": np.zeros((1, 1, 2, 3), np.float32)})


@pytest.mark.slow
def test_flipped_bytes_of_a_program(half: Package, tmp_path: Path) -> None:
    """60 times some byte of the model is another one: a result, a refusal, or an operation that is not known."""
    import random
    import shutil

    copied = shutil.copytree(half.path, tmp_path / "m.mlpackage")
    file = copied / "Data/com.apple.CoreML/model.mlmodel"
    content, rng, outcomes = file.read_bytes(), random.Random(0), set()
    x = np.ones((1, 6, 6, 2), np.float32)
    for _ in range(60):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        file.write_bytes(changed)
        try:
            evaluator = Evaluator(read_coreml(copied))
            evaluator.run({port.name: x for port in evaluator.ports})
            outcomes.add("result")
        except (InputError, ConversionError, UnknownOperationError) as cause:
            outcomes.add("two lines" if "\n" in str(cause) else "refused")
    assert outcomes == {"result", "refused"}


# --- many samples at once -------------------------------------------------------------------------------------------

# What goes along the first axis, or mixes in another way what hangs on an input.
MIXED: dict[str, list[dict[str, Any]]] = {
    "argsort": [{"x": X, "axis": 0}],
    "concat": [{"values": [X, Y], "axis": 0}, {"values": [X, Y], "axis": -3}],
    "cumsum": [{"x": X}],
    "expand_dims": [{"x": X, "axes": [0]}],
    "gather": [{"x": X, "indices": np.array([0], np.int32), "axis": 0}],
    "layer_norm": [{"x": X}, {"x": X, "axes": [0, 2]}],
    "matmul": [{"x": X[:, 0], "y": Y[:, 0], "transpose_y": True}, {"x": X[:, 0], "y": Y[:, 0], "transpose_x": True}],
    "pad": [{"x": X, "pad": [1, 0, 0, 0, 0, 0]}],
    "reduce_max": [{"x": X, "keep_dims": True}, {"x": X, "axes": [0], "keep_dims": True}],
    "reduce_argmax": [{"x": X, "axis": 0, "keep_dims": True}],
    "reverse": [{"x": X}, {"x": X, "axes": [0]}],
    "shape": [{"x": X}],
    "slice_by_index": [{"x": X, "begin": [0, 0, 0], "end": [1, 2, 2]}],
    "softmax": [{"x": X, "axis": 0}, {"x": X, "axis": -3}],
    "split": [{"x": X, "num_splits": 1, "axis": 0}],
    "stack": [{"values": [X, Y], "axis": 0}],
    "squeeze": [{"x": X[:, :1]}],
    "tile": [{"x": X, "reps": [2, 1, 1]}],
    "topk": [{"x": X, "k": 1, "axis": 0}],
    "transpose": [{"x": X, "perm": [1, 0, 2]}],
}
IMAGES = floats(2, 4, 6, 6)
APART: dict[str, list[dict[str, Any]]] = {
    "avg_pool": [{"x": IMAGES, "kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "same"}],
    "batch_norm": [{"x": IMAGES, "mean": floats(4), "variance": np.abs(floats(4))}],
    "conv": [
        {"x": IMAGES, "weight": floats(3, 4, 3, 3), "bias": floats(3), "pad_type": "same", "strides": [2, 2]},
        {"x": IMAGES, "weight": floats(8, 1, 3, 3), "groups": 4},
        {"x": IMAGES[:, 0], "weight": floats(5, 6, 3)},
    ],
    "conv_transpose": [{"x": IMAGES, "weight": floats(4, 3, 2, 2), "strides": [2, 2]}],
    "crop": [{"x": IMAGES, "crop_height": [1, 1], "crop_width": [0, 2]}],
    "dequantize": [{"input": np.full((2, 3), 7, np.int32), "scale": F(0.5)}],
    "depth_to_space": [{"x": IMAGES, "block_size": 2}],
    "gather": [{"x": floats(9, 2), "indices": np.array([[1, 3], [8, 0]], np.int32), "axis": 0}],
    "instance_norm": [{"x": IMAGES, "gamma": floats(4)}],
    "l2_pool": [{"x": IMAGES, "kernel_sizes": [2, 2]}],
    "local_response_norm": [{"x": IMAGES, "size": 3}],
    "max_pool": [{"x": IMAGES, "kernel_sizes": [3, 3], "pad_type": "same"}],
    "one_hot": [{"indices": np.array([[1, 3], [0, 2]], np.int32), "one_hot_vector_size": 4}],
    "pixel_shuffle": [{"x": IMAGES, "upscale_factor": 2}],
    "pixel_unshuffle": [{"x": IMAGES, "downscale_factor": 2}],
    "reshape": [{"x": IMAGES, "shape": [1, -1]}, {"x": IMAGES, "shape": [1, 6, 4, 6]}],
    "resize_bilinear": [{"x": IMAGES, "target_size_height": 3, "target_size_width": 9}],
    "resize_nearest_neighbor": [{"x": IMAGES, "target_size_height": 3, "target_size_width": 12}],
    "silu": [{"x": X}],
    "slice_by_index": [
        {
            "x": X,
            "begin": [0, 1, 0],
            "end": [0, 3, 0],
            "begin_mask": [True, False, True],
            "end_mask": [True, False, True],
        }
    ],
    "space_to_depth": [{"x": IMAGES, "block_size": 2}],
    "split": [{"x": X, "num_splits": 2, "axis": 2}],
    "squeeze": [{"x": X[:, :1], "axes": [1]}],
    "transpose": [{"x": X, "perm": [0, 2, 1]}],
    "upsample_bilinear": [{"x": IMAGES, "scale_factor_height": F(2), "scale_factor_width": F(2)}],
    "upsample_nearest_neighbor": [{"x": IMAGES, "scale_factor_height": F(2), "scale_factor_width": F(2)}],
}


def of_samples(kind: str, given: Mapping[str, Any]) -> tuple[Package, dict[str, np.ndarray]] | None:
    """A program of one operation for a sample, and two samples of what it computes with; None where it takes none."""
    found: dict[str, np.ndarray] = {}

    def bound(name: str, value: Any) -> Any:
        if name in COMPUTED | {"values"} and np.ndim(value) and len(value) == 2:
            found[f"{name}{len(found)}"] = np.asarray(value)
            return list(found)[-1]
        array = np.asarray(value)
        return Constant(
            dtype="string" if array.dtype.kind == "U" else array.dtype.name, shape=array.shape, values=value
        )

    inputs = {
        name: tuple(bound(name, each) for each in value) if name == "values" else (bound(name, value),)
        for name, value in given.items()
    }
    if not found:
        return None
    one = dict(given)
    for name, bindings in inputs.items():
        rows = [tf.constant(found[each][:1]) if isinstance(each, str) else each.values for each in bindings]
        one[name] = rows if name == "values" else rows[0]
    splits = len(given["split_sizes"]) if "split_sizes" in given else given.get("num_splits", 1)
    try:
        made = KERNELS[kind](Arguments(kind=kind, values=one, outputs=2 if kind == "topk" else splits))
    except tf.errors.OpError:  # of two samples alone
        return None
    values = made if isinstance(made, tuple) else (made,)
    ends = [port(f"out{n}", tuple(value.shape), value.dtype.name) for n, value in enumerate(values)]
    told = Operation(kind=kind, inputs=inputs, outputs=tuple(ends), attributes={})
    ports = [port(name, (1, *array.shape[1:]), array.dtype.name) for name, array in found.items()]
    return package(ports, [told], [end.name for end in ends]), found


def test_many_samples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation that is let through computes for each of many samples what it computes for that one; each of the
    rules lets something through."""
    through = set()
    for kind, given in [(kind, given) for table in (CASES, APART) for kind, cases in table.items() for given in cases]:
        made = of_samples(kind, given)
        if made is None or widened(made[0].program, {}) is None:
            continue
        through.add(kind)
        alone = [Evaluator(made[0]).run({name: rows[n : n + 1] for name, rows in made[1].items()}) for n in (0, 1)]
        with monkeypatch.context() as patched:
            patched.setattr(program, "MANY_SAMPLES", 1)
            found = Evaluator(made[0]).run(made[1])
        for name, values in found.items():
            np.testing.assert_allclose(values, np.concatenate([one[name] for one in alone]), 1e-5, 1e-5, err_msg=kind)
    assert through == set(RULES)


def test_samples_that_would_mix() -> None:
    """What goes along the first axis is not let through, in whatever way it is told."""
    for kind, given in [(kind, given) for kind, cases in MIXED.items() for given in cases]:
        made = of_samples(kind, given)
        assert made is not None
        assert widened(made[0].program, {}) is None, (kind, given)

"""Convolution, pooling and resizing. MIL keeps channels on axis 1, TensorFlow's CPU kernels want them last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgeprune.converters.evaluator.arguments import Arguments, Kernel, UnknownOperationError
from edgeprune.converters.types import Value

__all__ = ["KERNELS"]

Pairs = list[tuple[int, int]]


def _last(x: Value) -> Value:
    rank = x.shape.rank
    return tf.transpose(x, [0, *range(2, rank), 1])


def _first(x: Value) -> Value:
    rank = x.shape.rank
    return tf.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def _padding(a: Arguments, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> Pairs:
    """(before, after) for each spatial axis; `kernel` counts dilation in. "same" puts the odd one after."""
    mode = a.text("pad_type", "valid")
    if mode == "valid":
        return [(0, 0)] * len(sizes)
    if mode == "custom":
        amounts = a.integers("pad", [0] * (2 * len(sizes)))
        return list(zip(amounts[::2], amounts[1::2], strict=True))
    if mode not in ("same", "same_lower"):
        raise UnknownOperationError(f"{a.kind} with pad_type {mode!r}")
    pairs = []
    for size, extent, stride in zip(sizes, kernel, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if mode == "same" else (large, small))
    return pairs


def _padded(x: Value, pairs: Pairs, value: float = 0.0) -> Value:
    """x with channels last."""
    if not any(any(pair) for pair in pairs):
        return x
    return tf.pad(x, [(0, 0), *pairs, (0, 0)], constant_values=value)


def _planar(x: Value, *lists: list[int]) -> tuple[Value, list[list[int]]]:
    """One-dimensional convolutions become two-dimensional ones of height 1."""
    return tf.expand_dims(x, 1), [[1, *values] for values in lists]


def _conv(a: Arguments) -> Value:
    x, weight = _last(tf.convert_to_tensor(a["x"])), a["weight"]
    spatial = x.shape.rank - 2
    ones = [1] * spatial
    strides, dilations = a.integers("strides", ones), a.integers("dilations", ones)
    groups = a.integer("groups", 1)
    extent = [(int(k) - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    x = _padded(x, _padding(a, x.shape.as_list()[1:-1], extent, strides))
    made = _first(_convolved(x, weight, strides, dilations, groups))
    bias = a.get("bias")
    return made if bias is None else made + tf.reshape(bias, [1, -1, *ones])


def _convolved(x: Value, weight: Value, strides: list[int], dilations: list[int], groups: int) -> Value:
    """x [batch, spatial, in], weight [out, in / groups, kernel] -> [batch, spatial, out]."""
    spatial = x.shape.rank - 2
    constant = isinstance(weight, np.ndarray)
    turned = np.transpose if constant else tf.transpose
    kernel: Any = turned(weight, [*range(2, spatial + 2), 1, 0])
    if spatial == 1:
        x, (strides, dilations) = _planar(x, strides, dilations)
        kernel = kernel[None]
    inputs, outputs = int(x.shape[-1]), int(kernel.shape[-1])
    if spatial < 3 and groups == inputs and groups > 1 and kernel.shape[-2] == 1:
        made = _depthwise(x, kernel, strides, dilations, outputs // groups)
    elif groups == 1:
        made = _plain(x, kernel, strides, dilations)
    else:
        parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
        made = tf.concat([_plain(part, piece, strides, dilations) for part, piece in parts], -1)
    return tf.squeeze(made, 1) if spatial == 1 else made


def _plain(x: Value, kernel: Value, strides: list[int], dilations: list[int]) -> Value:
    if x.shape.rank == 5:
        if max(dilations) > 1:
            kernel, dilations = _spread_kernel(kernel, dilations), [1, 1, 1]
        return tf.nn.conv3d(x, kernel, [1, *strides, 1], "VALID")
    return tf.nn.conv2d(x, kernel, strides, "VALID", dilations=dilations)


def _depthwise(x: Value, kernel: Value, strides: list[int], dilations: list[int], multiplier: int) -> Value:
    channels = int(x.shape[-1])
    shape = [*kernel.shape[:2], channels, multiplier]
    kernel = tf.reshape(kernel[:, :, 0, :], shape)
    if max(dilations) > 1:
        kernel = _spread_kernel(kernel, dilations)
    even = strides[0] == strides[1]
    step = strides if even else [1, 1]
    made = tf.nn.depthwise_conv2d(x, kernel, [1, *step, 1], "VALID")
    return made if even else made[:, :: strides[0], :: strides[1]]


def _spread_kernel(kernel: Value, dilations: list[int]) -> Value:
    """A kernel [spatial..., in, out] with the zeros of its dilation written out."""
    for axis, step in enumerate(dilations):
        if step > 1:
            size = int(kernel.shape[axis])
            wide = tf.expand_dims(kernel, axis + 1)
            room = [(0, 0)] * wide.shape.rank
            room[axis + 1] = (0, step - 1)
            shape = [int(s) for s in kernel.shape]
            shape[axis] = size * step
            kernel = tf.gather(tf.reshape(tf.pad(wide, room), shape), np.arange((size - 1) * step + 1), axis=axis)
    return kernel


def _conv_transpose(a: Arguments) -> Value:
    """Each input element adds its kernel into the output: the full result, then cropped or filled up with zeros."""
    x, weight = _last(tf.convert_to_tensor(a["x"])), a["weight"]
    spatial = x.shape.rank - 2
    ones = [1] * spatial
    strides, dilations, groups = a.integers("strides", ones), a.integers("dilations", ones), a.integer("groups", 1)
    made = _first(_transposed(x, weight, strides, dilations, groups))
    mode, shape = a.text("pad_type", "valid"), a.get("output_shape")
    full = made.shape.as_list()[2:]
    amounts = a.integers("pad", [0] * (2 * spatial))
    for axis in range(spatial):
        if mode == "custom":
            size = full[axis] - amounts[2 * axis] - amounts[2 * axis + 1]
            before = amounts[2 * axis]
        else:
            size = full[axis] if mode == "valid" else int(x.shape[axis + 1]) * strides[axis]
            before = 0
        if shape is not None:
            size = a.integers("output_shape")[axis + 2]
        if mode in ("same", "same_lower"):
            total = max(full[axis] - size, 0)
            before = total // 2 if mode == "same" else total - total // 2
        after = full[axis] - size - before
        if after < 0:
            made = tf.pad(made, [(0, -after) if i == axis + 2 else (0, 0) for i in range(spatial + 2)])
        made = tf.gather(made, np.arange(before, before + size), axis=axis + 2)
    bias = a.get("bias")
    return made if bias is None else made + tf.reshape(bias, [1, -1, *ones])


def _transposed(x: Value, weight: Value, strides: list[int], dilations: list[int], groups: int) -> Value:
    """x [batch, spatial, in], weight [in, out / groups, kernel] -> the full [batch, spatial, out]."""
    spatial = x.shape.rank - 2
    kernel = tf.transpose(weight, [*range(2, spatial + 2), 1, 0])
    kernel = _spread_kernel(kernel, dilations)
    if spatial == 1:
        x, (strides,) = _planar(x, strides)
        kernel = kernel[None]
    function = tf.nn.conv3d_transpose if spatial == 3 else tf.nn.conv2d_transpose
    steps = list(zip(x.shape.as_list()[1:-1], strides, [int(k) for k in kernel.shape[:-2]], strict=True))
    sizes = [(size - 1) * stride + extent for size, stride, extent in steps]
    pieces = [
        function(part, piece, [int(x.shape[0]), *sizes, int(kernel.shape[-2])], [1, *strides, 1], "VALID")
        for part, piece in zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    ]
    made = pieces[0] if groups == 1 else tf.concat(pieces, -1)
    return tf.squeeze(made, 1) if spatial == 1 else made


def _pool(a: Arguments, kind: str) -> Value:
    x = _last(tf.convert_to_tensor(a["x"]))
    kernel = a.integers("kernel_sizes")
    strides = a.integers("strides", [1] * len(kernel))
    sizes = x.shape.as_list()[1:-1]
    pairs = _padding(a, sizes, kernel, strides)
    if a.flag("ceil_mode"):
        pairs = _ceiled(a, kind, sizes, kernel, strides, pairs)
    if kind == "max":
        return _first(_pooled(_padded(x, pairs, -np.inf), kernel, strides, "MAX"))
    if kind == "l2":
        total = _pooled(_padded(tf.square(x), pairs), kernel, strides, "AVG") * float(np.prod(kernel))
        return _first(tf.sqrt(total))
    made = _pooled(_padded(x, pairs), kernel, strides, "AVG")
    if a.flag("exclude_padding_from_average"):
        made = made / _pooled(_padded(tf.ones([1, *sizes, 1]), pairs), kernel, strides, "AVG")
    return _first(made)


def _ceiled(a: Arguments, kind: str, sizes: list[int], kernel: list[int], strides: list[int], pairs: Pairs) -> Pairs:
    """Room behind, so that a last window that is not full counts too (it starts inside the input or its padding)."""
    wide = []
    for size, extent, stride, (before, after) in zip(sizes, kernel, strides, pairs, strict=True):
        rest = (size + before + after - extent) % stride
        extra = stride - rest if rest else 0
        if extra and kind != "max":
            raise UnknownOperationError(f"{a.kind} with ceil_mode and windows that are not full")
        if extra and (size + before + after - extent) // stride * stride + stride >= size + before:
            extra = 0
        wide.append((before, after + extra))
    return wide


def _pooled(x: Value, kernel: list[int], strides: list[int], kind: str) -> Value:
    if len(kernel) == 1:
        x, (kernel, strides) = _planar(x, kernel, strides)
        return tf.squeeze(_pooled(x, kernel, strides, kind), 1)
    if any(stride > extent for stride, extent in zip(strides, kernel, strict=True)):  # TensorFlow refuses these
        every = tf.nn.pool(x, kernel, kind, [1] * len(kernel), "VALID")
        return every[(slice(None), *(slice(None, None, stride) for stride in strides))]
    return tf.nn.pool(x, kernel, kind, strides, "VALID")


def _resampled(x: Value, grids: Sequence[np.ndarray]) -> Value:
    """Linear interpolation along the last two axes at the grid points given in input elements."""
    for axis, grid in zip((-2, -1), grids, strict=True):
        size = int(x.shape[axis])
        low = np.clip(np.floor(grid).astype(int), 0, size - 1)
        high = np.minimum(low + 1, size - 1)
        share = (grid - low).astype(np.float32).reshape([-1, 1] if axis == -2 else [-1])
        x = tf.gather(x, low, axis=axis) * (1 - share) + tf.gather(x, high, axis=axis) * share
    return x


def _grid(mode: str, size: int, wanted: int) -> np.ndarray:
    """Grid points of MIL's resize_bilinear, by its sampling mode."""
    steps = np.arange(wanted, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if wanted == 1:
            points = np.array([(size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0])
        else:
            points = steps * (size - 1) / (wanted - 1)
    elif mode == "DEFAULT":
        points = steps * ((size - size / wanted) / (wanted - 1) if wanted > 1 else 0.0)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / wanted
        points = 0.5 * delta + steps * (((wanted - 1) * delta) / (wanted - 1) if wanted > 1 else 0.0)
    elif mode == "UNALIGN_CORNERS":
        points = steps * size / wanted + 0.5 * size / wanted - 0.5
    else:
        raise UnknownOperationError(f"sampling mode {mode!r}")
    return np.clip(points, 0, size - 1)


def _resize_bilinear(a: Arguments) -> Value:
    x, mode = tf.convert_to_tensor(a["x"]), a.text("sampling_mode", "DEFAULT")
    wanted = (a.integer("target_size_height"), a.integer("target_size_width"))
    return _resampled(x, [_grid(mode, int(x.shape[axis]), size) for axis, size in zip((-2, -1), wanted, strict=True)])


def _upsample_bilinear(a: Arguments) -> Value:
    x, corners = tf.convert_to_tensor(a["x"]), a.flag("align_corners", True)
    grids = []
    for axis, name in ((-2, "scale_factor_height"), (-1, "scale_factor_width")):
        size = int(x.shape[axis])
        wanted = int(np.floor(size * a.number(name, 1)))
        if corners:
            grids.append(_grid("ALIGN_CORNERS", size, wanted))
        elif a.flag("half_pixel_centers", True):
            grids.append(_grid("UNALIGN_CORNERS", size, wanted))
        else:
            grids.append(np.clip(np.arange(wanted) * size / wanted, 0, size - 1))
    return _resampled(x, grids)


def _nearest(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    for axis, target, factor in (
        (-2, "target_size_height", "scale_factor_height"),
        (-1, "target_size_width", "scale_factor_width"),
    ):
        size = int(x.shape[axis])
        wanted = a.integer(target) if target in a.values else int(np.floor(size * a.number(factor, 1)))
        if wanted % size and size % wanted:
            raise UnknownOperationError(
                f"{a.kind} from {size} to {wanted}: which neighbour is nearest is not specified"
            )
        x = tf.gather(x, np.arange(wanted) * size // wanted, axis=axis)
    return x


KERNELS: dict[str, Kernel] = {
    "avg_pool": lambda a: _pool(a, "avg"),
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "l2_pool": lambda a: _pool(a, "l2"),
    "max_pool": lambda a: _pool(a, "max"),
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _nearest,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _nearest,
}

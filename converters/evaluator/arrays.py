"""Shapes, slices, joins and look-ups: operations that move numbers and compute none."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from edgeprune.converters.evaluator.arguments import Arguments, Kernel, UnknownOperationError
from edgeprune.converters.types import Value

__all__ = ["KERNELS"]


def _reshape(a: Arguments) -> Value:
    x, shape = tf.convert_to_tensor(a["x"]), a["shape"]
    if isinstance(shape, np.ndarray):  # 0 copies a size
        shape = [x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)]
    return tf.reshape(x, shape)


def _expand_dims(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    axes = a.integers("axes")
    rank = x.shape.rank + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = tf.expand_dims(x, axis)
    return x


def _squeeze(a: Arguments) -> Value:
    axes = a.integers("axes") if a.get("axes") is not None else None
    return tf.squeeze(a["x"], axes)


def _slice_by_index(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    rank = x.shape.rank

    def bits(name: str) -> int:
        return sum(1 << i for i, on in enumerate(a.integers(name, [0] * rank)) if on)

    return tf.strided_slice(
        x,
        a["begin"],
        a["end"],
        a.get("stride"),
        begin_mask=bits("begin_mask"),
        end_mask=bits("end_mask"),
        shrink_axis_mask=bits("squeeze_mask"),
    )


def _split(a: Arguments) -> tuple[Value, ...]:
    sizes = a.get("split_sizes")
    count = a.integer("num_splits", a.outputs)
    parts = count if sizes is None else a.integers("split_sizes")
    return tuple(tf.split(tf.convert_to_tensor(a["x"]), parts, axis=a.integer("axis")))


def _concat(a: Arguments) -> Value:
    values, axis = a.listed("values"), a.integer("axis")
    if not a.flag("interleave"):
        return tf.concat(values, axis)
    stacked = tf.stack(values, axis % tf.convert_to_tensor(values[0]).shape.rank + 1)
    shape = stacked.shape.as_list()
    at = axis % (len(shape) - 1)
    return tf.reshape(stacked, [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]])


def _pad(a: Arguments) -> Value:
    """`pad` holds (before, after) of the last axes."""
    x, amounts, mode = tf.convert_to_tensor(a["x"]), a.integers("pad"), a.text("mode", "constant")
    pairs = np.array(amounts).reshape(-1, 2).tolist()
    wide = [[0, 0]] * (x.shape.rank - len(pairs)) + pairs
    if mode == "constant":
        return tf.pad(x, wide, constant_values=tf.cast(a.get("constant_val", 0), x.dtype))
    if mode == "reflect":
        return tf.pad(x, wide, mode="REFLECT")
    for axis, (before, after) in enumerate(wide):  # replicate
        size = x.shape[axis]
        x = tf.gather(x, np.clip(np.arange(-before, size + after), 0, size - 1), axis=axis)
    return x


def _gather(a: Arguments) -> Value:
    x, indices = tf.convert_to_tensor(a["x"]), tf.cast(a["indices"], tf.int32)
    axis, batch = a.integer("axis", 0), a.integer("batch_dims", 0)
    return tf.gather(x, _wrapped(indices, x.shape[axis]), axis=axis, batch_dims=batch)


def _wrapped(indices: Value, size: int | None) -> Value:
    """Negative indexes count from the end."""
    return indices if size is None else tf.where(indices < 0, indices + size, indices)


def _gather_along_axis(a: Arguments) -> Value:
    x, indices = tf.convert_to_tensor(a["x"]), tf.cast(a["indices"], tf.int32)
    axis = a.integer("axis", 0) % x.shape.rank
    return tf.experimental.numpy.take_along_axis(x, _wrapped(indices, x.shape[axis]), axis)


def _gather_nd(a: Arguments) -> Value:
    x, batch = tf.convert_to_tensor(a["x"]), a.integer("batch_dims", 0)
    return tf.gather_nd(x, _wrapped_rows(a["indices"], x, batch), batch_dims=batch)


def _wrapped_rows(indices: Value, x: Value, batch: int = 0) -> Value:
    """The same for rows of indexes into several axes of x, which begin behind its batch axes."""
    indices = tf.cast(indices, tf.int32)
    sizes = tf.shape(x)[batch : batch + int(indices.shape[-1])]
    return tf.where(indices < 0, indices + sizes, indices)


def _scatter_nd(a: Arguments) -> Value:
    data = tf.convert_to_tensor(a["data"])
    indices = _wrapped_rows(a["indices"], data)
    updates = tf.cast(a["updates"], data.dtype)
    functions = {
        "add": tf.tensor_scatter_nd_add,
        "sub": tf.tensor_scatter_nd_sub,
        "update": tf.tensor_scatter_nd_update,
        "max": tf.tensor_scatter_nd_max,
        "min": tf.tensor_scatter_nd_min,
    }
    mode = a.text("mode", "add")
    if mode not in functions:
        raise UnknownOperationError(f"scatter_nd with mode {mode!r}")
    return functions[mode](data, indices, updates)


def _one_hot(a: Arguments) -> Value:
    on, off = a.get("on_value", 1), a.get("off_value", 0)
    depth = a.integer("one_hot_vector_size")
    return tf.one_hot(tf.cast(a["indices"], tf.int32), depth, on, off, axis=a.integer("axis", -1))


def _reverse(a: Arguments) -> Value:
    x = tf.convert_to_tensor(a["x"])
    return tf.reverse(x, a.integers("axes", list(range(x.shape.rank))))


def _argsort(a: Arguments) -> Value:
    x, axis = tf.convert_to_tensor(a["x"]), a.integer("axis", -1)
    direction = "ASCENDING" if a.flag("ascending") else "DESCENDING"
    return tf.argsort(x, axis=axis, direction=direction, stable=True)


def _topk(a: Arguments) -> tuple[Value, ...]:
    x, axis = tf.convert_to_tensor(a["x"]), a.integer("axis", -1)
    moved = tf.experimental.numpy.moveaxis(x, axis, -1)
    sign, count = -1 if a.flag("ascending") else 1, a.integer("k", 1)
    values, indices = tf.math.top_k(sign * moved, moved.shape[-1] if count == -1 else count)
    back = [tf.experimental.numpy.moveaxis(t, -1, axis) for t in (sign * values, indices)]
    return tuple(back[: a.outputs])


def _blocks(a: Arguments, *, to_space: bool, channels_last: bool) -> Value:
    """depth_to_space (channels hold [block, block, channel]) and pixel_shuffle ([channel, block, block]), both NCHW."""
    x = tf.convert_to_tensor(a["x"])
    names = ("block_size", "upscale_factor", "downscale_factor")
    block = a.integer(next(name for name in names if name in a.values))
    n, c, h, w = x.shape.as_list()
    if to_space:
        inner = [block, block, c // block**2] if channels_last else [c // block**2, block, block]
        x = tf.reshape(x, [n, *inner, h, w])
        order = [0, 3, 4, 1, 5, 2] if channels_last else [0, 1, 4, 2, 5, 3]
        return tf.reshape(tf.transpose(x, order), [n, c // block**2, h * block, w * block])
    x = tf.reshape(x, [n, c, h // block, block, w // block, block])
    order = [0, 3, 5, 1, 2, 4] if channels_last else [0, 1, 3, 5, 2, 4]
    return tf.reshape(tf.transpose(x, order), [n, c * block**2, h // block, w // block])


def _space_batch(a: Arguments, *, to_batch: bool) -> Value:
    """TensorFlow's operation between two transpositions: MIL keeps channels before the spatial axes."""
    x = tf.convert_to_tensor(a["x"])
    rank = x.shape.rank
    last = tf.transpose(x, [0, *range(2, rank), 1])
    block = a.integers("block_shape")
    pairs = np.array(a.integers("paddings" if to_batch else "crops")).reshape(-1, 2)
    made = tf.space_to_batch(last, block, pairs) if to_batch else tf.batch_to_space(last, block, pairs)
    return tf.transpose(made, [0, rank - 1, *range(1, rank - 1)])


def _band_part(a: Arguments) -> Value:
    return tf.linalg.band_part(a["x"], a.integer("lower", -1), a.integer("upper", -1))


def _crop(a: Arguments) -> Value:
    (top, bottom), (left, right) = a.integers("crop_height"), a.integers("crop_width")
    x = tf.convert_to_tensor(a["x"])
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _flatten2d(a: Arguments) -> Value:
    x, axis = tf.convert_to_tensor(a["x"]), a.integer("axis", 1)
    rows = int(np.prod(x.shape[:axis])) if axis else 1
    return tf.reshape(x, [rows, -1])


KERNELS: dict[str, Kernel] = {
    "argsort": _argsort,
    "band_part": _band_part,
    "batch_to_space": lambda a: _space_batch(a, to_batch=False),
    "concat": _concat,
    "crop": _crop,
    "cumsum": lambda a: tf.cumsum(
        a["x"], a.integer("axis", 0), exclusive=a.flag("exclusive"), reverse=a.flag("reverse")
    ),
    "depth_to_space": lambda a: _blocks(a, to_space=True, channels_last=True),
    "expand_dims": _expand_dims,
    "fill": lambda a: tf.fill(a["shape"], a.get("value", np.float32(0))),
    "fill_like": lambda a: tf.fill(tf.shape(a["ref_tensor"]), a.get("value", np.float32(0))),
    "flatten2d": _flatten2d,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "one_hot": _one_hot,
    "pad": _pad,
    "pixel_shuffle": lambda a: _blocks(a, to_space=True, channels_last=False),
    "pixel_unshuffle": lambda a: _blocks(a, to_space=False, channels_last=False),
    "range_1d": lambda a: tf.range(a["start"], a["end"], a["step"]),
    "reshape": _reshape,
    "reverse": _reverse,
    "scatter_nd": _scatter_nd,
    "shape": lambda a: tf.shape(a["x"]),
    "slice_by_index": _slice_by_index,
    "slice_by_size": lambda a: tf.slice(a["x"], a["begin"], a["size"]),
    "space_to_batch": lambda a: _space_batch(a, to_batch=True),
    "space_to_depth": lambda a: _blocks(a, to_space=False, channels_last=True),
    "split": _split,
    "squeeze": _squeeze,
    "stack": lambda a: tf.stack(a.listed("values"), a.integer("axis")),
    "tile": lambda a: tf.tile(a["x"], a["reps"]),
    "topk": _topk,
    "transpose": lambda a: tf.transpose(a["x"], a.integers("perm")),
}

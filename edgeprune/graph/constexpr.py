"""Compressed constants of Core ML programs, decoded: the constexpr_* operations of iOS 16 and of iOS 18.

Semantics: apple.github.io/coremltools, MIL operations, "constexpr_ops" (iOS 16) and "compression" (iOS 18).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.graph.mil import unpack_bits

__all__ = ["DECODERS", "decode"]

Array = npt.NDArray[Any]
Parts = Mapping[str, Any]


def decode(kind: str, parts: Parts) -> tuple[Array, ...]:
    """The outputs of one constexpr operation from its parameters.

    Values beyond the largest float16 become infinite. Raises KeyError for an operation that is not in DECODERS or lacks
    a parameter, ValueError where sizes do not fit.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return DECODERS[kind](parts)


def _affine(parts: Parts) -> tuple[Array, ...]:
    """scale * (data - zero point), with a scale for the whole tensor or for each index along an axis."""
    data, scale = np.asarray(parts["quantized_data"]), np.asarray(parts["scale"])
    zero, axis = np.asarray(parts["zero_point"]), int(parts["axis"])

    def along(values: Array) -> Array:
        wide = values.astype(np.float32)
        return wide.reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)]) if wide.ndim else wide

    return ((along(scale) * (data.astype(np.float32) - along(zero))).astype(scale.dtype),)


def _cast(parts: Parts) -> tuple[Array, ...]:
    return (np.asarray(parts["source_val"]).astype(np.float32),)


def _shift_scale(parts: Parts) -> tuple[Array, ...]:
    """scale * (data - offset) in blocks: each scale stands for data.shape / scale.shape elements along each axis."""
    data, scale, offset = np.asarray(parts["data"]), np.asarray(parts["scale"]), parts.get("offset")
    shifted = data.astype(np.float32)
    if offset is not None:
        shifted = shifted - _spread(np.asarray(offset).astype(np.float32), data.shape)
    return ((_spread(scale.astype(np.float32), data.shape) * shifted).astype(scale.dtype),)


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        if values.shape[axis] and size % values.shape[axis]:
            raise ValueError(f"{values.shape[axis]} blocks along an axis of {size}")
        values = np.repeat(values, size // max(values.shape[axis], 1), axis)
    return values


def _lut(parts: Parts) -> tuple[Array, ...]:
    lut, indices = np.asarray(parts["lut"]), np.asarray(parts["indices"])
    if "shape" in parts:  # iOS 16: one table, indexes packed into bytes
        shape = tuple(int(size) for size in parts["shape"])
        bits = max(1, int(lut.size - 1).bit_length())
        return (lut[unpack_bits(indices.astype(np.uint8).reshape(-1), bits, math.prod(shape))].reshape(shape),)
    return (_tables(indices, lut, parts.get("vector_axis")),)


def _tables(indices: Array, lut: Array, vector_axis: Any) -> Array:
    """Tables by block: `lut` [blocks along each axis of indices..., entries, vector length] (iOS 18)."""
    groups, (entries, length) = lut.shape[: indices.ndim], lut.shape[indices.ndim :]
    number = np.arange(math.prod(groups)).reshape(groups)
    flat = lut.reshape(-1, entries, length)
    found = flat[_spread(number, indices.shape), indices.astype(np.int64)]
    if length == 1:
        return found[..., 0]
    axis = int(vector_axis) % indices.ndim
    moved = np.moveaxis(found, -1, axis + 1)
    return moved.reshape([size * length if i == axis else size for i, size in enumerate(indices.shape)])


def _sparse(parts: Parts) -> tuple[Array, ...]:
    mask, values = np.asarray(parts["mask"]), np.asarray(parts["nonzero_data"])
    if "shape" in parts:  # iOS 16: one bit an element, packed into bytes
        shape = tuple(int(size) for size in parts["shape"])
        mask = unpack_bits(mask.astype(np.uint8).reshape(-1), 1, math.prod(shape)).reshape(shape)
    return (_scatter(mask, values),)


def _scatter(mask: Array, values: Array) -> Array:
    places = mask != 0
    if int(places.sum()) != values.size:
        raise ValueError(f"{values.size} values for a mask of {int(places.sum())}")
    dense = np.zeros(mask.shape, values.dtype)
    dense[places] = values.reshape(-1)
    return dense


def _lut_to_sparse(parts: Parts) -> tuple[Array, ...]:
    mask, axis = np.asarray(parts["indices_mask"]), parts.get("vector_axis")
    lut = np.asarray(parts["lut"])
    dense = _tables(_scatter(mask, np.asarray(parts["indices_nonzero_data"])), lut, axis)
    wide = mask if lut.shape[-1] == 1 else np.repeat(mask, lut.shape[-1], int(axis or 0))
    return wide, dense[wide != 0]


def _sparse_shift_scale(parts: Parts) -> tuple[Array, ...]:
    mask = np.asarray(parts["data_mask"])
    told = {"data": _scatter(mask, np.asarray(parts["nonzero_data"])), "scale": parts["scale"]}
    (dense,) = _shift_scale({**told, "offset": parts.get("offset")})
    return mask, dense[mask != 0]


DECODERS: Mapping[str, Callable[[Parts], tuple[Array, ...]]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift_scale,
    "constexpr_sparse_to_dense": _sparse,
}

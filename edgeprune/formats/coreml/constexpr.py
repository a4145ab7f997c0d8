"""Compressed constants of Core ML programs, decoded: the constexpr_* operations of iOS 16 and of iOS 18.

Semantics: apple.github.io/coremltools, MIL operations, "constexpr_ops" (iOS 16) and "compression" (iOS 18).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.formats.elements import Bytes, code_counts, unpack_bits

__all__ = ["DECODERS", "count_decoded_zeros", "decode"]

Array = npt.NDArray[Any]
Parts = Mapping[str, Any]
_LONGEST_VECTOR = 64  # numbers that one index stands for; a forged table would fill any memory


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
        return (lut[unpack_bits(_packed(indices), bits, math.prod(shape))].reshape(shape),)
    return (_tables(indices, lut, parts.get("vector_axis")),)


def _packed(values: Array) -> Bytes:
    return values.astype(np.uint8, copy=False).reshape(-1)


def _tables(indices: Array, lut: Array, vector_axis: Any) -> Array:
    """Tables by block: `lut` [blocks along each axis of indices..., entries, vector length] (iOS 18)."""
    groups, (entries, length) = lut.shape[: indices.ndim], lut.shape[indices.ndim :]
    if length > _LONGEST_VECTOR:
        raise ValueError(f"a table of vectors of {length} numbers")
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
        mask = unpack_bits(_packed(mask), 1, math.prod(shape)).reshape(shape)
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


def count_decoded_zeros(kind: str, parts: Parts) -> int | None:
    """Zeros in the (only) output of a constexpr operation without decoding it: a decoded array takes up to 16 times
    what is stored. None where there is no short way. Raises as `decode` does.
    """
    short = _SHORT_WAYS.get(kind)
    return short(parts) if short else None


def _affine_zeros(parts: Parts) -> int | None:
    data, zero = np.asarray(parts["quantized_data"]), np.asarray(parts["zero_point"])
    if not np.all(parts["scale"]):
        return None
    axis = int(parts["axis"])
    if zero.ndim:
        zero = zero.reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)])
    return int(np.count_nonzero(data == zero))


def _shift_scale_zeros(parts: Parts) -> int | None:
    data, offset = np.asarray(parts["data"]), parts.get("offset")
    if not np.all(parts["scale"]):
        return None
    return int(np.count_nonzero(data == (0 if offset is None else _spread(np.asarray(offset), data.shape))))


def _lut_zeros(parts: Parts) -> int:
    lut, indices = np.asarray(parts["lut"]), np.asarray(parts["indices"])
    if "shape" not in parts:
        return _table_zeros(indices, lut)
    bits = max(1, int(lut.size - 1).bit_length())
    zero = np.zeros(1 << bits, np.int64)
    zero[: lut.size] = lut.reshape(-1) == 0
    counts = code_counts(_packed(indices), bits, math.prod(int(size) for size in parts["shape"]))
    if counts[lut.size :].any():
        raise ValueError(f"an index beyond the {lut.size} values of its table")
    return int(counts @ zero)


def _table_zeros(indices: Array, lut: Array) -> int:
    """Row by row: the number of the table that each index is for would take 8 bytes each."""
    groups, entries = lut.shape[: indices.ndim], lut.shape[indices.ndim]
    zero = np.count_nonzero(lut == 0, axis=-1).reshape(-1, entries)
    number = np.arange(math.prod(groups)).reshape(groups)
    if not indices.ndim or indices.shape[0] % groups[0]:
        raise ValueError(f"{groups} tables for indexes of shape {indices.shape}")
    rows = indices.shape[0] // groups[0]
    tables = (_spread(number[row // rows], indices.shape[1:]) for row in range(indices.shape[0]))
    return sum(int(zero[table, row].sum()) for table, row in zip(tables, indices, strict=True))


def _sparse_zeros(parts: Parts) -> int:
    mask, values = np.asarray(parts["mask"]), np.asarray(parts["nonzero_data"])
    if "shape" in parts:
        unset, ones = code_counts(_packed(mask), 1, math.prod(int(size) for size in parts["shape"])).tolist()
    else:
        ones = int(np.count_nonzero(mask))
        unset = mask.size - ones
    if ones != values.size:
        raise ValueError(f"{values.size} values for a mask of {ones}")
    return int(unset + values.size - np.count_nonzero(values))


_SHORT_WAYS: Mapping[str, Callable[[Parts], int | None]] = {
    "constexpr_affine_dequantize": _affine_zeros,
    "constexpr_blockwise_shift_scale": _shift_scale_zeros,
    "constexpr_lut_to_dense": _lut_zeros,
    "constexpr_sparse_to_dense": _sparse_zeros,
}

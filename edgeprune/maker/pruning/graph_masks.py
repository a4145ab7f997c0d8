"""Masks of the largest weights inside a compiled training step, on any backend of Keras.

The same answer as `magnitude.masks_for`, to an element. Magnitudes of float32 are ordered like their bits, so the
threshold is found digit by digit in three histograms of them. (XLA sorts slowly, TensorFlow on one core.)
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from edgeprune.maker.keras.types import Tensor

__all__ = ["largest_masks"]

DIGITS = ((20, 11), (9, 11), (0, 9))  # (shift, bits) of the 31 bits without the sign, the highest first


def largest_masks(keras: ModuleType, kernels: Sequence[Tensor], removed: Tensor, *, together: bool) -> list[Tensor]:
    """A mask for each kernel, True where a weight stays.

    `removed` is int32, the number of weights to remove: one for each kernel, or with `together` one for all in common.
    Of equal magnitudes the earlier ones go first.
    """
    ops = keras.ops
    magnitudes = [ops.abs(ops.cast(ops.reshape(kernel, (-1,)), "float32")) for kernel in kernels]
    codes = [ops.view(magnitude, "int32") for magnitude in magnitudes]
    thresholds, ties = _thresholds(keras, codes, removed, together=together)
    masks = []
    for index, (code, kernel) in enumerate(zip(codes, kernels, strict=True)):
        threshold = thresholds[0 if together else index]
        equal = ops.cast(ops.equal(code, threshold), "int32")
        place = ops.cumsum(equal)
        gone = ties[0] if together else ties[index]
        if together:
            ties = ties - place[-1:]
        kept = ops.logical_or(code > threshold, ops.logical_and(equal > 0, place > gone))
        masks.append(ops.reshape(kept, kernel.shape))
    return masks


def _thresholds(
    keras: ModuleType, codes: Sequence[Tensor], removed: Tensor, *, together: bool
) -> tuple[Tensor, Tensor]:
    """The largest code that is removed, and how many of its equals are: a number for each kernel, or one for all."""
    ops = keras.ops
    left, prefix = removed, ops.zeros_like(removed)
    for shift, bits in DIGITS:
        counts = [
            _histogram(keras, code, prefix[0 if together else index], shift, bits) for index, code in enumerate(codes)
        ]
        stacked = ops.stack(counts)
        seen = ops.cumsum(ops.sum(stacked, axis=0, keepdims=True) if together else stacked, axis=1)
        digit = ops.sum(ops.cast(seen < ops.expand_dims(left, 1), "int32"), axis=1)
        below = ops.expand_dims(ops.maximum(digit - 1, 0), 1)
        before = ops.squeeze(ops.take_along_axis(seen, below, axis=1), 1)
        left = left - ops.where(digit > 0, before, ops.zeros_like(before))
        prefix = prefix * (1 << bits) + digit
    return prefix, left


def _histogram(keras: ModuleType, code: Tensor, prefix: Tensor, shift: int, bits: int) -> Tensor:
    """How often each value of the digit occurs among the codes that begin with the prefix, int32 [2 ** bits]."""
    ops, size = keras.ops, 1 << bits
    high = ops.right_shift(code, shift)
    digit = high
    if (shift, bits) != DIGITS[0]:
        begins = ops.equal(ops.right_shift(high, bits), prefix)
        digit = ops.where(begins, ops.bitwise_and(high, size - 1), ops.full_like(high, size))
    return ops.segment_sum(ops.ones_like(digit), digit, num_segments=size + 1)[:size]

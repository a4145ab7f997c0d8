"""Integers of a kernel that give its layer the outputs of the float one, in place of the nearest integers.

The error that a rounded kernel makes in its outputs is (q - w) H (q - w)' for a row q of stored numbers, w of float
ones, both times their scale, and the second moments H of the data that meet it. Column by column a weight is rounded
and the others take over what that does (GPTQ: Frantar et al. 2022, arXiv:2210.17323); then each number moves to where
the error is least while all others stay, until none does (QuantEase: Behdin et al. 2023, arXiv:2309.01885). Zeros stay
zeros, scales are given, and an output that gained nothing keeps its nearest numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.converters.kernels import Kernel, kernels_of
from edgeprune.converters.slim_scales import LARGEST, Rounded, levels, requantize
from edgeprune.formats.tflite.objects import as_objects, file_bytes

__all__ = ["Moments", "output_error", "reconstructed", "with_outputs_kept"]

DAMPING = 0.01  # of the mean variance of the inputs, on each of them (arXiv:2210.17323, section 3.3)
BLOCK = 64  # columns whose effect on the ones behind them is computed at once
SWEEPS = 6  # at most, of descents over all columns
LARGE = 1024  # inputs: of more in float32, from the nearest numbers on and with fewer descents; it takes a tenth
LARGE_SWEEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """The data that meet a kernel: `spread` [groups, inputs, inputs] are second moments about `mean` [groups, inputs],
    which is 0 where no bias can take up a shift. A group is a convolution's, of a depthwise one a channel."""

    spread: np.ndarray
    mean: np.ndarray


def with_outputs_kept(content: bytes, floats: Mapping[str, np.ndarray], moments: Mapping[str, Moments]) -> bytes:
    """An integer file with each kernel of `moments`, by name, reconstructed on the scales that it has; `floats` are the
    constants of the float file."""
    model = as_objects(content)
    for kernel in kernels_of(model, floats).known:
        if kernel.exact and kernel.name in moments:
            requantize(model, kernel, kernel.scales, rounded=reconstructed(kernel, kernel.scales, moments[kernel.name]))
    return file_bytes(model)


def reconstructed(kernel: Kernel, scales: np.ndarray, moments: Moments) -> Rounded:
    """The numbers of a kernel on a grid that give its outputs the least error on the samples behind `moments`, never
    more than the nearest ones give any channel; with the shift of the outputs that is left for a bias."""
    nearest = levels(kernel, scales)
    groups = len(moments.spread)
    large = moments.spread.shape[-1] > LARGE
    exact: Any = np.float32 if large else np.float64
    target, first = (_rows(kernel, values, groups).astype(exact) for values in (kernel.values, nearest))
    spread = np.broadcast_to(kernel.by_channel(scales), nearest.shape)
    steps = np.ascontiguousarray(_rows(kernel, spread, groups)[..., :1]).astype(exact)
    damped = _damped(moments.spread.astype(exact))
    begun = first.copy() if large else _taken_over(target, steps, damped)
    found = _descended(target, steps, damped, begun, LARGE_SWEEPS if large else SWEEPS)
    worse = _off(found * steps - target, moments.spread) > _off(first * steps - target, moments.spread)
    found = np.where(worse[..., None], first, found)
    shift = np.einsum("grd,gd->gr", found * steps - target, moments.mean.astype(exact)).reshape(-1)
    return Rounded(stored=_kernel(kernel, found).astype(np.int8), shift=shift.astype(np.float64))


def output_error(kernel: Kernel, rounded: Rounded, scales: np.ndarray, moments: Moments) -> np.ndarray:
    """The mean squared error of each output channel on the samples behind `moments`, float64 [channels]."""
    off = rounded.stored * kernel.by_channel(scales) - kernel.values
    return _off(_rows(kernel, off, len(moments.spread)), moments.spread).reshape(-1)


def _rows(kernel: Kernel, values: np.ndarray, groups: int) -> np.ndarray:
    """Numbers of a kernel as [groups, outputs, inputs]."""
    if kernel.kind == "DEPTHWISE_CONV_2D":
        return values.reshape(-1, values.shape[-1]).T[:, None, :]
    return values.reshape(groups, len(values) // groups, -1)


def _kernel(kernel: Kernel, rows: np.ndarray) -> np.ndarray:
    return (rows[:, 0, :].T if kernel.kind == "DEPTHWISE_CONV_2D" else rows).reshape(kernel.stored.shape)


def _off(rows: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The error of each row, float64 [groups, outputs]."""
    return np.maximum(((rows @ spread.astype(rows.dtype)) * rows).sum(-1, dtype=np.float64), 0.0)


def _damped(spread: np.ndarray) -> np.ndarray:
    """With something on the diagonal, so that inputs that never changed have an inverse."""
    inputs = np.arange(spread.shape[-1])
    found = spread.copy()
    found[:, inputs, inputs] = np.maximum(found[:, inputs, inputs], 0)
    level = found[:, inputs, inputs].mean(-1)
    found[:, inputs, inputs] += np.where(level > 0, DAMPING * level, 1.0)[:, None].astype(spread.dtype)
    return found


def _rounded(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.where(kept, np.clip(np.rint(values), -LARGEST, LARGEST), 0.0).astype(values.dtype)


def _taken_over(target: np.ndarray, steps: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """GPTQ: each column rounded, and what it lost taken over by those behind it."""
    # Upper, with inverse = factor' factor; by the reversed order nothing is inverted but a triangle.
    factor = np.linalg.inv(np.linalg.cholesky(spread[:, ::-1, ::-1]))[:, ::-1, ::-1]
    left, kept, found = target.copy(), target != 0, np.zeros_like(target)
    for begin in range(0, target.shape[-1], BLOCK):
        end = min(begin + BLOCK, target.shape[-1])
        lost = np.zeros_like(target[..., begin:end])
        for at in range(begin, end):
            found[..., at] = _rounded(left[..., at] / steps[..., 0], kept[..., at])
            lost[..., at - begin] = (left[..., at] - found[..., at] * steps[..., 0]) / factor[:, at, at, None]
            left[..., at + 1 : end] -= lost[..., at - begin, None] * factor[:, at, None, at + 1 : end]
        left[..., end:] -= lost @ factor[:, begin:end, end:]
    return found


def _descended(target: np.ndarray, steps: np.ndarray, spread: np.ndarray, found: np.ndarray, sweeps: int) -> np.ndarray:
    """Each number of `found`, which changes, where the error is least while all others stay, column by column, until
    none moves."""
    kept = target != 0
    slope = (found * steps - target) @ spread  # half the derivative of the error
    for _ in range(sweeps):
        moved = False
        for begin in range(0, target.shape[-1], BLOCK):
            end = min(begin + BLOCK, target.shape[-1])
            before = found[..., begin:end].copy()
            inner = slope[..., begin:end].copy()
            for at in range(begin, end):
                best = found[..., at] - inner[..., at - begin] / (spread[:, at, at, None] * steps[..., 0])
                by = _rounded(best, kept[..., at]) - found[..., at]
                found[..., at] += by
                inner += (by * steps[..., 0])[..., None] * spread[:, at, None, begin:end]
            change = found[..., begin:end] - before
            if change.any():
                moved = True
                slope += (change * steps) @ spread[:, begin:end]
        if not moved:
            break
    return found

"""Masks that keep N of M consecutive inputs: the largest of each group stay (Mishra et al. 2021, arXiv:2104.08378).

On the way there, at a lower sparsity, the smallest of those that the whole pattern removes go first.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.formats.pattern import Pattern
from edgeprune.maker.keras.types import Tensor
from edgeprune.maker.pruning.layouts import Layout

__all__ = ["groups_kept", "pattern_mask", "protected", "violations_of"]

PASSES = 32  # groups up to this size are ranked by comparing each with each, which is faster than to sort
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]


def pattern_mask(importance: Floats, layout: Layout, pattern: Pattern) -> Mask:
    """The mask, bool in the kernel's shape: the `n` most important of each `m` inputs; of equals the later ones."""
    rows = layout.rows(np, np.abs(importance))
    groups = rows.reshape(-1, pattern.m, layout.sizes[2])
    order = np.argsort(groups, axis=1, kind="stable")
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, order[:, pattern.m - pattern.n :], values=True, axis=1)
    mask: Mask = layout.kernel(np, kept.reshape(rows.shape))
    return mask


def violations_of(values: npt.NDArray[Any], layout: Layout, pattern: Pattern) -> int:
    """How many groups of a kernel have more than `n` non-zeros."""
    return pattern.violations(layout.rows(np, values) != 0)


def groups_kept(keras: ModuleType, importance: Tensor, layout: Layout, pattern: Pattern) -> Tensor:
    """`pattern_mask` in a compiled step, on any backend of Keras."""
    ops, m = keras.ops, pattern.m
    rows = layout.rows(ops, importance)
    groups = ops.reshape(rows, (-1, m, layout.sizes[2]))
    if m > PASSES:
        place = ops.argsort(ops.argsort(groups, axis=1), axis=1)
    else:
        own, place = ops.reshape(ops.arange(m), (1, m, 1)), ops.zeros_like(groups, dtype="int32")
        for other in range(m):
            column = groups[:, other : other + 1]
            before = ops.where(own > other, ops.less_equal(column, groups), ops.less(column, groups))
            place = place + ops.cast(before, "int32")
    return layout.kernel(ops, ops.reshape(place >= m - pattern.n, layout.sizes))


def protected(keras: ModuleType, kernel: Tensor, layout: Layout, pattern: Pattern) -> Tensor:
    """Magnitudes in which what the whole pattern keeps is infinite, so that a threshold takes of the others first."""
    ops = keras.ops
    magnitude = ops.abs(ops.cast(kernel, "float32"))
    kept = groups_kept(keras, magnitude, layout, pattern)
    return ops.where(kept, ops.full_like(magnitude, float("inf")), magnitude)

"""A pattern is counted in every file that a run makes: what the model keeps, its files keep."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edgeprune.errors import EdgepruneError
from edgeprune.formats import read_contents
from edgeprune.formats.kept_patterns import kept_patterns
from edgeprune.formats.pattern import Pattern
from edgeprune.maker.keras.models import leaf_layers, own_weights
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.layouts import Layout, layout_of
from edgeprune.maker.pruning.magnitude import kernels_of
from edgeprune.maker.pruning.pattern_masks import violations_of
from edgeprune.maker.recipe.recipe import ChannelStep, PruneStep, Step

__all__ = ["check_file", "pattern_after"]


def pattern_after(step: Step, before: Pattern | None) -> Pattern | None:
    """The pattern that a model keeps behind a step; removed channels move the groups."""
    if isinstance(step, PruneStep) and step.options.pattern is not None:
        return step.options.pattern
    return None if isinstance(step, ChannelStep) else before


def check_file(path: Path, model: Model, pattern: Pattern) -> None:
    """Raise EdgepruneError where more weights of a file break a pattern than those of its model do.

    Layers that were left dense may break it, by their number of weights, for a file has names of its own.
    """
    found = kept_patterns(read_contents(path), pattern)
    broken = [row for row in found if row.violations]
    weights, dense = sum(math.prod(row.shape) for row in broken), _left_dense(model, pattern)
    if weights > dense:
        worst = max(broken, key=lambda row: row.violations)
        raise EdgepruneError(
            f"{path.name} does not keep {pattern}: {len(broken)} of its {len(found)} weight arrays break it "
            f"({weights:,} weights; the model's own kernels of {dense:,} do), {worst.array} in {worst.violations:,} of "
            f"{worst.groups:,} groups; export a precision that keeps zeros (float32, float16, int8)"
        )


def _left_dense(model: Model, pattern: Pattern) -> int:
    """The weights in arrays of a model that break a pattern or are not asked to keep it."""
    count = 0
    for leaf in leaf_layers(model):
        names, _ = kernels_of(leaf.layer, prune_depthwise=False)
        for variable in own_weights(leaf.layer):
            layout = layout_of(leaf.layer, variable.name, variable.shape) if variable.name in names else ""
            if len(variable.shape) > 1 and not _keeps(np.asarray(variable), layout, pattern):
                count += int(np.prod(variable.shape))
    return count


def _keeps(values: np.ndarray, layout: Layout | str, pattern: Pattern) -> bool:
    if isinstance(layout, str) or layout.inputs % pattern.m:
        return False
    return not violations_of(values, layout, pattern)

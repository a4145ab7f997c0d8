"""Magnitude pruning: the smallest weights become zero (Han et al. 2015, arXiv:1506.02626).

Sparsity is the fraction of weights that are zero. With scope "layer" every kernel reaches the asked sparsity; with
scope "global" one threshold runs through all chosen kernels together, so that layers end up differently sparse.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.ledger import LayerSparsity, PruneReport, SkippedLayer
from edgeprune.maker.keras.models import Leaf, clone, leaf_layers, own_weights, weight_of
from edgeprune.maker.keras.types import Layer, Model, Variable
from edgeprune.maker.pruning.options import MagnitudeOptions

__all__ = [
    "NOTHING_TO_PRUNE",
    "PruneResult",
    "Target",
    "apply_masks",
    "keep_largest",
    "kept_count",
    "kernels_of",
    "masks_for",
    "prune_magnitude",
    "report_sparsity",
    "select_targets",
]

NOTHING_TO_PRUNE = (
    "nothing to prune: no convolution, dense, embedding or recurrent kernel is left; the model has none, or include, "
    "exclude, keep_first and keep_last leave all of them out"
)
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]

# Class of a layer -> the names of its variables that hold multiplied weights.
KERNELS: dict[str, tuple[str, ...]] = {
    "Conv1D": ("kernel",),
    "Conv2D": ("kernel",),
    "Conv3D": ("kernel",),
    "Conv1DTranspose": ("kernel",),
    "Conv2DTranspose": ("kernel",),
    "Conv3DTranspose": ("kernel",),
    "Dense": ("kernel",),
    "EinsumDense": ("kernel",),
    "Embedding": ("embeddings",),
    "GRUCell": ("kernel", "recurrent_kernel"),
    "LSTMCell": ("kernel", "recurrent_kernel"),
    "SeparableConv1D": ("pointwise_kernel",),
    "SeparableConv2D": ("pointwise_kernel",),
    "SimpleRNNCell": ("kernel", "recurrent_kernel"),
}
# Few weights that every channel depends on: pruned only when asked (tfmot never prunes them).
DEPTHWISE: dict[str, tuple[str, ...]] = {
    "DepthwiseConv1D": ("kernel",),
    "DepthwiseConv2D": ("kernel",),
    "SeparableConv1D": ("depthwise_kernel",),
    "SeparableConv2D": ("depthwise_kernel",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One kernel that will be pruned. `layer` is the path of its layer; `key` names the kernel and is unique."""

    layer: str
    kind: str
    key: str
    variable: Variable


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """A new model, the masks that hold it (True = kept, by kernel), and the report."""

    model: Model
    masks: Mapping[str, Mask]
    report: PruneReport


def kept_count(elements: int, sparsity: float) -> int:
    """How many of so many elements stay, at least one."""
    return min(elements, max(round(elements * (1 - sparsity)), 1))


def keep_largest(weights: Floats, sparsity: float) -> Mask:
    """Mask of the weights to keep, bool, same shape: all but the smallest magnitudes.

    Keeps round(n * (1 - sparsity)) elements, half to even, and at least one, as tfmot does. Of equal magnitudes the
    earlier ones (row-major) go first; tfmot keeps every weight that equals the threshold instead.
    """
    return keep_largest_of({"": weights}, sparsity)[""]


def keep_largest_of(kernels: Mapping[str, Floats], sparsity: float) -> dict[str, Mask]:
    """The same over several arrays at once with one common threshold."""
    flat = np.concatenate([np.abs(w).ravel() for w in kernels.values()]) if kernels else np.empty(0)
    keep = kept_count(flat.size, sparsity)
    kept = np.ones(flat.size, dtype=bool)
    if flat.size > keep:
        removed = flat.size - keep
        threshold = np.partition(flat, removed - 1)[removed - 1]
        kept = flat > threshold
        # Weights equal to the threshold fill up what is still to be kept, the last ones first.
        equal = np.flatnonzero(flat == threshold)
        missing = keep - int(kept.sum())
        kept[equal[equal.size - missing :]] = True
    pieces = np.split(kept, np.cumsum([w.size for w in kernels.values()])[:-1]) if kernels else []
    return {key: piece.reshape(w.shape) for (key, w), piece in zip(kernels.items(), pieces, strict=True)}


def masks_for(kernels: Mapping[str, Floats], sparsity: float, scope: str) -> dict[str, Mask]:
    """Masks (True = kept) that give every kernel ("layer") or all together ("global") the sparsity."""
    if scope == "global":
        return keep_largest_of(kernels, sparsity)
    return {key: keep_largest(w, sparsity) for key, w in kernels.items()}


def matches(leaf: Leaf, patterns: Sequence[str]) -> bool:
    """Whether the path, or a name or class on the way to the layer, matches one of the shell patterns."""
    names = {leaf.path}
    for layer in (*leaf.holders, leaf.layer):
        names |= {layer.name, type(layer).__name__}
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _check_patterns(leaves: Sequence[Leaf], options: MagnitudeOptions) -> None:
    for option, patterns in (("include", options.include), ("exclude", options.exclude)):
        for pattern in patterns:
            if not any(matches(leaf, [pattern]) for leaf in leaves):
                names = ", ".join(leaf.path for leaf in leaves[:6]) + (" ..." if len(leaves) > 6 else "")
                raise UsageError(f"{option} pattern {pattern!r} matches no layer with weights; layers are: {names}")


def kernels_of(layer: Layer, *, prune_depthwise: bool) -> tuple[list[str], str]:
    """Names of the prunable variables of a layer, or the reason why there are none."""
    kind = type(layer).__name__
    names = list(KERNELS.get(kind, ()))
    if prune_depthwise:
        names += DEPTHWISE.get(kind, ())
    if names:
        return names, ""
    if kind in DEPTHWISE:
        return (
            [],
            "depthwise kernel: few weights, each one of a channel's only taps (pruned with prune_depthwise only)",
        )
    return [], "no kernel: normalisation, bias or scale weights are not pruned"


def select_targets(model: Model, options: MagnitudeOptions) -> tuple[list[Target], list[SkippedLayer]]:
    """The kernels to prune in the model's order, and every other layer with weights with the reason it is left out."""
    leaves = [leaf for leaf in leaf_layers(model) if own_weights(leaf.layer)]
    _check_patterns(leaves, options)
    candidates: list[tuple[Leaf, list[str]]] = []
    skipped: list[SkippedLayer] = []
    for leaf in leaves:
        names, reason = kernels_of(leaf.layer, prune_depthwise=options.prune_depthwise)
        if names and not matches(leaf, options.include):
            names, reason = [], "not matched by include"
        if names and matches(leaf, options.exclude):
            names, reason = [], "matched by exclude"
        if names:
            candidates.append((leaf, names))
        else:
            skipped.append(_skip(leaf, reason))
    if candidates and options.keep_first:
        skipped.append(_skip(candidates.pop(0)[0], "first layer (keep_first)"))
    if candidates and options.keep_last:
        skipped.append(_skip(candidates.pop()[0], "last layer (keep_last)"))
    return list(_targets(candidates)), skipped


def _skip(leaf: Leaf, reason: str) -> SkippedLayer:
    parameters = sum(int(np.prod(w.shape)) for w in own_weights(leaf.layer))
    return SkippedLayer(layer=leaf.path, kind=type(leaf.layer).__name__, parameters=parameters, reason=reason)


def _targets(candidates: Sequence[tuple[Leaf, list[str]]]) -> Iterator[Target]:
    keys: set[str] = set()
    for leaf, names in candidates:
        for name in names:
            # Not the variable's own path: layers of the same name in two nested models share it.
            key = stem = f"{leaf.path}/{name}"
            while key in keys:
                key = f"{stem}#{len(keys)}"
            keys.add(key)
            yield Target(layer=leaf.path, kind=type(leaf.layer).__name__, key=key, variable=weight_of(leaf.layer, name))


def apply_masks(targets: Sequence[Target], masks: Mapping[str, Mask]) -> None:
    """Write +0.0 where a mask is False. (A mask multiplied in would leave -0.0, which compresses 12 % worse.)"""
    for target in targets:
        if target.key in masks:
            weights = np.asarray(target.variable)
            target.variable.assign(np.where(masks[target.key], weights, np.zeros((), weights.dtype)))


def report_sparsity(
    targets: Sequence[Target], skipped: Sequence[SkippedLayer], options: MagnitudeOptions
) -> PruneReport:
    """Count the zeros that are really there."""
    layers = []
    zeros = elements = 0
    for target in targets:
        weights = np.asarray(target.variable)
        count = int(weights.size - np.count_nonzero(weights))
        zeros, elements = zeros + count, elements + weights.size
        asked = options.sparsity if options.scope == "layer" else None
        got = count / weights.size
        layers.append(
            LayerSparsity(
                layer=target.layer, kind=target.kind, key=target.key, elements=weights.size, asked=asked, got=got
            )
        )
    got = zeros / elements if elements else 0.0
    return PruneReport(asked=options.sparsity, got=got, layers=tuple(layers), skipped=tuple(skipped))


def prune_magnitude(model: Model, options: MagnitudeOptions) -> PruneResult:
    """A pruned copy of a Keras 3 model, in one shot and without data. The argument is left alone.

    Raises UsageError when nothing is left to prune or a pattern matches nothing.
    """
    pruned = clone(model)
    targets, skipped = select_targets(pruned, options)
    if not targets:
        raise UsageError(NOTHING_TO_PRUNE)
    masks = masks_for({t.key: np.asarray(t.variable) for t in targets}, options.sparsity, options.scope)
    apply_masks(targets, masks)
    return PruneResult(model=pruned, masks=masks, report=report_sparsity(targets, skipped, options))

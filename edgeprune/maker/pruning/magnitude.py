"""Magnitude pruning: the smallest weights become zero (Han et al. 2015, arXiv:1506.02626).

Sparsity is the fraction of weights that are zero. With scope "layer" every kernel reaches the asked sparsity; with
scope "global" one threshold runs through all chosen kernels together, so that layers end up differently sparse.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.ledger import ChannelOrder, LayerSparsity, PruneReport, SkippedLayer
from edgeprune.maker.keras.models import Leaf, clone, leaf_layers, own_weights, weight_of
from edgeprune.maker.keras.types import Layer, Model, Variable
from edgeprune.maker.pruning.layouts import Layout, layout_of
from edgeprune.maker.pruning.options import MagnitudeOptions, sparsity_of
from edgeprune.maker.pruning.pattern_masks import pattern_mask, violations_of

if TYPE_CHECKING:
    from edgeprune.formats.pattern import Pattern
    from edgeprune.maker.training.data.samples import Samples

__all__ = [
    "NOTHING_TO_PRUNE",
    "PruneResult",
    "Target",
    "apply_masks",
    "keep_largest",
    "kept_count",
    "kernels_of",
    "masks_for",
    "masks_of",
    "nothing_to_prune",
    "prune_magnitude",
    "reorder_channels",
    "reordered",
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
    """One kernel that will be pruned. `layer` is the path of its layer; `key` names the kernel and is unique; `owner`
    is the layer itself. `layout` is the reason where no inputs of an output are to be told (embeddings, depthwise)."""

    layer: str
    kind: str
    key: str
    variable: Variable
    owner: Layer
    layout: Layout | str


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


def masks_of(
    targets: Sequence[Target], importance: Mapping[str, Floats], options: MagnitudeOptions, sparsity: float
) -> dict[str, Mask]:
    """The masks (True = kept) of these kernels by what the options ask for, at a sparsity on the way there.

    `importance` is by kernel, in its shape; negative numbers count by their magnitude. Under a pattern the least
    important of those that it removes go first.
    """
    if options.pattern is None and not options.needs_data:
        return masks_for({t.key: importance[t.key] for t in targets}, sparsity, options.scope)
    masks = {}
    for target in targets:
        values, layout = importance[target.key], target.layout
        if options.pattern is None:
            masks[target.key] = _of_each_output(values, layout, sparsity)
            continue
        assert isinstance(layout, Layout)
        kept = masks[target.key] = pattern_mask(values, layout, options.pattern)
        if sparsity < options.fraction:
            masks[target.key] = keep_largest(np.where(kept, np.inf, np.abs(values)), sparsity)
    return masks


def _of_each_output(importance: Floats, layout: Layout | str, sparsity: float) -> Mask:
    """The same sparsity in the inputs of each output; in a table of no known outputs over all of it."""
    if isinstance(layout, str):
        return keep_largest(importance, sparsity)
    rows = layout.rows(np, np.abs(importance))
    gone = layout.inputs - kept_count(layout.inputs, sparsity)
    kept = np.ones(rows.shape, bool)
    np.put_along_axis(kept, np.argsort(rows, axis=1, kind="stable")[:, :gone], values=False, axis=1)
    mask: Mask = layout.kernel(np, kept)
    return mask


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
    return _of_pattern(list(_targets(candidates)), skipped, options)


def _of_pattern(
    targets: list[Target], skipped: list[SkippedLayer], options: MagnitudeOptions
) -> tuple[list[Target], list[SkippedLayer]]:
    """The kernels that a pattern can be asked of; the others join those that stay dense."""
    if options.pattern is None:
        return targets, skipped
    fit = []
    for target in targets:
        layout = target.layout
        if isinstance(layout, str):
            reason = layout
        elif layout.inputs % options.pattern.m:
            reason = f"{target.variable.name}: {layout.inputs} inputs are no multiple of {options.pattern.m}"
        else:
            reason = ""
        if reason:
            size = int(np.prod(target.variable.shape))
            skipped.append(SkippedLayer(layer=target.layer, kind=target.kind, parameters=size, reason=reason))
        else:
            fit.append(target)
    return fit, skipped


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
            variable = weight_of(leaf.layer, name)
            yield Target(
                layer=leaf.path,
                kind=type(leaf.layer).__name__,
                key=key,
                variable=variable,
                owner=leaf.layer,
                layout=layout_of(leaf.layer, name, variable.shape),
            )


def apply_masks(targets: Sequence[Target], masks: Mapping[str, Mask]) -> None:
    """Write +0.0 where a mask is False. (A mask multiplied in would leave -0.0, which compresses 12 % worse.)"""
    for target in targets:
        if target.key in masks:
            weights = np.asarray(target.variable)
            target.variable.assign(np.where(masks[target.key], weights, np.zeros((), weights.dtype)))


def report_sparsity(
    targets: Sequence[Target],
    skipped: Sequence[SkippedLayer],
    options: MagnitudeOptions,
    reordering: ChannelOrder | None = None,
) -> PruneReport:
    """Count the zeros that are really there, and under a pattern the groups that break it."""
    layers = []
    zeros = elements = 0
    for target in targets:
        weights = np.asarray(target.variable)
        count = int(weights.size - np.count_nonzero(weights))
        zeros, elements = zeros + count, elements + weights.size
        layers.append(
            LayerSparsity(
                layer=target.layer,
                kind=target.kind,
                key=target.key,
                elements=weights.size,
                asked=options.fraction if options.scope == "layer" else None,
                got=count / weights.size,
                violations=_violations(weights, target.layout, options.pattern),
            )
        )
    return PruneReport(
        asked=options.fraction,
        got=zeros / elements if elements else 0.0,
        layers=tuple(layers),
        skipped=tuple(skipped),
        pattern=str(options.pattern) if options.pattern else None,
        reordering=reordering,
    )


def _violations(weights: Floats, layout: Layout | str, pattern: Pattern | None) -> int | None:
    return violations_of(weights, layout, pattern) if pattern is not None and isinstance(layout, Layout) else None


def prune_magnitude(model: Model, options: MagnitudeOptions, *, samples: Samples | None = None) -> PruneResult:
    """A pruned copy of a Keras 3 model, in one shot. The argument is left alone.

    `samples` of the training split are looked at with score "wanda" only. Raises UsageError when nothing is left to
    prune or include or exclude matches nothing, and Unsupported where channels cannot be reordered (`permute`).
    """
    pruned, reordering, padded = ready_to_prune(model, options, samples)
    targets, skipped = select_targets(pruned, options)
    if not targets:
        raise UsageError(nothing_to_prune(skipped, options))
    masks = masks_of(targets, importance_of(pruned, targets, options, samples), options, options.fraction)
    apply_masks(targets, masks)
    report = replace(report_sparsity(targets, skipped, options, reordering), padded=padded)
    return PruneResult(model=pruned, masks=masks, report=report)


def ready_to_prune(
    model: Model, options: MagnitudeOptions, samples: Samples | None = None
) -> tuple[Model, ChannelOrder | None, tuple[str, ...]]:
    """(A copy of a model, padded and in another order where the options ask; that order, and the layers padded)."""
    from edgeprune.maker.pruning.symmetric_padding import pad_symmetrically

    ready, padded = pad_symmetrically(clone(model)) if options.symmetric_padding else (clone(model), ())
    return (*(reordered(ready, options, samples) if options.permute else (ready, None)), padded)


def reordered(model: Model, options: MagnitudeOptions, samples: Samples | None = None) -> tuple[Model, ChannelOrder]:
    """A model with its channels in the order that keeps most of the pattern of the options; the same outputs."""
    from edgeprune.maker.pruning.channel.reordering import reorder

    targets, skipped = select_targets(model, options)
    if not targets:
        raise UsageError(nothing_to_prune(skipped, options))
    assert options.pattern is not None
    kernels = {id(t.variable): t.layout for t in targets if isinstance(t.layout, Layout)}
    importance = importance_of(model, targets, options, samples)
    scores = {id(t.variable): importance[t.key] for t in targets}
    return reorder(model, kernels, scores, options.pattern, score=options.score)


def reorder_channels(model: Model, pattern: Pattern | str) -> tuple[Model, ChannelOrder]:
    """A copy of a Functional or Sequential model with its channels in the order that keeps most of a pattern, "2:4".

    It computes the same outputs. The argument is left alone; the record says what is gained. Raises Unsupported for
    other models.
    """
    return reordered(model, MagnitudeOptions(sparsity=sparsity_of(pattern), permute=True))


def importance_of(
    model: Model, targets: Sequence[Target], options: MagnitudeOptions, samples: Samples | None = None
) -> dict[str, Floats]:
    """How much each weight matters, by kernel, in its shape."""
    kernels = {t.key: np.asarray(t.variable) for t in targets}
    if not options.needs_data:
        return kernels
    from edgeprune.maker.pruning.wanda import input_norms

    if samples is None:
        raise UsageError('score = "wanda" looks at training samples: give some (--train), or leave it out')
    norms = input_norms(model, targets, samples)
    return {
        t.key: t.layout.kernel(np, t.layout.rows(np, np.abs(kernels[t.key])) * norms[t.key])
        if isinstance(t.layout, Layout)
        else kernels[t.key]
        for t in targets
    }


def nothing_to_prune(skipped: Sequence[SkippedLayer], options: MagnitudeOptions) -> str:
    """Why nothing is left to prune."""
    if options.pattern is None:
        return NOTHING_TO_PRUNE
    reasons = [f"{item.layer}: {item.reason}" for item in skipped if "normalisation" not in item.reason]
    told = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    return f"nothing to prune to {options.pattern}{': ' if told else ''}{told}"

"""What the steps of a run have won so far, and whether each later step keeps it: zeros of kernels, widths of layers.

A pattern of zeros is kept where the zeros are. Counted in the Keras model behind each step, place by place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import EdgepruneError
from edgeprune.formats import read_contents
from edgeprune.formats.weights import Role
from edgeprune.ledger import KeptReport
from edgeprune.maker.keras.models import leaf_layers
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.surgery import Places, part
from edgeprune.maker.pruning.magnitude import select_targets
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.recipe.steps import ChannelStep, PruneStep, Step

__all__ = ["Holdings", "Mask", "kernel_layers", "zero_places"]

Mask = npt.NDArray[np.bool_]
Sizes = Sequence[tuple[int, ...]]
_EVERY_KERNEL = MagnitudeOptions(sparsity=0.0, prune_depthwise=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernel:
    """A kernel: its layer's path, and its place among the model's weights."""

    layer: str
    place: int
    values: npt.NDArray[Any]


def _kernels(model: Model) -> list[_Kernel]:
    places = {id(weight): number for number, weight in enumerate(model.weights)}
    targets, _ = select_targets(model, _EVERY_KERNEL)
    return [
        _Kernel(layer=t.layer, place=places[id(t.variable)], values=np.asarray(t.variable))
        for t in targets
        if id(t.variable) in places
    ]


def zero_places(model: Model) -> dict[int, Mask]:
    """Where each kernel is zero, by its place among the model's weights; kernels without zeros are left out."""
    found = {kernel.place: kernel.values == 0 for kernel in _kernels(model)}
    return {place: mask for place, mask in found.items() if mask.any()}


def kernel_layers(model: Model) -> dict[int, str]:
    """The layer of each kernel, by its path, by the kernel's place among the model's weights."""
    return {kernel.place: kernel.layer for kernel in _kernels(model)}


class Holdings:
    """What the stages so far have won: checked behind each later step, and added to by it."""

    def __init__(self) -> None:
        self._zeros: dict[str, dict[int, Mask]] = {}
        self._widths: dict[str, dict[str, Sizes]] = {}

    def drop(self) -> None:
        """Another model takes the place of the one before: nothing of it is to be kept."""
        self._zeros.clear()
        self._widths.clear()

    def after(
        self, step: Step, model: Model, *, kept: Sequence[Places] | None = None, narrowed: Sequence[str] = ()
    ) -> tuple[KeptReport, ...]:
        """What a step keeps of the earlier ones; its own winnings are added.

        `kept` is what a channel step left of each weight, `narrowed` the layers that it made narrower. Raises
        EdgepruneError, which names the layer, where something was lost.
        """
        found = [self._zeros_kept(step, stage, model, kept) for stage in self._zeros]
        found += [self._widths_kept(step, stage, model) for stage in self._widths]
        if isinstance(step, PruneStep):
            self._zeros[step.name] = zero_places(model)
        if isinstance(step, ChannelStep):
            self._widths[step.name] = {name: sizes for name, sizes in _sizes(model).items() if name in set(narrowed)}
        return tuple(found)

    def in_file(self, path: Path) -> tuple[KeptReport, ...]:
        """How many of the zeros are in a file's weights. One that lost many was refused when it was made."""
        if not self._zeros:
            return ()
        arrays = [array for layer in read_contents(path).layers for array in layer.arrays if array.role is Role.WEIGHT]
        if any(array.zeros is None for array in arrays):
            return ()
        stage, masks = list(self._zeros.items())[-1]
        asked = sum(int(mask.sum()) for mask in masks.values())
        there = sum(array.zeros or 0 for array in arrays)
        return (KeptReport(of=stage, what="zeros in the file", asked=asked, got=min(asked, there)),)

    def _zeros_kept(self, step: Step, stage: str, model: Model, kept: Sequence[Places] | None) -> KeptReport:
        kernels = {kernel.place: kernel for kernel in _kernels(model)}
        # A step that reorders channels moves zeros with their weights: then they are counted, kernel by kernel.
        moves = isinstance(step, PruneStep) and bool(getattr(step.options, "permute", False))
        asked = got = 0
        for place, before in self._zeros[stage].items():
            mask = part(before, kept[place]) if kept is not None else before
            kernel = kernels[place]
            if mask.shape != kernel.values.shape:
                raise _lost(step, stage, kernel.layer, f"the kernel is {kernel.values.shape}, not {mask.shape}")
            now = kernel.values == 0
            wanted = int(mask.sum())
            there = min(wanted, int(now.sum())) if moves else int((mask & now).sum())
            if there < wanted:
                raise _lost(step, stage, kernel.layer, f"{wanted - there:,} of its {wanted:,} zeros are gone")
            asked, got = asked + wanted, got + there
            self._zeros[stage][place] = now if moves else mask
        return KeptReport(of=stage, what="zeros", asked=asked, got=got)

    def _widths_kept(self, step: Step, stage: str, model: Model) -> KeptReport:
        now, won = _sizes(model), self._widths[stage]
        for layer, sizes in won.items():
            wider = any(
                size > most
                for new, old in zip(now[layer], sizes, strict=True)
                for size, most in zip(new, old, strict=True)
            )
            if wider:
                raise _lost(step, stage, layer, f"its weights are {list(now[layer])}, not {list(sizes)}")
        return KeptReport(of=stage, what="widths", asked=len(won), got=len(won))


def _sizes(model: Model) -> Mapping[str, Sizes]:
    """Layer by name -> the shapes of its weights."""
    return {leaf.layer.name: [tuple(w.shape) for w in leaf.layer.weights] for leaf in leaf_layers(model)}


def _lost(step: Step, stage: str, layer: str, how: str) -> EdgepruneError:
    return EdgepruneError(
        f"step {step.name!r} loses what step {stage!r} won: layer {layer!r}: {how}; put {step.name!r} before "
        f"{stage!r}, or prune with the native backend, which holds zeros"
    )

"""Layers that a training leaves as they are (trainable=False): said, and trained too where that is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from edgeprune.maker.keras.models import leaf_layers, own_weights
from edgeprune.maker.keras.types import Model

__all__ = ["frozen_note", "thawed"]


def frozen_note(model: Model) -> str | None:
    """What to say of layers with weights that no training changes; None where there are none."""
    leaves = [leaf for leaf in leaf_layers(model) if own_weights(leaf.layer)]
    frozen = [leaf.path for leaf in leaves if not leaf.layer.trainable]
    if not frozen:
        return None
    return (
        f"{len(frozen)} of {len(leaves)} layers with weights are frozen (trainable=False), first {frozen[0]!r}: "
        "training leaves them as pruning left them; to train them too add --thaw (in a recipe: thaw = true)"
    )


@contextlib.contextmanager
def thawed(model: Model) -> Iterator[None]:
    """While this is open, every layer of the model is trained; afterwards those that were frozen are so again."""
    before = [(layer, layer.trainable) for layer in model._flatten_layers()]
    for layer, _ in before:
        layer.trainable = True
    try:
        yield
    finally:
        for layer, trainable in before:  # outermost first, which changes what it holds
            layer.trainable = trainable

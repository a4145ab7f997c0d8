"""Which model a list of variables belongs to: an optimizer is told its variables, never its model."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

from edgeprune.errors import UsageError
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import Model, Optimizer, Variable

__all__ = ["owner_of"]


def owner_of(variables: Sequence[Variable], optimizer: Optimizer) -> Model:
    """The model that was compiled with the optimizer, else the smallest model or layer that has all variables.

    Raises UsageError where there is none.
    """
    wanted = {key for variable in variables for key in _keys(variable)}
    found: list[tuple[bool, bool, int, int, Model]] = []
    model_class = keras_module(any_backend=True).Model
    for order, layer in enumerate(_living_layers()):
        # One whose making failed half-way may still be there, without the weights that it promises.
        own = [variable for variable in getattr(layer, "trainable_weights", ()) if wanted & _keys(variable)]
        if len(own) >= len(variables):
            compiled = getattr(layer, "optimizer", None)
            ours = optimizer in (compiled, getattr(compiled, "inner_optimizer", None))
            found.append((not ours, not isinstance(layer, model_class), len(layer.weights), order, layer))
    if not found:
        raise UsageError(
            "the optimizer's variables are those of no one model: say whose kernels are pruned, "
            "edgeprune.sparse(..., model=model)"
        )
    return min(found, key=lambda row: row[:-1])[-1]


def _keys(variable: Any) -> set[int]:
    """A variable of Keras and the backend's own inside it are the same."""
    return {id(variable), id(getattr(variable, "_value", variable))}


def _living_layers() -> Iterator[Any]:
    """Every layer and model in this process."""
    layer_class = keras_module(any_backend=True).Layer
    for thing in gc.get_objects():
        # Not isinstance, which would ask proxies for the class of what they stand for.
        if issubclass(type(thing), layer_class) and getattr(thing, "_tracker", None) is not None:
            yield thing

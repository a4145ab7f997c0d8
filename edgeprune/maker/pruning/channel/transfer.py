"""Training goes on behind a surgery: the state of the optimizer is cut as the weights were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.maker.keras.types import Model, Optimizer, Variable
from edgeprune.maker.pruning.channel.pruner import ChannelResult
from edgeprune.maker.pruning.channel.surgery import Places, part
from edgeprune.maker.pruning.sparse_optimizer import inner_optimizer, unbuilt, without_masks
from edgeprune.maker.training.distiller import trained_model

__all__ = ["transfer_optimizer"]


def transfer_optimizer(model: Model, result: ChannelResult, *, optimizer: Optimizer | None = None) -> Optimizer:
    """The optimizer of `model` for `result.model`, which prune_channels or prune_dead made of it: compile with that.

    Momenta, averages, accumulated gradients and masks of edgeprune.sparse are cut as the weights were; steps, learning
    rate and loss scale go on. `optimizer` is the one of a loop of your own. Both arguments are left alone. Raises
    UsageError for an optimizer that has made no step, or whose state cannot be cut (Adafactor).
    """
    before = optimizer or getattr(model, "optimizer", None)
    if before is None:
        raise UsageError(
            "the model is not compiled: say which optimizer trained it, transfer_optimizer(..., optimizer=)"
        )
    if not before.built:
        raise UsageError("the optimizer has not made a step, so there is nothing to transfer: compile with a new one")
    return _Transfer(trained_model(model), result).made(before)


class _Transfer:
    """The weights of both models, and what was kept of each."""

    def __init__(self, old: Model, result: ChannelResult) -> None:
        if not isinstance(result, ChannelResult):
            raise UsageError("transfer_optimizer takes what prune_channels returned: transfer_optimizer(model, result)")
        self.model = result.model
        shapes = [tuple(weight.shape) for weight in result.model.weights]
        if len(old.weights) != len(result.kept) or shapes != [
            _shape(weight, places) for weight, places in zip(old.weights, result.kept, strict=True)
        ]:
            raise UsageError(
                f"the result was not cut out of model {old.name!r}: give the model that prune_channels was given"
            )
        self.rows: dict[int, tuple[Variable, Variable, Places]] = {}  # by each id that the old variable goes by
        for row in zip(old.weights, result.model.weights, result.kept, strict=True):
            self.rows.update({id(row[0]): row, id(getattr(row[0], "_value", row[0])): row})
        self.places = {id(new): places for _, new, places in self.rows.values()}

    def made(self, before: Any) -> Optimizer:
        """An optimizer like `before`, built for the new model."""
        after: Any = unbuilt(before, self.model)
        plain = getattr(after, "inner_optimizer", after)
        trained = getattr(before, "inner_optimizer", before)._trainable_variables
        if not all(id(variable) in self.rows for variable in trained):
            raise UsageError("the optimizer trained another model than the one that was cut")
        variables = [self.rows[id(variable)][1] for variable in trained]
        values = [np.array(variable) for variable in variables]
        slots = _built(after, plain, variables)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)  # a schedule that starts sparse has written zeros
        for new, old in zip(without_masks(after), without_masks(before), strict=True):
            new.assign(self._cut(after, new, old, slots.get(id(new))))
        self._shift_averages(before, after)
        self._carry_masks(before, after)
        return after

    def _cut(self, optimizer: Any, new: Variable, old: Variable, weight: Variable | None) -> npt.NDArray[Any]:
        values = np.array(old)
        if weight is not None:
            return part(values, self.places[id(weight)])
        if values.ndim and any(self.places.values()):
            kind = type(getattr(optimizer, "inner_optimizer", optimizer))
            raise UsageError(
                f"{kind.__name__} keeps {new.name!r}, which has not the shape of a weight and cannot be cut: go on "
                "with an optimizer like Adam or SGD, or compile the new model with a new one"
            )
        return values

    def _shift_averages(self, before: Any, after: Any) -> None:
        """What removed channels have added to a bias is added to its average too."""
        before, after = (getattr(one, "inner_optimizer", one) for one in (before, after))
        if not after.use_ema:
            return
        for old, average in zip(before._trainable_variables, after._model_variables_moving_average, strict=True):
            weight, new, places = self.rows[id(old)]
            average.assign(np.array(average) + (np.array(new) - part(np.array(weight), places)))

    def _carry_masks(self, before: Any, after: Any) -> None:
        old, new = inner_optimizer(before), inner_optimizer(after)
        if old is None or new is None:
            return
        for target in new.masks.targets:
            for before_cut, after_cut in (
                (old.masks.variables, new.masks.variables),
                (old.masks.behind, new.masks.behind),
            ):
                if target.key in before_cut and target.key in after_cut:  # a pattern may fit one of the two only
                    values = np.array(before_cut[target.key])
                    after_cut[target.key].assign(part(values, self.places[id(target.variable)]))
        new.masks._renewed.assign(np.array(old.masks._renewed))


def _built(optimizer: Any, plain: Any, variables: Sequence[Variable]) -> Mapping[int, Variable]:
    """Build the optimizer; its variables by id that are made after a weight -> that weight."""
    slots: dict[int, Variable] = {}
    add = plain.add_variable_from_reference

    def noted(reference_variable: Variable, *arguments: Any, **settings: Any) -> Variable:
        made: Variable = add(reference_variable, *arguments, **settings)
        slots[id(made)] = reference_variable
        return made

    vars(plain)["add_variable_from_reference"] = noted
    try:
        optimizer.build(list(variables))
    finally:
        del vars(plain)["add_variable_from_reference"]
    return slots


def _shape(weight: Variable, places: Places) -> tuple[int, ...] | None:
    """What is left of a weight of this shape; None for one that has not these places."""
    if any(kept.max(initial=0) >= weight.shape[axis] for axis, kept in places.items()):
        return None
    return tuple(len(places[axis]) if axis in places else size for axis, size in enumerate(weight.shape))

"""Pruning in a training of the user's own: an optimizer that prunes, what came of it, and a callback that logs it."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.formats.pattern import Pattern
from edgeprune.host.toml_values import check_choice, near
from edgeprune.ledger import PruneReport
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import Model, Optimizer
from edgeprune.maker.pruning.magnitude import report_sparsity, select_targets
from edgeprune.maker.pruning.options import MagnitudeOptions, check_sr_ste, sparsity_of
from edgeprune.maker.pruning.schedule import SCHEDULES, ConstantSparsity, PolynomialDecay, Schedule
from edgeprune.maker.pruning.sparse_masks import Masks, SparsePlan
from edgeprune.maker.pruning.sparse_optimizer import (
    copy_state,
    inner_optimizer,
    make_sparse,
    plain_optimizer,
    with_loss_scaling,
)
from edgeprune.maker.training.distiller import trained_model
from edgeprune.report.pruning import zeros_lines

__all__ = ["SparsityLogger", "finalize", "sparse", "sparsity_report"]

BEFORE_TRAINING = {
    "symmetric_padding": "prune_magnitude(model, options) with sparsity 0 gives a model that is padded so",
    "permute": "reorder_channels(model, '2:4') gives a model that computes the same",
    "score": "prune_magnitude(model, options, samples=...) scores in one shot",
}


def sparse(
    optimizer: Optimizer | str,
    *,
    sparsity: float | str | Pattern | None = None,
    begin: int = 0,
    end: int | None = None,
    schedule: str | Schedule = "polynomial",
    initial_sparsity: float = 0.0,
    power: float = 3.0,
    frequency: int = 10,
    hold: bool = False,
    sr_ste: float = 0.0,
    model: Model | None = None,
    **choice: Any,
) -> Optimizer:
    """An optimizer like this one that also prunes what it trains; the argument is left alone.

    Sparsity grows from step `begin` on and is whole at step `end`, counted in updates from now; `schedule` is
    "polynomial", "constant" or a schedule with steps of its own. `sparsity` is a fraction or a pattern, "2:4": of what
    a pattern removes the smallest weights go first, and at `end` it is whole; with a decay `sr_ste` (2e-4, say) they
    train on behind their zeros until then and may come back. With `hold` the zeros that are there stay, and nothing
    else is pruned. `choice` takes what MagnitudeOptions takes (scope, include, exclude, keep_first, ...).
    `model` is whose kernels are pruned: the one that is compiled with the optimizer, or whose variables it is given.
    """
    plain = keras_module(any_backend=True).optimizers.get(optimizer)
    if inner_optimizer(plain) is not None:
        raise UsageError("the optimizer prunes already: call edgeprune.sparse once, on a plain optimizer")
    if hold and (sparsity is not None or end is not None):
        raise UsageError("hold only keeps the zeros that are there: leave out sparsity and end, or hold")
    if not hold and sparsity is None and isinstance(schedule, str):
        raise UsageError(
            "sparsity is the fraction of weights to remove: edgeprune.sparse(optimizer, sparsity=0.8, ...)"
        )
    asked = None if sparsity is None else sparsity_of(sparsity)
    fraction = asked.sparsity if isinstance(asked, Pattern) else asked or 0.0
    wanted = None if hold else _schedule(schedule, fraction, begin, end, initial_sparsity, power, frequency)
    choice = {"prune_depthwise": True, **choice} if hold else choice
    options = _options(asked if isinstance(asked, Pattern) else wanted.final_sparsity if wanted else 0.0, choice)
    if wanted is not None and wanted.final_sparsity != options.fraction:
        raise UsageError(f"the schedule ends at {wanted.final_sparsity:g}, {options.pattern} at {options.fraction:g}")
    check_sr_ste(sr_ste, options)
    if sr_ste and (wanted is None or wanted.end_step <= wanted.begin_step):
        raise UsageError("with sr_ste removed weights train until the schedule's end: edgeprune.sparse(..., end=2000)")
    since = int(np.asarray(plain.iterations)) if plain.built else 0
    made = make_sparse(plain, SparsePlan(options=options, schedule=wanted, since=since, sr_ste=sr_ste), model)
    return copy_state(plain, made) if plain.built else made


def _options(sparsity: float | Pattern, choice: dict[str, Any]) -> MagnitudeOptions:
    known = [name for name in MagnitudeOptions.__slots__ if name not in ("sparsity", *BEFORE_TRAINING)]
    for name in choice:
        if name in BEFORE_TRAINING:
            raise UsageError(f"{name} is for before the training: {BEFORE_TRAINING[name]}, then edgeprune.sparse")
        if name not in known:
            raise UsageError(f"edgeprune.sparse has no option {name!r}{near(name, known)}")
    choice |= {name: tuple(choice[name]) for name in ("include", "exclude") if name in choice}
    return MagnitudeOptions(sparsity=sparsity, **choice)


def _schedule(
    schedule: str | Schedule,
    sparsity: float,
    begin: int,
    end: int | None,
    initial_sparsity: float,
    power: float,
    frequency: int,
) -> Schedule:
    if not isinstance(schedule, str):
        return schedule
    check_choice("schedule", schedule, SCHEDULES)
    if schedule == "constant":
        last = begin if end is None else end
        return ConstantSparsity(final_sparsity=sparsity, begin_step=begin, end_step=last, frequency=frequency)
    if end is None:
        raise UsageError("end is the step at which the whole sparsity is reached: edgeprune.sparse(..., end=2000)")
    return PolynomialDecay(
        final_sparsity=sparsity,
        initial_sparsity=initial_sparsity,
        begin_step=begin,
        end_step=end,
        power=power,
        frequency=frequency,
    )


def sparsity_report(model: Model, optimizer: Optimizer | None = None) -> PruneReport:
    """Asked and got of the model's kernels as they are now; `optimizer`, if the model is not compiled with it."""
    masks = _masks(model, optimizer)
    return report_sparsity(masks.targets, masks.skipped, masks.plan.options)


def finalize(model: Model, *, optimizer: Optimizer | None = None, quiet: bool = False) -> Model:
    """The same model, with the zeros checked and the report printed unless `quiet`.

    It is compiled with the plain optimizer from then on, state and all, so that its file opens without edgeprune.
    `optimizer` is the one that pruned, for a loop of your own. Raises EdgepruneError where nothing was trained.
    """
    masks = _masks(model, optimizer)
    lines = [*zeros_lines(report_sparsity(masks.targets, masks.skipped, masks.plan.options)), *_doubts(masks)]
    if masks.plan.schedule is None:
        lines[0] = f"zeros held: {lines[0].split('got ')[1]}"
    if not quiet:
        sys.stdout.write("\n".join(lines) + "\n")
    if inner_optimizer(getattr(model, "optimizer", None)) is not None:
        _set_plain(model)
    return model


def _masks(model: Model, optimizer: Optimizer | None) -> Masks:
    """The masks of the model's optimizer. Raises UsageError or EdgepruneError for an optimizer that pruned nothing."""
    found = inner_optimizer(optimizer or getattr(model, "optimizer", None))
    if found is None:
        raise UsageError(
            "the model is not compiled with an optimizer of edgeprune.sparse(...); in a loop of your own, say which "
            "one it was: edgeprune.finalize(model, optimizer=optimizer)"
        )
    masks: Masks | None = found.masks
    if masks is None or masks.completed() == 0:
        raise EdgepruneError("nothing was pruned: the optimizer has not made a step; train with it first")
    own = {id(weight) for weight in model.weights}
    if not all(id(target.variable) in own for target in masks.targets):
        raise UsageError("the optimizer pruned another model: make one for each model with edgeprune.sparse(...)")
    return masks


def _doubts(masks: Masks) -> list[str]:
    """What the reader must be told: a schedule that was not done, zeros that are gone."""
    lines, step, schedule = [], masks.completed(), masks.plan.schedule
    if schedule is not None and step < schedule.begin_step:
        lines.append(
            f"not pruned: the schedule begins at step {schedule.begin_step:,}, training ended at step {step:,}"
        )
    elif schedule is not None and step < schedule.end_step:
        lines.append(
            f"not done: the schedule ends at step {schedule.end_step:,}, training ended at step {step:,}: train on, "
            "or set end lower"
        )
    gone = {
        target.layer: int(np.count_nonzero(np.asarray(target.variable)[~np.asarray(masks.variables[target.key])]))
        for target in masks.targets
    }
    if any(gone.values()):
        where = ", ".join(layer for layer, count in gone.items() if count)
        lines.append(
            f"{sum(gone.values()):,} weights that were pruned are not zero, in {where}: were earlier weights "
            "loaded (restore_best_weights)? Keep only those from the schedule's end on"
        )
    return lines


def _set_plain(model: Any) -> None:
    """Compile the model's plain optimizer in place of the one that prunes, with its state."""
    pruning, inner = model.optimizer, inner_optimizer(model.optimizer)
    assert inner is not None
    plain = plain_optimizer(inner)
    model.optimizer = copy_state(pruning, plain if pruning is inner else with_loss_scaling(pruning, plain))
    config = getattr(model, "_compile_config", None)
    if config is not None:
        config.config["optimizer"] = plain if config.config["optimizer"] is inner else model.optimizer
    model.train_function = None


class SparsityLogger:
    """A callback that writes the sparsity of the pruned kernels into the logs of each epoch, with `layers` of each too.

    Put it before CSVLogger and TensorBoard. Without edgeprune.sparse it logs every prunable kernel.
    """

    model: Any

    def __new__(cls, *_: object, **__: object) -> Any:
        """An instance of a class that derives from Keras's too: this module does not import Keras."""
        kind: Any = cls
        return object.__new__(_as_callback(kind))

    def __init__(self, *, layers: bool = False) -> None:
        super().__init__()
        self.layers = layers

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Add "sparsity" to the logs, and "sparsity/KERNEL" for each."""
        if logs is None:
            return
        inner, options = inner_optimizer(self.model.optimizer), MagnitudeOptions(sparsity=0.0)
        targets = inner.masks.targets if inner is not None else select_targets(trained_model(self.model), options)[0]
        report = report_sparsity(targets, (), options)
        logs["sparsity"] = report.got
        if self.layers:
            logs.update({f"sparsity/{row.key}": row.got for row in report.layers})


@functools.cache
def _as_callback(kind: Any) -> type:
    return type(kind.__name__, (kind, keras_module(any_backend=True).callbacks.Callback), {"__module__": __name__})

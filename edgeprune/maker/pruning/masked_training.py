"""Prune while training and fine-tune, with the samples and options of a recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from edgeprune.errors import UsageError
from edgeprune.ledger import TrainLog
from edgeprune.maker.keras.models import clone, keras_module, output_shapes
from edgeprune.maker.keras.types import Model, Optimizer, Tensor
from edgeprune.maker.pruning.magnitude import PruneResult, ready_to_prune, report_sparsity, select_targets
from edgeprune.maker.pruning.options import MagnitudeOptions, check_sr_ste
from edgeprune.maker.pruning.schedule import Schedule
from edgeprune.maker.pruning.sparse_masks import HOLD, SparsePlan
from edgeprune.maker.pruning.sparse_optimizer import make_sparse, masks_of
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.targets import fitting_targets
from edgeprune.maker.training.features import Kept
from edgeprune.maker.training.goals import Asked, find_task
from edgeprune.maker.training.loop import OnProgress, train
from edgeprune.maker.training.options import TrainOptions
from edgeprune.maker.training.task import Task

__all__ = ["finetune", "prune_while_training"]


def finetune(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    task: Task,
    options: TrainOptions,
    *,
    teacher: Model | None = None,
    kept: Kept | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Model, TrainLog]:
    """A fine-tuned copy. Zeros of kernels stay zeros; the argument is left alone.

    With `options.distill` the `teacher` (a model with the same inputs and outputs) gives that share of the targets;
    `kept` is as for `train`.
    """
    tuned = clone(model)
    log = train(
        tuned,
        samples,
        validation,
        task,
        options,
        teacher=teacher,
        kept=kept,
        sparsify=lambda optimizer: make_sparse(optimizer, HOLD, tuned),
        on_progress=on_progress,
    )
    return tuned, log


def prune_while_training(
    model: Model,
    pruning: MagnitudeOptions,
    schedule: Schedule,
    samples: Samples,
    validation: Samples | None,
    metric: Asked | None,
    options: TrainOptions,
    *,
    settled_step: int,
    sr_ste: float = 0.0,
    teacher: Model | None = None,
    kept: Kept | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[PruneResult, TrainLog]:
    """A copy whose sparsity follows `schedule` while it trains; the argument is left alone. Zeros that kernels have
    before, also those that this does not prune, stay zeros.

    Under a pattern the least of what it removes goes first, and at the schedule's end it is whole; with a decay
    `sr_ste` what is removed trains on until then and may come back.

    `metric` is as for `finetune`. `settled_step` is the step from which the final sparsity holds; only weights from
    then on are kept as best.
    """
    if pruning.needs_data:
        raise UsageError("wanda scores in one shot: prune_magnitude(model, options, samples=...), then finetune")
    check_sr_ste(sr_ste, pruning)
    task = find_task(model, metric, trains=True)
    shapes = output_shapes(model)
    samples = fitting_targets(samples, shapes, task)
    validation = None if validation is None else fitting_targets(validation, shapes, task)
    pruned, reordering, padded = ready_to_prune(model, pruning)
    plan = SparsePlan(options=pruning, schedule=schedule, prune_frozen=True, sr_ste=sr_ste)
    made: list[Optimizer] = []  # where a teacher helps it is no optimizer of the model's own

    def sparsify(optimizer: Optimizer) -> Optimizer:
        made.append(make_sparse(optimizer, plan, pruned))
        return made[-1]

    with zeros_held(pruned):
        log = train(
            pruned,
            samples,
            validation,
            task,
            options,
            teacher=teacher,
            kept=kept,
            sparsify=sparsify,
            keep_best_from_step=settled_step,
            on_progress=on_progress,
        )
    masks = masks_of(made[-1])
    report = replace(report_sparsity(masks.targets, masks.skipped, pruning, reordering), padded=padded)
    left = {key: np.asarray(variable) for key, variable in masks.variables.items()}
    return PruneResult(model=pruned, masks=left, report=report), log


@contextlib.contextmanager
def zeros_held(model: Model) -> Iterator[None]:
    """While this is open, an optimizer that updates the kernels of the model leaves their zeros as they are.

    The masks of a schedule know only what it removed itself. On TensorFlow: each zero is part of the traced step.
    """
    targets, _ = select_targets(model, HOLD.options)
    own = [(target.variable, target.variable.constraint) for target in targets]
    for variable, constraint in own:
        kept = np.asarray(variable) != 0
        if not kept.all():
            variable.constraint = _Held(kept, constraint)
    try:
        yield
    finally:
        for variable, constraint in own:
            variable.constraint = constraint


class _Held:
    """A constraint of a variable: what its own one makes of the weights, and +0.0 where `kept` is False."""

    def __init__(self, kept: np.ndarray, own: Any) -> None:
        self.kept, self.own = kept, own

    def __call__(self, weights: Tensor) -> Tensor:
        ops = keras_module(any_backend=True).ops
        made = weights if self.own is None else self.own(weights)
        return ops.where(self.kept, made, ops.zeros_like(made))

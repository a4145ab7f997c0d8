"""Keep pruned weights at zero while a model trains.

Keras 3's optimizer applies a variable's constraint right after each update, inside the compiled step. A mask set as
that constraint holds the zeros exactly, changes nothing in the model and leaves nothing to strip afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType

import numpy as np

from edgeprune.ledger import TrainLog
from edgeprune.maker.keras.models import clone, keras_module
from edgeprune.maker.keras.types import Model, Tensor, Variable
from edgeprune.maker.pruning.magnitude import (
    PruneResult,
    Target,
    apply_masks,
    masks_for,
    nonzero_masks,
    report_sparsity,
    select_targets,
)
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.pruning.schedule import Schedule
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.loop import OnProgress, train
from edgeprune.maker.training.metrics import Metric, find_metric
from edgeprune.maker.training.options import TrainOptions

__all__ = ["finetune", "held", "prune_while_training"]


class _Mask:
    """A constraint: the weight where the mask is True, +0.0 elsewhere; after the variable's own constraint, if any."""

    def __init__(self, keras: ModuleType, mask: np.ndarray, own: Callable[[Tensor], Tensor] | None) -> None:
        self._ops, self._own = keras.ops, own
        self.mask = keras.Variable(mask, dtype="bool", trainable=False, name="mask")

    def __call__(self, weights: Tensor) -> Tensor:
        allowed = self._own(weights) if self._own else weights
        return self._ops.where(self.mask, allowed, self._ops.zeros_like(allowed))


@contextlib.contextmanager
def held(targets: Sequence[Target], masks: Mapping[str, np.ndarray]) -> Iterator[dict[str, Variable]]:
    """Hold the masked weights at zero inside the context. Yields the mask variables, which may be assigned anew."""
    keras = keras_module()
    before = [(target.variable, target.variable.constraint) for target in targets if target.key in masks]
    variables = {}
    try:
        for target in targets:
            if target.key in masks:
                target.variable.constraint = mask = _Mask(keras, masks[target.key], target.variable.constraint)
                variables[target.key] = mask.mask
        yield variables
    finally:
        for variable, constraint in before:
            variable.constraint = constraint


def finetune(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    metric: Metric,
    options: TrainOptions,
    *,
    teacher: Model | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Model, TrainLog]:
    """A fine-tuned copy. Zeros of kernels stay zeros; the argument is left alone.

    With `options.distill` the `teacher` (a model with the same inputs and outputs) gives that share of the targets.
    """
    tuned = clone(model)
    targets, _ = select_targets(tuned, MagnitudeOptions(sparsity=0.0, prune_depthwise=True))
    with held(targets, nonzero_masks(targets)):
        log = train(tuned, samples, validation, metric, options, teacher=teacher, on_progress=on_progress)
    return tuned, log


def prune_while_training(
    model: Model,
    pruning: MagnitudeOptions,
    schedule: Schedule,
    samples: Samples,
    validation: Samples | None,
    metric: Metric | str,
    options: TrainOptions,
    *,
    settled_step: int,
    teacher: Model | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[PruneResult, TrainLog]:
    """A copy whose sparsity follows `schedule` while it trains; the argument is left alone.

    `settled_step` is the step from which the final sparsity holds; only weights from then on are kept as best.
    """
    pruned = clone(model)
    targets, skipped = select_targets(pruned, pruning)
    dense = {t.key: np.ones(t.variable.shape, dtype=bool) for t in targets}
    current: dict[str, np.ndarray] = dict(dense)
    with held(targets, dense) as variables:

        def renew(step: int) -> None:
            if not schedule.renews_at(step):
                return
            kernels = {t.key: np.asarray(t.variable) for t in targets}
            current.update(masks_for(kernels, schedule.sparsity_at(step), pruning.scope))
            for key, variable in variables.items():
                variable.assign(current[key])
            apply_masks(targets, current)

        log = train(
            pruned,
            samples,
            validation,
            find_metric(metric),
            options,
            teacher=teacher,
            on_step=renew,
            keep_best_from_step=settled_step,
            on_progress=on_progress,
        )
    report = report_sparsity(targets, skipped, pruning)
    return PruneResult(model=pruned, masks=current, report=report), log

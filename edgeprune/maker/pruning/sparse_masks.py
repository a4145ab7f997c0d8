"""The masks of an optimizer that prunes: variables of it, renewed by a schedule and applied after each update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeprune.errors import UsageError
from edgeprune.ledger import SkippedLayer
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import Model, Optimizer, Tensor, Variable
from edgeprune.maker.pruning.graph_masks import largest_masks
from edgeprune.maker.pruning.layouts import Layout
from edgeprune.maker.pruning.magnitude import Target, kept_count, masks_of, nothing_to_prune, select_targets
from edgeprune.maker.pruning.options import MagnitudeOptions, sparsity_of
from edgeprune.maker.pruning.pattern_masks import protected
from edgeprune.maker.pruning.schedule import SCHEDULES, Schedule

__all__ = ["HOLD", "Masks", "SparsePlan"]

MOST_COUNTS = 5_000_000  # renewals times kernels; 20 MB
FROZEN = "not trained by this optimizer (trainable = False)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsePlan:
    """What an optimizer prunes. Without a schedule it holds the zeros that are there at the first step.

    `since` is the optimizer's count of steps when the plan began. `prune_frozen` prunes kernels too that the optimizer
    does not train. With a decay `sr_ste` the weights behind the zeros of a pattern train on until the schedule's end,
    by the gradients at the masked weights plus this share of themselves (Zhou et al. 2021, arXiv:2102.04010).
    """

    options: MagnitudeOptions
    schedule: Schedule | None
    since: int = 0
    prune_frozen: bool = False
    sr_ste: float = 0.0

    @property
    def starts_sparse(self) -> bool:
        """Whether there are zeros before the first update."""
        schedule = self.schedule
        return schedule is None or (schedule.begin_step == 0 and schedule.sparsity_at(0) > 0)

    def as_config(self) -> dict[str, Any]:
        """The plan in JSON."""
        names = {kind: name for name, kind in SCHEDULES.items()}
        schedule = self.schedule and {"kind": names[type(self.schedule)], **asdict(self.schedule)}
        asked = self.options.sparsity
        return {
            "options": {**asdict(self.options), "sparsity": str(asked) if self.options.pattern else asked},
            "schedule": schedule,
            "since": self.since,
            "prune_frozen": self.prune_frozen,
            "sr_ste": self.sr_ste,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SparsePlan:
        """The plan that `as_config` wrote."""
        options, schedule = dict(config["options"]), config["schedule"] and dict(config["schedule"])
        options |= {name: tuple(options[name]) for name in ("include", "exclude")}
        options["sparsity"] = sparsity_of(options["sparsity"])
        return cls(
            options=MagnitudeOptions(**options),
            schedule=SCHEDULES[schedule.pop("kind")](**schedule) if schedule else None,
            since=config["since"],
            prune_frozen=config["prune_frozen"],
            sr_ste=config.get("sr_ste", 0.0),  # files of earlier versions have none
        )


HOLD = SparsePlan(options=MagnitudeOptions(sparsity=0.0, prune_depthwise=True), schedule=None, prune_frozen=True)
"""The zeros of every kernel stay."""


class Masks:
    """The masks of one optimizer: the kernels, a variable for each, and when they are renewed."""

    def __init__(self, optimizer: Optimizer, plan: SparsePlan, model: Model) -> None:
        self.plan, self._keras, self._optimizer = plan, keras_module(any_backend=True), optimizer
        self.targets, self.skipped = _select(optimizer, plan, model)
        if not self.targets and plan.schedule is not None:
            raise UsageError(nothing_to_prune(self.skipped, plan.options))
        self.variables = {t.key: _mask_variable(optimizer, t) for t in self.targets}
        behind = self.targets if plan.sr_ste else ()
        self.behind = {t.key: _variable_behind(optimizer, t) for t in behind if optimizer.trains(t.variable)}
        self._renewed = optimizer.add_variable(
            (), initializer="zeros", dtype="int32", aggregation="only_first_replica", name="masks_renewed"
        )  # how many renewals of the schedule are done
        steps = plan.schedule.renewals() if plan.schedule else ()
        self._steps = np.array(steps, np.int32)
        self._removed = _removed_counts(plan, [t.variable for t in self.targets], steps)

    @property
    def state(self) -> list[Variable]:
        """The variables of the optimizer that are these masks'."""
        return [*self.variables.values(), *self.behind.values(), self._renewed]

    def completed(self) -> int:
        """Completed steps since the plan began; outside of any graph."""
        return int(np.asarray(self._keras.ops.convert_to_numpy(self.step())))

    def begin(self) -> None:
        """The masks of step 0, before the first batch; outside of any graph."""
        plan = self.plan
        if not self.targets or not plan.starts_sparse:
            return
        kernels = {t.key: np.asarray(t.variable) for t in self.targets}
        masks = masks_of(self.targets, kernels, plan.options, plan.schedule.sparsity_at(0)) if plan.schedule else None
        for target in self.targets:
            weights = kernels[target.key]
            mask = weights != 0 if masks is None else masks[target.key]
            self.variables[target.key].assign(mask)
            if target.key in self.behind:
                self.behind[target.key].assign(weights)
            target.variable.assign(np.where(mask, weights, np.zeros((), weights.dtype)))

    def before_update(self) -> None:
        """Masks of step 0 again, from the weights that are there now: some may have been loaded since `begin`."""
        if self.targets and self.plan.starts_sparse:
            self._assign(self._keras.ops.equal(self.step(), 0), lambda: self._masks_of(0))

    def straight_through(self, grads: Sequence[Any], variables: Sequence[Variable]) -> list[Any]:
        """The weights behind the zeros back in place for the update, and gradients that draw them to zero."""
        ops, made = self._keras.ops, list(grads)
        places = {id(variable): place for place, variable in enumerate(variables)}
        going = ops.less(self.step(), self.plan.schedule.end_step if self.plan.schedule else 0)
        for target in self.targets:
            place = places.get(id(target.variable))
            if target.key not in self.behind or place is None or made[place] is None:
                continue
            value = ops.convert_to_tensor(target.variable.value)
            hidden = ops.logical_and(going, ops.logical_not(self.variables[target.key].value))
            whole = ops.where(hidden, ops.cast(self.behind[target.key].value, value.dtype), value)
            pull = ops.where(hidden, whole * self.plan.sr_ste, ops.zeros_like(whole))
            made[place] = ops.add(made[place], ops.cast(pull, made[place].dtype))
            target.variable.assign(whole)
        return made

    def after_update(self) -> None:
        """Renew the masks if they are due after this step, and write +0.0 where they are False."""
        if not self.targets:
            return
        ops = self._keras.ops
        if len(self._steps):
            reached = ops.sum(ops.cast(ops.less_equal(self._steps, self.step()), "int32"))
            due = ops.logical_and(reached > self._renewed.value, self._is_updated())
            self._assign(due, lambda: self._masks_of(ops.maximum(reached - 1, 0)))
            self._renewed.assign(ops.where(due, reached, self._renewed.value))
        for target in self.targets:
            if target.key in self.behind:
                self.behind[target.key].assign(ops.convert_to_tensor(target.variable.value))
        self.write_zeros()

    def write_zeros(self) -> None:
        """+0.0 where a mask is False, also in the moving averages of the weights that the optimizer keeps."""
        averages = getattr(self._optimizer, "_model_variables_moving_average", ()) if self._optimizer.use_ema else ()
        for target in self.targets:
            mask = self.variables[target.key].value
            masked = [target.variable]
            if averages and self._optimizer.trains(target.variable):
                masked.append(averages[self._optimizer._get_variable_index(target.variable)])
            for variable in masked:
                value = self._keras.ops.convert_to_tensor(variable.value)
                variable.assign(self._keras.ops.where(mask, value, self._keras.ops.zeros_like(value)))

    def step(self) -> Tensor:
        """Completed steps since the plan began, int32."""
        return self._keras.ops.cast(self._optimizer.iterations, "int32") - self.plan.since

    def _is_updated(self) -> Tensor:
        """Whether this call of `apply` updated the weights: of accumulated gradients only the last does."""
        every = self._optimizer.gradient_accumulation_steps or 1
        return self._keras.ops.equal(self._keras.ops.cast(self._optimizer._iterations, "int32") % every, 0)

    def _assign(self, due: Tensor, masks: Any) -> None:
        """Masks where they are due. (Assigned outside the branches: JAX has no side effects inside them.)"""
        current = [self.variables[target.key] for target in self.targets]
        for variable, mask in zip(
            current, self._keras.ops.cond(due, masks, lambda: [v.value for v in current]), strict=True
        ):
            variable.assign(mask)

    def _masks_of(self, row: Any) -> list[Tensor]:
        """The masks of this renewal for the weights as they are."""
        ops = self._keras.ops
        kernels = [ops.stop_gradient(ops.convert_to_tensor(t.variable.value)) for t in self.targets]
        if self.plan.schedule is None:
            return [ops.not_equal(kernel, 0) for kernel in kernels]
        options = self.plan.options
        if self._keras.backend.backend() == "torch":  # runs step by step, and its histograms are slow
            sparsity = self.plan.schedule.sparsity_at(int(self._steps[int(row)]))
            arrays = {t.key: ops.convert_to_numpy(kernel) for t, kernel in zip(self.targets, kernels, strict=True)}
            masks = masks_of(self.targets, arrays, options, sparsity)
            return [ops.convert_to_tensor(masks[target.key]) for target in self.targets]
        if options.pattern is not None:
            layouts = [target.layout for target in self.targets if isinstance(target.layout, Layout)]
            pairs = zip(kernels, layouts, strict=True)
            kernels = [protected(self._keras, kernel, layout, options.pattern) for kernel, layout in pairs]
        removed = ops.take(ops.convert_to_tensor(self._removed), row, axis=0)
        return largest_masks(self._keras, kernels, removed, together=options.scope == "global")


def _select(optimizer: Optimizer, plan: SparsePlan, model: Model) -> tuple[list[Target], list[SkippedLayer]]:
    """The kernels that the optimizer prunes, and each layer left dense with the reason."""
    targets, skipped = select_targets(model, plan.options)
    if plan.prune_frozen:
        return targets, skipped
    frozen = [t for t in targets if not optimizer.trains(t.variable)]
    skipped += [
        SkippedLayer(layer=t.layer, kind=t.kind, parameters=int(np.prod(t.variable.shape)), reason=FROZEN)
        for t in frozen
    ]
    return [t for t in targets if optimizer.trains(t.variable)], skipped


def _mask_variable(optimizer: Optimizer, target: Target) -> Variable:
    return optimizer.add_variable(
        target.variable.shape,
        initializer="ones",
        dtype="bool",
        aggregation="only_first_replica",
        name=f"{target.key.replace('/', '_').replace('#', '_')}_mask",
    )


def _variable_behind(optimizer: Optimizer, target: Target) -> Variable:
    """The weights of a kernel as they would be without the mask."""
    made: Variable = optimizer.add_variable_from_reference(target.variable, name="behind_mask")
    return made


def _removed_counts(plan: SparsePlan, kernels: Sequence[Variable], steps: Sequence[int]) -> np.ndarray:
    """int32 [renewals, kernels] (one column under scope "global"): how many weights each renewal removes.

    Counted here, in Python: float32 in the step would be off by a weight in a large kernel.
    """
    sizes = [int(np.prod(kernel.shape)) for kernel in kernels]
    groups = [sum(sizes)] if plan.options.scope == "global" else sizes
    if len(steps) * len(groups) > MOST_COUNTS:
        raise UsageError(f"the schedule renews the masks {len(steps):,} times: give a larger frequency")
    assert plan.schedule is not None or not steps
    rows = [[n - kept_count(n, plan.schedule.sparsity_at(step)) for n in groups] for step in steps if plan.schedule]
    return np.array(rows, np.int32).reshape(len(steps), len(groups))

"""Who did the damage: what comes back when one step, or one layer, of a finished run is undone. Nothing is trained.

How things are undone:

- a pruning step, or the zeros of one layer: the weights that it made zero get the values that they had before it; all
  others stay as they were trained since. Where something was trained since, batch normalization is estimated again.
- int8: the model in float; of one layer by `converters/sensitivity.py`, that layer in float and all others integers.
- a channel or finetune step, and pruning that a channel step follows: the model before it, with the later steps in one
  shot; what a later training won is missing then, so it says what the step and all training behind it are worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.artifact import Format, Precision
from edgeprune.converters.sensitivity import cost_of_quantizing
from edgeprune.converters.session import Converter
from edgeprune.converters.spending import Judge
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.host.progress import Progress
from edgeprune.ledger import Blame, MetricChange, Undone
from edgeprune.maker.keras.models import clone, input_specs, predict, predictor
from edgeprune.maker.keras.types import Model
from edgeprune.maker.recipe.entries import metric_kind
from edgeprune.maker.recipe.kept import Mask, kernel_layers, zero_places
from edgeprune.maker.recipe.model_steps import ModelSteps
from edgeprune.maker.recipe.prepare import Prepared
from edgeprune.maker.recipe.recipe import (
    ChannelStep,
    PruneStep,
    QatStep,
    QuantizeStep,
    Step,
    student_step,
)
from edgeprune.maker.recipe.steps import training_of
from edgeprune.maker.training.bootstrap import compared
from edgeprune.maker.training.data.loading import calibration_set
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.norms import NormStatistics
from edgeprune.maker.training.task import Arrays

__all__ = ["blamed"]

REFILLED = "its zeros hold the weights from before it again"
IN_FLOAT = "not quantized"
RERUN = "left out; later steps in one shot, without their training"
NEW_MODEL = "the student took the model's place here or later"


def blamed(
    prepared: Prepared, models: Mapping[str, Model], converter: Converter, progress: Progress, samples: Samples
) -> Blame:
    """What each step and each layer of a run cost on `samples`, which have targets.

    `models` are those behind each stage by its name, "dense" among them. Raises UsageError for samples without targets,
    and MissingExtra where an int8 step was run and no runtime is installed.
    """
    return _Blame(prepared, models, converter, progress, samples).found()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pruned:
    """What a pruning step made zero: places by the kernel's place among the weights, and the model before."""

    step: PruneStep
    places: Mapping[int, Mask]
    before: Model


class _Blame:
    """One question after the other about one run; what was computed once is kept."""

    def __init__(
        self,
        prepared: Prepared,
        models: Mapping[str, Model],
        converter: Converter,
        progress: Progress,
        samples: Samples,
    ) -> None:
        self.prepared, self.recipe, self.models = prepared, prepared.recipe, dict(models)
        self.converter, self.progress, self.samples = converter, progress, samples
        if not samples.told:
            raise UsageError(f"{samples.path}: blame needs targets there; add them")
        self.main = prepared.task.main
        self.steps: tuple[Step, ...] = self._of_this_model()
        self.last = self.models[self.recipe.steps[-1].name] if self.recipe.steps else prepared.model
        self.quantize = next((s for s in self.steps if isinstance(s, QuantizeStep)), None)
        self.pruned = {found.step.name: found for found in self._refillable()}
        self._made: dict[frozenset[str], Arrays] = {}
        self._judge = Judge.of(prepared.model, samples, self.main)

    def found(self) -> Blame:
        told, undoable = self.samples.told, self._undoable()
        self.progress.begin("blame: the whole stack")
        dense = predict(self.prepared.model, self.samples.inputs)
        stack = compared(self.main, dense, self._stack(undoable), told)[1]
        self.progress.end(f"{self.main.name} {stack.before:.4f} -> {stack.before + stack.difference:.4f}")
        steps = tuple(self._step(step, undoable) for step in self.recipe.steps)
        rest = self._loss(stack.before, self._stack([])) if undoable else None
        alone = [step.alone for step in steps if step.alone is not None]
        whole = self._worse(stack.before, stack.before + stack.difference)
        return Blame(
            metric=metric_kind(self.main),
            data=self.samples.path.name,
            samples=len(self.samples),
            stack=stack,
            steps=steps,
            layers=self._layers(),
            rest=rest,
            compounding=None if rest is None else whole - rest - sum(alone),
            notes=tuple(self._notes()),
        )

    def _of_this_model(self) -> tuple[Step, ...]:
        """The steps that the last model went through itself, behind the training of a student."""
        begins = student_step(self.recipe)
        steps = self.recipe.steps
        return steps if begins is None else steps[steps.index(begins) + 1 :]

    def _before(self, step: Step) -> Model:
        number = self.recipe.steps.index(step)
        return self.models[self.recipe.steps[number - 1].name] if number else self.prepared.model

    def _behind(self, step: Step) -> tuple[Step, ...]:
        return self.recipe.steps[self.recipe.steps.index(step) + 1 :]

    def _refillable(self) -> list[_Pruned]:
        """Pruning steps whose kernels have the same shape and order to the end."""
        found = []
        for step in self.steps:
            moves = any(isinstance(later, ChannelStep) or _reorders(later) for later in self._behind(step))
            if not isinstance(step, PruneStep) or moves or _reorders(step):
                continue
            before, after = zero_places(self._before(step)), zero_places(self.models[step.name])
            places = {n: mask & ~before[n] if n in before else mask for n, mask in after.items()}
            found.append(_Pruned(step=step, places=places, before=self._before(step)))
        return found

    def _undoable(self) -> list[str]:
        """The steps that can be undone in the last model, in any choice."""
        return [*self.pruned, *([self.quantize.name] if self.quantize else [])]

    # Models and what they make

    def _stack(self, applied: Sequence[str]) -> Arrays:
        """What the last model makes of the samples with these of the undoable steps, and the others undone."""
        key = frozenset(applied)
        if key not in self._made:
            undone = [found for name, found in self.pruned.items() if name not in key]
            quantize = self.quantize if self.quantize and self.quantize.name in key else None
            self._made[key] = self._outputs(self._refilled(undone), quantize)
        return self._made[key]

    def _refilled(self, undone: Sequence[_Pruned]) -> Model:
        """The last model with the zeros of these steps filled with the weights from before them."""
        if not undone:
            return self.last
        model = clone(self.last)
        _refill(model, undone)
        norms = self._norms(model, undone)
        if norms is not None:
            norms.renew()
        return model

    def _norms(self, model: Model, undone: Sequence[_Pruned]) -> NormStatistics | None:
        """What estimates batch normalization again, where something was trained since."""
        train = self.prepared.train
        if train is None or not any(self._trained_since(found.step) for found in undone):
            return None
        return NormStatistics(model, train, seed=self.recipe.seed)

    def _trained_since(self, step: Step) -> bool:
        return any(training_of(later) is not None for later in (step, *self._behind(step)))

    def _outputs(self, model: Model, quantize: QuantizeStep | None) -> Arrays:
        if quantize is None:
            return predict(model, self.samples.inputs)
        path = self.converter.scratch("blame.tflite")
        self.converter.export(
            model,
            path,
            Format.TFLITE,
            Precision(quantize.precision),
            io_type=quantize.io_type,
            calibration=self._calibration(quantize),
            float_fallback=quantize.float_fallback,
            per_tensor=quantize.per_tensor,
        )
        self._judge.check_runtime("undoing steps of an int8 file")
        return self._judge.made(path.read_bytes())

    def _calibration(self, step: QuantizeStep) -> Arrays:
        assert self.prepared.train is not None
        return calibration_set(self.prepared.train, input_specs(self.last), step.samples, self.recipe.seed)

    def _worse(self, before: float, after: float) -> float:
        return before - after if self.main.metric.higher_is_better else after - before

    def _loss(self, before: float, outputs: Arrays) -> float:
        return self._worse(before, self.main.of(outputs, self.samples.told))

    def _change(self, outputs: Arrays) -> MetricChange:
        return compared(self.main, self._stack(self._undoable()), outputs, self.samples.told)[1]

    # Steps

    def _step(self, step: Step, undoable: Sequence[str]) -> Undone:
        how = REFILLED if step.name in self.pruned else IN_FLOAT if step is self.quantize else RERUN
        row = Undone(step=step.name, layer=None, what="skipped", how=how, change=None)
        if step not in self.steps:
            return replace(row, reason=NEW_MODEL)
        self.progress.begin(f"blame: without {step.name}")
        if step.name in undoable:
            base = self.main.of(self._stack([]), self.samples.told)
            change = self._change(self._stack([name for name in undoable if name != step.name]))
            row = replace(row, change=change, alone=self._loss(base, self._stack([step.name])))
        else:
            row = self._rerun(step, row)
        self.progress.end(row.reason or "")
        return row

    def _rerun(self, step: Step, row: Undone) -> Undone:
        """The model before a step with the later steps in one shot."""
        runner = ModelSteps(self.prepared, Progress(quiet=True), self.converter)
        model = self._before(step)
        try:
            for later in self._behind(step):
                if isinstance(later, PruneStep):
                    model = runner.run(model, replace(later, training=None, backend="native")).model
                elif isinstance(later, ChannelStep):
                    model = runner.run(model, replace(later, training=None, rounds=1)).model
            return replace(row, change=self._change(self._outputs(model, self.quantize)))
        except EdgepruneError as cause:
            return replace(row, reason=f"the later steps do not go without it: {cause}")

    # Layers

    def _layers(self) -> tuple[Undone, ...]:
        found = [*self._dense_layers(), *self._float_layers()]
        return tuple(sorted(found, key=lambda row: -self._back(row)))

    def _back(self, row: Undone) -> float:
        assert row.change is not None
        return -self._worse(row.change.before, row.change.before + row.change.difference)

    def _dense_layers(self) -> list[Undone]:
        """Each layer with zeros, dense again; in float, so that nothing is converted."""
        undone, layers = list(self.pruned.values()), kernel_layers(self.last)
        names = list(
            dict.fromkeys(layers[n] for n in layers if any(found.places.get(n, _NONE).any() for found in undone))
        )
        if not names:
            return []
        model, rows = clone(self.last), []
        outputs_of, norms, weights = predictor(model), self._norms(model, undone), model.get_weights()
        self.progress.begin("blame: each layer dense")
        before = outputs_of(self.samples.inputs)
        for number, name in enumerate(names, start=1):
            _refill(model, undone, name)
            if norms is not None:
                norms.renew()
            change = compared(self.main, before, outputs_of(self.samples.inputs), self.samples.told)[1]
            model.set_weights(weights)
            steps = [f.step.name for f in undone if any(layers[n] == name and m.any() for n, m in f.places.items())]
            rows.append(Undone(step=", ".join(steps), layer=name, what="dense", how=REFILLED, change=change))
            self.progress.advance(number, len(names))
        self.progress.end()
        return rows

    def _float_layers(self) -> list[Undone]:
        """Each layer in float in an int8 file of the last model."""
        step = self.quantize
        if step is None or step.precision != Precision.INT8:
            return []
        self.progress.begin("blame: each layer in float")
        judge = self._judge.against(self.last)
        found = cost_of_quantizing(
            self.last, self.converter, self._calibration(step), judge, self.progress.advance, per_tensor=step.per_tensor
        )
        self.progress.end()
        how = "in float, all others int8"
        return [
            Undone(step=step.name, layer=cost.layer, what="float", how=how, change=cost.gain)
            for cost in found.layers
            if cost.gain is not None
        ]

    def _notes(self) -> list[str]:
        notes, step = [], self.quantize
        if step is not None and (step.searches or isinstance(step, QatStep)):
            what = "quantization-aware training" if isinstance(step, QatStep) else "a search (max_drop, spend)"
            notes.append(
                f"the run's {step.name} file came of {what}; here {step.precision} is plain post-training quantization "
                "of the last model"
            )
        if step is not None and step.precision != Precision.INT8:
            notes.append(f"layers are not undone one by one in {step.precision}, only in int8")
        return notes


_NONE = np.zeros(1, bool)


def _refill(model: Model, undone: Sequence[_Pruned], layer: str | None = None) -> None:
    """Write the weights from before these steps (of one layer) where they made zeros."""
    layers = kernel_layers(model)
    for found in undone:
        for place, mask in found.places.items():
            if layer is None or layers[place] == layer:
                variable = model.weights[place]
                variable.assign(np.where(mask, np.asarray(found.before.weights[place]), np.asarray(variable)))


def _reorders(step: Step) -> bool:
    """Whether a pruning step moves channels before it prunes."""
    return isinstance(step, PruneStep) and bool(getattr(step.options, "permute", False))

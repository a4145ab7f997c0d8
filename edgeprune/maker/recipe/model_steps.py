"""The steps of a recipe that change the model: prune it, remove channels, train it on. A new model comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.checker.latency.latency_targets import target_profile
from edgeprune.converters.rounded_places import PREPARATION
from edgeprune.converters.session import Converter
from edgeprune.host.progress import Progress
from edgeprune.ledger import ChannelReport, EqualizeReport, PruneReport, TrainLog
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.groups import Structure
from edgeprune.maker.pruning.channel.pruner import ChannelResult
from edgeprune.maker.pruning.channel.rounds import Train, composed, prune_in_rounds
from edgeprune.maker.pruning.channel.surgery import Places as KeptPlaces
from edgeprune.maker.pruning.magnitude import PruneResult, prune_magnitude
from edgeprune.maker.pruning.masked_training import finetune, prune_while_training
from edgeprune.maker.pruning.schedule import ConstantSparsity, PolynomialDecay
from edgeprune.maker.quantization.equalization import equalize
from edgeprune.maker.quantization.places import Places
from edgeprune.maker.quantization.training import Quantized, train_quantized
from edgeprune.maker.recipe.latency_search import prune_to_latency
from edgeprune.maker.recipe.prepare import Prepared, through_norms
from edgeprune.maker.recipe.recipe import ChannelStep, EqualizeStep, FinetuneStep, ModelStep, PruneStep, QatStep, Step
from edgeprune.maker.recipe.stages import REPORTS, Store, places_json, places_of, reports_json, reports_of
from edgeprune.maker.recipe.steps import teacher_file, teacher_of
from edgeprune.maker.recipe.tables import flat
from edgeprune.maker.training.frozen import frozen_note
from edgeprune.maker.training.loop import steps_per_epoch
from edgeprune.maker.training.options import TrainOptions
from edgeprune.report.pruning import equalized_line

__all__ = ["ModelSteps", "StepResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The model after a step, and what was done to it; None stands for what the step does not do. `kept` is what is
    left of each weight of the model before, where channels were removed."""

    model: Model
    pruning: PruneReport | None = None
    channels: ChannelReport | None = None
    equalized: EqualizeReport | None = None
    training: TrainLog | None = None
    kept: tuple[KeptPlaces, ...] | None = None


class ModelSteps:
    """Carries out the steps of a recipe on the data that were read for it.

    The recipe's own model is the teacher, where a step names no other: `models` are those of the stages so far by name.
    """

    def __init__(
        self, prepared: Prepared, progress: Progress, converter: Converter, store: Store | None = None
    ) -> None:
        self.prepared, self.progress, self.converter, self.store = prepared, progress, converter, store
        self.asked: list[dict[str, object]] = []  # of the steps so far
        self.batch_s: float | None = None  # seconds of a step of the last training, with a store
        self.models: dict[str, Model] = {"dense": prepared.model}
        self.kept: tuple[KeptPlaces, ...] = ()  # what is left of each weight of the recipe's model, () for all

    def teacher(self, step: Step) -> Model:
        """Who teaches in a step that distills."""
        name = teacher_of(step)
        if name is None:
            return self.prepared.model
        return self.prepared.teachers[name] if teacher_file(name) else self.models[name]

    def run(self, model: Model, step: ModelStep) -> StepResult:
        """One step, with its progress; the model that goes in is left alone. With a store a step that was carried out
        before, behind the same steps, is not carried out again."""
        self.asked.append(flat(step))
        done = self._run(model, step) if self.store is None else self._once(self.store, model, step)
        self.kept = composed(self.kept, done.kept) if done.kept else self.kept
        return done

    def _once(self, store: Store, model: Model, step: ModelStep) -> StepResult:
        made: list[StepResult] = []

        def make(key: str) -> dict[str, object]:
            made.append(self._run(model, step))
            store.write_model(key, made[0].model)
            reports = {name: getattr(made[0], name) for name in REPORTS}
            return {**reports_json(reports), "kept": places_json(made[0].kept), "batch_s": self.progress.unit_s}

        record = store.once("stage", self.asked, make)
        self.batch_s = record["batch_s"]
        if made:
            return made[0]
        known = store.read_model(store.key("stage", self.asked))
        return StepResult(model=known, kept=places_of(record["kept"]), **reports_of(record))

    def _run(self, model: Model, step: ModelStep) -> StepResult:
        if isinstance(step, EqualizeStep):
            return self._equalized(model, step)
        self._tell_frozen(model, step.name, step.training)
        self.progress.begin(f"{step.name}: {'prune' if step.kind == 'prune' else 'fine-tune'}")
        if isinstance(step, FinetuneStep):
            tuned, log = self._finetuned(model, step, step.training, self.kept)
            done = StepResult(model=tuned, training=log)
        elif isinstance(step, ChannelStep):
            done = self._channels(model, step)
        else:
            result, pruning_log = self._zeros(model, step)
            done = StepResult(model=result.model, pruning=result.report, training=pruning_log)
        self.progress.end(_note(done))
        return done

    def quantized(self, model: Model, step: QatStep, places: Places, trial: Mapping[str, np.ndarray]) -> Quantized:
        """The model after quantization-aware training; `places` is what its int8 file rounds, found with `trial`."""
        assert self.prepared.train is not None
        self._tell_frozen(model, step.name, step.training)
        self.progress.begin(f"{step.name}: train as int8 computes")
        done = train_quantized(
            model,
            places,
            trial,
            self.prepared.train,
            self.prepared.validation,
            self.prepared.task,
            step.training,
            teacher=self.teacher(step),
            preparation=PREPARATION,
            on_progress=self.progress.advance,
        )
        self.progress.end(f"{len(done.ranges)} ranges learned")
        if done.left:
            self.progress.note(f"{step.name}: {', '.join(done.left[:3])} is trained as if it were not rounded")
        return done

    def _tell_frozen(self, model: Model, name: str, options: TrainOptions | None) -> None:
        frozen = frozen_note(model) if options is not None and not options.thaw else None
        if frozen is not None:
            self.progress.note(f"{name}: {frozen}")

    def _finetuned(
        self, model: Model, step: Step, options: TrainOptions, kept: tuple[KeptPlaces, ...]
    ) -> tuple[Model, TrainLog]:
        """A copy of the model, trained on."""
        assert self.prepared.train is not None
        return finetune(
            model,
            self.prepared.train,
            self.prepared.validation,
            self.prepared.task,
            options,
            teacher=self.teacher(step),
            kept=kept or None,
            on_progress=self.progress.advance,
        )

    def _equalized(self, model: Model, step: EqualizeStep) -> StepResult:
        train = self.prepared.train
        assert train is not None
        self.progress.begin(f"{step.name}: equalize")
        order = np.random.default_rng(self.prepared.recipe.seed).permutation(len(train))[: step.samples]
        made, report = equalize(model, train.rows(np.sort(order)), seed=self.prepared.recipe.seed)
        done = StepResult(model=made, equalized=report)
        self.progress.end(_note(done))
        return done

    def _channels(self, model: Model, step: ChannelStep) -> StepResult:
        """Fewer channels, in rounds with training after each if the step trains."""
        logs: list[TrainLog] = []
        train = self._round_training(step, step.training, logs) if step.training else None
        result = self._cut(model, step, train)
        done = StepResult(
            model=result.model, channels=result.report, training=logs[-1] if logs else None, kept=result.kept
        )
        if logs:
            self.progress.note(f"{step.name}: {_note(done)}")
        return done

    def _cut(self, model: Model, step: ChannelStep, train: Train | None) -> ChannelResult:
        samples, task, structure = self.prepared.train, self.prepared.task, self._structure(model, step)
        if step.options is not None and step.options.latency is not None and step.device is not None:
            return prune_to_latency(
                model,
                step.options,
                target_profile(step.options.latency, step.device),
                converter=self.converter,
                on_trial=self.progress.advance,
                samples=samples,
                task=task,
                rounds=step.rounds,
                train=train,
                structure=structure,
            )
        return prune_in_rounds(
            model, step.options, samples=samples, task=task, rounds=step.rounds, train=train, structure=structure
        )

    def _round_training(self, step: ChannelStep, options: TrainOptions, logs: list[TrainLog]) -> Train:
        """The training after each round; leaves its log in `logs`."""

        def trained(model: Model, number: int, kept: tuple[KeptPlaces, ...]) -> Model:
            self.progress.begin(f"{step.name}: train, round {number} of {step.rounds}")
            tuned, log = self._finetuned(model, step, options, composed(self.kept, kept))
            logs.append(log)
            self.progress.end()
            if number < step.rounds:
                self.progress.begin(f"{step.name}: prune, round {number + 1} of {step.rounds}")
            return tuned

        return trained

    def _structure(self, model: Model, step: ChannelStep) -> Structure | None:
        """What is known of a model's groups: those of the recipe's own model were found when it was checked."""
        return self.prepared.structures[through_norms(step)] if model is self.prepared.model else None

    def _zeros(self, model: Model, step: PruneStep) -> tuple[PruneResult, TrainLog | None]:
        """Zeros in the kernels, in one shot or while training."""
        train = self.prepared.train
        if step.training is None:
            return prune_magnitude(model, step.options, samples=train), None
        assert train is not None
        steps = step.training.epochs * steps_per_epoch(len(train), step.training.batch_size)
        schedule, settled = _schedule(step, steps)
        asked = (model, step.options, schedule, train, self.prepared.validation, self.prepared.task, step.training)
        if step.backend == "tfmot":
            from edgeprune.maker.pruning.tfmot_backend import prune_with_tfmot

            return prune_with_tfmot(*asked, settled_step=settled, on_progress=self.progress.advance)
        return prune_while_training(
            *asked,
            settled_step=settled,
            sr_ste=step.sr_ste,
            teacher=self.teacher(step),
            kept=self.kept or None,
            on_progress=self.progress.advance,
        )


def _schedule(step: PruneStep, steps: int) -> tuple[ConstantSparsity | PolynomialDecay, int]:
    """The step's schedule over so many steps of training, and the one from which its final sparsity holds."""
    settled = max(1, round(steps * step.ramp))
    if step.schedule == "constant" and not step.sr_ste:
        return ConstantSparsity(final_sparsity=step.options.fraction), 0
    if step.schedule == "constant":
        return ConstantSparsity(
            final_sparsity=step.options.fraction, end_step=settled, frequency=step.frequency
        ), settled
    decay = PolynomialDecay(
        initial_sparsity=step.initial_sparsity,
        final_sparsity=step.options.fraction,
        end_step=settled,
        power=step.power,
        frequency=step.frequency,
    )
    return decay, settled


def _note(done: StepResult) -> str:
    """What a step did, for its line of progress."""
    if done.pruning is not None:
        return f"sparsity {done.pruning.got:.1%}"
    if done.equalized is not None:
        return equalized_line(done.equalized)
    if done.channels is None:
        return ""
    reached = done.channels.estimated_latency
    latency = f", {reached.ratio:.3f} of the latency estimated for {reached.after.device}" if reached else ""
    return f"{done.channels.got:.1%} of the channels removed{latency}"

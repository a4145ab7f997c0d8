"""Fine-tuning: a seeded loop over batches with early stop, best weights kept and progress.

Batches are drawn with a NumPy generator and go through `train_on_batch`, so the order is the seed's alone; operations
run in TensorFlow's deterministic mode. XLA is off: compiling for the CPU makes a step several times slower.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.errors import EdgepruneError
from edgeprune.ledger import EpochLog, TrainLog
from edgeprune.maker.keras.layouts import computed_channels_last
from edgeprune.maker.keras.models import (
    Predictor,
    as_called,
    batch_of,
    input_specs,
    keras_module,
    predictor,
    share_end,
)
from edgeprune.maker.keras.types import Model, Optimizer
from edgeprune.maker.training.augmentation import Augmenter
from edgeprune.maker.training.data.class_weights import weighted
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.distillation_losses import kind_of_loss
from edgeprune.maker.training.distiller import Answered, distilled, trained_model
from edgeprune.maker.training.features import Kept, feature_losses
from edgeprune.maker.training.frozen import thawed
from edgeprune.maker.training.fused_norms import fused_norms
from edgeprune.maker.training.metrics import Metric, Targets
from edgeprune.maker.training.norms import NormStatistics
from edgeprune.maker.training.options import OPTIMIZERS, TrainOptions
from edgeprune.maker.training.task import OutputLoss, Task
from edgeprune.maker.training.teacher_answers import TeacherAnswers

__all__ = [
    "BestWeights",
    "OnProgress",
    "Sparsify",
    "batches",
    "compile_model",
    "evaluate",
    "make_deterministic",
    "steps_per_epoch",
    "train",
    "train_batch",
]

OnProgress = Callable[[int, int, str], None]
Sparsify = Callable[[Optimizer], Optimizer]


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Whole batches in an epoch; a data set smaller than a batch is one batch."""
    return max(1, samples // batch_size)


def batches(samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Index arrays of one epoch's batches in random order; what does not fill a batch waits for another epoch."""
    order = rng.permutation(samples)
    for step in range(steps_per_epoch(samples, batch_size)):
        yield order[step * batch_size : (step + 1) * batch_size]


def evaluate(model: Model, samples: Samples, task: Task, *, outputs_of: Predictor | None = None) -> tuple[float, ...]:
    """The task's scores of the Keras model over all samples, the main one first; `outputs_of` is a predictor of the
    model, for repeated calls."""
    outputs = (outputs_of or predictor(model))(samples.inputs)
    return task.measured(outputs, samples.told)


def make_deterministic(keras: ModuleType, seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and ask TensorFlow for repeatable kernels (for the whole process)."""
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def _seed_layers(model: Model, seed: int) -> None:
    """Restart the random numbers of Dropout and its kin: a layer without a seed drew one when it was made."""
    generators = [g for layer in model._flatten_layers() for g in layer._seed_generators]
    for index, generator in enumerate(generators):
        generator.state.assign(np.array([(seed + index) % 2**32, 0], generator.state.dtype))


def _taught(model: Model, teacher: Model, task: Task, options: TrainOptions, kept: Kept | None = None) -> Model:
    """What trains `model` by its losses and by the answers of a teacher, output by output; those without a loss are not
    taught."""
    kinds: list[Targets | None] = [None] * len(model.outputs)
    weights = [1.0] * len(model.outputs)
    for loss in task.losses:
        kinds[loss.place], weights[loss.place] = _kind(model, loss), loss.weight
    asked = {"share": options.distill, "temperature": options.temperature}
    features = feature_losses(teacher, model, kept) if options.features else []
    more = {"features": features, "feature_weight": options.features}
    return distilled(model, teacher, kinds=kinds, weights=weights, **asked, **more)  # type: ignore[arg-type]


def _kind(model: Model, loss: OutputLoss) -> Targets:
    """What an output is: its loss says it, else its last layer."""
    shares = {"softmax": Targets.CLASSES, "sigmoid": Targets.LABELS}
    return kind_of_loss(loss.function) or shares.get(share_end(model, loss.place), Targets.NUMBERS)


def compile_model(
    keras: ModuleType,
    model: Model,
    task: Task,
    options: TrainOptions,
    total_steps: int,
    sparsify: Sparsify | None = None,
) -> None:
    """Compile in place for training with the task's losses; `model` may be a Distiller."""
    rate: object = options.learning_rate
    if options.decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, decay_steps=total_steps)
    optimizer = getattr(keras.optimizers, OPTIMIZERS[options.optimizer])(rate)
    student, by_place = trained_model(model), {loss.place: loss for loss in task.losses}
    places = range(len(student.outputs))
    losses = _by_output(keras, student, [by_place[n].function if n in by_place else None for n in places])
    weights = _by_output(keras, student, [by_place[n].weight if n in by_place else 0.0 for n in places])
    model.compile(sparsify(optimizer) if sparsify else optimizer, losses, loss_weights=weights, jit_compile=False)
    # Now: TensorFlow traces a step twice that makes variables.
    model.optimizer.build(model.trainable_variables)


def _by_output(keras: ModuleType, model: Model, values: Sequence[object]) -> Any:
    """One value for each output, in the structure of the model's outputs."""
    return values[0] if len(values) == 1 else keras.tree.pack_sequence_as(model._outputs_struct, list(values))


def train(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    task: Task,
    options: TrainOptions,
    *,
    teacher: Model | None = None,
    kept: Kept | None = None,
    sparsify: Sparsify | None = None,
    keep_best_from_step: int = 0,
    may_keep_start: bool = False,
    on_progress: OnProgress | None = None,
) -> TrainLog:
    """Train `model` in place (hand in a copy) and leave the best weights in it.

    `sparsify` makes the optimizer one that prunes. Weights of epochs that end before `keep_best_from_step` are never
    kept, for a model that is still being pruned is not a candidate; with `may_keep_start` those from before the
    training are one, as epoch 0.
    Without validation the last weights stay. `teacher` is the model that `options.distill` asks, `kept` what is left of
    each of its weights in the model, where channels were removed. Raises EdgepruneError when the loss is not finite.
    """
    samples = weighted(samples, options.class_weight, task)
    with thawed(model) if options.thaw else contextlib.nullcontext():
        return _trained(
            model,
            samples,
            validation,
            task,
            options,
            teacher,
            kept,
            sparsify,
            keep_best_from_step,
            may_keep_start,
            on_progress,
        )


def _trained(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    task: Task,
    options: TrainOptions,
    teacher: Model | None,
    kept: Kept | None,
    sparsify: Sparsify | None,
    keep_best_from_step: int,
    may_keep_start: bool,
    on_progress: OnProgress | None,
) -> TrainLog:
    keras = keras_module()
    make_deterministic(keras, options.seed)
    _seed_layers(model, options.seed)
    rng = np.random.default_rng(options.seed)
    per_epoch = steps_per_epoch(len(samples), options.batch_size)
    total = per_epoch * options.epochs
    kept_from = round(options.keep_from * total)
    keep_best_from_step = max(keep_best_from_step, kept_from)
    trainee = model
    if teacher is not None and options.distill:
        trainee = _taught(model, teacher, task, options, kept)
    compile_model(keras, trainee, task, options, total, sparsify)
    shapes = [shape for shape, _ in input_specs(model).values()]
    augment = Augmenter(shapes, flip=options.flip, shift=options.shift, seed=options.seed)
    best, outputs_of = BestWeights(task.main.metric, options.patience), predictor(model)
    norms = NormStatistics(model, samples, seed=options.seed) if options.renew_norms else None
    logs: list[EpochLog] = []
    if may_keep_start and validation is not None:
        best.offer(model, 0, evaluate(model, validation, task, outputs_of=outputs_of)[0], eligible=True)
    step, known = 0, _asked_once(trainee, samples, options, total, on_progress)
    for _ in range(options.epochs):
        losses = []
        for indices in batches(len(samples), options.batch_size, rng):
            losses.append(train_batch(trainee, samples, task, indices, step, augment, known))
            step += 1
            if on_progress:
                on_progress(step, total, f"loss {losses[-1]:.3f}")
        scored_on = validation if step >= kept_from or options.patience is not None else None
        if norms is not None and (scored_on is not None or step == total):
            norms.renew()
        values = evaluate(model, scored_on, task, outputs_of=outputs_of) if scored_on is not None else ()
        value = values[0] if values else None
        scores = {score.name: found for score, found in zip(task.scores, values, strict=False)}
        logs.append(EpochLog(loss=float(np.mean(losses)), validation=value, scores=scores))
        if best.offer(model, len(logs), value, step >= keep_best_from_step):
            break
    best.restore(model)
    model.compiled = False  # its optimizer is ours: a file must open without it
    return TrainLog(
        epochs=tuple(logs),
        kept_epoch=len(logs) if best.epoch is None else best.epoch,
        stopped_early=len(logs) < options.epochs,
        steps=step,
    )


def _asked_once(
    trainee: Model, samples: Samples, options: TrainOptions, total: int, on_progress: OnProgress | None
) -> TeacherAnswers | None:
    """A teacher's answers, where each epoch shows the same samples."""
    if options.flip or options.shift or options.epochs < 2:
        return None

    def on_batch() -> None:
        if on_progress:
            on_progress(0, total, "the teacher is asked")

    return TeacherAnswers.of(trainee, samples, options.batch_size, on_batch)


def train_batch(
    model: Model,
    samples: Samples,
    task: Task,
    indices: np.ndarray,
    step: int,
    augment: Augmenter | None = None,
    known: TeacherAnswers | None = None,
) -> float:
    """One step of a compiled model (or Distiller) on these samples; the loss of this batch. `known` are a teacher's
    answers to samples that are not varied.

    Raises EdgepruneError when that is not finite.
    """
    student = trained_model(model)
    inputs = batch_of(student, samples.inputs, indices)
    varied = augment(inputs) if augment else inputs
    targets = [np.zeros((len(indices), 1), np.float32)] * len(student.outputs)  # of an output without a loss, unread
    for loss in task.losses:
        targets[loss.place] = loss.targets(samples.told, indices)
    keras = keras_module()
    with computed_channels_last(keras, student), fused_norms(keras), _quietly(len(task.losses) < len(targets)):
        weights = None if samples.weights is None else samples.weights[indices]
        given = as_called(student, varied)
        asked = given if known is None else Answered(given, known.rows(indices))
        made = model.train_on_batch(asked, _by_output(keras, student, targets), sample_weight=weights)
    value = float(np.ravel(made)[0])  # of several outputs the whole loss is the first
    if not np.isfinite(value):
        raise EdgepruneError(f"training diverged: the loss is {value} at step {step + 1}; lower learning_rate")
    return value


@contextlib.contextmanager
def _quietly(some_untrained: bool) -> Iterator[None]:
    """Keras warns of weights that only an output without a loss has."""
    if not some_untrained:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gradients do not exist for variables")
        yield


class BestWeights:
    """The best weights seen so far and the patience that is left."""

    def __init__(self, metric: Metric, patience: int | None) -> None:
        self.metric, self.patience = metric, patience
        self.epoch: int | None = None
        self._value = 0.0
        self._weights: list[np.ndarray] | None = None

    def offer(self, model: Model, epoch: int, value: float | None, eligible: bool) -> bool:
        """Remember the weights if they are better; True when patience is used up."""
        if value is None or not eligible:
            return False
        gain = value - self._value if self.metric.higher_is_better else self._value - value
        if self.epoch is None or gain > 0:
            self.epoch, self._value, self._weights = epoch, value, model.get_weights()
        return self.patience is not None and self.epoch is not None and epoch - self.epoch >= self.patience

    def restore(self, model: Model) -> None:
        if self._weights is not None:
            model.set_weights(self._weights)

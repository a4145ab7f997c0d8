"""Fine-tuning: a seeded loop over batches with early stop, best weights kept and progress.

Batches are drawn with a NumPy generator and go through `train_on_batch`, so the order is the seed's alone; operations
run in TensorFlow's deterministic mode. XLA is off: compiling for the CPU makes a step several times slower.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np

from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.ledger import EpochLog, TrainLog
from edgeprune.maker.keras.layouts import computed_channels_last
from edgeprune.maker.keras.models import (
    Predictor,
    as_called,
    ends_in,
    input_specs,
    keras_module,
    output_names,
    predictor,
)
from edgeprune.maker.keras.types import Model, Optimizer, Tensor
from edgeprune.maker.training.augmentation import Augmenter
from edgeprune.maker.training.data.class_weights import weighted
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.distillation import Distillation
from edgeprune.maker.training.frozen import thawed
from edgeprune.maker.training.metrics import Metric, Targets
from edgeprune.maker.training.options import OPTIMIZERS, TrainOptions

__all__ = [
    "BestWeights",
    "OnProgress",
    "Sparsify",
    "batches",
    "compile_model",
    "evaluate",
    "loss_of",
    "make_deterministic",
    "shaped_targets",
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


def evaluate(model: Model, samples: Samples, metric: Metric, *, outputs_of: Predictor | None = None) -> float:
    """The metric of the Keras model's first output over all samples; `outputs_of` is a predictor of the model, for
    repeated calls."""
    assert samples.targets is not None
    outputs = (outputs_of or predictor(model))(samples.inputs)
    return metric.compute(outputs[output_names(model)[0]], samples.targets)


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


def loss_of(keras: ModuleType, model: Model, metric: Metric) -> Callable[..., Tensor]:
    """The metric's loss for this model, on logits where the model's output is not a probability."""
    losses = {
        "sparse_categorical_crossentropy": lambda: keras.losses.SparseCategoricalCrossentropy(
            from_logits=not ends_in(model, "softmax")
        ),
        "binary_crossentropy": lambda: keras.losses.BinaryCrossentropy(from_logits=not ends_in(model, "sigmoid")),
        "mean_squared_error": keras.losses.MeanSquaredError,
        "mean_absolute_error": keras.losses.MeanAbsoluteError,
    }
    return losses[metric.loss]()


def compile_model(
    keras: ModuleType,
    model: Model,
    metric: Metric,
    options: TrainOptions,
    total_steps: int,
    distillation: Distillation | None = None,
    sparsify: Sparsify | None = None,
) -> None:
    """Compile in place for training with the metric's loss."""
    rate: object = options.learning_rate
    if options.decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, decay_steps=total_steps)
    optimizer = getattr(keras.optimizers, OPTIMIZERS[options.optimizer])(rate)
    sorts = metric.loss.endswith("crossentropy")
    loss = distillation.loss if distillation and sorts else loss_of(keras, model, metric)
    model.compile(sparsify(optimizer) if sparsify else optimizer, loss, jit_compile=False)


def train(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    metric: Metric,
    options: TrainOptions,
    *,
    teacher: Model | None = None,
    sparsify: Sparsify | None = None,
    keep_best_from_step: int = 0,
    on_progress: OnProgress | None = None,
) -> TrainLog:
    """Train `model` in place (hand in a copy) and leave the best weights in it.

    `sparsify` makes the optimizer one that prunes. Weights of epochs that end before `keep_best_from_step` are never
    kept, for a model that is still being pruned is not a candidate.
    Without validation the last weights stay. `teacher` is the model that `options.distill` asks. Raises EdgepruneError
    when the loss is not finite.
    """
    if len(model.outputs) != 1:
        raise UsageError(f"training needs a model with one output; this one has {len(model.outputs)}")
    if options.distill and metric.targets is Targets.LABELS and model.outputs[0].shape[-1] != 1:
        raise UsageError(
            f"distill teaches classes and numbers, not several labels (metric {metric.name}); leave it out"
        )
    samples = weighted(samples, options.class_weight, metric)
    with thawed(model) if options.thaw else contextlib.nullcontext():
        return _trained(
            model, samples, validation, metric, options, teacher, sparsify, keep_best_from_step, on_progress
        )


def _trained(
    model: Model,
    samples: Samples,
    validation: Samples | None,
    metric: Metric,
    options: TrainOptions,
    teacher: Model | None,
    sparsify: Sparsify | None,
    keep_best_from_step: int,
    on_progress: OnProgress | None,
) -> TrainLog:
    keras = keras_module()
    make_deterministic(keras, options.seed)
    _seed_layers(model, options.seed)
    rng = np.random.default_rng(options.seed)
    per_epoch = steps_per_epoch(len(samples), options.batch_size)
    total = per_epoch * options.epochs
    distillation = None
    if teacher is not None and options.distill:
        distillation = Distillation(teacher, model, metric, share=options.distill, temperature=options.temperature)
    compile_model(keras, model, metric, options, total, distillation, sparsify)
    shapes = [shape for shape, _ in input_specs(model).values()]
    augment = Augmenter(shapes, flip=options.flip, shift=options.shift, seed=options.seed)
    best, outputs_of = BestWeights(metric, options.patience), predictor(model)
    logs: list[EpochLog] = []
    step = 0
    for _ in range(options.epochs):
        losses = []
        for indices in batches(len(samples), options.batch_size, rng):
            losses.append(train_batch(model, samples, indices, step, augment, distillation))
            step += 1
            if on_progress:
                on_progress(step, total, f"loss {losses[-1]:.3f}")
        value = evaluate(model, validation, metric, outputs_of=outputs_of) if validation is not None else None
        logs.append(EpochLog(loss=float(np.mean(losses)), validation=value))
        if best.offer(model, len(logs), value, step >= keep_best_from_step):
            break
    best.restore(model)
    return TrainLog(
        epochs=tuple(logs), kept_epoch=best.epoch or len(logs), stopped_early=len(logs) < options.epochs, steps=step
    )


def shaped_targets(targets: np.ndarray, model: Model) -> np.ndarray:
    """Targets in the shape of the model's output, for they may be stored flat; a class index stays one number, in the
    places of the output."""
    shape = model.outputs[0].shape[1:]
    places = targets.shape[:-1] if targets.shape[-1:] == (1,) and targets.ndim == len(shape) + 1 else targets.shape
    if len(shape) > 1 and len(places) == len(shape) and shape[-1] != 1:  # a map of indexes
        return targets.reshape(places)
    sizes = [size for size in shape if size is not None]
    whole = len(sizes) == len(shape) and targets[0].size == math.prod(sizes)
    return targets.reshape(len(targets), *(sizes if whole else (-1,)))


def train_batch(
    model: Model,
    samples: Samples,
    indices: np.ndarray,
    step: int,
    augment: Augmenter | None = None,
    distillation: Distillation | None = None,
) -> float:
    """One step of a compiled model on these samples; its loss. Raises EdgepruneError when that is not finite."""
    assert samples.targets is not None
    inputs = [samples.inputs[name][indices].astype(dtype) for name, (_, dtype) in input_specs(model).items()]
    targets = shaped_targets(samples.targets[indices], model)
    varied = augment(inputs) if augment else inputs
    if distillation:
        targets = distillation.targets(varied, targets)
    with computed_channels_last(keras_module(), model):
        weights = None if samples.weights is None else samples.weights[indices]
        loss = float(model.train_on_batch(as_called(model, varied), targets, sample_weight=weights))
    if not np.isfinite(loss):
        raise EdgepruneError(f"training diverged: the loss is {loss} at step {step + 1}; lower learning_rate")
    return loss


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

"""The child process that prunes with tfmot: started by `edgeprune.host.children`, with the folder of its job.

FOLDER holds job.json and arrays.npz; weights.npz is written there. One JSON message a line goes to what was standard
output: any number of "progress", then one "done" or "error". It runs with TF_USE_LEGACY_KERAS=1, so Keras is tf_keras.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import EdgepruneError, Unsupported
from edgeprune.maker.keras.types import Layer, Model
from edgeprune.maker.pruning.tfmot_description import Json
from edgeprune.maker.training.augmentation import Augmenter
from edgeprune.maker.training.loop import BestWeights, batches, make_deterministic, steps_per_epoch
from edgeprune.maker.training.metrics import METRICS, Metric
from edgeprune.maker.training.options import OPTIMIZERS, TrainOptions

__all__ = ["main"]

LARGEST_DIFFERENCE = 1e-4  # of the rebuilt model's outputs, as a share of the outputs' range
Array = npt.NDArray[Any]
Tell = Callable[[Mapping[str, Any]], None]


def rebuild(graph: Mapping[str, Any], arrays: Mapping[str, Array]) -> Any:
    """The tf_keras model of a description made by `tfmot_description.describe`, with its weights."""
    import tf_keras

    layers = [_layer(tf_keras, described) for described in graph["layers"]]
    tensors: list[Any] = []
    for call in graph["calls"]:
        inputs = [tensors[index] for index in call["inputs"]]
        layer = layers[call["layer"]]
        # An input has no inputs: its description became the tensor itself.
        tensors.append(layer(inputs[0] if len(inputs) == 1 else inputs) if inputs else layer)
    model = tf_keras.Model([tensors[i] for i in graph["inputs"]], [tensors[i] for i in graph["outputs"]])
    for index, described in enumerate(graph["layers"]):
        weights = _weights_of(arrays, index)
        if weights:
            try:
                layers[index].set_weights(weights)
            except ValueError as cause:
                raise Unsupported(
                    f'layer {described["name"]!r} has other weights in tf_keras; use backend = "native"'
                ) from cause
    return model


def _layer(tf_keras: ModuleType, described: Mapping[str, Any]) -> Any:
    options = dict(described["options"])
    if described["kind"] == "InputLayer":
        return tf_keras.Input(options["shape"], dtype=options["dtype"], name=described["name"])
    for key, value in options.items():
        if key.endswith("_regularizer"):
            options[key] = tf_keras.regularizers.L1L2(**value)
    if options.get("activation") == "relu6":  # tf_keras knows it only as a function
        import tensorflow as tf

        options["activation"] = tf.nn.relu6
    kind = getattr(tf_keras.layers, described["kind"])
    return kind(name=described["name"], trainable=described["trainable"], **options)


def _weights_of(arrays: Mapping[str, Array], index: int) -> list[Array]:
    weights: list[Array] = []
    while f"weights.{index}.{len(weights)}" in arrays:
        weights.append(arrays[f"weights.{index}.{len(weights)}"])
    return weights


def _split(model: Model, arrays: Mapping[str, Array], split: str) -> tuple[list[Array], Array] | None:
    """Inputs in the model's order and targets, or None where the split is absent."""
    if f"{split}.y" not in arrays:
        return None
    return [arrays[f"{split}.{n}"] for n in range(len(model.inputs))], arrays[f"{split}.y"]


def _rows(model: Any, inputs: Sequence[Array], rows: np.ndarray | slice) -> list[Array]:
    return [array[rows].astype(tensor.dtype.name) for array, tensor in zip(inputs, model.inputs, strict=True)]


def _one_or_all(inputs: list[Array]) -> Any:
    return inputs if len(inputs) > 1 else inputs[0]


def _predict(model: Model, inputs: Sequence[Array], *, batch_size: int = 256) -> Array:
    import tensorflow as tf

    call = tf.function(lambda given: model(given, training=False), reduce_retracing=True)
    starts = range(0, len(inputs[0]), batch_size)
    pieces = [call(_one_or_all(_rows(model, inputs, slice(start, start + batch_size)))) for start in starts]
    return np.concatenate([np.asarray(tf.nest.flatten(piece)[0]) for piece in pieces])


def prove(model: Model, inputs: Sequence[Array], expected: Array) -> None:
    """Raise Unsupported unless the rebuilt model computes what the original did on the first samples."""
    got = _predict(model, [array[: len(expected)] for array in inputs])
    spread = float(np.ptp(expected)) or 1.0
    difference = float(np.max(np.abs(got - expected))) / spread if got.shape == expected.shape else float("inf")
    if not difference <= LARGEST_DIFFERENCE:
        raise Unsupported(
            f"the model rebuilt for tfmot computes other outputs ({difference:.1e} of their range); "
            'use backend = "native"'
        )


def wrap(model: Model, names: Sequence[str], schedule: Mapping[str, Any]) -> Any:
    """The model with tfmot's wrapper around the named layers and no other."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    arguments = dict(schedule)
    made = getattr(tfmot.sparsity.keras, arguments.pop("name"))(**arguments)

    def wrapped(layer: Layer) -> Any:
        if layer.name not in names:
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=made)

    return tf_keras.models.clone_model(model, clone_function=wrapped)


def _compile(model: Model, graph: Mapping[str, Any], metric: Metric, options: TrainOptions, total_steps: int) -> None:
    """As `edgeprune.maker.training.loop.compile_model`, with tf_keras."""
    import tf_keras

    rate: Any = options.learning_rate
    if options.decay == "cosine":
        rate = tf_keras.optimizers.schedules.CosineDecay(options.learning_rate, decay_steps=total_steps)
    last = graph["layers"][graph["calls"][graph["outputs"][0]]["layer"]]
    ends_in = {last["options"].get("activation"), last["kind"].lower()}
    losses = {
        "sparse_categorical_crossentropy": lambda: tf_keras.losses.SparseCategoricalCrossentropy(
            from_logits="softmax" not in ends_in
        ),
        "binary_crossentropy": lambda: tf_keras.losses.BinaryCrossentropy(from_logits="sigmoid" not in ends_in),
        "mean_squared_error": tf_keras.losses.MeanSquaredError,
        "mean_absolute_error": tf_keras.losses.MeanAbsoluteError,
    }
    optimizer = getattr(tf_keras.optimizers, OPTIMIZERS[options.optimizer])(rate, jit_compile=False)
    model.compile(optimizer, losses[metric.loss](), jit_compile=False)


def _train(
    model: Model, arrays: Mapping[str, Array], metric: Metric, options: TrainOptions, settled_step: int, tell: Tell
) -> Json:
    """Train in place, leave the best weights in the model and return what happened. As `train` of maker.training."""
    import tensorflow_model_optimization as tfmot

    split = _split(model, arrays, "train")
    assert split is not None
    (inputs, targets), validation = split, _split(model, arrays, "validation")
    rng = np.random.default_rng(options.seed)
    total = steps_per_epoch(len(targets), options.batch_size) * options.epochs
    steps = tfmot.sparsity.keras.UpdatePruningStep()
    steps.set_model(model)
    steps.on_train_begin()
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    settled_step = max(settled_step, round(options.keep_from * total))
    augment = Augmenter(shapes, flip=options.flip, shift=options.shift, seed=options.seed)
    best = BestWeights(metric, options.patience)
    epochs: list[tuple[float, float | None]] = []
    step = 0
    for _ in range(options.epochs):
        losses = []
        for rows in batches(len(targets), options.batch_size, rng):
            varied = augment(_rows(model, inputs, rows))
            loss = float(model.train_on_batch(_one_or_all(varied), targets[rows].reshape(len(rows), -1)))
            step += 1
            if not np.isfinite(loss):
                raise EdgepruneError(f"training diverged: the loss is {loss} at step {step}; lower learning_rate")
            losses.append(loss)
            tell({"kind": "progress", "step": step, "total": total, "text": f"loss {loss:.3f}"})
        steps.on_epoch_end(len(epochs))  # the last update moved masked weights; this masks them again
        value = metric.compute(_predict(model, validation[0]), validation[1]) if validation else None
        epochs.append((float(np.mean(losses)), value))
        if best.offer(model, len(epochs), value, step >= settled_step):
            break
    best.restore(model)
    return {"kind": "done", "epochs": epochs, "kept_epoch": best.epoch or len(epochs), "steps": step}


def _prune(folder: Path, tell: Tell) -> Json:
    import tensorflow_model_optimization as tfmot
    import tf_keras

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    graph, metric, options = job["graph"], METRICS[job["metric"]], TrainOptions(**job["options"])
    make_deterministic(tf_keras, options.seed)
    plain = rebuild(graph, arrays)
    split = _split(plain, arrays, "train")
    assert split is not None
    prove(plain, split[0], arrays["proof"])
    model = wrap(plain, job["targets"], job["schedule"])
    total = steps_per_epoch(len(split[1]), options.batch_size) * options.epochs
    _compile(model, graph, metric, options, total)
    done = _train(model, arrays, metric, options, job["settled_step"], tell)
    stripped = tfmot.sparsity.keras.strip_pruning(model)
    weights = {
        f"weights.{index}.{n}": weight
        for index, described in enumerate(graph["layers"])
        for n, weight in enumerate(stripped.get_layer(described["name"]).get_weights())
    }
    np.savez(folder / "weights.npz", **weights)
    return done


def _answer(folder: Path, tell: Tell) -> Json:
    try:
        return _prune(folder, tell)
    except EdgepruneError as error:
        return {"kind": "error", "class": type(error).__name__, "reason": str(error)}
    except Exception as cause:  # noqa: BLE001  (Keras and tfmot raise anything; the parent shows one line)
        reason = " ".join(str(cause).split())[:300]
        return {"kind": "error", "class": "", "reason": f"tfmot failed: {type(cause).__name__}: {reason}"}


def main() -> None:
    """Do the one job in the folder named on the command line."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever TensorFlow prints must not mix with the messages
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    warnings.simplefilter("ignore")

    def tell(message: Mapping[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    tell(_answer(Path(sys.argv[1]), tell))

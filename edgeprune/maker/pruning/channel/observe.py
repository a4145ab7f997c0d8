"""Run a model call by call and look at what flows between its layers, nested models included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.backends import on_tensorflow
from edgeprune.maker.keras.graphs import functional_of, is_model, nodes_of
from edgeprune.maker.keras.models import batch_of, keras_module, share_end
from edgeprune.maker.keras.types import Graph, Model, Node, Tensor
from edgeprune.maker.pruning.channel.channel_ids import Labels
from edgeprune.maker.pruning.channel.groups import Structure
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.distillation_losses import logits_of
from edgeprune.maker.training.metrics import Targets
from edgeprune.maker.training.task import Task

__all__ = [
    "channel_magnitudes",
    "channel_means",
    "channel_moments",
    "output_changes",
    "play",
    "sample_batches",
    "weight_gradients",
]

BATCH = 64
PROBED = 4  # samples of a probe
LEAST = 1e-30  # of a probability: a larger one would take small ones their gradients
Seen = Callable[[Node, Sequence[Tensor], Sequence[Tensor]], None]
Floats = npt.NDArray[np.float64]


def play(graph: Graph, values: Sequence[Tensor], seen: Seen) -> list[Tensor]:
    """The outputs of a functional graph for tensors in the order of its inputs; inference mode.

    `seen(node, inputs, outputs)` is called after each call of a layer, inside nested models too.
    """
    keras = keras_module()
    known = dict(zip(map(id, graph.inputs), values, strict=True))
    for node in nodes_of(graph):
        if any(id(t) not in known for t in node.input_tensors):
            continue
        operation, inputs = node.operation, [known[id(t)] for t in node.input_tensors]
        if is_model(operation):
            outputs = play(functional_of(operation), inputs, seen)
        else:
            args, kwargs = node.arguments.fill_in(known)
            outputs = keras.tree.flatten(operation(*args, **kwargs))
        seen(node, inputs, outputs)
        known.update(zip(map(id, node.outputs), outputs, strict=True))
    return [known[id(t)] for t in graph.outputs]


def sample_batches(model: Model, samples: Samples, size: int = BATCH) -> Iterator[list[Tensor]]:
    """Samples in batches of `size`, a tensor for each input of the model.

    Raises Unsupported where Keras is not on TensorFlow.
    """
    if not on_tensorflow():
        raise Unsupported(
            "importance and compensation that look at samples need Keras on TensorFlow: use l1, l2, fpgm, lamp, "
            "bn_scale or random, or unset KERAS_BACKEND"
        )
    import tensorflow as tf

    for start in range(0, len(samples), size):
        yield [tf.constant(each) for each in batch_of(model, samples.inputs, slice(start, start + size))]


def channel_magnitudes(structure: Structure, samples: Samples) -> list[tuple[Labels, Floats]]:
    """(labels, mean magnitude of each channel) for every layer that makes channels."""
    trace = structure.trace
    sums: dict[int, Floats] = {}

    def seen(node: Node, _inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        made = trace.makers.get(id(node.operation))
        if made is None:
            return
        values = np.abs(np.asarray(outputs[0], np.float64))
        channels = [axis for axis in range(1, values.ndim) if values.shape[axis] == len(made[1])]
        if channels:
            axis = 1 if getattr(node.operation, "data_format", None) == "channels_first" else channels[-1]
            mean = values.mean(tuple(a for a in range(values.ndim) if a != axis))
            sums[id(node.operation)] = sums.get(id(node.operation), 0.0) + mean

    for batch in sample_batches(trace.model, samples):
        play(functional_of(trace.model), batch, seen)
    return [(trace.makers[key][1], total) for key, total in sums.items()]


def channel_means(structure: Structure, samples: Samples) -> dict[int, Floats]:
    """Mean of each channel that a layer reads through a kernel, by id of the layer."""
    return {key: mean for key, (mean, _) in channel_moments(structure, samples).items()}


def channel_moments(structure: Structure, samples: Samples) -> dict[int, tuple[Floats, Floats]]:
    """(mean, variance) of each channel that a layer reads through a kernel, by id of the layer."""
    trace = structure.trace
    reads = {(id(read.layer), id(read.tensor)): read for read in trace.reads if read.kernel is not None}
    sums: dict[int, list[Any]] = {}

    def seen(node: Node, inputs: Sequence[Tensor], _outputs: Sequence[Tensor]) -> None:
        for tensor, value in zip(node.input_tensors, inputs, strict=True):
            read = reads.get((id(node.operation), id(tensor)))
            if read is not None:
                array = np.asarray(value, np.float64)
                axes = tuple(a for a in range(array.ndim) if a != read.axis + 1)
                entry = sums.setdefault(id(node.operation), [0.0, 0.0, 0])
                entry[0] = entry[0] + array.mean(axes) * len(array)
                entry[1] = entry[1] + np.square(array).mean(axes) * len(array)
                entry[2] += len(array)

    for batch in sample_batches(trace.model, samples):
        play(functional_of(trace.model), batch, seen)
    means = {key: (first / count, second / count) for key, (first, second, count) in sums.items()}
    return {key: (mean, np.maximum(second - mean**2, 0.0)) for key, (mean, second) in means.items()}


def weight_gradients(model: Model, samples: Samples, task: Task) -> Mapping[int, npt.NDArray[Any]]:
    """Mean gradient of the task's weighted loss for each variable, by id of the variable."""
    from edgeprune.maker.keras.models import call_model

    variables = [v for v in model.weights if v.dtype.startswith("float")]
    totals: list[Any] = [0.0] * len(variables)
    for number, batch in enumerate(sample_batches(model, samples)):
        import tensorflow as tf

        rows = slice(number * BATCH, (number + 1) * BATCH)
        with tf.GradientTape() as tape:
            tape.watch([v.value for v in variables])
            counts = None if samples.weights is None else samples.weights[rows]
            outputs = call_model(model, batch)
            value = tf.add_n([one.value(outputs[one.place], samples.told, rows, counts) for one in task.losses])
        found = tape.gradient(value, [v.value for v in variables])
        totals = [t if g is None else t + tf.convert_to_tensor(g).numpy() for t, g in zip(totals, found, strict=True)]
    return {id(v): t for v, t in zip(variables, totals, strict=True) if not np.isscalar(t)}


def output_changes(
    model: Model, samples: Samples, axes: Mapping[int, Sequence[int]], seed: int
) -> Iterator[dict[tuple[int, int], Floats]]:
    """What kernels do to the outputs, for PROBED samples at a time: by (id of the variable, axis), for each of `axes`,
    weight times gradient of the outputs' sum under random signs, float [size of the axis], summed over all else.

    The signs make cross terms vanish in the mean of squares: the mean square of such a sum is that over samples and
    outputs of how far each moves without these weights, to first order (Hutchinson 1990,
    doi:10.1080/03610919008812866). Probabilities count as the logits behind them; of several outputs each counts as
    much, by its variance.
    """
    import tensorflow as tf

    from edgeprune.maker.keras.models import call_model

    variables = [v for v in model.weights if id(v) in axes and v.dtype.startswith("float")]
    places = [(v, axis) for v in variables for axis in axes[id(v)]]
    ends = [share_end(model, place) for place in range(len(model.outputs))]

    def opened(batch: Sequence[Tensor]) -> list[Tensor]:
        return [_logits(made, end) for made, end in zip(call_model(model, batch), ends, strict=True)]

    def probed(batch: Sequence[Tensor], signs: Sequence[Tensor]) -> list[Tensor]:
        values = [v.value for v in variables]
        with tf.GradientTape() as tape:
            tape.watch(values)
            total = tf.add_n([tf.reduce_sum(z * each) for z, each in zip(opened(batch), signs, strict=True)])
        gradients = tape.gradient(total, values, unconnected_gradients="zero")
        changes = {id(v): v.value * tf.convert_to_tensor(g) for v, g in zip(variables, gradients, strict=True)}
        return [tf.reduce_sum(changes[id(v)], [a for a in range(len(v.shape)) if a != axis]) for v, axis in places]

    rng, traced = np.random.default_rng(seed), tf.function(probed, autograph=False)
    made = [np.asarray(z) for z in opened(next(sample_batches(model, samples, 4 * PROBED)))]
    weights = [1 / (float(z.std()) * z[0].size ** 0.5 or 1.0) for z in made]
    for batch in sample_batches(model, samples, PROBED):
        shapes = [(np.shape(batch[0])[0], *z.shape[1:]) for z in made]
        drawn = [each * rng.choice((-1.0, 1.0), shape) for each, shape in zip(weights, shapes, strict=True)]
        found = traced(batch, [tf.constant(signs, tf.float32) for signs in drawn])
        yield {(id(v), axis): np.asarray(s, np.float64) for (v, axis), s in zip(places, found, strict=True)}


def _logits(made: Tensor, end: str) -> Tensor:
    """The numbers that probabilities are made of, those of classes about their mean; other outputs as they are."""
    keras = keras_module()
    kind = Targets.CLASSES if end == "softmax" else Targets.LABELS
    logits = logits_of(keras, keras.ops.cast(made, "float32"), kind, are_shares=bool(end), least=LEAST)
    return logits - keras.ops.mean(logits, axis=-1, keepdims=True) if end == "softmax" else logits

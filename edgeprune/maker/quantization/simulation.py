"""A Keras model that computes as an int8 file will: what quantization-aware training trains.

Jacob et al. 2018 (arXiv:1712.05877): activations are rounded to 8 bits of a range that follows the batches, kernels to
127 steps on both sides of zero with one scale a channel, batch normalization as it will be folded in the file; the
gradient passes rounding as if it were not there. The weights are those of the model it was made from.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgeprune.formats.tflite.scales import CANDIDATES, MANTISSA_BITS
from edgeprune.maker.keras.graphs import functional_of
from edgeprune.maker.keras.models import input_specs, keras_module, output_names
from edgeprune.maker.keras.types import Tensor
from edgeprune.maker.quantization.matching import LAYOUTS, PADS, FoundKernel, Match
from edgeprune.maker.quantization.places import Places
from edgeprune.maker.quantization.traced import TracedModel, function_of, source_of

__all__ = ["Simulation"]

LEVELS = 127.0  # of a kernel, on each side of zero
STEPS = 255.0  # of a tensor, between the ends of its range
MOMENTUM = 0.9  # of a range: how much of it stays at a step


class Simulation:
    """The model `rounded`, whose weights are those of the traced one, and the ranges that it learns.

    Ranges follow the batches of the first `settle_step` steps, then stay."""

    def __init__(self, traced: TracedModel, places: Places, match: Match, *, settle_step: int) -> None:
        keras, own = keras_module(), traced.own
        self.places, self.match = places, match
        graph: Any = functional_of(own)
        inputs = [
            keras.Input(batch_shape=shape, dtype=dtype, name=name) for name, (shape, dtype) in input_specs(own).items()
        ]
        self.layer: Any = _layer_class()(traced, places, match, settle_step)
        made, pack = self.layer(inputs), keras.tree.pack_sequence_as
        ends = pack(graph._inputs_struct, inputs), pack(graph._outputs_struct, made)
        self.rounded: Any = keras.Model(*ends, name=own.name)
        self.rounded.output_names = output_names(own)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Tensor of the float file -> (least, largest value) that was learned; those that nothing computes are left
        out."""
        learned = zip(np.asarray(self.layer.least), np.asarray(self.layer.largest), strict=True)
        found: dict[str, tuple[float, float]] = {}
        for group, nodes, (least, largest) in zip(self.places.tensors, self.match.tensors, learned, strict=True):
            if nodes and not group.fixed:
                found |= dict.fromkeys(group.names, (float(least), float(largest)))
        return found


@functools.cache
def _layer_class() -> type:
    """The layer that computes a traced model with rounding."""
    keras = keras_module()

    class RoundedGraph(keras.layers.Layer):  # type: ignore[name-defined, misc]
        """Its sublayer is the model itself, so its weights are the model's; it ends as that does."""

        def __init__(self, traced: TracedModel, places: Places, match: Match, settle_step: int) -> None:
            super().__init__(name="rounded", dtype="float32")
            self.stands_for, self.settle_step = traced.own, settle_step
            start = np.array([[group.least, group.largest] for group in places.tensors], np.float32).reshape(-1, 2)
            self.least, self.largest = (
                self.add_weight(shape=(len(start),), name=name, trainable=False, initializer="zeros")
                for name in ("least", "largest")
            )
            self.least.assign(start[:, 0])
            self.largest.assign(start[:, 1])
            self.step = self.add_weight(shape=(), dtype="int32", name="step", trainable=False, initializer="zeros")
            learns = [bool(nodes) and not g.fixed for g, nodes in zip(places.tensors, match.tensors, strict=True)]
            fixed = {
                n for group, nodes in zip(places.tensors, match.tensors, strict=True) if group.fixed for n in nodes
            }
            self.learns, self.graph = np.array(learns), _RoundedFunction(traced, match, fixed, slim=places.slim)

        def call(self, inputs: Sequence[Tensor], training: bool = False) -> list[Tensor]:
            """The model's outputs, flat and in order; for a loss without the rounding behind a softmax or sigmoid."""
            import tensorflow as tf

            least, largest = (tf.convert_to_tensor(v) for v in (self.least.value, self.largest.value))
            outputs, smooth, seen = self.graph(inputs, least, largest)
            if not training:
                return outputs
            self._follow(seen, least, largest)
            return smooth

        def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:  # noqa: ARG002  (as Keras asks)
            """Those of the model."""
            return [keras.KerasTensor(t.shape, dtype=t.dtype) for t in self.stands_for.outputs]

        def _follow(self, seen: tuple[Tensor, Tensor], least: Any, largest: Any) -> None:
            """Let the ranges follow what a batch computed, until they settle."""
            import tensorflow as tf

            follows = tf.logical_and(self.learns, tf.convert_to_tensor(self.step.value) < self.settle_step)
            for variable, now, found in ((self.least, least, seen[0]), (self.largest, largest, seen[1])):
                variable.assign(tf.where(follows, MOMENTUM * now + (1 - MOMENTUM) * found, now))
            self.step.assign_add(1)

    return RoundedGraph


class _RoundedFunction:
    """The graph with rounding: (inputs, ranges) -> (outputs, the same for a loss, (least, largest value of each group
    before rounding)).

    A softmax is rounded to steps of 1/256: of most classes nothing is left, and no logarithm. A loss gets what is there
    before, where the step is one of `fixed`, those that an operation prescribes.
    """

    def __init__(self, traced: TracedModel, match: Match, fixed: Collection[str], *, slim: bool) -> None:
        self.traced, self.match, self.slim = traced, match, slim
        self.read = {name: number for number, nodes in enumerate(match.tensors) for name in nodes}
        self.biases = [(k, at) for k in match.kernels if k.shifts and (at := self._range_of(k)) is not None]
        weights = [name for k in match.kernels for name in (k.kernel, *k.factors, *(shift.added for shift in k.shifts))]
        self.weights = list(dict.fromkeys([*weights, *(one.constant for one in match.constants)]))
        self.before = traced.function([], self.weights) if self.weights else None
        definition, feeds, tapped = _rounded_definition(traced, match, [kernel for kernel, _ in self.biases])
        self.groups = [[tapped.index(name) for name in nodes] for nodes in match.tensors]
        ends = [_rounded(name, tapped) for name in traced.outputs]
        self.count = len(ends)
        self.smooth = [tapped.index(name) if name in fixed else None for name in map(self._passed, traced.outputs)]
        captured = [name for name, _ in traced.captured]
        self.whole = function_of(definition, [*traced.inputs, *feeds, *traced.variables, *captured], [*ends, *tapped])

    def __call__(
        self, inputs: Sequence[Tensor], least: Any, largest: Any
    ) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, Tensor]]:
        import tensorflow as tf

        rest = self.traced.rest()
        values = dict(zip(self.weights, self.before(*rest), strict=True)) if self.before else {}
        rounded = {k.node: _rounded_kernel(k, values, slim=self.slim) for k in self.match.kernels}
        kernels = [kernel for kernel, _ in rounded.values()]
        scales = (tf.maximum(largest, 0.0) - tf.minimum(least, 0.0)) / STEPS
        biases = [_rounded_bias(k, values, rounded[k.node][1] * scales[at]) for k, at in self.biases]
        constants = [_rounded_constant(values[one.constant], one.inverted) for one in self.match.constants]
        ranges = [limit for pair in zip(tf.unstack(least), tf.unstack(largest), strict=True) for limit in pair]
        made = self.whole(*self._as_read(inputs, least, largest), *kernels, *biases, *constants, *ranges, *rest)
        outputs, tapped = list(made[: self.count]), made[self.count :]
        zero = tf.zeros(())
        seen = [
            tf.stack([end([zero, *(end(tapped[number]) for number in numbers)]) for numbers in self.groups])
            for end in (tf.reduce_min, tf.reduce_max)
        ]
        smooth = [out if at is None else tapped[at] for out, at in zip(outputs, self.smooth, strict=True)]
        return outputs, smooth, (tf.stop_gradient(seen[0]), tf.stop_gradient(seen[1]))

    def _passed(self, name: str) -> str:
        """The tensor that an output is, behind nodes that only pass it on."""
        while (node := self.traced.nodes.get(name)) is not None and node.op == "Identity":
            name = source_of(node.input[0])
        return name

    def _range_of(self, kernel: FoundKernel) -> int | None:
        """The number of the range of what a kernel is multiplied with."""
        at = kernel.node
        while True:
            node = self.traced.nodes[at]
            reads = [n for n in map(source_of, node.input) if n.split(":")[0] in self.traced.of_samples]
            if len(reads) != 1 or (at != kernel.node and node.op not in (*LAYOUTS, *PADS)):
                return None
            if reads[0] in self.read:
                return self.read[reads[0]]
            at = reads[0].split(":")[0]

    def _as_read(self, inputs: Sequence[Tensor], least: Any, largest: Any) -> list[Tensor]:
        """The inputs as the file's first operations round them.

        Pixels that were scaled to -1..1 lie halfway between two steps, all of them, so that an error of a float32's
        last bit decides: what the runtime does is done here, and not only what it means.
        """
        groups = [self.read.get(name) for name in self.traced.inputs]
        pairs = zip(inputs, groups, strict=True)
        return [one if at is None else _read_input(one, least[at], largest[at]) for one, at in pairs]


def _read_input(values: Any, least: Any, largest: Any) -> Any:
    """An input on the grid of its range, by the reciprocal of the scale and to even, as XNNPACK's conversion from
    float32 to int8 does."""
    import tensorflow as tf

    ends = [tf.cast(end, tf.float64) for end in (tf.minimum(least, 0.0), tf.maximum(largest, 0.0))]
    exact = (ends[1] - ends[0]) / STEPS
    scale, lowest = tf.cast(exact, tf.float32), tf.cast(tf.round(tf.math.divide_no_nan(ends[0], exact)), tf.float32)
    numbers = tf.round(values * tf.math.reciprocal_no_nan(scale))
    return tf.clip_by_value(numbers, lowest, lowest + STEPS) * scale


def _rounded_definition(
    traced: TracedModel, match: Match, biased: Sequence[FoundKernel]
) -> tuple[Any, list[str], list[str]]:
    """(The graph with places to feed kernels, the last sums behind those of `biased`, constants and ranges and with
    rounding behind tensors; the names to feed, in this order; the tensors that are rounded)."""
    definition = type(traced.definition)()
    definition.CopyFrom(traced.definition)
    nodes = {node.name: node for node in definition.node}
    feeds = []
    for number, kernel in enumerate(match.kernels):
        feeds.append(_placeholder(definition, f"edgeprune/kernel{number}"))
        _read_instead(nodes[kernel.node], kernel.kernel, feeds[-1])
    for number, kernel in enumerate(biased):
        feeds.append(_placeholder(definition, f"edgeprune/bias{number}"))
        _read_instead(nodes[kernel.shifts[-1].node], kernel.shifts[-1].added, feeds[-1])
    for number, one in enumerate(match.constants):
        feeds.append(_placeholder(definition, f"edgeprune/constant{number}"))
        _read_instead(nodes[one.node], one.constant, feeds[-1])
    tapped: list[str] = []
    for number, group in enumerate(match.tensors):
        limits = [_placeholder(definition, f"edgeprune/{end}{number}") for end in ("least", "largest")]
        feeds += limits
        for name in group:
            for reader in traced.readers.get(name, ()):
                _read_instead(nodes[reader.name], name, _rounded(name, [name]))
            node = definition.node.add(name=_rounded(name, [name]), op="FakeQuantWithMinMaxVars", input=[name, *limits])
            node.attr["num_bits"].i, node.attr["narrow_range"].b = 8, False
            tapped.append(name)
    return definition, feeds, tapped


def _rounded(name: str, tapped: Sequence[str]) -> str:
    """The tensor behind the rounding of one; that itself where it is not rounded."""
    return f"{name.replace(':', '_')}/rounded" if name in tapped else name


def _placeholder(definition: Any, name: str) -> str:
    import tensorflow as tf

    definition.node.add(name=name, op="Placeholder").attr["dtype"].type = tf.float32.as_datatype_enum
    return name


def _read_instead(node: Any, name: str, other: str) -> None:
    for place, given in enumerate(node.input):
        if source_of(given) == name:
            node.input[place] = other


def _rounded_kernel(kernel: FoundKernel, values: Mapping[str, Any], *, slim: bool) -> tuple[Any, Any]:
    """(The kernel of a node as if the file's were read: rounded together with the factors behind it, then without them
    again; the scale of each channel in the file)."""
    import tensorflow as tf

    own = values[kernel.kernel]
    shape = [size if axis in kernel.channels else 1 for axis, size in enumerate(own.shape)]
    factor = tf.ones(shape)
    for name in kernel.factors:
        one = values[name]
        factor *= tf.reshape(one, shape if one.shape.num_elements() != 1 else [1] * len(shape))
    factor *= kernel.times
    folded = own * factor
    axes = [axis for axis in range(len(shape)) if not kernel.per_channel or axis not in kernel.channels]
    scale = tf.reduce_max(tf.abs(folded), axis=axes, keepdims=True) / LEVELS
    if slim:
        scale = _slim_scale(folded, scale, axes)
    back = tf.math.divide_no_nan(_on_grid(folded, scale), factor)
    made = own + tf.stop_gradient(tf.where(factor == 0, tf.zeros_like(own), back - own))
    return made, tf.stop_gradient(tf.reshape(scale * tf.ones(shape), [-1]))


def _on_grid(values: Any, scale: Any) -> Any:
    import tensorflow as tf

    return tf.round(tf.math.divide_no_nan(values, scale)) * scale


def _slim_scale(values: Any, scale: Any, axes: Sequence[int]) -> Any:
    """The slim scale whose grid fits the values best, as `converters.slim_scales.fitted` chooses it."""
    import tensorflow as tf

    rest = (1 << (23 - MANTISSA_BITS)) - 1
    words = tf.bitwise.bitwise_and(tf.bitcast(scale, tf.int32) + rest, ~rest)
    slim = [tf.bitcast(words + place * (rest + 1), tf.float32) for place in range(CANDIDATES)]
    off = [tf.reduce_sum(tf.square(_on_grid(values, one) - values), axis=axes, keepdims=True) for one in slim]
    best = functools.reduce(tf.minimum, off)
    chosen = slim[-1]
    for place in reversed(range(CANDIDATES - 1)):  # of equal ones the first
        chosen = tf.where(off[place] <= best, slim[place], chosen)
    return chosen


def _rounded_bias(kernel: FoundKernel, values: Mapping[str, Any], scale: Any) -> Any:
    """What the last sum behind a kernel adds, so that all sums together are a multiple of `scale`, the product of the
    scales of kernel and input: the file has them as one int32 number a channel. A sum of another form is no bias."""
    import tensorflow as tf

    last, count = kernel.shifts[-1], scale.shape[0]
    own = values[last.added]
    if own.shape.num_elements() != count or any(
        values[s.added].shape.num_elements() not in (1, count) for s in kernel.shifts
    ):
        return own

    def behind(first: int) -> Any:
        factors = [tf.reshape(values[name], [-1]) for name in kernel.factors[first:]]
        return functools.reduce(tf.multiply, factors, tf.ones(()))

    parts = [tf.reshape(values[s.added], [-1]) * behind(s.factors) * (-1 if s.subtracted else 1) for s in kernel.shifts]
    total = functools.reduce(tf.add, parts)
    off = tf.math.divide_no_nan(_on_grid(total, scale) - total, behind(last.factors) * (-1 if last.subtracted else 1))
    return own + tf.stop_gradient(tf.reshape(tf.where(tf.math.is_finite(off), off, 0.0), own.shape))


def _rounded_constant(own: Any, inverted: bool) -> Any:
    import tensorflow as tf

    values = tf.math.reciprocal_no_nan(own) if inverted else own
    least, largest = tf.minimum(tf.reduce_min(values), 0.0), tf.maximum(tf.reduce_max(values), 0.0)
    made = tf.quantization.fake_quant_with_min_max_vars(values, least, largest)
    back = tf.math.reciprocal_no_nan(made) if inverted else made
    return own + tf.stop_gradient(back - own)

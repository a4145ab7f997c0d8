"""A model as one TensorFlow graph in which its variables are inputs: what quantization-aware training changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgeprune.maker.keras.layouts import computed_channels_last
from edgeprune.maker.keras.models import as_called, input_specs, keras_module
from edgeprune.maker.keras.types import Model, Tensor

__all__ = ["Preparation", "TracedModel", "computed", "function_of", "source_of", "trace_model"]


def source_of(name: str) -> str:
    """The tensor that an input of a node means, "node:0" written as "node"."""
    return name.removesuffix(":0")


@dataclass(frozen=True, kw_only=True, eq=False)
class TracedModel:
    """The GraphDef of a model in inference mode.

    `inputs`, `variables` and `outputs` are names of tensors, `captured` those of constants that live outside with
    their values; `variables` are in the order of the model's trainable and then its other variables.
    """

    definition: Any
    inputs: tuple[str, ...]
    variables: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[tuple[str, Tensor], ...] = ()
    own: Model = field(repr=False)

    @cached_property
    def nodes(self) -> dict[str, Any]:
        """Node name -> node."""
        return {node.name: node for node in self.definition.node}

    @cached_property
    def readers(self) -> dict[str, list[Any]]:
        """Tensor -> the nodes that read it."""
        found: dict[str, list[Any]] = {}
        for node in self.definition.node:
            for name in node.input:
                found.setdefault(source_of(name), []).append(node)
        return found

    @cached_property
    def of_samples(self) -> frozenset[str]:
        """The nodes whose values depend on the samples; all others follow from the variables."""
        readers: dict[str, list[str]] = {}
        for node in self.definition.node:
            for name in node.input:
                readers.setdefault(name.lstrip("^").split(":")[0], []).append(node.name)
        waiting = [name.split(":")[0] for name in self.inputs]
        found = set(waiting)
        while waiting:
            more = {name for name in readers.get(waiting.pop(), ()) if name not in found}
            found |= more
            waiting.extend(more)
        return frozenset(found)

    def values(self) -> list[Tensor]:
        """The variables as they are now, in the order of `variables`."""
        import tensorflow as tf

        own = self.own
        return [tf.convert_to_tensor(v.value) for v in (*own.trainable_variables, *own.non_trainable_variables)]

    def function(self, feeds: Sequence[str], fetches: Sequence[str]) -> Any:
        """A TensorFlow function of the graph: values of `feeds`, then of `variables` and `captured`, to those of
        `fetches`; gradients go through it."""
        return function_of(self.definition, [*feeds, *self.variables, *(name for name, _ in self.captured)], fetches)

    def rest(self) -> list[Tensor]:
        """What a function takes behind its feeds."""
        return [*self.values(), *(value for _, value in self.captured)]

    def floats(self) -> Iterator[str]:
        """The tensors of real numbers that depend on the samples, in the order of execution."""
        import tensorflow as tf

        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(self.definition, name="")
            for operation in graph.get_operations():
                if operation.name in self.of_samples:
                    for made in operation.outputs:
                        if made.dtype == tf.float32 and (made.shape.rank is None or made.shape.rank > 0):
                            yield source_of(made.name)


def function_of(definition: Any, feeds: Sequence[str], fetches: Sequence[str]) -> Any:
    """A TensorFlow function of a GraphDef."""
    import tensorflow as tf

    whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    ends = [[whole.graph.as_graph_element(_full(name)) for name in names] for names in (feeds, fetches)]
    return whole.prune(*ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What a converter does to a model before it reads it, and so what is to be trained: a context in which layers are
    traced as they are converted, and a change of the GraphDef in place."""

    context: Callable[[Model], AbstractContextManager[object]] = contextlib.nullcontext
    rewrite: Callable[[Any], None] = lambda _: None


def trace_model(model: Model, preparation: Preparation | None = None) -> TracedModel:
    """The graph of a model in inference mode, with its variables as inputs."""
    import tensorflow as tf

    keras, count = keras_module(), len(input_specs(model))
    trained = len(model.trainable_variables)

    def call(*tensors: Any) -> Any:
        inputs, variables = tensors[:count], list(tensors[count:])
        made, _ = model.stateless_call(
            variables[:trained], variables[trained:], as_called(model, inputs), training=False
        )
        return list(keras.tree.flatten(made))

    variables = [*model.trainable_variables, *model.non_trainable_variables]
    specs = [
        *(tf.TensorSpec(shape, dtype) for shape, dtype in input_specs(model).values()),
        *(tf.TensorSpec(variable.shape, variable.dtype) for variable in variables),
    ]
    prepare = preparation or Preparation()
    with computed_channels_last(keras, model), prepare.context(model):
        made = tf.function(call, autograph=False).get_concrete_function(*specs)
    definition = made.graph.as_graph_def()
    for node in (*definition.node, *(node for function in definition.library.function for node in function.node_def)):
        # A gradient of a function's own (of silu, say) holds on to this graph; that of its operations is the same.
        node.attr.pop("_gradient_op_type", None)
    prepare.rewrite(definition)
    names = [source_of(tensor.name) for tensor in made.inputs]
    whole = count + len(variables)
    return TracedModel(
        definition=definition,
        inputs=tuple(names[:count]),
        variables=tuple(names[count:whole]),
        outputs=tuple(source_of(tensor.name) for tensor in made.outputs),
        captured=tuple(zip(names[whole:], made.captured_inputs, strict=True)),
        own=model,
    )


def computed(traced: TracedModel, fetches: Sequence[str], inputs: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
    """The values of tensors for samples; of those that follow from the variables alone without any."""
    import tensorflow as tf

    if not fetches:
        return []
    function = traced.function(traced.inputs if inputs else (), fetches)
    return [np.asarray(value) for value in function(*map(tf.constant, inputs), *traced.rest())]


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:0"

"""One frozen batch-1 function feeds both exporters.

The model is traced once with a batch of one, its variables become constants, and the graph goes to the child process as
a GraphDef. There it is wrapped again with named inputs and outputs. (Handing the converter the Keras model beside its
concrete function, as its documentation recommends, silently drops the weights; conversion through a SavedModel costs
several times the CPU time.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import ConversionError, Unsupported
from edgeprune.keras_models import call_model, input_specs, keras_module, output_names

__all__ = ["FrozenGraph", "FrozenTensor", "freeze", "thaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenTensor:
    """An input or output: the name users see, the tensor's name in the graph, shape with batch 1, dtype."""

    name: str
    node: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenGraph:
    """A GraphDef on disk and its ends."""

    path: Path
    inputs: tuple[FrozenTensor, ...]
    outputs: tuple[FrozenTensor, ...]

    def to_json(self) -> dict[str, Any]:
        """What the child process is told."""
        return {
            "path": str(self.path),
            "inputs": [asdict(t) for t in self.inputs],
            "outputs": [asdict(t) for t in self.outputs],
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> FrozenGraph:
        """The inverse of `to_json`."""

        def ends(items: list[dict[str, Any]]) -> tuple[FrozenTensor, ...]:
            return tuple(FrozenTensor(**{**item, "shape": tuple(item["shape"])}) for item in items)

        return cls(path=Path(told["path"]), inputs=ends(told["inputs"]), outputs=ends(told["outputs"]))


def batch_one_shapes(model: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Input name -> shape with a batch of one, dtype. Raises Unsupported for sizes left open."""
    shapes = {}
    for name, (shape, dtype) in input_specs(model).items():
        rest = shape[1:]
        if shape[0] not in (1, None):
            raise Unsupported(
                f"input {name!r} has a fixed batch of {shape[0]}; a phone needs a batch of one or an open one"
            )
        if any(size is None for size in rest):
            raise Unsupported(
                f"input {name!r} has the open shape {tuple(rest)}; a phone needs fixed sizes: "
                "rebuild the model with keras.Input of a fixed shape"
            )
        shapes[name] = ((1, *(int(size) for size in rest if size is not None)), dtype)
    return shapes


def freeze(model: Any, path: Path) -> FrozenGraph:
    """Trace `model` in inference mode, batch one, make its variables constants, write the GraphDef to `path`."""
    keras_module()
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shapes = batch_one_shapes(model)
    specs = [tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in shapes.items()]
    traced = tf.function(lambda *tensors: call_model(model, tensors), autograph=False).get_concrete_function(*specs)
    frozen = convert_variables_to_constants_v2(traced)
    if len(frozen.inputs) != len(shapes):
        raise ConversionError(f"model {model.name!r}: freezing left {len(frozen.inputs)} inputs of {len(shapes)}")
    definition = frozen.graph.as_graph_def()
    path.write_bytes(definition.SerializeToString())
    made = list(frozen.outputs)
    if not all(t.shape.is_fully_defined() for t in made):
        # Functions inside a SavedModel keep an open batch; imported again, the shapes follow from the inputs.
        with tf.Graph().as_default() as whole:
            tf.graph_util.import_graph_def(definition, name="")
        made = [whole.get_tensor_by_name(t.name) for t in made]

    def ends(names: list[str], tensors: Any) -> tuple[FrozenTensor, ...]:
        return tuple(
            FrozenTensor(name=name, node=t.name, shape=tuple(t.shape.as_list()), dtype=t.dtype.name)
            for name, t in zip(names, tensors, strict=True)
        )

    return FrozenGraph(path=path, inputs=ends(list(shapes), frozen.inputs), outputs=ends(output_names(model), made))


def thaw(graph: FrozenGraph) -> tuple[Any, Any]:
    """(tf.Module, its concrete function) with the names of `graph` as its signature. Runs in the child process."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(graph.path.read_bytes())
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    feeds = [imported.graph.as_graph_element(t.node) for t in graph.inputs]
    fetches = [imported.graph.as_graph_element(t.node) for t in graph.outputs]
    inner = imported.prune(feeds, fetches)
    specs = [tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in graph.inputs]

    def serve(*tensors: Any) -> dict[str, Any]:
        made = inner(*tensors)
        return dict(zip([t.name for t in graph.outputs], made, strict=True))

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=specs)
    return module, module.serve.get_concrete_function()

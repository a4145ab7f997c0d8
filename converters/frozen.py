"""One frozen function feeds the exporters.

The model is traced once with a batch of one (for ONNX with its own, which may be open), its variables become constants,
and the graph goes to the child process as a GraphDef. There it is wrapped again with named inputs and outputs. (Handing
the converter the Keras model beside its concrete function, as its documentation recommends, silently drops the weights;
conversion through a SavedModel costs several times the CPU time.)
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.converters.channels_last import channels_last
from edgeprune.converters.open_sizes import sizes_left_open
from edgeprune.converters.signed_zeros import without_signed_zeros
from edgeprune.converters.types import Generated, GraphDef, Prepare
from edgeprune.converters.unrolling import refuse_states, unrolled
from edgeprune.errors import ConversionError, Unsupported
from edgeprune.formats.input_sizes import InputSizes
from edgeprune.maker.keras.models import call_model, input_specs, keras_module, output_names, refuse_quantized
from edgeprune.maker.keras.preprocessing import refuse_preprocessing
from edgeprune.maker.keras.types import AnyModel

__all__ = ["FrozenGraph", "FrozenTensor", "freeze", "read_graph_def", "thaw"]

SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]*")  # tf.name_scope


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenTensor:
    """An input or output: the name users see, the tensor's name in the graph, shape with the batch first (None for a
    size that may change), dtype. `sizes` are those that an input with such sizes takes."""

    name: str
    node: str
    shape: tuple[int | None, ...]
    dtype: str
    sizes: InputSizes | None = None

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> FrozenTensor:
        """The inverse of `dataclasses.asdict`, through JSON."""
        sizes = told["sizes"] and InputSizes(
            axes=tuple(map(tuple, told["sizes"]["axes"])), ranged=told["sizes"]["ranged"]
        )
        return cls(**{**told, "shape": tuple(told["shape"]), "sizes": sizes})


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenGraph:
    """A GraphDef on disk and its ends. `loops` names the loops left in it, `constants` counts the weights that any file
    made from it must hold."""

    path: Path
    inputs: tuple[FrozenTensor, ...]
    outputs: tuple[FrozenTensor, ...]
    loops: tuple[str, ...] = ()
    constants: int = 0

    def to_json(self) -> dict[str, object]:
        """What the child process is told."""
        return {
            "path": str(self.path),
            "inputs": [asdict(t) for t in self.inputs],
            "outputs": [asdict(t) for t in self.outputs],
            "loops": list(self.loops),
            "constants": self.constants,
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> FrozenGraph:
        """The inverse of `to_json`."""

        def ends(items: list[dict[str, Any]]) -> tuple[FrozenTensor, ...]:
            return tuple(FrozenTensor.from_json(item) for item in items)

        return cls(
            path=Path(told["path"]),
            inputs=ends(told["inputs"]),
            outputs=ends(told["outputs"]),
            loops=tuple(told["loops"]),
            constants=told["constants"],
        )


def _shapes(
    model: AnyModel, sizes: Mapping[str, InputSizes], batch: int | None
) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Input name -> shape with that `batch` where it is open, dtype. Raises Unsupported for sizes left open."""
    shapes = {}
    for name, (shape, dtype) in input_specs(model).items():
        if name not in sizes and any(size is None for size in shape[1:]):
            raise Unsupported(
                f"input {name!r} has the open shape {tuple(shape[1:])}; a phone needs sizes: add --input-shape "
                f"{name}=1,{','.join('...' if size is None else str(size) for size in shape[1:])}"
            )
        shapes[name] = ((shape[0] or (1 if name in sizes else batch), *shape[1:]), dtype)
    return shapes


def freeze(
    model: AnyModel,
    path: Path,
    *,
    unroll: bool = False,
    sizes: Mapping[str, InputSizes] | None = None,
    as_written: bool = False,
) -> FrozenGraph:
    """Trace `model` in inference mode, with its batch or one, make its variables constants, write the GraphDef to
    `path`; with `unroll`, recurrent layers are written out step by step. `sizes` are those of inputs with open ones.
    `as_written` leaves a batch open that is open in the model, and loops as functions of the graph (While)."""
    keras_module()
    import tensorflow as tf

    _refuse_names(model)
    refuse_quantized(model)
    refuse_preprocessing(model)
    refuse_states(model)
    shapes = _shapes(model, sizes or {}, None if as_written else 1)
    specs = [tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in shapes.items()]
    call = tf.function(lambda *tensors: call_model(model, tensors, as_written=True), autograph=False)
    with contextlib.ExitStack() as changes:
        if any(None in shape[1:] for shape, _ in shapes.values()):
            changes.enter_context(sizes_left_open(model))
        if unroll:
            changes.enter_context(unrolled(model))
        traced = call.get_concrete_function(*specs)
    fed = [tensor.name for tensor in traced.inputs[: len(shapes)]]  # variables and captured constants follow
    made = [tensor.name for tensor in traced.outputs]
    frozen = _inlined(_constant_graph(traced, lower=not as_written), fed, made, lower=not as_written)
    definition = channels_last(without_signed_zeros(frozen))
    left = sum(node.op == "Placeholder" and f"{node.name}:0" not in fed for node in definition.node)
    if left:
        raise ConversionError(f"model {model.name!r}: {left} of its variables did not become constants")
    path.write_bytes(definition.SerializeToString())
    with tf.Graph().as_default() as whole:  # shapes follow from the inputs, inside a SavedModel's functions too
        tf.graph_util.import_graph_def(definition, name="")

    def ends(names: list[str], tensors: list[str]) -> tuple[FrozenTensor, ...]:
        found = [whole.get_tensor_by_name(tensor) for tensor in tensors]
        return tuple(
            FrozenTensor(name=name, node=t.name, shape=_known(t.shape), dtype=t.dtype.name)
            for name, t in zip(names, found, strict=True)
        )

    operations = whole.get_operations()
    return FrozenGraph(
        path=path,
        inputs=tuple(replace(end, sizes=(sizes or {}).get(end.name)) for end in ends(list(shapes), fed)),
        outputs=ends(output_names(model), made),
        loops=tuple(_loops(operations)),
        constants=_constants(operations, definition),
    )


def _refuse_names(model: AnyModel) -> None:
    """Raise Unsupported for names of models and layers that TensorFlow refuses as the name of a scope."""
    for layer in model._flatten_layers() if hasattr(model, "_flatten_layers") else []:
        if not SCOPE.fullmatch(layer.name):
            raise Unsupported(
                f"the name {layer.name!r}: TensorFlow takes letters, digits and _ . - / in names of models and layers; "
                "rename it and save it again"
            )


def _constant_graph(function: Generated, *, lower: bool) -> GraphDef:
    """The GraphDef of a concrete function with its variables as constants and its calls inlined; `lower` writes loops
    as nodes of the graph itself (Enter, Merge, ...).

    `convert_variables_to_constants_v2` without its last step, which makes a function of the GraphDef again and costs
    more than all others.
    """
    from tensorflow.python.framework import convert_to_constants as steps

    definition, _ = steps._replace_variables_by_constants(
        converter_data=steps._FunctionConverterDataInEager(
            func=function, lower_control_flow=lower, aggressive_inlining=False
        )
    )
    return definition


def _inlined(definition: GraphDef, fed: list[str], made: list[str], *, lower: bool) -> GraphDef:
    """The GraphDef without calls of functions.

    Keras compiles a grouped convolution by XLA, which marks it as a function of its own; coremltools knows no calls.
    """
    import tensorflow as tf

    if not definition.library.function:
        return definition
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    for item in (*nodes, *definition.library.function):
        for mark in ("_XlaMustCompile", "_noinline"):
            item.attr.pop(mark, None)
    for function in definition.library.function:  # a process knows one function of a name
        function.signature.name += "_unmarked"
    for node in nodes:
        for value in node.attr.values():
            if value.HasField("func"):
                value.func.name += "_unmarked"
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    feeds, fetches = ([imported.graph.as_graph_element(name) for name in ends] for ends in (fed, made))
    return _constant_graph(imported.prune(feeds, fetches), lower=lower)


def _known(shape: Generated) -> tuple[int, ...]:
    """The sizes; none for what comes out of a loop, whose shape TensorFlow does not follow."""
    return () if shape.rank is None else tuple(shape.as_list())


def _loops(operations: Iterable[Generated]) -> list[str]:
    """The layer (or what there is of a name) of each loop."""
    found = [op.name for op in operations if op.type in ("LoopCond", "While", "StatelessWhile")]
    return [re.sub(r"/?(while)?(/LoopCond.*)?$", "", name) or name for name in found]


def _constants(operations: list[Generated], definition: GraphDef) -> int:
    """Floats that reach an operation which depends on an input, equal arrays once: of arrays of two and more axes with
    more than one value in them. A vector may be merged with others, and what multiplies by 1 or adds 0 left out.

    What is computed from constants alone (a slice of a position table, say) counts as little as it can be folded to.
    """
    depends: set[str] = set()  # names of operations
    behind: dict[str, frozenset[bytes]] = {}  # operation on constants alone -> the constants it is made of
    sizes: dict[bytes, int] = {}
    read: dict[frozenset[bytes], int] = {}
    stored = {node.name: node.attr["value"].tensor for node in definition.node if node.op == "Const"}
    for op in operations:
        if op.type == "Const":
            if op.outputs[0].dtype.is_floating:
                tensor = stored[op.name]
                key = hashlib.blake2b(tensor.tensor_content or tensor.SerializeToString(deterministic=True)).digest()
                sizes[key] = _weight_elements(tensor)
                behind[op.name] = frozenset([key])
            continue
        sources = [t.op.name for t in op.inputs]
        in_loop = op.type in ("Enter", "Merge", "NextIteration", "Placeholder")
        if in_loop or not sources or any(name in depends for name in sources):
            depends.add(op.name)
            for given in op.inputs:
                made_of = behind.get(given.op.name)
                if made_of:
                    folded = given.shape.num_elements() if given.shape.is_fully_defined() else None
                    whole = sum(sizes[key] for key in made_of)
                    read[made_of] = max(read.get(made_of, 0), min(whole, folded if folded is not None else 0))
        else:
            behind[op.name] = frozenset().union(*(behind.get(name, frozenset()) for name in sources))
    return sum(read.values())


def _weight_elements(tensor: Generated) -> int:
    """How many numbers a constant has that no converter may leave out."""
    import tensorflow as tf

    values = tf.make_ndarray(tensor)
    return values.size if values.ndim > 1 and values.size and (values != values.flat[0]).any() else 0


def read_graph_def(graph: FrozenGraph, *, prepare: Prepare | None = None) -> GraphDef:
    """The GraphDef of a frozen graph, changed by `prepare`."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(graph.path.read_bytes())
    if prepare is not None:
        prepare(definition)
    return definition


def thaw(graph: FrozenGraph, *, prepare: Prepare | None = None) -> tuple[Generated, Generated]:
    """(tf.Module, its concrete function) with the names of `graph` as its signature. Runs in the child process.

    `prepare` may change the GraphDef before.
    """
    import tensorflow as tf

    definition = read_graph_def(graph, prepare=prepare)
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    feeds = [imported.graph.as_graph_element(t.node) for t in graph.inputs]
    fetches = [imported.graph.as_graph_element(t.node) for t in graph.outputs]
    inner = imported.prune(feeds, fetches)
    specs = [tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in graph.inputs]

    def serve(*tensors: object) -> dict[str, object]:
        made = inner(*tensors)
        return dict(zip([t.name for t in graph.outputs], made, strict=True))

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=specs)
    return module, module.serve.get_concrete_function()

"""GraphDef -> `.onnx`, by tf2onnx. Runs in the child process of `edgeprune.converters.session`.

The model keeps its layout: inputs are channels last where the Keras model's are, and tf2onnx puts transpositions around
what ONNX knows channels first only. Format: github.com/onnx/onnx, docs/IR.md and docs/MetadataProps.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeprune.converters.frozen import FrozenGraph, FrozenTensor, read_graph_def
from edgeprune.converters.onnx_repairs import number_einsums, repair_tf2onnx, restart_names
from edgeprune.converters.onnx_scales import fold_scales
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.tflite import named_outputs
from edgeprune.converters.types import Generated, GraphDef
from edgeprune.errors import ConversionError

__all__ = ["PRECISIONS", "convert_onnx"]

PRECISIONS = ("float32", "float16", "int8")
_BATCH = "batch"
_MOST_BYTES = 2**31 - 1  # of a message of protobuf; beyond it weights would have to stand in files of their own


def convert_onnx(
    graph: FrozenGraph,
    out: Path,
    *,
    precision: str,
    opset: int,
    options: AppOptions,
    calibration: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `out`, an ONNX model of one file whose inputs and outputs have the names of `graph`.

    float16 computes in float16 and takes and gives float32. int8 has a QuantizeLinear and DequantizeLinear pair at each
    activation whose range comes from `calibration` (arrays [samples, ...] by input name) and int8 weights per output
    channel; both are symmetric, with zero points of 0. Raises ConversionError for an operation that ONNX has not.
    """
    model = _converted(graph, opset)
    _refuse_unknown(model)
    fold_scales(model)
    number_einsums(model.graph, list(nodes_of(model.graph)))
    _name_sizes(model, graph)
    model = _with_shapes(model)
    if precision == "float16":
        model = _in_float16(model)
    elif precision == "int8":
        from edgeprune.converters.onnx_integers import with_integers

        model = with_integers(model, graph, calibration or {}, out.parent)
    _describe(model, options)
    positive_zeros(model)
    content = model.SerializeToString(deterministic=True)
    if len(content) > _MOST_BYTES:
        raise ConversionError(f"the model takes {len(content):,} bytes, and an .onnx file has room for 2 GB")
    out.write_bytes(content)


def _converted(graph: FrozenGraph, opset: int) -> Generated:
    """What tf2onnx makes of a frozen graph, its ends renamed."""
    repair_tf2onnx()
    definition = read_graph_def(graph, prepare=_prepare)
    names = named_outputs(definition, graph)
    renamed = {t.node: t.name for t in graph.inputs}
    renamed.update((made, t.name) for made, t in zip(names, graph.outputs, strict=True))
    ends = {"input_names": [t.node for t in graph.inputs], "output_names": names}
    try:  # a step that fails ends it; the other way copies the whole graph before each step
        return _from_graph(definition, "FALSE", opset=opset, tensors_to_rename=renamed, **ends)
    except Exception:  # noqa: BLE001  (it raises anything)
        return _from_graph(definition, "TRUE", opset=opset, tensors_to_rename=renamed, **ends)


def _from_graph(definition: GraphDef, skips_failures: str, **asked: object) -> Generated:
    import tf2onnx.convert

    os.environ["TF2ONNX_CATCH_ERRORS"] = skips_failures
    restart_names()
    model, _ = tf2onnx.convert.from_graph_def(definition, name="model", **asked)
    return model


def _prepare(definition: GraphDef) -> None:
    _known_operations(definition)
    _name_functions(definition)


def _name_functions(definition: GraphDef) -> None:
    """Give the bodies of loops names that do not count what this process has traced before: nodes go by name."""
    functions = {function.signature.name: function for function in definition.library.function}
    nodes = [*definition.node, *(node for function in functions.values() for node in function.node_def)]
    told = [value.func for node in nodes for _, value in sorted(node.attr.items()) if value.HasField("func")]
    names = {name: f"body_{count}" for count, name in enumerate(dict.fromkeys(func.name for func in told))}
    for func in told:
        func.name = names[func.name]
    for name, function in functions.items():
        function.signature.name = names.get(name, name)


def _known_operations(definition: GraphDef) -> None:
    """Write, in place, what ONNX has no operation for by those that it has: erfc(x) = 1 - erf(x)."""
    import tensorflow as tf

    for node in [node for node in definition.node if node.op == "Erfc"]:
        kind = node.attr["T"].type
        one = definition.node.add(name=f"{node.name}/one", op="Const")
        one.attr["dtype"].type = kind
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1.0, dtype=kind))
        inner = definition.node.add(name=f"{node.name}/erf", op="Erf", input=list(node.input))
        inner.attr["T"].type = kind
        node.op = "Sub"
        del node.input[:]
        node.input.extend([one.name, inner.name])


def nodes_of(graph: Generated) -> Iterator[Generated]:
    """The nodes of a GraphProto and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def _refuse_unknown(model: Generated) -> None:
    """Raise for what tf2onnx left as it was: it converts what it can, and says nothing."""
    from onnx import defs

    versions = {item.domain: item.version for item in model.opset_import}
    unknown = sorted(
        {
            node.op_type
            for node in nodes_of(model.graph)
            if not defs.has(node.op_type, versions.get(node.domain, 1), node.domain)
        }
    )
    if unknown:
        newest = "" if versions.get("", 0) >= 18 else ", or try a newer --opset"
        raise ConversionError(
            f"tf2onnx cannot write {', '.join(unknown)} as ONNX of opset {versions.get('', 0)}: replace it in the "
            f"model{newest}"
        )


def _name_sizes(model: Generated, graph: FrozenGraph) -> None:
    """Open sizes get names that say what they are: the batch, or an axis of an input."""
    del model.graph.value_info[:]
    for end, value in (*zip(graph.inputs, model.graph.input, strict=True), *_outputs(model, graph)):
        shape = value.type.tensor_type.shape
        for axis, size in enumerate(shape.dim):
            if size.HasField("dim_value") and size.dim_value > 0:
                continue
            size.Clear()
            if axis == 0 and end.shape and end.shape[0] is None:
                size.dim_param = _BATCH
            elif end in graph.inputs:
                size.dim_param = f"{end.name}_{axis}"


def _outputs(model: Generated, graph: FrozenGraph) -> Iterator[tuple[FrozenTensor, Generated]]:
    return zip(graph.outputs, model.graph.output, strict=True)


def _with_shapes(model: Generated) -> Generated:
    """The model with the shapes of what its nodes make, as far as they follow: the checker counts MACs by them."""
    import onnx

    used = {node.domain for node in nodes_of(model.graph)}
    kept = [item for item in model.opset_import if item.domain in used or not item.domain]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001  (it raises anything; shapes are told where they can be)
        return model


def _in_float16(model: Generated) -> Generated:
    """The model computing in float16, its ends as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    found = convert_float_to_float16(model, keep_io_types=True)
    _sort(found.graph)  # it puts the conversion of inputs last
    return found


def _sort(graph: Generated) -> None:
    """Put nodes behind what they read, those that need nothing in the order that they have."""
    from onnx import NodeProto

    waiting, made = list(graph.node), {value.name for value in (*graph.input, *graph.initializer)}
    produced = {name for node in waiting for name in node.output}
    ordered: list[Generated] = []
    while waiting:
        ready = [node for node in waiting if all(name in made for name in _names_read(node) & produced)]
        if not ready:
            raise ConversionError(
                "the nodes of the float16 model read one another in a circle; use --precision float32"
            )
        made.update(name for node in ready for name in node.output)
        ordered += ready
        taken = set(map(id, ready))
        waiting = [node for node in waiting if id(node) not in taken]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _names_read(node: Generated) -> set[str]:
    """What a node and the graphs inside it read; names of their own among them."""
    found = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            found |= {value.name for value in inner.output}.union(*map(_names_read, inner.node))
    return found


def _describe(model: Generated, options: AppOptions) -> None:
    """Who made it and what it is, by the keys of the format's documentation."""
    model.producer_name, model.producer_version = "edgeprune", ""
    model.doc_string = options.description
    model.graph.doc_string = ""
    del model.metadata_props[:]
    told = (("model_author", options.author), ("model_license", options.license), ("model_version", options.version))
    for key, value in told:
        if value:
            model.metadata_props.add(key=key, value=value)


def positive_zeros(model: Generated) -> None:
    """Write +0.0 for -0.0 in the float constants of a model (see `edgeprune.converters.tflite.positive_zeros`)."""
    from onnx import TensorProto

    words = {TensorProto.FLOAT: "<u4", TensorProto.FLOAT16: "<u2"}
    for tensor in constants_of(model.graph):
        if tensor.data_type not in words or not tensor.HasField("raw_data"):
            continue
        bits = np.frombuffer(tensor.raw_data, words[tensor.data_type]).copy()
        bits[bits == (1 << (8 * bits.itemsize - 1))] = 0
        tensor.raw_data = bits.tobytes()


def constants_of(graph: Generated) -> Iterator[Generated]:
    """The constants of a GraphProto and of the graphs inside it, as TensorProtos: initializers and Constant nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (attribute.g, *attribute.graphs):
                yield from constants_of(inner)

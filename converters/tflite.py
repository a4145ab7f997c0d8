"""GraphDef -> `.tflite` (TFLite schema version 3). Runs in the child process of `edgeprune.converters.session`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.artifact import Scales
from edgeprune.converters.exports import SIGNATURE
from edgeprune.converters.frozen import FrozenGraph, read_graph_def, thaw
from edgeprune.converters.integer_graph import for_int16x8, for_integers
from edgeprune.converters.kernels import float_constants
from edgeprune.converters.quantizer import Ranges, integer_file, with_ranges
from edgeprune.converters.repair import widen_degenerate_scales
from edgeprune.converters.rewriting import (
    add_signature,
    rename_signature,
    separate_biases,
    unpack_transposed_kernels,
)
from edgeprune.converters.slim_scales import with_slim_scales
from edgeprune.converters.types import Generated, GraphDef, Prepare
from edgeprune.formats.tflite.packed import without_names

__all__ = ["PRECISIONS", "Converted", "convert_tflite", "named_outputs"]

PRECISIONS = ("float32", "float16", "dynamic", "int8", "int16x8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """The bytes of a .tflite file; of an integer one also the float file that the quantizer started from, of int8 with
    the calibrated ranges, and why kernels that have float32 scales have them (`left`)."""

    content: bytes
    start: bytes = b""
    left: tuple[str, ...] = ()


def convert_tflite(
    graph: FrozenGraph,
    *,
    precision: str,
    io_type: str = "float32",
    calibration: Mapping[str, np.ndarray] | None = None,
    float_fallback: bool = False,
    per_tensor: bool = False,
    signature: str = SIGNATURE,
    scales: str = Scales.SLIM,
    drop_names: bool = False,
    start: bytes = b"",
    ranges: Ranges | None = None,
    float_nodes: Collection[str] = (),
) -> Converted:
    """A `.tflite` file with one named `signature`.

    int8 is full-integer post-training quantization (Jacob et al. 2018, arXiv:1712.05877): int8 weights per output
    channel, int8 activations whose ranges come from `calibration` (arrays [samples, ...] by input name), int32 biases.
    int16x8 is the same with int16 activations around zero and int64 biases. With `float_fallback` operations that have
    no kernel for such integers stay in float; with `per_tensor` a kernel has one scale in place of one per channel.
    `scales` "slim" stores those of few bits; with `drop_names` names of inner tensors are left out.
    Of int8: `ranges` by tensor name take the place of calibrated ones, the operations that make `float_nodes` stay in
    float, and `start` is the float file with calibrated ranges where it is there already: nothing is converted then.
    """
    quantized = precision in ("int8", "int16x8")

    def integers(calibrated: bytes) -> bytes:
        ready = with_ranges(calibrated, ranges or {})
        return integer_file(ready, io_type=io_type, per_tensor=per_tensor, float_nodes=float_nodes)

    if start:
        content = integers(start)
    else:
        converter = _converter(
            graph, precision, io_type, calibration, float_fallback=float_fallback, per_tensor=per_tensor
        )
        started_from: list[bytes] = []
        if quantized:
            _in_two_steps(converter, started_from, integers if precision == "int8" else None)
        content = bytes(converter.convert())
        start = started_from[-1] if quantized else b""
    content = positive_zeros(content)
    if not graph.loops:
        content = add_signature(content, signature, [t.name for t in graph.inputs], [t.name for t in graph.outputs])
    elif signature != SIGNATURE:
        content = rename_signature(content, signature)
    if precision == "dynamic":
        content = unpack_transposed_kernels(content)
    if not quantized:
        return Converted(content=content)
    content = separate_biases(content) if precision == "int16x8" else widen_degenerate_scales(content)[0]
    return _slim(content, start, scales, drop_names=drop_names)


def _converter(
    graph: FrozenGraph,
    precision: str,
    io_type: str,
    calibration: Mapping[str, np.ndarray] | None,
    *,
    float_fallback: bool,
    per_tensor: bool,
) -> Generated:
    """A TFLite converter of the graph with the options of a precision."""
    import tensorflow as tf

    prepare = {"int8": for_integers, "int16x8": for_int16x8}.get(precision)
    # The way through a SavedModel follows loops; the one through the GraphDef takes a quarter of the CPU time.
    converter = _through_saved_model(graph, prepare) if graph.loops else _directly(graph, prepare)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision in ("dynamic", "int16x8"):
        # Per-channel Dense: dynamic needs FULLY_CONNECTED version 12, which runtimes up to 2.14 refuse to load; those
        # of int16x8 they compute wrongly where the input has several rows.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    if precision in ("int8", "int16x8"):
        if not calibration:
            raise ValueError(f"{precision} needs a calibration set")
        converter.representative_dataset = lambda: _samples(graph, calibration, by_name=bool(graph.loops))
        kernels = {
            "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
            "int16x8": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        }[precision]
        converter._experimental_disable_per_channel = per_tensor
        floats = [tf.lite.OpsSet.TFLITE_BUILTINS] if float_fallback else []
        converter.target_spec.supported_ops = [kernels, *floats]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, io_type)
    return converter


def _slim(content: bytes, start: bytes, scales: str, *, drop_names: bool) -> Converted:
    left: tuple[str, ...] = ()
    if scales == Scales.SLIM:
        content, found = with_slim_scales(content, float_constants(start))
        left = found.left
    return Converted(content=without_names(content) if drop_names else content, start=start, left=left)


def _through_saved_model(graph: FrozenGraph, prepare: Prepare | None) -> Generated:
    import tensorflow as tf

    module, function = thaw(graph, prepare=prepare)
    return tf.lite.TFLiteConverter.from_concrete_functions([function], module)


def _directly(graph: FrozenGraph, prepare: Prepare | None) -> Generated:
    """A TFLite converter whose `convert()` starts from the GraphDef."""
    from types import MethodType, SimpleNamespace

    import tensorflow as tf
    from tensorflow.core.framework.graph_debug_info_pb2 import GraphDebugInfo
    from tensorflow.lite.python.lite import TFLiteConverterBaseV2

    definition = read_graph_def(graph, prepare=prepare)
    ends = [
        [SimpleNamespace(name=name, shape=tf.TensorShape(t.shape), dtype=tf.as_dtype(t.dtype)) for name, t in named]
        for named in (
            [(t.node, t) for t in graph.inputs],
            list(zip(named_outputs(definition, graph), graph.outputs, strict=True)),
        )
    ]
    converter = TFLiteConverterBaseV2()
    converter._trackable_obj = SimpleNamespace(graph_debug_info=GraphDebugInfo())  # where it looks for source lines
    convert = TFLiteConverterBaseV2.convert
    converter.convert = MethodType(lambda self: convert(self, definition, *ends), converter)
    return converter


def _in_two_steps(converter: Generated, kept: list[bytes], integers: Callable[[bytes], bytes] | None) -> None:
    """Let `kept` have the float file that the quantizer starts from: batch normalisations are folded into it, and its
    constants have the names that they have in the integer file. With `integers` it has the calibrated ranges, and
    that makes the integer file of it."""
    quantize = converter._quantize

    def quantizing(content: bytes, *rest: object) -> bytes:
        if integers is None:
            kept.append(bytes(content))
            return bytes(quantize(content, *rest))
        converter._experimental_calibrate_only = True
        kept.append(bytes(quantize(content, *rest)))
        return integers(kept[-1])

    converter._quantize = quantizing


def named_outputs(definition: GraphDef, graph: FrozenGraph) -> list[str]:
    """Give each output a node of its own, under its own name where that is free."""
    taken = {node.name for node in definition.node}
    names = []
    for tensor in graph.outputs:
        name = tensor.name
        while name in taken:
            name += "_output"
        taken.add(name)
        node = definition.node.add(name=name, op="Identity", input=[tensor.node.removesuffix(":0")])
        node.attr["T"].type = _dtype_number(tensor.dtype)
        names.append(f"{name}:0")
    return names


def _dtype_number(dtype: str) -> int:
    import tensorflow as tf

    return int(tf.as_dtype(dtype).as_datatype_enum)


def _samples(graph: FrozenGraph, calibration: Mapping[str, np.ndarray], *, by_name: bool) -> Iterator[object]:
    """One sample (or batch) after the other: arrays in the order of the inputs, or a dict by input name."""
    batch = max(t.shape[0] or 1 for t in graph.inputs)
    count = min(len(array) for array in calibration.values())
    for index in range(0, max(1, count - batch + 1), batch):
        rows = np.arange(index, index + batch) % count  # too few for a batch: some twice
        sample = {t.name: calibration[t.name][rows].astype(t.dtype) for t in graph.inputs}
        yield sample if by_name else list(sample.values())


def positive_zeros(content: bytes) -> bytes:
    """The same model with +0.0 for -0.0 in its float constants.

    Folding a batch normalisation of negative scale into a pruned kernel turns its zeros into -0.0: equal in value, but
    two byte patterns compress worse than one.
    """
    import tflite

    buffer = bytearray(content)
    model: Generated = tflite.Model.GetRootAs(buffer, 0)
    for part in range(model.SubgraphsLength()):
        subgraph = model.Subgraphs(part)
        for index in range(subgraph.TensorsLength()):
            tensor = subgraph.Tensors(index)
            words = {tflite.TensorType.FLOAT32: "<u4", tflite.TensorType.FLOAT16: "<u2"}.get(tensor.Type())
            stored = model.Buffers(tensor.Buffer())
            if words is None or stored.DataLength() == 0:
                continue
            bits = stored.DataAsNumpy().view(words)  # a view into `buffer`
            bits[bits == (1 << (8 * bits.itemsize - 1))] = 0
    return bytes(buffer)

"""What precision a file that others made is in, read off the file."""

from __future__ import annotations

from edgeprune.formats.contents import Contents
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.coreml.storage import weights_of
from edgeprune.formats.graph import Graph
from edgeprune.formats.weights import Role

__all__ = ["computed_precision", "coreml_precision", "onnx_precision", "tflite_precision"]

_SMALL = frozenset({"int8", "uint8", "int4", "uint4", "int2"})


def tflite_precision(graph: Graph) -> str:
    """float32, float16, dynamic, int8-weights, int8 or int16x8: by the types of the weights and of what operations
    write. Weights of int8 that are unpacked before any operation reads them make int8-weights."""
    weights = {tensor.dtype for tensor in graph.weights}
    written = {graph.tensors[index].dtype for op in graph.ops for index in op.outputs if index >= 0}
    if weights & _SMALL:
        if "int16" in written:
            return "int16x8"
        if written & {"int8", "uint8"}:
            return "int8"
        reading = [op for op in graph.ops if any(i >= 0 and graph.tensors[i].dtype in _SMALL for i in op.inputs)]
        return "int8-weights" if all(op.kind == "DEQUANTIZE" for op in reading) else "dynamic"
    return "float16" if "float16" in weights | {t.dtype for t in graph.tensors if t.constant} else "float32"


def coreml_precision(package: Package) -> str:
    """float32, float16, or how the weights are compressed: int8, int4, palette, sparse, or two of these joined by "-";
    w8a8 stands for int8 where activations are quantized too."""
    encodings = {weight.encoding for weight in weights_of(package)}
    compressed = sorted(encodings - {"float32", "float16"}, key=lambda word: (len(word), "int4" in word))
    operations = package.program.operations if package.program else ()
    if compressed:
        told = compressed[-1].replace("+", "-")
        return told.replace("int8", "w8a8") if any(operation.kind == "quantize" for operation in operations) else told
    half = any(port.dtype == "float16" for operation in operations for port in operation.outputs)
    return "float16" if half else "float32"


def onnx_precision(contents: Contents) -> str:
    """float32, float16, int8 (activations too) or dynamic (weights alone): by the types of the weights and by what
    quantizes activations."""
    weights = {array.precision for layer in contents.layers for array in layer.arrays if array.role is Role.WEIGHT}
    if weights & _SMALL:
        kinds = {layer.kind for layer in contents.layers}
        return "int8" if kinds & {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"} else "dynamic"
    return "float16" if "float16" in weights else "float32"


def computed_precision(stored: str) -> str:
    """What a Core ML program of this precision computes in: compressed weights are decompressed to float16 before they
    are multiplied, but where activations are integers too."""
    return "float32" if stored == "float32" else "w8a8" if stored.endswith("w8a8") else "float16"

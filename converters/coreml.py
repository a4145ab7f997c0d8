"""GraphDef -> Core ML `.mlpackage` (mlprogram). Runs in the child process of `edgeprune.converters.session`."""

from __future__ import annotations

import json
import shutil
import struct
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.converters.frozen import FrozenGraph, thaw

__all__ = ["PRECISIONS", "TARGETS", "convert_coreml", "weights_of_package"]

PRECISIONS = ("float32", "float16", "sparse", "int8")
# Deployment target -> whether weights can be stored compressed (constexpr ops came with iOS 16; coremltools 9 guide).
TARGETS = {"iOS15": False, "iOS16": True, "iOS17": True, "iOS18": True}

# weight.bin, version 2: blobs with a 64-byte header each (coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp).
BLOB_SENTINEL = 0xDEADBEEF
BLOB_WORDS = {1: "<u2", 2: "<u4"}  # float16, float32


def convert_coreml(graph: FrozenGraph, out: Path, *, precision: str, target: str) -> None:
    """Write the package `out`. Inputs and outputs keep their names and are float32 (or int32) arrays.

    float16 computes and stores in float16; sparse stores the non-zeros and a bit mask; int8 stores weights as int8 with
    one symmetric scale per output channel (zeros stay zeros) and computes in float16.
    """
    import coremltools as ct

    _, function = thaw(graph)
    compute = ct.precision.FLOAT32 if precision == "float32" else ct.precision.FLOAT16
    model = ct.convert(
        [function],
        source="tensorflow",
        convert_to="mlprogram",
        inputs=[_tensor_type(ct, t.name, t.shape, t.dtype) for t in graph.inputs],
        minimum_deployment_target=getattr(ct.target, target),
        compute_precision=compute,
        skip_model_load=True,
    )
    model = _compressed(model, precision)
    spec = model.get_spec()
    for made, wanted in _output_renames(function, spec, graph):
        ct.utils.rename_feature(spec, made, wanted)
    renamed = ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
    scratch = out.with_name(f".{out.name}.part.mlpackage")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        renamed.save(str(scratch))
        _finish(scratch)
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tensor_type(ct: Any, name: str, shape: tuple[int, ...], dtype: str) -> Any:
    return ct.TensorType(name=name, shape=shape, dtype=np.int32 if dtype.startswith("int") else np.float32)


def _compressed(model: Any, precision: str) -> Any:
    import coremltools.optimize.coreml as cto

    if precision == "sparse":
        # The defaults skip tensors below 2048 elements or half zeros without a word. A mask costs one bit an element,
        # so float16 pays from 1/16 zeros on.
        keep: Any = cto.OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=0.1, weight_threshold=64)
        return cto.prune_weights(model, cto.OptimizationConfig(global_config=keep))
    if precision == "int8":
        keep = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=64)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=keep))
    return model


def _output_renames(function: Any, spec: Any, graph: FrozenGraph) -> list[tuple[str, str]]:
    """(name given by the converter, name wanted). The converter calls outputs Identity, Identity_1, ... in the order
    in which the function returns them; a function that returns a dict returns it sorted by key."""
    made = [output.name for output in spec.description.output]
    returned = [t.name.split(":")[0] for t in function.outputs]
    wanted = sorted(t.name for t in graph.outputs)
    if sorted(made) != sorted(returned):
        raise ValueError(f"the converter named the outputs {made}, expected {returned}")
    # Two steps, so that a wanted name that is already in use by another output cannot collide.
    first = [(name, f"edgeprune_output_{index}") for index, name in enumerate(returned)]
    second = [(f"edgeprune_output_{index}", name) for index, name in enumerate(wanted)]
    return first + second


def _finish(package: Path) -> None:
    """Same model, same bytes: zeros of one sign, protobuf maps in key order, identifiers that depend on names only."""
    from coremltools.proto import Model_pb2

    for file in package.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.name == "weight.bin":
            _positive_zeros(file)
        if file.suffix == ".mlmodel":
            spec = Model_pb2.Model.FromString(file.read_bytes())
            file.write_bytes(spec.SerializeToString(deterministic=True))
    manifest = package / "Manifest.json"
    text = manifest.read_text()
    for drawn, entry in json.loads(text)["itemInfoEntries"].items():
        text = text.replace(drawn, str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])).upper())
    manifest.write_text(json.dumps(json.loads(text), indent=4, sort_keys=True) + "\n")


def _positive_zeros(path: Path) -> None:
    """Write +0.0 for -0.0 in the float blobs of a weight.bin (see `edgeprune.converters.tflite.positive_zeros`)."""
    content = bytearray(path.read_bytes())
    count, _version = struct.unpack_from("<II", content, 0)
    header = 64
    for _ in range(count):
        sentinel, kind, size, start = struct.unpack_from("<IIQQ", content, header)
        if sentinel != BLOB_SENTINEL or start + size > len(content):
            raise ValueError(f"{path.name}: not a weight file of version 2 (blob header at byte {header})")
        if kind in BLOB_WORDS:
            bits = np.frombuffer(content, BLOB_WORDS[kind], count=size // int(BLOB_WORDS[kind][-1]), offset=start)
            bits[bits == (1 << (8 * bits.itemsize - 1))] = 0
        header = (start + size + 63) // 64 * 64
    path.write_bytes(content)


# MIL op -> its inputs that are multiplied weights.
WEIGHT_INPUTS = {"conv": "weight", "conv_transpose": "weight", "linear": "weight", "gather": "x", "matmul": "y"}


def weights_of_package(package: Path) -> dict[str, int]:
    """Elements and zeros of the multiplied weights, read back from the saved package (compressed ones decoded)."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    elements = zeros = 0
    seen: set[str] = set()
    for function in program.functions.values():
        for op in function.operations:
            source = _constant_behind(op)
            if source is None or source.name in seen:
                continue
            seen.add(source.name)
            values = _decoded(source)
            if values is not None and values.ndim >= 2:
                elements += values.size
                zeros += int(values.size - np.count_nonzero(values))
    return {"elements": elements, "zeros": zeros}


def _constant_behind(op: Any) -> Any:
    name = WEIGHT_INPUTS.get(op.op_type)
    variable = op.inputs.get(name) if name else None
    source = getattr(variable, "op", None)
    while source is not None and source.op_type == "cast":
        source = source.inputs["x"].op
    return source if source is not None and source.op_type.startswith("const") else None


def _decoded(op: Any) -> np.ndarray | None:
    values = op.outputs[0].val if op.op_type == "const" else op.materialized_val_inference()
    return values if isinstance(values, np.ndarray) and values.dtype.kind in "fiu" else None

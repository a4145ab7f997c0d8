"""GraphDef -> Core ML `.mlpackage` (mlprogram). Runs in the child process of `edgeprune.converters.session`."""

from __future__ import annotations

import json
import shutil
import struct
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgeprune.artifact import files_of
from edgeprune.checker.size.codecs import CODECS
from edgeprune.converters.coreml_activations import found_ranges, with_integer_activations
from edgeprune.converters.exports import INTEGER_ACTIVATIONS
from edgeprune.converters.frozen import FrozenGraph, FrozenTensor, thaw
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.palettes import with_tables
from edgeprune.converters.quantizer import Ranges
from edgeprune.converters.types import Generated, GraphDef
from edgeprune.formats.coreml.mil_reader import read_coreml
from edgeprune.formats.coreml.storage import storage_of
from edgeprune.formats.metadata import labelled_output

__all__ = ["PREDICTED", "convert_coreml", "float_program", "sparse_counterpart"]

# The name that Core ML's own classifiers give to the predicted class.
PREDICTED = "classLabel"
# coremltools skips tensors below 2048 elements without a word; a table or a scale pays from about this size on.
SMALLEST_TENSOR = 64
BLOCK = 32  # weights of 4 bits that share a scale (the usual size of OpLinearQuantizerConfig)

# A sparse encoding must be at least this much smaller than the same weights without it.
LEAST_GAIN = 0.995
WEAK_MASK = -3e4
LARGEST_HALF = float(np.finfo(np.float16).max)

# weight.bin, version 2: blobs with a 64-byte header each (coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp).
BLOB_SENTINEL = 0xDEADBEEF
BLOB_WORDS = {1: "<u2", 2: "<u4"}  # float16, float32


def sparse_counterpart(precision: str) -> str | None:
    """The precision without the bit mask, which a sparse encoding must beat; None for those that are not sparse."""
    if precision == "sparse":
        return "float16"
    return precision.removeprefix("sparse-") if precision.startswith("sparse-") else None


def convert_coreml(
    graph: FrozenGraph,
    out: Path,
    *,
    precision: str,
    options: AppOptions,
    calibration: Mapping[str, np.ndarray] | None = None,
    ranges: Ranges | None = None,
    tables: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the package `out`. Inputs and outputs keep their names; arrays are float32 or int32.

    float32 and float16 compute and store in that type. All others compute in float16: int8 stores one symmetric scale
    for each output channel (zeros stay zeros), int4 one for each 32 inputs of it, paletteN a table of 2^N values for
    each tensor (k-means), sparse a bit mask and the non-zeros, and sparse-X a bit mask and the non-zeros as X. w8a8 has
    the weights of int8 and int8 activations, whose ranges come from `calibration` (arrays [samples, ...] by input name,
    pixels of an image input), but for values of the float16 program that `ranges` names. With `tables`, float16 values
    by the names of constants, those constants are stored as indexes into them and all others as they are.

    Raises ValueError when a sparse encoding makes the download larger than the same weights without the mask.
    """
    _, function = thaw(graph, prepare=None if precision == "float32" else _weaken_masks)
    model = float_program(graph, function, precision, options)
    if precision in INTEGER_ACTIVATIONS:
        if not calibration:
            raise ValueError(f"{precision} needs a calibration set")
        model = with_integer_activations(model, found_ranges(model, calibration, ranges or {}))
    stored = _compressed(model, precision) if tables is None else with_tables(model, tables)
    _write(stored, out, graph, function, options)
    plain = sparse_counterpart(precision)
    if plain is not None:
        _refuse_larger(
            out, precision, plain, lambda to: _write(_compressed(model, plain), to, graph, function, options)
        )


def float_program(graph: FrozenGraph, function: Generated, precision: str, options: AppOptions) -> Generated:
    """The model before anything is compressed, in float32 for that precision and in float16 for all others."""
    import coremltools as ct

    register_missing_operations()
    return ct.convert(
        [function],
        source="tensorflow",
        convert_to="mlprogram",
        inputs=[_input_type(ct, tensor, options) for tensor in graph.inputs],
        classifier_config=_classifier(ct, graph, function, options),
        minimum_deployment_target=getattr(ct.target, options.target),
        compute_precision=ct.precision.FLOAT32
        if precision == "float32"
        else ct.transform.FP16ComputePrecision(op_selector=_fits_half),
        pass_pipeline=_pipeline(ct),
        skip_model_load=True,
    )


def register_missing_operations() -> None:
    """Teach coremltools 9.0 the TensorFlow operations that Keras layers use and it lacks."""
    from coremltools.converters.mil import register_tf_op
    from coremltools.converters.mil.frontend.tensorflow.tf_op_registry import _TF_OPS_REGISTRY
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  (coremltools's own convention)
    from coremltools.converters.mil.mil import types

    if "Erfc" in _TF_OPS_REGISTRY:
        return

    def Erfc(context: Generated, node: Generated) -> None:  # noqa: N802  (registered under its name)
        """Exact GELU: 1 - erf(x)."""
        x = context[node.inputs[0]]
        context.add(node.name, mb.sub(x=np.float32(1.0), y=mb.erf(x=x), name=node.name))

    def LogicalAnd(context: Generated, node: Generated) -> None:  # noqa: N802
        """Attention masks arrive as numbers where a cast to bool was dropped on the way."""
        sides = [context[name] for name in node.inputs]
        x, y = (side if side.dtype == types.bool else mb.cast(x=side, dtype="bool") for side in sides)
        context.add(node.name, mb.logical_and(x=x, y=y, name=node.name))

    known_cast = _TF_OPS_REGISTRY["Cast"]

    def Cast(context: Generated, node: Generated) -> None:  # noqa: N802
        """A mask of integers becomes one of truth values."""
        if node.attr["DstT"] != types.bool:
            known_cast(context, node)
            return
        context.add(node.name, mb.cast(x=context[node.inputs[0]], dtype="bool", name=node.name))

    register_tf_op(Cast, override=True)
    register_tf_op(Erfc)
    register_tf_op(LogicalAnd, override=True)


def _weaken_masks(definition: GraphDef) -> None:
    """Attention adds -1e9 or so to what a mask hides: -infinity in float16, and NaN where all is hidden. Keras's own
    float16 layers take -3e4 instead, which softmax turns into the same 0."""
    import tensorflow as tf

    for node in definition.node:
        if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum:
            value = tf.make_ndarray(node.attr["value"].tensor)
            if value.size == 1 and -np.inf < value.item() < -LARGEST_HALF:
                weak = np.full(value.shape, WEAK_MASK, np.float32)
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(weak))


def _fits_half(operation: Generated) -> bool:
    """Whether an operation may compute in float16: a constant beyond its range would become infinite, and an attention
    mask (0 * -1e9) NaN."""
    for given in operation.inputs.values():
        for variable in given if isinstance(given, tuple | list) else (given,):
            value = getattr(variable, "val", None)
            if isinstance(value, np.ndarray | np.floating) and np.asarray(value).dtype.kind == "f":
                largest = np.abs(np.asarray(value, np.float64)).max(initial=0.0)
                if LARGEST_HALF < largest < np.inf:
                    return False
    return True


FUSES_SCALES = "common::fuse_elementwise_to_batchnorm"
EXACT_SCALES = "edgeprune::exact_scales"
FORGET_TYPES = "edgeprune::forget_output_types"


def _pipeline(ct: Generated) -> Generated:
    """coremltools's own passes, one behind that which turns `x * scale + shift` into a batch normalisation, and a last.

    The former leaves the default epsilon of 1e-5 beside a variance of 1, so that every such layer, folded into a
    convolution or not, comes out too small by 5e-6. The scale is made larger by as much. Behind all others the types of
    the outputs are applied, and forgotten: coremltools 9.0 looks up in them each output of a float16 classifier, also
    the label, which is none of those.
    """
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  (coremltools's own convention)
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass

    class exact_scales(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801  (registered under its name)
        def apply(self, prog: Generated) -> None:
            for function in prog.functions.values():
                for op in [op for op in function.operations if op.op_type == "batch_norm"]:
                    parts = [getattr(op, name) for name in ("mean", "variance", "gamma")]
                    mean, variance, gamma = (None if part is None else part.val for part in parts)
                    if gamma is None or mean is None or np.any(mean) or not np.all(np.asarray(variance) == 1):
                        continue
                    scale = gamma * np.sqrt(1 + np.float64(op.epsilon.val))
                    with function:
                        exact = mb.batch_norm(
                            x=op.x,
                            mean=op.mean,
                            variance=op.variance,
                            gamma=scale.astype(gamma.dtype),
                            beta=op.beta,
                            epsilon=op.epsilon,
                            name=op.name,
                            before_op=op,
                        )
                    function.replace_uses_of_var_after_op(anchor_op=op, old_var=op.outputs[0], new_var=exact)
                    function.remove_ops([op])

    class forget_output_types(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801  (registered under its name)
        def apply(self, prog: Generated) -> None:
            prog.functions["main"].set_output_types(None)

    if EXACT_SCALES not in PASS_REGISTRY:
        register_pass(namespace="edgeprune")(exact_scales)
        register_pass(namespace="edgeprune")(forget_output_types)
    pipeline = ct.PassPipeline.DEFAULT
    if FUSES_SCALES in pipeline.passes:
        pipeline.insert_pass(list(pipeline.passes).index(FUSES_SCALES) + 1, EXACT_SCALES)
    pipeline.append_pass(FORGET_TYPES)
    return pipeline


def _input_type(ct: Generated, tensor: FrozenTensor, options: AppOptions) -> Generated:
    image, shape = options.image, _shape(ct, tensor)
    if image is not None and image.name == tensor.name:
        layout = getattr(ct.colorlayout, image.color)
        bias = list(image.bias) if len(image.bias) > 1 else [image.bias[0]] * int(tensor.shape[-1] or 1)
        told = bias[0] if image.color == "GRAYSCALE" else bias
        return ct.ImageType(name=tensor.name, shape=shape, scale=image.scale, bias=told, color_layout=layout)
    kind = np.int32 if tensor.dtype.startswith("int") else np.float32
    return ct.TensorType(name=tensor.name, shape=shape, dtype=kind)


def _shape(ct: Generated, tensor: FrozenTensor) -> Generated:
    """Sizes that may change as Core ML has them: a list of shapes, or bounds (coremltools, flexible input shapes)."""
    sizes = tensor.sizes
    if sizes is None or sizes.fixed:
        return tensor.shape  # type: ignore[return-value]
    if not sizes.ranged:
        return ct.EnumeratedShapes(shapes=[list(shape) for shape in sizes.shapes], default=list(sizes.shapes[0]))
    bounds = [axis[0] if len(axis) == 1 else ct.RangeDim(*axis, default=axis[0]) for axis in sizes.axes]
    return ct.Shape(shape=tuple(bounds))


def _classifier(ct: Generated, graph: FrozenGraph, function: Generated, options: AppOptions) -> Generated | None:
    classes = _classes(graph, options)
    if classes is None:
        return None
    return ct.ClassifierConfig(
        list(options.class_labels),
        predicted_feature_name=PREDICTED,
        predicted_probabilities_output=_returned(graph, function)[classes],
    )


def _classes(graph: FrozenGraph, options: AppOptions) -> str | None:
    """The output that becomes probabilities; None without class labels."""
    labels = options.class_labels
    return labelled_output({t.name: t.shape for t in graph.outputs}, labels) if labels else None


def _returned(graph: FrozenGraph, function: Generated) -> dict[str, str]:
    """Name of an output -> the converter's name for it: Identity, Identity_1, ... in the order in which the function
    returns them; a function that returns a dict returns it sorted by key."""
    names = sorted(t.name for t in graph.outputs)
    return {name: t.name.split(":")[0] for name, t in zip(names, function.outputs, strict=True)}


def _compressed(model: Generated, precision: str) -> Generated:
    import coremltools.optimize.coreml as cto

    def everywhere(told: Generated) -> Generated:
        return cto.OptimizationConfig(global_config=told)

    joint = precision.startswith("sparse-")
    if precision.startswith("sparse"):
        # A mask costs one bit an element, so float16 pays from 1/16 zeros on.
        keep: Generated = cto.OpThresholdPrunerConfig(
            threshold=1e-12, minimum_sparsity_percentile=0.1, weight_threshold=SMALLEST_TENSOR
        )
        model = cto.prune_weights(model, everywhere(keep))
    inner = precision.removeprefix("sparse-")
    if inner == "int4":
        keep = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype="int4",
            granularity="per_block",
            block_size=BLOCK,
            weight_threshold=SMALLEST_TENSOR,
        )
        model = cto.linear_quantize_weights(model, everywhere(keep))
    if inner in ("int8", "w8a8", "int4"):  # of int4: kernels whose inputs are no multiple of a block
        keep = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=SMALLEST_TENSOR)
        return cto.linear_quantize_weights(model, everywhere(keep), joint_compression=joint)
    if inner.startswith("palette"):
        bits = int(inner.removeprefix("palette"))
        keep = cto.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=max(SMALLEST_TENSOR, 1 << bits))
        return cto.palettize_weights(model, everywhere(keep), joint_compression=joint)
    return model


def _write(model: Generated, out: Path, graph: FrozenGraph, function: Generated, options: AppOptions) -> None:
    import coremltools as ct

    spec = model.get_spec()
    for made, wanted in _output_renames(function, spec, graph, _classes(graph, options)):
        ct.utils.rename_feature(spec, made, wanted)
    named = ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
    for field, text in (
        ("author", options.author),
        ("license", options.license),
        ("short_description", options.description),
        ("version", options.version),
    ):
        if text:
            setattr(named, field, text)
    scratch = out.with_name(f".{out.name}.part.mlpackage")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        named.save(str(scratch))
        _finish(scratch)
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _refuse_larger(out: Path, precision: str, plain: str, write: Callable[[Path], None]) -> None:
    twin = out.with_name(f".{out.name}.twin.mlpackage")
    try:
        write(twin)
        sizes = [_download(package) for package in (out, twin)]
    finally:
        shutil.rmtree(twin, ignore_errors=True)
    encoded = any("sparse" in encoding for encoding in storage_of(read_coreml(out)).encodings)
    if not encoded or sizes[0] > LEAST_GAIN * sizes[1]:
        shutil.rmtree(out, ignore_errors=True)
        raise ValueError(
            f"{precision} does not make the download smaller: {sizes[0]:,} bytes by deflate, {sizes[1]:,} as {plain}; "
            f"the model has too few zeros, or is too small: prune it first, or use --precision {plain}"
        )


def _download(package: Path) -> int:
    return sum(CODECS["deflate"].compressed_bytes(file.read_bytes()) for file in files_of(package))


def _output_renames(
    function: Generated, spec: Generated, graph: FrozenGraph, classes: str | None
) -> list[tuple[str, str]]:
    """(name given by the converter, name wanted). `classes` is the output that became probabilities by class."""
    returned, extra = _returned(graph, function), []
    if classes is not None:
        returned[classes], extra = spec.description.predictedProbabilitiesName, [PREDICTED]
    made = [output.name for output in spec.description.output]
    if sorted(made) != sorted([*returned.values(), *extra]):
        raise ValueError(f"the converter named the outputs {made}, expected {[*returned.values(), *extra]}")
    # Two steps, so that a wanted name that is already in use by another output cannot collide.
    first = [(name, f"edgeprune_output_{index}") for index, name in enumerate(returned.values())]
    second = [(f"edgeprune_output_{index}", name) for index, name in enumerate(returned)]
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
            spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
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

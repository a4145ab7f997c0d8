"""What can be exported: one line for each format, and what its files can be. Light: no NumPy, no TensorFlow."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from edgeprune.artifact import SUFFIXES, DeploymentTarget, Format, IoType, Precision
from edgeprune.errors import MissingExtra, UsageError
from edgeprune.host.toml_values import check_choice

__all__ = [
    "EXPORTS",
    "INTEGER",
    "INTEGER_ACTIVATIONS",
    "IO_TYPES",
    "OPSET",
    "OPSETS",
    "PALETTES",
    "SIGNATURE",
    "TARGETS",
    "USUAL",
    "calibrated",
    "check_export",
    "check_io_type",
    "check_opset",
    "check_sparse_kernels",
    "format_of",
]

EXPORTS: Mapping[Format, tuple[Precision, ...]] = {
    Format.TFLITE: (Precision.FLOAT32, Precision.FLOAT16, Precision.DYNAMIC, Precision.INT8, Precision.INT16X8),
    Format.COREML: (
        Precision.FLOAT32,
        Precision.FLOAT16,
        Precision.INT8,
        Precision.INT4,
        Precision.W8A8,
        Precision.PALETTE2,
        Precision.PALETTE4,
        Precision.PALETTE6,
        Precision.PALETTE8,
        Precision.SPARSE,
        Precision.SPARSE_INT8,
        Precision.SPARSE_W8A8,
        Precision.SPARSE_PALETTE4,
        Precision.SPARSE_PALETTE6,
        Precision.SPARSE_PALETTE8,
    ),
    Format.ONNX: (Precision.FLOAT32, Precision.FLOAT16, Precision.INT8),
}
USUAL = {  # when none is asked for
    Format.TFLITE: Precision.FLOAT32,
    Format.COREML: Precision.FLOAT16,
    Format.ONNX: Precision.FLOAT32,
}
OPSETS = (13, 18)  # of an .onnx file, from the first that has scales per channel to the last that tf2onnx writes
OPSET = 17  # when none is asked for
SIGNATURE = "serving_default"  # of a .tflite file, as TensorFlow names it
INTEGER = (Precision.INT8, Precision.INT16X8)  # of TFLite: both weights and activations are integers
PALETTES = (Precision.PALETTE2, Precision.PALETTE4, Precision.PALETTE6, Precision.PALETTE8)  # of Core ML
INTEGER_ACTIVATIONS = (Precision.W8A8, Precision.SPARSE_W8A8)  # of Core ML
IO_TYPES = {
    Precision.INT8: (IoType.FLOAT32, IoType.INT8, IoType.UINT8),
    Precision.INT16X8: (IoType.FLOAT32, IoType.INT16),
}
# Deployment target -> the precisions that it brought: constexpr operations came with iOS 16, `quantize` of activations
# with iOS 17, two constexpr operations in a row and weights of 4 bits with iOS 18 (coremltools 9 guide, "Optimization
# overview").
TARGETS: Mapping[DeploymentTarget, tuple[Precision, ...]] = {
    DeploymentTarget.IOS15: (Precision.FLOAT32, Precision.FLOAT16),
    DeploymentTarget.IOS16: (
        Precision.INT8,
        Precision.PALETTE2,
        Precision.PALETTE4,
        Precision.PALETTE6,
        Precision.PALETTE8,
        Precision.SPARSE,
    ),
    DeploymentTarget.IOS17: (Precision.W8A8,),
    DeploymentTarget.IOS18: (
        Precision.INT4,
        Precision.SPARSE_INT8,
        Precision.SPARSE_W8A8,
        Precision.SPARSE_PALETTE4,
        Precision.SPARSE_PALETTE6,
        Precision.SPARSE_PALETTE8,
    ),
}
# What to export for an older target in place of a precision; of those with a mask and something more, either.
_OLDER = {Precision.INT4: "int8 or palette4", Precision.W8A8: "int8"}


def format_of(path: Path) -> Format:
    """The format of a file to be written, by its ending. Raises UsageError."""
    known = {ending: model_format for model_format, ending in SUFFIXES.items()}
    if path.suffix not in known:
        raise UsageError(f"{path}: an exported file ends in {' or '.join(known)}")
    return known[path.suffix]


def calibrated(model_format: Format, precision: Precision) -> bool:
    """Whether the scales of a file's activations are learnt from samples."""
    learning = {Format.TFLITE: INTEGER, Format.COREML: INTEGER_ACTIVATIONS, Format.ONNX: (Precision.INT8,)}
    return precision in learning.get(model_format, ())


def check_export(model_format: Format, precision: Precision, target: str = DeploymentTarget.IOS16) -> None:
    """Raise UsageError for a combination that cannot be exported. Nothing heavy is imported."""
    check_choice("export format", str(model_format), EXPORTS)
    known = EXPORTS[model_format]
    if precision not in known:
        raise UsageError(f"{model_format} has no precision {str(precision)!r}; it has: {', '.join(known)}")
    if model_format is Format.COREML:
        if importlib.util.find_spec("coremltools") is None:
            raise MissingExtra("coremltools", "convert", "a Core ML export")
        _check_target(precision, target)
    if model_format is Format.ONNX:
        lacking = [module for module in ("tf2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(module) is None]
        if lacking:
            raise MissingExtra(" and ".join(lacking), "onnx", "an ONNX export")


def _check_target(precision: Precision, named: str) -> None:
    check_choice("deployment target", named, DeploymentTarget)
    target, known = DeploymentTarget(named), list(DeploymentTarget)
    least = next(each for each, brought in TARGETS.items() if precision in brought)
    if known.index(target) < known.index(least):
        newer = "" if least is known[-1] else " or newer"
        mask = precision.startswith("sparse-")
        older = f"{precision.removeprefix('sparse-')} or sparse" if mask else _OLDER.get(precision, "float16")
        raise UsageError(
            f"Core ML {precision} needs {least.replace('iOS', 'iOS ')}{newer} and the deployment target is {target}; "
            f"choose the deployment target {least}{newer}, or export {older}"
        )
    if precision.endswith(("palette2", "palette4", "palette6", "palette8")) and not importlib.util.find_spec("sklearn"):
        raise MissingExtra("scikit-learn", "convert", "a palette of weights")


def check_opset(model_format: Format, opset: int | None) -> None:
    """Raise UsageError for an opset that no file here can have."""
    least, most = OPSETS
    if opset is not None and model_format is not Format.ONNX:
        raise UsageError(f"--opset is for onnx; got {model_format}")
    if opset is not None and not least <= opset <= most:
        raise UsageError(f"--opset is a number from {least} to {most}; got {opset}")


def check_sparse_kernels(model_format: Format, precision: Precision, *, wanted: bool) -> None:
    """Raise UsageError for files that have no sparse kernels."""
    if wanted and (model_format is not Format.TFLITE or precision not in (Precision.FLOAT32, Precision.FLOAT16)):
        raise UsageError(
            f"--sparse-kernels is for tflite float32 and float16, which XNNPACK computes in floating point; got "
            f"{model_format} {precision}; of int8 weights: edgeprune variant FILE --sparse-kernels --precision "
            "int8-weights"
        )


def check_io_type(model_format: Format, precision: Precision, io_type: str) -> None:
    """Raise UsageError for inputs and outputs that a file of this precision cannot have."""
    plain = (IoType.FLOAT32,)
    known = IO_TYPES.get(precision, plain) if model_format is Format.TFLITE else plain
    if io_type not in list(known):
        raise UsageError(f"{model_format} {precision} has inputs and outputs of {' or '.join(known)}, not {io_type}")

"""What can be exported: one line for each format, and what its files can be. Light: no NumPy, no TensorFlow."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from edgeprune.artifact import DeploymentTarget, Format, IoType, Precision
from edgeprune.errors import MissingExtra, UsageError
from edgeprune.host.toml_values import check_choice

__all__ = [
    "EXPORTS",
    "INTEGER",
    "IO_TYPES",
    "SIGNATURE",
    "SUFFIXES",
    "TARGETS",
    "USUAL",
    "check_export",
    "check_io_type",
    "format_of",
]

EXPORTS: Mapping[Format, tuple[Precision, ...]] = {
    Format.TFLITE: (Precision.FLOAT32, Precision.FLOAT16, Precision.DYNAMIC, Precision.INT8, Precision.INT16X8),
    Format.COREML: (
        Precision.FLOAT32,
        Precision.FLOAT16,
        Precision.INT8,
        Precision.PALETTE2,
        Precision.PALETTE4,
        Precision.PALETTE6,
        Precision.PALETTE8,
        Precision.SPARSE,
        Precision.SPARSE_INT8,
        Precision.SPARSE_PALETTE4,
        Precision.SPARSE_PALETTE6,
        Precision.SPARSE_PALETTE8,
    ),
}
USUAL = {Format.TFLITE: Precision.FLOAT32, Format.COREML: Precision.FLOAT16}  # when none is asked for
SIGNATURE = "serving_default"  # of a .tflite file, as TensorFlow names it
SUFFIXES = {Format.TFLITE: ".tflite", Format.COREML: ".mlpackage"}
INTEGER = (Precision.INT8, Precision.INT16X8)  # of TFLite: both weights and activations are integers
IO_TYPES = {
    Precision.INT8: (IoType.FLOAT32, IoType.INT8, IoType.UINT8),
    Precision.INT16X8: (IoType.FLOAT32, IoType.INT16),
}
# Deployment target -> what its weights can be: constexpr operations came with iOS 16, two of them in a row with iOS 18
# (coremltools 9 guide, "Optimization overview").
TARGETS = {
    DeploymentTarget.IOS15: "plain",
    DeploymentTarget.IOS16: "compressed",
    DeploymentTarget.IOS17: "compressed",
    DeploymentTarget.IOS18: "joint",
}


def format_of(path: Path) -> Format:
    """The format of a file to be written, by its ending. Raises UsageError."""
    known = {ending: model_format for model_format, ending in SUFFIXES.items()}
    if path.suffix not in known:
        raise UsageError(f"{path}: an exported file ends in {' or '.join(known)}")
    return known[path.suffix]


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


def _check_target(precision: Precision, named: str) -> None:
    check_choice("deployment target", named, DeploymentTarget)
    target = DeploymentTarget(named)
    joint, compressed = precision.startswith("sparse-"), precision not in (Precision.FLOAT32, Precision.FLOAT16)
    if joint and TARGETS[target] != "joint":
        raise UsageError(
            f"Core ML {precision} weights need iOS 18 and the deployment target is {target}; "
            f"choose the deployment target iOS18, or export {precision.removeprefix('sparse-')} or sparse"
        )
    if compressed and TARGETS[target] == "plain":
        raise UsageError(
            f"Core ML {precision} weights need iOS 16 or newer and the deployment target is {target}; "
            "choose the deployment target iOS16 or newer, or export float16"
        )
    if precision.endswith(("palette2", "palette4", "palette6", "palette8")) and not importlib.util.find_spec("sklearn"):
        raise MissingExtra("scikit-learn", "convert", "a palette of weights")


def check_io_type(model_format: Format, precision: Precision, io_type: str) -> None:
    """Raise UsageError for inputs and outputs that a file of this precision cannot have."""
    plain = (IoType.FLOAT32,)
    known = IO_TYPES.get(precision, plain) if model_format is Format.TFLITE else plain
    if io_type not in list(known):
        raise UsageError(f"{model_format} {precision} has inputs and outputs of {' or '.join(known)}, not {io_type}")

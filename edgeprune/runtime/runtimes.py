"""The interpreters that can be installed. Light imports only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.artifact import Format

__all__ = ["ONNX_RUNTIMES", "RUNTIMES", "RuntimeSpec", "runtimes_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSpec:
    """An interpreter that can be installed: its distribution, the module with class Interpreter, and our extra."""

    distribution: str
    module: str
    extra: str


# Of .tflite files. Oldest first: a file that the oldest one runs, the newer ones run too.
RUNTIMES: dict[str, RuntimeSpec] = {
    "tflite-runtime": RuntimeSpec(distribution="tflite-runtime", module="tflite_runtime.interpreter", extra="tflite"),
    "litert": RuntimeSpec(distribution="ai-edge-litert", module="ai_edge_litert.interpreter", extra="litert"),
}
ONNX_RUNTIMES: dict[str, RuntimeSpec] = {
    "onnxruntime": RuntimeSpec(distribution="onnxruntime", module="edgeprune.runtime.onnx_interpreter", extra="onnx"),
}


def runtimes_of(model_format: Format) -> Mapping[str, RuntimeSpec]:
    """Those that run files of a format here, oldest first; none for Core ML."""
    return {Format.TFLITE: RUNTIMES, Format.ONNX: ONNX_RUNTIMES}.get(model_format, {})

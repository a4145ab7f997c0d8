"""The interpreters that can be installed. Light imports only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RUNTIMES", "RuntimeSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSpec:
    """An interpreter that can be installed: its distribution, the module with class Interpreter, and our extra."""

    distribution: str
    module: str
    extra: str


# Oldest first: a file that the oldest one runs, the newer ones run too.
RUNTIMES: dict[str, RuntimeSpec] = {
    "tflite-runtime": RuntimeSpec(distribution="tflite-runtime", module="tflite_runtime.interpreter", extra="tflite"),
    "litert": RuntimeSpec(distribution="ai-edge-litert", module="ai_edge_litert.interpreter", extra="litert"),
}

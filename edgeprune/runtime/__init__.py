"""Inference next door: `session` is the parent's side, `worker` the child process that holds the interpreter."""

from __future__ import annotations

from edgeprune.runtime.session import (
    RUNTIMES,
    RunResult,
    RuntimeSpec,
    TracedTensor,
    TraceResult,
    installed_runtimes,
    run_tflite,
    trace_tflite,
)

__all__ = [
    "RUNTIMES",
    "RunResult",
    "RuntimeSpec",
    "TraceResult",
    "TracedTensor",
    "installed_runtimes",
    "run_tflite",
    "trace_tflite",
]

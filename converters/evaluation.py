"""Judge an exported .tflite file: run it with a real interpreter, score it, compare it with the Keras model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.artifact import Artifact
from edgeprune.converters.parity import OutputParity, compare_outputs, refuse_senseless
from edgeprune.datasets import InputSpecs, Samples
from edgeprune.errors import ConversionError, RuntimeFailure
from edgeprune.ledger import RuntimeRun
from edgeprune.metrics import Metric
from edgeprune.runtime.session import RunResult, installed_runtimes, run_tflite

__all__ = ["Evaluated", "evaluate_file"]

# int8 on tflite-runtime 2.14 takes 15 times as long as on LiteRT 2.3 (x86); this many tell whether it agrees.
OLDER_RUNTIME_SAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What running a file told. `value` is None with the reason in `note` when nothing was scored."""

    value: float | None = None
    samples: int = 0
    runtime: str = ""
    parity: tuple[OutputParity, ...] = ()
    runs: tuple[RuntimeRun, ...] = ()
    note: str | None = None


def evaluate_file(
    artifact: Artifact,
    samples: Samples,
    specs: InputSpecs,
    expected: Mapping[str, np.ndarray],
    metric: Metric | None,
    *,
    every_runtime: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Run a .tflite file over all samples with the newest installed runtime and, if asked, over the first
    OLDER_RUNTIME_SAMPLES with each older one.

    `expected` are the Keras model's outputs for the same samples. Without a metric (no targets) only parity is
    computed. Raises ConversionError when no installed runtime runs the file or when its outputs make no sense.
    """
    inputs = {name: samples.inputs[name].astype(dtype) for name, (_, dtype) in specs.items()}
    names = list(installed_runtimes())  # oldest first
    if not names:
        return Evaluated(note="not measured: no TFLite runtime is installed (pip install 'edgeprune[litert]')")
    results: dict[str, RunResult] = {}
    runs: list[RuntimeRun] = []
    for name in reversed(names):
        if results and not every_runtime:
            break
        try:
            count = min(len(samples), OLDER_RUNTIME_SAMPLES) if results else len(samples)
            some = {key: array[:count] for key, array in inputs.items()}
            found = run_tflite(artifact.path, some, runtime=name, on_progress=on_progress)
            runs.append(_scored(found, expected, samples, metric))
            results[name] = found
        except RuntimeFailure as cause:
            reason = str(cause).replace(str(artifact.path), artifact.path.name)
            runs.append(RuntimeRun(name=name, version=installed_runtimes()[name], ran=False, reason=reason))
    if not results:
        raise ConversionError(f"{artifact.path.name}: no installed runtime runs the file; {runs[0].reason}")
    newest = next(iter(results.values()))
    parity = compare_outputs(expected, newest.outputs)
    refuse_senseless(artifact.path.name, str(artifact.precision), expected, newest.outputs, parity)
    value = next(run.value for run in runs if run.ran)
    return Evaluated(
        value=value,
        samples=newest.samples,
        runtime=f"{newest.runtime} {newest.version}",
        parity=parity,
        runs=tuple(reversed(runs)),
        note=None if value is not None else "not measured: no targets",
    )


def _scored(
    result: RunResult, expected: Mapping[str, np.ndarray], samples: Samples, metric: Metric | None
) -> RuntimeRun:
    value = None
    if metric is not None and samples.targets is not None:
        first = next(iter(expected))
        if first not in result.outputs:
            raise ConversionError(f"the file has no output {first!r}; it has: {', '.join(result.outputs)}")
        value = metric.compute(result.outputs[first], samples.targets[: result.samples])
    return RuntimeRun(name=result.runtime, version=result.version, ran=True, samples=result.samples, value=value)

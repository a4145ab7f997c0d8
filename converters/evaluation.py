"""Judge an exported file: run it, score it, compare it with the Keras model.

A .tflite file runs in a real interpreter, an .onnx file in ONNX Runtime. A Core ML package runs in Core ML itself on
macOS, elsewhere in the reference evaluator, and says so.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from edgeprune.answers import AnswerChange
from edgeprune.artifact import Artifact, Format
from edgeprune.converters.evaluator.arguments import UnknownOperationError
from edgeprune.converters.parity import compare_outputs, refuse_senseless, sqnr_db
from edgeprune.converters.pictures import pixels_of
from edgeprune.converters.session import Exported
from edgeprune.errors import ConversionError, RuntimeFailure
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.coreml.mil_reader import read_coreml
from edgeprune.formats.metadata import ImageInput
from edgeprune.ledger import MetricValue, OutputParity, RuntimeRun
from edgeprune.maker.training.answers import answer_changes
from edgeprune.maker.training.bootstrap import compared
from edgeprune.maker.training.data.columns import Column, as_type, taken
from edgeprune.maker.training.data.loading import InputSpecs
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task
from edgeprune.runtime.session import RunResult, installed_runtimes, run_onnx, run_tflite

__all__ = ["EVALUATOR", "Evaluated", "evaluate_file", "run_on_runtimes", "run_package", "strays"]

# int8 on tflite-runtime 2.14 takes 15 times as long as on LiteRT 2.3 (x86); this many tell whether it agrees.
OLDER_RUNTIME_SAMPLES = 1000
OLDER_RUNTIME_UNSCORED = 2  # without targets: enough to tell whether it computes the same
EVALUATOR_SAMPLES = 5000
# Two runtimes differ by a step or two of int8; tflite-runtime 2.14 runs some files and is 20 to 90 % of the range off.
LEAST_AGREEMENT_DB = 15.0
_INSTALL = {
    Format.TFLITE: "no TFLite runtime is installed (pip install 'edgeprune[litert]')",
    Format.ONNX: "ONNX Runtime is not installed (pip install 'edgeprune[onnx]')",
}
EVALUATOR = "edgeprune evaluator"  # of graph and weights; it does not reproduce Apple's float16 kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What running a file told. `metrics` is empty with the reason in `note` when nothing was scored; `departs` says
    how a file departs that may; `answers` are those that changed against the dense model, where that is known."""

    metrics: tuple[MetricValue, ...] = ()
    parity: tuple[OutputParity, ...] = ()
    runs: tuple[RuntimeRun, ...] = ()
    note: str | None = None
    departs: str | None = None
    answers: tuple[AnswerChange, ...] = ()


def evaluate_file(
    artifact: Artifact,
    samples: Samples,
    specs: InputSpecs,
    expected: Mapping[str, np.ndarray],
    task: Task | None,
    *,
    every_runtime: bool,
    image: ImageInput | None = None,
    tolerance: float | None = None,
    joined: Mapping[str, int] | None = None,
    dense: Mapping[str, np.ndarray] | None = None,
    may_depart: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Run a .tflite or .onnx file over all samples with the newest installed runtime and, if asked, over the first
    OLDER_RUNTIME_SAMPLES (OLDER_RUNTIME_UNSCORED without targets) with each older one; run a Core ML package over the
    first EVALUATOR_SAMPLES.

    `expected` are the Keras model's outputs for the same samples. Without a task (no targets) only parity is computed.
    `dense` are the outputs of the dense model, which metrics are held against. `image` is the package's image input:
    its pixels are (value - bias) / scale; `joined` names the axes of joined outputs (`joined_axes`). Raises
    ConversionError when no installed runtime runs the file or when its outputs make no sense (`refuse_senseless`),
    unless a .tflite file `may_depart`.
    """
    if artifact.format is Format.COREML:
        known = artifact.contents.package if isinstance(artifact, Exported) else None
        package = known or read_coreml(artifact.path)
        return _evaluate_package(
            artifact, package, samples, specs, expected, task, image, tolerance, joined, dense, on_progress
        )
    inputs = {name: as_type(samples.inputs[name], dtype) for name, (_, dtype) in specs.items()}
    if not installed_runtimes(artifact.format):
        return Evaluated(note=f"not measured: {_INSTALL[artifact.format]}")
    older = OLDER_RUNTIME_SAMPLES if samples.told else OLDER_RUNTIME_UNSCORED
    newest, tried = run_on_runtimes(
        artifact.path,
        inputs,
        model_format=artifact.format,
        every_runtime=every_runtime,
        older_samples=older,
        on_progress=on_progress,
    )
    runs = [item if isinstance(item, RuntimeRun) else _scored(item, expected, samples, task) for item in tried]
    parity = compare_outputs(expected, newest.outputs, joined)
    departs = None
    try:
        refuse_senseless(
            artifact.path.name, str(artifact.precision), expected, newest.outputs, parity, tolerance=tolerance
        )
    except ConversionError as error:
        if not may_depart:
            raise
        departs = str(error)
    metrics = _metrics(artifact, expected, newest.outputs, samples, task, dense, f"{newest.runtime} {newest.version}")
    return Evaluated(
        metrics=metrics,
        parity=parity,
        runs=tuple(reversed(runs)),
        note=None if metrics else "not measured: no targets",
        departs=departs,
        answers=_answers(expected, newest.outputs, samples, task, dense),
    )


def _metrics(
    artifact: Artifact,
    expected: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    samples: Samples,
    task: Task | None,
    dense: Mapping[str, np.ndarray] | None,
    runtime: str,
) -> tuple[MetricValue, ...]:
    """Each score of a file's outputs, and what it changed against the dense model's."""
    if task is None or not samples.told:
        return ()
    made = _by_place(expected, outputs)
    count = len(next(iter(made.values())))
    told = {name: values[:count] for name, values in samples.told.items()}
    before = None if dense is None else {name: values[:count] for name, values in dense.items()}
    found = []
    for score in task.scores:
        value, change = (score.of(made, told), None) if before is None else compared(score, before, made, told)
        found.append(
            MetricValue(
                name=score.name,
                value=value,
                samples=count,
                file=artifact.path.name,
                runtime=runtime,
                change=change,
            )
        )
    return tuple(found)


def _answers(
    expected: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    samples: Samples,
    task: Task | None,
    dense: Mapping[str, np.ndarray] | None,
) -> tuple[AnswerChange, ...]:
    """Which answers changed against the dense model's for the same samples."""
    if task is None or dense is None or not samples.told:
        return ()
    made = _by_place(expected, outputs)
    count = len(next(iter(made.values())))
    before, told = ({name: values[:count] for name, values in part.items()} for part in (dense, samples.told))
    return answer_changes(task, before, made, told)


def _by_place(expected: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A file's outputs in the model's order."""
    for name in expected:
        if name not in outputs:
            raise ConversionError(f"the file has no output {name!r}; it has: {', '.join(outputs)}")
    return {name: outputs[name] for name in expected}


def run_on_runtimes(
    path: Path,
    inputs: Mapping[str, Column],
    *,
    model_format: Format = Format.TFLITE,
    every_runtime: bool = True,
    older_samples: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[RunResult, list[RunResult | RuntimeRun]]:
    """(what the newest runtime that runs the file computed, what came of each one tried, newest first).

    A runtime that refuses the file or strays from the newest is a RuntimeRun with the reason. Older ones get the first
    `older_samples`, and are tried only with `every_runtime`. Raises ConversionError when no runtime runs the file.
    """
    run = run_onnx if model_format is Format.ONNX else run_tflite
    newest: RunResult | None = None
    tried: list[RunResult | RuntimeRun] = []
    for name, version in reversed(installed_runtimes(model_format).items()):
        if newest is not None and not every_runtime:
            break
        some = inputs if newest is None else {key: array[:older_samples] for key, array in inputs.items()}
        try:
            found = run(path, some, runtime=name, on_progress=on_progress)
        except RuntimeFailure as cause:
            reason = str(cause).replace(str(path), path.name)
            tried.append(RuntimeRun(name=name, version=version, ran=False, reason=reason))
            continue
        wrong = strays(newest.outputs, found.outputs) if newest is not None else None
        tried.append(found if wrong is None else RuntimeRun(name=name, version=version, ran=False, reason=wrong))
        newest = newest or found
    if newest is None:
        refusals = [item.reason for item in tried if isinstance(item, RuntimeRun)]
        why = refusals[0] if refusals else _INSTALL[model_format]
        raise ConversionError(f"{path.name}: no installed runtime runs the file; {why}")
    return newest, tried


def strays(newest: Mapping[str, np.ndarray], older: Mapping[str, np.ndarray]) -> str | None:
    """Why what an older runtime computes is no answer although it ran; None when it agrees with the newest one."""
    for name, values in older.items():
        same = newest[name][: len(values)]
        noise = sqnr_db(same, values)
        if not np.isfinite(values).all() or (noise is not None and noise < LEAST_AGREEMENT_DB):
            return (
                f"loads the file and computes something else: output {name!r} differs from the newest runtime's by up "
                f"to {np.abs(same.astype(np.float64) - values).max():.3g}, its range is {np.ptp(same):.3g}"
            )
    return None


def _evaluate_package(
    artifact: Artifact,
    package: Package,
    samples: Samples,
    specs: InputSpecs,
    expected: Mapping[str, np.ndarray],
    task: Task | None,
    image: ImageInput | None,
    tolerance: float | None,
    joined: Mapping[str, int] | None,
    dense: Mapping[str, np.ndarray] | None,
    on_progress: Callable[[int, int], None] | None,
) -> Evaluated:
    count = min(len(samples), EVALUATOR_SAMPLES)
    inputs = {name: taken(samples.inputs[name], slice(count), dtype) for name, (_, dtype) in specs.items()}
    if image is not None:
        inputs[image.name] = pixels_of(inputs[image.name], image)
    wanted = {name: values[:count] for name, values in expected.items()}
    try:
        outputs, runtime, version = run_package(package, inputs, on_progress)
    except UnknownOperationError as cause:
        run = RuntimeRun(name=EVALUATOR, version=metadata.version("edgeprune"), ran=False, reason=f"op {cause}")
        return Evaluated(note=f"not verified: op {cause} is not known to the evaluator", runs=(run,))
    parity = compare_outputs(wanted, outputs, joined)
    refuse_senseless(artifact.path.name, str(artifact.precision), wanted, outputs, parity, tolerance=tolerance)
    metrics = _metrics(artifact, wanted, outputs, samples, task, dense, f"{runtime} {version}")
    value = metrics[0].value if metrics else None
    return Evaluated(
        metrics=metrics,
        parity=parity,
        runs=(RuntimeRun(name=runtime, version=version, ran=True, samples=count, value=value),),
        note=None if metrics else "not measured: no targets",
        answers=_answers(wanted, outputs, samples, task, dense),
    )


def run_package(
    package: Package, inputs: Mapping[str, np.ndarray], on_progress: Callable[[int, int], None] | None
) -> tuple[dict[str, np.ndarray], str, str]:
    """(outputs, what ran it, its version): Core ML itself where there is one and all ends are arrays."""
    if sys.platform == "darwin" and all(end.kind == "array" for end in (*package.inputs, *package.outputs)):
        from edgeprune.converters.macos import run_coreml

        return run_coreml(package.path, inputs, on_progress), "core ml", platform.mac_ver()[0]
    from edgeprune.converters.evaluator.program import Evaluator

    return Evaluator(package).run(inputs, on_progress), EVALUATOR, metadata.version("edgeprune")


def _scored(result: RunResult, expected: Mapping[str, np.ndarray], samples: Samples, task: Task | None) -> RuntimeRun:
    value = None
    if task is not None and samples.told:
        told = {name: values[: result.samples] for name, values in samples.told.items()}
        value = task.main.of(_by_place(expected, result.outputs), told)
    return RuntimeRun(name=result.runtime, version=result.version, ran=True, samples=result.samples, value=value)

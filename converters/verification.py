"""Hold a file that anyone made against a Keras model: does it compute the same, and if not, from which layer on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.artifact import Format
from edgeprune.converters.bisect import Departure, find_departure, layer_outputs, match_layers
from edgeprune.converters.evaluation import pixels_of, run_on_runtimes, run_package
from edgeprune.converters.packaging import ImageInput
from edgeprune.converters.pairing import pair_inputs, pair_outputs
from edgeprune.converters.parity import (
    POOR_SQNR_DB,
    compare_outputs,
    refuse_senseless,
    shows_nothing,
    spread_sqnr_db,
)
from edgeprune.errors import ConversionError, EdgepruneError, InputError, Unsupported, UsageError
from edgeprune.formats.coreml.mil import read_coreml
from edgeprune.formats.precision import coreml_precision, tflite_precision
from edgeprune.formats.tflite import read_graph
from edgeprune.ledger import OutputParity, RuntimeRun
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.training.datasets import Samples
from edgeprune.maker.training.metrics import Metric
from edgeprune.runtime.session import installed_runtimes, trace_tflite

__all__ = ["BISECTED", "ExportedFile", "Verified", "bisect_file", "open_exported", "verify_file"]

Arrays = Mapping[str, np.ndarray]
# Samples that --bisect looks at: every intermediate value of each is kept.
BISECTED = 4
# An evaluator on this machine, not a phone: more samples say little more.
MOST_SAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A file to verify: what it is, its precision as read from it, and its inputs (name -> shape, batch first).

    `pictures`: its image inputs by name, with their size and colour in words.
    """

    path: Path
    format: Format
    precision: str
    inputs: Mapping[str, tuple[int | None, ...]]
    pictures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What holding a file against its model told.

    `failure` is why it does not agree; None when it does. `pairs` maps the model's outputs to the file's.
    """

    parity: tuple[OutputParity, ...]
    pairs: Mapping[str, str]
    runs: tuple[RuntimeRun, ...]
    samples: int
    value: float | None
    model_value: float | None
    failure: EdgepruneError | None
    departure: Departure | None
    bisect_note: str | None = None  # why there is no departure although one was asked for
    reordered: bool = False  # outputs matched by value stand in another order in the file


def open_exported(path: Path) -> ExportedFile:
    """Read what a file is. Raises InputError for what is missing or broken, UsageError for other kinds of file."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.suffix in (".mlpackage", ".mlmodel"):
        package = read_coreml(path)
        shapes: dict[str, tuple[int | None, ...]] = {end.name: tuple(end.shape) for end in package.inputs}
        if package.program is not None:
            shapes = {port.name: port.shape for port in package.program.inputs}
        return ExportedFile(
            path=path,
            format=Format.COREML,
            precision=coreml_precision(package),
            inputs=shapes,
            pictures={
                end.name: f"{end.shape[0]} x {end.shape[1]} {end.color}"
                for end in package.inputs
                if end.kind == "image"
            },
        )
    if path.suffix != ".tflite":
        raise UsageError(f"{path}: verify reads .tflite, .mlpackage and .mlmodel; give one of these")
    graph = read_graph(path)
    tensors = [graph.tensors[index] for index in graph.inputs]
    names = [tensor.name for tensor in tensors]
    signature = next((s for s in graph.signatures if s.subgraph == 0 and len(s.inputs) == len(names)), None)
    if signature is not None:  # the names by which a runtime takes its inputs
        named = dict(zip(signature.input_tensors, signature.inputs, strict=True))
        names = [named.get(index, name) for index, name in zip(graph.inputs, names, strict=True)]
    return ExportedFile(
        path=path,
        format=Format.TFLITE,
        precision=tflite_precision(graph),
        inputs={name: tensor.shape for name, tensor in zip(names, tensors, strict=True)},
    )


def verify_file(
    exported: ExportedFile,
    model: Any,
    samples: Samples,
    metric: Metric | None,
    *,
    scale: float = 1.0,
    bias: tuple[float, ...] = (0.0,),
    tolerance: float | None = None,
    bisect: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Run model and file over the samples (at most MOST_SAMPLES) and compare.

    An image input of a package is fed with pixels, (value - bias) / scale. A departure does not raise: it is
    `Verified.failure`. Raises UnknownOperationError when the evaluator cannot run the package, and ConversionError when
    inputs or outputs cannot be matched or no runtime runs the file.
    """
    count = min(len(samples), MOST_SAMPLES)
    inputs = {name: samples.inputs[name][:count].astype(dtype) for name, (_, dtype) in input_specs(model).items()}
    expected = predict(model, inputs)
    fed = _fed(exported, model, inputs, scale, bias)
    found, runs = _run(exported, fed, on_progress)
    outputs, pairs = pair_outputs(expected, found, exported.path.name)
    parity = compare_outputs(expected, outputs)
    failure: EdgepruneError | None = None
    try:
        refuse_senseless(exported.path.name, exported.precision, expected, outputs, parity, tolerance=tolerance)
        _refuse_unproved(exported, expected, outputs, tolerance)
    except ConversionError as error:
        failure = error
    value = model_value = None
    if metric is not None and samples.targets is not None:
        first = next(iter(expected))
        value = metric.compute(outputs[first], samples.targets[:count])
        model_value = metric.compute(expected[first], samples.targets[:count])
    departure, note = None, None
    if bisect:
        few = {name: values[:BISECTED] for name, values in inputs.items()}
        try:
            departure = _bisected(exported, model, few, {name: values[:BISECTED] for name, values in fed.items()})
        except Unsupported as cause:
            note = str(cause)
    order = [list(found).index(name) for name in pairs.values()]
    return Verified(
        parity=parity,
        pairs=pairs,
        runs=runs,
        samples=count,
        value=value,
        model_value=model_value,
        failure=failure,
        departure=departure,
        bisect_note=note,
        reordered=set(pairs) != set(pairs.values()) and order != sorted(order),
    )


def _refuse_unproved(exported: ExportedFile, expected: Arrays, outputs: Arrays, tolerance: float | None) -> None:
    """Raise where the samples say too little to call it agreement."""
    if shows_nothing(expected):
        raise ConversionError(
            f"{exported.path.name}: not verified: the model gives the same output for all samples; give others with "
            "--data"
        )
    if tolerance is not None or exported.precision in ("float32", "float16"):
        return
    for name, model in expected.items():
        noise = spread_sqnr_db(model, outputs[name])
        if noise is not None and noise < POOR_SQNR_DB:
            raise ConversionError(
                f"{exported.path.name}: not verified: output {name!r} is far from the model's on these samples (SQNR "
                f"of what varies {noise:.1f} dB, asked {POOR_SQNR_DB:g}); give real samples with --data, or --tolerance"
            )


def _run(
    exported: ExportedFile, fed: Arrays, on_progress: Callable[[int, int], None] | None
) -> tuple[Arrays, tuple[RuntimeRun, ...]]:
    """Outputs from the newest runtime that runs the file, and what each runtime said."""
    if exported.format is Format.COREML:
        outputs, name, version = run_package(exported.path, fed, on_progress)
        count = len(next(iter(fed.values())))
        return outputs, (RuntimeRun(name=name, version=version, ran=True, samples=count),)
    newest, tried = run_on_runtimes(exported.path, fed, on_progress=on_progress)
    runs = [
        item
        if isinstance(item, RuntimeRun)
        else RuntimeRun(name=item.runtime, version=item.version, ran=True, samples=item.samples)
        for item in tried
    ]
    return newest.outputs, tuple(reversed(runs))


def bisect_file(exported: ExportedFile, model: Any, inputs: Arrays, *, image: ImageInput | None = None) -> Departure:
    """Where a file departs, from a few samples by the model's input names; `image` as in `evaluate_file`."""
    scale, bias = (image.scale, image.bias) if image else (1.0, (0.0,))
    return _bisected(exported, model, inputs, _fed(exported, model, inputs, scale, bias))


def _fed(exported: ExportedFile, model: Any, inputs: Arrays, scale: float, bias: tuple[float, ...]) -> Arrays:
    """The model's inputs under the file's names; pixels for those that take pictures."""
    names = pair_inputs({k: shape for k, (shape, _) in input_specs(model).items()}, exported.inputs, exported.path.name)
    return {
        names[name]: pixels_of(values, ImageInput(name=name, scale=scale, bias=bias))
        if names[name] in exported.pictures
        else values
        for name, values in inputs.items()
    }


def _bisected(exported: ExportedFile, model: Any, inputs: Arrays, fed: Arrays) -> Departure:
    played = layer_outputs(model, inputs)
    if exported.format is Format.COREML:
        from edgeprune.converters.evaluator.program import Evaluator

        steps = Evaluator(read_coreml(exported.path)).trace(fed)
        tensors = [(step.name, step.values) for step in steps]
    else:
        newest = list(installed_runtimes())[-1]
        traced = trace_tflite(exported.path, fed, runtime=newest).tensors
        tensors = [(tensor.name, tensor.values) for tensor in traced if tensor.values is not None]
    return find_departure(played, match_layers(played, tensors, exported.precision))

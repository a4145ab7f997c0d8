"""Hold a file that anyone made against a Keras model: does it compute the same, and if not, from which layer on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeprune.artifact import Format
from edgeprune.checker.agreement import Agreement, Departure, ScorePair
from edgeprune.converters.bisect import find_departure, layer_outputs, match_layers
from edgeprune.converters.channel_parity import joined_axes
from edgeprune.converters.end_samples import end_trials, fed_samples
from edgeprune.converters.evaluation import run_on_runtimes, run_package
from edgeprune.converters.evaluator.arguments import UnknownOperationError
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.pairing import pair_inputs, pair_outputs
from edgeprune.converters.parity import (
    check_tolerance,
    compare_outputs,
    refuse_senseless,
    shows_nothing,
    spread_sqnr_db,
)
from edgeprune.converters.pictures import pixels_of
from edgeprune.converters.probabilities import classified
from edgeprune.converters.session import Exported
from edgeprune.converters.trial_inputs import trial_samples
from edgeprune.errors import ConversionError, InputError, Unsupported, UsageError
from edgeprune.formats import Contents, Graph, read_contents
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.metadata import ImageInput
from edgeprune.formats.onnx.ends import OnnxEnds
from edgeprune.formats.precision import coreml_precision, onnx_precision, tflite_precision
from edgeprune.host.untrusted import status_of
from edgeprune.ledger import POOR_SQNR_DB, OutputParity, RuntimeRun
from edgeprune.maker.keras.ends import EndOptions, with_ends
from edgeprune.maker.keras.model_files import load_convertible
from edgeprune.maker.keras.models import input_specs, output_shapes, predict
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.columns import taken
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.targets import fitting_targets
from edgeprune.maker.training.goals import Asked, find_task
from edgeprune.maker.training.task import Task
from edgeprune.report.agreement_report import channel_lines
from edgeprune.runtime.session import newest_runtime, trace_tflite
from edgeprune.runtime.trials import trial_count

__all__ = ["BISECTED", "ExportedFile", "bisect_file", "check_scale", "open_exported", "opened", "verify"]

Arrays = Mapping[str, np.ndarray]
# Samples that a bisection looks at: every intermediate value of each is kept.
BISECTED = 4
# An evaluator on this machine, not a phone: more samples say little more.
MOST_SAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A file to verify: what it is, its precision as read from it, and its inputs (name -> shape, batch first).

    `pictures`: its image inputs by name, with their size and colour in words; `macs` are
    None where the file does not say; `package` the parts of a Core ML model.
    """

    path: Path
    format: Format
    precision: str
    inputs: Mapping[str, tuple[int | None, ...]]
    pictures: Mapping[str, str] = field(default_factory=dict)
    macs: int | None = None
    package: Package | None = field(default=None, repr=False, compare=False)


def open_exported(path: Path) -> ExportedFile:
    """Read what a file is. Raises InputError for what is missing or broken, UsageError for other kinds of file."""
    status_of(path)
    if path.suffix not in (".tflite", ".onnx", ".mlpackage", ".mlmodel"):
        raise UsageError(f"{path}: verify reads .tflite, .onnx, .mlpackage and .mlmodel; give one of these")
    return _opened(read_contents(path))


def opened(made: Exported) -> ExportedFile:
    """A file that was just written, as one to verify; it is not read again."""
    return _opened(made.contents)


def _opened(contents: Contents) -> ExportedFile:
    if contents.package is not None:
        return replace(_opened_package(contents.path, contents.package), macs=contents.macs)
    if contents.graph is not None:
        return replace(_opened_graph(contents.path, contents.graph), macs=contents.macs)
    if contents.onnx is not None:
        return _opened_onnx(contents, contents.onnx)
    raise InputError(f"{contents.path}: holds no model that verify can run")


def _opened_onnx(contents: Contents, ends: OnnxEnds) -> ExportedFile:
    return ExportedFile(
        path=contents.path,
        format=Format.ONNX,
        precision=onnx_precision(contents),
        inputs={end.name: end.shape or () for end in ends.inputs},
        macs=contents.macs,
    )


def _opened_package(path: Path, package: Package) -> ExportedFile:
    shapes: dict[str, tuple[int | None, ...]] = {end.name: tuple(end.shape) for end in package.inputs}
    if package.program is not None:
        shapes = {port.name: port.shape for port in package.program.inputs}
    return ExportedFile(
        path=path,
        format=Format.COREML,
        precision=coreml_precision(package),
        inputs=shapes,
        pictures={
            end.name: f"{end.shape[0]} x {end.shape[1]} {end.color}" for end in package.inputs if end.kind == "image"
        },
        package=package,
    )


def _opened_graph(path: Path, graph: Graph) -> ExportedFile:
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


def verify(
    file: str | Path | ExportedFile,
    model: AnyModel | str | Path,
    *,
    samples: Samples | None = None,
    metric: Asked | None = None,
    scale: float = 1.0,
    bias: Sequence[float] = (0.0,),
    tolerance: float | None = None,
    ends: EndOptions | None = None,
    softmax: bool = False,
    bisect: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Run a .tflite or .onnx file, .mlpackage or .mlmodel made by anyone, and a Keras model (or the model file at a
    path), over the same samples, and say whether they agree.

    At most MOST_SAMPLES of `samples` are taken, else a few random ones; `metric` scores both. An image input of a
    package is fed with the pixels that `scale` and `bias` (one number, or one for each channel) turn into the model's
    values. `ends` and `softmax` are those that the file was made with; a file of several sizes is tried at each listed
    one and at both ends of a range. With `bisect` the first layer that departs is named. A departure does not raise: it
    is the record's `reason`. Raises ConversionError when it cannot be told: no runtime runs the file, an operation is
    not known, inputs or outputs cannot be matched.
    """
    check_tolerance(tolerance)
    check_scale(scale)
    exported = file if isinstance(file, ExportedFile) else open_exported(Path(file))
    source = load_convertible(Path(model)) if isinstance(model, str | Path) else model
    asked = ends or EndOptions()
    source = with_ends(source, asked.of_data)
    task = find_task(source, metric) if metric is not None else None
    if samples is not None and task is not None:
        samples = fitting_targets(samples, output_shapes(source), task)
    source = with_ends(source, asked.of_file)
    source, _ = classified(source, AppOptions(softmax=softmax))
    given = _trial(exported, source, scale, bias, asked) if samples is None else fed_samples(samples, source, asked)
    comparison = _Comparison(exported, source, given, scale, tuple(bias))
    try:
        found, runs = comparison.run(on_progress)
    except UnknownOperationError as cause:
        raise ConversionError(
            f"{exported.path}: not verified: op {cause} is not known to the evaluator; run edgeprune verify on a Mac, "
            "where Core ML itself runs the package"
        ) from cause
    outputs, pairs = pair_outputs(comparison.expected, found, exported.path.name)
    parity = compare_outputs(comparison.expected, outputs, joined_axes(source))
    reason = comparison.failure(outputs, parity, tolerance)
    reason, also = _elsewhere(comparison, asked, tolerance) if reason is None else (reason, ())
    order = [list(found).index(name) for name in pairs.values()]
    departure, note = comparison.bisected() if bisect else (None, None)
    return Agreement(
        path=str(exported.path),
        format=str(exported.format),
        precision=exported.precision,
        reason=reason,
        samples=comparison.count,
        samples_are=" and ".join(
            [
                "random samples" if samples is None else f"samples of {samples.path.name}",
                *(f"with {each}" for each in also),
            ]
        ),
        parity=parity,
        pairs=pairs,
        reordered=set(pairs) != set(pairs.values()) and order != sorted(order),
        runtimes=runs,
        pictures=exported.pictures,
        scores=comparison.scores(task, outputs),
        departure=departure,
        bisect_note=note,
    )


def _elsewhere(
    comparison: _Comparison, ends: EndOptions, tolerance: float | None
) -> tuple[str | None, tuple[str, ...]]:
    """(Why the file departs in forms that the samples do not have, the forms that it was tried in)."""
    exported, samples = comparison.exported, replace(comparison.samples, inputs=comparison.inputs, targets=None)
    tried = []
    for others, what in end_trials(samples, comparison.model, ends, trial_count(exported.macs)):
        other = _Comparison(exported, comparison.model, others, comparison.scale, comparison.bias)
        found, _ = other.run(None)
        outputs, _ = pair_outputs(other.expected, found, exported.path.name)
        parity = compare_outputs(other.expected, outputs, joined_axes(comparison.model))
        reason = other.failure(outputs, parity, tolerance)
        tried.append(what)
        if reason is not None:
            return f"{reason} (with {what})", tuple(tried)
    return None, tuple(tried)


def check_scale(scale: float) -> None:
    """Raise UsageError for a scale that leaves nothing of an input."""
    if scale == 0:
        raise UsageError("--scale 0 makes every input the same; give another number")


def _trial(exported: ExportedFile, model: AnyModel, scale: float, bias: Sequence[float], ends: EndOptions) -> Samples:
    """Random samples, of the file's sizes where the model leaves them open."""
    specs = input_specs(model)
    only = next(iter(specs)) if len(specs) == 1 and exported.pictures else None
    names = pair_inputs({name: shape for name, (shape, _) in specs.items()}, exported.inputs, exported.path.name)
    shapes = {name: exported.inputs[there] for name, there in names.items()}
    for name, sizes in ends.sizes_of(model).items():
        shapes[name] = tuple(have or told for have, told in zip(shapes[name], sizes.shapes[0], strict=True))
    fitting = {name: shape for name, shape in shapes.items() if len(shape) == len(specs[name][0])}
    return trial_samples(model, macs=exported.macs, scale=scale, bias=bias, pictures=only, shapes=fitting)


class _Comparison:
    """A model, a file, and the samples that both are run over; `expected` are the model's outputs."""

    def __init__(
        self, exported: ExportedFile, model: AnyModel, samples: Samples, scale: float, bias: tuple[float, ...]
    ) -> None:
        self.exported, self.model, self.samples, self.scale, self.bias = exported, model, samples, scale, bias
        self.count = min(len(samples), MOST_SAMPLES)
        specs = input_specs(model)
        self.inputs = {
            name: taken(samples.inputs[name], slice(self.count), dtype) for name, (_, dtype) in specs.items()
        }
        self.fed = _fed(exported, model, self.inputs, scale, bias)  # before the model runs: names that do not fit
        self.expected: Arrays = predict(model, self.inputs)

    def run(self, on_progress: Callable[[int, int], None] | None) -> tuple[Arrays, tuple[RuntimeRun, ...]]:
        """Outputs from the newest runtime that runs the file, and what each runtime said."""
        if self.exported.package is not None:
            outputs, name, version = run_package(self.exported.package, self.fed, on_progress)
            return outputs, (RuntimeRun(name=name, version=version, ran=True, samples=self.count),)
        newest, tried = run_on_runtimes(
            self.exported.path, self.fed, model_format=self.exported.format, on_progress=on_progress
        )
        runs = [
            item
            if isinstance(item, RuntimeRun)
            else RuntimeRun(name=item.runtime, version=item.version, ran=True, samples=item.samples)
            for item in tried
        ]
        return newest.outputs, tuple(reversed(runs))

    def failure(self, outputs: Arrays, parity: tuple[OutputParity, ...], tolerance: float | None) -> str | None:
        """Why the file does not agree with the model; None when it does."""
        name, precision = self.exported.path.name, self.exported.precision
        try:
            refuse_senseless(name, precision, self.expected, outputs, parity, tolerance=tolerance)
            _refuse_unproved(self.exported, self.expected, outputs, parity, tolerance)
        except ConversionError as error:
            return str(error)
        return None

    def scores(self, task: Task | None, outputs: Arrays) -> tuple[ScorePair, ...]:
        """What model and file score, where there are targets."""
        if task is None or not self.samples.told:
            return ()
        told = {name: values[: self.count] for name, values in self.samples.told.items()}
        made = {name: outputs[name] for name in self.expected}
        return tuple(
            ScorePair(name=score.name, file=score.of(made, told), model=score.of(self.expected, told))
            for score in task.scores
        )

    def bisected(self) -> tuple[Departure | None, str | None]:
        """Where the file departs, or why that cannot be told."""
        few, fed = ({name: v[:BISECTED] for name, v in arrays.items()} for arrays in (self.inputs, self.fed))
        try:
            return _bisected(self.exported, self.model, few, fed), None
        except Unsupported as cause:
            return None, str(cause)


def _refuse_unproved(
    exported: ExportedFile,
    expected: Arrays,
    outputs: Arrays,
    parity: tuple[OutputParity, ...],
    tolerance: float | None,
) -> None:
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
    lost = channel_lines(parity)
    if lost:
        raise ConversionError(f"{exported.path.name}: {'; '.join(lost)}")


def bisect_file(
    exported: ExportedFile, model: AnyModel, inputs: Arrays, *, image: ImageInput | None = None
) -> Departure:
    """Where a file departs, from a few samples by the model's input names; `image` as in `evaluate_file`."""
    scale, bias = (image.scale, image.bias) if image else (1.0, (0.0,))
    return _bisected(exported, model, inputs, _fed(exported, model, inputs, scale, bias))


def _fed(
    exported: ExportedFile,
    model: AnyModel,
    inputs: Arrays,
    scale: float | tuple[float, ...],
    bias: tuple[float, ...],
) -> Arrays:
    """The model's inputs under the file's names; pixels for those that take pictures."""
    names = pair_inputs({k: shape for k, (shape, _) in input_specs(model).items()}, exported.inputs, exported.path.name)
    return {
        names[name]: pixels_of(values, ImageInput(name=name, scale=scale, bias=bias))
        if names[name] in exported.pictures
        else values
        for name, values in inputs.items()
    }


def _bisected(exported: ExportedFile, model: AnyModel, inputs: Arrays, fed: Arrays) -> Departure:
    played = layer_outputs(model, inputs)
    if exported.package is not None:
        from edgeprune.converters.evaluator.program import Evaluator

        steps = Evaluator(exported.package).trace(fed)
        tensors = [(step.name, step.values) for step in steps]
    else:
        traced = trace_tflite(exported.path, fed, runtime=newest_runtime(exported.format)).tensors
        tensors = [(tensor.name, tensor.values) for tensor in traced if tensor.values is not None]
    return find_departure(played, match_layers(played, tensors, exported.precision))

"""Other files of the same model out of a float .tflite file: no TensorFlow, no other conversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeprune.artifact import SUFFIXES, Artifact, Format, Precision, sha256_of
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import BASE_CODEC, CODECS, with_quick
from edgeprune.checker.sparse_kernels.options import STORED, SparseOptions
from edgeprune.checker.sparse_kernels.proof import Arrays, random_inputs
from edgeprune.checker.sparse_kernels.sparse_file import float_graph, stored_as, with_sparse_kernels
from edgeprune.converters.evaluation import Evaluated, evaluate_file
from edgeprune.converters.exported import artifact_entry, entry_at
from edgeprune.converters.parity import compare_outputs
from edgeprune.converters.session import Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.sparse_exports import few_inputs
from edgeprune.converters.weight_grids import small_enough
from edgeprune.errors import ConversionError, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.graph import Graph
from edgeprune.formats.precision import tflite_precision
from edgeprune.formats.tflite.editing import EditedGraph
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.host.outputs import check_output_file, output_file
from edgeprune.host.progress import Progress
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import read_whole
from edgeprune.ledger import ArtifactEntry, SparseKernels
from edgeprune.maker.pruning.magnitude import keep_largest
from edgeprune.maker.pruning.schedule import check_sparsity
from edgeprune.maker.training.data.loading import InputSpecs
from edgeprune.maker.training.data.samples import Samples
from edgeprune.runtime.session import installed_runtimes, newest_runtime, run_tflite
from edgeprune.runtime.trials import trial_count

__all__ = ["VariantOptions", "check_variant", "input_specs_of", "prune_graph", "variant"]

_PRUNED = ("CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantOptions:
    """What the new file is to be: `precision` of its weights (one of STORED; None: as they are), the `sparsity` that
    they are pruned to in one shot, by magnitude, and with `sparse` one that XNNPACK runs with sparse kernels. The
    precision of `sparse` itself is not looked at. With `download_target` ("0.2x" of the download of the file as it was,
    or "80 kB") int8 weights go to coarser grids until the download is that small. The file is compressed by the quick
    codecs and by `codecs`."""

    precision: Precision | None = None
    sparsity: float | None = None
    download_target: str | None = None
    sparse: SparseOptions | None = None
    codecs: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What both files are run on, [samples, ...] by input name, `words` for it, whether it is `real`, and the outputs
    that are expected, where they are known."""

    inputs: Arrays
    words: str
    real: bool
    expected: Arrays = field(default_factory=dict)

    def with_outputs(self, known: Arrays) -> _Trial:
        """With the first of these outputs, which begin with those of `inputs`."""
        count = min(len(rows) for rows in self.inputs.values())
        return replace(self, expected={name: rows[:count] for name, rows in known.items()})


def check_variant(options: VariantOptions) -> None:
    """Raise UsageError for what cannot be asked."""
    if options.precision is None and options.sparsity is None and options.sparse is None:
        raise UsageError("nothing to change; add --precision, --sparsity or --sparse-kernels")
    if options.precision is not None and options.precision not in STORED:
        raise UsageError(f"a variant's weights are {', '.join(STORED)}; got {options.precision}")
    if options.sparsity is not None:
        check_sparsity(options.sparsity)
    if options.download_target is not None:
        SlimOptions(download_target=options.download_target)
        if options.precision is not Precision.INT8_WEIGHTS or options.sparse is not None:
            raise UsageError(
                "--download-target coarsens int8 weights: add --precision int8-weights, without sparse kernels"
            )


def variant(
    path: str | Path,
    out: str | Path,
    options: VariantOptions,
    *,
    samples: Samples | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ArtifactEntry:
    """Write the float .tflite file at `path` as `out`, with other weights or for sparse kernels, and return its record.

    It is run on the first SAMPLES of `samples`, or on `trial_count` random ones, by every installed runtime, and held
    against the file at `path` (with the same zeros, where they are new); rewrites are proved on SAMPLES in any case.
    Raises UsageError, Unsupported for a file of integers, IneligibleError for one that cannot run sparse, and
    ConversionError for one that departs; nothing is left at `out` then.
    """
    source, place, shown = Path(path), Path(out), progress or Progress(quiet=True)
    check_variant(options)
    check_output_file(place, overwrite=overwrite, suffix=SUFFIXES[Format.TFLITE])
    content = read_whole(source, "a .tflite file")
    shown.begin(f"change {source.name}")
    graph = float_graph(source, content)
    if options.sparsity is not None:
        prune_graph(graph, options.sparsity)
    known, _ = parse_tflite(source, content)
    precision = options.precision or Precision(tflite_precision(known))
    start = graph.content()
    trial = _trial(known, samples)
    report, notes = None, list(_pruned_notes(options))
    if options.sparse is not None:
        asked, given = replace(options.sparse, precision=precision), trial.inputs if trial.real else None
        found = with_sparse_kernels(source, start, asked, inputs=given)
        made, report, trial = found.content, found.report, trial.with_outputs(found.known)
        notes += found.notes
    elif options.download_target is not None:
        target = SlimOptions(download_target=options.download_target).target_bytes(_download(content))
        assert target is not None
        made, coarse = small_enough(source, start, content, target, on_progress=shown.advance)
        notes += coarse
    else:
        made = stored_as(graph, content, precision)
    shown.end()
    shown.begin("run the file")
    with output_file(place, overwrite=overwrite) as written:
        written.write_bytes(made)
        exported = Exported(
            path=written,
            format=Format.TFLITE,
            precision=precision,
            sha256=sha256_of(written),
            contents=read_contents(written),
        )
        entry = _judged(exported, start, content, trial, report, options, shown)
        shown.end()
    return entry_at(entry, str(place), warnings=(*notes, *entry.warnings))


def _download(content: bytes) -> int:
    return CODECS[BASE_CODEC].compressed_bytes(content)


def input_specs_of(graph: Graph) -> InputSpecs:
    """The inputs of a .tflite file by the names of its signature: shape with an open batch, and type."""
    drawn = random_inputs(graph, samples=0)
    kinds = [graph.tensors[index].dtype for index in graph.inputs]
    return {name: ((None, *array.shape[1:]), dtype) for (name, array), dtype in zip(drawn.items(), kinds, strict=True)}


def prune_graph(graph: EditedGraph, sparsity: float) -> None:
    """Every kernel of a convolution and dense layer, but the first convolution, which has few weights and costs most;
    depthwise ones stay as they are."""
    done: dict[int, int] = {}
    first = next((op for op in graph.ops if graph.kind(op) == "CONV_2D"), None)
    for op in graph.ops:
        kernel = graph.reads(op)[1] if graph.kind(op) in _PRUNED and op is not first else -1
        values = graph.floats(kernel)
        if values is None:
            continue
        if kernel not in done:
            done[kernel] = graph.add_constant(graph.name(kernel), np.where(keep_largest(values, sparsity), values, 0))
        graph.set_read(op, 1, done[kernel])


def _pruned_notes(options: VariantOptions) -> tuple[str, ...]:
    if options.sparsity is None:
        return ()
    return (
        f"pruned to {options.sparsity:.0%} in one shot, without fine-tuning and behind folded batch normalisations: "
        "expect a loss of accuracy that 'edgeprune run' with a recipe trains away",
    )


def _trial(graph: Graph, samples: Samples | None) -> _Trial:
    if samples is None:
        return _Trial(inputs=random_inputs(graph, trial_count(graph.macs)), words="random samples", real=False)
    inputs = few_inputs(samples, input_specs_of(graph)) or {}
    return _Trial(inputs=inputs, words=f"samples of {samples.path.name}", real=True)


def _judged(
    made: Exported,
    start: bytes,
    content: bytes,
    trial: _Trial,
    report: SparseKernels | None,
    options: VariantOptions,
    progress: Progress,
) -> ArtifactEntry:
    """The record of a file that is to compute what `start` does, which was made of `content`."""
    found, notes = Evaluated(), []
    if installed_runtimes():
        expected = trial.expected or _outputs(start, trial.inputs)
        turned = report is not None and report.reversed_input
        fed = {name: rows[:, ::-1, ::-1] if turned and rows.ndim == 4 else rows for name, rows in trial.inputs.items()}
        found = _evaluated(made, fed, expected, progress)
        if options.sparsity is not None and trial.real:
            notes = _change_notes(_outputs(content, trial.inputs), expected)
    weighed = account(made.contents, with_quick(options.codecs), shares=False, bounds=False)
    entry = artifact_entry(made, weighed, found, made.path.name, trial.words if found.parity else None, True)
    return replace(entry, sparse_kernels=report, warnings=tuple(notes))


def _evaluated(made: Artifact, inputs: Arrays, expected: Arrays, progress: Progress) -> Evaluated:
    samples = Samples(path=Path("samples"), inputs=inputs, targets=None)
    specs = {name: (array.shape, str(array.dtype)) for name, array in inputs.items()}
    try:
        return evaluate_file(made, samples, specs, expected, None, every_runtime=True, on_progress=progress.advance)
    except ConversionError as error:
        raise ConversionError(str(error).replace("the Keras model", "the file that it was made of")) from error


def _outputs(content: bytes, inputs: Arrays) -> dict[str, np.ndarray]:
    with scratch_folder() as folder:
        path = folder / "start.tflite"
        path.write_bytes(content)
        return run_tflite(path, inputs, runtime=newest_runtime()).outputs


def _change_notes(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> list[str]:
    """What pruning changed, as far as samples without targets tell."""
    return [
        f"pruning alone: the top class of output {item.output!r} is the same for {item.agreement:.0%} of "
        f"{item.samples} samples"
        for item in compare_outputs(before, after)
        if item.agreement is not None
    ]

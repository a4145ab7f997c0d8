"""A file with what is looked for in it: accuracy first (`ladder`), then coarser weights (`spending`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgeprune.artifact import Format, Rounding
from edgeprune.checker.size.codecs import BASE_CODEC, CODECS
from edgeprune.converters.coarse_kernels import CoarseKernels
from edgeprune.converters.coarse_palettes import CoarsePalettes, package_bytes
from edgeprune.converters.float_start import FloatStart
from edgeprune.converters.kernels import float_constants, kernels_of
from edgeprune.converters.ladder import climb
from edgeprune.converters.ladder_options import LadderOptions
from edgeprune.converters.layer_inputs import moments_of
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.quantizer import without_ranges
from edgeprune.converters.reconstruction import with_outputs_kept
from edgeprune.converters.session import Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.slim_scales import without_names
from edgeprune.converters.spending import USUAL_SPEND, Judge, Search, rewritten
from edgeprune.formats.tflite.objects import as_objects
from edgeprune.host.progress import Progress
from edgeprune.ledger import LadderReport
from edgeprune.maker.keras.models import leaf_layers
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task
from edgeprune.units import parse_share

__all__ = ["Searched", "judge_of", "layer_names", "searched"]

PACKAGES = 3  # that are written at most for a download target: what tables save is an estimate before


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A file, what is to be said of it, and what was tried so that it loses little."""

    made: Exported
    said: tuple[str, ...] = ()
    report: LadderReport | None = None


def judge_of(
    model: AnyModel,
    validation: Samples,
    task: Task,
    slim: SlimOptions,
    ladder: LadderOptions,
    model_format: Format = Format.TFLITE,
) -> Judge | None:
    """What scores files while something is looked for; None where nothing is. Raises MissingExtra where no runtime runs
    them."""
    if not slim.searches and not ladder.searches:
        return None
    judge = Judge.of(model, validation, task.main)
    keys = "max_drop" if ladder.searches else "spend and download_target"
    judge.check(keys)
    if model_format is Format.TFLITE:
        judge.check_runtime("looking for accuracy" if ladder.searches else "looking for coarser weights")
    return judge.against(model) if ladder.searches else judge


def searched(
    export: Callable[..., Exported],
    slim: SlimOptions,
    ladder: LadderOptions,
    *,
    model: AnyModel,
    app: AppOptions,
    io_type: str,
    calibration: Mapping[str, np.ndarray] | None,
    judge: Judge | None,
    progress: Progress,
    dense_bytes: int | None = None,
) -> Searched:
    """The file that `export` makes of `model`, a `Converter.export` that lacks what is given here, after all that is
    looked for. `dense_bytes` as `coarser` takes it."""
    if not ladder.asked or calibration is None:
        made = export(app=app, slim=slim)
        said: tuple[str, ...] = ()
        report = None
    else:
        made, said, report = _laddered(
            partial(export, slim=replace(slim.without_search, drop_names=False)),
            ladder,
            slim,
            model,
            io_type,
            calibration,
            judge,
            progress,
        )
    if made.note:
        progress.note(made.note)
    if made.format is Format.COREML and slim.searches and judge is not None and calibration is not None:
        made, said = _coarse_package(made, export, slim, app, calibration, judge, progress)
    elif slim.searches and judge is not None and calibration is not None:
        made, more = _coarse_file(
            made,
            slim if report is None else _within(slim, report),
            app,
            calibration,
            judge,
            dense_bytes,
            progress,
        )
        said = (*said, *more)
    elif report is not None or slim.reconstructs:
        content = made.path.read_bytes()
        if report is None and calibration is not None:
            content = _with_outputs_kept(made, calibration)
        made = rewritten(made, without_names(content) if slim.drop_names else content, app)
    return Searched(made=made, said=said, report=report)


def _coarse_file(
    made: Exported,
    slim: SlimOptions,
    app: AppOptions,
    calibration: Mapping[str, np.ndarray],
    judge: Judge,
    dense_bytes: int | None,
    progress: Progress,
) -> tuple[Exported, tuple[str, ...]]:
    """(An integer file with coarser weights, what is to be said of it)."""
    if dense_bytes is None:
        dense_bytes = CODECS[BASE_CODEC].compressed_bytes(without_ranges(made.start))
    search = Search(lambda step: CoarseKernels(made, slim, calibration, step), judge, progress.advance)
    chosen, said = search.found(calibration, slim, slim.target_bytes(dense_bytes))
    return rewritten(made, search.layers.content(chosen), app), said


def _coarse_package(
    made: Exported,
    export: Callable[..., Exported],
    slim: SlimOptions,
    app: AppOptions,
    calibration: Mapping[str, np.ndarray],
    judge: Judge,
    progress: Progress,
) -> tuple[Exported, tuple[str, ...]]:
    """(A package with a table of its own for each constant, what is to be said of it); `made` is without tables."""
    bits = int(str(made.precision).removeprefix("palette"))
    search = Search(lambda step: CoarsePalettes(made, bits, app.image, step), judge, progress.advance)
    target_bytes = slim.target_bytes(package_bytes(made))
    for _ in range(PACKAGES):
        chosen, said = search.found(calibration, slim, target_bytes)
        shutil.rmtree(made.path)  # a folder is not replaced
        written = export(app=app, tables=search.layers.tables(chosen))
        search.layers.correct(chosen, written)
        if said or target_bytes is None or package_bytes(written) <= target_bytes:
            break
    return written, said


def _with_outputs_kept(made: Exported, calibration: Mapping[str, np.ndarray]) -> bytes:
    """The content of an integer file with weights that are rounded by what their layers compute."""
    content, floats = made.path.read_bytes(), float_constants(made.start)
    known = kernels_of(as_objects(content), floats).known
    return with_outputs_kept(content, floats, moments_of(FloatStart.of(made, ()), known, calibration))


def layer_names(model: AnyModel) -> tuple[str, ...]:
    """The layers of a model; of a SavedModel none is known."""
    return () if isinstance(model, SavedModel) else tuple(leaf.layer.name for leaf in leaf_layers(model))


def _laddered(
    export: Callable[..., Exported],
    ladder: LadderOptions,
    slim: SlimOptions,
    model: AnyModel,
    io_type: str,
    calibration: Mapping[str, np.ndarray],
    judge: Judge | None,
    progress: Progress,
) -> tuple[Exported, tuple[str, ...], LadderReport]:
    first = export(keep_start=True)
    climbed = climb(
        first,
        lambda ranges, nodes: export(start=first.start, ranges=ranges, float_nodes=nodes),
        ladder,
        layers=layer_names(model),
        calibration=calibration,
        judge=judge,
        joins=io_type == "float32",
        rounding=Rounding(slim.rounding),
        on_progress=progress.advance,
    )
    climbed.made.path.write_bytes(climbed.nearest if slim.searches else climbed.content)
    return climbed.made, _said(climbed.report, judge), climbed.report


def _said(report: LadderReport, judge: Judge | None) -> tuple[str, ...]:
    """Warnings: a drop that is not reached, and float operations, which some targets refuse."""
    said = []
    if not report.reached and judge is not None and report.lost is not None and report.max_drop is not None:
        said.append(
            f"max_drop of {100 * report.max_drop:g} % is not reached: int8 loses {100 * report.lost:.2f} % of "
            f"{judge.main.name} on {judge.samples.path.name}; keep more in float (keep_float, max_float_macs), "
            "prune less, or use int16x8 or float16"
        )
    if report.float_layers:
        said.append(
            f"in float: {', '.join(report.float_layers)} ({100 * report.float_macs:.1f} % of the MACs); "
            "accelerators for integers refuse that or leave it to the CPU"
        )
    return tuple(said)


def _within(slim: SlimOptions, report: LadderReport) -> SlimOptions:
    """Coarser weights may cost no more than what is left."""
    if report.max_drop is None or report.lost is None:
        return slim
    left = max(0.0, report.max_drop - max(0.0, report.lost))
    return replace(slim, spend=f"{100 * min(left, parse_share(slim.spend or USUAL_SPEND)):.6f} %")

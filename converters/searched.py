"""A file with what is looked for in it: accuracy first (`ladder`), then coarser weights (`spending`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgeprune.converters.ladder import climb
from edgeprune.converters.ladder_options import LadderOptions
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.session import Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.slim_scales import without_names
from edgeprune.converters.spending import USUAL_SPEND, Judge, coarser, rewritten
from edgeprune.host.progress import Progress
from edgeprune.ledger import LadderReport
from edgeprune.maker.keras.models import leaf_layers
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task
from edgeprune.units import parse_share

__all__ = ["Searched", "judge_of", "layer_names", "searched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A file, what is to be said of it, and what was tried so that it loses little."""

    made: Exported
    said: tuple[str, ...] = ()
    report: LadderReport | None = None


def judge_of(
    model: AnyModel, validation: Samples, task: Task, slim: SlimOptions, ladder: LadderOptions
) -> Judge | None:
    """What scores files while something is looked for; None where nothing is."""
    if not slim.searches and not ladder.searches:
        return None
    judge = Judge.of(model, validation, task.main)
    keys = "max_drop" if ladder.searches else "spend and download_target"
    judge.check(keys, "looking for accuracy" if ladder.searches else "looking for coarser weights")
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
            model,
            io_type,
            calibration,
            judge,
            progress,
        )
    if made.note:
        progress.note(made.note)
    if slim.searches and judge is not None and calibration is not None:
        made, more = coarser(
            made,
            slim if report is None else _within(slim, report),
            app=app,
            calibration=calibration,
            judge=judge,
            dense_bytes=dense_bytes,
            on_progress=progress.advance,
        )
        said = (*said, *more)
    elif report is not None:
        content = made.path.read_bytes()
        made = rewritten(made, without_names(content) if slim.drop_names else content, app)
    return Searched(made=made, said=said, report=report)


def layer_names(model: AnyModel) -> tuple[str, ...]:
    """The layers of a model; of a SavedModel none is known."""
    return () if isinstance(model, SavedModel) else tuple(leaf.layer.name for leaf in leaf_layers(model))


def _laddered(
    export: Callable[..., Exported],
    ladder: LadderOptions,
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
        on_progress=progress.advance,
    )
    climbed.made.path.write_bytes(climbed.content)
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

"""What comes out of a search: the winner's run, the points with those that no other beats, and the nearest files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from edgeprune.artifact import Precision
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.ledger import Ledger, Stage
from edgeprune.maker.search.recipe_trials import RecipeTrials
from edgeprune.points import Aims, Point, SearchReport

__all__ = ["Outcome", "leave_nearest", "nearest", "search_report", "with_pareto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All files that a search judged, in order: their points, and where they lie. `winner` is the place of the best,
    and `ledger` what its run found; `seconds` and `cpu_s` are those of the search, `asked` what it was asked."""

    model: str
    points: Sequence[Point]
    files: Sequence[Path]
    winner: int
    ledger: Ledger
    asked: Mapping[str, object]
    seconds: float
    cpu_s: float
    ended: str
    said: tuple[str, ...]


def search_report(outcome: Outcome, trials: RecipeTrials, aims: Aims) -> SearchReport:
    """The points beside the aims; whether these are reached the files of the winner's run say."""
    points, winner = outcome.points, outcome.points[outcome.winner]
    stage = _shipped(outcome.ledger, Precision(winner.precision))
    entry = next(e for e in stage.artifacts if e.format == "tflite" and e.exported)
    change = entry.metric.change if entry.metric else None
    assert trials.prepared.task is not None
    score = trials.prepared.task.main
    dropped = None if change is None else trials.judge.lost(change.before, change.before + change.difference)
    over = aims.excess(entry.download_bytes[BASE_CODEC], _latency(stage, winner), winner.lost)
    reached = {name: not excess for name, excess in over.items()}
    if dropped is not None:
        reached["drop on test"] = aims.allows(dropped)
    return SearchReport(
        tool_version=version("edgeprune"),
        model=outcome.model,
        metric=score.name,
        is_share=score.metric.is_share,
        dense_bytes=trials.dense_bytes,
        dense_metric=trials.dense_metric,
        device=trials.device,
        aims=aims,
        asked=outcome.asked,
        points=tuple(with_pareto(points)),
        winner=outcome.winner,
        nearest={} if all(reached.values()) else nearest(points, aims),
        reached=reached,
        test_drop=dropped,
        seconds=round(outcome.seconds, 1),
        cpu_s=round(outcome.cpu_s, 1),
        ended=outcome.ended,
        said=outcome.said,
    )


def _shipped(ledger: Ledger, precision: Precision) -> Stage:
    """The stage of the file that ships."""
    return next(
        stage
        for stage in reversed(ledger.stages)
        if any(e.exported and e.format == "tflite" and e.precision == precision for e in stage.artifacts)
    )


def _latency(stage: Stage, point: Point) -> float | None:
    """The latency of the file that ships: as the run measured it, else as the search found it."""
    measured = stage.latency if point.precision == Precision.INT8 else None
    return point.latency if measured is None else measured.ratio


def with_pareto(points: Sequence[Point]) -> list[Point]:
    """The points, marked where no other is at least as good in all and better in one."""

    def better(one: Point, other: Point) -> bool:
        pairs = [
            (one.download_bytes, other.download_bytes),
            (one.lost, other.lost),
            (one.latency or 0.0, other.latency or 0.0),
        ]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [replace(point, pareto=not any(better(other, point) for other in points)) for point in points]


def nearest(points: Sequence[Point], aims: Aims) -> dict[str, int]:
    """Of each aim the place of the point that is nearest to it among those that reach most of the others."""
    found = {}
    over = [aims.excess(point.download_bytes, point.latency, point.lost) for point in points]
    for name in over[0]:
        rest = [sum(bool(value) for other, value in each.items() if other != name) for each in over]
        found[name] = min(range(len(points)), key=lambda n: (rest[n], over[n][name], points[n].lost))
    return found


def leave_nearest(report: SearchReport, files: Sequence[Path], place: Path) -> None:
    """The file of the nearest point of each aim, called by the first aim that it is nearest to."""
    first = {number: name for name, number in reversed(list(report.nearest.items()))}
    for number, name in first.items():
        (place / "nearest").mkdir(exist_ok=True)
        if files[number].is_file():
            shutil.copyfile(files[number], place / "nearest" / f"{name}.{report.points[number].precision}.tflite")

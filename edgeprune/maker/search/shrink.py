"""From targets to files: what is asked for is checked, searched for, and the winner is run as a recipe of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from edgeprune.artifact import Precision, sha256_of
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.converters.session import Converter
from edgeprune.errors import RecipeError, UsageError
from edgeprune.ledger import Ledger, Stage
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.recipe.pipeline import run_recipe
from edgeprune.maker.recipe.prepare import Prepared, prepare
from edgeprune.maker.recipe.recipe import Recipe, recipe_of_text
from edgeprune.maker.recipe.recipe_toml import RecipeFiles, goal_words, recipe_toml
from edgeprune.maker.recipe.stages import Store, cpu_s
from edgeprune.maker.search.asked import ShrinkOptions
from edgeprune.maker.search.candidates import HARMLESS, export_pairs
from edgeprune.maker.search.halving import Halving
from edgeprune.maker.search.trials import PAIRS, PROCESSES, Judged, Steps, Trials
from edgeprune.maker.search.watch import Watch
from edgeprune.maker.training.data.loading import stored_at
from edgeprune.maker.training.goal import Goal
from edgeprune.maker.training.loop import make_deterministic
from edgeprune.points import Aims, Point, SearchReport

__all__ = ["SET_ASIDE", "ShrinkJob", "shrink"]

SET_ASIDE = 0.1  # of the training samples, for each split that is not given


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkJob:
    """What to make smaller, with what, how; `cache` is the folder in which searches keep their results."""

    files: RecipeFiles
    goal: Goal
    asked: ShrinkOptions
    cache: Path
    trust_code: bool = False
    custom: tuple[Path, ...] = ()


def shrink(job: ShrinkJob, place: Path, out: Path, progress: Watch) -> tuple[SearchReport, Ledger]:
    """Search, and leave the winner's files, its recipe, the ledger and the points in `place`, a new folder that becomes
    `out`.

    Raises RuledOut for targets that no training could reach, Stopped where it was asked to end before anything was
    made, and as `run_recipe`.
    """
    begun, used = time.monotonic(), cpu_s()
    progress.begin("read model and data")
    model = load_model(job.files.model, trust_code=job.trust_code, custom=job.custom)
    job = replace(job, files=replace(job.files, goal=goal_words(job.goal, model)))
    recipe_of = _recipes(job, out.absolute().parent / "recipe.toml")
    first = recipe_of([HARMLESS])
    try:
        prepared = prepare(first, trust_code=job.trust_code, custom=job.custom)
    except RecipeError as cause:
        raise _without_place(cause, first.path) from cause
    progress.end()
    _check(prepared)
    for line in _set_aside(job, prepared):
        progress.note(line)
    make_deterministic(keras_module(), job.asked.seed)

    def load(path: Path) -> object:
        return load_model(path, trust_code=job.trust_code, custom=job.custom)

    base = _base(job)
    store = Store(job.cache / f"shrink-{base}", base, load)  # type: ignore[arg-type]
    with Converter() as converter:
        converter.start()
        trials = Trials(
            prepared=prepared,
            asked=job.asked,
            recipe_of=recipe_of,
            store=store,
            converter=converter,
            progress=progress,
        )
        search = Halving(trials=trials, aims=job.asked.aims(trials.dense_bytes), note=progress.note)
        found = search.run()
        progress.over = True
        ledger = _run(job, found, trials, place, out, progress)
    report = _report(job, search, found, ledger, seconds=time.monotonic() - begun, cpu=cpu_s() - used)
    _leave_nearest(search, report, place)
    if report.met and report.ended == "done":
        shutil.rmtree(store.folder, ignore_errors=True)
    return report, ledger


def _recipes(job: ShrinkJob, place: Path) -> Callable[[Steps], Recipe]:
    """What makes a recipe that stands at `place` out of steps; nothing is exported by it."""

    def recipe_of(steps: Steps) -> Recipe:
        exports = [] if steps else [("tflite", "float32")]  # a recipe has something to do
        text = recipe_toml(job.files, place, head="A candidate.", steps=steps, exports=exports, latency={})
        try:
            return recipe_of_text(place, text)
        except RecipeError as cause:
            raise _without_place(cause, place) from cause

    return recipe_of


def _without_place(cause: RecipeError, place: Path) -> UsageError:
    """An error of a recipe that nobody wrote, without the file that it is not in."""
    return UsageError(str(cause).removeprefix(f"{place}: "))


def _base(job: ShrinkJob) -> str:
    """What all results hang on: model, data, how they are read, and this version."""
    files = job.files
    paths = [files.model, *(stored_at(path) for path in files.splits.values()), *job.custom]
    told = {**asdict(files), "model": files.model.name, "splits": sorted(files.splits)}
    told |= {"sha256": [sha256_of(path) for path in paths], "version": version("edgeprune")}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _check(prepared: Prepared) -> None:
    for name in ("train", "validation", "test"):
        samples = getattr(prepared, name)
        if samples is None or not samples.told:
            raise UsageError(f"a search trains and scores: the {name} samples need targets")


def _set_aside(job: ShrinkJob, prepared: Prepared) -> list[str]:
    """What took the place of splits that were not given, a line each."""
    missing = [name for name in ("validation", "test") if name not in job.files.splits]
    return [
        f"no --{name}: {len(getattr(prepared, name)):,} of the training samples are set aside for it"
        for name in missing
    ]


def _run(job: ShrinkJob, found: Judged, trials: Trials, place: Path, out: Path, progress: Watch) -> Ledger:
    """Run the winner's recipe, which is written beside its files."""
    coreml = importlib.util.find_spec("coremltools") is not None
    latency: Mapping[str, object] = {"processes": PROCESSES, "pairs": PAIRS}
    if job.asked.latency is None:
        latency = {"measure": False}
    elif job.asked.device:
        latency = {"measure": False, "devices": [job.asked.device]}
    pairs, near = export_pairs(found.candidate, coreml=coreml), out.absolute().parent / "recipe.toml"
    # The folder of the recipe is not there yet: what runs is the same as seen from the folder above.
    here, text = (
        recipe_toml(job.files, at, head="Found by edgeprune shrink.", steps=found.steps, exports=pairs, latency=latency)
        for at in (near, out / "recipe.toml")
    )
    progress.note(f"run the recipe of {found.candidate.name}; its steps are known")
    recipe = replace(recipe_of_text(near, here), sha256=hashlib.sha256(text.encode()).hexdigest())
    ledger = run_recipe(
        replace(trials.prepared, recipe=recipe), place, progress, store=trials.store, converter=trials.converter
    )
    (place / "recipe.toml").write_text(text, encoding="utf-8")
    return ledger


def _report(
    job: ShrinkJob, search: Halving, found: Judged, ledger: Ledger, *, seconds: float, cpu: float
) -> SearchReport:
    trials, points = search.trials, [each.point for each in search.judged]
    stage = _shipped(ledger, found.candidate.precision)
    entry = next(e for e in stage.artifacts if e.format == "tflite" and e.exported)
    change = entry.metric.change if entry.metric else None
    assert trials.prepared.task is not None
    score = trials.prepared.task.main
    dropped = None if change is None else trials.judge.lost(change.before, change.before + change.difference)
    latency = _latency(stage, found)
    over = search.aims.excess(entry.download_bytes[BASE_CODEC], latency, found.point.lost)
    reached = {name: not excess for name, excess in over.items()}
    if dropped is not None:
        reached["drop on test"] = dropped <= search.aims.max_drop
    return SearchReport(
        tool_version=version("edgeprune"),
        model=job.files.model.name,
        metric=score.name,
        is_share=score.metric.is_share,
        dense_bytes=trials.dense_bytes,
        dense_metric=float(trials.dense_file(Precision.FLOAT32)["metric"]),
        device=job.asked.device,
        aims=search.aims,
        asked=asdict(job.asked),
        points=tuple(_with_pareto(points)),
        winner=search.judged.index(found),
        nearest={} if all(reached.values()) else nearest(points, search.aims),
        reached=reached,
        test_drop=dropped,
        seconds=round(seconds, 1),
        cpu_s=round(cpu, 1),
        ended=search.ended,
        said=tuple(_set_aside(job, trials.prepared)),
    )


def _shipped(ledger: Ledger, precision: Precision) -> Stage:
    """The stage of the file that ships."""
    return next(
        stage
        for stage in reversed(ledger.stages)
        if any(e.exported and e.format == "tflite" and e.precision == precision for e in stage.artifacts)
    )


def _latency(stage: Stage, found: Judged) -> float | None:
    """The latency of the file that ships: as the run measured it, else as the search found it."""
    measured = stage.latency if found.candidate.precision is Precision.INT8 else None
    return found.point.latency if measured is None else measured.ratio


def _with_pareto(points: Sequence[Point]) -> list[Point]:
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


def _leave_nearest(search: Halving, report: SearchReport, place: Path) -> None:
    """The file of the nearest point of each aim, called by the first aim that it is nearest to."""
    first = {number: name for name, number in reversed(list(report.nearest.items()))}
    for number, name in first.items():
        (place / "nearest").mkdir(exist_ok=True)
        file = search.judged[number].file
        if file.is_file():
            shutil.copyfile(file, place / "nearest" / f"{name}.{report.points[number].precision}.tflite")


def usual_cache() -> Path:
    """Where searches keep their results when nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune"

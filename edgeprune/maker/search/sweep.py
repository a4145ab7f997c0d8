"""A sweep: recipes out of a space are tried, several objectives at once, and the best are written down."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from edgeprune.artifact import Precision
from edgeprune.converters.session import Converter
from edgeprune.errors import EdgepruneError, MissingExtra, RecipeError
from edgeprune.ledger import Ledger
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.starting import at_start, take_threads
from edgeprune.maker.recipe.pipeline import run_recipe
from edgeprune.maker.recipe.prepare import Prepared, prepare
from edgeprune.maker.recipe.recipe import Recipe, recipe_of_text
from edgeprune.maker.recipe.recipe_toml import RecipeFiles
from edgeprune.maker.recipe.stages import Store, cpu_s
from edgeprune.maker.search.executors import Executor, Job, Spread
from edgeprune.maker.search.outcome import Outcome, leave_nearest, search_report, with_pareto
from edgeprune.maker.search.recipe_trials import RecipeTrials
from edgeprune.maker.search.sampling import Asked, Study, study_of
from edgeprune.maker.search.shrink import base_of
from edgeprune.maker.search.space import Space, epochs_of, judged_export
from edgeprune.maker.search.tracking import Tracking, tracking_of
from edgeprune.maker.search.watch import Stopped, Watch
from edgeprune.maker.search.workplace import executor_for
from edgeprune.maker.training.loop import make_deterministic
from edgeprune.points import Aims, Point, SearchReport
from edgeprune.units import format_percent

__all__ = ["SweepJob", "sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """The space, where its trials run, and where results are kept; `mlflow` is where they are logged to."""

    space: Space
    spread: Spread
    cache: Path
    mlflow: str | None = None
    trust_code: bool = False
    custom: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A recipe that was tried, its point and its file."""

    asked: Asked
    point: Point
    file: Path


@dataclass(kw_only=True)
class Sweep:
    """One sweep. `tried` are the trials so far in the order in which they were chosen, `failed` those that could not be
    run with the reason, `ended` says why it ended."""

    space: Space
    study: Study
    trials: RecipeTrials
    executor: Executor
    aims: Aims
    tracking: Tracking
    note: Callable[[str], None]
    tried: list[Trial] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    ended: str = "done"

    def run(self) -> None:
        """Try what the space says. Raises Stopped where it was asked to end before any trial was over."""
        options = self.space.sweep
        try:
            for first in range(0, options.trials, options.batch):
                places = range(first, min(first + options.batch, options.trials))
                known = {each.place: each for each in self.study.asked()}
                self._batch([known[place] if place in known else self.study.ask(place) for place in places])
        except Stopped:
            if not self.tried:
                raise
            self.ended = "interrupted"

    def best(self) -> int:
        """The place among those tried of the best: of those that reach all aims the one that loses least, else the
        nearest."""
        return min(range(len(self.tried)), key=lambda number: self.aims.rank(self.tried[number].point))

    def _batch(self, batch: Sequence[Asked]) -> None:
        """Carry out a batch, and tell the study in order."""
        by_place = {each.place: each for each in batch}
        failures, made = dict[int, EdgepruneError](), dict[int, Trial]()
        since = self.trials.spent
        try:
            for job, failure in self.executor.carry_out(self._jobs(batch, failures)):
                if failure is not None:
                    failures[job.number] = failure
                else:
                    made[job.number] = self._judged(by_place[job.number], since)
                since = self.trials.spent
        except Stopped:  # those that are over count; the study hears of them when the batch is whole
            if not self.space.sweep.timed:
                self.tried += [made[place] for place in sorted(made)]
            raise
        for asked in batch:
            trial = self._timed(made[asked.place], failures) if asked.place in made else None
            self._tell(asked, trial, failures.get(asked.place))

    def _jobs(self, batch: Sequence[Asked], failures: dict[int, EdgepruneError]) -> Iterator[Job]:
        for asked in batch:
            try:
                text = self.space.text(asked.values)
                precision = judged_export(recipe_of_text(self.space.path, text)).precision
            except RecipeError as cause:  # values that do not go together
                failures[asked.place] = cause
                continue
            self.note(f"trial {asked.place + 1} of {self.space.sweep.trials}: {self.space.words(asked.values)}")
            yield Job(number=asked.place, recipe=text, precision=str(precision))

    def _judged(self, asked: Asked, since: tuple[float, float]) -> Trial:
        """The point of a trial whose file is in the store, not yet timed; `since` is what was spent before it."""
        recipe = self.space.recipe(asked.values)
        precision = judged_export(recipe).precision
        record = self.trials.made(recipe, precision)
        point = Point(
            candidate=self.space.words(asked.values),
            stage=f"trial {asked.place + 1}",
            precision=str(precision),
            epochs=epochs_of(recipe),
            latency=None,
            **self.trials.facts(record, since),
        )
        self.note(f"  {point.stage}: {format_percent(point.lost, 2)} lost, {point.download_ratio:.3f}x download")
        return Trial(asked=asked, point=point, file=self.trials.store.path(record["key"], ".tflite"))

    def _timed(self, trial: Trial, failures: dict[int, EdgepruneError]) -> Trial | None:
        """The trial with its latency, found when no other trial runs; None where it cannot be had."""
        try:
            latency = self.trials.latency(trial.file.stem, Precision(trial.point.precision))
        except EdgepruneError as cause:
            failures[trial.asked.place] = cause
            return None
        return replace(trial, point=replace(trial.point, latency=latency))

    def _tell(self, asked: Asked, trial: Trial | None, failure: EdgepruneError | None) -> None:
        if trial is None:
            told = str(failure).removeprefix(f"{self.space.path}: ")
            self.failed.append(f"trial {asked.place + 1} ({self.space.words(asked.values)}) could not be run: {told}")
            self.note(self.failed[-1])
            self.study.tell(asked, None)
            return
        point = trial.point
        known = {"metric": point.lost, "download": float(point.download_bytes), "latency": point.latency or 0.0}
        self.study.tell(asked, [known[name] for name in self.space.sweep.objectives])
        self.tried.append(trial)
        self.tracking.log(point, asked.values)


def sweep(job: SweepJob, place: Path, out: Path, progress: Watch) -> tuple[SearchReport, Ledger]:
    """Try recipes of the space, and leave in `place`, a new folder that becomes `out`, the files of the best with its
    ledger, and the recipes of those that no other beats.

    Raises as `prepare` and `run_recipe`, and Stopped where it was asked to end before any trial was over.
    """
    begun, used, space = time.monotonic(), cpu_s(), job.space
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtra("optuna", "sweep", "edgeprune sweep")
    take_threads(job.spread.limits.cpus)
    progress.begin("read model and data")
    first = space.recipe(space.first())
    converter = Converter()
    with at_start(converter.start):
        prepared = prepare(first, trust_code=job.trust_code, custom=job.custom)
    progress.end()
    make_deterministic(keras_module(), first.seed)

    load = partial(load_model, trust_code=job.trust_code, custom=job.custom)
    files = _files(first)
    base = base_of(files, job.custom, list(map(Path, prepared.teachers)), cpus=job.spread.limits.cpus)
    store = Store(job.cache / f"sweep-{base}", base, load)
    with contextlib.ExitStack() as life:
        life.enter_context(converter)
        tracking = tracking_of(job.mlflow, first.model.stem, space.sha256)
        study = life.enter_context(study_of(space, store.folder))
        trials = RecipeTrials(
            prepared=prepared,
            store=store,
            converter=converter,
            progress=progress,
            seed=first.seed,
            timed=space.sweep.timed,
            device=space.sweep.device,
        )
        aims = space.sweep.aims(trials.dense_bytes)
        inputs = {"model": first.model, **files.splits}
        with contextlib.closing(
            executor_for(
                trials,
                space.path,
                space.text(space.first()),
                job.spread,
                inputs=inputs,
                trust_code=job.trust_code,
                custom=job.custom,
            )
        ) as executor:
            found = Sweep(
                space=space,
                study=study,
                trials=trials,
                executor=executor,
                aims=aims,
                tracking=tracking,
                note=progress.note,
            )
            found.run()
        if not found.tried:
            raise RecipeError(found.failed[0])
        progress.over = True
        ledger = _run(found, prepared, place, out, progress)
    outcome = Outcome(
        model=first.model.name,
        points=[each.point for each in found.tried],
        files=[each.file for each in found.tried],
        winner=found.best(),
        ledger=ledger,
        asked={**asdict(space.sweep), "open": {name: asdict(each) for name, each in space.open.items()}},
        seconds=time.monotonic() - begun,
        cpu_s=cpu_s() - used,
        ended=found.ended,
        said=tuple(found.failed),
    )
    report = search_report(outcome, trials, aims)
    leave_nearest(report, outcome.files, place)
    return report, ledger


def _files(recipe: Recipe) -> RecipeFiles:
    """What a recipe reads, and how."""
    data = recipe.data
    splits = {name: path for name in ("train", "validation", "test") if (path := getattr(data, name)) is not None}
    return RecipeFiles(
        model=recipe.model,
        splits=splits,
        goal=asdict(recipe.goal),
        scale=data.scale,
        offset=data.offset,
        on_bad_sample=str(data.on_bad_sample),
        set_aside=data.set_aside,
        seed=recipe.seed,
    )


def _run(found: Sweep, prepared: Prepared, place: Path, out: Path, progress: Watch) -> Ledger:
    """Run the recipe of the best, and write it and those that no other beats."""
    space, trials = found.space, found.trials
    for number, point in enumerate(with_pareto([each.point for each in found.tried])):
        if point.pareto:
            (place / "pareto").mkdir(exist_ok=True)
            file = f"{point.stage.replace(' ', '-')}.toml"
            text = space.text(
                found.tried[number].asked.values, out / "pareto" / file, head=f"{point.stage} of a sweep."
            )
            (place / "pareto" / file).write_text(text, encoding="utf-8")
    best = found.tried[found.best()]
    text = space.text(best.asked.values, out / "recipe.toml", head="Found by edgeprune sweep.")
    progress.note(f"run the recipe of {best.point.stage}; its steps are known")
    recipe = replace(
        space.recipe(best.asked.values),
        path=out / "recipe.toml",
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    ledger = run_recipe(
        replace(prepared, recipe=recipe), place, progress, store=trials.store, converter=trials.converter
    )
    (place / "recipe.toml").write_text(text, encoding="utf-8")
    return ledger

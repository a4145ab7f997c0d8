"""From targets to files: what is asked for is checked, searched for, and the winner is run as a recipe of its own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from edgeprune.artifact import sha256_of
from edgeprune.converters.session import Converter
from edgeprune.errors import RecipeError, UsageError
from edgeprune.ledger import Ledger
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.starting import at_start, take_threads, threads_are_free
from edgeprune.maker.recipe.pipeline import run_recipe
from edgeprune.maker.recipe.prepare import Prepared, prepare
from edgeprune.maker.recipe.recipe import recipe_of_text
from edgeprune.maker.recipe.recipe_toml import RecipeFiles, goal_words, recipe_toml
from edgeprune.maker.recipe.stages import Store, cpu_s
from edgeprune.maker.search.asked import ShrinkOptions
from edgeprune.maker.search.candidates import HARMLESS, export_pairs
from edgeprune.maker.search.executors import Executor, Spread
from edgeprune.maker.search.halving import Halving
from edgeprune.maker.search.outcome import Outcome, leave_nearest, search_report
from edgeprune.maker.search.recipe_trials import PAIRS, PROCESSES
from edgeprune.maker.search.tracking import tracking_of
from edgeprune.maker.search.trials import Judged, Steps, Trials
from edgeprune.maker.search.watch import Watch
from edgeprune.maker.search.workplace import executor_for
from edgeprune.maker.training.data.loading import stored_at
from edgeprune.maker.training.goal import Goal
from edgeprune.maker.training.loop import make_deterministic
from edgeprune.points import SearchReport

__all__ = ["SET_ASIDE", "ShrinkJob", "shrink", "training_threads"]

SET_ASIDE = 0.1  # of the training samples, for each split that is not given
SMALL_BYTES = 10_000_000  # of a model file


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkJob:
    """What to make smaller, with what, how; `cache` is the folder in which searches keep their results, and
    `mlflow` is where files that were judged are logged to."""

    files: RecipeFiles
    goal: Goal
    asked: ShrinkOptions
    cache: Path
    spread: Spread = field(default_factory=Spread)
    mlflow: str | None = None
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
    job = replace(job, files=replace(job.files, threads=training_threads(job.files.model)))
    take_threads(job.files.threads)
    converter = Converter()
    with at_start(converter.start):
        model = load_model(job.files.model, trust_code=job.trust_code, custom=job.custom)
    job = replace(job, files=replace(job.files, goal=goal_words(job.goal, model)))
    near = out.absolute().parent / "recipe.toml"
    text_of = _recipes(job, near)
    try:
        first = recipe_of_text(near, text_of([HARMLESS]))
        prepared = prepare(first, trust_code=job.trust_code, custom=job.custom)
    except RecipeError as cause:
        raise UsageError(str(cause).removeprefix(f"{near}: ")) from cause  # nobody wrote that recipe
    progress.end()
    _check(prepared)
    for line in _set_aside(job, prepared):
        progress.note(line)
    make_deterministic(keras_module(), job.asked.seed)

    load = partial(load_model, trust_code=job.trust_code, custom=job.custom)
    base = base_of(job.files, job.custom)
    tracking = tracking_of(job.mlflow, job.files.model.stem, base[:16])
    store = Store(job.cache / f"shrink-{base}", base, load)
    with converter:
        converter.start()
        trials = Trials(
            prepared=prepared,
            store=store,
            converter=converter,
            progress=progress,
            seed=job.asked.seed,
            timed=job.asked.latency is not None,
            device=job.asked.device,
            asked=job.asked,
            text_of=text_of,
            place=near,
        )
        with contextlib.closing(_executor(job, trials, text_of([HARMLESS]))) as executor:
            aims = job.asked.aims(trials.dense_bytes)
            search = Halving(trials=trials, executor=executor, aims=aims, note=progress.note)
            found = search.run()
        for each in search.judged:
            tracking.log(each.point, {"candidate": each.candidate.name})
        progress.over = True
        ledger = _run(job, found, trials, place, out, progress)
    outcome = Outcome(
        model=job.files.model.name,
        points=[each.point for each in search.judged],
        files=[each.file for each in search.judged],
        winner=search.judged.index(found),
        ledger=ledger,
        asked=asdict(job.asked),
        seconds=time.monotonic() - begun,
        cpu_s=cpu_s() - used,
        ended=search.ended,
        said=tuple(_set_aside(job, prepared)),
    )
    report = search_report(outcome, trials, aims)
    leave_nearest(report, outcome.files, place)
    if report.met and report.ended == "done":
        shutil.rmtree(store.folder, ignore_errors=True)
    return report, ledger


def training_threads(model: Path) -> int | None:
    """One for a small model, whose operations are too short to be shared: two threads take a third more CPU time and
    end hardly earlier. None, as many as there are cores, for others, and where TensorFlow has begun with its threads
    already."""
    return 1 if threads_are_free() and model.is_file() and model.stat().st_size < SMALL_BYTES else None


def _recipes(job: ShrinkJob, place: Path) -> Callable[[Steps], str]:
    """What makes a recipe that stands at `place` out of steps; nothing is exported by it."""

    def text_of(steps: Steps) -> str:
        exports = [] if steps else [("tflite", "float32")]  # a recipe has something to do
        return recipe_toml(job.files, place, head="A candidate.", steps=steps, exports=exports, latency={})

    return text_of


def _executor(job: ShrinkJob, trials: Trials, recipe: str) -> Executor:
    """Who carries out the trials; `recipe` is one of them."""
    return executor_for(
        trials,
        trials.place,
        recipe,
        job.spread,
        inputs={"model": job.files.model, **job.files.splits},
        trust_code=job.trust_code,
        custom=job.custom,
    )


def base_of(files: RecipeFiles, custom: Sequence[Path], more: Sequence[Path] = (), *, cpus: int | None = None) -> str:
    """What all results hang on: model, data, how they are read, files of one's own, the threads of training, and this
    version."""
    paths = [files.model, *(stored_at(path) for path in files.splits.values()), *custom, *more]
    told = {**asdict(files), "model": files.model.name, "splits": sorted(files.splits)}
    told |= {} if cpus is None else {"cpus": cpus}
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


def usual_cache() -> Path:
    """Where searches keep their results when nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune"

"""`edgeprune sensitivity`: what compressing each layer costs, and what sparing it gains."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import (
    PATH,
    Scoring,
    Trust,
    common_options,
    echo_json,
    json_text,
    taken,
    taken_goal,
)
from edgeprune.commands.screens import Verb
from edgeprune.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgeprune.points import Sensitivity

__all__ = ["sensitivity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to look at, and on what."""

    model: Path
    data: Path
    train: Path | None
    prune: float | None
    samples: int
    rows: int
    seed: int
    scoring: Scoring
    trust: Trust
    quiet: bool


@click.command(cls=Verb)
@click.argument("model", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="DATA", help="Samples that the model is scored on.")
@click.option(
    "--train", type=PATH, metavar="DATA", help="Training samples that set the ranges of int8.  [default: --data]"
)
@click.option(
    "--prune", type=float, metavar="SPARSITY", help="Instead of int8: zeros, this share of each layer's weights."
)
@click.option("--samples", type=int, default=200, show_default=True, help="How many samples set the ranges.")
@click.option("--rows", type=int, default=1000, show_default=True, help="How many samples of --data are scored on.")
@click.option(
    "--cache",
    type=PATH,
    metavar="FOLDER",
    help="Where results are kept.  [default: edgeprune in the user's cache folder]",
)
@click.option("--no-cache", is_flag=True, help="Measure anew, and keep nothing.")
@common_options("metric", "scale", "offset", "on_bad_sample", "seed", "json", "quiet", "trust", "custom")
def sensitivity(cache: Path | None, no_cache: bool, as_json: bool, **values: Any) -> int:
    """What int8 costs in each layer of MODEL, the worst layer first.

    Each layer (of a small model each operation) is quantized alone, all others in float, and left in float alone, all
    others quantized. SQNR is that of the outputs before a softmax or sigmoid: of each channel by its own variance, so
    that large numbers hide nothing; the metric is that of --data. With --prune the same of zeros.

    \b
    Examples:
      edgeprune sensitivity model.keras --data test.npz --train train.npz
      edgeprune sensitivity model.keras --data test.npz --prune 0.8
    """
    if no_cache and cache is not None:
        raise UsageError("--cache and --no-cache contradict each other; drop one")
    job = _job(values)
    place = None if no_cache else _place(job, cache)
    found = _kept(place)
    if found is None:
        found = _measured(job)
        _keep(place, found)
    if as_json:
        echo_json({"schema_version": 1, "input": {"path": str(job.model)}, **asdict(found)})
    else:
        from edgeprune.report.sensitivity_report import sensitivity_text

        click.echo(sensitivity_text(found))
    return 0


def _job(values: dict[str, Any]) -> _Job:
    job = taken(_Job, values, scoring=taken(Scoring, values, goal=taken_goal(values)), trust=taken(Trust, values))
    if job.samples < 1 or job.rows < 1:
        raise UsageError("--samples and --rows are at least 1")
    if job.prune is not None and not 0 < job.prune < 1:
        raise UsageError(f"--prune is a share of the weights above 0 and below 1; got {job.prune:g}")
    if job.prune is not None and job.train is not None:
        raise UsageError("--train sets the ranges of int8, and --prune has none; drop one")
    return job


def _place(job: _Job, folder: Path | None) -> Path | None:
    """Where the result is kept: by model, data and options. None where code makes the data, which may change."""
    from importlib.metadata import version

    from edgeprune.artifact import sha256_of
    from edgeprune.host.untrusted import check_file
    from edgeprune.maker.training.data.loading import check_split, stored_at

    paths = [path for path in (job.data, job.train) if path is not None]
    if any(stored_at(path) != path for path in paths):
        return None
    if not job.model.is_dir():
        check_file(job.model, "a Keras model")
    for path in paths:
        check_split(path)
    told = [version("edgeprune"), *(sha256_of(path) for path in (job.model, *paths, *job.trust.custom))]
    told += [repr((job.train is None, job.prune, job.samples, job.rows, job.seed, job.scoring))]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune"
    return (folder or cache) / f"sensitivity-{hashlib.sha256('|'.join(told).encode()).hexdigest()[:32]}.json"


def _kept(place: Path | None) -> Sensitivity | None:
    """An earlier result; one that cannot be read is none."""
    if place is None or not place.is_file():
        return None
    from edgeprune.host.json_values import decode, record_of
    from edgeprune.host.untrusted import read_whole
    from edgeprune.points import Sensitivity

    with suppress(InputError):
        return record_of(Sensitivity, decode(read_whole(place, "a result"), str(place)), str(place))
    return None


def _keep(place: Path | None, found: Sensitivity) -> None:
    from edgeprune.errors import OutputError
    from edgeprune.host.outputs import write_file

    if place is None:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, json_text(asdict(found)).encode())
    except (OSError, OutputError) as cause:
        click.echo(f"edgeprune: warning: the result is not kept: {cause}", err=True)


def _measured(job: _Job) -> Sensitivity:
    import numpy as np

    from edgeprune.converters.sensitivity import sensitivity as measured
    from edgeprune.host.progress import Progress
    from edgeprune.maker.keras.models import output_names

    model = job.trust.load(job.model)
    task = job.scoring.task(model, job.trust)
    samples = job.scoring.split(job.data, model, task, job.trust)
    assert samples is not None
    some = samples if len(samples) <= job.rows else samples.some(job.rows, np.random.default_rng(job.seed))
    calibration = job.scoring.split(job.train, model, None, job.trust, other=output_names(model))
    return measured(
        model,
        some,
        calibration=calibration,
        metric=task,
        sparsity=job.prune,
        calibration_samples=job.samples,
        seed=job.seed,
        progress=Progress(quiet=job.quiet),
    )

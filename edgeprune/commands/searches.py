"""A search as a call of `import edgeprune`: plain values go in, a report comes out, errors are EdgepruneErrors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.maker.search.asked import ShrinkOptions
    from edgeprune.maker.training.goal import Words
    from edgeprune.points import SearchReport

__all__ = ["shrink"]


def shrink(
    model: str | Path,
    folder: str | Path,
    options: ShrinkOptions,
    *,
    train: str | Path,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    metric: Words = (),
    loss: str | Mapping[str, str] = "",
    scale: float = 1.0,
    offset: float = 0.0,
    workers: int = 1,
    ray: str | None = None,
    mlflow: str | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
    custom: Sequence[str | Path] = (),
    quiet: bool = True,
) -> SearchReport:
    """Search for a smaller and faster model that reaches the targets of `options`, and leave its files, the recipe that
    makes them and `search.json` in `folder`.

    A tenth of the training samples takes the place of `validation` and of `test` where they are not given; numbers are
    read as value * `scale` + `offset`. Candidates are trained by `workers` processes here, or on the cluster at the
    address `ray`; every file that was judged is logged to `mlflow`. `report.met` says whether all targets are reached.
    What is done is kept in `cache` until they are: a search that was killed goes on. Raises RuledOut for targets that
    no training could reach.
    """
    from edgeprune.commands.options import Scoring
    from edgeprune.commands.shrink import searched, shrink_job
    from edgeprune.maker.search.executors import Spread
    from edgeprune.maker.training.data.words import OnBadSample
    from edgeprune.maker.training.goal import goal_of

    splits = {"train": train, "validation": validation, "test": test}
    scoring = Scoring(goal=goal_of(metric, loss), scale=scale, offset=offset, on_bad_sample=str(OnBadSample.ERROR))
    job = shrink_job(
        Path(model),
        {name: None if path is None else Path(path) for name, path in splits.items()},
        options,
        scoring,
        cache=None if cache is None else Path(cache),
        spread=Spread(workers=workers, ray=ray),
        mlflow=mlflow,
        trust_code=trust_code,
        custom=tuple(Path(file) for file in custom),
    )
    return searched(job, Path(folder), overwrite=overwrite, quiet=quiet)

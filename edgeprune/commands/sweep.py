"""`edgeprune sweep`: try recipes out of a space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import PATH, Trust, common_options, echo_json, taken
from edgeprune.commands.screens import Verb
from edgeprune.commands.shrink import search_words, write_search

if TYPE_CHECKING:
    from edgeprune.maker.search.sweep import SweepJob
    from edgeprune.points import SearchReport

__all__ = ["sweep"]


@click.command(cls=Verb)
@click.argument("space", type=PATH)
@click.option("-o", "--output", type=PATH, help="Folder for what comes out.")
@click.option("--dry-run", is_flag=True, help="Check the space, print its open keys, and stop.")
@common_options("workers", "ray", "cache", "mlflow", "overwrite", "json", "quiet", "trust", "custom")
def sweep(space: Path, output: Path | None, dry_run: bool, **values: Any) -> int:
    """Try recipes out of SPACE, a recipe whose keys may be open, and keep those that no other beats.

    An open key of a step or an export is a list, importance = { one_of = ["lamp", "fisher"] }, or a range, macs = {
    from = 0.3, to = 0.8 }. The table [sweep] says what is made better (metric, download, latency), how many recipes are
    tried and by which sampler. Validation samples decide; the test samples are looked at once, for the run of the best.

    A sweep that was killed goes on where it was when it is started again, and one of more trials goes on from fewer.

    \b
    Examples:
      edgeprune sweep space.toml --dry-run
      edgeprune sweep space.toml -o out --workers 4
      edgeprune sweep space.toml -o out --ray 10.0.0.1:6379 --mlflow http://10.0.0.1:5000
      edgeprune run out/pareto/trial-12.toml -o chosen
    """
    from edgeprune.errors import UsageError
    from edgeprune.maker.search.space import load_space

    loaded = load_space(space)
    if dry_run:
        for name, each in loaded.open.items():
            click.echo(f"{name}: {each}")
        click.echo(f"{loaded.sweep.trials} trials by {loaded.sweep.sampler}: {', '.join(loaded.sweep.objectives)}")
        return 0
    if output is None:
        raise UsageError("name the output folder: -o FOLDER (or look first: --dry-run)")
    job = _job(loaded, values)
    report = _swept(job, output, overwrite=values["overwrite"], quiet=values["quiet"] or values["as_json"])
    if values["as_json"]:
        echo_json(report.to_json())
    else:
        click.echo(search_words(report, output, "models, recipe.toml, pareto/, search.json, report.md, report.html"))
    return 0 if report.met else 1


def _job(space: Any, values: dict[str, Any]) -> SweepJob:
    from edgeprune.maker.search.executors import Spread
    from edgeprune.maker.search.shrink import usual_cache
    from edgeprune.maker.search.sweep import SweepJob

    trust = taken(Trust, values)
    return SweepJob(
        space=space,
        spread=Spread(workers=values["workers"], ray=values["ray"], limits=space.sweep.limits),
        cache=values["cache"] or usual_cache(),
        mlflow=values["mlflow"],
        trust_code=trust.trust_code,
        custom=trust.custom,
    )


def _swept(job: SweepJob, output: Path, *, overwrite: bool, quiet: bool) -> SearchReport:
    from edgeprune.maker.search.sweep import sweep as search

    return write_search(
        lambda place, watch: search(job, place, output, watch), output, overwrite=overwrite, quiet=quiet
    )

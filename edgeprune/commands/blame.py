"""`edgeprune blame`: which step and which layer of a finished run cost the accuracy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import PATH, Trust, common_options, echo_json, taken, taken_goal
from edgeprune.commands.screens import Verb

if TYPE_CHECKING:
    from edgeprune.ledger import Blame

__all__ = ["blame"]


@click.command(cls=Verb)
@click.argument("output", type=PATH)
@click.option(
    "--recipe",
    type=PATH,
    help="The recipe of the run.  [default: the file of that name and content beside OUTPUT or in this folder]",
)
@click.option(
    "--data",
    type=PATH,
    metavar="DATA",
    help="Samples to score on.  [default: the recipe's validation, else test samples]",
)
@common_options("metric", "json", "quiet", "trust", "custom")
def blame(output: Path, recipe: Path | None, data: Path | None, as_json: bool, **values: Any) -> int:
    """What comes back when one thing is undone in the run that left the folder OUTPUT: each step, each layer dense,
    each layer in float. Nothing is trained.

    The recipe of the run needs keep_stages = true. All is scored on the same samples, with 95 % intervals of the
    differences (paired bootstrap).

    \b
    Examples:
      edgeprune run recipe.toml -o out        (with keep_stages = true in recipe.toml)
      edgeprune blame out
      edgeprune blame out --data more.npz --metric top5 --json
    """
    from edgeprune.commands import calls
    from edgeprune.host.progress import Progress

    goal, trust = taken_goal(values), taken(Trust, values)
    found = calls.blame(
        output,
        recipe=recipe,
        data=data,
        metric=goal if goal.metric else None,
        trust_code=trust.trust_code,
        custom=trust.custom,
        progress=Progress(quiet=values["quiet"]),
    )
    if as_json:
        echo_json({"schema_version": 1, "output": str(output), **asdict(found)})
    else:
        click.echo(_text(found))
    return 0


def _text(found: Blame) -> str:
    import shutil
    import sys

    from edgeprune.report.blame_report import blame_text

    return blame_text(found, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None)

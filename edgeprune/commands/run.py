"""`edgeprune run`: the whole job of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import EXIT_CODES, PATH, Trust, common_options, json_text, taken
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError
from edgeprune.verdict import all_passed

if TYPE_CHECKING:
    from edgeprune.ledger import Ledger
    from edgeprune.maker.recipe.recipe import Recipe

__all__ = ["run", "tell_run"]


@click.command(cls=Verb)
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, help="Folder for models, ledger.json, report.md and report.html.")
@click.option(
    "--baseline",
    type=PATH,
    help="What growth in [budget] is against, as for check: earlier files, a JSON report, a ledger.json.",
)
@click.option("--dry-run", is_flag=True, help="Check recipe, model and data, print the plan, and stop.")
@common_options("overwrite", "json", "quiet", "trust", "custom")
def run(recipe: Path, output: Path | None, baseline: Path | None, dry_run: bool, **options: Any) -> int:
    """Run the steps of RECIPE (TOML) and leave models, ledger.json, report.md and report.html in the output folder.

    Everything that can be checked is checked before any training. Exit code 1 when the recipe's budget is exceeded or
    int8 loses more than max_drop, 3 when a limit cannot be checked.

    Steps are prune (to a sparsity; with style = "channel" to a ratio of channels, or a share of the MACs, parameters or
    latency, estimated for a device), finetune and quantize. docs/recipe-keys.md lists their keys.

    \b
    Examples:
      edgeprune run recipe.toml --dry-run
      edgeprune run recipe.toml -o out
      edgeprune run recipe.toml -o next --baseline out/ledger.json
    """
    from edgeprune.commands import calls
    from edgeprune.host.progress import Progress

    loaded, trust = calls.load_recipe(recipe), taken(Trust, options)
    if dry_run:
        click.echo(_plan(loaded, trust))
        return 0
    if output is None:
        raise UsageError("name the output folder: -o FOLDER (or look first: --dry-run)")
    ledger = calls.run(
        loaded,
        output,
        overwrite=options["overwrite"],
        trust_code=trust.trust_code,
        custom=trust.custom,
        baseline=baseline,
        progress=Progress(quiet=options["quiet"]),
    )
    return tell_run(ledger, output, as_json=options["as_json"])


def tell_run(ledger: Ledger, output: Path, *, as_json: bool) -> int:
    """Print what a run came to; the exit code."""
    for entry in (entry for stage in ledger.stages for entry in stage.artifacts):
        for line in entry.warnings:
            click.echo(f"edgeprune: warning: {entry.path}: {line}", err=True)
    click.echo(json_text(ledger.to_json()) if as_json else _text(ledger, output))
    missed = any(e.ladder is not None and not e.ladder.reached for stage in ledger.stages for e in stage.artifacts)
    return EXIT_CODES[False if missed else all_passed(ledger.verdicts)]


def _plan(recipe: Recipe, trust: Trust) -> str:
    from edgeprune.maker.recipe.plan_words import plan_lines
    from edgeprune.maker.recipe.prepare import prepare

    return "\n".join(plan_lines(prepare(recipe, trust_code=trust.trust_code, custom=trust.custom)))


def _text(ledger: Ledger, output: Path) -> str:
    import shutil
    import sys

    from edgeprune.report.ledger_report import ledger_text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    page = ", report.html" if (output / "report.html").exists() else ""
    return f"{ledger_text(ledger, width=width)}\n\nWritten: {output}/ (models, ledger.json, report.md{page})"

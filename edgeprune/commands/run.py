"""`edgeprune run`: the whole job of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, common_options

__all__ = ["run"]


@click.command()
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, help="Folder for models, ledger.json and report.md.")
@click.option("--dry-run", is_flag=True, help="Check recipe, model and data, print the plan, and stop.")
@common_options("overwrite", "json", "quiet", "trust", "custom")
def run(
    recipe: Path,
    output: Path | None,
    **options: Any,
) -> int:
    """Run the steps of RECIPE (TOML) and leave models, ledger.json and report.md in the output folder.

    Everything that can be checked is checked before any training. Exit code 1 when the recipe's budget is exceeded.

    Steps are prune (to a sparsity; with style = "channel" to a ratio of channels, or a share of the MACs, parameters or
    latency, estimated for a device), finetune and quantize. The README lists their keys.
    """
    from edgeprune.commands.verbs import run_verb

    return run_verb(recipe, output, **options)

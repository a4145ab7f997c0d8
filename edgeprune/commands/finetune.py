"""`edgeprune finetune`: train a model on, its zeros held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, common_options

__all__ = ["finetune"]


@click.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The tuned model, a .keras file.")
@click.option("--train", type=PATH, required=True, metavar="NPZ", help="Training samples.")
@click.option("--validation", type=PATH, metavar="NPZ", help="Samples that choose the best epoch.")
@click.option("--epochs", type=int, required=True, help="Passes over the training samples.")
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True)
@click.option("--flip", is_flag=True, help="Mirror training images left to right at random.")
@click.option("--shift", type=int, default=0, show_default=True, help="Move training images by up to so many pixels.")
@click.option("--teacher", type=PATH, metavar="MODEL", help="Learn from this model's answers too.")
@click.option(
    "--distill",
    type=float,
    default=0.9,
    show_default=True,
    help="Share of the loss that the answers of --teacher have.",
)
@click.option("--temperature", type=float, default=3.0, show_default=True, help="Warmth of the teacher's answers.")
@click.option("--patience", type=int, help="Stop after so many epochs without a better validation value.")
@common_options("metric", "scale", "offset", "seed", "overwrite", "json", "quiet", "trust", "custom")
def finetune(model: Path, output: Path, **options: Any) -> int:
    """Train MODEL on. Weights that are zero stay zero, so a pruned model stays pruned."""
    from edgeprune.commands.verbs import finetune_verb

    return finetune_verb(model, output, **options)

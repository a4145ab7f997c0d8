"""`edgeprune groups`: which layers must lose the same channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeprune.commands.options import PATH, common_options

__all__ = ["groups"]


@click.command()
@click.argument("model", type=PATH)
@click.option("--through-norms", is_flag=True, help="Follow channels through LayerNormalization too.")
@common_options("json", "trust", "custom")
def groups(model: Path, **options: Any) -> int:
    """List the dependency groups of MODEL: layers that must lose the same channels, what is at stake in each, and
    whether it can be pruned or why not."""
    from edgeprune.commands.channel_verbs import groups_verb

    return groups_verb(model, **options)

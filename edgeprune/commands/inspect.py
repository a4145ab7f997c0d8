"""`edgeprune inspect`: the layers of one model file. Light imports only."""

from __future__ import annotations

from pathlib import Path

import click

from edgeprune.commands.options import PATH, chosen_format, common_options

__all__ = ["inspect"]


@click.command()
@click.argument("file", type=PATH)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "markdown", "csv"]),
    help="[default: text]",
)
@click.option("--why", is_flag=True, help="Say where the bytes are and what would make them fewer.")
@common_options("json")
def inspect(file: Path, output_format: str | None, as_json: bool, why: bool) -> int:
    """Show the graph of a model FILE as a table: op, shape, precision, parameters, zeros, MACs, bytes.

    "deflated" is a layer's part of the compressed download, "ideal" what a coder that looks at one number at a time
    would need (order-0 entropy, per channel where that is less). Reads what 'check' reads.
    """
    from edgeprune.commands.inspect_verb import inspect_verb

    return inspect_verb(file, output_format=chosen_format(as_json, output_format), why=why)

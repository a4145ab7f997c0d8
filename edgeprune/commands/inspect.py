"""`edgeprune inspect`: the layers of one model file. Light imports only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.commands.options import PATH, check_page_name, chosen_format, common_options
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.checker.size.models_behind import Source

__all__ = ["inspect"]

_SPARSE = "tensorrt-sparse-ampere"


@click.command(cls=Verb)
@click.argument("file", type=PATH)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "markdown", "csv"]),
    help="[default: text]",
)
@click.option(
    "--why", is_flag=True, help="Say where the bytes are, what would make them fewer, and whether 2:4 would pay."
)
@click.option(
    "--snippet",
    "language",
    type=click.Choice(["kotlin", "swift", "python", "js"]),
    help="Print code that loads this file in an app, with its names, shapes, types and scales, instead of the table.",
)
@click.option(
    "--compute-units",
    "units",
    type=click.Choice(["all", "cpuAndGPU", "cpuAndNeuralEngine", "cpuOnly"]),
    help="With --snippet, of a Core ML model: the processors that it may use, which are the app's choice.",
)
@common_options("html", "json")
def inspect(
    file: Path,
    output_format: str | None,
    page: Path | None,
    as_json: bool,
    why: bool,
    language: str | None,
    units: str | None,
) -> int:
    """Show the graph of a model FILE as a table: op, shape, precision, parameters, zeros, MACs, bytes.

    "deflated" is a layer's part of the compressed download, "ideal" what a coder that looks at one number at a time
    would need (order-0 entropy, per channel where that is less). Reads what 'check' reads.

    \b
    Examples:
      edgeprune inspect model.tflite
      edgeprune inspect model.tflite --why
      edgeprune inspect model.tflite --snippet kotlin
    """
    from edgeprune.checker.size.codecs import BASE_CODEC
    from edgeprune.checker.size.models_behind import sources_of
    from edgeprune.commands.pages import is_small
    from edgeprune.report.cells import shown
    from edgeprune.report.inspect_report import INSPECT_FORMATS

    if language is not None:
        return _snippet(file, language, units, alone=not (output_format or as_json or why or page))
    if units is not None:
        raise UsageError("--compute-units stands in the code of an app: add --snippet swift or --snippet python")
    form = chosen_format(as_json, output_format)
    check_page_name(page, [file])
    brotli = page is not None and is_small(file)
    found = sources_of(file, (BASE_CODEC, "brotli") if brotli else (BASE_CODEC,), every=True, brotli=brotli)
    click.echo(INSPECT_FORMATS[form]([source.record for source in found.models]), nl=False)
    for refused in found.refused:
        click.echo(f"not read: {shown(refused.path)}: {shown(refused.reason)}", err=True)
    said = _reasons(found.models) if why or page else []
    if why:
        click.echo("\n".join(f"- {shown(sentence)}" for sentence in said), err=form != "text")
    if page is not None:
        _write_page(found.models, said, page)
    if found.error is not None:
        raise found.error
    return 0


def _reasons(models: Sequence[Source]) -> list[str]:
    """Where the bytes of each model are, and whether 2:4 would pay."""
    from edgeprune.checker.size.advice import reasons

    return [line for source in models for line in (*reasons(source.contents, source.record), *_two_of_four(source))]


def _write_page(models: Sequence[Source], said: Sequence[str], page: Path) -> None:
    from edgeprune.commands.pages import write_page
    from edgeprune.report.html.file_pages import inspect_page

    write_page(inspect_page([source.record for source in models], said), page)


def _two_of_four(source: Source) -> list[str]:
    """Whether 2:4 would pay on a GPU that computes with it; nothing where the file does not tell."""
    from edgeprune.checker.latency.accelerators.placement import place_operations
    from edgeprune.report.placement_report import gain_sentence

    if not source.contents.complete:
        return []
    gain = place_operations(source.contents, _SPARSE).gain
    if gain is None or gain.wide_share is None:
        return []
    return [
        f"Does 2:4 pay in TensorRT, by its documents (edgeprune estimate --target {_SPARSE})? {gain_sentence(gain)}."
    ]


def _snippet(file: Path, language: str, units: str | None, *, alone: bool) -> int:
    from edgeprune.checker.size.models_behind import is_bundle
    from edgeprune.formats import read_contents
    from edgeprune.report.snippets.languages import snippet

    if not alone:
        raise UsageError("--snippet prints code alone; leave out --format, --json, --html and --why")
    if is_bundle(file):
        raise UsageError(f"{file}: --snippet is for one model; take it out of the bundle first")
    click.echo(snippet(read_contents(file), language, units), nl=False)
    return 0

"""`edgeprune history`: how model files went through the commits of a history. Light imports only."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeprune.checker.size.codecs import BASE_CODEC, FULL
from edgeprune.commands.options import PATH, check_page_name, chosen_format, common_options
from edgeprune.commands.screens import Verb
from edgeprune.errors import InputError

__all__ = ["history"]


@click.command(cls=Verb)
@click.argument("file", type=PATH)
@click.option("--layer", metavar="NAME", help="The trend of this layer, in each file that has it.")
@click.option(
    "--codec",
    type=click.Choice(FULL),
    default=BASE_CODEC,
    show_default=True,
    help="What the download is compressed by.",
)
@click.option("--all", "every", is_flag=True, help="Every commit, also those that changed nothing.")
@click.option(
    "--format", "output_format", type=click.Choice(["text", "json", "markdown"]), help="Of the report.  [default: text]"
)
@common_options("html", "json")
def history(
    file: Path,
    layer: str | None,
    codec: str,
    every: bool,
    output_format: str | None,
    page: Path | None,
    as_json: bool,
) -> int:
    """What the commits in a history made of each model file, with the commit and the layer that made each step.

    'edgeprune check --history FILE.jsonl' adds a line for each commit. Damaged lines are named and passed over. Sizes
    and counts are the same at each run, so that every change in them is one of the file.

    \b
    Examples:
      edgeprune history sizes.jsonl --html history.html
      edgeprune history sizes.jsonl --layer dense_1 --all
    """
    from edgeprune.checker.history.lines import read_history
    from edgeprune.checker.history.trends import layer_trends, trends
    from edgeprune.report.history_report import HISTORY_FORMATS, HistoryView

    form = chosen_format(as_json, output_format)
    check_page_name(page, [file])
    read = read_history(file)
    if not read.commits:
        what = f"line {read.damaged[0].line}: {read.damaged[0].reason}" if read.damaged else "it is blank"
        raise InputError(f"{file}: no line of a history in it ({what}); make one with 'edgeprune check --history'")
    found = trends(read, codec=codec) if layer is None else layer_trends(read, layer)
    view = HistoryView(history=read, trends=found, every=every, plain=_plain())
    click.echo(HISTORY_FORMATS[form](view), nl=False)
    if page is not None:
        from edgeprune.commands.pages import write_page
        from edgeprune.report.html.history_page import history_page

        write_page(history_page(view), page)
    return 0


def _plain() -> bool:
    """Whether standard output cannot show blocks."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return True
    return False

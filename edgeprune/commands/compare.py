"""`edgeprune compare`: what one model file became. Light imports only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgeprune.checker.size.codecs import with_quick
from edgeprune.commands.options import PATH, check_page_name, chosen_format, common_options, device_option
from edgeprune.commands.screens import Verb
from edgeprune.errors import EdgepruneError, UsageError

__all__ = ["compare"]


@click.command(cls=Verb)
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@click.option("--measure", is_flag=True, help="Also time both on this host, paired (.tflite; about 15 seconds).")
@device_option("Also estimate both on a device ('edgeprune devices').")
@click.option("--all", "every", is_flag=True, help="Show layers that did not change, too.")
@click.option("--format", "output_format", type=click.Choice(["text", "json", "markdown"]), help="[default: text]")
@common_options("html", "codecs", "json", "quiet")
def compare(
    before: Path,
    after: Path,
    measure: bool,
    device: str | None,
    every: bool,
    output_format: str | None,
    page: Path | None,
    codecs: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> int:
    """What shrank from one model file to another: install, download, MACs, zeros, layer by layer.

    \b
    Examples:
      edgeprune compare dense.tflite pruned.tflite --measure
      edgeprune compare old/Model.mlpackage new/Model.mlpackage --format markdown
    """
    from edgeprune.checker.comparison import check_measurable, compare_files, with_measured_latency
    from edgeprune.host.progress import Progress
    from edgeprune.report.compare_report import COMPARE_FORMATS

    form = chosen_format(as_json, output_format)
    check_page_name(page, [before, after])
    if measure:
        check_measurable(before, after)
    try:
        found = compare_files(
            before, after, with_quick(codecs), device=device, brotli=page is not None and "brotli" in codecs
        )
    except UsageError:
        raise
    except EdgepruneError:
        _tell_apart([before, after], with_quick(codecs), form)
        raise
    if measure:
        progress = Progress(quiet=quiet)
        progress.begin("latency of both on this host")
        found = with_measured_latency(found, before, after, progress.advance)
        progress.end(found.verdict or "not ranked")
    if page is not None:
        from edgeprune.commands.pages import write_page
        from edgeprune.report.html.file_pages import compare_page

        write_page(compare_page(found), page)
    click.echo(COMPARE_FORMATS[form](found, every), nl=False)
    return 0


def _tell_apart(paths: Sequence[Path], codecs: Sequence[str], form: str) -> None:
    """What can be told where two files cannot be compared: the one that was read as `inspect` tells it, and the faults
    of both. Raises the worst of these."""
    from edgeprune.checker.comparison import readable_ones
    from edgeprune.report.cells import shown
    from edgeprune.report.inspect_report import INSPECT_FORMATS

    records, faults = readable_ones(list(dict.fromkeys(paths)), codecs)
    if records:
        click.echo(INSPECT_FORMATS[form](records), nl=False)
    if not faults:
        return
    worst = max(faults, key=lambda error: error.exit_code)
    for fault in faults:
        if fault is not worst:
            click.echo(f"not read: {shown(str(fault))}", err=True)
    raise worst

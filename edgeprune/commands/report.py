"""`edgeprune report`: a finished run as one page to look at. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.commands.options import PATH, common_options
from edgeprune.commands.screens import Verb
from edgeprune.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgeprune.checker.size.records import FileAccount

__all__ = ["report"]


@click.command(cls=Verb)
@click.argument("ledger", type=PATH)
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE]...")
@click.option("-o", "--output", type=PATH, help="The page to write, .html.")
@click.option(
    "--svg", "pictures", type=PATH, metavar="FOLDER", help="Also (or only) write each picture as an SVG file there."
)
@click.option(
    "--model-explorer",
    type=PATH,
    metavar="FILE.json",
    help="Also (or only) write the download bytes of each operation of a .tflite file as node data for Google's "
    "Model Explorer.",
)
@common_options("overwrite", "quiet")
def report(
    ledger: Path,
    files: tuple[Path, ...],
    output: Path | None,
    pictures: Path | None,
    model_explorer: Path | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Draw the run whose LEDGER (ledger.json, or its folder) is given as one HTML file that needs nothing else.

    FILE is a model file to look into, layer by layer, or two, an earlier and a later one [default: what the run ships
    beside its dense model], and JSON of `shrink`, `sensitivity --json` or `blame --json`. Nothing is measured again,
    but for the bytes of the model files.

    \b
    Examples:
      edgeprune report out/ledger.json -o report.html
      edgeprune report out -o report.html --svg pictures
      edgeprune report out old.tflite new.tflite sensitivity.json -o report.html
    """
    from edgeprune.commands.pages import page_of_run, write_node_data, write_page, write_pictures
    from edgeprune.host.outputs import check_output_file
    from edgeprune.host.progress import Progress

    if output is None and pictures is None and model_explorer is None:
        raise UsageError("name the page to write: -o report.html (or --svg FOLDER, or --model-explorer FILE.json)")
    for path, suffix in ((output, ".html"), (model_explorer, ".json")):
        if path is not None:
            check_output_file(path, overwrite=overwrite, suffix=suffix)
    page, found = page_of_run(ledger, files, Progress(quiet=quiet))
    if output is not None:
        write_page(page, output)
        click.echo(f"Written: {output}")
    if pictures is not None:
        click.echo(f"Written: {len(write_pictures(page, pictures))} pictures in {pictures}/")
    if model_explorer is not None:
        write_node_data(_explored(ledger, files, found.after), model_explorer)
        click.echo(f"Written: {model_explorer}")
    return 0


def _explored(ledger: Path, files: tuple[Path, ...], record: FileAccount | None) -> Path:
    """The file that the picture of bytes is of."""
    models = [file for file in files if file.suffix.lower() != ".json"]
    if models:
        return models[-1]
    if record is None:
        raise InputError(f"{ledger}: no file of the run lies beside it; name a .tflite file for --model-explorer")
    return (ledger if ledger.is_dir() else ledger.parent) / record.path

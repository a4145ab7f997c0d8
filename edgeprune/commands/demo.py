"""`edgeprune demo`: the whole job on a sample model that comes with the package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from edgeprune.commands.options import PATH, common_options
from edgeprune.commands.run import tell_run
from edgeprune.commands.screens import Verb
from edgeprune.errors import InputError, MissingExtra

__all__ = ["demo", "sample_folder"]

SAMPLE = "shapes"
MINUTES = 3


@click.command(cls=Verb)
@click.option(
    "-o",
    "--output",
    type=PATH,
    default=Path("edgeprune-demo"),
    show_default=True,
    help="Folder for models, report.html, ledger.json and a copy of the sample.",
)
@common_options("overwrite", "json", "quiet")
def demo(output: Path, overwrite: bool, as_json: bool, quiet: bool) -> int:
    """See the whole job on a small model, in about three minutes: pruned, trained, quantized, exported, measured.

    The sample comes with the package and is copied into the output: a network of 99,000 parameters that says which
    shape is in a picture, frames it and marks its pixels, with pictures that a program drew (under the licence of this
    project). Nothing is fetched. Exports int8 TFLite and Core ML. Needs pip install 'edgeprune[convert,litert]'.

    \b
    Examples:
      edgeprune demo
      edgeprune demo -o look --overwrite
    """
    from edgeprune.commands import calls
    from edgeprune.host.progress import Progress
    from edgeprune.maker.recipe.prepare import check_extras

    sample = sample_folder()
    recipe = calls.load_recipe(sample / "recipe.toml")
    try:
        check_extras(recipe)
    except MissingExtra as missing:
        raise MissingExtra(missing.package, "convert,litert", "the demo") from None
    progress = Progress(quiet=quiet)
    progress.note(f"the whole job on a sample model, into {output}/: about {MINUTES} minutes on two cores")
    ledger = calls.run(recipe, output, overwrite=overwrite, progress=progress)
    _copy(sample, output / "sample")
    code = tell_run(ledger, output, as_json=as_json)
    for line in () if as_json else _next(output):
        click.echo(line)
    return code


def sample_folder() -> Path:
    """Where the sample lies: in the package, or beside it in a checkout. Raises InputError where it is missing."""
    package = Path(__file__).parents[1]
    for folder in (package / "sample_models" / SAMPLE, package.parent / "sample_models" / SAMPLE):
        if (folder / "recipe.toml").is_file():
            return folder
    raise InputError(f"{package}: the sample model is missing from this installation; install edgeprune anew")


def _copy(sample: Path, place: Path) -> None:
    """The sample beside what was made of it, so that its recipe can be changed and run."""
    from edgeprune.host.scratch import scratch_folder

    with scratch_folder(beside=place) as scratch:
        shutil.copytree(sample, scratch / place.name, ignore=shutil.ignore_patterns("__pycache__"))
        (scratch / place.name).rename(place)


def _next(output: Path) -> Iterator[str]:
    """What to look at and to try, with the files that are there."""
    report = next((name for name in ("report.html", "report.md") if (output / name).is_file()), "report.md")
    yield ""
    yield "Look next:"
    yield f"  {output / report}    every stage and layer"
    for file in sorted(output.glob("*.int8.tflite"))[:1]:
        yield f"  edgeprune inspect {file} --why"
        yield f'  edgeprune check {file} --download "100 kB"'
    recipe = output / "sample" / "recipe.toml"
    yield f"  {recipe}    change it, then: edgeprune run {recipe} -o out"
    yield "  edgeprune init FOLDER    the same for a model of your own"

"""`edgeprune shrink`: name the targets, get the model."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.commands.options import (
    JOB,
    PATH,
    Scoring,
    Trust,
    common_options,
    device_option,
    echo_json,
    field_option,
    taken,
    taken_goal,
    typed_flag,
)
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError
from edgeprune.maker.search.asked import ShrinkOptions

if TYPE_CHECKING:
    from edgeprune.ledger import Ledger
    from edgeprune.maker.search.shrink import ShrinkJob
    from edgeprune.maker.search.watch import Watch
    from edgeprune.points import SearchReport

    Search = Callable[[Path, Watch], tuple[SearchReport, Ledger]]

__all__ = ["STOPPING", "search_words", "searched", "shrink", "shrink_job", "write_search"]

DATA_FREE = ("model", "output", "download", "data_free", "overwrite", "as_json", "quiet", "trust_code", "custom")
STOPPING = "stopping with the best so far, which takes a minute or two; Ctrl-C again ends at once and keeps nothing new"


@click.command(cls=Verb)
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, default=Path("out"), show_default=True, help="Folder for what comes out.")
@click.option("--train", type=PATH, metavar="DATA", help="Training samples with targets.")
@click.option(
    "--data-free",
    is_flag=True,
    help="Without any samples: dead channels, and weights of fewer bits; takes --download only.",
)
@click.option(
    "--validation", type=PATH, metavar="DATA", help="Samples that decide.  [default: a tenth of --train is set aside]"
)
@click.option(
    "--test",
    type=PATH,
    metavar="DATA",
    help="Samples that are looked at once, for the report.  [default: a tenth of --train is set aside]",
)
@click.option("--download", metavar="SIZE", help="Download to reach: 0.1x of the dense float32 file, or 80 kB.")
@click.option(
    "--latency",
    metavar="SHARE",
    help="Latency to reach, such as 0.5x of the dense model: of its file of the same precision, measured on this host.",
)
@device_option("Estimate the latency for this device ('edgeprune devices') instead.")
@field_option(ShrinkOptions, "max_drop", metavar="SHARE", help="How much of the metric may be lost.")
@field_option(ShrinkOptions, "time", metavar="TIME", help="How long the search may take, such as 10min or 2h.")
@click.option("--flip", is_flag=True, help="Mirror training images left to right at random.")
@field_option(ShrinkOptions, "shift", help="Move training images by up to so many pixels.")
@field_option(ShrinkOptions, "batch_size", help="Samples in a step of training.")
@common_options("workers", "ray", "cache", "mlflow", "metric", "loss", "loss_weight", *JOB)
@click.pass_context
def shrink(
    context: click.Context,
    /,
    output: Path,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    data_free: bool,
    **values: Any,
) -> int:
    """Search for a smaller and faster MODEL that reaches the targets, and leave it with the recipe that makes it.

    Widths, zeros, int8 or float16 and coarser weights are tried on real files: those that ship. Validation samples
    decide; the test samples are looked at once, for the report. What cannot be reached by any training is refused at
    once (exit code 3, with the nearest that is not ruled out). Where nothing reaches all targets the exit code is 1 and
    the nearest files are kept.

    A search that was killed goes on where it was when it is started again. Ctrl-C ends it with the best so far.

    With --data-free nothing is trained and no accuracy is known: dead channels go, and weights are stored in as few
    bits as --download asks for, by their own error.

    \b
    Examples:
      edgeprune shrink model.keras --train train.npz --test test.npz --download 0.1x --latency 0.5x --max-drop "1 %"
      edgeprune shrink model.keras --train train.npz --download "80 kB" --time 30min -o small
      edgeprune shrink model.keras --train photos/ --latency 0.4x --device pixel4-tflite-4t-int8 --flip
      edgeprune shrink model.keras --data-free --download 0.2x -o small
      edgeprune run out/recipe.toml -o again        the winner's recipe makes the same files
    """
    if data_free:
        flag = typed_flag(context, [name for name in context.params if name not in DATA_FREE])
        if flag is not None:
            raise UsageError(f"{flag} needs samples, which --data-free does without; leave one of them out")
        return _data_free(values, output, overwrite=overwrite, as_json=as_json, quiet=quiet)
    if values["train"] is None:
        raise UsageError("--train DATA is missing: samples with targets to train on; without any use --data-free")
    report = searched(_job(values), output, overwrite=overwrite, quiet=quiet or as_json)
    if as_json:
        echo_json(report.to_json())
    else:
        click.echo(search_words(report, output, "models, recipe.toml, search.json, report.md, report.html"))
    return 0 if report.met else 1


def _data_free(values: dict[str, Any], output: Path, *, overwrite: bool, as_json: bool, quiet: bool) -> int:
    from edgeprune.commands.options import json_text
    from edgeprune.converters.slim_options import SlimOptions
    from edgeprune.host.outputs import output_folder, write_file
    from edgeprune.host.progress import Progress
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.search.data_free import shrink_data_free
    from edgeprune.report.search_report import data_free_text

    SlimOptions(download_target=values["download"])
    with output_folder(output, overwrite=overwrite) as place:
        progress = Progress(quiet=quiet or as_json)
        progress.begin(f"load {values['model'].name}")
        model = load_model(values["model"], trust_code=values["trust_code"], custom=values["custom"])
        progress.end()
        report = shrink_data_free(model, values["model"].stem, place, progress, download=values["download"])
        write_file(place / "search.json", json_text(report.to_json()).encode() + b"\n")
    if as_json:
        echo_json(report.to_json())
    else:
        click.echo(f"{data_free_text(report)}\n\nWritten: {output}/ ({', '.join(report.reached)}, search.json)")
    return 0 if report.met else 1


def _job(values: dict[str, Any]) -> ShrinkJob:
    from edgeprune.maker.search.executors import Spread

    seed = values.pop("seed")
    given = {field.name: values.pop(field.name) for field in fields(ShrinkOptions) if field.name != "seed"}
    return shrink_job(
        values["model"],
        {name: values[name] for name in ("train", "validation", "test")},
        ShrinkOptions(**given, seed=seed),
        taken(Scoring, values, goal=taken_goal(values)),
        cache=values["cache"],
        mlflow=values["mlflow"],
        spread=Spread(workers=values["workers"], ray=values["ray"]),
        **asdict(taken(Trust, values)),
    )


def shrink_job(
    model: Path,
    data: Mapping[str, Path | None],
    asked: ShrinkOptions,
    scoring: Scoring,
    *,
    cache: Path | None = None,
    **more: Any,
) -> ShrinkJob:
    """The search for a smaller `model` with the splits that `data` has; `more` as ShrinkJob takes it. Raises InputError
    for data that are not there."""
    from edgeprune.maker.recipe.recipe_toml import RecipeFiles
    from edgeprune.maker.search.shrink import SET_ASIDE, ShrinkJob, usual_cache
    from edgeprune.maker.training.data.loading import check_split

    splits = {name: path for name, path in data.items() if path is not None}
    for path in splits.values():
        check_split(path)
    files = RecipeFiles(
        model=model,
        splits=splits,
        scale=scoring.scale,
        offset=scoring.offset,
        on_bad_sample=scoring.on_bad_sample,
        set_aside=None if len(splits) == 3 else SET_ASIDE,
        seed=asked.seed,
    )
    return ShrinkJob(files=files, goal=scoring.goal, asked=asked, cache=cache or usual_cache(), **more)


def searched(job: ShrinkJob, output: Path, *, overwrite: bool, quiet: bool) -> SearchReport:
    """Carry a search out and leave what it found in the folder `output`."""
    from edgeprune.maker.search.shrink import shrink as search

    return write_search(
        lambda place, watch: search(job, place, output, watch), output, overwrite=overwrite, quiet=quiet
    )


def write_search(search: Search, output: Path, *, overwrite: bool, quiet: bool) -> SearchReport:
    """Search, and write what it told beside the files that it left. Ctrl-C ends it with the best so far."""
    from edgeprune.commands.options import json_text
    from edgeprune.commands.pages import page_of_folder, write_page
    from edgeprune.host.interrupts import asking
    from edgeprune.host.outputs import output_folder, write_file
    from edgeprune.host.progress import Progress
    from edgeprune.maker.search.watch import Stopped, Watch
    from edgeprune.report.ledger_report import ledger_markdown
    from edgeprune.report.search_report import search_markdown

    with output_folder(output, overwrite=overwrite) as place, asking(STOPPING) as asked:
        watch: Watch = Watch(asked, quiet=quiet)
        try:
            report, ledger = search(place, watch)
        except Stopped:
            raise KeyboardInterrupt from None
        write_file(place / "ledger.json", json_text(ledger.to_json()).encode() + b"\n")
        write_file(place / "report.md", ledger_markdown(ledger).encode())
        write_file(place / "search.json", json_text(report.to_json()).encode() + b"\n")
        write_file(place / "search.md", search_markdown(report).encode())
    write_page(page_of_folder(ledger, output, Progress(quiet=quiet)), output / "report.html")
    return report


def search_words(report: SearchReport, output: Path, written: str) -> str:
    """What came out, and what was written."""
    from edgeprune.report.search_report import search_text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return f"{search_text(report, width=width)}\n\nWritten: {output}/ ({written})"

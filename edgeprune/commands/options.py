"""What several verbs share: options, the records that they fill, and JSON on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgeprune.checker.size.codecs import CODECS, QUICK, with_quick
from edgeprune.errors import UsageError
from edgeprune.maker.training.data.words import OnBadSample
from edgeprune.maker.training.goal import FIRST, Goal
from edgeprune.maker.training.metrics import METRICS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from edgeprune.maker.keras.types import AnyModel, Model
    from edgeprune.maker.training.data.samples import Samples
    from edgeprune.maker.training.task import Task

__all__ = [
    "EXIT_CODES",
    "JOB",
    "PATH",
    "TOLERANCE",
    "Scoring",
    "Trust",
    "asked_task",
    "check_page_name",
    "chosen_format",
    "common_options",
    "device_option",
    "echo_json",
    "field_option",
    "json_text",
    "taken",
    "taken_goal",
    "typed_flag",
    "with_note",
]

Command = TypeVar("Command", bound=Callable[..., Any])
Record = TypeVar("Record", bound="DataclassInstance")

PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is an error of ours, with exit code 4
EXIT_CODES = {True: 0, False: 1, None: 3}  # by whether all limits were kept; None: one could not be judged
TOLERANCE = click.option(
    "--tolerance",
    type=float,
    help="Largest difference allowed, as a share of the output range.  [default: float32 0.001; float16 0.1 and an "
    "SQNR of 20 dB; others by SQNR: 0 dB for convert, 10 dB for verify]",
)


def _chosen_codecs(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    """The codecs of a list with commas."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    with_quick(names)  # raises for an unknown one
    return names


COMMON = {
    "codecs": click.option(
        "--codecs",
        default="",
        metavar="NAMES",
        callback=_chosen_codecs,
        help=f"Also compress by slower codecs, for example brotli,xz: {', '.join(CODECS)}. "
        f"[default: {', '.join(QUICK)}]",
    ),
    "json": click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    "html": click.option(
        "--html",
        "page",
        type=PATH,
        metavar="FILE.html",
        help="Also write a page with pictures, in one file that needs nothing else.",
    ),
    "quiet": click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
    "overwrite": click.option(
        "--overwrite", is_flag=True, help="Replace an existing output once the new one is complete."
    ),
    "trust": click.option(
        "--trust-code",
        is_flag=True,
        help="Run code stored in the model file (Lambda layers). Only for files you trust.",
    ),
    "custom": click.option(
        "--custom",
        multiple=True,
        type=PATH,
        metavar="FILE.py",
        help="Your own Python file with layers that the model uses; it is run. Repeatable.",
    ),
    "data": click.option(
        "--data",
        type=PATH,
        metavar="DATA",
        help="Test samples to score on: an .npz, .csv or .parquet with the model's inputs (or x) and y, a folder of "
        "pictures with a folder for each class, TFRecord files, or file.py:function (with --trust-code).",
    ),
    "metric": click.option(
        "--metric",
        multiple=True,
        metavar="METRIC",
        help=f"How outputs are scored: {', '.join(METRICS)}, or your own file.py:function (with --trust-code); of one "
        "of several outputs OUTPUT=METRIC. Repeatable.  [default: as the model is compiled, else accuracy]",
    ),
    "loss": click.option(
        "--loss",
        multiple=True,
        metavar="LOSS",
        help="What training makes small: a name of keras.losses such as huber, or your own file.py:function; of one of "
        "several outputs OUTPUT=LOSS. Repeatable.  [default: as the model is compiled, else the metric's]",
    ),
    "loss_weight": click.option(
        "--loss-weight",
        multiple=True,
        metavar="OUTPUT=WEIGHT",
        help="How much the loss of an output counts. Repeatable.",
    ),
    "seed": click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Same seed, same result."
    ),
    "scale": click.option(
        "--scale", type=float, default=1.0, show_default=True, help="Float inputs become value * scale + offset."
    ),
    "offset": click.option("--offset", type=float, default=0.0, show_default=True, help="See --scale."),
    "workers": click.option(
        "--workers",
        type=int,
        default=1,
        show_default=True,
        help="How many processes of this machine carry out trials side by side; the winner is the same.",
    ),
    "ray": click.option(
        "--ray",
        metavar="ADDRESS",
        help="Carry out trials on a Ray cluster: auto, HOST:PORT, or local for one on this machine. Needs the extra "
        "ray here and on its nodes.",
    ),
    "mlflow": click.option(
        "--mlflow",
        metavar="URI",
        help="Log every file that was judged to an MLflow tracking server, or into a folder or database: "
        "sqlite:///runs.db, http://HOST:PORT. Needs the extra mlflow.",
    ),
    "cache": click.option(
        "--cache",
        type=PATH,
        metavar="FOLDER",
        help="Where results are kept, for a search that goes on.  [default: edgeprune in the user's cache folder]",
    ),
    "on_bad_sample": click.option(
        "--on-bad-sample",
        type=click.Choice([str(word) for word in OnBadSample]),
        default=str(OnBadSample.ERROR),
        show_default=True,
        help="Damaged pictures and records, lines that are none, NaN: an error, or counted, named and left out.",
    ),
}


# Of verbs that read a model and samples, and write a file: how each is read and written.
JOB = ("scale", "offset", "on_bad_sample", "seed", "overwrite", "json", "quiet", "trust", "custom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What may run when a model file is loaded: code stored in it, and files of the user's own."""

    trust_code: bool
    custom: tuple[Path, ...]

    def load(self, path: Path) -> Model:
        """The model of a file that layers can be taken from."""
        from edgeprune.maker.keras.model_files import load_model

        return load_model(path, trust_code=self.trust_code, custom=self.custom, on_note=partial(click.echo, err=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How samples are read, and how the outputs for them are scored."""

    goal: Goal
    scale: float
    offset: float
    on_bad_sample: str

    def split(
        self, path: Path | None, model: Model, task: Task | None, trust: Trust, *, other: Sequence[str] = ()
    ) -> Samples | None:
        """The samples of a file, None without one; `other` are arrays of it that are known and not read."""
        from edgeprune.maker.training.data.loading import load_split

        if path is None:
            return None
        return with_note(
            load_split(
                path,
                model,
                task,
                scale=self.scale,
                offset=self.offset,
                trust_code=trust.trust_code,
                on_bad_sample=self.on_bad_sample,
                other=other,
            )
        )

    def task(self, model: AnyModel, trust: Trust, *, trains: bool = False) -> Task:
        """What the command line, or else the model, says of metric and loss."""
        return asked_task(self.goal, model, trust_code=trust.trust_code, trains=trains)


def asked_task(
    goal: Goal, model: AnyModel, *, trust_code: bool, trains: bool = False, whole: AnyModel | None = None
) -> Task:
    """The task of a goal of the command line; `whole` is the model that `model` was cut out of, which says how it is
    compiled."""
    if whole is not None and whole is not model and not goal.metric:
        from edgeprune.maker.keras.models import output_names

        cut = asked_task(goal, whole, trust_code=trust_code, trains=trains).within(output_names(model))
        if cut.scores:
            return cut
    from edgeprune.maker.training.goals import find_task

    return find_task(model, goal, trains=trains, trust_code=trust_code)


def taken_goal(values: dict[str, Any]) -> Goal:
    """The goal in --metric, --loss and --loss-weight, which go out of `values`."""
    metric: dict[str, tuple[str, ...]] = {}
    for output, word in map(_named, values.pop("metric")):
        metric[output] = (*metric.get(output, ()), word)
    weights = {}
    for output, word in map(_named, values.pop("loss_weight", ())):
        try:
            weights[output] = float(word)
        except ValueError:
            raise UsageError(f"--loss-weight takes OUTPUT=NUMBER, got {word!r}") from None
    losses = list(map(_named, values.pop("loss", ())))
    for output, word in losses:
        if sum(other == output for other, _ in losses) > 1:
            raise UsageError(f"--loss names two losses for {output or 'the output'}, {word} among them; give one")
    return Goal(metric=metric, loss=dict(losses), loss_weights=weights)


def _named(text: str) -> tuple[str, str]:
    """(output, word) of "OUTPUT=WORD"; a word alone is of the first output."""
    output, equals, word = text.partition("=")
    return (output, word) if equals else (FIRST, text)


def check_page_name(page: Path | None, read: Sequence[Path]) -> None:
    """Raise UsageError for a page of a name that is none, or that would replace what is read for it."""
    from edgeprune.host.untrusted import real_place

    if page is None:
        return
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{page}: a page ends in .html; name it {page.stem or 'report'}.html")
    if real_place(page) in map(real_place, read):
        raise UsageError(f"{page}: the page would replace a file that is read; give it another name")


def chosen_format(as_json: bool, output_format: str | None) -> str:
    """The format of a report: --format, or json with --json."""
    if as_json and output_format not in (None, "json"):
        raise click.UsageError(f"--json and --format {output_format} contradict each other; drop one")
    return output_format or ("json" if as_json else "text")


def device_option(text: str, *names: str, **more: Any) -> Callable[[Command], Command]:
    """--device with its help; a shell completes the names of profiles."""

    def profiles(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
        from edgeprune.checker.latency.profiles import profile_paths

        return [name for name in profile_paths() if name.startswith(incomplete)]

    return click.option("--device", *names, metavar="NAME", shell_complete=profiles, help=text, **more)


def common_options(*names: str) -> Callable[[Command], Command]:
    """Options that several verbs share, by name."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = COMMON[name](command)
        return command

    return decorate


def echo_json(body: object) -> None:
    """Print a result for programs."""
    click.echo(json_text(body))


def field_option(record: type[DataclassInstance], name: str, **more: Any) -> Callable[[Command], Command]:
    """The option for a field of an options record, with the field's default."""
    default = next(field.default for field in fields(record) if field.name == name)
    flag = "--" + name.replace("_", "-")
    return click.option(flag, default=default, show_default=True, **more)


def json_text(body: object) -> str:
    """A result for programs."""
    import json

    return json.dumps(body, indent=2, allow_nan=False, default=str)


def with_note(samples: Samples) -> Samples:
    """The samples, after a line on stderr about those that were left out."""
    if samples.note is not None:
        click.echo(f"edgeprune: warning: {samples.note}", err=True)
    return samples


def taken(record: type[Record], values: dict[str, Any], **more: object) -> Record:
    """A record out of the values that click read, which go out of `values`: each field has an option of its name, or
    stands in `more`."""
    names = [field.name for field in fields(record) if field.name not in more]
    return record(**{name: values.pop(name) for name in names}, **more)


def typed_flag(context: click.Context, names: Iterable[str]) -> str | None:
    """The flag of the first of these options that stands on the command line."""
    typed = (name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE)
    first = next(typed, None)
    return None if first is None else "--" + first.replace("_", "-")

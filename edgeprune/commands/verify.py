"""`edgeprune verify`: does a file compute what a model computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.artifact import sha256_of
from edgeprune.commands.ends import EndWords, end_options
from edgeprune.commands.options import (
    PATH,
    TOLERANCE,
    asked_task,
    common_options,
    echo_json,
    taken,
    taken_goal,
    with_note,
)
from edgeprune.commands.screens import Verb
from edgeprune.errors import ConversionError, UsageError
from edgeprune.maker.training.goal import Goal
from edgeprune.maker.training.metrics import METRICS

if TYPE_CHECKING:
    from edgeprune.checker.agreement import Agreement
    from edgeprune.maker.keras.types import AnyModel
    from edgeprune.maker.training.data.samples import Samples
    from edgeprune.maker.training.task import Task

__all__ = ["verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The options as they were typed."""

    against: Path
    data: Path | None
    goal: Goal
    scale: float
    offset: float
    on_bad_sample: str
    image_bias: str | None
    tolerance: float | None
    bisect: bool
    softmax: bool
    cut_preprocessing: bool
    ends: EndWords
    as_json: bool
    quiet: bool
    trust_code: bool
    custom: tuple[Path, ...]

    @property
    def bias(self) -> tuple[float, ...]:
        """What is added to a picture's channels."""
        from edgeprune.converters.packaging import numbers_of

        return (self.offset,) if self.image_bias is None else numbers_of("--image-bias", self.image_bias)


@click.command(cls=Verb)
@click.argument("exported", type=PATH)
@click.option("--against", type=PATH, required=True, metavar="MODEL", help="The Keras model it came from.")
@click.option(
    "--data", type=PATH, metavar="DATA", help="Samples to compare on.  [default: 8 random ones, 2 of a large model]"
)
@click.option(
    "--metric",
    multiple=True,
    metavar="METRIC",
    help=f"Score both, with the targets of --data: {', '.join(METRICS)}, or file.py:function; of several outputs "
    "OUTPUT=METRIC. Repeatable.",
)
@click.option("--image-bias", metavar="B,B,B", help="Image input: an offset for each channel, instead of --offset.")
@TOLERANCE
@click.option("--bisect", is_flag=True, help="Name the first layer that departs from the model.")
@end_options
@click.option("--softmax", is_flag=True, help="The file has a softmax behind the model's output.")
@click.option("--cut-preprocessing", is_flag=True, help="The file begins behind layers that look words up.")
@common_options("scale", "offset", "on_bad_sample", "json", "quiet", "trust", "custom")
def verify(exported: Path, **options: object) -> int:
    """Does EXPORTED (.tflite or .mlpackage, made by anyone) compute what a Keras model computes?

    A .tflite file runs in the installed interpreters. A Core ML package runs in Core ML on a Mac; elsewhere the
    evaluator carries out its program operation by operation: graph and weights, not Apple's kernels. A comparison is as
    good as its samples: random ones do not reach everything, give real ones with --data. Inputs are matched by name,
    else by size and position; outputs by name, else by value. A file with other ends than the model's (fewer outputs,
    other sizes, states) is told by the options that made it. Exit code 3 when it departs or cannot be verified.

    \b
    Examples:
      edgeprune verify app/model.tflite --against model.keras --data test.npz --metric accuracy
      edgeprune verify Model.mlpackage --against model.keras --bisect
      edgeprune verify Photo.mlpackage --against model.keras --scale 0.00784314 --offset -1   (image input)
    """
    wanted = taken(_Wanted, options, goal=taken_goal(options), ends=taken(EndWords, options))
    found = _verified(exported, wanted)
    if wanted.as_json:
        echo_json(_json(exported, found, wanted))
    else:
        from edgeprune.report.agreement_report import agreement_text

        click.echo(agreement_text(found, exported.name, wanted.against.name))
    if found.reason is not None:
        raise ConversionError(f"{found.reason}{_advice(found, wanted)}")
    return 0


def _verified(path: Path, wanted: _Wanted) -> Agreement:
    """What can be known first is checked before TensorFlow starts."""
    if wanted.goal.metric and wanted.data is None:
        raise UsageError("--metric needs --data TEST.npz with the targets in y")
    from edgeprune.converters.parity import check_tolerance
    from edgeprune.converters.verification import check_scale, open_exported, verify
    from edgeprune.host.progress import Progress
    from edgeprune.maker.keras.ends import with_ends
    from edgeprune.maker.keras.model_files import load_convertible
    from edgeprune.maker.keras.models import output_names
    from edgeprune.maker.keras.preprocessing import cut_preprocessing

    check_tolerance(wanted.tolerance)
    check_scale(wanted.scale)
    exported = open_exported(path)
    if wanted.image_bias is not None and not (exported.pictures and len(exported.inputs) == 1):
        raise UsageError(f"--image-bias is for a package whose only input takes pictures; {path} has no such input")
    bias = wanted.bias
    progress = Progress(quiet=wanted.quiet)
    progress.begin(f"load {wanted.against.name}")
    model = load_convertible(wanted.against, trust_code=wanted.trust_code, custom=wanted.custom, on_note=progress.note)
    ends = wanted.ends.options()
    model = cut_preprocessing(model)[0] if wanted.cut_preprocessing else model
    names = output_names(model)
    model = with_ends(model, ends.of_data)
    task = asked_task(wanted.goal, model, trust_code=wanted.trust_code) if wanted.goal.metric else None
    samples = _samples(wanted.data, model, task, wanted, names) if wanted.data else None
    progress.end()
    progress.begin(f"run {path.name} and the model")
    found = verify(
        exported,
        model,
        samples=samples,
        metric=task,
        scale=wanted.scale,
        bias=bias,
        tolerance=wanted.tolerance,
        ends=ends,
        softmax=wanted.softmax,
        bisect=wanted.bisect,
        on_progress=progress.advance,
    )
    progress.end()
    return found


def _samples(data: Path, model: AnyModel, task: Task | None, wanted: _Wanted, outputs: Sequence[str]) -> Samples:
    """The samples of --data; with --image-bias each channel gets its own offset."""
    from edgeprune.maker.training.data.loading import load_split

    more: dict[str, Any] = {"trust_code": wanted.trust_code, "other": outputs, "on_bad_sample": wanted.on_bad_sample}
    if wanted.image_bias is None:
        more |= {"scale": wanted.scale, "offset": wanted.offset}
        return with_note(load_split(data, model, task, **more))
    raw = with_note(load_split(data, model, task, **more))
    return raw.scaled(wanted.scale, wanted.bias)


def _json(path: Path, found: Agreement, wanted: _Wanted) -> dict[str, object]:
    body = found.to_json()
    against = {"path": str(wanted.against), "sha256": sha256_of(wanted.against)}
    file = {**body.pop("file"), "sha256": sha256_of(path)}
    return {"schema_version": 1, "file": file, "against": against, **body}


def _advice(found: Agreement, wanted: _Wanted) -> str:
    """What to type next."""
    where = "" if wanted.bisect else "; add --bisect to learn from which layer on"
    if wanted.data is None and "--data" not in (found.reason or ""):
        where += "; the samples are random: real ones (--data TEST.npz) may tell otherwise"
    if found.pictures and wanted.scale == 1 and wanted.bias == (0.0,):
        where += "; its image input takes pixels: give the scaling of the model's input with --scale and --offset"
    return where

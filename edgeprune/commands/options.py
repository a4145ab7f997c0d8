"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeprune.checker.size.codecs import CODECS, QUICK

__all__ = ["PATH", "TOLERANCE", "chosen_format", "common_options"]

PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is an error of ours, with exit code 4
TOLERANCE = click.option(
    "--tolerance",
    type=float,
    help="Largest difference allowed, as a share of the output range.  [default: float32 0.001; float16 0.1 and an "
    "SQNR of 20 dB; others by SQNR: 0 dB for convert, 10 dB for verify]",
)


def chosen_format(as_json: bool, output_format: str | None) -> str:
    """The format of a report: --format, or json with --json."""
    if as_json and output_format not in (None, "json"):
        raise click.UsageError(f"--json and --format {output_format} contradict each other; drop one")
    return output_format or ("json" if as_json else "text")


def _chosen_codecs(_: click.Context, __: click.Parameter, text: str) -> tuple[str, ...]:
    """The codecs of a list with commas."""
    from edgeprune.host.toml_values import near

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CODECS:
            raise click.BadParameter(f"unknown codec {name!r}{near(name, CODECS)}; choose from {', '.join(CODECS)}")
    return tuple(names)


def common_options(*names: str) -> Callable[[Any], Any]:
    """Options that several verbs share, by name."""
    known = {
        "codecs": click.option(
            "--codecs",
            default="",
            metavar="NAMES",
            callback=_chosen_codecs,
            help=f"Also compress by slower codecs, for example brotli,xz: {', '.join(CODECS)}. "
            f"[default: {', '.join(QUICK)}]",
        ),
        "json": click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
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
            metavar="NPZ",
            help="Test samples to score on: arrays named after the model's inputs (or x) and y.",
        ),
        "metric": click.option(
            "--metric",
            type=click.Choice(["accuracy", "auc", "mse", "mae"]),
            default="accuracy",
            show_default=True,
            help="How outputs are scored; training uses the loss that goes with it.",
        ),
        "seed": click.option(
            "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Same seed, same result."
        ),
        "scale": click.option(
            "--scale", type=float, default=1.0, show_default=True, help="Float inputs become value * scale + offset."
        ),
        "offset": click.option("--offset", type=float, default=0.0, show_default=True, help="See --scale."),
    }

    def decorate(function: Any) -> Any:
        for name in reversed(names):
            function = known[name](function)
        return function

    return decorate

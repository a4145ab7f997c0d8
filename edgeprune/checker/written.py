"""The limits of a budget as people write them: in a recipe, in edgeprune.toml and on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.checker.history.since import split_since
from edgeprune.errors import UsageError
from edgeprune.units import parse_bytes, parse_growth, parse_share
from edgeprune.verdict import Limit

__all__ = ["LIMITS", "Written", "is_kind", "option_value", "read_limit"]

Scalar = str | int | float
Fields = dict[str, Any]  # of a Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How people write a limit: `kinds` of TOML value, `read` into fields of a Budget, and its words for the command
    line. `read` raises UsageError."""

    kinds: tuple[type, ...]
    read: Callable[[Any], Fields]
    metavar: str
    help: str


def _size(name: str) -> Callable[[Scalar], Fields]:
    return lambda value: {name: parse_bytes(str(value))}


def _growth(value: Scalar) -> Fields:
    text, since = split_since(str(value))
    in_bytes, share = parse_growth(text)
    amount: Fields = {"growth_bytes": in_bytes} if in_bytes is not None else {"growth_share": share or 0.0}
    return {**amount, "growth_since": since} if since else amount


def _share(name: str) -> Callable[[Scalar], Fields]:
    return lambda value: {name: _fraction(value)}


def _fraction(value: Scalar) -> float:
    return parse_share(value) if isinstance(value, str) else float(value)


def _drops(value: Scalar | Mapping[str, Scalar]) -> Fields:
    """One limit, or one for each metric that is named."""
    if not isinstance(value, Mapping):
        return {"max_metric_drop": _fraction(value)}
    if not value:
        raise UsageError('max_metric_drop names no metric; write { NAME = "1 %" }')
    for name, limit in value.items():
        if not (is_kind(limit, float) or isinstance(limit, str)):
            raise UsageError(f"max_metric_drop of {name!r} must be a number or a text in quotes, got {limit!r}")
    return {"max_metric_drop": {name: _fraction(limit) for name, limit in value.items()}}


def _number(name: str) -> Callable[[Scalar], Fields]:
    return lambda value: {name: value}


def _pattern(value: str) -> Fields:
    from edgeprune.formats.pattern import Pattern  # numpy, which the help does without

    return {"pattern": Pattern.parse(value)}


def _asked(value: Scalar) -> Fields:
    if value is not True:
        raise UsageError("sparse_kernels is true, or left out")
    return {"sparse_kernels": True}


LIMITS: Mapping[Limit, Written] = {
    Limit.DOWNLOAD: Written(
        kinds=(str,),
        read=_size("download_bytes"),
        metavar="SIZE",
        help='Largest download of each file, for example "350 kB" or "350 KiB".',
    ),
    Limit.INSTALL: Written(
        kinds=(str,), read=_size("install_bytes"), metavar="SIZE", help="Largest size of each file on the device."
    ),
    Limit.GROWTH: Written(
        kinds=(str,),
        read=_growth,
        metavar="CHANGE",
        help='Largest growth of each download against --baseline: "2 %" or "50 kB"; or against the history: '
        '"2 % over the last 10 commits", "5 % since tag v1".',
    ),
    Limit.PARAMETERS: Written(
        kinds=(int,), read=_number("parameters"), metavar="COUNT", help="Most parameters of each file."
    ),
    Limit.MIN_SPARSITY: Written(
        kinds=(float, str),
        read=_share("min_sparsity"),
        metavar="SHARE",
        help='Least share of zeros among the weights: "75 %" or 0.75.',
    ),
    Limit.MAX_METRIC_DROP: Written(
        kinds=(float, str, dict),
        read=_drops,
        metavar="SHARE",
        help='Most that the metric may lose against the dense model in --ledger: "1 %" or 0.01; of several '
        '"NAME=1 %,NAME=0.02".',
    ),
    Limit.MAX_LATENCY_MS: Written(
        kinds=(float,),
        read=_number("max_latency_ms"),
        metavar="MS",
        help="Longest latency estimated for --device, milliseconds.",
    ),
    Limit.MAX_LATENCY_GROWTH: Written(
        kinds=(float, str),
        read=_share("max_latency_growth"),
        metavar="SHARE",
        help='Largest growth of that estimate against --baseline: "5 %" or 0.05.',
    ),
    Limit.MIN_ELIGIBLE: Written(
        kinds=(float, str),
        read=_share("min_eligible"),
        metavar="SHARE",
        help='Least share of the MACs that --target takes: "80 %" or 0.8.',
    ),
    Limit.PATTERN: Written(
        kinds=(str,),
        read=_pattern,
        metavar="N:M",
        help='What every weight keeps that can: "2:4", at most 2 non-zeros of 4 consecutive inputs of an output.',
    ),
    Limit.MAX_FLOAT_OPS: Written(
        kinds=(int,),
        read=_number("max_float_ops"),
        metavar="COUNT",
        help="Most operations of a .tflite file that compute in floating point: 0 for an integer file.",
    ),
    Limit.CHANNEL_MULTIPLE: Written(
        kinds=(int,),
        read=_number("channel_multiple"),
        metavar="COUNT",
        help="What the channels between layers are a multiple of: 8 or 16, for whole tiles of a kernel.",
    ),
    Limit.SPARSE_KERNELS: Written(
        kinds=(bool,),
        read=_asked,
        metavar="",
        help="XNNPACK runs a .tflite file's sparse kernels on Arm: every condition of 'estimate' holds.",
    ),
}
_NEEDS = {
    bool: "true",
    dict: "a table of limits by metric",
    str: "a text in quotes",
    int: "a whole number",
    float: "a number",
}


def is_kind(value: object, kind: type) -> bool:
    """Whether a value is of a kind of TOML: a bool is no number, a whole number is one."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def read_limit(limit: Limit, value: object) -> Fields:
    """The fields of a Budget in the TOML value of a limit. Raises UsageError."""
    written = LIMITS[limit]
    if not any(is_kind(value, kind) for kind in written.kinds):
        raise UsageError(f"{limit} must be {' or '.join(_NEEDS[kind] for kind in written.kinds)}, got {value!r}")
    assert isinstance(value, Scalar | Mapping)
    return written.read(value)


def option_value(limit: Limit, text: str) -> Scalar | Mapping[str, Scalar]:
    """What the text of an option would be in TOML."""
    if dict in LIMITS[limit].kinds and "=" in text:
        pairs = [part.rpartition("=") for part in text.split(",")]
        return {name.strip(): _number_or_text(word.strip()) for name, _, word in pairs}
    if bool in LIMITS[limit].kinds and text == "true":
        return True
    for kind in (int, float):
        if kind in LIMITS[limit].kinds:
            try:
                return kind(text)
            except ValueError:
                pass
    return text


def _number_or_text(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word

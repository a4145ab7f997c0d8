"""One limit of a budget held against one file: numbers and words to look up, no sentences."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Band", "Limit", "Unit", "Unknown", "Verdict"]


class Limit(enum.StrEnum):
    """What a budget can limit: the key in a recipe and in edgeprune.toml, and the option of the command line."""

    DOWNLOAD = "download"
    INSTALL = "install"
    GROWTH = "growth"
    PARAMETERS = "parameters"
    MIN_SPARSITY = "min_sparsity"
    MAX_METRIC_DROP = "max_metric_drop"
    MAX_LATENCY_MS = "max_latency_ms"
    MAX_LATENCY_GROWTH = "max_latency_growth"


class Unit(enum.StrEnum):
    """What the numbers of a verdict count; `metric` is in the metric's own."""

    BYTES = "bytes"
    PARAMETERS = "parameters"
    FRACTION = "fraction"
    MS = "ms"
    METRIC = "metric"


class Unknown(enum.StrEnum):
    """Why a limit could not be judged."""

    UNREAD = "unread"  # the file
    NOT_COUNTED = "not counted"  # of this format, or not in this file
    NOT_MEASURED = "not measured"
    NO_WEIGHTS = "no weights"
    NO_BASELINE = "no baseline"  # and growth is the only limit
    NOT_IN_BASELINE = "not in baseline"  # the codec, or an estimate for the device
    OTHER_BASIS = "other basis"  # the baseline's estimate is of another state of the profile or version of the tool
    NOT_ESTIMATED = "not estimated"
    NOT_IN_LEDGER = "not in ledger"
    OTHER_FILE = "other file"  # the ledger's file of this name
    NOT_SCORED = "not scored"  # on the samples of the dense model


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A latency estimated for a device and the band it lies in."""

    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One limit held against one file; `passed` is None when it could not be judged: `unknown` says why.

    `codec`, `device` and `metric` are set where the limit is of one. Of a latency, `now` is the file's estimate and
    `before` the baseline's. `detail` is what the reader of the file or the estimate says about it.
    """

    kind: Limit
    path: str
    actual: float | None
    limit: float
    unit: Unit
    passed: bool | None
    codec: str | None = None
    device: str | None = None
    metric: str | None = None
    now: Band | None = None
    before: Band | None = None
    unknown: Unknown | None = None
    detail: str = ""

"""One limit of a budget held against one file, and the estimate it may be about: numbers and words, no sentences."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from edgeprune.host.json_values import check_counts

__all__ = ["Band", "Estimate", "Limit", "Unit", "Unknown", "Verdict", "all_passed"]


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
    MIN_ELIGIBLE = "min_eligible"
    PATTERN = "pattern"
    MAX_FLOAT_OPS = "max_float_ops"
    CHANNEL_MULTIPLE = "channel_multiple"
    SPARSE_KERNELS = "sparse_kernels"

    @property
    def of_codec(self) -> bool:
        """Whether it is of the file as one codec compresses it."""
        return self in (Limit.DOWNLOAD, Limit.GROWTH)

    @property
    def of_baseline(self) -> bool:
        """Whether it is held against an earlier file."""
        return self in (Limit.GROWTH, Limit.MAX_LATENCY_GROWTH)

    @property
    def of_latency(self) -> bool:
        """Whether it is of an estimate for a device."""
        return self in (Limit.MAX_LATENCY_MS, Limit.MAX_LATENCY_GROWTH)

    @property
    def of_target(self) -> bool:
        """Whether it is of an accelerator."""
        return self is Limit.MIN_ELIGIBLE

    @property
    def of_structure(self) -> bool:
        """Whether it is of the operations and weights of the file, and not of its account."""
        return self in (Limit.PATTERN, Limit.MAX_FLOAT_OPS, Limit.CHANNEL_MULTIPLE, Limit.SPARSE_KERNELS) or (
            self.of_target
        )

    @property
    def is_least(self) -> bool:
        """Whether more is better."""
        return self in (Limit.MIN_SPARSITY, Limit.MIN_ELIGIBLE)


class Unit(enum.StrEnum):
    """What the numbers of a verdict count; `metric` is in the metric's own."""

    BYTES = "bytes"
    PARAMETERS = "parameters"
    FRACTION = "fraction"
    MS = "ms"
    METRIC = "metric"
    LAYERS = "layers"
    OPERATIONS = "operations"
    CONDITIONS = "conditions"


class Unknown(enum.StrEnum):
    """Why a limit could not be judged."""

    UNREAD = "unread"  # the file
    NOT_COUNTED = "not counted"  # of this format, or not in this file
    NOT_MEASURED = "not measured"
    NO_WEIGHTS = "no weights"
    NO_BASELINE = "no baseline"  # and growth is the only limit
    NOT_IN_HISTORY = "not in history"  # the commit that growth is counted from
    NOT_IN_BASELINE = "not in baseline"  # the codec, or an estimate for the device
    OTHER_BASIS = "other basis"  # the baseline's estimate is of another state of the profile or version of the tool
    NOT_ESTIMATED = "not estimated"
    NOT_IN_LEDGER = "not in ledger"
    OTHER_FILE = "other file"  # the ledger's file of this name
    NOT_SCORED = "not scored"  # on the samples of the dense model


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The latency of a file on a device, estimated from the profile named `device`; `how` says it in one sentence.

    Milliseconds are None where the profile gives none, and `refused` says why. `relative` is in units of MobileNetV2
    1.0 at 224 pixels on the same device, also where a profile only ranks; `notes` are sentences about the estimate.
    `basis` names what computed it: only estimates for the same device with the same basis can be compared.
    """

    device: str
    how: str
    basis: str
    total_ms: float | None
    low_ms: float | None
    high_ms: float | None
    relative: float | None
    refused: str | None
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({value is None for value in (self.total_ms, self.low_ms, self.high_ms)}) > 1:
            raise ValueError(f"the estimate for {self.device[:40]} is half there")
        numbers = {"total_ms": self.total_ms, "low_ms": self.low_ms, "high_ms": self.high_ms}
        check_counts(**numbers, relative=self.relative)

    @property
    def given(self) -> bool:
        """Whether it says how long the file takes, in milliseconds or against a well-known network."""
        return self.total_ms is not None or self.relative is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A latency estimated for a device and the band it lies in."""

    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One limit held against one file; `passed` is None when it could not be judged: `unknown` says why.

    `codec`, `device`, `metric` and `target` (an accelerator) are set where the limit is of one, `asked` where it is
    more than its number: the pattern, the multiple, the commits that growth is over. Of a latency, `now` is the file's
    estimate and `before` the baseline's; of growth against a history, `since` is the commit that it counts from.
    `layers` names what breaks the limit, `detail` is what the reader of the file or the estimate says about it.
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
    target: str | None = None
    asked: str | None = None
    layers: tuple[str, ...] = ()
    since: str | None = None


def all_passed(verdicts: Iterable[Verdict]) -> bool | None:
    """False when a limit is exceeded, else None when one could not be judged, else True, also of no verdict at all."""
    found = {verdict.passed for verdict in verdicts}
    return False if False in found else None if None in found else True

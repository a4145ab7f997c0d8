"""The records of what was tried: the files of a search with what they cost, and a model's layers one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeprune.errors import InputError
from edgeprune.host.json_values import record_of
from edgeprune.ledger import ArtifactEntry, ChannelReport
from edgeprune.step_reports import MetricChange

__all__ = ["Aims", "DataFreeReport", "LayerCost", "Point", "SearchReport", "Sensitivity"]

SCHEMA_VERSION = 1


ROUNDING = 1e-9  # of a difference of two metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """What is aimed at; None where nothing is. `latency` is a share of that of the dense model's file of the same
    precision, `max_drop` what may be lost of the metric: of a share in points, of other metrics a part of its value."""

    download_bytes: int | None
    latency: float | None
    max_drop: float

    def allows(self, lost: float) -> bool:
        """Whether so much of the metric may be lost; 0.9336 - 0.9256 is a bit more than 0.008."""
        return lost <= self.max_drop + ROUNDING

    def excess(self, download_bytes: int, latency: float | None, lost: float) -> dict[str, float]:
        """How far a file is from each aim, 0 where it is reached: of sizes and times as a part of the aim."""
        found = {"drop": 0.0 if self.allows(lost) else lost - self.max_drop}
        if self.download_bytes is not None:
            found["download"] = max(0.0, download_bytes / self.download_bytes - 1)
        if self.latency is not None:
            found["latency"] = max(0.0, latency / self.latency - 1) if latency is not None else float("inf")
        return found

    def distance(self, point: Point) -> float:
        """How far a file is from all aims, 0 where it reaches them: a point of the metric weighs as ten percent of a
        size."""
        over = self.excess(point.download_bytes, point.latency, point.lost)
        return 100 * over.pop("drop") + 10 * sum(over.values())

    def rank(self, point: Point) -> tuple[float, float, int]:
        """Less for a better file: of those that reach all aims the one that loses least, else the nearest."""
        return self.distance(point), point.lost, point.download_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A file that was made and judged: `lost` is how much of the metric on validation samples it loses against the
    dense float32 file. `latency` is against the dense file of the same precision, `how` says whether measured or
    estimated. `epochs` are those it was trained so far, `cpu_s` is what it cost beyond the points before it (without
    conversions, which one process makes for all)."""

    candidate: str
    stage: str
    precision: str
    epochs: int
    parameters: int
    macs: int | None
    download_bytes: int
    download_ratio: float
    latency: float | None
    how: str
    metric: float
    lost: float
    seconds: float
    cpu_s: float
    pareto: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """All that a search tried. `winner` is the place of its point, `nearest` that of the point nearest to each aim
    where none reaches all; `reached` tells which aims the winner's files reach, the drop also on test samples
    (`test_drop`, None without a metric there). `ended` says why it ended: "done" or "interrupted"."""

    tool_version: str
    model: str
    metric: str
    is_share: bool
    dense_bytes: int
    dense_metric: float
    device: str | None
    aims: Aims
    asked: Mapping[str, object]
    points: tuple[Point, ...]
    winner: int
    nearest: Mapping[str, int]
    reached: Mapping[str, bool]
    test_drop: float | None
    seconds: float
    cpu_s: float
    ended: str
    said: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 <= place < len(self.points) for place in (self.winner, *self.nearest.values())):
            raise ValueError("it names a file that is not among its files")

    @property
    def met(self) -> bool:
        """Whether all that was asked for is reached."""
        return all(self.reached.values())

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, `schema_version` first."""
        return _as_json(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, object], what: str) -> SearchReport:
        """The report that `to_json` gave, as plain values. Raises InputError, which begins with `what`."""
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{what} is the search of another version of edgeprune; run it again")
        tool = raw.get("tool")
        version = tool.get("version") if isinstance(tool, Mapping) else None
        return record_of(cls, {**raw, "tool_version": version}, f"{what} is not a search, run it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFreeReport:
    """What was made of a model without any data: `files` and, by their names, whether each is as small as
    `download_bytes` asks for. `channels` are the dead ones that went, None where none did. No accuracy is in it:
    nothing tells that without data."""

    tool_version: str
    model: str
    dense_bytes: int
    download_bytes: int | None
    channels: ChannelReport | None
    files: tuple[ArtifactEntry, ...]
    reached: Mapping[str, bool]
    said: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether all files are small enough."""
        return all(self.reached.values())

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, `schema_version` first."""
        return _as_json(self)


def _as_json(report: Any) -> dict[str, Any]:
    body = asdict(report)
    version = body.pop("tool_version")
    return {"schema_version": SCHEMA_VERSION, "tool": {"name": "edgeprune", "version": version}, **body}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """Of a layer, or an operation of it: with only it compressed the `sqnr_db` of the outputs and the `metric`, which
    is `lost` less; with only it left alone `without_db` and `without_metric`, which is `gained` more than with all
    compressed; `gain` is that difference with its interval. `macs` is its share; None is unknown, of a decibel also
    infinite."""

    layer: str
    macs: float | None
    sqnr_db: float | None
    metric: float | None
    lost: float | None
    without_db: float | None
    without_metric: float | None
    gained: float | None
    gain: MetricChange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """All layers, the one that disturbs the outputs most first. `how` is int8 or a sparsity; `before` is the metric of
    the float model, `after` and `after_db` those with all layers compressed, on `samples` samples (0: no targets)."""

    how: str
    metric: str | None
    samples: int
    before: float | None
    after: float | None
    after_db: float | None
    layers: tuple[LayerCost, ...]

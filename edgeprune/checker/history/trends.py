"""How a file, or a layer of one, went through the commits of a history: its measures, and the steps in them."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeprune.checker.history.records import CommitRecord, History
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.checker.size.layer_pairs import Pair, causes
from edgeprune.checker.size.records import FileAccount, LayerAccount
from edgeprune.errors import UsageError
from edgeprune.host.toml_values import near
from edgeprune.verdict import Unit

__all__ = ["How", "Point", "Series", "Step", "Trend", "layer_trends", "trends"]


class How(enum.StrEnum):
    """How a number was obtained."""

    MEASURED = "measured on the file"
    ESTIMATED = "estimated from a profile"
    COUNTED = "counted in emulation"
    LEDGER = "told by the ledger of the run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A measure at each point of a trend, None where it is not known there, or not comparable with the last."""

    name: str
    unit: Unit
    how: How
    values: tuple[float | None, ...]

    @property
    def known(self) -> tuple[float, ...]:
        """The values that are known."""
        return tuple(value for value in self.values if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A commit: what the file (or the layer) takes on a device, and its part of the download."""

    record: CommitRecord
    install_bytes: int | None
    download_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A commit that changed something, from the point before to the point at `place`; `layers` are (before, after) of
    each layer that changed, the largest change first. `new_tool`: another version of edgeprune looked at it."""

    place: int
    before: Point
    after: Point
    layers: tuple[Pair, ...]
    new_tool: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The file at `path`, or its layer of that name, at each commit that has it, by date. Downloads are by `codec`; of
    a layer they are its part of one deflate stream."""

    path: str
    layer: str | None
    codec: str
    points: tuple[Point, ...]
    steps: tuple[Step, ...]
    series: tuple[Series, ...]


def trends(history: History, *, codec: str = BASE_CODEC) -> tuple[Trend, ...]:
    """A trend for each file of a history, in the order of the last commit; files that are gone come last."""
    return tuple(_trend(path, pairs, codec) for path, pairs in _by_path(history).items())


def layer_trends(history: History, layer: str) -> tuple[Trend, ...]:
    """The trends of the layers of that name. Raises UsageError where no file has one."""
    found = [_layer_trend(path, pairs, layer) for path, pairs in _by_path(history).items()]
    made = tuple(trend for trend in found if trend.points)
    if not made:
        names = {item.name for record in history.commits for account in record.files for item in account.layers}
        raise UsageError(f"no layer {layer!r} in {history.path}{near(layer, names)}")
    return made


Seen = tuple[CommitRecord, FileAccount]


def _by_path(history: History) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for record in history.commits[-1:]:
        found |= {account.path: [] for account in record.files}
    for record in history.commits:
        for account in record.files:
            found.setdefault(account.path, []).append((record, account))
    return found


def _trend(path: str, seen: Sequence[Seen], codec: str) -> Trend:
    points = [
        Point(record=record, install_bytes=account.raw_bytes, download_bytes=account.download_bytes.get(codec))
        for record, account in seen
    ]
    steps = []
    for place in range(1, len(seen)):
        old, new = seen[place - 1][1], seen[place][1]
        layers = [] if old is new else causes(old.layers, new.layers)
        if layers or _differs(points[place - 1], points[place]):
            steps.append(_step(points, place, layers))
    series = tuple(_series_of(seen))
    return Trend(path=path, layer=None, codec=codec, points=tuple(points), steps=tuple(steps), series=series)


def _layer_trend(path: str, seen: Sequence[Seen], name: str) -> Trend:
    with_it = [(record, next((item for item in account.layers if item.name == name), None)) for record, account in seen]
    have = [(record, item) for record, item in with_it if item is not None]
    points = [
        Point(record=record, install_bytes=item.raw_bytes, download_bytes=item.deflate_bytes) for record, item in have
    ]
    steps = [
        _step(points, place, ((have[place - 1][1], have[place][1]),))
        for place in range(1, len(have))
        if _differs(points[place - 1], points[place])
    ]
    series = tuple(_series_of_layer([item for _, item in have]))
    return Trend(path=path, layer=name, codec=BASE_CODEC, points=tuple(points), steps=tuple(steps), series=series)


def _differs(old: Point, new: Point) -> bool:
    both = None not in (old.download_bytes, new.download_bytes)
    return old.install_bytes != new.install_bytes or (both and old.download_bytes != new.download_bytes)


def _step(points: Sequence[Point], place: int, layers: Sequence[Pair]) -> Step:
    before, after = points[place - 1], points[place]
    new_tool = before.record.tool != after.record.tool
    return Step(place=place, before=before, after=after, layers=tuple(layers), new_tool=new_tool)


def _series_of(seen: Sequence[Seen]) -> Iterator[Series]:
    accounts = [account for _, account in seen]
    yield _measured("install", Unit.BYTES, [account.raw_bytes for account in accounts])
    for codec in dict.fromkeys(codec for account in accounts for codec in account.download_bytes):
        sizes = [account.download_bytes.get(codec) for account in accounts]
        yield _measured(f"download ({codec})", Unit.BYTES, sizes)
    yield _measured("parameters", Unit.PARAMETERS, [account.parameters for account in accounts])
    yield _measured("zeros", Unit.FRACTION, [account.sparsity for account in accounts])
    yield _measured("MACs", Unit.OPERATIONS, [account.macs for account in accounts])
    yield from _beside(seen)
    yield from _estimated(accounts)


def _series_of_layer(items: Sequence[LayerAccount]) -> Iterator[Series]:
    yield _measured("install", Unit.BYTES, [item.raw_bytes for item in items])
    yield _measured("download share (deflate)", Unit.BYTES, [item.deflate_bytes for item in items])
    yield _measured("parameters", Unit.PARAMETERS, [item.parameters for item in items])
    yield _measured("zeros", Unit.FRACTION, [item.sparsity for item in items])
    yield _measured("MACs", Unit.OPERATIONS, [item.macs for item in items])


def _measured(name: str, unit: Unit, values: Sequence[float | None]) -> Series:
    return Series(name=name, unit=unit, how=How.MEASURED, values=tuple(values))


def _beside(seen: Sequence[Seen]) -> Iterator[Series]:
    """Metrics and counts of instructions, which stand beside the accounts."""
    metrics = [record.metrics.get(account.path, {}) for record, account in seen]
    counts = [record.instructions.get(account.path, {}) for record, account in seen]
    for name in dict.fromkeys(name for values in metrics for name in values):
        values = tuple(item.get(name) for item in metrics)
        yield Series(name=f"metric ({name})", unit=Unit.METRIC, how=How.LEDGER, values=values)
    for cpu in dict.fromkeys(cpu for values in counts for cpu in values):
        numbers = tuple(item.get(cpu) for item in counts)
        yield Series(name=f"instructions ({cpu})", unit=Unit.OPERATIONS, how=How.COUNTED, values=numbers)


def _estimated(accounts: Sequence[FileAccount]) -> Iterator[Series]:
    """The estimates for each device; those with another basis than the last are left out."""
    last: dict[str, str] = {item.device: item.basis for account in accounts for item in account.estimates}
    for device, basis in last.items():
        found = [account.estimate(device, basis) for account in accounts]
        values = tuple(item.total_ms if item and item.basis == basis else None for item in found)
        yield Series(name=f"latency estimate, {device}", unit=Unit.MS, how=How.ESTIMATED, values=values)

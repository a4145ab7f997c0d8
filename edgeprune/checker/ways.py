"""Ways to make a model smaller or faster, each as a file that was really made: what it gains, where, at what risk.

Records, and the choice among them; what makes the files is in the maker, what tells of them in the reports.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.checker.latency.accelerators.placement_records import Gain, Maps
from edgeprune.checker.latency.sparsity import SparsityAdvice
from edgeprune.verdict import Estimate

__all__ = ["Advice", "Aim", "Kind", "OnAccelerator", "Trial", "Way", "chosen_way"]

UNCHANGED = 0.01  # a ratio of estimates nearer to 1 than this is no change
WORTH = 0.9  # a way that changes more of the model must download this share of a simpler one, or less
BEARABLE = 0.02  # of the metric, where nothing can be trained


class Aim(enum.StrEnum):
    """What is to become less."""

    DOWNLOAD = "download"
    LATENCY = "latency"


class Kind(enum.StrEnum):
    """What was done to a model, the least first; those of Core ML are packages."""

    DENSE = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    MAGNITUDE = "magnitude"
    MAGNITUDE_INT8 = "magnitude + int8"
    PATTERN = "N:M"
    CHANNELS = "channels"
    CHANNELS_INT8 = "channels + int8"
    COREML = "Core ML float16"
    PALETTE = "Core ML palette4"
    SPARSE = "Core ML sparse"

    @property
    def is_int8(self) -> bool:
        """Whether it is a .tflite file of integers."""
        return self in (Kind.INT8, Kind.MAGNITUDE_INT8, Kind.CHANNELS_INT8)

    @property
    def is_coreml(self) -> bool:
        """Whether it is a Core ML package."""
        return self in (Kind.COREML, Kind.PALETTE, Kind.SPARSE)

    @property
    def has_zeros(self) -> bool:
        """Whether single weights are zero in it."""
        return self in (Kind.MAGNITUDE, Kind.MAGNITUDE_INT8, Kind.PATTERN, Kind.SPARSE)

    @property
    def narrower(self) -> bool:
        """Whether it has fewer channels."""
        return self in (Kind.CHANNELS, Kind.CHANNELS_INT8)

    @property
    def dense_twin(self) -> Kind:
        """The file of the model as it is that stands beside it: same format, same precision."""
        if self.is_coreml:
            return Kind.COREML
        return Kind.INT8 if self.is_int8 else Kind.FLOAT16 if self is Kind.FLOAT16 else Kind.DENSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a metric became in one shot, without any training, on so many samples; `how` says of what it was taken."""

    metric: str
    before: float
    after: float
    samples: int
    higher_is_better: bool
    how: str

    @property
    def lost(self) -> float:
        """How much worse it became; below 0 where it became better."""
        return self.before - self.after if self.higher_is_better else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class OnAccelerator:
    """Whether an accelerator takes a file, by its published rules: which part of the multiplications, the first
    condition that fails; `gain` is told of a target of N:M sparsity."""

    target: str
    maps: Maps
    macs_share: float | None
    failed: str
    gain: Gain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One file. Bytes, MACs and the share of zeros are counted in it, `estimates` are from the profiles that may cover
    it; `pattern` ("2:4") is what its weights keep. `refused` says why it was not made, and the rest is None then."""

    kind: Kind
    asked: str
    pattern: str = ""
    install_bytes: int | None = None
    download_bytes: int | None = None
    macs: int | None = None
    sparsity: float | None = None
    estimates: tuple[Estimate, ...] = ()
    accelerators: tuple[OnAccelerator, ...] = ()
    trial: Trial | None = None
    untried: str = ""
    refused: str = ""

    @property
    def made(self) -> bool:
        """Whether there is such a file."""
        return not self.refused

    def estimate(self, device: str) -> Estimate | None:
        """The estimate for a device, None where its profile is of other files."""
        return next((found for found in self.estimates if found.device == device), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is known of a model before any training. The first way is the dense float32 .tflite file; `sparse` is
    whether kernels for zeros would run the pruned one. `asked` are the sparsity and the ratio of channels in mind,
    where they were said; `trains` is whether samples to train on were given."""

    model: str
    layers: int
    parameters: int
    macs: int | None
    bound_bytes: int | None
    targets: tuple[str, ...]
    ways: tuple[Way, ...]
    sparse: tuple[SparsityAdvice, ...]
    sparsity: float
    ratio: float
    asked_sparsity: bool
    asked_ratio: bool
    aim: Aim
    chosen: Kind
    trains: bool
    unknown: tuple[str, ...]

    def way(self, kind: Kind) -> Way | None:
        """The way of a kind that was made."""
        return next((way for way in self.ways if way.kind is kind and way.made), None)

    def latency_ratio(self, kind: Kind, device: str) -> float | None:
        """Estimated latency of a way over that of the dense file of its precision, from one profile; None where one of
        them has no estimate, or a profile gives none."""
        way, base = self.way(kind), self.way(kind.dense_twin)
        new, old = way and way.estimate(device), base and base.estimate(device)
        if not new or not old:
            return None
        for value, other in ((new.total_ms, old.total_ms), (new.relative, old.relative)):
            if value is not None and other:
                return value / other
        return None


def chosen_way(ways: Sequence[Way], aim: Aim, *, trains: bool, int8_target: bool, pattern_pays: bool = False) -> Kind:
    """The way to recommend of those that were made as .tflite files; float16 where no other one is.

    For a download the smallest one: of two that differ by less than a tenth the one that changes less. For a latency
    fewer channels, in int8 where a target computes with it; N:M zeros where all targets are for such and it pays there.
    Where nothing can be trained, those whose metric stays.
    """
    made = [way for way in ways if way.made and not way.kind.is_coreml and way.kind is not Kind.DENSE]
    if not pattern_pays:
        made = [way for way in made if way.kind is not Kind.PATTERN]
    if not trains:
        made = [way for way in made if way.trial is None or way.trial.lost <= BEARABLE * abs(way.trial.before)]
    if aim is Aim.LATENCY:
        order = [Kind.PATTERN] if pattern_pays else []
        order += [Kind.CHANNELS_INT8, Kind.INT8] if int8_target else []
        order += [Kind.CHANNELS]
        return next((kind for kind in order if any(way.kind is kind for way in made)), Kind.FLOAT16)
    best: Way | None = None
    for way in sorted(made, key=lambda way: list(Kind).index(way.kind)):
        if best is None or _download(way) <= WORTH * _download(best):
            best = way
    return best.kind if best is not None else Kind.FLOAT16


def _download(way: Way) -> int:
    assert way.download_bytes is not None  # it was made
    return way.download_bytes

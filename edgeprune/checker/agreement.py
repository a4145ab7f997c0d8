"""What holding a file against the model that it came from told. Unknown is None, never 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeprune.ledger import OutputParity, RuntimeRun

__all__ = ["Agreement", "Departure", "LayerMatch", "ScorePair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMatch:
    """A layer and the tensor of the file that is closest to its output; `sqnr_db` None for equal, -inf for none."""

    layer: str
    kind: str
    tensor: str
    sqnr_db: float | None
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """Where a file departs: the first layer that does, and the last one before it that agrees (None: the inputs).

    `first` is None when all layers agree or are fused into ones that do.
    """

    first: LayerMatch | None
    last_sound: str | None
    layers: tuple[LayerMatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePair:
    """A metric by name, of the file and of the model."""

    name: str
    file: float
    model: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Whether a file computes what its model computes, on `samples` samples which `samples_are` describes.

    `reason` says why it does not; None when it agrees. `pairs` maps the model's outputs to the file's, and `reordered`
    says that those matched by value stand in another order there. `scores` are the metrics of both. `pictures` are the
    file's image inputs by name, with size and colour in words. `departure` is None without a bisection; `bisect_note`
    says why there is none although one was asked for.
    """

    path: str
    format: str
    precision: str
    reason: str | None
    samples: int
    samples_are: str
    parity: tuple[OutputParity, ...]
    pairs: Mapping[str, str]
    reordered: bool = False
    runtimes: tuple[RuntimeRun, ...]
    pictures: Mapping[str, str] = field(default_factory=dict)
    scores: tuple[ScorePair, ...] = ()
    departure: Departure | None = None
    bisect_note: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether the file computes what the model computes."""
        return self.reason is None

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; numbers that JSON has no word for (the ratio of a layer without a tensor, the
        error of a NaN) become null."""
        body = {
            "file": {"path": self.path, "format": self.format, "precision": self.precision},
            "agrees": self.agrees,
            "reason": self.reason,
            "outputs_reordered": self.reordered,
            "samples": self.samples,
            "samples_are": self.samples_are,
            "parity": [{**asdict(item), "file_output": self.pairs[item.output]} for item in self.parity],
            "runtimes": [asdict(run) for run in self.runtimes],
            "metric": asdict(self.scores[0]) if self.scores else None,
            "metrics": [asdict(pair) for pair in self.scores],
            "departure": self.departure and asdict(self.departure),
        }
        plain: dict[str, Any] = _without_infinities(body)
        return plain


def _without_infinities(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

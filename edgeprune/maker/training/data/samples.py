"""Samples of one split: inputs by name, targets and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.maker.training.data.bad import Skipped
from edgeprune.maker.training.data.columns import Column, scaled
from edgeprune.maker.training.goal import FIRST

__all__ = ["Samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples of one split. Inputs [samples, ...] by input name, as stored; targets [samples, ...] by output name, or
    None. An array of targets is that of the only output, or the first: it is kept under the name "".

    Inputs are NumPy arrays, or columns of which rows are taken where a file holds more than memory should. `weights`
    [samples] is how much each counts in the loss of a training; `skipped` are those that the file has and that were
    left out.
    """

    path: Path
    inputs: Mapping[str, Any]
    targets: Mapping[str, np.ndarray] | np.ndarray | None
    weights: np.ndarray | None = None
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self) -> None:
        if self.targets is not None:
            named = self.targets if isinstance(self.targets, Mapping) else {FIRST: self.targets}
            object.__setattr__(self, "targets", {name: np.asarray(values) for name, values in named.items()})

    @property
    def told(self) -> Mapping[str, np.ndarray]:
        """The targets, none where there are none."""
        assert self.targets is None or isinstance(self.targets, Mapping)
        return self.targets or {}

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def note(self) -> str | None:
        """What was left out, a line for people; None where all samples are there."""
        return self.skipped.note(self.path, len(self))

    def rows(self, indices: np.ndarray) -> Samples:
        """The samples at `indices`, in that order, in memory."""
        return replace(
            self,
            inputs={name: column[indices] for name, column in self.inputs.items()},
            targets={name: values[indices] for name, values in self.told.items()} or None,
            weights=None if self.weights is None else self.weights[indices],
        )

    def scaled(self, scale: float, bias: Sequence[float]) -> Samples:
        """The same with inputs of value * scale + bias, one bias or one for each channel, as float32."""
        factor, shift = np.asarray(scale, np.float32), np.asarray(bias, np.float32)
        inputs: dict[str, Column] = {name: scaled(column, factor, shift) for name, column in self.inputs.items()}
        return replace(self, inputs=inputs)

    def set_aside(self, count: int, parts: int, rng: np.random.Generator) -> list[Samples]:
        """What is left, and so many parts of `count` samples, drawn without replacement; each in the order it had."""
        order = rng.permutation(len(self))
        *aside, rest = np.split(order, [count * (n + 1) for n in range(parts)])
        return [self.rows(np.sort(indices)) for indices in (rest, *aside)]

    def some(self, count: int, rng: np.random.Generator) -> Samples:
        """At most `count` samples, drawn without replacement."""
        return self.rows(rng.permutation(len(self))[:count])

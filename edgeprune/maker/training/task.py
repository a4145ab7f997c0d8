"""What a model is trained for and scored by: metrics and losses of its outputs. See `goals.py` for where they come
from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeprune.maker.training.goal import FIRST
from edgeprune.maker.training.losses import loss_targets
from edgeprune.maker.training.metrics import Metric

__all__ = ["Arrays", "OutputLoss", "Score", "Task"]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A metric of one output; `name` as it is told: "accuracy", of a model with several outputs "class_accuracy".

    `place` is that of the output among the model's and `output` its name, by which the targets go; None: a function of
    the user's own takes all outputs and all targets, by name.
    """

    name: str
    metric: Metric
    output: str | None
    place: int | None

    def of(self, outputs: Arrays, targets: Arrays) -> float:
        """Its value for all outputs of the model, in order (in a file they may have other names), and the targets of
        the same samples."""
        return self.metric.compute(*self.taken(outputs, targets))

    def taken(self, outputs: Arrays, targets: Arrays) -> tuple[Any, Any]:
        """(outputs, targets) as its metric takes them."""
        if self.place is None or self.output is None:
            return dict(outputs), dict(targets)
        return outputs[list(outputs)[self.place]], _told(targets, self.output, self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLoss:
    """The loss of the output at `place`, of the `shape` without the batch. `function` is a `keras.losses.Loss`; of the
    user's own the targets are as they are stored."""

    output: str
    place: int
    shape: tuple[int | None, ...]
    function: Any
    weight: float = 1.0
    as_stored: bool = False

    def targets(self, targets: Arrays, rows: Any = slice(None)) -> np.ndarray:
        """Targets of a batch, `rows` of all, as the function takes them."""
        some = self.stored(targets)[rows]
        return some if self.as_stored else loss_targets(some, self.shape, self.function)

    def stored(self, targets: Arrays) -> np.ndarray:
        """All targets of the output as they are stored."""
        return _told(targets, self.output, self.place)

    def value(self, output: Any, targets: Arrays, rows: Any, weights: np.ndarray | None) -> Any:
        """The weighted loss of a batch as a tensor, `weights` [batch] of its samples or None."""
        return self.weight * self.function(self.targets(targets, rows), output, sample_weight=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Scores and losses of a model's outputs. The first score is the main one: it chooses among epochs.

    `losses` is empty where nothing is trained; outputs without a loss are not trained.
    """

    scores: tuple[Score, ...]
    losses: tuple[OutputLoss, ...] = ()

    @property
    def main(self) -> Score:
        """The score that chooses."""
        return self.scores[0]

    def measured(self, outputs: Arrays, targets: Arrays) -> tuple[float, ...]:
        """The value of each score."""
        return tuple(score.of(outputs, targets) for score in self.scores)

    def within(self, outputs: Sequence[str]) -> Task:
        """What of it is left for a model that has only these outputs, in this order."""
        scores = [
            score if score.output is None else replace(score, place=outputs.index(score.output))
            for score in self.scores
            if score.output is None or score.output in outputs
        ]
        losses = [replace(loss, place=outputs.index(loss.output)) for loss in self.losses if loss.output in outputs]
        return replace(self, scores=tuple(scores), losses=tuple(losses))

    @property
    def takes_all(self) -> bool:
        """Whether a score takes the targets of every output that has some."""
        return any(score.output is None for score in self.scores)

    @property
    def outputs(self) -> frozenset[str]:
        """The outputs that need targets."""
        names = {score.output for score in self.scores if score.output is not None}
        return frozenset(names | {loss.output for loss in self.losses})


def _told(targets: Arrays, output: str, place: int) -> np.ndarray:
    """The targets of an output; those without a name are the first one's."""
    return targets[output] if output in targets or place else targets[FIRST]

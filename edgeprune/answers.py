"""What answers became between the dense model and a file, on the same samples: by class, or by their errors."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.host.json_values import check_counts

__all__ = ["AnswerChange", "ClassAnswers", "ErrorCounts", "Swap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAnswers:
    """A class, by its index: how many `answers` are of it, and how many of these the dense model and the file have
    right."""

    index: int
    answers: int
    right_before: int
    right_after: int

    def __post_init__(self) -> None:
        check_counts(answers=self.answers, right_before=self.right_before, right_after=self.right_after)

    @property
    def drop(self) -> float:
        """Lost share of its answers; below 0 where more are right than before."""
        return (self.right_before - self.right_after) / self.answers if self.answers else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Answers of class `actual` that are taken for class `taken`: how many by the dense model and by the file."""

    actual: int
    taken: int
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """How many answers of the dense model and of the file miss by output minus target between each two `edges`; those
    beyond the first and the last are in the outermost."""

    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.edges) - 1 == len(self.before) == len(self.after) > 0:
            raise ValueError("errors are counted between edges, one count fewer than edges")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerChange:
    """One output: of `answers`, `lost` were right and are wrong, `won` the other way round.

    `classes` begin with the one that lost the largest share and are those that changed most, `others` more are not
    listed; `swaps` are mistakes that became more or fewer. Of numbers, `errors` are counted and nothing is right.
    """

    output: str
    answers: int
    lost: int
    won: int
    classes: tuple[ClassAnswers, ...] = ()
    others: int = 0
    swaps: tuple[Swap, ...] = ()
    errors: ErrorCounts | None = None

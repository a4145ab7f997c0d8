"""The shapes that an input of a file takes: fixed, listed, or within bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.errors import UsageError

__all__ = ["InputSizes", "combinations"]

_HINT = "write sizes with the batch first, as in 1,224,224,3; 1,224..512,224..512,3 (a range) or 1,224|384,224|384,3"
LARGEST = 1 << 20  # of one axis


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSizes:
    """For each axis, batch first, what sizes it takes: one, several, or (`ranged`) all from the first to the second.

    Where several axes list sizes, the first of each belong together, the second of each, and so on.
    """

    axes: tuple[tuple[int, ...], ...]
    ranged: bool = False

    @classmethod
    def parse(cls, text: str) -> InputSizes:
        """What `--input-shape` says: "1,224,224,3", "1,224..512,64,3", "1,224|384,224|384,3". Raises UsageError."""
        parts = [part.strip() for part in text.split(",")]
        ranged = any(".." in part for part in parts)
        if ranged and any("|" in part for part in parts):
            raise UsageError(f"--input-shape {text}: a range and a list in one shape; {_HINT}")
        if not all(re.fullmatch(r"\d{1,18}(\.\.\d{1,18}|(\|\d{1,18})+)?", part) for part in parts):
            raise UsageError(f"--input-shape {text}: not a shape; {_HINT}")
        axes = tuple(tuple(int(size) for size in re.split(r"\.\.|\|", part)) for part in parts)
        return cls(axes=axes, ranged=ranged).checked(text)

    def checked(self, text: str) -> InputSizes:
        """Itself. Raises UsageError, naming `text`, for sizes that no file can take."""
        counts = {len(axis) for axis in self.axes if len(axis) > 1}
        if len(self.axes) < 2 or not all(1 <= size <= LARGEST for axis in self.axes for size in axis):
            raise UsageError(f"--input-shape {text}: a batch and at least one size, each from 1 to {LARGEST}; {_HINT}")
        if len(self.axes[0]) > 1:
            raise UsageError(f"--input-shape {text}: the batch (the first number) is one number; {_HINT}")
        if self.ranged and any(low >= high for low, *rest in self.axes for high in rest):
            raise UsageError(f"--input-shape {text}: a range goes from a smaller to a larger size; {_HINT}")
        if not self.ranged and len(counts) > 1:
            raise UsageError(f"--input-shape {text}: list as many sizes for each axis; they belong together in order")
        return self

    @property
    def fixed(self) -> bool:
        """Whether there is only one shape."""
        return all(len(axis) == 1 for axis in self.axes)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The listed shapes, the usual one first; of ranges the smallest and the largest."""
        count = max(len(axis) for axis in self.axes)
        return tuple(tuple(axis[index] if len(axis) > 1 else axis[0] for axis in self.axes) for index in range(count))

    @property
    def signature(self) -> tuple[int | None, ...]:
        """Sizes with None where they may change."""
        return tuple(axis[0] if len(axis) == 1 else None for axis in self.axes)

    def takes(self, shape: Sequence[int | None]) -> bool:
        """Whether an input of this shape (batch first, None for open) can be given all these sizes without a change."""
        return len(shape) == len(self.axes) and all(
            have is None or axis == (have,) for have, axis in zip(shape[1:], self.axes[1:], strict=True)
        )

    def __str__(self) -> str:
        mark = ".." if self.ranged else "|"
        return ",".join(mark.join(map(str, axis)) for axis in self.axes)


def combinations(sizes: Mapping[str, InputSizes]) -> list[dict[str, tuple[int, ...]]]:
    """Shapes of all inputs to try a file with: those that belong together by their place, shorter lists repeated."""
    longest = max((len(known.shapes) for known in sizes.values()), default=1)
    return [
        {name: known.shapes[index % len(known.shapes)] for name, known in sizes.items()} for index in range(longest)
    ]

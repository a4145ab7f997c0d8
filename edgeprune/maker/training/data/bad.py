"""Samples that cannot be used: damaged pictures and records, lines that are none, NaN. An error, or skipped."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.errors import InputError
from edgeprune.maker.training.data.columns import Column, in_parts, picked, taken
from edgeprune.maker.training.data.words import OnBadSample

__all__ = ["SKIP_HINT", "BadSamples", "Skipped"]

SHOWN = 3
SKIP_HINT = "--on-bad-sample skip leaves such samples out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """How many samples were left out, and the first of them with their faults."""

    count: int = 0
    first: tuple[str, ...] = ()

    def note(self, path: Path, left: int) -> str | None:
        """A line for people, None where nothing was left out."""
        if not self.count:
            return None
        more = ", ..." if self.count > len(self.first) else ""
        return f"{path}: skipped {self.count:,} of {self.count + left:,} samples: {', '.join(self.first)}{more}"


class BadSamples:
    """Counts the bad samples of one split. Raises InputError at the first one where they are not to be skipped."""

    def __init__(self, path: Path, on_bad_sample: OnBadSample | str = OnBadSample.ERROR) -> None:
        self.path = path
        self.skips = OnBadSample(on_bad_sample) is OnBadSample.SKIP
        self._count = 0
        self._first: list[str] = []

    @property
    def skipped(self) -> Skipped:
        """What was left out until now."""
        return Skipped(count=self._count, first=tuple(self._first))

    def add(self, name: str, fault: str) -> None:
        """A sample, by what it is called in its file, cannot be used."""
        if not self.skips:
            raise InputError(f"{self.path}, {name}: {fault}; {SKIP_HINT}")
        self._count += 1
        if len(self._first) < SHOWN:
            self._first.append(f"{name} ({fault})")

    def refuse_all(self, left: int) -> None:
        """Raise InputError where samples were skipped and none is `left`."""
        if self._count and not left:
            raise InputError(f"{self.path}: all of its {self._count:,} samples are bad: {', '.join(self._first)}")

    def finite(self, arrays: Mapping[str, Column], *, without: Collection[str] = ()) -> dict[str, Column]:
        """The arrays without the samples that hold NaN or infinite values; those of `without` are not looked at.

        Where nothing is skipped, and where lengths differ, they stay as they are: what takes them finds the fault.
        """
        lengths = {array.shape[:1] for array in arrays.values()}
        if not self.skips or len(lengths) != 1 or () in lengths:
            return dict(arrays)
        good = np.ones(len(next(iter(arrays.values()))), bool)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and name not in without:
                for part in in_parts(array):
                    values = taken(array, part)
                    good[part] &= np.isfinite(values).reshape(len(values), -1).all(-1)
        if good.all():
            return dict(arrays)
        for row in np.flatnonzero(~good):
            self.add(f"sample {row}", "NaN or infinite values")
        self.refuse_all(int(good.sum()))
        keep = np.flatnonzero(good)
        return {name: picked(array, keep) for name, array in arrays.items()}

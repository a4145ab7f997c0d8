"""Progress on stderr: a bar on a terminal, a plain line now and then in a log, nothing when quiet."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["Progress"]

LINE_EVERY_S = 10.0  # in a log; a terminal is redrawn at most ten times a second
BAR_WIDTH = 24


class Progress:
    """One task at a time. `begin` names it, `advance` moves it, `end` closes its line with the time it took."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._terminal = self._stream.isatty()
        self._task = ""
        self._begun = self._drawn = 0.0
        self._pace: tuple[float, int] | None = None  # when, and how much was done
        self.unit_s: float | None = None  # seconds for one of the units of the last task, its first quarter left out

    def note(self, text: str) -> None:
        """A line of its own."""
        if not self._quiet:
            self._print(text)

    def begin(self, task: str) -> None:
        """Start a task."""
        self._task, self._begun = task, time.monotonic()
        self._drawn = self._begun
        self._pace = None
        if not self._quiet:
            if self._terminal:
                self._draw(f"{task} ...")
            else:
                self._print(f"{task} ...")

    def advance(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` units are done."""
        now = time.monotonic()
        if self._pace is None and 4 * done >= total:  # the start also traces and loads
            self._pace = now, done
        elif self._pace is not None and done > self._pace[1]:
            self.unit_s = (now - self._pace[0]) / (done - self._pace[1])
        if self._quiet or now - self._drawn < (0.1 if self._terminal else LINE_EVERY_S):
            return
        self._drawn = now
        spent = now - self._begun
        # The first steps also trace and load; they say nothing about the rest.
        left = f", about {spent / done * (total - done):.0f} s left" if done >= max(5, total / 50) else ""
        if self._terminal:
            filled = round(BAR_WIDTH * done / max(total, 1))
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self._draw(f"{self._task} [{bar}] {done}/{total} {text}{left}")
        else:
            self._print(f"{self._task}: {done}/{total} {text}{left}")

    def end(self, text: str = "") -> None:
        """The task is done."""
        if self._quiet or not self._task:
            return
        line = f"{self._task}: {text + ', ' if text else ''}{time.monotonic() - self._begun:.1f} s"
        if self._terminal:
            self._draw(line)
            self._stream.write("\n")
        else:
            self._print(line)
        self._stream.flush()
        self._task = ""

    def _draw(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text[:150]}")
        self._stream.flush()

    def _print(self, text: str) -> None:
        if self._terminal:
            self._stream.write("\r\x1b[K")
        self._stream.write(text + "\n")
        self._stream.flush()

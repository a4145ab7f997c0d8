"""Progress of a search: every report of work is a moment at which it can be asked to stop."""

from __future__ import annotations

from collections.abc import Callable

from edgeprune.host.progress import Progress

__all__ = ["Stopped", "Watch"]


class Stopped(Exception):  # noqa: N818  (no error: the search ends with what it has)
    """Somebody asked the search to end."""


class Watch(Progress):
    """Progress that raises Stopped as soon as `asked` says so, until `over`: what is left then is done to its end."""

    def __init__(self, asked: Callable[[], bool], *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._asked, self.over = asked, False

    def begin(self, task: str) -> None:
        """Start a task."""
        self._look()
        super().begin(task)

    def advance(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` units are done."""
        self._look()
        super().advance(done, total, text)

    def _look(self) -> None:
        if not self.over and self._asked():
            raise Stopped

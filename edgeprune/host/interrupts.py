"""Ctrl-C and SIGTERM end the program at once, with everything half done undone.

A KeyboardInterrupt cannot be trusted to get through TensorFlow: raised while a function is being traced it may be
dropped in a weak reference's callback (training then goes on) or come out as another exception (SystemError,
NotImplementedError). So the command line installs handlers that do not raise: they undo what is registered here,
newest first, print one line and end the process. A program that imports edgeprune keeps its own handlers, and the
same clean-up then happens on the way out of each context.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["asking", "handlers", "held_back", "note_output", "undoing"]

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_undos: dict[int, Callable[[], object]] = {}
_numbers = itertools.count()
_kept: list[str] = []
_holds = 0
_waiting: int | None = None
_asked: tuple[str, bool] | None = None  # what is said at the first Ctrl-C, whether it came
_stderr = 2


@contextlib.contextmanager
def undoing(undo: Callable[[], object]) -> Iterator[None]:
    """Inside the context, a signal calls `undo` before the process ends. On the way out nothing is called."""
    number = next(_numbers)
    _undos[number] = undo
    try:
        yield
    finally:
        _undos.pop(number, None)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside the context a signal waits. For a few lines that must happen together, never for long work."""
    global _holds
    _holds += 1
    try:
        yield
    finally:
        _holds -= 1
        if not _holds and _waiting is not None:
            _end(_waiting)


@contextlib.contextmanager
def asking(said: str) -> Iterator[Callable[[], bool]]:
    """Inside the context the first Ctrl-C only asks: what this yields is true from then on, and `said` is a line on
    stderr. A second one, and SIGTERM, end the program as ever."""
    global _asked
    _asked = (said, False)
    try:
        yield lambda: _asked is not None and _asked[1]
    finally:
        _asked = None


def note_output(path: Path) -> None:
    """Note a complete output: a signal that comes later must not claim that nothing was written."""
    _kept.append(str(path))


@contextlib.contextmanager
def handlers() -> Iterator[None]:
    """Handle SIGINT and SIGTERM inside the context, unless this is not the main thread or the caller handles (or, as
    a shell does for a job in the background, ignores) them already."""
    global _stderr
    usual = (signal.default_int_handler, signal.SIG_DFL)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in WORDS}
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no stderr at all: then nobody reads the line
            _stderr = os.dup(2)  # TensorFlow's start hides the real one for some seconds
            stack.callback(_forget_stderr)
        for number, handler in before.items():
            if handler in usual:
                stack.callback(signal.signal, number, handler)
                signal.signal(number, _on_signal)
        _kept.clear()
        yield


def _forget_stderr() -> None:
    global _stderr
    os.close(_stderr)
    _stderr = 2


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _waiting, _asked
    if number == signal.SIGINT and _asked is not None and not _asked[1]:
        clear = "\r\x1b[K" if os.isatty(_stderr) else ""
        with contextlib.suppress(OSError):
            os.write(_stderr, f"{clear}edgeprune: {_asked[0]}\n".encode())
        _asked = (_asked[0], True)
    elif _holds:
        _waiting = number
    else:
        _end(number)


def _end(number: int) -> NoReturn:
    for other in WORDS:
        signal.signal(other, signal.SIG_IGN)
    for undo in reversed(list(_undos.values())):
        with contextlib.suppress(Exception):
            undo()
    for name, module in list(sys.modules.items()):  # TensorFlow's own files, which it removes at a usual exit only
        if name.startswith("__autograph_generated_file"):
            with contextlib.suppress(Exception):
                Path(str(module.__file__)).unlink()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    done = f"{', '.join(_kept)}: complete" if _kept else "nothing was written"
    clear = "\r\x1b[K" if os.isatty(_stderr) else ""  # a progress bar may stand there
    with contextlib.suppress(OSError):
        os.write(_stderr, f"{clear}edgeprune: {WORDS[signal.Signals(number)]}; {done}\n".encode())
    os._exit(128 + number)

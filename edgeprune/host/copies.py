"""A child that is a copy of this process: what was imported here is there, for nothing.

TensorFlow's import takes more CPU time than many a conversion. A copy has of all threads the calling one alone, so this
is for the moment when a library is imported and has begun nothing; Linux only (elsewhere system libraries start threads
and locks of their own). What `edgeprune.host.children` promises of a child holds for a copy too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

from edgeprune.host.children import close_pipes, kill
from edgeprune.host.interrupts import WORDS, held_back, undoing
from edgeprune.host.launch import bind

__all__ = ["can_copy", "copied_process"]

_FIRST, _LIMIT = 3, 1 << 20  # descriptors besides the standard ones


class _Copy:
    """The parent's side of a copy (`edgeprune.host.children.Child`)."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.code: int | None = None

    def poll(self) -> int | None:
        return self._reaped(os.WNOHANG)

    def wait(self) -> int:
        code = self._reaped(0)
        assert code is not None
        return code

    def _reaped(self, options: int) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code


def can_copy() -> bool:
    """Whether a copy made here and now would lack no thread of this program."""
    return sys.platform == "linux" and threading.active_count() == 1


@contextlib.contextmanager
def copied_process(
    module: str, *, writable: Sequence[Path], stderr: IO[bytes], settings: Mapping[str, str]
) -> Iterator[_Copy]:
    """A copy of this process that calls `main` of a module and ends; `writable`, `stderr` and `settings` are those of
    `child_process`, but settings that Python reads when it starts come too late."""
    with contextlib.ExitStack() as stack:
        with held_back():
            (lifeline, kept), (its_input, to_it), (from_it, its_output) = os.pipe(), os.pipe(), os.pipe()
            stack.callback(os.close, kept)
            pid = _fork()
            if not pid:
                _run(module, [its_input, its_output, stderr.fileno()], lifeline, writable, settings)
            for descriptor in (lifeline, its_input, its_output):
                os.close(descriptor)
            child = _Copy(pid, os.fdopen(to_it, "wb"), os.fdopen(from_it, "rb"))
            stack.callback(close_pipes, child)
            stack.callback(kill, child)
            stack.enter_context(undoing(lambda: kill(child)))
        yield child


def _fork() -> int:
    with warnings.catch_warnings():
        # From 3.12 on Python warns of any, also of OpenBLAS's, which ends them before a fork and starts others.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _run(
    module: str, streams: Sequence[int], lifeline: int, writable: Sequence[Path], settings: Mapping[str, str]
) -> NoReturn:
    """The copy, from its first moment to its end. Nothing of its parent's is undone here: no handler of an exit or of
    a signal runs, and no object that is there now is ever collected."""
    code = 1
    try:
        gc.freeze()
        for ending in WORDS:
            signal.signal(ending, signal.SIG_DFL)
        os.setsid()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.closerange(_FIRST, lifeline)
        os.closerange(lifeline + 1, _LIMIT)
        sys.stdin, sys.stdout, sys.stderr = (open(n, "w" if n else "r") for n in range(_FIRST))  # noqa: PTH123, SIM115
        os.environ.update({"TMPDIR": str(writable[0]), **settings})
        tempfile.tempdir = None  # to be looked up again
        bind(lifeline, [str(folder) for folder in writable])
        sys.argv = [module]
        importlib.import_module(module).main()
        code = 0
    except BaseException:  # noqa: BLE001  (whatever it is, this process must not go on as its parent)
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

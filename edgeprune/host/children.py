"""Child processes, the parent's side: each is confined, tied to the life of this process, and killed whole at the end.

Whatever opens a file that others made runs in one. A child writes only where its parent says and opens no socket (where
the system can hold it to that: `edgeprune.host.confinement`), and it ends within moments of its parent, even of one
that is killed: it holds the end of a pipe whose other end only the parent has (`edgeprune.host.launch`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from edgeprune.host.interrupts import held_back, undoing

__all__ = ["Child", "child_process", "close_pipes", "confinement_here", "how_it_ended", "kill"]

_LAUNCH = "edgeprune.host.launch"
Stream = int | IO[bytes]


class Child(Protocol):
    """What is asked of a child, however it was started; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int: ...
    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


def how_it_ended(code: int) -> str:
    """The return code of a child that should not have ended, in words. What nobody here killed the system did."""
    if code >= 0:
        return f"ended with exit code {code}"
    memory = ", for want of memory most likely" if code == -signal.SIGKILL else ""
    return f"died of {signal.Signals(-code).name}{memory}"


@contextlib.contextmanager
def child_process(
    command: Sequence[str],
    *,
    writable: Sequence[Path] | None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream | None,
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own; at the end killed with all its children and reaped.

    `command` is `-m MODULE ARGUMENTS...`, a module of this package whose `main` is called, or a program with its
    arguments. It may write beneath the folders `writable`, the first of which is its TMPDIR, and nowhere else, and
    opens no socket; None lets it do all that this process may. `settings` are added to its environment; a program may
    get `environment` as the whole of it. Raises OSError when there is no such program.
    """
    if command and command[0] != "-m" and shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    told = {
        "writable": None if writable is None else [str(folder) for folder in writable],
        "environment": None if environment is None else dict(environment),
    }
    temporary = {"TMPDIR": str(writable[0])} if writable else {}
    with contextlib.ExitStack() as stack:
        with held_back():
            lifeline, kept = os.pipe()
            stack.callback(os.close, kept)
            with _open(lifeline):
                child = subprocess.Popen(  # -P: a source tree in the current folder must not shadow the package
                    [sys.executable, "-P", "-m", _LAUNCH, json.dumps({**told, "lifeline": lifeline}), *command],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env={**os.environ, **temporary, **(settings or {})},
                    cwd=cwd,
                    pass_fds=[lifeline],
                    start_new_session=True,
                )
            stack.callback(close_pipes, child)
            stack.callback(kill, child)
            stack.enter_context(undoing(lambda: kill(child)))
        yield child


@contextlib.contextmanager
def _open(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def kill(child: Child) -> None:
    """Kill a process that leads a session of its own, and all that it started, and reap it."""
    if child.poll() is None:
        for end in (os.killpg, os.kill):  # a copy of this process may lead none yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(child.pid, signal.SIGKILL)
    child.wait()


def close_pipes(child: Child) -> None:
    """Close this side's ends."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def confinement_here() -> str:
    """What binds a child here, in words, as a child told that put it on."""
    with child_process([], writable=[], stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        return child.stdout.read().decode().strip() or "none (a child could not be started)"

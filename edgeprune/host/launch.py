"""The first steps of every child process: tie its life to its parent's, confine it, and only then begin its work.

Started by `edgeprune.host.children` as `python -P -m edgeprune.host.launch SETTINGS COMMAND...`; SETTINGS is a JSON
object, COMMAND `-m MODULE ARGUMENTS...`, whose `main` is called in this process, or a program with its arguments, which
takes this process over. No library is loaded before: its threads would not be bound. (A copy of the parent, which
`edgeprune.host.copies` makes, has libraries and none of their threads.)
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.host.confinement import Confinement

__all__ = ["bind", "main"]

_NOT_STARTED = 127  # what a shell reports for a program that it cannot start
_F_SETSIG = 10  # fcntl.h of Linux; Python does not name it


def main() -> None:
    """Do as the arguments say."""
    settings, command = json.loads(sys.argv[1]), sys.argv[2:]
    told = bind(settings["lifeline"], settings["writable"])
    if not command and told is not None:  # asked what is on here
        print(told, flush=True)  # noqa: T201
    if command[:1] == ["-m"]:
        sys.argv = command[1:]
        importlib.import_module(command[1]).main()
    elif command:
        _become(command, settings["environment"])


def bind(lifeline: int, writable: Sequence[str] | None) -> Confinement | None:
    """Tie this process to its parent, and confine it to these folders, unless it may do all that its parent may."""
    _end_with(lifeline)
    if writable is None:
        return None
    from edgeprune.host.confinement import confine

    return confine([Path(folder) for folder in writable])


def _end_with(lifeline: int) -> None:
    """When the other end of the pipe closes, which it does when the parent ends in any way, so do this process and all
    that it starts (they are one process group), whatever they are doing."""
    if not _killed_by_the_kernel(lifeline):
        threading.Thread(target=_wait_for, args=(lifeline,), daemon=True).start()


def _killed_by_the_kernel(lifeline: int) -> bool:
    """Whether the kernel itself will send the signal. Then no thread has to run, which a converter may keep from
    running for minutes, and a program that takes over is bound as well."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:  # an emulated kernel without it
        return False
    ended = select.poll()
    ended.register(lifeline)
    if ended.poll(0):  # before we asked for the signal
        os.killpg(0, signal.SIGKILL)
    return True


def _wait_for(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def _become(command: list[str], environment: Mapping[str, str] | None) -> None:
    try:
        os.execvpe(command[0], command, dict(os.environ if environment is None else environment))
    except OSError as cause:
        with contextlib.suppress(OSError):
            os.write(2, f"{command[0]} cannot be started: {cause.strerror}\n".encode())
        os._exit(_NOT_STARTED)


if __name__ == "__main__":
    main()

"""What the emulated Python runs: load one .tflite file, mark the counts around each inference, end.

    python3.11 runner.py FILE SEED INFERENCES SECONDS

Marks (instructions.c writes the counts at each): 0 many times at first, 1 after an inference that warms up, 2 at once
after 1 (what a mark itself costs), then one after each counted inference. Status 0, or 1 with one line on stderr.
`worker` is edgeprune/runtime/worker.py, alone on the path: nothing else of edgeprune is on the emulated machine.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys

__all__ = ["main"]

MARK = 0x5A5A0000
WARM_MARKS = 40  # Python 3.11 rewrites code that has run some times to faster one; then a mark costs the same each time


def mark(number: int) -> None:
    """A system call that means nothing but to the plugin."""
    with contextlib.suppress(OSError):
        os.getpgid(MARK + number)


def main() -> None:
    """Does not return; a refused file has status 1 and its reason on stderr."""
    path, (seed, inferences, seconds) = sys.argv[1], map(int, sys.argv[2:5])
    signal.alarm(seconds)  # ends this process even where the one that started it was killed
    worker = importlib.import_module("worker")
    try:
        interpreter = worker.ready("ai_edge_litert.interpreter", path, seed)
        gc.collect()
        gc.disable()
        for _ in range(WARM_MARKS):
            mark(0)
        for number in range(1, 3 + inferences):
            if number != 2:
                worker.invoke(interpreter)
            mark(number)
    except worker.JobError as error:
        sys.stderr.write(f"refused: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()

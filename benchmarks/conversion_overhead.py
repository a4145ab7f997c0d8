"""What `convert` costs beyond the converter itself: CPU and wall seconds, and their ratio, with the parts that make it.

A model of keras.applications with random weights goes to TFLite float32 by `edgeprune.convert`, as the command does it:
traced, converted in the child process, run on every installed runtime, compared with the model, weighed. The converter
is the tracing and what the child process spends (TFLiteConverter does both); beyond it are the rest of this process and
the runtimes' processes. TensorFlow's start in both is left out (it is the same for any model), and so is the loading of
the model file. Target: CPU ratio at most 0.5.

    python benchmarks/conversion_overhead.py [MODEL ...]
"""

from __future__ import annotations

import cProfile
import os
import pstats
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import edgeprune
from edgeprune.converters.conversion import convert
from edgeprune.maker.keras.models import keras_module

MODELS = ("InceptionV3", "NASNetMobile")
MOST = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


def child_seconds(pid: int) -> float:
    """CPU time of a living process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def reaped_seconds() -> float:
    """CPU time of the processes that have ended: those of the runtimes."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def warm_up(keras: Any, converter: edgeprune.Converter, folder: Path) -> None:
    """One conversion of a tiny model: what TensorFlow loads at its first use, here and in the child."""
    x = keras.Input((8,))
    convert(keras.Model(x, keras.layers.Dense(4)(x)), folder / "warm.tflite", converter=converter)


class Timed(edgeprune.Converter):
    """A converter that notes the CPU time of its tracing, here, and the wall time of that and the child's work."""

    traced_s = wall_s = 0.0

    def _freeze(self, model: Any, *, unroll: bool) -> Any:
        begun, cpu = time.perf_counter(), time.process_time()
        try:
            return super()._freeze(model, unroll=unroll)
        finally:
            self.wall_s += time.perf_counter() - begun
            self.traced_s += time.process_time() - cpu

    def _ask(self, job: Any, what: str) -> dict[str, Any]:
        begun = time.perf_counter()
        try:
            return super()._ask(job, what)
        finally:
            self.wall_s += time.perf_counter() - begun


def measured(name: str, model: Any, converter: Timed, folder: Path) -> bool:
    assert converter._child is not None
    converter.traced_s = converter.wall_s = 0.0
    before = (time.process_time(), reaped_seconds(), child_seconds(converter._child.pid), time.perf_counter())
    profile = cProfile.Profile() if os.environ.get("PROFILE") else None
    path = folder / f"{name}.tflite"
    entry = (
        profile.runcall(convert, model, path, converter=converter)
        if profile
        else convert(model, path, converter=converter)
    )
    after = (time.process_time(), reaped_seconds(), child_seconds(converter._child.pid), time.perf_counter())
    here, runtimes, inside, wall = (b - a for a, b in zip(before, after, strict=True))
    converted, beyond = inside + converter.traced_s, here - converter.traced_s + runtimes
    outside_s = wall - converter.wall_s
    print(
        f"{name:14s} {entry.raw_bytes / 1e6:6.1f} MB  converter CPU {converted:6.2f} s (child {inside:.2f}); beyond "
        f"{beyond:6.2f} s (here {beyond - runtimes:.2f}, runtimes {runtimes:.2f}): ratio {beyond / converted:.3f}   "
        f"wall {converter.wall_s:.2f} + {outside_s:.2f} s: {outside_s / converter.wall_s:.3f}",
        flush=True,
    )
    if profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    return beyond <= MOST * converted


def main() -> None:
    keras = keras_module()
    with tempfile.TemporaryDirectory() as place, Timed() as converter:
        warm_up(keras, converter, Path(place))
        fine = []
        for name in sys.argv[1:] or MODELS:
            model = getattr(keras.applications, name)(weights=None)
            fine.append(measured(name, model, converter, Path(place)))
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()

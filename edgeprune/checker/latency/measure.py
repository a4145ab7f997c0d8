"""Is the candidate faster than the baseline on this host? A paired comparison of two .tflite files, with a verdict.

Several worker processes load the baseline, a copy of it and the candidate, and time them in turn on one thread. The
copy is the null run: two identical files, so what it shows is this host's noise, and that widens the tolerance.
CPU time of the thread is what is compared, because wall time on a shared machine mostly shows the neighbours
(at a load of 14 on two cores the CPU time of an invoke strayed by 1 %, its wall time by 10 % and more).
Wall time is reported beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.artifact import SUFFIXES, Format
from edgeprune.checker.latency.statistics import (
    Interval,
    outcome_of,
    paired_ratios,
    ratio_interval,
    widened_tolerance,
)
from edgeprune.errors import MissingExtra, OutputError, RuntimeFailure, UsageError
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import check_file
from edgeprune.ledger import LatencyComparison, Outcome
from edgeprune.runtime.runtimes import runtimes_of
from edgeprune.runtime.session import ask_worker, installed_runtimes, newest_runtime

__all__ = [
    "ProcessTimes",
    "compare_latency",
    "copied",
    "in_rounds",
    "judge",
    "latency_shares",
    "process_times",
    "timed_files",
]

OnStep = Callable[[int, int], None]
TOLERANCE = 0.02  # a smaller change of latency is not worth a claim
TOLERANCE_LIMIT = 0.05  # a host noisier than this gets no "unchanged" from its noise
ROUNDS = 3  # an inconclusive comparison is given as many processes again, this often in all

# Which file is loaded first moves the others in memory: baseline 0, copy 1, candidate 2; the outer two alternate.
LOAD_ORDERS = ((0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1), (0, 2, 1), (1, 2, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """What one process measured: milliseconds per invoke, (pairs, 3) for baseline, its copy and candidate.

    `batch` is the first size of the inputs; `single_cpu_ms` and `single_wall_ms`, (calls, 3), are of calls timed one by
    one; empty where none were asked for.
    """

    cpu_ms: npt.NDArray[np.float64]
    wall_ms: npt.NDArray[np.float64]
    batch: int = 1
    single_cpu_ms: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    single_wall_ms: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))


def compare_latency(
    baseline: Path,
    candidate: Path,
    *,
    runtime: str | None = None,
    processes: int = 5,
    pairs: int = 30,
    warmups: int = 5,
    seed: int = 0,
    timeout_s: float = 600,
    on_progress: Callable[[int, int], None] | None = None,
) -> LatencyComparison:
    """Compare the latency of two .tflite files, or two .onnx files, on this host, one thread, made-up inputs, in the
    batch that is in them.

    `processes` is how many are started at first; while the verdict is inconclusive as many more follow, three times as
    many in all. `pairs` is the least number of pairs per process (a fast model gets more), `timeout_s` the limit for
    one process. Inputs are uniform random numbers from `seed`, and zeros where a file takes plain integers (they may
    be indexes). The default runtime is the newest one that is installed. `on_progress` gets (steps done, steps in
    all), where the second number grows with the processes.

    Raises MissingExtra, UsageError, InputError (no such file), OutputError (no room for the copy) and RuntimeFailure
    (a file that is refused, crashes or does not end).
    """
    asked: dict[str, Any] = {
        "runtime": runtime,
        "processes": processes,
        "pairs": pairs,
        "warmups": warmups,
        "seed": seed,
    }
    return timed_files(baseline, candidate, timeout_s=timeout_s, on_progress=on_progress, **asked)[0]


def timed_files(
    baseline: Path,
    candidate: Path,
    *,
    runtime: str | None = None,
    processes: int = 5,
    pairs: int = 30,
    warmups: int = 5,
    seed: int = 0,
    batch: int | None = None,
    singles: int = 0,
    timeout_s: float = 600,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[LatencyComparison, tuple[ProcessTimes, ...]]:
    """What `compare_latency` finds, and the times behind it.

    `batch` gives the inputs of both files another first size (RuntimeFailure where one does not take it); `singles` is
    how many calls each process times one by one beside the pairs, at most.
    """
    model_format = Format.ONNX if baseline.suffix.lower() == SUFFIXES[Format.ONNX] else Format.TFLITE
    chosen = runtime or _newest(model_format)
    other = Format.TFLITE if model_format is Format.ONNX else Format.ONNX
    if chosen in runtimes_of(other):
        raise UsageError(f"{baseline}: {chosen} runs {SUFFIXES[other]} files; leave out --runtime")
    if min(processes, pairs) < 1 or warmups < 0:
        raise UsageError(f"processes and pairs must be at least 1 and warmups 0; got {processes}, {pairs}, {warmups}")
    if batch is not None and batch < 1:
        raise UsageError(f"a batch is at least 1; got {batch}")
    with scratch_folder() as folder:
        files = [baseline, copied(baseline, folder), candidate]
        job = {"job": "time", "warmups": warmups, "pairs": pairs, "seed": seed, "batch": batch, "singles": singles}
        return in_rounds(
            lambda order, step: _time_process(files, order, job, chosen, timeout_s, step),
            partial(judge, runtime=chosen, runtime_version=installed_runtimes(model_format)[chosen], seed=seed),
            processes=processes,
            pairs=pairs,
            on_progress=on_progress,
        )


def latency_shares(
    baseline: Path,
    files: Sequence[Path],
    *,
    processes: int = 3,
    pairs: int = 30,
    seed: int = 0,
    timeout_s: float = 600,
    on_progress: OnStep | None = None,
) -> npt.NDArray[np.float64]:
    """The latency of many .tflite files against that of `baseline`, float [files]: all timed in turn in each of so many
    processes, as `compare_latency` times two. For a trend over the files; one of them may be off by some percent.

    Raises as `compare_latency`.
    """
    every = [baseline, *files]
    runtime = _newest(Format.TFLITE)
    job = {"job": "time", "warmups": 5, "pairs": pairs, "seed": seed, "batch": None, "singles": 0}
    found = []
    for k in range(processes):
        order = [*range(len(every))][:: -1 if k % 2 else 1]
        asked = {**job, "paths": [str(every[i].absolute()) for i in order]}
        step = _steps(on_progress, k, processes, pairs)
        result = ask_worker(asked, every, runtime=runtime, timeout_s=timeout_s, on_progress=step)
        cpu_ms = process_times(result, order, f"{baseline} on {runtime}").cpu_ms
        found.append(np.median(cpu_ms[:, 1:] / cpu_ms[:, :1], axis=0))
    shares: npt.NDArray[np.float64] = np.mean(found, axis=0)
    return shares


def in_rounds(
    time_one: Callable[[Sequence[int], OnStep | None], ProcessTimes],
    judged: Callable[[Sequence[ProcessTimes]], LatencyComparison],
    *,
    processes: int,
    pairs: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[LatencyComparison, tuple[ProcessTimes, ...]]:
    """Time in so many processes, each of which loads the files in the order that `time_one` gets, and in as many again
    while there is no verdict, ROUNDS times in all."""
    times: list[ProcessTimes] = []
    for planned in range(processes, ROUNDS * processes + 1, processes):
        for k in range(len(times), planned):
            step = _steps(on_progress, k, planned, pairs)
            times.append(time_one(LOAD_ORDERS[k % len(LOAD_ORDERS)], step))
        found = judged(times)
        if found.verdict is not Outcome.INCONCLUSIVE:
            break
    return found, tuple(times)


def _newest(model_format: Format) -> str:
    if not installed_runtimes(model_format):
        newest = list(runtimes_of(model_format).values())[-1]
        raise MissingExtra(newest.distribution, newest.extra, "measuring latency")
    return newest_runtime(model_format)


def copied(baseline: Path, folder: Path) -> Path:
    check_file(baseline, f"a {baseline.suffix} file")
    try:
        return Path(shutil.copyfile(baseline, folder / f"copy{baseline.suffix}"))
    except OSError as error:
        raise OutputError(f"{folder}: no room for a copy of {baseline} ({error}); set TMPDIR") from error


def _steps(
    on_progress: Callable[[int, int], None] | None, process: int, processes: int, pairs: int
) -> Callable[[int, int], None] | None:
    """Progress within one process as progress of the whole."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(process * pairs + done * pairs // total, processes * pairs)


def _time_process(
    files: Sequence[Path],
    order: Sequence[int],
    job: dict[str, Any],
    runtime: str,
    timeout_s: float,
    on_progress: Callable[[int, int], None] | None,
) -> ProcessTimes:
    """One worker process that loads the files in this order; its times come back in the order of `files`."""
    paths = {"paths": [str(files[i].absolute()) for i in order]}
    result = ask_worker(
        {**job, **paths}, [files[0], files[2]], runtime=runtime, timeout_s=timeout_s, on_progress=on_progress
    )
    return process_times(result, order, f"{files[0]} on {runtime}")


def process_times(result: dict[str, Any], order: Sequence[int], subject: str) -> ProcessTimes:
    """The times in a worker's reply, in the order of the files and not of their loading."""
    place = [list(order).index(i) for i in range(len(order))]
    cpu_ms, wall_ms, single_cpu_ms, single_wall_ms = (
        np.array(result.get(key, []), dtype=np.float64).reshape(-1, len(order))[:, place] / 1e6
        for key in ("cpu_ns", "wall_ns", "single_cpu_ns", "single_wall_ns")
    )
    if not (cpu_ms > 0).all():
        raise RuntimeFailure(f"{subject}: this host's clock is too coarse to time it")
    return ProcessTimes(
        cpu_ms=cpu_ms,
        wall_ms=wall_ms,
        batch=result.get("batch", 1),
        single_cpu_ms=single_cpu_ms,
        single_wall_ms=single_wall_ms,
    )


def judge(
    times: Sequence[ProcessTimes],
    *,
    runtime: str,
    runtime_version: str,
    seed: int,
    tolerance: float = TOLERANCE,
    clock: str = "thread CPU time",
) -> LatencyComparison:
    """The comparison that these times add up to; no clock, no process."""
    null = ratio_interval([paired_ratios(t.cpu_ms[:, 0], t.cpu_ms[:, 1]) for t in times], seed=seed)
    real = ratio_interval([paired_ratios(t.cpu_ms[:, 0], t.cpu_ms[:, 2]) for t in times], seed=seed)
    wide = widened_tolerance(tolerance, null, limit=TOLERANCE_LIMIT)
    cpu_ms = np.median(np.concatenate([t.cpu_ms for t in times]), axis=0)
    p90_ms = np.quantile(np.concatenate([t.cpu_ms for t in times]), 0.9, axis=0)
    wall_ms = np.median(np.concatenate([t.wall_ms for t in times]), axis=0)
    pairs = sum(len(t.cpu_ms) for t in times)
    return LatencyComparison(
        ratio=real.ratio,
        low=real.low,
        high=real.high,
        verdict=outcome_of(real.low, real.high, wide),
        tolerance=wide,
        null_ratio=null.ratio,
        null_low=null.low,
        null_high=null.high,
        baseline_ms=float(cpu_ms[0]),
        candidate_ms=float(cpu_ms[2]),
        baseline_wall_ms=float(wall_ms[0]),
        candidate_wall_ms=float(wall_ms[2]),
        baseline_p90_ms=float(p90_ms[0]),
        candidate_p90_ms=float(p90_ms[2]),
        runtime=runtime,
        runtime_version=runtime_version,
        threads=1,
        processes=len(times),
        pairs=pairs,
        how=_how(null, f"{clock} on this host, {runtime} {runtime_version}", times[0].batch, len(times), pairs),
    )


def _how(null: Interval, clock: str, batch: int, processes: int, pairs: int) -> str:
    return (
        f"{clock}, 1 thread, batch {batch}: {pairs} ABBA pairs in {processes} "
        f"processes, 95 % bootstrap interval; the baseline against its own copy: {null.low:.3f} to {null.high:.3f}"
    )

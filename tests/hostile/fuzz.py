"""Spoilt model files by the thousand, read as `check` and `inspect` read them: each is read, or refused in one line.

    python tests/hostile/fuzz.py --count 20000 --seed 1     a table by format, and every case that broke a promise
    python tests/hostile/fuzz.py --case 4711 --seed 1       that case alone, with its traceback, its files kept

Case n of a seed is always the same file. One worker process reads them; it is replaced when a case crashes it or takes
too long. libhdf5 runs in a child of the worker under the limits of the product, forked and not started anew: to start
Python takes ten times as long as to read. The architectures of the Keras files that could be read are then held
against the list of what a file may name, with Keras loaded and nothing built.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.metadata
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO, Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "zoo")]

from corpus import SHARES, corpus, mutated  # noqa: E402 - found where the tests are

from edgeprune.errors import EdgepruneError, FileFault, RuntimeFailure  # noqa: E402

__all__ = ["Report", "admitted", "run"]

READ, REFUSED, UNEXPECTED, HANG, MEMORY = OUTCOMES = ("read", "refused", "unexpected", "hangs", "over memory")
LONGEST_S = 60.0  # by the clock, on a machine with other work; libhdf5 gets a second of processor time
SPARE_BYTES, TIMES = 300_000_000, 3  # memory: the file three times, and that
_ADDRESS_SPACE = 4 << 30
_ORDER = tuple(kind for n in range(max(SHARES.values())) for kind, share in SHARES.items() if n < share)
_KERAS = ("keras", "h5")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a case; `detail` says where it broke a promise."""

    case: int
    kind: str
    outcome: str
    seconds: float
    peak_bytes: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All cases of a run, and the architectures (version of Keras, configuration) of the Keras files that were read."""

    results: Sequence[Result]
    architectures: Sequence[tuple[int, str, Any]]

    @property
    def broken(self) -> list[Result]:
        """Those that were neither read nor refused in one line."""
        return [result for result in self.results if result.outcome not in (READ, REFUSED)]

    def count(self, kind: str, outcome: str) -> int:
        """How many cases of a format ended so."""
        return Counter((result.kind, result.outcome) for result in self.results)[kind, outcome]

    def table(self) -> str:
        """A row for each format."""
        rows = [("format", "cases", *OUTCOMES, "slowest", "peak")]
        for kind in SHARES:
            own = [result for result in self.results if result.kind == kind]
            slowest, peak = (
                max(values, default=0) for values in zip(*((r.seconds, r.peak_bytes) for r in own), strict=True)
            )
            counts = [self.count(kind, outcome) for outcome in OUTCOMES]
            rows.append((kind, *map(str, (len(own), *counts)), f"{slowest:.1f} s", f"{peak / 1e6:.0f} MB"))
        sums = [sum(result.outcome == outcome for result in self.results) for outcome in OUTCOMES]
        rows.append(("all", *map(str, (len(self.results), *sums)), "", ""))
        return "\n".join("".join(cell.rjust(12) for cell in row) for row in rows)


# --- the parent -----------------------------------------------------------------------------------------------------


def run(count: int, seed: int) -> Report:
    """Cases 0 to `count` of a seed."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        told = Path(folder) / "architectures"
        told.touch()
        while len(results) < count:
            results += _some(["--work", folder, "--first", str(len(results)), "--count", str(count)], seed)
        lines = told.read_text(encoding="utf-8").splitlines()
    return Report(results=results, architectures=[tuple(json.loads(line)) for line in lines])


def _some(options: Sequence[str], seed: int) -> Iterator[Result]:
    """What one worker reads until it is done or dies."""
    command = [sys.executable, __file__, *options, "--seed", str(seed)]
    with (
        tempfile.TemporaryFile() as chatter,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=chatter, start_new_session=True) as worker,
    ):
        assert worker.stdout is not None
        begun: dict[str, Any] | None = None
        silent = False
        for line in _lines(worker.stdout.fileno()):
            silent = line is None
            if line is None:
                worker.kill()
            elif "outcome" in line:
                begun = None
                yield Result(**line)
            else:
                begun = line
        status = worker.wait()
        chatter.seek(0)
        said = chatter.read().decode(errors="replace")[-3000:]
    if begun is None and status:
        raise RuntimeError(said)
    if begun is not None:
        outcome, detail = HANG if silent else UNEXPECTED, f"died with {status}: {said}"
        yield Result(**begun, outcome=outcome, seconds=LONGEST_S, peak_bytes=0, detail=detail)


def _lines(stream: int) -> Iterator[dict[str, Any] | None]:
    """What a worker says; None when it says nothing for too long."""
    begun = b""
    while True:
        if not select.select([stream], [], [], LONGEST_S)[0]:
            yield None
            return
        piece = os.read(stream, 1 << 16)
        if not piece:
            return
        *whole, begun = (begun + piece).split(b"\n")
        yield from map(json.loads, whole)


# --- the worker -----------------------------------------------------------------------------------------------------


def work(folder: Path, first: int, count: int, seed: int) -> None:
    """Read the cases and say what became of each: a line before and one behind."""
    _prepare()
    with (folder / "architectures").open("a", encoding="utf-8") as architectures:
        for case in range(first, count):
            head = {"case": case, "kind": _ORDER[case % len(_ORDER)]}
            print(json.dumps(head), flush=True)
            path = written(folder / "case", case, seed)
            found = {**head, **_looked_at(path)}
            if found["outcome"] == READ and head["kind"] in _KERAS:
                found |= _architecture(path, case, architectures)
            print(json.dumps(found), flush=True)
            shutil.rmtree(folder / "case")


def written(folder: Path, case: int, seed: int) -> Path:
    """The file (or folder) of a case."""
    chance = Random(f"{seed} {case}")
    kind = _ORDER[case % len(_ORDER)]
    samples = corpus()[kind]
    sample = chance.choices(samples, [sample.weight for sample in samples])[0]
    path = folder / sample.name
    for name, content in mutated(kind, sample, chance).items():
        place = path / name if name else path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _prepare() -> None:
    """Import all that reading needs, so that no case pays for it; let libhdf5 run in forks of this process."""
    os.environ |= {"HDF5_USE_FILE_LOCKING": "FALSE", "HDF5_PLUGIN_PRELOAD": "::", "EDGEPRUNE_DEBUG": "1"}
    from edgeprune.checker.latency import profiles
    from edgeprune.formats.keras import hdf5_session, hdf5_worker

    assert hdf5_worker
    hdf5_session.child_process = _forked  # type: ignore[assignment]
    hdf5_session._FIRST_CPU_S = 1
    profiles.load_profile = functools.cache(profiles.load_profile)
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    corpus()
    gc.freeze()  # forks share it
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, hard))


class _Fork:
    """What a child process is asked by the session."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid, self.stdout, self.status = pid, stdout, None

    def wait(self) -> int:
        """Its exit status as subprocess tells it."""
        if self.status is None:
            _, status, used = os.wait4(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            _peaks.append(used.ru_maxrss * 1024)
        return self.status


_peaks: list[int] = []


@contextlib.contextmanager
def _forked(command: Sequence[str], *, stderr: IO[bytes], **_: object) -> Iterator[_Fork]:
    from edgeprune.formats.keras import hdf5_worker

    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.dup2(theirs, 1)
            os.dup2(stderr.fileno(), 2)
            sys.argv = ["", command[2]]
            hdf5_worker.main()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    os.close(theirs)
    child = _Fork(pid, os.fdopen(ours, "rb"))
    try:
        yield child
    finally:
        child.stdout.close()
        child.wait()


def _looked_at(path: Path) -> dict[str, object]:
    size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts anew
    _peaks.clear()
    begun, outcome, detail = time.perf_counter(), READ, ""
    try:
        reported(path)
    except (FileFault, RuntimeFailure):  # of the latter, the child that reads HDF5 met what it did not foresee
        outcome, detail = UNEXPECTED, traceback.format_exc()
    except EdgepruneError as refusal:
        outcome = REFUSED if str(refusal).strip() and "\n" not in str(refusal) else UNEXPECTED
        detail = str(refusal)
    except MemoryError:
        outcome, detail = MEMORY, traceback.format_exc()
    except Exception:
        outcome, detail = UNEXPECTED, traceback.format_exc()
    peak_bytes = max(_peak_bytes(), *_peaks, 0)
    if peak_bytes > TIMES * size + SPARE_BYTES:
        outcome = MEMORY
    return {
        "outcome": outcome,
        "seconds": time.perf_counter() - begun,
        "peak_bytes": peak_bytes,
        "detail": detail if outcome not in (READ, REFUSED) else "",
    }


def _peak_bytes() -> int:
    told = Path("/proc/self/status").read_text(encoding="ascii")
    return int(told.split("VmHWM:")[1].split()[0]) * 1024


def reported(path: Path) -> None:
    """Everything that `check` and `inspect` say of a file. Raises what they do."""
    from edgeprune.checker.budget import Budget
    from edgeprune.checker.check import CheckOptions, Wanted, check_files
    from edgeprune.report.check_report import FORMATS
    from edgeprune.report.inspect_report import INSPECT_FORMATS

    budget = Budget(path=str(path), download_bytes=10_000, min_sparsity=0.5, parameters=1000)
    options = CheckOptions(fast=True, why=True, devices=("pixel3-tflite-4t-float32",))
    found = check_files([Wanted(path=path, budgets=(budget,))], options)
    for form in FORMATS.values():
        form(found).encode()
    for inspect in INSPECT_FORMATS.values():
        inspect(found.files).encode()
    if found.broken is not None:
        raise found.broken


# --- the architecture of a Keras file -------------------------------------------------------------------------------


def _architecture(path: Path, case: int, kept: IO[str]) -> dict[str, object]:
    """Read it as the maker does and keep it, for the part that needs Keras."""
    from edgeprune.maker.keras.model_files import _h5_config, _keras_config

    try:
        config, version = _keras_config(path) if path.suffix == ".keras" else _h5_config(path)
        kept.write(f"{json.dumps([case, version, config])}\n")
        kept.flush()
    except EdgepruneError:
        return {}  # `check` needs none
    except Exception:
        return {"outcome": UNEXPECTED, "detail": traceback.format_exc()}
    return {}


def admitted(version: str, config: Any) -> str:
    """Whether an architecture would be built: "read" or "refused", else a traceback. Keras must have been imported."""
    from edgeprune.maker.keras.admission import admit
    from edgeprune.maker.keras.keras2 import translate

    try:
        admit(config if version.startswith("3") else translate(config).config, custom={})
    except EdgepruneError as refusal:
        return REFUSED if str(refusal).strip() else "no message"
    except Exception:
        return traceback.format_exc()
    return READ


def _admission(report: Report) -> bool:
    """Tell how the architectures fared."""
    from edgeprune.maker.keras.models import keras_module

    keras_module()
    found = [(case, admitted(version, config)) for case, version, config in report.architectures]
    counts = Counter(outcome if outcome in (READ, REFUSED) else UNEXPECTED for _, outcome in found)
    print(f"architectures: {counts[READ]} admitted, {counts[REFUSED]} refused, {counts[UNEXPECTED]} unexpected")
    for case, outcome in found:
        if outcome not in (READ, REFUSED):
            print(f"\ncase {case}: {outcome}")
    return not counts[UNEXPECTED]


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="read this one alone")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work is not None:
        work(asked.work, asked.first, asked.count, asked.seed)
        return 0
    if asked.case is not None:
        path = written(Path(tempfile.mkdtemp(prefix="fuzz-")), asked.case, asked.seed)
        print(path, flush=True)
        _prepare()
        reported(path)
        return 0
    report = run(asked.count, asked.seed)
    print(report.table())
    for result in report.broken:
        print(f"\ncase {result.case} ({result.kind}): {result.outcome}\n{result.detail}")
    return 0 if _admission(report) and not report.broken else 1


if __name__ == "__main__":
    sys.exit(main())

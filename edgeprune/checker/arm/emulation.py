"""How many Arm64 instructions an inference takes: one emulated process per file, and the comparison of two.

Counts have no noise: QEMU executes the same instructions each time, whatever else the machine does. They are no time
either: caches, memory and how many instructions a core finishes per cycle are not in them, so they are compared for
one cpu and one precision only. Against the published single-thread latencies of four MobileNets on three phones,
proportional counts stray by up to 13 %.
"""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgeprune.checker.arm.cpus import ArmCpu, ArmRoot
from edgeprune.errors import RuntimeFailure
from edgeprune.host.children import child_process
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import check_file
from edgeprune.step_reports import Outcome

__all__ = [
    "CLASSES",
    "CountComparison",
    "InstructionCounts",
    "compare_counts",
    "count_instructions",
    "emulator_command",
    "emulator_environment",
    "parse_counts",
]

CLASSES = (  # in the order of instructions.c
    "float multiply-add",
    "integer multiply-add",
    "dot product",
    "matrix multiply",
    "other vector",
    "load",
    "store",
    "branch",
    "other",
)
INFERENCES = 3
SPREAD_LIMIT = 1e-3  # a file whose counts differ more from inference to inference is not compared
TOLERANCE = 1e-4  # what Python around the inference may differ by


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionCounts:
    """Executed instructions per inference: the median of some inferences, in all and by class (see CLASSES).

    `spread` is (largest - smallest) / median of the totals.
    """

    instructions: int
    by_class: Mapping[str, int]
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CountComparison:
    """Candidate / baseline instructions per inference; `low` and `high` are wider by the spread of both."""

    ratio: float
    low: float
    high: float
    tolerance: float
    verdict: Outcome


def emulator_command(
    root: ArmRoot, cpu: ArmCpu, path: Path, counts: Path, *, seed: int, inferences: int, timeout_s: float
) -> list[str]:
    """The command that writes the marks of one file to `counts`."""
    system = root.of_cpu(cpu)
    return [
        str(root.qemu),
        *("-U", "LD_LIBRARY_PATH"),  # that one is the emulator's own
        *("-cpu", cpu.qemu),
        *("-L", str(system)),
        *("-plugin", f"{root.plugin},out={counts}"),
        str(system / "usr" / "bin" / root.python),
        str(Path(__file__).with_name("runner.py")),
        str(path.absolute()),
        *(str(seed), str(inferences), str(math.ceil(timeout_s) + 5)),
    ]


def emulator_environment(root: ArmRoot, cpu: ArmCpu) -> dict[str, str]:
    """All that the emulated program gets from this one's environment, so that nothing of it changes the counts."""
    import edgeprune.runtime.worker as worker

    return {
        "PYTHONHOME": str(root.of_cpu(cpu) / "usr"),
        "PYTHONPATH": f"{root.packages}:{Path(worker.__file__).parent}",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LD_LIBRARY_PATH": str(root.libraries),
    }


def count_instructions(
    path: Path, *, cpu: ArmCpu, root: ArmRoot, seed: int = 0, timeout_s: float = 600
) -> InstructionCounts:
    """Count the instructions of one inference of a .tflite file, one thread, batch 1, made-up inputs from `seed`.

    Raises InputError (no such file) and RuntimeFailure (refused, crashed, no end within `timeout_s`, or counts that
    differ by more than 0.1 % from inference to inference).
    """
    check_file(path, "a .tflite file")
    subject = f"{path} on an emulated {cpu.name}"
    with scratch_folder() as folder, tempfile.TemporaryFile() as chatter:
        counts = folder / "counts.txt"
        # Only its name: QEMU splits the plugin's argument at commas, which a scratch folder's path may hold.
        command = emulator_command(
            root, cpu, path, Path(counts.name), seed=seed, inferences=INFERENCES, timeout_s=timeout_s
        )
        status = _emulate(command, emulator_environment(root, cpu), folder, chatter, subject, timeout_s)
        if status != 0:
            raise RuntimeFailure(f"{subject}: {_death(status, chatter)}")
        found = parse_counts(counts.read_text() if counts.exists() else "", inferences=INFERENCES, subject=subject)
    if found.spread > SPREAD_LIMIT:
        raise RuntimeFailure(
            f"{subject}: the counts of {INFERENCES} inferences differ by {found.spread:.2%}, above {SPREAD_LIMIT:.1%}: "
            "what it computes depends on more than its input; time it without --arm"
        )
    return found


def _emulate(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    chatter: IO[bytes],
    subject: str,
    timeout_s: float,
) -> int:
    started = child_process(
        command, writable=[folder], stdout=chatter, stderr=chatter, environment=environment, cwd=folder
    )
    try:
        with started as child:
            return child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"{subject}: no end within {timeout_s:g} s; the emulator was killed") from None
    except OSError as error:
        raise RuntimeFailure(f"{command[0]} cannot be started: {error}") from error


def _death(status: int, chatter: IO[bytes]) -> str:
    """Why the emulated program ended: its own reason, else signal or status with the last line it printed."""
    chatter.seek(0)
    lines = [line.strip() for line in chatter.read(1_000_000).decode(errors="replace").splitlines() if line.strip()]
    refusals = [line for line in lines if line.startswith("refused: ")]
    if refusals:
        return refusals[-1].removeprefix("refused: ")[:400]
    try:
        ended = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
    except ValueError:
        ended = f"ended with status {status}"
    return f"the emulated program {ended}" + (f": {lines[-1][:400]}" if lines else "")


def parse_counts(text: str, *, inferences: int, subject: str) -> InstructionCounts:
    """The counts in a plugin's marks ("mark count count ..."); runner.py says what each mark stands for.

    Raises RuntimeFailure where marks are missing or not numbers.
    """
    try:
        lines = [[int(word) for word in line.split()] for line in text.splitlines()]
        lines = [line for line in lines if line[0] != 0]
        sizes = {len(line) for line in lines}
        if [line[0] for line in lines] != list(range(1, 3 + inferences)) or sizes != {1 + len(CLASSES)}:
            raise ValueError("marks are missing")
    except (ValueError, IndexError) as error:
        raise RuntimeFailure(f"{subject}: the emulator's counts are not complete ({error})") from error
    steps = [[b - a for a, b in zip(first, second, strict=True)][1:] for first, second in itertools.pairwise(lines)]
    marking, counted = steps[0], steps[1:]
    rows = sorted(([n - m for n, m in zip(step, marking, strict=True)] for step in counted), key=sum)
    median = rows[len(rows) // 2]
    total = sum(median)
    if total <= 0:
        raise RuntimeFailure(f"{subject}: the emulator counted no instruction")
    return InstructionCounts(
        instructions=total,
        by_class=dict(zip(CLASSES, median, strict=True)),
        spread=(sum(rows[-1]) - sum(rows[0])) / total,
    )


def compare_counts(baseline: InstructionCounts, candidate: InstructionCounts) -> CountComparison:
    """Unchanged within 1e-4 and the spread of both; both must be of one cpu and one precision."""
    ratio = candidate.instructions / baseline.instructions
    spread = baseline.spread + candidate.spread
    verdict = Outcome.UNCHANGED
    if abs(ratio - 1) > TOLERANCE + spread:
        verdict = Outcome.FEWER if ratio < 1 else Outcome.MORE
    return CountComparison(
        ratio=ratio, low=ratio * (1 - spread), high=ratio * (1 + spread), tolerance=TOLERANCE + spread, verdict=verdict
    )

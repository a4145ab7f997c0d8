"""What Arm's compiler Vela estimates for an Ethos-U85, where it is installed: it runs in a child process.

Vela 5.2.0 (pip install ethos-u-vela) writes a summary as CSV; its cycles are a model's of Arm, not measured.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import ConversionError, EdgepruneError, InputError, UsageError
from edgeprune.formats.contents import Contents
from edgeprune.formats.kept_patterns import kept_patterns
from edgeprune.formats.pattern import Pattern
from edgeprune.host.children import child_process
from edgeprune.host.scratch import scratch_folder

__all__ = ["VELA_TARGETS", "VelaEstimate", "vela_estimate"]

# Target -> accelerator configuration of Vela.
VELA_TARGETS: Mapping[str, str] = {
    "ethos-u85": "ethos-u85-256",
    **{name: name for name in (f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048))},
}
_SECONDS = 600
_TWO_FOUR = Pattern(n=2, m=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class VelaEstimate:
    """Vela's figures for one inference: its configuration, the milliseconds and cycles that it estimates, the bytes of
    the weights as it encodes them beside their number. `npu_cycles` are those of the multiplications alone: 2:4 halves
    them. Of `eligible` weight arrays whose inputs come in groups of 4, `kept` keep 2:4."""

    target: str
    version: str
    accelerator: str
    system_config: str
    memory_mode: str
    total_ms: float
    cycles: int
    npu_cycles: int
    encoded_weight_bytes: int
    original_weights: int
    macs: int
    eligible: int
    kept: int


def vela_estimate(contents: Contents, target: str) -> VelaEstimate:
    """Compile a .tflite file with the installed Vela and read its summary.

    Raises UsageError for an unknown target, InputError for a file of another format, EdgepruneError without Vela, and
    ConversionError where Vela refuses the file.
    """
    if target not in VELA_TARGETS:
        raise UsageError(f"no target {target!r}; Vela knows {', '.join(VELA_TARGETS)}")
    if contents.graph is None:
        raise InputError(f"{contents.path}: Vela takes .tflite files; convert the model with --to tflite")
    program = _program()
    with scratch_folder("vela") as folder:
        options = ["--accelerator-config", VELA_TARGETS[target], "--output-dir", str(folder)]
        version = _run([program, "--version"], folder, contents.path).strip()
        _run([program, str(contents.path.resolve()), *options], folder, contents.path)
        found = sorted(folder.glob("*_summary_*.csv"))
        if not found:
            raise ConversionError(f"{contents.path}: Vela {version:.20} wrote no summary; run vela on it yourself")
        counted = [kept.kept for kept in kept_patterns(contents, _TWO_FOUR) if kept.groups]
        return _read(found[0].read_text(), target, version, contents.path, counted)


def _program() -> str:
    """Beside this Python, or on the path."""
    own = Path(sys.executable).with_name("vela")
    program = str(own) if os.access(own, os.X_OK) else shutil.which("vela")
    if program is None:
        raise EdgepruneError(
            "an estimate for Ethos-U85 is Vela's, which is not installed here: pip install ethos-u-vela"
        )
    return program


def _run(command: list[str], folder: Path, subject: Path) -> str:
    """What a program prints. Raises ConversionError where it fails or does not end."""
    with child_process(command, writable=[folder], stderr=subprocess.STDOUT, cwd=folder) as child:
        try:
            told = child.communicate(timeout=_SECONDS)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            raise ConversionError(f"{subject}: Vela did not end within {_SECONDS} s") from None
    if child.returncode:
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        raise ConversionError(f"{subject}: Vela refuses it: {lines[-1][:200] if lines else 'it says nothing'}")
    return told


def _read(summary: str, target: str, version: str, path: Path, counted: Sequence[bool | None]) -> VelaEstimate:
    try:
        row = next(csv.DictReader(summary.splitlines()))
        return VelaEstimate(
            target=target,
            version=version,
            accelerator=row["accelerator_configuration"],
            system_config=row["system_config"],
            memory_mode=row["memory_mode"],
            total_ms=1000 * float(row["inference_time"]),
            cycles=int(float(row["cycles_total"])),
            npu_cycles=int(float(row["cycles_npu"])),
            encoded_weight_bytes=int(float(row["total_npu_encoded_weights"])),
            original_weights=int(float(row["total_original_weights"])),
            macs=int(float(row["nn_macs"])),
            eligible=len(counted),
            kept=sum(kept is True for kept in counted),
        )
    except (StopIteration, KeyError, TypeError, ValueError, OverflowError) as cause:
        raise ConversionError(f"{path}: the summary of Vela {version:.20} has another form ({cause})") from cause

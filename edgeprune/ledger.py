"""The ledger of a run: what every stage is worth and what it costs. Unknown is None, never 0.

The JSON form is `edgeprune/schemas/ledger.schema.json`; other tools build on its keys.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "POOR_SQNR_DB",
    "SCHEMA_VERSION",
    "ArtifactEntry",
    "Estimate",
    "Ledger",
    "MetricValue",
    "Outcome",
    "OutputParity",
    "RuntimeRun",
    "Stage",
    "Verdict",
    "oldest_runtime",
    "schema_path",
]

SCHEMA_VERSION = 1
BASE_CODEC = "deflate"
Milliseconds = float  # an annotation of its own, so that a report read back is held against it
# A quantized file below this signal to noise ratio says little.
POOR_SQNR_DB = 10.0


class Outcome(enum.StrEnum):
    """What a comparison of two files says about the candidate: of times on a host, or of counted instructions."""

    UNCHANGED = "unchanged"
    FASTER = "faster"
    SLOWER = "slower"
    FEWER = "fewer instructions"
    MORE = "more instructions"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A metric measured on a file: `file` is a path in the ledger's folder, `runtime` what ran it."""

    name: str
    value: float
    samples: int
    file: str
    runtime: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeRun:
    """Whether an installed runtime ran the file; `value` is the metric over `samples` there, `reason` why it did not
    run."""

    name: str
    version: str
    ran: bool
    samples: int = 0
    value: float | None = None
    reason: str | None = None


def oldest_runtime(runs: Sequence[RuntimeRun], installed: Iterable[str]) -> str | None:
    """ "tflite-runtime 2.14.0": the oldest of the `installed` runtimes (names, oldest first) that ran a file.

    None when none ran it, or when an older one was not tried.
    """
    tried = {run.name: run for run in runs}
    for name in installed:
        run = tried.get(name)
        if run is None:
            return None
        if run.ran:
            return f"{run.name} {run.version}"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """Differences of one output of a file against its model's, over `samples` samples.

    `range` is the model's largest minus smallest value, `relative_error` is max_error / range (None for a range of 0);
    `agreement` is the share of samples with the same largest element (None for an output of one element). `sqnr_db`:
    10 log10 of the power of the model's output over that of the difference (None where they are equal).
    """

    output: str
    samples: int
    max_error: float
    mean_error: float
    range: float
    relative_error: float | None
    agreement: float | None
    sqnr_db: float | None

    @property
    def is_poor(self) -> bool:
        """Whether the error is large for a quantized file."""
        return self.sqnr_db is not None and self.sqnr_db < POOR_SQNR_DB


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The latency of a file on a device, estimated from the profile named `device`; `how` says it in one sentence.

    Milliseconds are None where the profile gives none, and `refused` says why. `relative` is in units of MobileNetV2
    1.0 at 224 pixels on the same device, also where a profile only ranks; `notes` are sentences about the estimate.
    `basis` names what computed it: only estimates for the same device with the same basis can be compared.
    """

    device: str
    how: str
    basis: str
    total_ms: Milliseconds | None
    low_ms: Milliseconds | None
    high_ms: Milliseconds | None
    relative: Milliseconds | None
    refused: str | None
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len({value is None for value in (self.total_ms, self.low_ms, self.high_ms)}) > 1:
            raise ValueError(f"the estimate for {self.device[:40]} is half there")

    @property
    def given(self) -> bool:
        """Whether it says how long the file takes, in milliseconds or against a well-known network."""
        return self.total_ms is not None or self.relative is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactEntry:
    """A file that was made. `sparsity` is that of the weights in the file, read back from it; `exported` files ship.

    `parity_on` names the samples of `parity`; `weights` is how many weight tensors a Core ML package stores in each
    encoding. `float_ops` are the operations of an integer file that compute in float, because that was allowed;
    `estimates` the latencies on devices.
    """

    path: str
    format: str
    precision: str
    sha256: str
    raw_bytes: int
    download_bytes: Mapping[str, int]
    sparsity: float | None
    macs: int | None
    metric: MetricValue | None
    metric_note: str | None
    parity: tuple[OutputParity, ...] | None
    runtimes: list[RuntimeRun]
    exported: bool
    oldest_runtime: str | None = None
    parity_on: str | None = None
    weights: Mapping[str, int] | None = None
    float_ops: list[str] = field(default_factory=list)
    estimates: tuple[Estimate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A row of the ledger: the model after a step. `kind` is dense, prune, finetune or quantize."""

    name: str
    kind: str
    parameters: int
    nonzero_parameters: int
    macs: int | None
    metric: MetricValue | None
    latency: Mapping[str, Any] | None
    artifacts: list[ArtifactEntry]
    pruning: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    seconds: float
    channels: Mapping[str, Any] | None = None  # of channel pruning: asked and got, removed and skipped by layer

    @property
    def main(self) -> ArtifactEntry | None:
        """The file that stands for the stage in the table: the one its metric was measured on."""
        return self.artifacts[0] if self.artifacts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One budget limit held against one exported file; `passed` is None when it could not be checked."""

    check: str
    path: str
    actual: float | None
    limit: float
    unit: str
    passed: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All stages of a run and where they came from."""

    tool_version: str
    recipe: Mapping[str, Any]
    input: Mapping[str, Any]
    data: Mapping[str, Any]
    metric: Mapping[str, Any]
    host: Mapping[str, Any]
    seed: int
    stages: list[Stage]
    verdicts: list[Verdict] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The ledger as plain values, `schema_version` first."""
        body = asdict(self)
        version = body.pop("tool_version")
        return {"schema_version": SCHEMA_VERSION, "tool": {"name": "edgeprune", "version": version}, **body}

    @property
    def dense(self) -> Stage:
        """The stage that everything is compared with."""
        return self.stages[0]

    def download_ratio(self, entry: ArtifactEntry, codec: str = BASE_CODEC) -> float | None:
        """Download of a file over that of the dense float32 .tflite file."""
        base = self.dense.main
        return entry.download_bytes[codec] / base.download_bytes[codec] if base else None


def schema_path() -> Path:
    """The published JSON Schema of `Ledger.to_json`."""
    return Path(__file__).parent / "schemas" / "ledger.schema.json"

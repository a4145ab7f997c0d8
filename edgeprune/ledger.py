"""The ledger of a run: what every stage is worth and what it costs. Unknown is None, never 0.

The JSON form is `edgeprune/schemas/ledger.schema.json`; other tools build on its keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune.answers import AnswerChange
from edgeprune.errors import InputError
from edgeprune.host.json_values import check_counts, check_shares, decode, record_of
from edgeprune.step_reports import (
    POOR_SQNR_DB,
    Blame,
    ChannelOrder,
    ChannelParity,
    ChannelReport,
    EpochLog,
    EqualizeReport,
    HarmlessReport,
    KeptReport,
    LatencyComparison,
    LatencyReached,
    LayerSparsity,
    LayerWidth,
    MetricChange,
    MetricKind,
    Outcome,
    OutputParity,
    PruneReport,
    Rewrite,
    SkippedGroup,
    SkippedLayer,
    SparseKernels,
    StudentReport,
    TrainLog,
    Undone,
)
from edgeprune.verdict import Estimate, Verdict

__all__ = [
    "POOR_SQNR_DB",
    "SCHEMA_VERSION",
    "ArtifactEntry",
    "Blame",
    "ChannelOrder",
    "ChannelParity",
    "ChannelReport",
    "EpochLog",
    "EqualizeReport",
    "Estimate",
    "HarmlessReport",
    "Host",
    "KeptReport",
    "LadderReport",
    "LatencyComparison",
    "LatencyReached",
    "LayerSparsity",
    "LayerWidth",
    "Ledger",
    "MetricChange",
    "MetricKind",
    "MetricValue",
    "ModelOrigin",
    "Outcome",
    "OutputParity",
    "PruneReport",
    "RecipeOrigin",
    "Rewrite",
    "Rung",
    "RuntimeRun",
    "SkippedGroup",
    "SkippedLayer",
    "SparseKernels",
    "SplitOrigin",
    "Stage",
    "StudentReport",
    "TrainLog",
    "Undone",
    "oldest_runtime",
    "schema_path",
]

SCHEMA_VERSION = 3
BASE_CODEC = "deflate"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A metric measured on a file: `file` is a path in the ledger's folder, `runtime` what ran it.

    `change` is that against the dense model; None for the dense model itself, and where there is none.
    """

    name: str
    value: float
    samples: int
    file: str
    runtime: str
    change: MetricChange | None = None


def _scored(name: str, main: MetricValue | None, others: Sequence[MetricValue]) -> MetricValue | None:
    return next((found for found in (main, *others) if found is not None and found.name == name), None)


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
class Rung:
    """Something that was tried to win accuracy of int8 back: the metric of the file on the validation samples, what it
    loses against the float model there (both None where the runtime refuses the file), and whether it is part of the
    file."""

    name: str
    value: float | None
    lost: float | None
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderReport:
    """What was tried until an int8 file lost no more of the main `metric` than `max_drop`.

    `change` is that of the last rung that was kept, on `samples` validation samples and against the float model;
    `lost` of a share in its own unit, else as a part. `float_layers` stay in float and have the share `float_macs` of
    the MACs. Without `max_drop` nothing was scored.
    """

    metric: str | None
    max_drop: float | None
    lost: float | None
    change: MetricChange | None
    samples: int
    rungs: tuple[Rung, ...]
    float_layers: tuple[str, ...]
    float_macs: float

    @property
    def reached(self) -> bool:
        """Whether the file loses no more than it may."""
        return self.max_drop is None or self.lost is None or self.lost <= self.max_drop + 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactEntry:
    """A file that was made. `sparsity` is that of the weights in the file, read back from it; `exported` files ship.

    `parity_on` names the samples of `parity`; `weights` is how many weight tensors a Core ML package stores in each
    encoding, `parameters` how many the file has (None where its reader does not count). `float_ops` are the operations
    of an integer file that compute in float, because that was allowed; `estimates` the latencies on devices;
    `warnings` what an app would take wrongly. `metric` is the main one of `metrics`; `ladder` tells what was done so
    that int8 loses little; `latency` is that of one of several exported .tflite files against the dense float32 one;
    `sparse_kernels` tells of one that was made for those; `answers` are those that it changed against the dense model,
    output by output.
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
    runtimes: tuple[RuntimeRun, ...]
    exported: bool
    oldest_runtime: str | None = None
    parity_on: str | None = None
    weights: Mapping[str, int] | None = None
    float_ops: tuple[str, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    parameters: int | None = None
    warnings: tuple[str, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    ladder: LadderReport | None = None
    latency: LatencyComparison | None = None
    sparse_kernels: SparseKernels | None = None
    answers: tuple[AnswerChange, ...] = ()

    def scored(self, name: str) -> MetricValue | None:
        """Its value of the metric of that name."""
        return _scored(name, self.metric, self.metrics)

    def __post_init__(self) -> None:
        check_counts(raw_bytes=self.raw_bytes, download_bytes=self.download_bytes, macs=self.macs)
        check_counts(parameters=self.parameters)
        check_shares(sparsity=self.sparsity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A row of the ledger: the model after a step. `kind` is dense, prune, finetune, equalize, quantize or qat.

    `kept` is what it keeps of earlier stages; `student` tells of a smaller dense model that began here.
    """

    name: str
    kind: str
    parameters: int
    nonzero_parameters: int
    macs: int | None
    metric: MetricValue | None
    latency: LatencyComparison | None
    artifacts: tuple[ArtifactEntry, ...]
    pruning: PruneReport | None
    training: TrainLog | None
    seconds: float
    channels: ChannelReport | None = None
    metrics: tuple[MetricValue, ...] = ()
    kept: tuple[KeptReport, ...] = ()
    student: StudentReport | None = None
    equalized: EqualizeReport | None = None

    def __post_init__(self) -> None:
        check_counts(parameters=self.parameters, nonzero_parameters=self.nonzero_parameters, macs=self.macs)

    def scored(self, name: str) -> MetricValue | None:
        """Its value of the metric of that name."""
        return _scored(name, self.metric, self.metrics)

    @property
    def main(self) -> ArtifactEntry | None:
        """The file that stands for the stage in the table: the one its metric was measured on."""
        return self.artifacts[0] if self.artifacts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOrigin:
    """The recipe of a run; `asked` is what it says, as plain values."""

    path: str
    sha256: str
    asked: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOrigin:
    """The model that went in."""

    path: str
    sha256: str
    raw_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOrigin:
    """A split of the data; `skipped` samples of it were bad and left out."""

    path: str
    sha256: str
    samples: int
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine of a run, and the versions of its runtimes, oldest first."""

    machine: str
    system: str
    runtimes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All stages of a run and where they came from. `metric` is the main one of `metrics`: it chose among epochs.

    `blame` is what undoing steps and layers brings back, where the recipe asks for it.
    """

    tool_version: str
    recipe: RecipeOrigin
    input: ModelOrigin
    data: Mapping[str, SplitOrigin]
    metric: MetricKind
    host: Host
    seed: int
    stages: tuple[Stage, ...]
    verdicts: tuple[Verdict, ...] = ()
    summary: tuple[str, ...] = ()
    metrics: tuple[MetricKind, ...] = ()
    blame: Blame | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("there is no stage")

    def to_json(self) -> dict[str, Any]:
        """The ledger as plain values, `schema_version` first."""
        body = asdict(self)
        version = body.pop("tool_version")
        return {"schema_version": SCHEMA_VERSION, "tool": {"name": "edgeprune", "version": version}, **body}

    @classmethod
    def from_json(cls, told: str | bytes | Mapping[str, object], what: str = "the ledger") -> Ledger:
        """The ledger that `to_json` gave, as plain values or as text. Raises InputError, which begins with `what`."""
        raw = decode(told, what, "run the recipe again") if isinstance(told, str | bytes) else told
        if not isinstance(raw, Mapping) or "stages" not in raw:
            raise InputError(f"{what} is not the ledger of a run; run the recipe again")
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{what} is the ledger of another version of edgeprune; run the recipe again")
        tool = raw.get("tool")
        version = tool.get("version") if isinstance(tool, Mapping) else None
        return record_of(cls, {**raw, "tool_version": version}, f"{what} is not a ledger, run the recipe again")

    @property
    def kinds(self) -> tuple[MetricKind, ...]:
        """How outputs were scored, the main metric first."""
        return self.metrics or (self.metric,)

    @property
    def dense(self) -> Stage:
        """The stage that everything is compared with."""
        return self.stages[0]

    def download_ratio(self, entry: ArtifactEntry, codec: str = BASE_CODEC) -> float | None:
        """Download of a file over that of the dense float32 .tflite file."""
        base = self.dense.main
        return entry.download_bytes[codec] / base.download_bytes[codec] if base and base.download_bytes[codec] else None


def schema_path() -> Path:
    """The published JSON Schema of `Ledger.to_json`."""
    return Path(__file__).parent / "schemas" / "ledger.schema.json"

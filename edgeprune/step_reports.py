"""What a step of a run did, and what comparing its files showed: records that a ledger keeps."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeprune.verdict import Estimate

__all__ = [
    "POOR_SQNR_DB",
    "Blame",
    "ChannelOrder",
    "ChannelParity",
    "ChannelReport",
    "EpochLog",
    "EqualizeReport",
    "HarmlessReport",
    "KeptReport",
    "LatencyComparison",
    "LatencyReached",
    "LayerSparsity",
    "LayerWidth",
    "MetricChange",
    "MetricKind",
    "Outcome",
    "OutputParity",
    "PruneReport",
    "Rewrite",
    "SkippedGroup",
    "SkippedLayer",
    "SparseKernels",
    "StudentReport",
    "TrainLog",
    "Undone",
]

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
class ChannelParity:
    """One channel of an output by its own measure: index `channel` on `axis` of the output (negative: from the last).

    `range` is that of the model's channel; `sqnr_db` is 10 log10 of the channel's own variance, over samples and
    places, over the mean square of its error.
    """

    axis: int
    channel: int
    range: float
    max_error: float
    sqnr_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """Differences of one output of a file against its model's, over `samples` samples.

    `range` is the model's largest minus smallest value, `relative_error` is max_error / range (None for a range of 0);
    `agreement` is the share of samples with the same largest element (None for an output of one element). `sqnr_db`:
    10 log10 of the power of the model's output over that of the difference (None where they are equal). `channels` are
    those whose own error is large (below POOR_SQNR_DB), which the whole output may hide.
    """

    output: str
    samples: int
    max_error: float
    mean_error: float
    range: float
    relative_error: float | None
    agreement: float | None
    sqnr_db: float | None
    channels: tuple[ChannelParity, ...] = ()

    @property
    def is_poor(self) -> bool:
        """Whether the error is large for a quantized file."""
        return self.sqnr_db is not None and self.sqnr_db < POOR_SQNR_DB


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyComparison:
    """A measured comparison; `ratio` is candidate / baseline thread CPU time, below 1 when the candidate is faster.

    `low` and `high` bound it with 95 % confidence, and `null_ratio`, `null_low`, `null_high` are the same for the
    baseline against its own copy. `tolerance` is the half-width around 1 that counts as unchanged, null run included.
    The `_ms` fields are per invoke: medians of thread CPU time and of wall time, which other programs lengthen, and
    the 90th percentile of CPU time.
    `pairs` counts all processes together; `how` says it all in one sentence.
    """

    ratio: float
    low: float
    high: float
    verdict: Outcome
    tolerance: float
    null_ratio: float
    null_low: float
    null_high: float
    baseline_ms: float
    candidate_ms: float
    baseline_wall_ms: float
    candidate_wall_ms: float
    baseline_p90_ms: float
    candidate_p90_ms: float
    runtime: str
    runtime_version: str
    threads: int
    processes: int
    pairs: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedLayer:
    """A layer with weights that stays dense, and why."""

    layer: str
    kind: str
    parameters: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSparsity:
    """Asked and got for one kernel. `asked` is None under scope "global", where only the total is asked for.

    `violations` are the groups of inputs with more non-zeros than the pattern allows; None where none was asked for.
    """

    layer: str
    kind: str
    key: str
    elements: int
    asked: float | None
    got: float
    violations: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOrder:
    """Channels of `groups` dependency groups in another order, for a pattern to keep more.

    `kept_before` and `kept_after` are the shares that the pattern keeps of the kernels' summed `score`: "magnitude", or
    what was asked for. `verified` is the largest relative error of the outputs against the model as it was; None where
    not checked (`note`).
    """

    groups: int
    score: str
    kept_before: float
    kept_after: float
    verified: float | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """What pruning did: asked and got over all pruned kernels, each kernel, and each layer left dense.

    `pattern` is N:M as asked for, "2:4"; None for a fraction. `padded` are the layers that were padded anew first, as
    sparse kernels want.
    """

    asked: float
    got: float
    layers: tuple[LayerSparsity, ...]
    skipped: tuple[SkippedLayer, ...]
    pattern: str | None = None
    reordering: ChannelOrder | None = None
    padded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWidth:
    """Channels that a layer makes, before and after. `asked` is how many were to stay before rounding, None where all
    groups were ranked together."""

    layer: str
    kind: str
    before: int
    asked: float | None
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedGroup:
    """A group that keeps all its channels, and why."""

    layer: str
    layers: tuple[str, ...]
    channels: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReached:
    """A latency on a device as the target: the share `asked` to stay, and the estimates of the float32 .tflite file
    `before` and `after`; `ratio` is after over before."""

    asked: float
    before: Estimate
    after: Estimate
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmlessReport:
    """How far outputs depart without the channels that do nothing: the largest difference of any output, relative to
    its largest magnitude for the same sample, on the samples that chose them and on others that were not looked at."""

    tolerance: float
    looked_at: int
    looked_at_error: float
    checked: int
    checked_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReport:
    """What channel pruning did. `macs_*` are those of kernels for one sample, None where a size is open or a layer is
    not followed; `got` is the share of channels removed. `verified` is the largest relative error of the surgery
    (before compensation) against the old model with the removed channels set to zero; None where not checked (`note`).
    `estimated_latency` and `harmless` are None where the target was another.
    """

    asked: str
    got: float
    parameters_before: int
    parameters_after: int
    macs_before: int | None
    macs_after: int | None
    removed: tuple[LayerWidth, ...]
    skipped: tuple[SkippedGroup, ...]
    altered: tuple[str, ...]
    verified: float | None
    note: str | None
    estimated_latency: LatencyReached | None = None
    harmless: HarmlessReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualizeReport:
    """What equalization did to the `channels` of so many `layers`: `still` ones do not vary on samples and became a
    constant, `flattened` ones reach the cap of their activation and were made less steep. `spread_*` is the largest
    number of a channel's kernel (batch normalization folded in) against the median of its layer, in the worst layer."""

    layers: int
    channels: int
    still: int
    flattened: int
    spread_before: float
    spread_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReport:
    """What a later stage keeps of what the stage `of` won. `what` is "zeros" (weights of kernels that were zero behind
    it and are still there), "widths" (layers that it made narrower), or "zeros in the file" (the same zeros in the
    stage's .tflite file, of kernels that are found there). `got` below `asked` ends a run with an error."""

    of: str
    what: str
    asked: int
    got: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentReport:
    """A smaller dense model that took the place of the one before: the `width` or the file that was asked for, and the
    parameters of the recipe's model and of the student."""

    width: float | None
    model: str | None
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLog:
    """Mean training loss of an epoch and the validation metric after it (None without a validation split); `scores` are
    all metrics on the validation split, by name."""

    loss: float
    validation: float | None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainLog:
    """What happened: epochs in order, the epoch (from 1) whose weights were kept, whether patience ended it."""

    epochs: tuple[EpochLog, ...]
    kept_epoch: int
    stopped_early: bool
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """What a metric changed against the dense model, which scored `before` on the same samples.

    `low` and `high` bound the difference with 95 % confidence: percentiles over `resamples` paired bootstrap samples
    (Efron and Tibshirani 1993, chapter 13); None where the metric is only known of all samples together.
    """

    before: float
    difference: float
    low: float | None
    high: float | None
    resamples: int

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0: as many samples drawn again could show no change, or the other one."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKind:
    """How outputs were scored; a metric that `is_share` is told in percent."""

    name: str
    higher_is_better: bool
    is_share: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """One thing undone at the end of a run, all else left as it is: the whole `step`, or one `layer` of it.

    `what` is "skipped" (the step), "dense" (the layer's zeros) or "float" (the layer's integers), `how` tells in words
    how that was done. `change` is that of the metric, `before` being the stack's; None where it cannot be undone, and
    `reason` says why. `alone` is the metric's loss where of all steps that can be undone only this one stays.
    """

    step: str
    layer: str | None
    what: str
    how: str
    change: MetricChange | None
    reason: str | None = None
    alone: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """Who did the damage: what comes back of a metric when one thing is undone, on the same `samples` of `data`.

    `stack` is the change from the dense model to the end of the run. `rest` is the loss that stays when all is undone
    that can be (training, widths), `compounding` the stack's loss minus `rest` and the losses of each step alone; None
    where no step can be undone. Losses are positive where the metric is worse. `layers` begin with the worst.
    """

    metric: MetricKind
    data: str
    samples: int
    stack: MetricChange
    steps: tuple[Undone, ...]
    layers: tuple[Undone, ...]
    rest: float | None
    compounding: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """An exact change of a file's graph: `name` is the word for it, `what` says what it does, `layers` where."""

    name: str
    what: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseKernels:
    """A file that XNNPACK runs with sparse kernels where the processor has them, and how it came to that.

    `difference` is the largest one that the rewrites made to an output of `samples` samples, as a share of the output's
    largest number; where it is above 1e-6, `rounding` is what two sets of kernels of the runtime differ by on the file
    before. `sparsity` is that of the 1x1 filters of the cluster, `stored_sparse` how many weights are stored sparse.
    With `reversed_input` the caller feeds images turned by 180 degrees.
    """

    rewrites: tuple[Rewrite, ...]
    difference: float
    samples: int
    sparsity: float
    stored_sparse: int
    reversed_input: bool = False
    rounding: float | None = None

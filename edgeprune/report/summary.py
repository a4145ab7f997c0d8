"""A run in sentences for people who do not read tables. Every word is computed from the ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgeprune.artifact import Format
from edgeprune.ledger import ArtifactEntry, LatencyReached, Ledger, MetricKind, MetricValue, Outcome, Stage
from edgeprune.report.agreement_report import channel_lines, sparse_lines
from edgeprune.report.ladder_report import ladder_text
from edgeprune.report.pruning import pattern_kept
from edgeprune.report.shipping import shipping_sentences
from edgeprune.report.verdicts import band_text, latency_text
from edgeprune.units import format_bytes, format_ms
from edgeprune.verdict import Limit, Unknown

__all__ = ["change_text", "difference_text", "summary_sentences"]


def change_text(before: float, after: float) -> str:
    """A relative change: "-88 %"; a change below half a percent reads "unchanged"."""
    if not before:
        return "unchanged" if not after else "new"
    percent = 100 * (after / before - 1)
    return "unchanged" if abs(percent) < 0.5 else f"{percent:+.0f} %"


def summary_sentences(ledger: Ledger) -> list[str]:
    """The facts in the order in which they are asked for: what the smallest file gained and cost, which file is for
    what, the other files, how each stage came to it, what is not known."""
    files = sorted(_exported(ledger), key=lambda entry: entry.download_bytes["deflate"])
    sentences = [sentence for entry in files[:1] for sentence in _file(ledger, entry)]
    sentences += _not_scored(ledger) + shipping_sentences(ledger)
    sentences += [sentence for entry in files[1:] for sentence in _file(ledger, entry)]
    for stage in ledger.stages[1:]:
        sentences += _stage(ledger, stage, {entry.path for entry in files})
    return sentences + _untimed(files) + _refused(ledger) + _not_judged(ledger)


def _exported(ledger: Ledger) -> list[ArtifactEntry]:
    return [entry for stage in ledger.stages for entry in stage.artifacts if entry.exported]


def _file(ledger: Ledger, entry: ArtifactEntry) -> list[str]:
    """What ships: its sizes, what it scores, how long it takes, and what an app must know of it."""
    sentences = [_download(ledger, entry), *_scores(ledger, entry)]
    sentences += [line for stage in ledger.stages[1:] if _main_is(stage, entry) for line in _latency(stage)]
    sentences += _estimates(entry)
    sentences += [f"{entry.path}: {ladder_text(entry.ladder)}."] if entry.ladder is not None else []
    sentences += [f"{entry.path}: {line}." for line in sparse_lines(entry.sparse_kernels)]
    warnings = (*channel_lines(entry.parity or ()), *entry.warnings)
    return sentences + [f"WARNING: {entry.path}: {line}." for line in warnings]


def _stage(ledger: Ledger, stage: Stage, files: Collection[str]) -> list[str]:
    """What a stage did and what came of it; what was said of one of the `files` that ship is not said again."""
    sentences = [_sparsity(stage)] if stage.pruning else []
    if stage.channels:
        sentences.append(_channels(ledger, stage))
        if stage.channels.estimated_latency:
            sentences.append(_target(stage, stage.channels.estimated_latency))
    sentences += [
        _quality(kind, stage, base.value, found)
        for kind in ledger.kinds
        if (base := ledger.dense.scored(kind.name)) and (found := stage.scored(kind.name)) and found.file not in files
    ]
    return sentences + (_latency(stage) if stage.main is None or stage.main.path not in files else [])


def _download(ledger: Ledger, entry: ArtifactEntry) -> str:
    base = ledger.dense.main
    assert base is not None
    before, after = base.download_bytes["deflate"], entry.download_bytes["deflate"]
    return (
        f"Download {change_text(before, after)} ({format_bytes(before)} -> {format_bytes(after)} zipped), install "
        f"{change_text(base.raw_bytes, entry.raw_bytes)} ({format_bytes(base.raw_bytes)} -> "
        f"{format_bytes(entry.raw_bytes)}) with {entry.path}, against the dense float32 .tflite."
    )


def _not_scored(ledger: Ledger) -> list[str]:
    return [
        f"{kind.name}: not measured, so nothing is known of what pruning cost."
        for kind in ledger.kinds
        if ledger.dense.scored(kind.name) is None
    ]


def _scores(ledger: Ledger, entry: ArtifactEntry) -> list[str]:
    """Each metric of a file: as that of the stage that was measured on it, else by itself."""
    if entry.metric is None:
        return [f"{ledger.metric.name} of {entry.path}: {entry.metric_note}."]
    sentences = []
    for kind in ledger.kinds:
        base, found = ledger.dense.scored(kind.name), entry.scored(kind.name)
        of_stage = next((s for s in ledger.stages[1:] if _is_of(s.scored(kind.name), entry)), None)
        if of_stage is not None and base is not None:
            measured = of_stage.scored(kind.name)
            assert measured is not None
            sentences.append(_quality(kind, of_stage, base.value, measured))
        elif found is not None:
            rounds = "; Apple's own kernels may round otherwise" if "evaluator" in found.runtime else ""
            sentences.append(f"{kind.name} of {entry.path}: {_value(kind, found)}{rounds}.")
    return sentences


def _main_is(stage: Stage, entry: ArtifactEntry) -> bool:
    return stage.main is not None and stage.main.path == entry.path


def _is_of(found: MetricValue | None, entry: ArtifactEntry) -> bool:
    return found is not None and found.file == entry.path


def _quality(kind: MetricKind, stage: Stage, before: float, found: MetricValue) -> str:
    """What one metric became of at a stage."""
    return (
        f"{kind.name} of stage {stage.name}: {_value_text(kind, before)} -> {_value_text(kind, found.value)} "
        f"({difference_text(kind, found.value - before)}{_interval(kind, found)}) on {found.samples:,} test samples, "
        f"measured on {found.file} with {found.runtime}."
    )


def _value_text(kind: MetricKind, value: float) -> str:
    return f"{100 * value:.2f} %" if kind.is_share else f"{value:.4f}"


def difference_text(kind: MetricKind, value: float) -> str:
    """A difference of a metric with its sign: "-0.82 points" of a share, four decimals otherwise."""
    return f"{100 * value:+.2f} points" if kind.is_share else f"{value:+.4f}"


def _interval(kind: MetricKind, found: MetricValue) -> str:
    """How sure a difference is: ", 95 % interval -0.61 to +0.15 points, which other samples may turn"."""
    change = found.change
    if change is None or change.low is None or change.high is None or change.low == change.high == 0:
        return ""  # not one sample changed
    low = difference_text(kind, change.low).removesuffix(" points")
    doubt = ": no more than the choice of samples makes" if change.is_noise else ""
    return f", 95 % interval {low} to {difference_text(kind, change.high)}{doubt}"


def _latency(stage: Stage) -> list[str]:
    found = stage.latency
    if found is None or stage.main is None:
        return []
    tolerance = found.tolerance
    interval = (
        f"({found.ratio:.3f}, 95 % {found.low:.3f}-{found.high:.3f}; "
        f"unchanged means within {1 - tolerance:.3f}-{1 + tolerance:.3f})"
    )
    where = f"Latency of stage {stage.name} on this host, {stage.main.precision} against {stage.main.precision}"
    zeros = stage.main.sparsity or 0.0
    if found.verdict is Outcome.UNCHANGED:
        why = ": a dense runtime multiplies zeros too" if zeros > 0.05 else ""
        return [f"{where}: unchanged {interval}{why}."]
    if found.verdict is Outcome.INCONCLUSIVE:
        return [f"{where}: inconclusive {interval}; this host is too busy, measure again with more processes or pairs."]
    return [f"{where}: {found.verdict} {interval}."]


def _estimates(entry: ArtifactEntry) -> list[str]:
    return [
        f"Latency of {entry.path} on a device: "
        + (
            f"{latency_text(found)}, {found.how}."
            if found.total_ms is not None
            else f"not estimated from profile {found.device}: {found.refused}."
        )
        for found in entry.estimates
    ]


def _target(stage: Stage, found: LatencyReached) -> str:
    """A latency on a device that was the stage's target."""
    after = found.after
    assert found.before.total_ms is not None
    assert after.total_ms is not None
    return (
        f"Latency of stage {stage.name} on a device, the target of its cut: {format_ms(found.before.total_ms)} -> "
        f"{format_ms(after.total_ms)} ({band_text(after)}), {found.ratio:.3f} of "
        f"that before the cut (asked {found.asked:g}), both as float32 .tflite, {after.how}."
    )


def _sparsity(stage: Stage) -> str:
    assert stage.pruning is not None
    in_file = stage.main.sparsity if stage.main else None
    read_back = (
        f"{100 * in_file:.2f} % of all weights in {stage.main.path}" if in_file is not None and stage.main else ""
    )
    asked, got = 100 * stage.pruning.asked, 100 * stage.pruning.got
    dense, pattern = len(stage.pruning.skipped), stage.pruning.pattern
    told = f"{pattern} ({asked:.2f} %)" if pattern else f"{asked:.2f} %"
    return (
        f"Sparsity of stage {stage.name}: asked {told}, got {got:.2f} % of the pruned kernels"
        f"{', ' + read_back if read_back else ''}; {dense} layer{'' if dense == 1 else 's'} with weights stayed "
        "dense, each with its reason in the report."
        f"{_pattern(stage) if pattern else ''}"
    )


def _pattern(stage: Stage) -> str:
    """Whether the pattern was kept where it was counted, and what reordering channels gave."""
    assert stage.pruning is not None
    order = stage.pruning.reordering
    kept = pattern_kept(stage.pruning)
    text = f" {kept[0].upper()}{kept[1:]} of the Keras model."
    if order is not None:
        text += (
            f" {order.groups} groups of channels were reordered first: {100 * order.kept_after:.2f} % of the "
            f"{order.score} kept, {100 * order.kept_before:.2f} % without."
        )
    return text


def _channels(ledger: Ledger, stage: Stage) -> str:
    assert stage.channels is not None
    found = stage.channels
    macs, dense = stage.macs, ledger.dense.macs
    text = (
        f"Channels of stage {stage.name}: asked {found.asked}, {100 * found.got:.0f} % removed; parameters "
        f"{found.parameters_before:,} -> {found.parameters_after:,}"
    )
    if macs and dense:
        text += f", MACs {macs / dense:.3f} of dense"
        if stage.latency and macs != dense:
            text += f", latency {stage.latency.ratio:.3f} of dense as measured on this host"
    kept = len(found.skipped)
    checked = "not checked" if found.verified is None else f"checked to {found.verified:.0e}"
    return f"{text}; {kept} group{'' if kept == 1 else 's'} kept all channels; surgery {checked}."


def _refused(ledger: Ledger) -> list[str]:
    return [
        f"{entry.path} does not run on {run.name} {run.version}: {run.reason}"
        for stage in ledger.stages
        for entry in stage.artifacts
        for run in entry.runtimes
        if not run.ran
    ]


_UNTIMED = {
    Format.COREML: "Core ML runs on macOS and iOS only",
    Format.ONNX: "edgeprune bench FILE times it with ONNX Runtime on one thread",
}


def _untimed(files: Sequence[ArtifactEntry]) -> list[str]:
    """Files of formats that no run times."""
    return [
        f"Not measured: latency of {', '.join(paths)}; {why}."
        for model_format, why in _UNTIMED.items()
        if (paths := [entry.path for entry in files if entry.format == model_format])
    ]


def _value(kind: MetricKind, found: MetricValue) -> str:
    change = found.change
    against = f" ({difference_text(kind, change.difference)}{_interval(kind, found)})" if change is not None else ""
    return f"{_value_text(kind, found.value)}{against} on {found.samples:,} test samples with {found.runtime}"


def _not_judged(ledger: Ledger) -> list[str]:
    """Limits on growth of a run without a baseline."""
    asked = ledger.recipe.asked.get("budget")
    limits = [limit for limit in Limit if limit.of_baseline and isinstance(asked, dict) and limit in asked]
    judged = {verdict.kind for verdict in ledger.verdicts if verdict.unknown is not Unknown.NO_BASELINE}
    return [f"{limit} was not judged: add --baseline FILE to the run." for limit in limits if limit not in judged]

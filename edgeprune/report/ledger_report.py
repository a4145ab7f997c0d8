"""A ledger as tables and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.artifact import SUFFIXES, Format
from edgeprune.checker.size.codecs import CODECS
from edgeprune.ledger import ArtifactEntry, ChannelReport, Ledger, MetricValue, PruneReport, Stage
from edgeprune.report.blame_report import blame_markdown, blame_text
from edgeprune.report.pruning import equalized_line, pattern_kept
from edgeprune.report.table import Table, to_markdown, to_terminal, to_text
from edgeprune.report.verdicts import latency_text, verdict_line
from edgeprune.units import format_bytes, format_count, format_percent, format_seconds

__all__ = [
    "UNKNOWN",
    "files_table",
    "kept_table",
    "kernels_table",
    "ledger_markdown",
    "ledger_text",
    "methods",
    "metric_text",
    "stages_table",
    "widths_table",
]

UNKNOWN = "not measured"


def metric_text(metric: MetricValue | None, is_share: bool) -> str:
    """ "92.31 %" for a share, four decimals otherwise."""
    if metric is None:
        return UNKNOWN
    return format_percent(metric.value, 2) if is_share else f"{metric.value:.4f}"


def _latency_text(stage: Stage) -> str:
    if stage.latency is None:
        return "1 (base)" if stage.kind == "dense" else UNKNOWN
    found = stage.latency
    return f"{found.ratio:.3f} ({found.low:.3f}-{found.high:.3f}) {found.verdict}"


def stages_table(ledger: Ledger) -> Table:
    """A row for each stage."""
    rows = []
    for stage in ledger.stages:
        main = stage.main
        ratio = ledger.download_ratio(main) if main else None
        rows.append(
            (
                stage.name,
                *(metric_text(stage.scored(kind.name), kind.is_share) for kind in ledger.kinds),
                main.precision if main else UNKNOWN,
                f"{stage.parameters:,}",
                f"{stage.nonzero_parameters:,}",
                format_count(stage.macs) if stage.macs is not None else UNKNOWN,
                format_bytes(main.raw_bytes) if main else UNKNOWN,
                format_bytes(main.download_bytes["deflate"]) if main else UNKNOWN,
                f"{ratio:.3f}x" if ratio is not None else UNKNOWN,
                _latency_text(stage),
                format_seconds(stage.seconds),
            )
        )
    heads = (
        "stage",
        *(kind.name for kind in ledger.kinds),
        "file",
        "parameters",
        "non-zero",
        "MACs",
        "install",
        "download",
        "of dense",
        "latency ratio on this host",
        "took",
    )
    return Table(heads=heads, rows=tuple(rows), left=_places(heads, "stage", "file", "latency ratio on this host"))


def _places(heads: Sequence[str], *words: str) -> frozenset[int]:
    """Columns of words, which stand on the left."""
    return frozenset(heads.index(word) for word in words)


def files_table(ledger: Ledger) -> Table:
    """A row for each file: what ships first."""
    entries = [(stage, entry) for stage in ledger.stages for entry in stage.artifacts]
    entries.sort(key=lambda pair: not pair[1].exported)
    codecs = _measured(ledger)
    rows = tuple(_file_row(ledger, stage, entry, codecs) for stage, entry in entries)
    heads = (
        "file",
        "stage",
        "install",
        *codecs,
        "of dense",
        "zeros",
        *(kind.name for kind in ledger.kinds),
        "ran on",
        "oldest runtime",
    )
    return Table(heads=heads, rows=rows, left=_places(heads, "file", "stage", "ran on", "oldest runtime"))


def _measured(ledger: Ledger) -> list[str]:
    """The codecs that any file of the run was compressed with."""
    entries = [entry for stage in ledger.stages for entry in stage.artifacts]
    return [name for name in CODECS if any(name in entry.download_bytes for entry in entries)]


def _file_row(ledger: Ledger, stage: Stage, entry: ArtifactEntry, codecs: Sequence[str]) -> tuple[str, ...]:
    ratio = ledger.download_ratio(entry)
    return (
        entry.path,
        stage.name,
        format_bytes(entry.raw_bytes),
        *(format_bytes(size) if (size := entry.download_bytes.get(codec)) is not None else UNKNOWN for codec in codecs),
        f"{ratio:.3f}x" if ratio is not None else UNKNOWN,
        format_percent(entry.sparsity) if entry.sparsity is not None else UNKNOWN,
        *(metric_text(entry.scored(kind.name), kind.is_share) for kind in ledger.kinds),
        ", ".join(f"{run.name} {run.version}" for run in entry.runtimes if run.ran) or "nothing here",
        entry.oldest_runtime or "not tried",
    )


def ledger_text(ledger: Ledger, *, width: int | None = None) -> str:
    """Text for a log, or, with the `width` of a terminal in columns, tables whose cells wrap to fit it."""

    def shown(table: Table) -> str:
        return to_text(table) if width is None else to_terminal(table, width)

    parts = [shown(stages_table(ledger)), "", shown(files_table(ledger)), ""]
    parts += [f"* {sentence}" for sentence in ledger.summary]
    if ledger.blame:
        parts += ["", "Who did the damage:", blame_text(ledger.blame, width=width)]
    if ledger.verdicts:
        parts += ["", "Budget:", *(f"  {verdict_line(v)}" for v in ledger.verdicts)]
    return "\n".join(parts)


def ledger_markdown(ledger: Ledger) -> str:
    """The same facts as a Markdown page."""
    parts = [
        f"# {ledger.input.path}: what pruning and quantization gain",
        "",
        *(f"- {sentence}" for sentence in ledger.summary),
        "",
        "## Stages",
        "",
        to_markdown(stages_table(ledger)),
        "",
        "## Files",
        "",
        to_markdown(files_table(ledger)),
        "",
    ]
    if ledger.verdicts:
        parts += ["## Budget", "", *(f"- {verdict_line(v)}" for v in ledger.verdicts), ""]
    if ledger.blame:
        parts += blame_markdown(ledger.blame)
    parts += _kept_section(ledger)
    for stage in ledger.stages:
        if stage.pruning:
            parts += _pruning_section(stage)
        if stage.equalized:
            parts += [f"## Channels of stage {stage.name}", "", f"{equalized_line(stage.equalized)}.", ""]
        if stage.channels:
            parts += _channel_section(stage)
    parts += ["## How it was measured", "", *(f"- {line}" for line in methods(ledger)), ""]
    return "\n".join(parts)


def kept_table(ledger: Ledger) -> Table:
    """What each stage keeps of the earlier ones."""
    rows = tuple(
        (stage.name, item.what, item.of, f"{item.asked:,}", f"{item.got:,}")
        for stage in ledger.stages
        for item in stage.kept
    )
    return Table(heads=("stage", "keeps", "of stage", "asked", "got"), rows=rows, left=frozenset({0, 1, 2}))


def _kept_section(ledger: Ledger) -> list[str]:
    table = kept_table(ledger)
    return ["## What later stages keep", "", to_markdown(table), ""] if table.rows else []


def kernels_table(pruning: PruneReport) -> Table:
    """Sparsity asked and got of each kernel that was pruned."""
    rows = tuple(
        (
            item.layer,
            item.kind,
            f"{item.elements:,}",
            pruning.pattern or (format_percent(item.asked) if item.asked is not None else "global"),
            format_percent(item.got),
        )
        for item in pruning.layers
    )
    return Table(heads=("layer", "type", "weights", "asked", "got"), rows=rows, left=frozenset({0, 1}))


def _pruning_section(stage: Stage) -> list[str]:
    assert stage.pruning is not None
    table = kernels_table(stage.pruning)
    left = tuple((i.layer, i.kind, f"{i.parameters:,}", i.reason) for i in stage.pruning.skipped)
    dense = Table(heads=("layer", "type", "parameters", "why it stays dense"), rows=left, left=frozenset({0, 1, 3}))
    kept = [to_markdown(dense), ""] if left else []
    pattern = [f"{pattern_kept(stage.pruning)}.", ""] if stage.pruning.pattern else []
    return [f"## Sparsity of stage {stage.name}", "", *pattern, to_markdown(table), "", *kept]


def widths_table(channels: ChannelReport) -> Table:
    """Channels of each layer that was made narrower, before and after."""
    rows = tuple(
        (
            i.layer,
            i.kind,
            f"{i.before:,}",
            "ranked" if i.asked is None else f"{i.asked:g}",
            f"{i.after:,}",
        )
        for i in channels.removed
    )
    return Table(heads=("layer", "type", "channels", "asked to stay", "left"), rows=rows, left=frozenset({0, 1}))


def _channel_section(stage: Stage) -> list[str]:
    assert stage.channels is not None
    table = widths_table(stage.channels)
    left = tuple((", ".join(i.layers), f"{i.channels:,}", i.reason) for i in stage.channels.skipped)
    kept = Table(heads=("layers", "channels", "why all channels stay"), rows=left, left=frozenset({0, 2}))
    parts = [f"## Channels of stage {stage.name}", "", *_target_lines(stage.channels), to_markdown(table), ""]
    return [*parts, to_markdown(kept), ""] if left else parts


def _target_lines(channels: ChannelReport) -> list[str]:
    """A latency on a device as the target: estimates only, in a table of their own."""
    found = channels.estimated_latency
    if found is None:
        return []
    numbers = (f"{found.asked:g}", f"{found.ratio:.3f}")
    row = (found.after.device, *numbers, latency_text(found.before), latency_text(found.after))
    heads = ("device", "latency asked", "ratio of the estimates", "estimate before", "estimate after")
    return [to_markdown(Table(heads=heads, rows=(row,), left=frozenset({0}))), ""]


def _codecs_text(ledger: Ledger) -> str:
    """ "deflate 9 (what a zip, APK or IPA costs), zstd 12"."""
    found = [CODECS[name] for name in _measured(ledger)]
    names = [f"{codec.instead_of or codec.name} {codec.level}" for codec in found]
    return ", ".join([f"{names[0]} (what a zip, APK or IPA costs)", *names[1:]]) if names else "nothing"


def _interval_lines(ledger: Ledger) -> list[str]:
    found = [m.change for s in ledger.stages for e in s.artifacts for m in e.metrics if m.change and m.change.resamples]
    if not found:
        return []
    return [
        "95 % interval: of the difference from the dense Keras model on the same samples, drawn again with replacement "
        f"{max(change.resamples for change in found):,} times (paired bootstrap). It tells how much of a difference is "
        "the choice of samples; it does not tell what another training would have given."
    ]


def _run_here(ledger: Ledger) -> str:
    """The endings of the files that an interpreter ran."""
    made = {entry.format for stage in ledger.stages for entry in stage.artifacts}
    return " and ".join(
        SUFFIXES[each] for each in (Format.TFLITE, Format.ONNX) if each is Format.TFLITE or each in made
    )


def methods(ledger: Ledger) -> list[str]:
    """How the numbers of a run were obtained, in sentences."""
    runtimes = ", ".join(f"{k} {v}" for k, v in ledger.host.runtimes.items()) or "none installed"
    lines = [
        f"{', '.join(kind.name for kind in ledger.kinds)}: each {_run_here(ledger)} file run over the test split by a "
        f"real interpreter ({runtimes}).",
        *_interval_lines(ledger),
        "oldest runtime: the oldest installed one that ran the file; what ships is tried on all of them, because apps "
        "ship old ones.",
        "Core ML: on macOS Core ML itself runs the saved package; elsewhere edgeprune's evaluator carries out its "
        "program operation by operation in float32, rounding to float16 where the program says so. That proves graph "
        "and weights; it does not reproduce Apple's kernels.",
        f"Download: the file compressed by {_codecs_text(ledger)}. Install: the bytes of the file.",
        "of dense: deflate bytes over those of the dense float32 .tflite file.",
        "non-zero counts the Keras model's parameters; zeros are counted in the weights of the exported file.",
    ]
    targets = [found for s in ledger.stages if s.channels and (found := s.channels.estimated_latency)]
    lines += [
        f"Latency as a target: float32 .tflite files of the model before and after the cut, {how}."
        for how in dict.fromkeys(found.after.how for found in targets)
    ]
    how = next((s.latency.how for s in ledger.stages if s.latency), None)
    if how:
        lines.append(
            f"Latency: {how}; dense and stage at the same precision. It ranks models on this host, not phones."
        )
    return lines

"""`edgeprune compare`: what one model file became, layer by layer. Light imports only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import with_quick
from edgeprune.checker.size.layer_pairs import Pair, layer_pairs
from edgeprune.checker.size.records import FileRecord, LayerRecord
from edgeprune.errors import MissingExtra, UsageError
from edgeprune.formats.precision import tflite_precision
from edgeprune.formats.tflite import read_graph
from edgeprune.ledger import Estimate
from edgeprune.report.cells import difference, layer_name, markdown_cell, markdown_text, shown, word
from edgeprune.report.table import Table, to_markdown, to_text
from edgeprune.runtime.session import installed_runtimes
from edgeprune.units import format_bytes, format_count, format_percent

if TYPE_CHECKING:
    from edgeprune.checker.latency.estimate import EstimateRatio

__all__ = ["compare_verb", "headline"]


def compare_verb(
    before: Path,
    after: Path,
    *,
    output_format: str,
    measure: bool,
    device: str | None,
    every: bool,
    codecs: Sequence[str],
    quiet: bool,
) -> int:
    """Print what changed between two model files; with `measure` also the paired latency on this host, with `device`
    the estimates of both from its profile."""
    names = with_quick(codecs)
    if measure and not all(path.suffix.lower() in (".tflite", ".lite") for path in (before, after)):
        raise UsageError("--measure runs .tflite files only; leave it out for other formats")
    old, new = account(before, names), account(after, names)
    if measure and not installed_runtimes():
        raise MissingExtra("ai-edge-litert", "litert", "--measure (the sizes need nothing: leave it out)")
    estimates = _estimates(before, after, device) if device else None  # before the slow part: a wrong name is told
    latency = _measured(before, after, quiet) if measure else None
    facts = {"latency": latency, "estimates": estimates, "headline": headline(old, new, latency)}
    click.echo(_FORMATS[output_format](old, new, facts, every), nl=False)
    return 0


def _measured(before: Path, after: Path, quiet: bool) -> dict[str, Any]:
    from edgeprune.checker.latency.measure import compare_latency
    from edgeprune.host.progress import Progress

    kinds = {tflite_precision(read_graph(path)) for path in (before, after)}
    progress = Progress(quiet=quiet)
    progress.begin("latency of both on this host")
    found = compare_latency(before, after, on_progress=progress.advance)
    # How precisions compare on this host does not carry to phones, so they are not ranked.
    verdict = str(found.verdict) if len(kinds) == 1 else None
    progress.end(verdict or "not ranked")
    return {**asdict(found), "verdict": verdict}


def _estimates(before: Path, after: Path, device: str) -> EstimateRatio:
    from edgeprune.checker.latency.estimate import estimate_latency, ratio_of
    from edgeprune.checker.latency.profiles import find_profile

    profile = find_profile(device)
    return ratio_of(estimate_latency(before, profile), estimate_latency(after, profile), profile)


def headline(old: FileRecord, new: FileRecord, latency: Mapping[str, Any] | None) -> str:
    """The account in one sentence: download, install, zeros, MACs, and latency as far as it was measured."""
    parts = [
        f"Download {_change(old.download_bytes['deflate'], new.download_bytes['deflate'], format_bytes)} (deflate)",
        f"install {_change(old.raw_bytes, new.raw_bytes, format_bytes)}",
    ]
    if old.macs is not None and new.macs is not None:
        parts.append(f"MACs {_change(old.macs, new.macs, format_count)}")
    if old.sparsity is not None and new.sparsity is not None:
        parts.append(f"zeros {_arrow(format_percent(old.sparsity), format_percent(new.sparsity))}")
    pairs = layer_pairs(old.layers, new.layers)
    alone = pairs and not any(before and after for before, after in pairs)
    start = "No layer of the one is in the other, so these may be different models. " if alone else ""
    return start + ", ".join(parts) + "; " + _latency(old, new, latency) + "."


def _change(before: float, after: float, text: Callable[[int], str]) -> str:
    if before == after:
        return f"unchanged ({text(round(after))})"
    percent = f"{100 * (after / before - 1):+.1f} %" if before else "new"
    return f"{percent} ({text(round(before))} -> {text(round(after))})"


def _latency(old: FileRecord, new: FileRecord, latency: Mapping[str, Any] | None) -> str:
    if latency is not None and latency["verdict"] is None:
        return "latency not ranked: the two differ in precision, and how precisions compare here says nothing of phones"
    if latency is not None:
        return (
            f"latency {latency['verdict']} on this host: {latency['ratio']:.3f} times before "
            f"(95 % {latency['low']:.3f} to {latency['high']:.3f})"
        )
    same_work = old.macs == new.macs and old.macs is not None and old.format == new.format
    if same_work and (new.sparsity or 0) > (old.sparsity or 0) + 0.05:
        return "latency not measured; a dense runtime multiplies the zeros too, so expect no change (--measure checks)"
    return "latency not measured (--measure does, for .tflite)"


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


_FEW_BYTES, _SAME_SHARE = 16, 0.01  # by how much the download of an unchanged layer may differ
HEADS = ("layer", "op", "precision", "install", "", "download share", "", "parameters", "zeros", "MACs")


def _rows(pairs: list[Pair], cell: Callable[[str], str]) -> tuple[tuple[str, ...], ...]:
    return tuple(_row(old, new, cell) for old, new in pairs)


def _row(old: LayerRecord | None, new: LayerRecord | None, cell: Callable[[str], str]) -> tuple[str, ...]:
    known = new or old
    assert known is not None
    name = layer_name(known)
    if new is None or old is None:
        state = "removed" if new is None else "new"
        name = f"{name} ({state})"
    return (
        cell(name),
        word(known.kind, cell),
        _arrow(word((old or known).precision, cell), word((new or known).precision, cell)),
        _both(old, new, "raw_bytes", format_bytes),
        _percent(old, new, "raw_bytes"),
        _both(old, new, "deflate_bytes", format_bytes),
        _percent(old, new, "deflate_bytes"),
        _both(old, new, "parameters", format_count),
        _zeros(old, new),
        _both(old, new, "macs", format_count),
    )


def _both(old: LayerRecord | None, new: LayerRecord | None, name: str, text: Callable[[int], str]) -> str:
    values = [getattr(layer, name) if layer else 0 for layer in (old, new)]
    if None in values:
        return "unknown"
    return _arrow(text(values[0]), text(values[1]))


def _percent(old: LayerRecord | None, new: LayerRecord | None, name: str) -> str:
    before, after = (getattr(layer, name) if layer else None for layer in (old, new))
    if not before or after is None or before == after:
        return ""
    return f"{100 * (after / before - 1):+.0f} %"


def _zeros(old: LayerRecord | None, new: LayerRecord | None) -> str:
    texts = [format_percent(s) if layer and (s := layer.sparsity) is not None else "-" for layer in (old, new)]
    return _arrow(texts[0], texts[1])


def _changed(pairs: list[Pair]) -> list[Pair]:
    return [(old, new) for old, new in pairs if old is None or new is None or _differs(old, new)]


def _differs(old: LayerRecord, new: LayerRecord) -> bool:
    facts = [(layer.precision, layer.parameters, layer.raw_bytes, layer.zeros, layer.macs) for layer in (old, new)]
    shares = [layer.deflate_bytes or 0 for layer in (old, new)]
    # Clustered weights change nothing but the download; new weights of the same kind change it by a little.
    return facts[0] != facts[1] or abs(shares[1] - shares[0]) > max(_FEW_BYTES, _SAME_SHARE * shares[0])


def _tables(old: FileRecord, new: FileRecord, every: bool, cell: Callable[[str], str]) -> tuple[Table, Table, int]:
    """Totals, the layers that changed (or every one), and how many others there are."""
    totals = [("install", old.raw_bytes, new.raw_bytes)]
    totals += [(f"download ({name})", count, new.download_bytes[name]) for name, count in old.download_bytes.items()]
    rows: list[tuple[str, ...]] = [(name, format_bytes(a), format_bytes(b), difference(a, b)) for name, a, b in totals]
    for name, counts in (("parameters", (old.parameters, new.parameters)), ("MACs", (old.macs, new.macs))):
        texts = [format_count(count) if count is not None else "unknown" for count in counts]
        a, b = counts
        change = f"{100 * (b / a - 1):+.1f} %" if a and b is not None else ""
        rows.append((name, *texts, change))
    shares = [format_percent(s) if s is not None else "unknown" for s in (old.sparsity, new.sparsity)]
    rows.append(("zeros among weights", *shares, ""))
    pairs = layer_pairs(old.layers, new.layers)
    told = pairs if every else _changed(pairs)
    table = Table(heads=HEADS, rows=_rows(told, cell), left=frozenset({0, 1, 2}))
    return Table(heads=("", "before", "after", "difference"), rows=tuple(rows)), table, len(pairs) - len(told)


def _text(old: FileRecord, new: FileRecord, facts: Mapping[str, Any], every: bool) -> str:
    totals, layers, others = _tables(old, new, every, shown)
    lines = [f"{shown(old.path)} -> {shown(new.path)}", facts["headline"], "", to_text(totals), ""]
    if layers.rows:
        lines.append(to_text(layers))
    if others:
        lines.append(f"{others} layer{'' if others == 1 else 's'} unchanged (--all shows them)")
    lines += [f"note: {shown(record.note)}" for record in (old, new) if record.note]
    if facts["latency"]:
        lines += ["", _shown_latency(facts["latency"])]
    if facts["estimates"]:
        lines += ["", shown(_shown_estimates(facts["estimates"]))]
    return "\n".join(lines) + "\n"


def _shown_estimates(found: EstimateRatio) -> str:
    after = found.after
    text = f"latency on {after.device}: before {_shown_estimate(found.before)}; after {_shown_estimate(after)}"
    if found.ratio is None:
        return text
    return (
        f"{text}; {found.ratio:.3f} times before ({found.ratio_low:.3g} to {found.ratio_high:.3g}: "
        f"{found.ratio_how}); {after.how}"
    )


def _shown_estimate(found: Estimate) -> str:
    if found.total_ms is not None:
        return f"{found.total_ms:.3g} ms ({found.low_ms:.3g} to {found.high_ms:.3g})"
    if found.relative is not None:
        return f"{found.relative:.3g} times MobileNetV2 1.0 224"
    return f"not estimated: {found.refused}"


def _shown_latency(found: Mapping[str, Any]) -> str:
    return (
        f"latency on this host: {found['baseline_ms']:.3g} ms -> {found['candidate_ms']:.3g} ms CPU time "
        f"({found['verdict'] or 'not ranked'}); {found['how']}."
        + ("" if found["verdict"] else " How two precisions compare here says nothing of phones.")
    )


def _markdown(old: FileRecord, new: FileRecord, facts: Mapping[str, Any], every: bool) -> str:
    totals, layers, others = _tables(old, new, every, markdown_cell)
    lines = [f"### {markdown_cell(old.path)} -> {markdown_cell(new.path)}", "", facts["headline"], ""]
    lines += [to_markdown(totals), ""]
    if layers.rows:
        lines += [to_markdown(layers), ""]
    if others:
        lines.append(f"{others} layer{'' if others == 1 else 's'} unchanged.")
    lines += [markdown_text(record.note) for record in (old, new) if record.note]
    if facts["latency"]:
        lines.append(_shown_latency(facts["latency"]))
    if facts["estimates"]:
        lines += ["", markdown_text(_shown_estimates(facts["estimates"]))]
    return "\n".join(lines).rstrip() + "\n"


def _json(old: FileRecord, new: FileRecord, facts: Mapping[str, Any], _every: bool) -> str:
    pairs = layer_pairs(old.layers, new.layers)
    body = {
        "schema_version": 1,
        "headline": facts["headline"],
        "before": _sizes(old),
        "after": _sizes(new),
        "layers": [{"before": a.name if a else None, "after": b.name if b else None} for a, b in pairs],
        "latency": facts["latency"],
        "estimates": _both_estimates(facts["estimates"]),
    }
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _both_estimates(found: EstimateRatio | None) -> dict[str, Any] | None:
    return {"device": found.after.device, "how": found.after.how, **asdict(found)} if found else None


def _sizes(record: FileRecord) -> dict[str, Any]:
    """The record without its estimates, which stand beside each other elsewhere."""
    return {key: value for key, value in record.to_json().items() if key != "estimates"}


_FORMATS: Mapping[str, Callable[[FileRecord, FileRecord, Mapping[str, Any], bool], str]] = {
    "text": _text,
    "json": _json,
    "markdown": _markdown,
}

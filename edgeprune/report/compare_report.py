"""A comparison of two model files as text, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgeprune.checker.comparison import Comparison
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.checker.size.layer_pairs import Pair
from edgeprune.checker.size.records import FileAccount, LayerAccount
from edgeprune.report.cells import difference, layer_name, markdown_cell, markdown_text, shown, word
from edgeprune.report.table import Table, to_markdown, to_text
from edgeprune.report.verdicts import latency_text
from edgeprune.units import format_bytes, format_count, format_percent
from edgeprune.verdict import Estimate

if TYPE_CHECKING:
    from edgeprune.checker.latency.ratios import EstimateRatio
    from edgeprune.ledger import LatencyComparison

__all__ = ["COMPARE_FORMATS", "headline", "totals_table"]


def headline(found: Comparison) -> str:
    """The account in one sentence: download, install, zeros, MACs, and latency as far as it was measured."""
    old, new = found.before, found.after
    parts = [
        f"Download {_change(old.download_bytes[BASE_CODEC], new.download_bytes[BASE_CODEC], format_bytes)} "
        f"({BASE_CODEC})",
        f"install {_change(old.raw_bytes, new.raw_bytes, format_bytes)}",
    ]
    if old.macs is not None and new.macs is not None:
        parts.append(f"MACs {_change(old.macs, new.macs, format_count)}")
    if old.sparsity is not None and new.sparsity is not None:
        parts.append(f"zeros {_arrow(format_percent(old.sparsity), format_percent(new.sparsity))}")
    pairs = found.pairs
    alone = pairs and not any(before and after for before, after in pairs)
    start = "No layer of the one is in the other, so these may be different models. " if alone else ""
    return start + ", ".join(parts) + "; " + _latency(found) + "."


def _change(before: float, after: float, text: Callable[[int], str]) -> str:
    if before == after:
        return f"unchanged ({text(round(after))})"
    percent = f"{100 * (after / before - 1):+.1f} %" if before else "new"
    return f"{percent} ({text(round(before))} -> {text(round(after))})"


def _latency(found: Comparison) -> str:
    old, new, latency = found.before, found.after, found.latency
    if latency is not None and not found.is_ranked:
        return "latency not ranked: the two differ in precision, and how precisions compare here says nothing of phones"
    if latency is not None:
        return (
            f"latency {latency.verdict} on this host: {latency.ratio:.3f} times before "
            f"(95 % {latency.low:.3f} to {latency.high:.3f})"
        )
    same_work = old.macs == new.macs and old.macs is not None and old.format == new.format
    if same_work and (new.sparsity or 0) > (old.sparsity or 0) + 0.05:
        return "latency not measured; a dense runtime multiplies the zeros too, so expect no change (--measure checks)"
    return "latency not measured (--measure does, for .tflite)"


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


_FEW_BYTES, _SAME_SHARE = 16, 0.01  # by how much the download of an unchanged layer may differ
HEADS = ("layer", "op", "precision", "install", "", "download share", "", "parameters", "zeros", "MACs")


def _row(old: LayerAccount | None, new: LayerAccount | None, cell: Callable[[str], str]) -> tuple[str, ...]:
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


def _both(old: LayerAccount | None, new: LayerAccount | None, name: str, text: Callable[[int], str]) -> str:
    values = [getattr(layer, name) if layer else 0 for layer in (old, new)]
    if None in values:
        return "unknown"
    return _arrow(text(values[0]), text(values[1]))


def _percent(old: LayerAccount | None, new: LayerAccount | None, name: str) -> str:
    before, after = (getattr(layer, name) if layer else None for layer in (old, new))
    if not before or after is None or before == after:
        return ""
    return f"{100 * (after / before - 1):+.0f} %"


def _zeros(old: LayerAccount | None, new: LayerAccount | None) -> str:
    texts = [format_percent(s) if layer and (s := layer.sparsity) is not None else "-" for layer in (old, new)]
    return _arrow(texts[0], texts[1])


def _changed(pairs: list[Pair]) -> list[Pair]:
    return [(old, new) for old, new in pairs if old is None or new is None or _differs(old, new)]


def _differs(old: LayerAccount, new: LayerAccount) -> bool:
    facts = [(layer.precision, layer.parameters, layer.raw_bytes, layer.zeros, layer.macs) for layer in (old, new)]
    shares = [layer.deflate_bytes or 0 for layer in (old, new)]
    # Clustered weights change nothing but the download; new weights of the same kind change it by a little.
    return facts[0] != facts[1] or abs(shares[1] - shares[0]) > max(_FEW_BYTES, _SAME_SHARE * shares[0])


def totals_table(old: FileAccount, new: FileAccount) -> Table:
    """Both files as a whole: bytes, parameters, MACs, zeros."""
    sizes = [("install", old.raw_bytes, new.raw_bytes)]
    sizes += [(f"download ({name})", count, new.download_bytes[name]) for name, count in old.download_bytes.items()]
    rows: list[tuple[str, ...]] = [(name, format_bytes(a), format_bytes(b), difference(a, b)) for name, a, b in sizes]
    for name, (a, b) in {"parameters": (old.parameters, new.parameters), "MACs": (old.macs, new.macs)}.items():
        texts = [format_count(count) if count is not None else "unknown" for count in (a, b)]
        rows.append((name, *texts, f"{100 * (b / a - 1):+.1f} %" if a and b is not None else ""))
    shares = [format_percent(s) if s is not None else "unknown" for s in (old.sparsity, new.sparsity)]
    rows.append(("zeros among weights", *shares, ""))
    return Table(heads=("", "before", "after", "difference"), rows=tuple(rows))


def _layers(found: Comparison, every: bool, cell: Callable[[str], str]) -> tuple[Table, str]:
    """The layers that changed (or every one), and how many others there are, in words."""
    pairs = found.pairs
    told = pairs if every else _changed(pairs)
    others = len(pairs) - len(told)
    table = Table(heads=HEADS, rows=tuple(_row(old, new, cell) for old, new in told), left=frozenset({0, 1, 2}))
    return table, f"{others} layer{'' if others == 1 else 's'} unchanged" if others else ""


def _text(found: Comparison, every: bool) -> str:
    old, new = found.before, found.after
    layers, others = _layers(found, every, shown)
    lines = [f"{shown(old.path)} -> {shown(new.path)}", headline(found), "", to_text(totals_table(old, new)), ""]
    lines += [to_text(layers)] if layers.rows else []
    lines += [f"{others} (--all shows them)"] if others else []
    lines += [f"note: {shown(record.note)}" for record in (old, new) if record.note]
    lines += ["", _shown_latency(found.latency, found.is_ranked)] if found.latency else []
    lines += ["", shown(_shown_estimates(found.estimates))] if found.estimates else []
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
        return latency_text(found)
    if found.relative is not None:
        return f"{found.relative:.3g} times MobileNetV2 1.0 224"
    return f"not estimated: {found.refused}"


def _shown_latency(found: LatencyComparison, is_ranked: bool) -> str:
    return (
        f"latency on this host: {found.baseline_ms:.3g} ms -> {found.candidate_ms:.3g} ms CPU time "
        f"({found.verdict if is_ranked else 'not ranked'}); {found.how}."
        + ("" if is_ranked else " How two precisions compare here says nothing of phones.")
    )


def _markdown(found: Comparison, every: bool) -> str:
    old, new = found.before, found.after
    layers, others = _layers(found, every, markdown_cell)
    lines = [f"### {markdown_cell(old.path)} -> {markdown_cell(new.path)}", "", headline(found), ""]
    lines += [to_markdown(totals_table(old, new)), ""]
    lines += [to_markdown(layers), ""] if layers.rows else []
    lines += [f"{others}."] if others else []
    lines += [markdown_text(record.note) for record in (old, new) if record.note]
    lines += [_shown_latency(found.latency, found.is_ranked)] if found.latency else []
    lines += ["", markdown_text(_shown_estimates(found.estimates))] if found.estimates else []
    return "\n".join(lines).rstrip() + "\n"


def _json(found: Comparison, _every: bool) -> str:
    body = {
        "schema_version": 1,
        "headline": headline(found),
        "before": _sizes(found.before),
        "after": _sizes(found.after),
        "layers": [{"before": a.name if a else None, "after": b.name if b else None} for a, b in found.pairs],
        "latency": {**asdict(found.latency), "verdict": found.verdict} if found.latency else None,
        "estimates": _both_estimates(found.estimates),
    }
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _both_estimates(found: EstimateRatio | None) -> dict[str, object] | None:
    return {"device": found.after.device, "how": found.after.how, **asdict(found)} if found else None


def _sizes(record: FileAccount) -> dict[str, object]:
    """The record without its estimates, which stand beside each other elsewhere."""
    return {key: value for key, value in record.to_json().items() if key != "estimates"}


COMPARE_FORMATS: Mapping[str, Callable[[Comparison, bool], str]] = {"text": _text, "json": _json, "markdown": _markdown}

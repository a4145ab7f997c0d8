"""Verdicts of a budget and bands of estimates in words: the only place that makes sentences of them."""

from __future__ import annotations

from edgeprune.host.git import short_name
from edgeprune.report.cells import shown
from edgeprune.units import format_bytes, format_count, format_ms, format_percent
from edgeprune.verdict import Band, Estimate, Limit, Unit, Unknown, Verdict

__all__ = ["amount", "band_text", "latency_text", "limit_name", "outcome_word", "reason", "verdict_line"]

_NAMES = {
    Limit.GROWTH: "growth of download",
    Limit.MIN_SPARSITY: "sparsity",
    Limit.MAX_METRIC_DROP: "metric drop",
    Limit.MAX_LATENCY_MS: "latency estimate",
    Limit.MAX_LATENCY_GROWTH: "growth of latency estimate",
    Limit.MIN_ELIGIBLE: "share of the MACs",
    Limit.PATTERN: "fuller than",
    Limit.MAX_FLOAT_OPS: "floating point",
    Limit.CHANNEL_MULTIPLE: "channels off a multiple of",
    Limit.SPARSE_KERNELS: "sparse kernels, broken",
}
_NAMED = 3  # layers in a sentence


def band_text(found: Band | Estimate) -> str:
    """ "6.6 to 8.3 ms"; nothing for an estimate without milliseconds."""
    if found.low_ms is None or found.high_ms is None:
        return ""
    return f"{format_ms(found.low_ms).removesuffix(' ms')} to {format_ms(found.high_ms)}"


def latency_text(found: Band | Estimate) -> str:
    """ "7.4 ms (6.6 to 8.3 ms)"; "not estimated" for an estimate without milliseconds."""
    ms = found.ms if isinstance(found, Band) else found.total_ms
    return "not estimated" if ms is None else f"{format_ms(ms)} ({band_text(found)})"


def limit_name(verdict: Verdict) -> str:
    """What was limited: "download (deflate)", "latency estimate, phone"."""
    name = _NAMES.get(verdict.kind, str(verdict.kind))
    if verdict.codec is not None:
        over = f" {shown(verdict.asked)}" if verdict.asked is not None else ""
        return f"{name} ({verdict.codec}){over}"
    if verdict.kind is Limit.MAX_METRIC_DROP and verdict.metric is not None:
        return f"{name} ({verdict.metric})"
    if verdict.asked is not None:
        return f"{name} {verdict.asked}"
    if verdict.target is not None:
        return f"{name} on {verdict.target}"
    return f"{name}, {verdict.device}" if verdict.device is not None else name


def amount(value: float | None, unit: Unit) -> str:
    """A number of a verdict with its unit."""
    if value is None:
        return "unknown"
    if unit is Unit.BYTES:
        return f"{'-' if value < 0 else ''}{format_bytes(abs(round(value)))}"
    if unit is Unit.PARAMETERS:
        return format_count(round(value))
    if unit is Unit.FRACTION:
        return format_percent(value, 2)
    if unit in (Unit.LAYERS, Unit.OPERATIONS, Unit.CONDITIONS):
        return f"{round(value)} {str(unit).removesuffix('s') if round(value) == 1 else unit}"
    return format_ms(value) if unit is Unit.MS else f"{value:.4f}"


def outcome_word(verdict: Verdict) -> str:
    """How it went, for the cell of a table."""
    if verdict.passed is None:
        return "cannot be checked"
    if verdict.passed:
        return "ok"
    return "TOO LOW" if verdict.kind.is_least else "OVER"


def verdict_line(verdict: Verdict) -> str:
    """One verdict as a sentence."""
    note = reason(verdict) if verdict.passed is None else _aside(verdict)
    held = f"{shown(verdict.path)}: {limit_name(verdict)} {amount(verdict.actual, verdict.unit)}"
    wanted = "wanted at least" if verdict.kind.is_least else "limit"
    limit = f"{wanted} {amount(verdict.limit, verdict.unit)}"
    if verdict.passed is None:
        return f"{held}, {limit}: CANNOT BE CHECKED ({shown(note)})"
    held += f" ({shown(note)})" if note else ""
    if verdict.passed:
        return f"{held}, {limit}: ok"
    assert verdict.actual is not None
    return f"{held}, {limit}: {outcome_word(verdict)} by {amount(abs(verdict.actual - verdict.limit), verdict.unit)}"


def _aside(verdict: Verdict) -> str:
    """What else there is to know of a number: an estimate's band, and what weakens the verdict."""
    now, before = verdict.now, verdict.before
    if verdict.kind is Limit.MAX_LATENCY_GROWTH:
        return f"from {latency_text(before)} to {latency_text(now)}" if now and before else ""
    if verdict.kind.of_structure:
        return _first_layers(verdict) or verdict.detail
    if verdict.kind is Limit.GROWTH:
        since = f"since {short_name(verdict.since)}" if verdict.since else ""
        grown = f"most in {_first_layers(verdict)}" if verdict.layers else ""
        return "; ".join(part for part in (since, grown, verdict.detail) if part)
    if now is None:
        return ""
    within = now.low_ms <= verdict.limit <= now.high_ms
    notes = [band_text(now), "the limit is within this band" if within else "", verdict.detail]
    return "; ".join(note for note in notes if note)


def _first_layers(verdict: Verdict) -> str:
    more = f" and {len(verdict.layers) - _NAMED} more" if len(verdict.layers) > _NAMED else ""
    return "; ".join(verdict.layers[:_NAMED]) + more


def reason(verdict: Verdict) -> str:
    """Why a limit could not be judged."""
    detail, metric = verdict.detail, verdict.metric
    reasons = {
        Unknown.UNREAD: f"not read: {detail}",
        Unknown.NOT_COUNTED: detail or "not known of this file",
        Unknown.NOT_MEASURED: "not measured",
        Unknown.NO_WEIGHTS: detail or "it has no weights",
        Unknown.NO_BASELINE: "it is in no baseline, and growth is its only limit; give it a limit of its own as well"
        if verdict.asked is None
        else "there is no history to count from, and growth is its only limit; add --history FILE.jsonl",
        Unknown.NOT_IN_HISTORY: detail,
        Unknown.NOT_IN_BASELINE: _not_in_baseline(verdict),
        Unknown.OTHER_BASIS: "the baseline was estimated with another state of the profile, or version of edgeprune; "
        "make it again",
        Unknown.NOT_ESTIMATED: detail or "not estimated",
        Unknown.NOT_IN_LEDGER: f"{detail} has no file of this name",
        Unknown.OTHER_FILE: f"{detail} is of another file of this name; run the recipe again",
        Unknown.NOT_SCORED: f"its {metric} was not measured on all samples in that run",
    }
    return reasons[verdict.unknown] if verdict.unknown is not None else ""


def _not_in_baseline(verdict: Verdict) -> str:
    if verdict.kind is Limit.GROWTH:
        return f"the baseline has no {verdict.codec} size"
    if verdict.detail:
        return f"the baseline was not estimated: {verdict.detail}"
    return f"the baseline has no estimate for {verdict.device}; make it again with this configuration"

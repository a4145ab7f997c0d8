"""What was tried so that an int8 file loses little, in a sentence."""

from __future__ import annotations

from edgeprune.ledger import LadderReport, Rung

__all__ = ["ladder_text"]


def ladder_text(report: LadderReport) -> str:
    """What each rung gave, where it ended, and how sure that is."""
    share = f" ({100 * report.float_macs:.1f} % of the MACs)"
    layers = f"{', '.join(report.float_layers)} in float{share}" if report.float_layers else ""
    if report.max_drop is None:
        return layers or "all of it in integers"
    tried = "; ".join(f"{rung.name} {_told(rung)}{'' if rung.kept else ', not kept'}" for rung in report.rungs)
    ends = f"within max_drop of {100 * report.max_drop:g} %" if report.reached else "max_drop is not reached"
    before = "" if report.change is None else f", the float model {report.change.before:.4f}"
    told = f"{report.metric} on {report.samples:,} validation samples{before}: {tried}; {ends}{_sureness(report)}"
    return f"{told}; {layers}" if layers else told


def _told(rung: Rung) -> str:
    if rung.value is None or rung.lost is None:
        return "(the runtime refuses the file)"
    return f"{rung.value:.4f}, {_lost(rung.lost)}"


def _lost(lost: float) -> str:
    return f"loses {100 * lost:.2f} %" if lost > 0 else f"gains {-100 * lost:.2f} %" if lost < 0 else "loses nothing"


def _sureness(report: LadderReport) -> str:
    """One sample is all that a small drop may be; the interval says what other samples would have shown."""
    change = report.change
    text = f" (one sample is {100 / report.samples:.2g} %" if report.samples else " ("
    if change is not None and change.low is not None and change.high is not None:
        text += f", 95 % interval of the change {change.low:+.4f} to {change.high:+.4f}"
    return f"{text})"

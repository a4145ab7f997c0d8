"""Which of the exported files to ship for what, in sentences: nothing is said that was not measured or estimated."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.artifact import SUFFIXES, Format
from edgeprune.ledger import ArtifactEntry, Ledger
from edgeprune.report.verdicts import latency_text
from edgeprune.units import format_bytes
from edgeprune.verdict import Estimate

__all__ = ["shipping_sentences"]


def shipping_sentences(ledger: Ledger) -> list[str]:
    """For each format of which several files were exported: the one for the smallest download, for speed on this host,
    and for speed on each device of the run, each with the others beside it."""
    exported = [entry for stage in ledger.stages for entry in stage.artifacts if entry.exported]
    sentences = []
    for model_format in Format:
        rivals = [entry for entry in exported if entry.format == model_format]
        if len(rivals) > 1:
            sentences += [_smallest(rivals), *_fastest_here(rivals), *_fastest_there(rivals)]
    return sentences


def _smallest(rivals: Sequence[ArtifactEntry]) -> str:
    first, *others = sorted(rivals, key=lambda entry: entry.download_bytes["deflate"])
    beside = ", ".join(f"{entry.path} {format_bytes(entry.download_bytes['deflate'])}" for entry in others)
    return (
        f"Ship {first.path} for the smallest download of the {SUFFIXES[Format(first.format)]} files: "
        f"{format_bytes(first.download_bytes['deflate'])} zipped ({beside})."
    )


def _fastest_here(rivals: Sequence[ArtifactEntry]) -> list[str]:
    """By the time of each beside that of the dense float32 file; two whose intervals meet are not told apart."""
    timed = [(entry, entry.latency) for entry in rivals if entry.latency is not None]
    if len(timed) < 2:
        return []
    (first, best), *others = sorted(timed, key=lambda pair: pair[1].ratio)
    close = [entry.path for entry, found in others if found.low <= best.high]
    beside = ", ".join(
        f"{entry.path} {found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})"
        for entry, found in ((first, best), *others)
    )
    how = f"time beside the dense float32 .tflite, measured with {best.runtime} {best.runtime_version}: {beside}"
    if close:
        return [f"On this host {first.path} and {', '.join(close)} are as fast as each other ({how})."]
    return [f"Ship {first.path} for speed on hosts like this one ({how}); a phone may order them otherwise."]


def _fastest_there(rivals: Sequence[ArtifactEntry]) -> list[str]:
    devices = dict.fromkeys(found.device for entry in rivals for found in entry.estimates)
    return [sentence for device in devices for sentence in _fastest_on(device, rivals)]


def _fastest_on(device: str, rivals: Sequence[ArtifactEntry]) -> list[str]:
    """By estimates with their bands; those that meet are not told apart."""
    known = [
        (entry, found, found.total_ms)
        for entry in rivals
        for found in entry.estimates
        if found.device == device and found.total_ms is not None
    ]
    if len(known) < 2:
        return []
    (first, best, _), *others = sorted(known, key=lambda item: item[2])
    close = [entry.path for entry, found, _ in others if _meet(best, found)]
    beside = ", ".join(f"{entry.path} {latency_text(found)}" for entry, found, _ in ((first, best, 0.0), *others))
    if close:
        return [f"On {device} the estimates cannot tell {first.path} from {', '.join(close)} ({beside})."]
    return [f"Ship {first.path} for speed on {device}, as estimated from its profile: {beside}."]


def _meet(best: Estimate, other: Estimate) -> bool:
    return best.high_ms is None or other.low_ms is None or other.low_ms <= best.high_ms

"""Channel pruning down to a latency that is estimated for a device: the file that would ship decides, not a formula.

A share of the MACs is searched by bisection; each candidate is cut, exported and estimated like any other file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.artifact import Format, Precision
from edgeprune.converters.session import Converter
from edgeprune.errors import Unsupported, UsageError
from edgeprune.interrupts import scratch_folder
from edgeprune.latency.estimate import estimate_facts
from edgeprune.latency.profiles import Profile, find_profile
from edgeprune.pruning.channel import ChannelResult

__all__ = ["Narrowed", "latency_profile", "prune_to_latency"]

TRIALS = 9
CLOSE = 0.02  # a share this much (of itself) below the one asked for is near enough
FINEST = 0.005  # shares of the MACs nearer than this give the same widths


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """The pruned model, and the estimates (see `estimate_facts`) of its file and of the original's."""

    result: ChannelResult
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def ratio(self) -> float:
        """Estimated latency after over before."""
        return float(self.after["total_ms"] / self.before["total_ms"])


def latency_profile(share: float, device: str) -> Profile:
    """The profile of a target. Raises UsageError for what can be no target, before any work."""
    if not 0 < share < 1:
        hint = f"; did you mean {share / 100:g}?" if 2 <= share < 100 else ""
        raise UsageError(f"latency is the share of the latency to keep, above 0 and below 1; got {share:g}{hint}")
    profile = find_profile(device)
    if "float32" not in profile.accepts or "tflite" not in profile.formats:
        raise UsageError(f"{profile.name} is not for float32 .tflite files, which the search estimates; name another")
    return profile


def prune_to_latency(
    model: Any,
    share: float,
    device: str,
    prune: Callable[[float], ChannelResult],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Narrowed:
    """The widest model whose float32 .tflite takes at most `share` of the original's estimated latency on `device`.

    `prune` makes a model with a share of the MACs. Raises UsageError for a share that is no fraction or cannot be
    reached, and for a profile without float32; Unsupported when the profile does not cover the model.
    """
    profile = latency_profile(share, device)
    with Converter() as converter, scratch_folder("edgeprune-") as folder:
        trials = _Trials(converter, folder, profile)
        before = trials.estimate(model)
        low, high, macs = 0.0, 1.0, share
        best: Narrowed | None = None
        least = 1.0
        for number in range(TRIALS):
            if on_progress is not None:
                on_progress(number, TRIALS)
            found = _attempt(trials, prune, macs, before)
            if found is not None:
                least = min(least, found.ratio)
            if found is None or found.ratio <= share:
                low = macs
                best = found if found and (best is None or found.ratio > best.ratio) else best
            else:
                high = macs
            if high - low < FINEST or (best is not None and best.ratio >= (1 - CLOSE) * share):
                break
            macs = (low + high) / 2
    if best is None:
        raise UsageError(
            f"latency = {share:g} cannot be reached on {profile.name}: the least that was found is {least:.3f}; ask "
            "for more, or set round_to = 1"
        )
    asked = f"latency {share:g} on {profile.name}"
    return replace(best, result=replace(best.result, report=replace(best.result.report, asked=asked)))


class _Trials:
    """Exports models and estimates them."""

    def __init__(self, converter: Converter, folder: Path, profile: Profile) -> None:
        self.converter, self.folder, self.profile, self.count = converter, folder, profile, 0

    def estimate(self, model: Any) -> dict[str, Any]:
        """The estimate of the model's float32 file. Raises Unsupported when there is none."""
        self.count += 1
        path = self.folder / f"{self.count}.tflite"
        self.converter.export(model, path, Format.TFLITE, Precision.FLOAT32)
        told = estimate_facts(path, self.profile)
        path.unlink()
        if told["total_ms"] is None:
            raise Unsupported(f"latency cannot be a target: {told['refused']}")
        return told


def _attempt(
    trials: _Trials, prune: Callable[[float], ChannelResult], macs: float, before: dict[str, Any]
) -> Narrowed | None:
    """The model with this share of the MACs; None when so few cannot be reached."""
    try:
        result = prune(macs)
    except UsageError as cause:
        if "cannot be reached" not in str(cause):
            raise
        return None
    return Narrowed(result=result, before=before, after=trials.estimate(result.model))

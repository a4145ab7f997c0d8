"""A candidate of a search: widths, zeros and a precision, as the steps of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeprune.artifact import Precision
from edgeprune.maker.search.asked import ShrinkOptions

__all__ = ["HARMLESS", "ROUND_TO", "TARGETS", "Candidate", "channel_target", "export_pairs", "steps_of"]

HARMLESS = {"kind": "prune", "name": "idle", "style": "channel", "harmless": 1e-4, "round_to": 1}
ROUND_TO = 8
TARGETS = "targets"  # the cost of widths that are chosen under all limits at once
KEPT_FROM = 0.8  # of each training: of many epochs few samples choose the luckiest, and call it better than it is
# What layers of the dense model weigh beside its answers. Fashion at 0.40 of the MACs, divergence from the dense model
# on 6,000 unseen images after five epochs: 0.0221 without, 0.0215 (0.1), 0.0190 (1), 0.0177 (3), 0.0168 (10); one seed.
FEATURES = 3.0
Step = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`share` of the `cost` ("macs", "parameters", "download") stays, by channels of the highest `importance`; then
    `sparsity` of the weights becomes zero. `idle` removes channels that do nothing first.

    Of the cost "targets" the widths are those of most importance within `share` of the latency and the download that
    are asked for; `widths`, once they are known, are channels by group, and `most` are what groups may keep at most.
    """

    cost: str
    share: float
    importance: str
    precision: Precision
    sparsity: float = 0.0
    idle: bool = True
    widths: tuple[tuple[str, int], ...] = ()
    most: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """The candidate in words, the same for the same one."""
        zeros = f", {self.sparsity:.0%} zeros" if self.sparsity else ""
        width = f"{self.share:.3f} of the {self.cost} by {self.importance}" if self.narrows else "all channels"
        width += "".join(f", {name} at {count}" for name, count in self.most)
        return f"{width}{zeros}, {self.precision}"

    @property
    def narrows(self) -> bool:
        """Whether channels go, beside those that do nothing."""
        return self.share < 1 or self.cost == TARGETS

    @property
    def whole(self) -> bool:
        """Whether all weights stay."""
        return not self.narrows and not self.sparsity

    def of(self, share: float) -> Candidate:
        """The same at another share."""
        return replace(self, share=round(share, 4), widths=())


def channel_target(candidate: Candidate) -> Step:
    """The keys that say which channels stay."""
    how: Step = {"importance": candidate.importance, "round_to": ROUND_TO}
    return {"widths": dict(candidate.widths), **how} if candidate.widths else {candidate.cost: candidate.share, **how}


def steps_of(
    candidate: Candidate,
    asked: ShrinkOptions,
    cut: int,
    tuned: tuple[int, ...],
    recovered: int = 0,
    *,
    features: bool,
) -> list[Step]:
    """The steps of a candidate: `cut` epochs behind each cut, `tuned` ones at a constant rate and `recovered` ones
    while it falls. With `features` layers of the dense model teach too."""
    vary: Step = {"batch_size": asked.batch_size, "distill": 0.9, "keep_from": KEPT_FROM}
    vary |= {"features": FEATURES} if features else {}
    vary |= {"flip": True} if asked.flip else {}
    vary |= {"shift": asked.shift} if asked.shift else {}
    fast: Step = {"learning_rate": 2e-3, "decay": "constant", **vary}
    steps: list[Step] = [HARMLESS] if candidate.idle else []
    if candidate.narrows:
        narrower = {"kind": "prune", "name": "narrower", "style": "channel", **channel_target(candidate)}
        steps.append({**narrower, "epochs": cut, **fast})
    if candidate.sparsity:
        zeros = {"kind": "prune", "name": "sparse", "sparsity": round(candidate.sparsity, 2)}
        steps.append({**zeros, "epochs": cut, **fast})
    for number, epochs in enumerate(tuned, start=1):
        steps.append({"kind": "finetune", "name": f"tuned {number}", "epochs": epochs, **fast})
    if recovered:
        slower = {**fast, "decay": "cosine"}
        steps.append({"kind": "finetune", "name": "recovered", "epochs": recovered, **slower})
    return steps


def export_pairs(candidate: Candidate, *, coreml: bool) -> list[tuple[str, str]]:
    """(format, precision) of what ships; a package keeps zeros, and numbers of eight bits where the other file does."""
    pairs = [("tflite", str(candidate.precision))]
    if coreml:
        small = Precision.INT8 if candidate.precision is Precision.INT8 else Precision.FLOAT16
        pairs.append(("coreml", str(small)))
    return pairs

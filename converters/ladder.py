"""An int8 file that loses no more of its metric than it may: what costs least is tried first.

The rungs: biases that give channels the float model's means; weights rounded by what their layers compute; narrower
ranges; joined outputs with a range for each; the fewest operations in float that do. A rung stays where it helps on the
validation samples, and the last one that is needed is the last one that is tried. Test samples are never looked at.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgeprune.artifact import Rounding
from edgeprune.converters.activation_ranges import NARROWED, sketched
from edgeprune.converters.bias_correction import PASSES, channel_means, corrected
from edgeprune.converters.float_start import FloatStart, Operation
from edgeprune.converters.kernels import float_constants, kernels_of
from edgeprune.converters.ladder_options import LadderOptions
from edgeprune.converters.layer_inputs import moments_of
from edgeprune.converters.quantizer import Ranges
from edgeprune.converters.reconstruction import Moments, with_outputs_kept
from edgeprune.converters.session import Exported
from edgeprune.converters.spending import Judge
from edgeprune.errors import RuntimeFailure, UsageError
from edgeprune.formats.tflite.objects import as_objects
from edgeprune.host.toml_values import near
from edgeprune.ledger import LadderReport, Rung

__all__ = ["Climbed", "climb", "grouped"]

TRACED = 50  # calibration samples whose tensors are looked at
COMPARED = 30  # of those on which an operation is tried alone
UNALIKE = 2.0  # ranges of joined outputs that differ by more lose something by one scale
MOST_GROUPS = 60  # operations that are tried one by one; of more, those of a layer together
_REFINED = 12  # float operations that are tried without, one after the other

Again = Callable[[Ranges, Collection[str]], Exported]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """The file as it became, its content with the names of its tensors, and how it came to that; `nearest` is the
    content before weights were rounded otherwise, where coarser ones may be looked for."""

    made: Exported
    content: bytes = field(repr=False)
    nearest: bytes = field(repr=False)
    report: LadderReport


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What makes a file, and what that file scored."""

    ranges: Ranges = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()
    corrects: bool = False
    rounds: bool = False
    content: bytes = field(default=b"", repr=False)
    value: float | None = None
    lost: float = 0.0


def climb(
    made: Exported,
    again: Again,
    options: LadderOptions,
    *,
    layers: Sequence[str],
    calibration: Mapping[str, np.ndarray],
    judge: Judge | None,
    joins: bool = True,
    rounding: Rounding = Rounding.AUTO,
    on_progress: Progress | None = None,
) -> Climbed:
    """The int8 file that `options` ask for, beginning with `made` and its `start`.

    `again` makes it anew with other ranges and float operations; `layers` are the names of the model's. With `joins`
    its outputs are floats, so that joined ones may have a range each. `rounding` is that of the weights: with AUTO what
    scores better. Raises UsageError for patterns that name nothing.
    """
    start = FloatStart.of(made, layers)
    nodes = _named(start, options.patterns, layers)
    ladder = _Ladder(start, again, options, calibration, judge, on_progress or (lambda _, __: None))
    best = ladder.begun(made.path.read_bytes() if not nodes else None, nodes, rounds=rounding is Rounding.RECONSTRUCTED)
    if judge is not None and options.searches:
        best = ladder.climbed(best, joins=joins, rounds=rounding is Rounding.AUTO)
    report = ladder.report(best)
    last = again(best.ranges, best.nodes)
    nearest = last.path.read_bytes() if best.rounds else best.content
    return Climbed(made=replace(last, start=made.start), content=best.content, nearest=nearest, report=report)


def grouped(operations: Sequence[Operation]) -> dict[str, tuple[str, ...]]:
    """Name -> the operations that are tried together: each alone, of many those of a layer."""
    names = [op.layer for op in operations]
    by_layer = len(operations) > MOST_GROUPS
    found: dict[str, tuple[str, ...]] = {}
    for op in operations:
        name = op.layer if by_layer or names.count(op.layer) == 1 else f"{op.layer} ({op.kind})"
        name = name if by_layer or name not in found else f"{name} {op.node}"
        found[name] = (*found.get(name, ()), op.node)
    return found


class _Ladder:
    """The search. `rungs` are what was tried so far."""

    def __init__(
        self,
        start: FloatStart,
        again: Again,
        options: LadderOptions,
        calibration: Mapping[str, np.ndarray],
        judge: Judge | None,
        told: Progress,
    ) -> None:
        self.start, self.again, self.options, self.judge, self.told = start, again, options, judge, told
        self.whole_calibration = calibration
        self.calibration = {name: np.asarray(values)[:TRACED] for name, values in calibration.items()}
        self.rungs: list[Rung] = []
        self.means: dict[str, np.ndarray] = {}
        self.moments: dict[str, Moments] = {}
        self.before = judge.main.of(judge.floats, judge.samples.told) if judge is not None and judge.floats else 0.0
        self.done, self.whole = 0, 3 * PASSES + len(NARROWED) + 4

    def begun(self, content: bytes | None, nodes: frozenset[str], *, rounds: bool) -> _State:
        """The plain file, with what is in float whatever it gains."""
        if content is None:
            content = self.again({}, nodes).path.read_bytes()
        state = _State(content=self.kept_outputs(content) if rounds else content, nodes=nodes, rounds=rounds)
        return self.scored(state, "int8") if self.judge is not None and self.options.searches else state

    def climbed(self, best: _State, *, joins: bool, rounds: bool) -> _State:
        """The state of the last rung that is needed."""
        self.keep("int8")
        rounding = self._rounding if rounds else None
        for rung in (self._biases, rounding, self._narrowed, self._unjoined if joins else None, self._in_float):
            if self.enough(best):
                break
            best = rung(best) if rung is not None else best
        return best

    def enough(self, state: _State) -> bool:
        """Whether it loses no more than it may."""
        return state.lost <= self.options.allowed + 1e-12

    def _biases(self, best: _State) -> _State:
        return self.tried(best, "bias correction", replace(best, corrects=True))

    def _rounding(self, best: _State) -> _State:
        return self.tried(best, "reconstructed weights", replace(best, rounds=True))

    def kept_outputs(self, content: bytes) -> bytes:
        """The file with weights that are rounded by what their layers compute."""
        floats = float_constants(self.start.content)
        if not self.moments:
            known = kernels_of(as_objects(content), floats).known
            self.moments = moments_of(self.start, known, self.whole_calibration, self.step)
        return with_outputs_kept(content, floats, self.moments)

    def _narrowed(self, best: _State) -> _State:
        found = sketched(self.traced(self.start.content), len(next(iter(self.calibration.values()))))
        for name, narrow in NARROWED.items():
            ranges = {tensor: narrow(sketch) for tensor, sketch in found.items()}
            best = self.tried(best, name, replace(best, ranges=ranges))
            if self.enough(best):
                break
        return best

    def _unjoined(self, best: _State) -> _State:
        """Joined outputs with a range each: they are joined as floats, which computes nothing."""
        widths = [high - low for low, high in self._joined_ranges()]
        if not self.options.chooses or not widths or max(widths) <= UNALIKE * min(widths):
            return best
        nodes = best.nodes | frozenset(self.start.moved)
        return self.tried(best, "a range for each of the joined outputs", replace(best, nodes=nodes))

    def _joined_ranges(self) -> list[tuple[float, float]]:
        ranges = self.start.ranges
        return [ranges[name] for name in self.start.joined if name in ranges]

    def _in_float(self, best: _State) -> _State:
        """The fewest operations in float that do, those that cost most as integers first."""
        if not self.options.chooses:
            return best
        ranked = self._affordable(best)
        self.whole += 5 + _REFINED

        def with_first(count: int) -> _State:
            chosen = frozenset(node for nodes in ranked[:count] for node in nodes)
            return self.built(replace(best, nodes=best.nodes | chosen))

        count = 1
        state = with_first(count) if ranked else best
        while ranked and not self.enough(state) and count < len(ranked):
            count = min(2 * count, len(ranked))
            state = with_first(count)
        if self.enough(state):
            state = self._fewer(best, state, ranked[:count])
        return self._kept(best, f"{len(state.nodes - best.nodes)} operations in float", state)

    def _fewer(self, best: _State, state: _State, chosen: Sequence[tuple[str, ...]]) -> _State:
        """The same without what is not needed, the least costly first."""
        if len(chosen) > _REFINED:
            half = chosen[: len(chosen) * 3 // 4]
            fewer = self.built(replace(best, nodes=best.nodes | {node for nodes in half for node in nodes}))
            return self._fewer(best, fewer, half) if self.enough(fewer) else state
        for nodes in reversed(chosen):
            if state.nodes - set(nodes) == best.nodes:
                continue
            fewer = self.built(replace(state, nodes=state.nodes - set(nodes)))
            state = fewer if self.enough(fewer) else state
        return state

    def _affordable(self, best: _State) -> list[tuple[str, ...]]:
        """Operations from the one that costs most as an integer on, as many as have no more MACs than they may."""
        groups = list(grouped([op for op in self.start.operations if op.node not in best.nodes]).values())
        self.whole += len(groups)
        few = {name: values[:COMPARED] for name, values in self.calibration.items()}
        before = self.start.outputs(self.start.content, few)
        costs = []
        for nodes in groups:
            others = frozenset(op.node for op in self.start.operations) - set(nodes)
            content = self.again(best.ranges, others).path.read_bytes()
            costs.append(self.start.noise(content, before, few))
            self.step()
        found: list[tuple[str, ...]] = []
        taken = set(best.nodes)
        for place in np.argsort(-np.array(costs), kind="stable"):
            if costs[place] > 0 and self.start.share({*taken, *groups[place]}) <= self.options.float_share:
                taken |= set(groups[place])
                found.append(groups[place])
        return found

    def tried(self, best: _State, name: str, state: _State) -> _State:
        """The better one of two."""
        return self._kept(best, name, self.built(state))

    def _kept(self, best: _State, name: str, state: _State) -> _State:
        better = state.lost < best.lost
        self.rungs.append(Rung(name=name, value=state.value, lost=_finite(state.lost), kept=better))
        if better and name in NARROWED:  # one set of ranges takes the place of the other
            self.rungs = [replace(r, kept=r.kept and (r.name == name or r.name not in NARROWED)) for r in self.rungs]
        return state if better else best

    def keep(self, name: str) -> None:
        """Say that a rung is part of the file."""
        self.rungs = [replace(rung, kept=rung.kept or rung.name == name) for rung in self.rungs]

    def built(self, state: _State) -> _State:
        """The file of a state, scored."""
        content = self.again(state.ranges, state.nodes).path.read_bytes()
        if state.rounds:
            content = self.kept_outputs(content)
        if state.corrects:
            if not self.means:
                self.means = channel_means(self.traced(self.start.content))
            content = corrected(content, self.means, self.traced)
        return self.scored(replace(state, content=content))

    def scored(self, state: _State, name: str = "") -> _State:
        """The state with what its file scored."""
        assert self.judge is not None
        value, lost = None, math.inf
        with contextlib.suppress(RuntimeFailure):  # scales that XNNPACK refuses
            value = self.judge.score(state.content)
            lost = self.judge.lost(self.before, value)
        if name:
            self.rungs.append(Rung(name=name, value=value, lost=_finite(lost), kept=True))
        self.step()
        return replace(state, value=value, lost=lost)

    def traced(self, content: bytes) -> Iterator[Mapping[str, np.ndarray]]:
        """What a file computes of the calibration samples, tensor by tensor."""
        self.step()
        return self.start.traced(content, self.calibration)

    def step(self) -> None:
        self.done += 1
        self.told(min(self.done, self.whole), self.whole)

    def report(self, best: _State) -> LadderReport:
        """What was tried, and what came of it."""
        scored = self.judge is not None and self.options.searches
        kept = [op for op in self.start.operations if op.node in best.nodes]
        return LadderReport(
            metric=self.judge.main.name if scored and self.judge is not None else None,
            max_drop=self.options.allowed if scored else None,
            lost=_finite(best.lost) if scored else None,
            change=self.judge.change(best.content) if scored and self.judge and best.value is not None else None,
            samples=len(self.judge.samples) if scored and self.judge is not None else 0,
            rungs=tuple(self.rungs),
            float_layers=tuple(dict.fromkeys(op.layer for op in kept)),
            float_macs=self.start.share(best.nodes),
        )


def _finite(lost: float) -> float | None:
    return lost if math.isfinite(lost) else None


def _named(start: FloatStart, patterns: Sequence[str], layers: Sequence[str]) -> frozenset[str]:
    """The operations of layers with such names. Raises UsageError for a pattern that fits none."""
    found: set[str] = set()
    for pattern in patterns:
        fit = [op.node for op in start.operations if any(fnmatch.fnmatchcase(name, pattern) for name in op.layers)]
        if not fit:
            raise UsageError(f"keep_float: {pattern!r} fits no layer of the file{near(pattern, layers)}")
        found |= set(fit)
    return frozenset(found)

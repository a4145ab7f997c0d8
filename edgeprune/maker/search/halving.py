"""The search itself: widths that fit, successive halving over them, and recovery for the winner.

Successive halving (Jamieson and Talwalkar, arXiv:1502.07943): all candidates get a little training, the better half
gets more. The clock is what the results took when they were made, so that a search that goes on after a kill decides
as one that was never killed; of trials that run side by side it counts what they take on so many workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeprune.artifact import Precision
from edgeprune.errors import EdgepruneError, RuledOut
from edgeprune.maker.search.candidates import TARGETS, Candidate
from edgeprune.maker.search.executors import Executor, Job, scheduled
from edgeprune.maker.search.fitting import MARGIN, able_precisions, fitted, kinds, with_zeros
from edgeprune.maker.search.trials import Attempt, Judged, Trials
from edgeprune.maker.search.watch import Stopped
from edgeprune.points import Aims
from edgeprune.units import format_bytes, format_percent, format_seconds

__all__ = ["Halving"]

# Shares of the time: until candidates are chosen, until the first training of all, until halving ends, until the last
# file is made. The rest is for the run that leaves the files.
CHOSEN, FIRST, HALVED, MADE = 0.2, 0.4, 0.55, 0.85
# Two files that differ in 4 % of 2,000 answers differ by 0.45 points of accuracy by chance; how far answers are from
# the dense model's is known to some 5 %, a twentieth of a point.
BY_ANSWERS = 0.95
CLOSE = 1.1  # of what the best is expected to lose: the same widths trained with another seed differ by half of that
MOST_CANDIDATES = 8
MOST_VARIED = 2  # groups that are tried narrower
MOST_RECOVERED = 60  # rounds of training
GRID_PRICE = 0.02  # of the metric for each whole that coarser grids take off a file: 15 % cost 0.3 points
LEAST_EPOCHS = 2
HARMLESS_SHARE = 0.25  # of the drop that is allowed
NEARLY = 0.9  # of a target: it is what keeps a candidate from being wider
NEAR = 1.08  # of the download: coarser grids bring a file down by so little without a narrower one


@dataclass(kw_only=True)
class Halving:
    """One search. `judged` are all files so far, `ended` says why it ended."""

    trials: Trials
    executor: Executor
    aims: Aims
    note: Callable[[str], None]
    judged: list[Judged] = field(default_factory=list)
    ended: str = "done"
    _saved_s: float = 0.0  # of what results took, by making several at a time

    def run(self) -> Judged:
        """The best file. Raises RuledOut for targets that nothing reaches, Stopped where it was asked to end before
        any file was judged."""
        try:
            found = self._halved(self._candidates())
            for candidate, tuned in found[:2]:
                if candidate.whole and self._reaches(self.best()):
                    break  # there is nothing to recover from
                last = self._finished(candidate, tuned)
                if self._reaches(last) or self._late(HALVED + 0.1):
                    break
        except Stopped:
            if not self.judged:
                raise
            self.ended = "interrupted"
        return self.best()

    def best(self) -> Judged:
        """Of the files that reach all targets the one that loses least, else the nearest."""
        return min(self.judged, key=lambda each: self.aims.rank(each.point))

    def _reaches(self, each: Judged) -> bool:
        return self.aims.distance(each.point) == 0

    @property
    def _time_s(self) -> float:
        return self.trials.asked.time_s

    @property
    def _spent_s(self) -> float:
        return self.trials.store.spent_s - self._saved_s

    def _late(self, share: float) -> bool:
        return self._spent_s > share * self._time_s

    def _candidates(self) -> list[Candidate]:
        """Candidates that are small and fast enough, as many as time allows, the most promising first."""
        trials, idle = self.trials, self.trials.idle()
        precisions = able_precisions(trials, self.aims, trials.asked.precisions, idle=idle)
        found: list[Candidate] = []
        starts: dict[tuple[Precision, str], float] = {}
        narrower: set[Precision] = set()
        for kind, able in self._kinds(found, precisions, idle=idle):
            if kind.precision in narrower or (found and self._needless(found[0], kind, able)):
                continue
            start = starts.get((kind.precision, kind.cost), self._start(kind))
            made = fitted(trials, kind, self.aims, able, start)
            if found and kind.precision is not found[0].precision and self._gains_nothing(found[0], made):
                narrower.add(kind.precision)
                continue
            if made is not None and made.name not in [known.name for known in found]:
                found.append(made)
                starts[kind.precision, kind.cost] = made.share
                self.note(f"candidate {len(found)}: {made.name}; {self._left()}")
            if len(found) == 1 and made is not None and (zeros := self._zeros(made)):
                found.append(zeros)
            if len(found) >= MOST_CANDIDATES or (found and self._late(CHOSEN)):
                break
        if not found:
            raise RuledOut(
                "no widths were found that are small and fast enough, though no bound rules that out; ask for a larger "
                "download or latency, or for more time"
            )
        return found

    def _kinds(
        self, found: Sequence[Candidate], precisions: list[Precision], *, idle: bool
    ) -> Iterator[tuple[Candidate, float]]:
        """Kinds of candidates, and behind the first of all, once it was found, the same with one of its groups
        narrower, where a step of that group's width takes much of the latency."""
        varied = False
        for kind, able in kinds(self.trials, self.aims, precisions, idle=idle):
            yield kind, able
            if found and not varied and found[0].widths:
                varied = True
                for each in self.trials.coarse(found[0], self.aims)[:MOST_VARIED]:
                    yield replace(found[0].of(1.0), most=(each,)), able

    def _gains_nothing(self, first: Candidate, other: Candidate | None) -> bool:
        """Whether the first candidate of another precision is no wider than that of the first, which costs the dense
        model next to nothing of what may be lost."""
        wider = other is not None and self.trials.worth(other) > self.trials.worth(first)
        return not wider and self.trials.dense_lost(first.precision) <= HARMLESS_SHARE * self.aims.max_drop

    def _needless(self, first: Candidate, kind: Candidate, able: float) -> bool:
        """Whether nothing is to be expected of a kind beside the first candidate."""
        return self._near(first, kind, able) or (kind.cost == "parameters" and not self._by_size(first))

    def _near(self, first: Candidate, kind: Candidate, able: float) -> bool:
        """Whether a kind of which no grids are expected would be hardly narrower than the first candidate."""
        target, same = self.aims.download_bytes, kind == first.of(kind.share)
        return same and able == 1.0 and target is not None and self.trials.shape(first).download_bytes <= NEAR * target

    def _by_size(self, candidate: Candidate) -> bool:
        """Whether it is the download that keeps a candidate from being wider, and not the latency."""
        shape, target, latency = self.trials.shape(candidate), self.aims.download_bytes, self.aims.latency
        slow = latency is not None and shape.latency is not None and shape.latency > NEARLY * latency
        return target is not None and shape.download_bytes > NEARLY * target and not slow

    def _start(self, kind: Candidate) -> float:
        """A first guess of the share that stays."""
        if kind.cost == TARGETS:
            return MARGIN
        guess = 1.0
        if self.aims.download_bytes is not None:
            whole = self.trials.dense_file(kind.precision)["download_bytes"]
            guess = min(guess, 1.1 * self.aims.download_bytes / whole)
        return min(guess, 0.85 * (self.aims.latency or 1.0)) if self.aims.latency else guess

    def _zeros(self, made: Candidate) -> Candidate | None:
        if self._late(CHOSEN):
            return None
        return with_zeros(self.trials, made, self.aims, made.share)

    def _halved(self, candidates: list[Candidate]) -> list[tuple[Candidate, tuple[int, ...]]]:
        """(Candidate, epochs of each round) of those that are left, the best first."""
        tuned: tuple[int, ...] = ()
        ranked = self._trained(candidates, tuned, FIRST, f"1 of {_rounds(len(candidates))}")
        epochs, doubted = 1, False
        while len(ranked) > 1 and not self._late(HALVED):
            half = ranked[: len(ranked) // 2]
            if len(half) == 1:
                half = [each for each in ranked if each[1] <= CLOSE * max(0.0, ranked[0][1])][:2]
                if doubted or len(half) < 2:
                    break
                doubted = True
                self.note(f"  {half[0][0].name} and {half[1][0].name} are close: once more")
            tuned = (*tuned, epochs)
            which = f"{len(tuned) + 1} of {_rounds(len(candidates)) + doubted}"
            ranked = self._trained([candidate for candidate, _ in half], tuned, HALVED, which)
            epochs *= 2
        return [(candidate, tuned) for candidate, _ in ranked]

    def _trained(
        self, candidates: list[Candidate], tuned: tuple[int, ...], until: float, which: str
    ) -> list[tuple[Candidate, float]]:
        """(Candidate, what it is expected to lose) of those that there was time for, the best first."""
        attempts = [Attempt(candidate=candidate, tuned=tuned) for candidate in candidates]
        begun, took = self._spent_s, dict[int, float | None]()
        made: dict[int, Judged] = {}
        failed: list[EdgepruneError] = []

        def drawn() -> Iterator[Job]:
            for number, attempt in enumerate(attempts):
                free, _ = scheduled(took.values(), self.executor.workers)
                if len(took) - len(failed) > 1 and begun + free > until * self._time_s:
                    return
                took[number] = None
                name = attempt.candidate.name
                self.note(f"round {which}, candidate {number + 1} of {len(candidates)}: {name}; {self._left()}")
                yield self.trials.job(attempt, number)

        since = self.trials.spent
        try:
            for job, failure in self.executor.carry_out(drawn()):
                if failure is None:
                    made[job.number] = self._judged(attempts[job.number], f"round {which}", since, made.values())
                else:
                    self.note(f"  not made: {failure}")
                    failed.append(failure)
                took[job.number] = self.trials.spent[0] - since[0]
                since = self.trials.spent
        finally:
            self.judged += [made[number] for number in sorted(made)]
        if failed and not self.judged:
            raise failed[0]
        seconds = [each or 0.0 for each in took.values()]
        self._saved_s += sum(seconds) - scheduled(seconds, self.executor.workers)[1]
        expected = self._expected(made)
        order = sorted(made, key=lambda number: (expected[number], number))
        return [(candidates[number], expected[number]) for number in order]

    def _expected(self, made: Mapping[int, Judged]) -> dict[int, float]:
        """What files of one round lose, with the price of the grids that they still need. BY_ANSWERS of it goes by how
        far their answers are from the dense model's: samples enough to tell two files by right answers are seldom."""
        every = list(made.values())
        strayed = sum(each.strayed or 0.0 for each in every)
        told = strayed > 0 and all(each.strayed is not None for each in every)
        slope = max(0.0, sum(each.point.lost for each in every)) / strayed if told else 0.0
        found: dict[int, float] = {}
        for number, each in made.items():
            over = self.aims.excess(each.point.download_bytes, None if self.aims.latency is None else 0.0, 0.0)
            answers = slope * (each.strayed or 0.0) - each.point.lost if slope else 0.0
            found[number] = each.point.lost + BY_ANSWERS * answers + GRID_PRICE * over.get("download", 0.0)
        return found

    def _finished(self, candidate: Candidate, tuned: tuple[int, ...]) -> Judged:
        """The candidate trained on while there is time, and what is left of the accuracy spent on its bytes."""
        recovered = self._epochs_left(candidate)
        stage = f"recovered, {recovered} epochs"
        self.note(f"recover {candidate.name}: {recovered} epochs; {self._left()}")
        attempt = Attempt(candidate=candidate, tuned=tuned, recovered=recovered)
        made = self._add(attempt, stage)
        over = self.aims.excess(made.point.download_bytes, made.point.latency, made.point.lost)
        if candidate.precision is not Precision.INT8:
            return made
        if over.get("download"):
            made = self._squeezed(made, attempt)
        elif over["drop"]:
            keys = {"max_drop": f"{100 * self.aims.max_drop:g} %"}
            made = self._add(replace(attempt, quantize=keys), "rungs of int8")
        return made

    def _squeezed(self, made: Judged, attempt: Attempt) -> Judged:
        left = max(self.aims.max_drop - max(0.0, made.point.lost), 0.001)
        keys = {"download_target": f"{self.aims.download_bytes} B", "spend": f"{100 * left:.3f} %"}
        self.note(f"coarser weights until {format_bytes(self.aims.download_bytes or 0)}; {self._left()}")
        return self._add(replace(attempt, quantize=keys), "coarser grids")

    def _epochs_left(self, candidate: Candidate) -> int:
        """How many epochs there is time for, by what the last ones took: of a machine that others use too earlier ones
        tell less."""
        epoch_s = [each.epoch_s for each in self.judged if each.candidate == candidate][-1]
        left = MADE * self._time_s - self._spent_s
        most = MOST_RECOVERED * self.trials.round_epochs
        return int(min(most, max(LEAST_EPOCHS, 0.9 * left / max(epoch_s, 1e-3))))

    def _add(self, attempt: Attempt, stage: str) -> Judged:
        made = self._judged(attempt, stage, self.trials.spent)
        self.judged.append(made)
        return made

    def _judged(
        self, attempt: Attempt, stage: str, since: tuple[float, float], beside: Iterable[Judged] = ()
    ) -> Judged:
        """The file of an attempt, told; `since` is what was spent before it, `beside` are files of the same round."""
        made = self.trials.judged(attempt, stage=stage, since=since)
        best = min([*self.judged, *beside, made], key=lambda each: self.aims.rank(each.point))
        self.note(f"  {self._told(made)}; best so far: {self._told(best)}; {self._left()}")
        return made

    def _told(self, made: Judged) -> str:
        point = made.point
        parts = [f"{point.metric:.4f} ({format_percent(-point.lost, 2)})", f"{point.download_ratio:.3f}x download"]
        if point.latency is not None:
            parts.append(f"{point.latency:.3f}x latency")
        return ", ".join(parts)

    def _left(self) -> str:
        return f"{format_seconds(max(0.0, self._time_s - self._spent_s))} left"


def _rounds(count: int) -> int:
    return max(1, count.bit_length() - 1)

"""The widest candidate of a kind whose file would be small and fast enough: known before any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeprune.artifact import Precision
from edgeprune.errors import OutOfReach, RuledOut
from edgeprune.maker.search.candidates import TARGETS, Candidate
from edgeprune.maker.search.trials import Shape, Trials
from edgeprune.points import Aims
from edgeprune.units import format_bytes

__all__ = ["able_precisions", "fitted", "kinds"]

TRIES = 4  # files that are made for each kind of candidate
MORE_TRIES = 3  # where none of these was small and fast enough
CLOSE = 0.94  # of a target: near enough
CLOSER = 0.96  # the same of widths that were planned for the target
MOST_PLANNED = 1.3  # of a target
MARGIN = 0.985  # aimed at; a paired measurement strays by a percent
SQUEEZE = 1.15  # coarser grids bring an int8 file down by so much for about 0.3 points (docs/recipe.md)
BYTES_A_WEIGHT = {Precision.INT8: 1.0, Precision.FLOAT16: 2.0}  # at most; zeros cost nothing


def able_precisions(trials: Trials, aims: Aims, precisions: tuple[Precision, ...], *, idle: bool) -> list[Precision]:
    """Those that the fewest channels that may stay, and weights that are all zero, do not rule out.

    Raises RuledOut, with the nearest that is not, where that leaves none.
    """
    least = {each: _least(trials, each, idle=idle) for each in precisions}
    small = [each for each in precisions if aims.download_bytes is None or least[each][0] <= aims.download_bytes]
    fast = [each for each in precisions if aims.latency is None or least[each][1] <= aims.latency]
    if not small:
        nearest = min(size for size, _ in least.values())
        raise RuledOut(
            f"a download of {format_bytes(aims.download_bytes or 0)} is ruled out: without any weights the file of the "
            f"fewest channels that may stay is {format_bytes(round(nearest))} ({nearest / trials.dense_bytes:.3f}x); "
            "ask for more"
        )
    able = [each for each in small if each in fast]
    if not able:
        nearest = min(least[each][1] for each in small)
        how = f"estimated for {trials.asked.device}" if trials.asked.device else "measured here"
        raise RuledOut(
            f"a latency of {aims.latency:g}x is ruled out: the fewest channels that may stay take {nearest:.3f}x "
            f"({how}); ask for more"
        )
    for each in precisions:
        if each not in able:
            what = f"takes {least[each][1]:.3f}x of the latency" if each in small else "is larger than the download"
            trials.progress.note(f"{each} is ruled out: its least file {what}")
    return able


def _least(trials: Trials, precision: Precision, *, idle: bool) -> tuple[float, float]:
    """(Bytes, share of the latency) of the file with the fewest channels that may stay, its weights all zero."""
    plain = Candidate(cost="macs", share=1.0, importance="l1", precision=precision, idle=idle)
    shape = trials.shape(trials.narrowest(plain))
    return max(0.0, shape.download_bytes - BYTES_A_WEIGHT[precision] * shape.parameters), shape.latency or 0.0


def kinds(
    trials: Trials, aims: Aims, precisions: Sequence[Precision], *, idle: bool
) -> Iterator[tuple[Candidate, float]]:
    """(A kind of candidate, by how much its file may exceed the download that is asked for, for coarser grids will
    bring it down), the most promising first, and one of each precision before a second of any."""
    able = {each: SQUEEZE if each is Precision.INT8 else 1.0 for each in precisions}
    plain = []
    for precision in precisions:
        kind = Candidate(cost="macs", share=1.0, importance="fisher", precision=precision, idle=idle)
        if trials.costs(kind) is not None:
            kind = replace(kind, cost=TARGETS)
        plain.append(kind)
        yield kind, able[precision]
    for kind in plain:
        if kind.cost == TARGETS:
            continue  # both limits are known to it, and by lamp Fashion lost 0.6 to 0.95 points more after an epoch
        yield replace(kind, importance="lamp"), able[kind.precision]
        if aims.download_bytes is not None:
            yield replace(kind, cost="parameters"), able[kind.precision]
            if able[kind.precision] > 1:
                yield kind, 1.0


def fitted(trials: Trials, kind: Candidate, aims: Aims, able: float, start: float) -> Candidate | None:
    """The widest candidate of a kind that reaches the targets of size and latency, looked for from the share `start`;
    None where none was found."""
    best: Candidate | None = None
    free = kind.cost == TARGETS  # the line may be above what is measured: more than all of a target may be planned for
    share, low, high, close = start, 0.0, MOST_PLANNED if free else 1.02, CLOSER if free else CLOSE
    used: list[tuple[float, float]] = []
    for number in range(TRIES + MORE_TRIES):
        if number >= TRIES and best is not None:
            break
        candidate = kind.of(share if free else min(1.0, share))
        try:
            candidate = trials.planned(candidate, aims, able) if free else candidate
            over = _over(trials.shape(candidate), aims, able)
        except OutOfReach:
            over = None
        if over is None:
            low = share
        elif over <= 1:
            best, low = candidate if best is None or candidate.share > best.share else best, share
        else:
            high = share
        if (over is not None and close <= over <= 1) or (not free and share >= 1 >= (over or 2)):
            break
        guess = low
        if over is not None:
            used.append((share, over))
            guess = _guess(used)
        share = guess if low < guess < high else (low + high) / 2
    return best


def _guess(used: list[tuple[float, float]]) -> float:
    """The share that would use MARGIN, from (share, use) so far: on the line through the last two, for a latency has a
    part that no width takes away; in proportion where there is no such line."""
    share, over = used[-1]
    if len(used) > 1:
        before, then = used[-2]
        slope = (over - then) / (share - before) if share != before else 0.0
        if slope > 0:
            return share + (MARGIN - over) / slope
    return share * MARGIN / over if over else share


def _over(shape: Shape, aims: Aims, able: float) -> float:
    """The larger of both targets' use, 1 where the target is just reached."""
    used = [0.0]
    if aims.download_bytes is not None:
        used.append(shape.download_bytes / (aims.download_bytes * able))
    if aims.latency is not None and shape.latency is not None:
        used.append(shape.latency / aims.latency)
    return max(used)


def with_zeros(trials: Trials, kind: Candidate, aims: Aims, start: float) -> Candidate | None:
    """A candidate as wide as the latency allows, whose download zeros bring down; None where that is no help."""
    if aims.latency is None or aims.download_bytes is None:
        return None
    wide = fitted(trials, kind, replace(aims, download_bytes=None), 1.0, start)
    if wide is None:
        return None
    room = aims.download_bytes / trials.shape(wide).download_bytes
    most = 0.75 if wide.precision is Precision.INT8 else 0.9  # grids bring integers down by less for less
    return replace(wide, sparsity=round(1 - 0.8 * room, 2)) if 0.3 < room < most else None

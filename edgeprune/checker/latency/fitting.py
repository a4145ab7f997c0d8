"""Fit the coefficients of a profile to measured latencies, and say how far off it is on what it has not seen.

Least squares on the logarithm of predicted over measured (a relative error, the same for fast and slow networks), by
Levenberg and Marquardt's method on the logarithms of the coefficients, within bounds. A prior draws the coefficients to
those of a related profile up to a common speed, so that few rows refine a profile and one row scales it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgeprune.checker.latency.kernels import Kernel
from edgeprune.checker.latency.roofline import RATES, Coefficients, Work

__all__ = ["OTHER_CHIP", "SAME_CHIP", "Fit", "Row", "band", "fit", "left_out", "pairwise_band", "pooled_band", "scale"]

Floats = npt.NDArray[np.float64]
Fitter = Callable[[Sequence["Row"]], "Fit"]

# Weight of a prior: the scatter of measured latencies around the model, about 5 %, over that of the coefficients of a
# related profile once their common speed is taken out: about 20 % on the same chip, 30 % from chip to chip; squared.
SAME_CHIP = (0.05 / 0.2) ** 2
OTHER_CHIP = (0.05 / 0.3) ** 2
FREEDOM = math.log(20)  # no coefficient strays further from where it starts
CONFIDENCE = 0.9
PRIOR_FAMILIES = 5
FLOOR = 0.4
_STEP, _ROUNDS, _STUCK = 1e-4, 100, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured network. Rows of different `group` (devices fitted together) differ by a common factor."""

    kernels: Sequence[Kernel]
    latency_ms: float
    family: str
    name: str
    group: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients of group 0, and how many times slower each group is."""

    coefficients: Coefficients
    slower: tuple[float, ...]
    element_bytes: int
    gathers: bool

    def predict_ms(self, rows: Sequence[Row]) -> Floats:
        """Predicted milliseconds of each row, (rows,)."""
        work = Work([row.kernels for row in rows], element_bytes=self.element_bytes, gathers=self.gathers)
        slower: Floats = np.array([self.slower[row.group] for row in rows], dtype=np.float64)
        return work.totals_ms(self.coefficients) * slower


def fit(
    rows: Sequence[Row],
    start: Coefficients,
    *,
    element_bytes: int,
    gathers: bool,
    free: Sequence[str] | None = None,
    prior_weight: float = 0.0,
    limits: Mapping[str, float] | None = None,
) -> Fit:
    """Fit the `free` coefficients (default: all that `start` has) to `rows`.

    `prior_weight` 0 takes `start` as a mere beginning, above 0 as a prior. `limits` are largest values (a memory rate
    cannot pass what the chip's memory can do). Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("no rows to fit")
    names = tuple(free or start.free)
    work = Work([row.kernels for row in rows], element_bytes=element_bytes, gathers=gathers)
    groups = np.array([row.group for row in rows])
    problem = _Problem(work, np.log([row.latency_ms for row in rows]), groups, start, names, prior_weight, limits or {})
    best = min((problem.solve(x) for x in problem.starts()), key=lambda found: found[1])[0]
    slower = (1.0, *(math.exp(value) for value in best[len(names) :]))
    found = problem.coefficients(best)
    return Fit(coefficients=found, slower=slower, element_bytes=element_bytes, gathers=gathers)


class _Problem:
    """x holds the logarithms of the free coefficients, then of the slowness of groups 1, 2, ..."""

    def __init__(
        self,
        work: Work,
        log_ms: Floats,
        groups: npt.NDArray[np.int64],
        start: Coefficients,
        names: tuple[str, ...],
        prior_weight: float,
        limits: Mapping[str, float],
    ) -> None:
        self.work, self.log_ms, self.groups, self.start, self.names = work, log_ms, groups, start, names
        self.extra = int(groups.max())
        self.signs = np.array([-1.0 if name in RATES else 1.0 for name in names])
        self.weight = math.sqrt(prior_weight)
        self.origin = np.concatenate([np.log([getattr(start, name) for name in names]), np.zeros(self.extra)])
        # Begin where the rows are right on average, so that the bounds are about proportions and not about speed.
        shift = float(np.mean(self.residuals(self.origin)[: len(log_ms)]))
        self.origin[: len(names)] -= self.signs * shift
        self.low, self.high = self.origin - FREEDOM, self.origin + FREEDOM
        for place, name in enumerate(names):
            if name in limits:
                self.high[place] = min(self.high[place], math.log(limits[name]))
                self.low[place] = min(self.low[place], self.high[place])

    def coefficients(self, x: Floats) -> Coefficients:
        return replace(self.start, **{name: math.exp(x[place]) for place, name in enumerate(self.names)})

    def residuals(self, x: Floats) -> Floats:
        slower = np.concatenate([[0.0], x[len(self.names) :]])
        errors = np.log(self.work.totals_ms(self.coefficients(x))) + slower[self.groups] - self.log_ms
        strays = self.signs * (x[: len(self.names)] - self.origin[: len(self.names)])
        return np.concatenate([errors, self.weight * (strays - strays.mean())])

    def starts(self) -> list[Floats]:
        """The origin, and with a prior nothing else: without one, each coefficient also begins 3 times off."""
        if self.weight:
            return [np.clip(self.origin, self.low, self.high)]
        moves = [np.zeros(len(self.origin))]
        for place in range(len(self.names)):
            for factor in (math.log(3), -math.log(3)):
                move = np.zeros(len(self.origin))
                move[place] = factor
                moves.append(move)
        return [np.clip(self.origin + move, self.low, self.high) for move in moves]

    def solve(self, x: Floats) -> tuple[Floats, float]:
        """(x, sum of squares) at the minimum reached from x."""
        residuals, damping = self.residuals(x), 1e-2
        for _ in range(_ROUNDS):
            cost = float(residuals @ residuals)
            steps = _STEP * np.eye(len(x))
            jacobian = np.stack([(self.residuals(x + step) - residuals) / _STEP for step in steps], axis=1)
            square, slope = jacobian.T @ jacobian, jacobian.T @ residuals
            while damping < _STUCK:
                scaled = square + damping * np.diag(np.diag(square) + 1e-6)
                trial = np.clip(x - np.linalg.solve(scaled, slope), self.low, self.high)
                tried = self.residuals(trial)
                if float(tried @ tried) < cost:
                    break
                damping *= 4
            else:
                break
            x, residuals, damping = trial, tried, max(damping / 10, 1e-6)
            if cost - float(residuals @ residuals) < 1e-9 * cost:
                break
        return x, float(residuals @ residuals)


def scale(rows: Sequence[Row], base: Coefficients, *, element_bytes: int, gathers: bool) -> Fit:
    """The base made slower or faster as a whole: by the median of measured over predicted."""
    own = Fit(coefficients=base, slower=(1.0,), element_bytes=element_bytes, gathers=gathers)
    measured = np.array([row.latency_ms for row in rows])
    slower = math.exp(float(np.median(np.log(measured / own.predict_ms(rows)))))
    return replace(own, coefficients=base.scaled(slower))


def left_out(rows: Sequence[Row], fitter: Fitter, key: Callable[[Row], Hashable]) -> Floats:
    """Predicted milliseconds of each row by a fit to the rows with another key, (rows,); NaN where none is left."""
    predicted = np.full(len(rows), np.nan)
    for value in dict.fromkeys(key(row) for row in rows):
        kept = [row for row in rows if key(row) != value]
        held = [place for place, row in enumerate(rows) if key(row) == value]
        if kept and {rows[place].group for place in held} <= {row.group for row in kept}:
            predicted[held] = fitter(kept).predict_ms([rows[place] for place in held])
    return predicted


def band(log_errors: npt.ArrayLike) -> tuple[float, float]:
    """(factor, share): predictions left out were within this factor of the truth in this share of cases.

    The factor is the smallest that holds with 90 % confidence for the next case, by the rank of split conformal
    prediction (Vovk et al., 2005): the ceil(0.9 (n + 1))-th smallest error. With fewer than 9 it is the largest error.
    """
    errors = np.sort(np.abs(np.asarray(log_errors, dtype=np.float64)))
    if not errors.size:
        raise ValueError("no errors to take a band from")
    rank = min(math.ceil(CONFIDENCE * (errors.size + 1)), errors.size)
    return math.exp(float(errors[rank - 1])), rank / errors.size


def pairwise_band(log_errors: npt.ArrayLike) -> tuple[float, float]:
    """The band of a profile that one row scales: that row's own error adds to the error of what is predicted."""
    errors = np.asarray(log_errors, dtype=np.float64)
    first, second = np.triu_indices(errors.size, 1)
    return band(errors[first] - errors[second])


def pooled_band(log_errors: npt.ArrayLike, prior: float, families: int) -> tuple[float, float]:
    """(factor, share) for a profile set by rows of `families`, from the errors of rows left out and a `prior`.

    `prior` is the factor that holds where one row sets the speed (pairwise_band): the error of that row and the error
    of what is predicted, each of half the variance. Its variance counts as PRIOR_FAMILIES observations beside the
    families - 1 of the rows themselves, as in the posterior under a scaled inverse chi-squared prior (Gelman et al.,
    Bayesian Data Analysis, 2.6); the mean over n families adds 1 / n of it. The band is never below FLOOR of the prior
    (on a logarithmic scale), nor below that of `band`. The share is that of the given errors within it.
    """
    errors = np.abs(np.asarray(log_errors, dtype=np.float64))
    quantile = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    one = math.log(prior) ** 2 / 2
    # A row predicted from the others is off by its own error and by theirs: n / (n - 1) of the variance.
    own = quantile**2 * float(np.mean(errors**2)) * (1 - 1 / errors.size)
    pooled = (PRIOR_FAMILIES * one + (families - 1) * own) / (PRIOR_FAMILIES + families - 1)
    width = max(math.sqrt(pooled * (1 + 1 / families)), math.log(band(errors)[0]), FLOOR * math.log(prior))
    return math.exp(width), float(np.mean(errors <= width * (1 + 1e-9)))

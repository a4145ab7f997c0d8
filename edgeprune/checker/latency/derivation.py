"""From measured rows to a profile: fit, leave out, take the band, and write down what it was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.checker.latency.fitting import Fit, Row, band, left_out
from edgeprune.checker.latency.fitting import fit as fit_rows
from edgeprune.checker.latency.kernels import Kind
from edgeprune.checker.latency.profiles import Accuracy
from edgeprune.checker.latency.roofline import Coefficients, Work

__all__ = ["Derivation", "Method", "derive", "largest_shares", "proportional_to_macs"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a profile is fitted: where coefficients begin, which move, how strongly they are held to the beginning."""

    start: Coefficients
    element_bytes: int
    gathers: bool
    free: tuple[str, ...] | None = None
    prior_weight: float = 0.0
    limits: Mapping[str, float] | None = None

    def fit(self, rows: Sequence[Row]) -> Fit:
        """The fit to these rows."""
        return fit_rows(
            rows,
            self.start,
            element_bytes=self.element_bytes,
            gathers=self.gathers,
            free=self.free,
            prior_weight=self.prior_weight,
            limits=self.limits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """A fit with its proof: predictions for rows left out, (rows,) in ms, and what follows from them."""

    fit: Fit
    left_out_ms: Floats
    accuracy: Accuracy


def derive(rows: Sequence[Row], method: Method) -> Derivation:
    """Fit all rows, and judge the method by rows left out: by family where there are two or more, else by network."""
    families = len({row.family for row in rows})
    by_network = left_out(rows, method.fit, lambda row: row.name)
    by_family = left_out(rows, method.fit, lambda row: row.family) if families > 1 else by_network
    flops = left_out(rows, proportional_to_macs, lambda row: row.family if families > 1 else row.name)
    errors = _log_errors(by_family, rows)
    factor, share = band(errors)
    relative = np.abs(np.expm1(errors))
    accuracy = Accuracy(
        left_out="family" if families > 1 else "network",
        rows=len(rows),
        families=families,
        median=float(np.median(relative)),
        within_10=float(np.mean(relative <= 0.1)),
        within_20=float(np.mean(relative <= 0.2)),
        flops_median=float(np.median(np.abs(np.expm1(_log_errors(flops, rows))))),
        network_median=float(np.median(np.abs(np.expm1(_log_errors(by_network, rows))))),
        band_factor=factor,
        band_share=share,
    )
    return Derivation(fit=method.fit(rows), left_out_ms=by_family, accuracy=accuracy)


def _log_errors(predicted: Floats, rows: Sequence[Row]) -> Floats:
    errors: Floats = np.log(predicted / np.array([row.latency_ms for row in rows]))
    return errors


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proportional(Fit):
    """Latency proportional to MACs, what every profile has to beat."""

    ms_per_mac: float = 0.0

    def predict_ms(self, rows: Sequence[Row]) -> Floats:
        macs: Floats = np.array([sum(kernel.macs for kernel in row.kernels) for row in rows], dtype=np.float64)
        slower: Floats = np.array([self.slower[row.group] for row in rows], dtype=np.float64)
        return macs * self.ms_per_mac * slower


def proportional_to_macs(rows: Sequence[Row]) -> Fit:
    """Latency proportional to MACs, with the median rate of these rows for each group."""
    macs = np.array([sum(kernel.macs for kernel in row.kernels) for row in rows], dtype=np.float64)
    rates = np.log(np.array([row.latency_ms for row in rows]) / macs)
    groups = np.array([row.group for row in rows])
    medians = [float(np.exp(np.median(rates[groups == group]))) for group in range(int(groups.max()) + 1)]
    nothing = Coefficients(dense_gmacs_per_s=1.0, depthwise_gmacs_per_s=1.0, memory_gb_per_s=1.0)
    return _Proportional(
        coefficients=nothing,
        slower=tuple(value / medians[0] for value in medians),
        element_bytes=4,
        gathers=False,
        ms_per_mac=medians[0],
    )


def largest_shares(rows: Sequence[Row], found: Fit) -> dict[str, float]:
    """The largest part of the estimated time that each kind of operation has in any of these networks."""
    shares: dict[str, float] = {}
    for row in rows:
        work = Work([row.kernels], element_bytes=found.element_bytes, gathers=found.gathers)
        compute, memory, rest = work.parts_ms(found.coefficients)
        each = np.maximum(compute, memory) + rest
        whole = each.sum() + found.coefficients.fixed_ms
        kinds = [kernel.kind for kernel in row.kernels if kernel.kind is not Kind.FREE]
        for kind in set(kinds):
            part = float(each[[own is kind for own in kinds]].sum() / whole)
            shares[kind.value] = max(shares.get(kind.value, 0.0), part)
    return shares

"""A device profile from a user's own measurements: one scales a profile, five or more refit it.

The band of the new profile is computed from predictions for measurements left out, never assumed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeprune.artifact import sha256_of
from edgeprune.errors import EdgepruneError, InputError
from edgeprune.latency.derivation import largest_shares
from edgeprune.latency.estimate import covered_kernels
from edgeprune.latency.fitting import OTHER_CHIP, Fit, Row, band, fit, left_out, pairwise_band, scale
from edgeprune.latency.kernels import Kernel
from edgeprune.latency.measurements import Measurement
from edgeprune.latency.profiles import Accuracy, Profile, TruthRow

__all__ = ["REFIT_ROWS", "calibrate"]

REFIT_ROWS = 5
# A row this many times off what the others say was measured in another unit (1000) or is another model.
_UNIT_SLIP = 100.0
WIDEST_BAND = 3.0  # a profile that is off by more tells nothing
# Runs of one file on one device that are further apart differ in more than noise: threads, a hot phone, another build.
SAME_FILE = 1.3


def calibrate(
    base: Profile, measured: Sequence[Measurement], *, name: str, device: str = "", origin: str = "measured"
) -> Profile:
    """A profile for the device on which `measured` was taken, from the proportions of `base`.

    Up to four measured files set its speed (their median), five or more move its coefficients, held to those of `base`
    and within a factor of 20. Repeated measurements of one file count once, by their median. `device` names the device
    (default: that of `base`), `origin` is noted as the source of each row. Raises InputError that names the row of a
    measurement that `base` does not cover, that cannot be right, or that contradicts another one of the same file.
    """
    if not measured:
        raise InputError("no measurements to calibrate with; one is enough to scale a profile")
    measured = _one_per_file(measured)
    rows = [_row(base, item) for item in measured]
    _check_units(base, rows, measured)
    method = _refit if len(rows) >= REFIT_ROWS else _scaled
    fitter = functools.partial(method, base=base)
    found = fitter(rows)
    predicted = left_out(rows, fitter, lambda row: row.name)
    accuracy = _accuracy(base, rows, predicted)
    if accuracy.band_factor > WIDEST_BAND:
        raise InputError(
            f"the measurements contradict each other or the profile: predicted from the others, they are off by a "
            f"factor of {accuracy.band_factor:.1f}; check units, threads and precision, or start from another profile"
        )
    coefficients = replace(
        found.coefficients,
        **{part: float(f"{getattr(found.coefficients, part):.4g}") for part in found.coefficients.free},
    )
    shares = largest_shares(rows, found)
    return replace(
        base,
        name=name,
        device=device or base.device,
        soc=base.soc if not device else "",
        kind="fitted" if len(rows) >= REFIT_ROWS else "scaled",
        coefficients=coefficients,
        accuracy=accuracy,
        largest_share={
            kind: max(shares.get(kind, 0.0), base.largest_share.get(kind, 0.0))
            for kind in {**shares, **base.largest_share}
        },
        truth=tuple(
            TruthRow(
                network=row.name,
                family=row.family,
                latency_ms=row.latency_ms,
                left_out_ms=None if math.isnan(ms) else float(f"{ms:.4g}"),
                source=f"{origin}, {_rows(item)}; sha256 {sha256_of(item.file)[:16]}",
            )
            for row, item, ms in zip(rows, measured, predicted, strict=True)
        ),
        based_on=base.name,
        reference_ms=base.reference_ms * _slower(base, found) if base.reference_ms and method is _scaled else None,
    )


def _one_per_file(measured: Sequence[Measurement]) -> list[Measurement]:
    """The measurements with repeats of one file, by its content, made one. Raises InputError where they disagree."""
    same: dict[str, list[Measurement]] = {}
    for item in measured:
        same.setdefault(sha256_of(item.file), []).append(item)
    return [_median(items) for items in same.values()]


def _median(items: Sequence[Measurement]) -> Measurement:
    first, last = (pick(items, key=lambda item: item.latency_ms) for pick in (min, max))
    if last.latency_ms > SAME_FILE * first.latency_ms:
        raise InputError(
            f"rows {first.row} and {last.row} contradict each other: {first.latency_ms:g} and {last.latency_ms:g} ms "
            f"for one file, {first.file.name}; leave out the one taken in another way (threads, delegate, a hot phone)"
        )
    middle = float(np.median([item.latency_ms for item in items]))
    return replace(items[0], latency_ms=middle, repeats=tuple(item.row for item in items[1:]))


def _rows(item: Measurement) -> str:
    """Where a measurement stands."""
    if not item.repeats:
        return f"row {item.row}"
    return f"median of rows {', '.join(map(str, (item.row, *item.repeats)))}"


def _row(base: Profile, item: Measurement) -> Row:
    try:
        kernels, _ = covered_kernels(item.file, base)
    except EdgepruneError as error:
        raise type(error)(f"row {item.row}: {error}") from error
    strange = sorted({kernel for kernel in kernels if not isinstance(kernel, Kernel)})
    if strange:
        raise InputError(f"row {item.row}: {item.file}: no rule tells what {', '.join(strange)} costs; leave it out")
    known = [kernel for kernel in kernels if isinstance(kernel, Kernel)]
    name = item.file.name
    return Row(kernels=known, latency_ms=item.latency_ms, family=item.family or name, name=name)


def _check_units(base: Profile, rows: Sequence[Row], measured: Sequence[Measurement]) -> None:
    """A row that is far from what the others say, taken with the profile's proportions."""
    own = Fit(coefficients=base.coefficients, slower=(1.0,), element_bytes=base.element_bytes, gathers=base.gathers)
    ratios = np.log(np.array([row.latency_ms for row in rows]) / own.predict_ms(rows))
    middle = float(np.median(ratios)) if len(rows) > 2 else 0.0
    for item, ratio in zip(measured, ratios, strict=True):
        if abs(ratio - middle) > math.log(_UNIT_SLIP):
            factor = math.exp(abs(ratio - middle))
            against = "the other rows" if len(rows) > 2 else f"profile {base.name}"
            raise InputError(
                f"row {item.row}: {item.latency_ms:g} ms for {item.file.name} is {factor:.0f} times "
                f"{'more' if ratio > middle else 'less'} than {against} make likely; is it in milliseconds?"
            )


def _scaled(rows: Sequence[Row], base: Profile) -> Fit:
    return scale(rows, base.coefficients, element_bytes=base.element_bytes, gathers=base.gathers)


def _refit(rows: Sequence[Row], base: Profile) -> Fit:
    return fit(
        rows,
        base.coefficients,
        element_bytes=base.element_bytes,
        gathers=base.gathers,
        prior_weight=OTHER_CHIP,
    )


def _accuracy(base: Profile, rows: Sequence[Row], predicted: npt.NDArray[np.float64]) -> Accuracy:
    families = len({row.family for row in rows})
    if np.isnan(predicted).any():
        known = [row for row in base.truth if row.left_out_ms]
        factor, share = pairwise_band([math.log(row.left_out_ms / row.latency_ms) for row in known if row.left_out_ms])
        return replace(
            base.accuracy,
            left_out="none",
            rows=len(rows),
            families=families,
            median=None,
            within_10=None,
            within_20=None,
            flops_median=None,
            network_median=None,
            band_factor=factor,
            band_share=share,
        )
    errors = np.log(predicted / np.array([row.latency_ms for row in rows]))
    relative = np.abs(np.expm1(errors))
    factor, share = band(errors)
    return Accuracy(
        left_out="network",
        rows=len(rows),
        families=families,
        median=float(np.median(relative)),
        within_10=float(np.mean(relative <= 0.1)),
        within_20=float(np.mean(relative <= 0.2)),
        flops_median=None,
        network_median=float(np.median(relative)),
        band_factor=factor,
        band_share=share,
    )


def _slower(base: Profile, found: Fit) -> float:
    return base.coefficients.dense_gmacs_per_s / found.coefficients.dense_gmacs_per_s

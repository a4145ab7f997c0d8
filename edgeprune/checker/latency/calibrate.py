"""A device profile from a user's own measurements: one scales a profile, five or more refit it.

The band of the new profile is computed, never assumed: from predictions for measurements left out and, since few of
them tell little of other networks, from what the profile it is based on was off by.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from edgeprune.artifact import sha256_of
from edgeprune.checker.latency.derivation import largest_shares
from edgeprune.checker.latency.estimate import covered_kernels
from edgeprune.checker.latency.fitting import OTHER_CHIP, Fit, Row, fit, left_out, pooled_band, scale
from edgeprune.checker.latency.kernels import Kernel
from edgeprune.checker.latency.measurements import Measurement
from edgeprune.checker.latency.profiles import Accuracy, Profile, TruthRow, shipped_profiles
from edgeprune.checker.latency.ratios import ratio_band
from edgeprune.checker.latency.sparse_speed import runs_sparse
from edgeprune.errors import EdgepruneError, InputError, Unsupported, UsageError
from edgeprune.formats import read_contents

__all__ = ["REFIT_ROWS", "calibrate", "calibrate_from", "calibrated_fit", "settings_notes"]

REFIT_ROWS = 5
# A row this many times off what the others say was measured in another unit (1000) or is another model. No phone is
# this many times faster or slower than another.
_UNIT_SLIP = 100.0
WIDEST_BAND = 3.0  # a profile that is off by more tells nothing
# Runs of one file on one device that are further apart differ in more than noise: threads, a hot phone, another build.
SAME_FILE = 1.3
# What 90 % of the ratios between two networks are off by where a profile meets another device with the same runtime
# and threads, at the worst: Pixel 3 on the Pixel 4 (benchmarks/calibration_coverage.py; 13 % to 25 % between phones).
OTHER_DEVICE = 1.25
OTHER_THREADS = 1.7  # the same from 4 threads (Pixel 3) to 1 (Pixel 1)
_MEASURED = ", user's measurements on the proportions of "


def calibrate(
    base: Profile, measured: Sequence[Measurement], *, name: str, device: str = "", origin: str = "measured"
) -> Profile:
    """A profile for the device on which `measured` was taken, from the proportions of `base`.

    Up to four measured networks set its speed (their median), five or more move its coefficients, held to those of
    `base` and within a factor of 20. Repeated measurements of one file count once, by their median. `device` names the
    device (default: "a measured device"), `origin` is noted as the source of each row. Raises InputError that names the
    row of a measurement that `base` does not cover, that cannot be right, that contradicts another of the same file,
    or that a log says was run on other hardware.
    """
    if not measured:
        raise InputError("no measurements to calibrate with; one is enough to scale a profile")
    _check_settings(base, measured)
    measured = _one_per_file(measured)
    rows = [
        _row(base, item, name) for item, name in zip(measured, _names([item.file for item in measured]), strict=True)
    ]
    _check_units(base, rows, measured)
    threads = _threads(measured)
    found, predicted, accuracy = calibrated_fit(base, rows, threads=threads)
    scaled = _networks(rows) < REFIT_ROWS
    coefficients = replace(
        found.coefficients,
        **{part: float(f"{getattr(found.coefficients, part):.4g}") for part in found.coefficients.free},
    )
    shares = largest_shares(rows, found)
    return replace(
        base,
        name=name,
        device=device or "a measured device",
        soc="",
        runtime=_measured_runtime(base),
        threads=threads or base.threads,
        kind="scaled" if scaled else "fitted",
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
        reference_ms=base.reference_ms * _slower(base, found) if base.reference_ms and scaled else None,
    )


def calibrate_from(
    table: Path, base: Profile, measured: Sequence[Measurement], output: Path, *, device: str = ""
) -> Profile:
    """The profile to be written to `output`, which names it, of what was `measured` and stands in `table`.

    Raises as `calibrate` does, and UsageError for a file without a name.
    """
    if not output.stem.strip():
        raise UsageError(f"{output}: the file name is the name of the profile; give it one")
    origin = f"{table.name} (sha256 {sha256_of(table)[:16]})"
    try:
        return calibrate(base, measured, name=output.stem, device=device, origin=origin)
    except EdgepruneError as error:
        raise type(error)(f"{table}: {error}") from error


def calibrated_fit(
    base: Profile, rows: Sequence[Row], *, threads: int | None = None
) -> tuple[Fit, npt.NDArray[np.float64], Accuracy]:
    """The fit to `rows`, what fits without each row's network predict for it (ms, NaN where none is left), and the
    accuracy of the whole. `threads` are those of the rows, where known. Raises InputError where the rows contradict
    each other or the profile."""
    fitter = functools.partial(_scaled if _networks(rows) < REFIT_ROWS else _refit, base=base)
    predicted = left_out(rows, fitter, _work)
    errors = np.log(predicted / np.array([row.latency_ms for row in rows]))
    if float(np.nanmax(np.abs(errors), initial=0.0)) > math.log(WIDEST_BAND):
        raise InputError(
            f"the measurements contradict each other or the profile: predicted from the others, they are off by a "
            f"factor of {math.exp(np.nanmax(np.abs(errors))):.1f}; check units, threads and precision, or start from "
            "another profile"
        )
    return fitter(rows), predicted, _accuracy(rows, errors, _ratio_band(base, threads))


def settings_notes(base: Profile, measured: Sequence[Measurement]) -> tuple[str, ...]:
    """What the logs say of the runs that `base` is not of, and which profiles are nearer."""
    notes, threads = [], _threads(measured)
    if threads and base.threads and threads != base.threads:
        near = _profiles(lambda item: item.threads == threads and base.precision == item.precision)
        notes.append(
            f"measured with {threads} thread{'s' if threads != 1 else ''}, and {base.name} is of {base.threads}, so "
            f"the band is wide; profiles of {threads}: {near}"
        )
    xnnpack = {item.settings.xnnpack for item in measured} - {None}
    if True in xnnpack and base.runtime.startswith("TFLite CPU"):
        near = _profiles(lambda item: item.runtime.startswith("XNNPACK") and base.precision == item.precision)
        notes.append(f"measured with XNNPACK, and {base.name} is of TFLite's kernels; profiles of XNNPACK: {near}")
    if False in xnnpack and base.runtime.startswith("XNNPACK"):
        near = _profiles(lambda item: item.runtime.startswith("TFLite CPU") and base.precision == item.precision)
        notes.append(f"measured without XNNPACK, and {base.name} is of it; profiles without: {near}")
    return tuple(notes)


def _threads(measured: Sequence[Measurement]) -> int | None:
    """The threads of the runs; None where no log says them."""
    return next((item.settings.threads for item in measured if item.settings.threads), None)


def _check_settings(base: Profile, measured: Sequence[Measurement]) -> None:
    """No run on other hardware than that of `base`, and all with as many threads."""
    threads = _threads(measured)
    for item in measured:
        told = item.settings.accelerator
        if told and not _is_of(base, told):
            near = _profiles(functools.partial(_is_of, accelerator=told))
            raise InputError(
                f"run {item.row} used {told}, and profile {base.name} is of {base.runtime}; profiles of {told}: {near}"
            )
        if item.settings.threads not in (None, threads):
            raise InputError(
                f"run {item.row} used {item.settings.threads} threads, others {threads}; calibrate one profile for each"
            )


def _is_of(profile: Profile, accelerator: str) -> bool:
    names = ("Hexagon", "NPU") if accelerator == "NPU" else (accelerator,)
    return any(name in profile.runtime for name in names)


def _profiles(wanted: Callable[[Profile], bool]) -> str:
    return ", ".join(profile.name for profile in shipped_profiles() if wanted(profile)) or "none"


def _work(row: Row) -> Hashable:
    """What a network computes: files with the same operations, pruned or not, say one thing of the rates."""
    return tuple(replace(kernel, name="") for kernel in row.kernels)


def _networks(rows: Sequence[Row]) -> int:
    return len({_work(row) for row in rows})


def _names(files: Sequence[Path]) -> list[str]:
    """The names of the files, with as many of their folders as tell all of them apart."""
    depth, longest = 1, max(len(file.parts) for file in files)
    while depth < longest and len({file.parts[-depth:] for file in files}) < len(files):
        depth += 1
    return [PurePath(*file.parts[-depth:]).as_posix() for file in files]


def _measured_runtime(base: Profile) -> str:
    """The kind of runtime, without the years of the published latencies, and whose measurements they are now."""
    kind = re.sub(r" \(\d{4}(/\d\d)?\)", "", base.runtime.partition(_MEASURED)[0])
    return f"{kind}{_MEASURED}{base.name}"


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


def _row(base: Profile, item: Measurement, name: str) -> Row:
    try:
        contents = read_contents(item.file)
        kernels, _ = covered_kernels(contents, base)
        if runs_sparse(contents, base.runtime):
            raise Unsupported(
                f"{item.file}: XNNPACK runs its sparse kernels on it, which profiles do not tell; leave it out"
            )
    except EdgepruneError as error:
        raise type(error)(f"row {item.row}: {error}") from error
    strange = sorted({kernel for kernel in kernels if not isinstance(kernel, Kernel)})
    if strange:
        raise InputError(f"row {item.row}: {item.file}: no rule tells what {', '.join(strange)} costs; leave it out")
    known = [kernel for kernel in kernels if isinstance(kernel, Kernel)]
    return Row(kernels=known, latency_ms=item.latency_ms, family=item.family or name, name=name)


def _check_units(base: Profile, rows: Sequence[Row], measured: Sequence[Measurement]) -> None:
    """All rows against the profile, then each against what the others say with the profile's proportions."""
    own = Fit(coefficients=base.coefficients, slower=(1.0,), element_bytes=base.element_bytes, gathers=base.gathers)
    ratios = np.log(np.array([row.latency_ms for row in rows]) / own.predict_ms(rows))
    middle = float(np.median(ratios)) if len(rows) > 2 else 0.0
    if abs(middle) > math.log(_UNIT_SLIP):
        raise InputError(
            f"the {len(rows)} measurements are {math.exp(abs(middle)):,.0f} times {'more' if middle > 0 else 'less'} "
            f"than profile {base.name} makes likely (their median); are they in milliseconds?"
        )
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


def _accuracy(rows: Sequence[Row], errors: npt.NDArray[np.float64], ratios: tuple[float, float]) -> Accuracy:
    """From the log errors of rows left out (NaN where one network was measured) and the base's band for ratios."""
    families = min(len({row.family for row in rows}), _networks(rows))
    prior, share = ratios
    if np.isnan(errors).any():
        return Accuracy(
            left_out="none",
            rows=len(rows),
            families=families,
            median=None,
            within_10=None,
            within_20=None,
            flops_median=None,
            network_median=None,
            band_factor=prior,
            band_share=share,
        )
    relative = np.abs(np.expm1(errors))
    factor, share = pooled_band(errors, prior, families)
    return Accuracy(
        left_out="file",
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


def _ratio_band(base: Profile, threads: int | None) -> tuple[float, float]:
    """The band of ratios between two networks by `base` on another device, and the share of its own within it."""
    factor, share = max((base.accuracy.band_factor, base.accuracy.band_share), ratio_band(base))
    return max(factor, OTHER_DEVICE if threads in (None, base.threads) else OTHER_THREADS), share


def _slower(base: Profile, found: Fit) -> float:
    return base.coefficients.dense_gmacs_per_s / found.coefficients.dense_gmacs_per_s

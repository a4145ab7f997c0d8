"""How two estimates from one profile compare: errors that both share cancel out, so the band is narrower."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeprune.checker.latency.fitting import pairwise_band
from edgeprune.checker.latency.profiles import Profile
from edgeprune.verdict import Estimate

__all__ = ["EstimateRatio", "ratio_band", "ratio_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRatio:
    """Two estimates from one profile; `ratio` is after over before, in a band that is narrower than theirs."""

    before: Estimate
    after: Estimate
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    ratio_how: str


def ratio_band(profile: Profile) -> tuple[float, float]:
    """(factor that bounds the ratio of two estimates both ways, share of the ratios for which that held).

    From all pairs of networks predicted by fits without their families: errors that both share cancel out.
    """
    known = [row for row in profile.truth if row.left_out_ms]
    if len(known) < 2:
        return profile.accuracy.band_factor, profile.accuracy.band_share
    return pairwise_band([math.log(row.left_out_ms / row.latency_ms) for row in known if row.left_out_ms])


def ratio_of(before: Estimate, after: Estimate, profile: Profile) -> EstimateRatio:
    """How two estimates from `profile` compare; without a ratio where one of them is not given."""
    factor, share = ratio_band(profile)
    old, new = (found.total_ms or found.relative for found in (before, after))
    ratio = new / old if old and new else None
    return EstimateRatio(
        before=before,
        after=after,
        ratio=ratio,
        ratio_low=ratio / factor if ratio is not None else None,
        ratio_high=ratio * factor if ratio is not None else None,
        ratio_how=f"{share:.0%} of the ratios between networks left out of the fit were within this band",
    )

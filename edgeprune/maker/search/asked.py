"""What a search is asked for, as people write it. Light: no NumPy, no TensorFlow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.artifact import Precision
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.errors import UsageError
from edgeprune.points import Aims
from edgeprune.units import parse_share, parse_time

if TYPE_CHECKING:
    from edgeprune.checker.latency.profiles import Profile

__all__ = ["AimOptions", "ShrinkOptions"]

_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*x\s*")
PRECISIONS = (Precision.INT8, Precision.FLOAT16)  # of the files that a search ships


@dataclass(frozen=True, slots=True, kw_only=True)
class AimOptions:
    """The targets."""

    download: str | None = None
    """`"0.1x"` of the dense float32 file, or a size such as `"80 kB"`."""
    latency: str | None = None
    """`"0.5x"` of the dense model's file of the same precision: estimated for `device`, else measured on this host."""
    max_drop: str = "1 %"
    """How much of the metric may be lost: of a share in points, of other metrics of its value."""
    device: str | None = None
    """The profile that the latency is estimated from."""

    def check(self) -> None:
        """Raise UsageError for targets that are none."""
        if self.download is not None:
            SlimOptions(download_target=self.download)
        if not 0 <= parse_share(self.max_drop) < 1:
            raise UsageError(f"--max-drop is a small part of the metric such as '1 %'; got {self.max_drop!r}")
        if self.latency is not None:
            self.latency_share()
        if self.device is not None:
            self._check_device()

    def _check_device(self) -> None:
        from edgeprune.checker.latency.latency_targets import why_never

        profile = self.profile
        if profile is not None and not self.precisions:
            raise UsageError(f"{profile.name}: {why_never(profile, 'tflite', Precision.INT8)}; name another device")

    def latency_share(self) -> float | None:
        """The share of the latency to keep. Raises UsageError."""
        if self.latency is None:
            return None
        match = _SHARE.fullmatch(self.latency)
        if match is None or not 0 < float(match.group(1)) < 1:
            raise UsageError(f"--latency is a share of the dense model's such as 0.5x; got {self.latency!r}")
        return float(match.group(1))

    @property
    def profile(self) -> Profile | None:
        """The profile of the device."""
        from edgeprune.checker.latency.profiles import find_profile

        return None if self.device is None else find_profile(self.device)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What may ship: on a device what its profile covers."""
        from edgeprune.checker.latency.latency_targets import why_never

        profile = self.profile
        if profile is None:
            return PRECISIONS
        return tuple(each for each in PRECISIONS if not why_never(profile, "tflite", each))

    def aims(self, dense_bytes: int) -> Aims:
        """The targets as numbers."""
        target = SlimOptions(download_target=self.download).target_bytes(dense_bytes) if self.download else None
        return Aims(download_bytes=target, latency=self.latency_share(), max_drop=parse_share(self.max_drop))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkOptions(AimOptions):
    """The targets and how to look for them."""

    time: str = "10min"
    """How long the search may take; the best so far is what comes out then."""
    flip: bool = False
    """Mirror training images left to right at random."""
    shift: int = 0
    """Move training images by up to so many pixels."""
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.download is None and self.latency is None:
            raise UsageError("name a target: --download 0.1x, --latency 0.5x, or both")
        if self.device is not None and self.latency is None:
            raise UsageError("--device is what --latency is estimated for; add a latency, or leave it out")
        self.check()
        parse_time(self.time)

    @property
    def time_s(self) -> float:
        """How long the search may take."""
        return parse_time(self.time)

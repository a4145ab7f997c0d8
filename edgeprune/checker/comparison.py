"""What one model file became: both accounts, the layers that belong together, estimates, and latency on this host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import QUICK
from edgeprune.checker.size.layer_pairs import Pair, layer_pairs
from edgeprune.checker.size.records import FileAccount
from edgeprune.errors import EdgepruneError, MissingExtra, UsageError
from edgeprune.formats import Contents, read_contents
from edgeprune.formats.precision import tflite_precision
from edgeprune.host.untrusted import faults_of
from edgeprune.runtime.session import installed_runtimes

if TYPE_CHECKING:
    from edgeprune.checker.latency.profiles import Profile
    from edgeprune.checker.latency.ratios import EstimateRatio
    from edgeprune.ledger import LatencyComparison

__all__ = ["Comparison", "check_measurable", "compare_files", "readable_ones", "with_measured_latency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two model files. `estimates` are those of a device, `latency` is measured on this host.

    How two precisions compare on this host does not carry to phones: then `is_ranked` is False.
    """

    before: FileAccount
    after: FileAccount
    estimates: EstimateRatio | None = None
    latency: LatencyComparison | None = None
    is_ranked: bool = True

    @property
    def verdict(self) -> str | None:
        """Of the measured latency; None where there is none or precisions are not ranked."""
        return str(self.latency.verdict) if self.latency and self.is_ranked else None

    @property
    def pairs(self) -> list[Pair]:
        """The layers of both, see `layer_pairs`, paired anew at each access."""
        return layer_pairs(self.before.layers, self.after.layers)


def compare_files(
    before: Path, after: Path, codecs: Sequence[str] = QUICK, *, device: str | None = None, brotli: bool = False
) -> Comparison:
    """The accounts of two model files side by side, with `device` the estimates of both from its profile; `brotli` as
    for `account`.

    Raises UsageError for an unknown device, InputError and Unsupported as `account` does, FileFault for what nobody
    foresaw.
    """
    profile = _profile(device) if device else None  # before the slow part
    (old, was), (new, now) = (_side(path, codecs, brotli=brotli) for path in (before, after))
    return Comparison(
        before=was,
        after=now,
        estimates=_estimates(old, new, profile) if profile else None,
        is_ranked=_precision(old) == _precision(new),
    )


def readable_ones(paths: Sequence[Path], codecs: Sequence[str]) -> tuple[list[FileAccount], list[EdgepruneError]]:
    """Where two cannot be compared: the accounts of those that can be read, and what is wrong with the others."""
    records: list[FileAccount] = []
    faults: list[EdgepruneError] = []
    for path in paths:
        try:
            records.append(_side(path, codecs)[1])
        except EdgepruneError as cause:
            faults.append(cause)
    return records, faults


def _side(path: Path, codecs: Sequence[str], *, brotli: bool = False) -> tuple[Contents, FileAccount]:
    with faults_of(path):
        contents = read_contents(path)
        return contents, account(contents, codecs, brotli=brotli)


def _profile(device: str) -> Profile:
    from edgeprune.checker.latency.profiles import find_profile

    return find_profile(device)


def _estimates(before: Contents, after: Contents, profile: Profile) -> EstimateRatio:
    from edgeprune.checker.latency.estimate import estimate_latency
    from edgeprune.checker.latency.ratios import ratio_of

    return ratio_of(estimate_latency(before, profile), estimate_latency(after, profile), profile)


def _precision(contents: Contents) -> str | None:
    return tflite_precision(contents.graph) if contents.graph is not None else None


def check_measurable(before: Path, after: Path) -> None:
    """Raises UsageError where latency cannot be measured here for want of a .tflite, MissingExtra of a runtime."""
    if not all(path.suffix.lower() in (".tflite", ".lite") for path in (before, after)):
        raise UsageError("--measure runs .tflite files only; leave it out for other formats")
    if not installed_runtimes():
        raise MissingExtra("ai-edge-litert", "litert", "--measure (the sizes need nothing: leave it out)")


def with_measured_latency(
    found: Comparison, before: Path, after: Path, on_progress: Callable[[int, int], None] | None = None
) -> Comparison:
    """The comparison with the paired latency of both files on this host."""
    from edgeprune.checker.latency.measure import compare_latency

    return replace(found, latency=compare_latency(before, after, on_progress=on_progress))

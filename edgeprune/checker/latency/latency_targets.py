"""A latency on a device as a target or a limit: which there can be. Known before any work."""

from __future__ import annotations

from edgeprune.checker.latency.profiles import Profile, find_profile
from edgeprune.errors import UsageError
from edgeprune.formats.precision import computed_precision

__all__ = ["target_profile", "why_never"]


def target_profile(share: float, device: str) -> Profile:
    """The profile that a target, the `share` of the latency to keep, is estimated from.

    `device` is its name or the path of a .toml. Raises UsageError for what can be no target: a share that is no
    fraction, an unknown name (with the nearest ones), a profile without milliseconds for float32 .tflite files; and
    InputError for a file that is no profile.
    """
    if not 0 < share < 1:
        hint = f"; did you mean {share / 100:g}?" if 2 <= share < 100 else ""
        raise UsageError(f"latency is the share of the latency to keep, above 0 and below 1; got {share:g}{hint}")
    profile = find_profile(device)
    if "float32" not in profile.accepts or "tflite" not in profile.formats:
        raise UsageError(f"{profile.name} is not for float32 .tflite files, which the search estimates; name another")
    if profile.kind == "ranking-only":
        raise UsageError(f"{profile.name} ranks files and gives no milliseconds, so no share of them; name another")
    return profile


def why_never(profile: Profile, format_: str, precision: str) -> str:
    """Why no file of this format and precision gets milliseconds from a profile; empty when one may."""
    computed = precision if format_ == "tflite" else computed_precision(precision)
    if profile.kind == "ranking-only":
        return "that profile ranks files and gives no milliseconds"
    if format_ not in profile.formats:
        return f"that profile is of {profile.runtime}, which does not run {format_} files"
    if computed not in profile.accepts:
        return f"that profile covers {', '.join(profile.accepts)}"
    return ""

"""The processor of this machine."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["has_avx", "has_avx512", "is_x86"]

_CPUINFO = Path("/proc/cpuinfo")
_MACHINES = ("x86_64", "AMD64", "i386", "i686")


def is_x86() -> bool:
    """Whether it is one of Intel's or AMD's."""
    return platform.machine() in _MACHINES


def has_avx() -> bool:
    """Whether it has AVX; where the system does not tell, an x86 has (those of after 2013 do)."""
    flags = _flags()
    return is_x86() and (flags is None or "avx" in flags)


def has_avx512() -> bool:
    """Whether it has what oneDNN calls avx512_core; where the system does not tell, it has not."""
    return is_x86() and {"avx512bw", "avx512dq", "avx512vl"} <= (_flags() or set())


def _flags() -> set[str] | None:
    """Its features as Linux names them, None where the system does not tell."""
    try:
        lines = _CPUINFO.read_text().splitlines()
        return set(next(line for line in lines if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return None

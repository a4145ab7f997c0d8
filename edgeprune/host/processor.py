"""The processor of this machine."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["has_avx"]

_CPUINFO = Path("/proc/cpuinfo")
_MACHINES = ("x86_64", "AMD64", "i386", "i686")


def has_avx() -> bool:
    """Whether it has AVX; where the system does not tell, an x86 has (those of after 2013 do)."""
    if platform.machine() not in _MACHINES:
        return False
    try:
        flags = next(line for line in _CPUINFO.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return True
    return "avx" in flags.split()

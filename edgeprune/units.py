"""Parse and print bytes and milliseconds: the only place that knows 1000, 1024 and 1e6.

kB, MB and GB are powers of 1000; KiB, MiB and GiB are powers of 1024 (IEC 80000-13).
"""

from __future__ import annotations

import re

from edgeprune.errors import UsageError

__all__ = [
    "format_bytes",
    "format_count",
    "format_ms",
    "format_percent",
    "format_seconds",
    "parse_bytes",
    "parse_growth",
    "parse_share",
    "parse_time",
]

BYTE_UNITS = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z]+)\s*", re.IGNORECASE)

TIME_UNITS = {"s": 1, "min": 60, "h": 3600}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(s|min|h)\s*")
_MOST_TIME = 1e6
_MOST_BYTES = 2**63  # more than any file system holds
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*%\s*")


def parse_bytes(text: str) -> int:
    """Bytes in a size as people write it: "350 kB" is 350000, "350 KiB" is 358400.

    Raises UsageError when the number or the unit is missing or unknown.
    """
    match = _SIZE.fullmatch(text)
    unit = match.group(2).lower() if match else None
    if match is None or unit not in BYTE_UNITS:
        raise UsageError(f"{text!r} is not a size; write a number and a unit: '350 kB', '350 KiB', '2 MB' or '900 B'")
    value = float(match.group(1)) * BYTE_UNITS[unit]
    if value >= _MOST_BYTES:
        raise UsageError(f"{text[:40]!r} is more than any file has; write a size such as '350 kB'")
    return round(value)


def parse_share(text: str) -> float:
    """A fraction in a percentage as people write it: "2 %" is 0.02. Raises UsageError."""
    match = _PERCENT.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a percentage; write a number and the sign: '2 %'")
    value = float(match.group(1)) / 100
    if value == float("inf"):
        raise UsageError(f"{text[:40]!r} is no percentage that anything reaches; write one such as '2 %'")
    return value


def parse_growth(text: str) -> tuple[int | None, float | None]:
    """(bytes, None) of a size such as "50 kB", or (None, fraction) of a percentage such as "2 %". Raises UsageError."""
    if "%" in text:
        return None, parse_share(text)
    return parse_bytes(text), None


def parse_time(text: str) -> float:
    """Seconds of a time as people write it: "10min" is 600.0, "90 s" is 90.0, "1.5h" is 5400.0. Raises UsageError."""
    match = _TIME.fullmatch(text)
    if match is None or not 0 < float(match.group(1)) < _MOST_TIME:
        raise UsageError(f"{text[:40]!r} is not a time; write a number and a unit: '10min', '90s' or '1h'")
    return float(match.group(1)) * TIME_UNITS[match.group(2)]


def format_bytes(count: int) -> str:
    """A byte count in decimal units with three significant digits: 267431 -> "267 kB"."""
    for unit, size in (("GB", 1000**3), ("MB", 1000**2), ("kB", 1000)):
        value = count / size
        if value >= 0.9995:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{count} B"


def format_count(count: int) -> str:
    """A count with three significant digits: 5_123_456 -> "5.12 M"."""
    for letter, size in (("G", 1000**3), ("M", 1000**2), ("k", 1000)):
        if count / size >= 0.9995:
            return f"{_three_digits(count / size)} {letter}"
    return str(count)


def _three_digits(value: float) -> str:
    """Three significant digits, never in powers of ten above 1000: 1234.5 is "1234"."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def format_ms(milliseconds: float) -> str:
    """Milliseconds with three significant digits: 0.4312 -> "0.431 ms"."""
    return f"{_three_digits(milliseconds)} ms"


def format_seconds(seconds: float) -> str:
    """Seconds, to a tenth below a minute: 64.2 -> "1 min 04 s"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def format_percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage: 0.8004 -> "80.0 %"."""
    return f"{100 * fraction:.{digits}f} %"

"""Sizes, counts and times as people read and write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import UsageError
from edgeprune.units import (
    format_bytes,
    format_count,
    format_ms,
    format_percent,
    format_seconds,
    parse_bytes,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("350 kB", 350_000),
        ("350 KB", 350_000),
        ("350 KiB", 358_400),
        ("2 MB", 2_000_000),
        ("2MiB", 2_097_152),
        ("1.5 GB", 1_500_000_000),
        ("1 GiB", 1_073_741_824),
        (" .5 kb ", 500),
        ("900 B", 900),
        ("0 B", 0),
    ],
)
def test_sizes_people_write(text: str, count: int) -> None:
    """kB, MB and GB are powers of 1000, KiB, MiB and GiB of 1024, in any case and spacing."""
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "350", "kB", "-1 kB", "1,5 MB", "1 TB", "1e3 kB", "350 kB/s", "nan B"])
def test_sizes_that_are_none(text: str) -> None:
    """A size without a number or a known unit is refused, with an example."""
    with pytest.raises(UsageError, match="350 KiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (267_431, "267 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_048_576, "1.05 MB"),
        (12_345_678_901, "12.3 GB"),
    ],
)
def test_sizes_people_read(count: int, text: str) -> None:
    """Three significant digits in decimal units, also where rounding reaches the next unit."""
    assert format_bytes(count) == text


@given(st.integers(0, 10**12))
def test_a_printed_size_can_be_read_back(count: int) -> None:
    """Printing loses at most half a unit of the third digit."""
    assert abs(parse_bytes(format_bytes(count)) - count) <= 0.00501 * count


@given(st.integers(0, 10**9), st.sampled_from(["B", "kB", "MB", "KiB", "MiB"]))
def test_a_written_size_is_exact(number: int, unit: str) -> None:
    """Whole numbers of a unit are parsed without rounding."""
    factor = {"B": 1, "kB": 1000, "MB": 10**6, "KiB": 2**10, "MiB": 2**20}[unit]
    assert parse_bytes(f"{number} {unit}") == number * factor


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (5_123_456, "5.12 M"), (999_999, "1 M"), (3_000_000_000, "3 G")],
)
def test_counts(count: int, text: str) -> None:
    """Counts have three significant digits and never an exponent."""
    assert format_count(count) == text


@given(st.integers(0, 10**14))
def test_counts_have_no_exponent(count: int) -> None:
    """No count is printed as 1e+03."""
    assert "e" not in format_count(count)


@pytest.mark.parametrize(("value", "text"), [(0.4312, "0.431 ms"), (12.34, "12.3 ms"), (1234.5, "1234 ms")])
def test_milliseconds(value: float, text: str) -> None:
    """Three significant digits; a second and more stays in whole milliseconds."""
    assert format_ms(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (64.2, "1 min 04 s"), (3600.0, "60 min 00 s")],
)
def test_seconds(value: float, text: str) -> None:
    """Tenths of a second below a minute, minutes and seconds above."""
    assert format_seconds(value) == text


def test_percent() -> None:
    """A fraction as a percentage, with as many digits as asked for."""
    assert format_percent(0.8004) == "80.0 %"
    assert format_percent(0.92345, 2) == "92.34 %"


@pytest.mark.parametrize(("text", "seconds"), [("10min", 600.0), ("90 s", 90.0), ("1.5h", 5400.0), (".5 min", 30.0)])
def test_times(text: str, seconds: float) -> None:
    """A number and a unit."""
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["10", "0 s", "min", "-1 s", "3 days", "1e9 h"])
def test_what_is_no_time(text: str) -> None:
    """Everything else is refused with an example."""
    with pytest.raises(UsageError, match="not a time; write a number and a unit"):
        parse_time(text)

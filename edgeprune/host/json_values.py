"""Records out of JSON: what is wrong with it is one line with the place of the wrong value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from edgeprune.errors import InputError

__all__ = ["check_counts", "check_shares", "decode", "record_of"]

_MOST = 2**63  # no number in a report is larger
Record = TypeVar("Record")


def decode(told: str | bytes, what: str, remedy: str = "make it again") -> object:
    """The plain values in JSON. Raises InputError, which begins with `what` and ends with the `remedy`."""
    import msgspec

    try:
        return msgspec.json.decode(told)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as cause:
        raise InputError(f"{what} is not JSON ({str(cause)[:120]}); {remedy}") from cause


def record_of(kind: type[Record], values: object, what: str) -> Record:
    """An instance of the dataclass `kind`; unknown keys are passed over. Raises InputError that begins with `what`."""
    import msgspec

    try:
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, RecursionError) as cause:
        raise InputError(f"{what}: {str(cause)[:200]}") from cause


def check_counts(**values: float | Mapping[str, int] | None) -> None:
    """For a record's `__post_init__`: raise ValueError for a number that is no count of anything."""
    for name, value in values.items():
        for number in value.values() if isinstance(value, Mapping) else (value,):
            if number is not None and not 0 <= number < _MOST:
                raise ValueError(f"{name} is {str(number)[:40]}")


def check_shares(**values: float | None) -> None:
    """For a record's `__post_init__`: raise ValueError for what is no fraction, 0 to 1."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}")

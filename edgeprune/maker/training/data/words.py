"""What may be said of samples: what bad ones do, how much classes count. Light, for the command line shows them."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping

from edgeprune.errors import UsageError

__all__ = ["BALANCED", "ClassWeight", "OnBadSample", "check_class_weight", "weight_words"]

BALANCED = "balanced"
ClassWeight = str | Mapping[str, float]  # "balanced", or class -> weight; classes that are not named count 1


class OnBadSample(enum.StrEnum):
    """What a sample that cannot be used does."""

    ERROR = "error"
    SKIP = "skip"


def check_class_weight(given: ClassWeight) -> None:
    """Raise UsageError for what is neither "balanced" nor a table of classes and their weights."""
    if isinstance(given, Mapping):
        for name, weight in given.items():
            if not str(name).isdecimal():
                raise UsageError(f"class_weight names classes by their indexes, 0 and up; got {name!r}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise UsageError(f"class_weight of class {name} is a number of at least 0; got {weight!r}")
    if not given or (not isinstance(given, Mapping) and given != BALANCED):
        raise UsageError(f'class_weight is "balanced", or weights by class such as {{0 = 1.0, 3 = 4.0}}; got {given!r}')


def weight_words(text: str) -> ClassWeight:
    """What a command line says: balanced, or CLASS=WEIGHT with commas. Raises UsageError."""
    if "=" not in text:
        check_class_weight(text)
        return text
    try:
        pairs = [part.split("=") for part in text.split(",")]
        given = {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise UsageError(
            f"--class-weight is balanced or CLASS=WEIGHT, with commas as in 0=1,3=4; got {text!r}"
        ) from None
    check_class_weight(given)
    return given

"""A dataclass out of a table of a recipe: each field's type tells how its TOML value is read.

A field that is a dataclass itself (the options of an algorithm) is contained: its keys stand in the same table.
"""

from __future__ import annotations

import enum
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from edgeprune.errors import RecipeError, UsageError
from edgeprune.formats.pattern import Pattern
from edgeprune.host.toml_values import check_word, known_keys, typed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["flat", "keys_of", "read_table"]

T = TypeVar("T", bound="DataclassInstance")


def _patterns(path: Path, key: str, value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RecipeError(f'{path}: \'{key}\' is a list of patterns such as ["block*", "Dense"], got {value!r}')
    return tuple(items)


def _word_or_table(path: Path, key: str, value: object) -> str | Mapping[str, float]:
    if isinstance(value, Mapping):
        return {name: typed(path, f"{key}.{name}", number, float) for name, number in value.items()}
    return typed(path, key, value, str)


def _numbers(path: Path, key: str, value: object) -> Mapping[str, int]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{path}: '{key}' is a table such as {{ stem = 8, head = 128 }}, got {value!r}")
    return {name: typed(path, f"{key}.{name}", number, int) for name, number in value.items()}


def _fraction_or_pattern(path: Path, key: str, value: object) -> float | Pattern:
    if not isinstance(value, str):
        return typed(path, key, value, float)
    if ":" not in value:
        raise RecipeError(
            f"{path}: '{key}' must be a number, or a pattern N:M in quotes such as \"2:4\"; got {value!r}"
        )
    try:
        return Pattern.parse(value)
    except UsageError as cause:
        raise RecipeError(f"{path}: '{key}': {cause}") from cause


# Type of a field -> how its TOML value is read; enums are read by the words they hold.
READERS: dict[object, Callable[[Path, str, object], object]] = {
    Path: lambda path, key, value: Path(typed(path, key, value, str)),
    bool: lambda path, key, value: typed(path, key, value, bool),
    float: lambda path, key, value: typed(path, key, value, float),
    float | Pattern: _fraction_or_pattern,
    int: lambda path, key, value: typed(path, key, value, int),
    str: lambda path, key, value: typed(path, key, value, str),
    tuple[str, ...]: _patterns,
    str | Mapping[str, float]: _word_or_table,
    Mapping[str, int]: _numbers,
}


def _value(path: Path, where: str, key: str, value: object, kind: type) -> object:
    if kind in READERS:
        return READERS[kind](path, f"{where}.{key}", value)
    assert issubclass(kind, enum.Enum), f"{key}: no reader for {kind}"
    return kind(check_word(path, where, key, value, [str(member) for member in kind]))


def _types(kind: type) -> dict[str, tuple[type, bool]]:
    """Field -> (its type without None, whether it may be None)."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = functools.reduce(operator.or_, (part for part in parts if part is not NoneType))
        found[name] = (plain, NoneType in parts)
    return found


def keys_of(kind: type[DataclassInstance], *, without: Iterable[str] = ()) -> dict[str, Field[Any]]:
    """The keys of a table that is read as `kind`, those of contained records among them, in the order of the fields."""
    types = _types(kind)
    found: dict[str, Field[Any]] = {}
    for field in fields(kind):
        plain = types[field.name][0]
        found |= keys_of(plain) if is_dataclass(plain) else {field.name: field}
    return {name: field for name, field in found.items() if name not in set(without)}


def flat(record: DataclassInstance) -> dict[str, object]:
    """The keys of a record and their values as a recipe writes them, those of contained records among them."""
    found: dict[str, object] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        value = str(value) if isinstance(value, Pattern) else value
        found |= flat(value) if is_dataclass(value) and not isinstance(value, type) else {field.name: value}
    return found


def read_table(path: Path, where: str, raw: object, kind: type[T], **given: object) -> T:
    """An instance of the dataclass `kind` from the TOML table `raw`, which messages call `where`.

    `given` are values of fields that are no keys of this table, also of contained records. A contained record that may
    be None is one when none of its keys is there. Raises RecipeError for unknown and missing keys, values of another
    type, and what the records themselves refuse.
    """
    known_keys(path, where, raw, keys_of(kind, without=given))
    assert isinstance(raw, Mapping)
    values: dict[str, object] = {}
    for name, (plain, optional) in _types(kind).items():
        if name in given:
            values[name] = given[name]
        elif is_dataclass(plain):
            own = {key: value for key, value in raw.items() if key in keys_of(plain, without=given)}
            if own or not optional:
                values[name] = read_table(path, where, own, plain, **given)
        elif name in raw:
            values[name] = _value(path, where, name, raw[name], plain)
    missing = [f"'{field.name}'" for field in fields(kind) if field.name not in values and _required(field)]
    if missing:
        raise RecipeError(f"{path}: [{where}] lacks {' and '.join(missing)}")
    try:
        return kind(**values)
    except UsageError as cause:
        raise RecipeError(f"{path}: [{where}] {cause}") from cause


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING

"""A dataclass out of a table of a recipe: each field's type tells how its TOML value is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgeprune.artifact import Format, Precision
from edgeprune.errors import RecipeError
from edgeprune.host.toml_values import known_keys, near, typed

__all__ = ["profile_place", "read_table"]


def _word(path: Path, key: str, value: Any, kind: type[Format] | type[Precision]) -> Any:
    text = typed(path, key, value, str)
    names = [str(member) for member in kind]
    if text not in names:
        raise RecipeError(f"{path}: unknown {key} {text!r}{near(text, names)}; known: {', '.join(names)}")
    return kind(text)


def _patterns(path: Path, key: str, value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RecipeError(f'{path}: \'{key}\' is a list of patterns such as ["block*", "Dense"], got {value!r}')
    return tuple(items)


# Type of a field as written in the dataclass -> how its TOML value is read.
READERS: dict[str, Callable[[Path, str, Any], Any]] = {
    "Path": lambda path, key, value: Path(typed(path, key, value, str)),
    "Path | None": lambda path, key, value: Path(typed(path, key, value, str)),
    "bool": lambda path, key, value: typed(path, key, value, bool),
    "float": lambda path, key, value: typed(path, key, value, float),
    "float | None": lambda path, key, value: typed(path, key, value, float),
    "int": lambda path, key, value: typed(path, key, value, int),
    "int | None": lambda path, key, value: typed(path, key, value, int),
    "str": lambda path, key, value: typed(path, key, value, str),
    "str | None": lambda path, key, value: typed(path, key, value, str),
    "tuple[str, ...]": _patterns,
    "Format": lambda path, key, value: _word(path, key, value, Format),
    "Precision": lambda path, key, value: _word(path, key, value, Precision),
}


def profile_place(path: Path, name: str) -> str:
    """The name of a device profile; one of the project's own (a .toml) counts from the folder of the recipe `path`."""
    return str(path.parent / name) if name.endswith(".toml") else name


def read_table(path: Path, where: str, raw: Any, kind: type) -> Any:
    """An instance of the dataclass `kind` from the TOML table `raw`, which messages call `where`.

    Raises RecipeError for unknown and missing keys and values of another type.
    """
    known = {f.name: f for f in fields(kind)}
    known_keys(path, where, raw, list(known))
    values = {key: READERS[str(known[key].type)](path, f"{where}.{key}", value) for key, value in raw.items()}
    try:
        return kind(**values)
    except TypeError as cause:
        missing = str(cause).rsplit(":", maxsplit=1)[-1].strip()
        raise RecipeError(f"{path}: [{where}] lacks {missing}") from cause

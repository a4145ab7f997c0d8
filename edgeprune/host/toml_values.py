"""Values out of a TOML file that people write by hand: an unknown key or a wrong type is one clear line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from edgeprune.errors import RecipeError, UsageError
from edgeprune.host.untrusted import read_whole, text_of

__all__ = ["check_choice", "check_word", "known_keys", "near", "read_toml", "typed"]

Value = TypeVar("Value")
_KINDS: Mapping[type, str] = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def read_toml(path: Path) -> tuple[bytes, dict[str, object]]:
    """The bytes of a TOML file and its values.

    Raises InputError when it cannot be read and RecipeError when it is not TOML.
    """
    content = read_whole(path, "a TOML file")
    try:
        return content, tomllib.loads(text_of(path, content))
    except (tomllib.TOMLDecodeError, RecursionError) as cause:
        raise RecipeError(f"{path}: not valid TOML: {cause}") from cause


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing when no known name is like it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(key: str, value: str, known: Iterable[str]) -> None:
    """Raise UsageError for a value that is not among the known ones, with the nearest of them."""
    known = list(known)
    if value not in known:
        raise UsageError(f"unknown {key} {value!r}{near(value, known)}; known: {', '.join(known)}")


def check_word(path: Path, where: str, key: str, value: object, known: Iterable[str]) -> str:
    """`value`, one of the words that a key of a file may be. Raises RecipeError for anything else."""
    text = typed(path, f"{where}.{key}", value, str)
    try:
        check_choice(key, text, known)
    except UsageError as cause:
        raise RecipeError(f"{path}: [{where}] {cause}") from cause
    return text


def known_keys(path: Path, where: str, raw: object, known: Iterable[str]) -> Mapping[str, object]:
    """`raw` as a table; `where` is its name. Raises RecipeError when it is none, or has a key that is not known."""
    known = list(known)
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{path}: [{where}] is a table of keys")
    place = f" in [{where}]" if where else ""
    for key in raw:
        if key not in known:
            raise RecipeError(f"{path}: unknown key '{key}'{place}{near(key, known) or '; known: ' + ', '.join(known)}")
    return raw


def typed(path: Path, key: str, value: object, kind: type[Value]) -> Value:
    """`value` when it is of `kind` (a whole number passes for a float); raises RecipeError otherwise."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RecipeError(f"{path}: '{key}' must be {_KINDS.get(kind, kind.__name__)}, got {value!r}")
    return value

"""`file.py:function`: code of the user's own, which runs where it is trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.errors import Unsupported, UsageError

__all__ = ["code_of", "user_function"]


def code_of(word: str | Path) -> tuple[Path, str] | None:
    """(Python file, name of the function) of "file.py:function"; None for anything else."""
    file, colon, name = str(word).rpartition(":")
    return (Path(file), name) if colon and file.endswith(".py") and name.isidentifier() else None


def user_function(file: Path, name: str, *, trust_code: bool) -> Callable[..., Any]:
    """The function (or what else can be called) of that name. Raises Unsupported without `trust_code`, UsageError where
    there is none, and what `python_module` raises."""
    from edgeprune.maker.keras.custom_layers import python_module

    what = f"{file}:{name}"
    if not trust_code:
        raise Unsupported(f"{what}: runs your own code; if you trust it, add --trust-code")
    function = getattr(python_module(file, what), name, None)
    if not callable(function):
        raise UsageError(f"{what}: there is no function {name!r} in {file}")
    found: Callable[..., Any] = function
    return found

"""The type of objects of generated code, which publishes none."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Generated"]


class Generated(Protocol):
    """An object of generated code (a table of the TFLite schema, a message) or of a library without types."""

    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __getitem__(self, key: Any, /) -> Any: ...

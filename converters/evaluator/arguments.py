"""What an operation of the evaluator is given: its parameters by name, as arrays or tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.converters.types import Value

__all__ = ["Arguments", "Kernel", "UnknownOperationError"]


class UnknownOperationError(Exception):
    """An operation, or a use of one, that the evaluator does not know; the message is its name and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The parameters of one operation.

    Real numbers are float32 (a float16 value is widened, exactly), small integers int32. Constants are NumPy arrays,
    everything that depends on the model's inputs is a TensorFlow tensor; a parameter of several values is a list.
    """

    kind: str
    values: Mapping[str, Any]  # arrays, tensors, texts, lists of these
    outputs: int

    def __getitem__(self, name: str) -> Any:
        """A parameter that must be there."""
        if name not in self.values:
            raise UnknownOperationError(f"{self.kind} without {name!r}")
        return self.values[name]

    def get(self, name: str, default: object = None) -> Any:
        """A parameter, or its default."""
        return self.values.get(name, default)

    def constant(self, name: str, default: object = None) -> np.ndarray:
        """A parameter that must not depend on the model's inputs."""
        value = self.values.get(name, default)
        if value is None:
            raise UnknownOperationError(f"{self.kind} without {name!r}")
        if not isinstance(value, np.ndarray | np.generic | int | float | bool | list | tuple | str):
            raise UnknownOperationError(f"{self.kind} with a computed {name!r}")
        return np.asarray(value)

    def integers(self, name: str, default: object = None) -> list[int]:
        """A constant list of integers."""
        return [int(value) for value in np.atleast_1d(self.constant(name, default)).reshape(-1)]

    def number(self, name: str, default: float | None = None) -> float:
        """A constant real number."""
        return float(self.constant(name, default))

    def integer(self, name: str, default: int | None = None) -> int:
        """A constant integer."""
        return int(self.constant(name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        """A constant truth value."""
        return bool(self.constant(name, default))

    def text(self, name: str, default: str = "") -> str:
        """A constant string."""
        return str(self.constant(name, default))

    def listed(self, name: str) -> list[Value]:
        """A parameter of several values."""
        value = self[name]
        return list(value) if isinstance(value, list | tuple) else [value]


Kernel = Callable[[Arguments], Value | tuple[Value, ...]]

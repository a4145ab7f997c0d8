"""Keras while it makes a model out of a file: names are resolved by the list, and weights are held against the file.

Keras resolves every name of a configuration in one function (serialization_lib._retrieve_class_or_fn, and in the legacy
code for files without modules), and makes every weight in another (Variable._initialize_with_initializer). Both are
replaced while a model is made, in this thread.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.admission import unknown_object
from edgeprune.maker.keras.known_objects import find

__all__ = ["bounded_weights", "only_known", "replaced"]

_MOST_TIMES, _SPARE_BYTES = 4, 4_000_000
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def only_known(keras: ModuleType, custom: Mapping[str, object]) -> Iterator[None]:
    """Keras finds nothing but what is on the list and in `custom`; anything else is Unsupported."""
    library, legacy = keras.src.saving.serialization_lib, keras.src.legacy.saving.serialization

    def resolve(_: Callable[..., Any]) -> Callable[..., Any]:
        def resolved(name: str, registered_name: str | None, module: str | None, *_args: Any, **_more: Any) -> Any:
            return _object(name, registered_name, module, custom)

        return resolved

    def refuse(_: Callable[..., Any]) -> Callable[..., Any]:
        def refused(config: object, *_args: Any, **_more: Any) -> Any:
            kind = config.get("class_name") if isinstance(config, dict) else config
            raise unknown_object(None, str(kind), "")

        return refused

    with (
        replaced(library, "_retrieve_class_or_fn", resolve),
        replaced(legacy, "deserialize_keras_object", refuse),
        replaced(legacy, "class_and_config_for_serialized_keras_object", refuse),
    ):
        yield


@contextlib.contextmanager
def bounded_weights(keras: ModuleType, stored_bytes: int) -> Iterator[None]:
    """Weights are made for as many bytes as the file stores of them, and some; what is beyond that is an InputError."""
    room = _Room(stored_bytes=stored_bytes, left_bytes=_MOST_TIMES * stored_bytes + _SPARE_BYTES)

    def variable(original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize(self: Any, initializer: object) -> None:
            room.take(self.path, math.prod(self._shape), _size_bytes(str(self._dtype)))
            original(self, initializer)

        return initialize

    def normalization(original: Callable[..., Any]) -> Callable[..., Any]:
        def build(self: Any, input_shape: Any) -> None:
            if self.input_mean is not None:  # spread over the axes at once
                sizes = [input_shape[axis] for axis in self.axis if -len(input_shape) <= axis < len(input_shape)]
                room.take(f"{self.name}/mean", 2 * math.prod(size or 1 for size in sizes), 4)
            original(self, input_shape)

        return build

    try:
        with (
            replaced(keras.Variable, "_initialize_with_initializer", variable),
            replaced(keras.layers.Normalization, "build", normalization),
        ):
            yield
    finally:
        if room.refusal is not None:  # Keras wraps some errors in others, and passes over some
            raise room.refusal


@dataclass(slots=True, kw_only=True)
class _Room:
    """How much may still be made."""

    stored_bytes: int
    left_bytes: int
    refusal: InputError | None = None

    def take(self, name: str, elements: int, element_bytes: int) -> None:
        self.left_bytes -= elements * element_bytes
        if self.left_bytes < 0:
            layer, _, weight = name.rpartition("/")
            where = (
                f"layer {layer!r} declares {elements:,} numbers ({weight})" if layer else f"{name!r} is {elements:,}"
            )
            self.refusal = InputError(
                f"refused, {where}, and the file stores {self.stored_bytes:,} bytes of weights in all; "
                "copy or save the file again"
            )
            raise self.refusal


def _object(name: str, registered: str | None, module: str | None, custom: Mapping[str, object]) -> Any:
    for key in (registered, name):
        if isinstance(key, str) and key in custom and not (module or "").startswith("keras."):
            return custom[key]
    known = find(module, name) if isinstance(name, str) and isinstance(module, str | None) else None
    if known is None:
        raise unknown_object(module, str(name), "")
    if known.refused:
        raise Unsupported(f"names {known.module}.{known.name} ({known.refused}), which a model file may not name")
    return known.value


def _size_bytes(dtype: str) -> int:
    digits = "".join(character for character in dtype if character.isdigit())
    return max(int(digits) // 8, 1) if digits and not dtype.startswith("float8") else 8


@contextlib.contextmanager
def replaced(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Another function in the place of `owner.name` for calls of this thread; others get the one that was there."""
    original, mine = getattr(owner, name), threading.get_ident()
    changed = make(original)

    @functools.wraps(original)  # Keras reads the names of the arguments
    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (changed if threading.get_ident() == mine else original)(*args, **kwargs)

    with _ONE_AT_A_TIME:
        setattr(owner, name, chosen)
        try:
            yield
        finally:
            setattr(owner, name, original)

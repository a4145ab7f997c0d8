"""The objects of Keras that a model file may name, under every name that Keras has for them."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgeprune.maker.keras.known_names import ALLOWED, REFUSED

__all__ = ["Known", "find", "known_objects"]

_BY_CLASS_ALONE = ("keras", "keras.layers", "keras.models", "keras.src.models.functional")  # where the legacy .h5 looks

_FAMILIES = ("activations", "constraints", "initializers", "regularizers")  # with short names for their members


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An object of Keras under its reviewed name; `refused` says why a file may not name it ("" where it may)."""

    module: str
    name: str
    value: Any
    refused: str = ""

    @property
    def is_class(self) -> bool:
        """Whether it is a class, and not a function."""
        return inspect.isclass(self.value)


def find(module: str | None, name: str) -> Known | None:
    """The object that Keras calls `module`.`name`; without a module, the layer or model of that name.

    None for what is in neither of the reviewed lists, whether Keras has it or not.
    """
    table = known_objects()
    if module is None:
        found = (table.get(f"{place}.{name}") for place in _BY_CLASS_ALONE)
        return next((known for known in found if known is not None), None)
    return table.get(f"{module}.{name}")


@functools.cache
def known_objects() -> Mapping[str, Known]:
    """Full name -> object: the reviewed names, and the names of the same objects elsewhere in Keras (keras.src)."""
    chosen = {id(known.value): known for known in _reviewed()}
    table = {f"{known.module}.{known.name}": known for known in chosen.values()}
    for title, module in list(sys.modules.items()):
        if module is not None and (title == "keras" or title.startswith("keras.")):
            for name, value in list(vars(module).items()):
                if id(value) in chosen:
                    table.setdefault(f"{title}.{name}", chosen[id(value)])
    for family in _FAMILIES:  # "glorot_uniform"
        for name, value in sys.modules[f"keras.src.{family}"].ALL_OBJECTS_DICT.items():
            if id(value) in chosen:
                table.setdefault(f"keras.{family}.{name}", chosen[id(value)])
    return table


def _reviewed() -> Iterator[Known]:
    for module, names in ALLOWED.items():
        for name in names:
            if (value := _member(module, name)) is not None:
                yield Known(module=module, name=name, value=value)
    for module, reasons in REFUSED.items():
        for name, reason in reasons.items():
            if (value := _member(module, name)) is not None:
                yield Known(module=module, name=name, value=value, refused=reason)


def _member(title: str, name: str) -> Any:
    """A member of a module of Keras; None where this version has none of that name."""
    try:
        module: ModuleType = importlib.import_module(title)
    except ImportError:
        return None
    return vars(module).get(name)

"""The classes of the TFLite schema that are read here, loaded alone.

`import tflite` executes all of its 180 modules, which takes longer than reading a small model. The few that are needed
are imported here under their own names, and whoever imports the package later gets it whole, with the same classes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

__all__ = ["schema"]

_NAMES = (
    *("BatchMatMulOptions", "BuiltinOperator", "BuiltinOptions", "Int32Vector", "Model", "Padding"),
    *("SparseIndexVector", "TensorType", "Uint16Vector", "Uint8Vector"),
    # What these make: the schema imports a class when it meets the first of a kind.
    *("Buffer", "DimensionMetadata", "Metadata", "Operator", "OperatorCode", "QuantizationParameters"),
    *("SignatureDef", "SparsityParameters", "SubGraph", "Tensor", "TensorMap"),
)


def _classes() -> Iterator[tuple[str, Any]]:
    """Classes of the schema by name. While their modules load, a package without content stands in for `tflite`."""
    spec = find_spec("tflite") if "tflite" not in sys.modules else None
    stands_in = spec is not None and spec.submodule_search_locations is not None
    if spec is not None and spec.submodule_search_locations is not None:
        sys.modules["tflite"] = package = ModuleType("tflite")
        package.__path__ = list(spec.submodule_search_locations)
    try:
        for name in _NAMES:
            yield name, getattr(import_module(f"tflite.{name}"), name)
    finally:
        if stands_in:
            del sys.modules["tflite"]


schema: Any = SimpleNamespace(**dict(_classes()))  # like the package: schema.Model is its class Model

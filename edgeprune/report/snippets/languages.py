"""Which code there is for which format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeprune.errors import UsageError
from edgeprune.formats import Contents
from edgeprune.host.toml_values import check_choice
from edgeprune.report.snippets import coreml_code, tflite_code
from edgeprune.report.snippets.values import LITERALS, inputs_of, outputs_of

__all__ = ["LANGUAGES", "snippet"]

LANGUAGES = tuple(LITERALS)
_TFLITE: Mapping[str, Callable[..., str]] = {
    "kotlin": tflite_code.kotlin_code,
    "swift": tflite_code.swift_code,
    "python": tflite_code.python_code,
    "js": tflite_code.js_code,
}
_COREML: Mapping[str, Callable[..., str]] = {"swift": coreml_code.swift_code, "python": coreml_code.python_code}


def snippet(contents: Contents, language: str, units: str | None = None) -> str:
    """Code that loads this very file and runs it once on zeros; a Core ML model on some of COMPUTE_UNITS.

    Raises UsageError where there is none for the format or language, and for units of other formats; Unsupported where
    a runtime has no such tensors.
    """
    codes: Mapping[str, Callable[..., str]]
    ends: tuple[Any, Any]
    if contents.graph is not None:
        ends = inputs_of(contents.graph), outputs_of(contents.graph)
        codes = _TFLITE
    elif contents.package is not None:
        ends = contents.package.inputs, contents.package.outputs
        codes = _COREML
    else:
        codes, ends = {}, ((), ())
    if language not in codes:
        raise UsageError(
            f"{contents.path}: there is no {language} code for .{contents.format} files; there is for .tflite "
            f"({', '.join(_TFLITE)}) and for Core ML ({', '.join(_COREML)})"
        )
    if units is None:
        return codes[language](contents.path.name, *ends)
    if codes is not _COREML:
        raise UsageError(f"{contents.path}: --compute-units is for Core ML models; leave it out")
    check_choice("compute units", units, coreml_code.COMPUTE_UNITS)
    return codes[language](contents.path.name, *ends, units)

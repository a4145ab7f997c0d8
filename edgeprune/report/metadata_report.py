"""What a .tflite file tells the app, for people and for programs."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import Any

from edgeprune.formats.contents import printable
from edgeprune.formats.tflite.metadata import End, Metadata
from edgeprune.units import format_bytes

__all__ = ["metadata_json", "metadata_text"]

_MOST_CHARS = 200  # of a text in a line
_NAMED = 3  # labels


def metadata_json(found: Metadata) -> dict[str, object]:
    """For programs: the tables as the tools of TensorFlow print them, bytes in base64."""
    return {
        "schema_version": 1,
        "path": str(found.path),
        "inputs": [end._asdict() for end in found.inputs],
        "outputs": [end._asdict() for end in found.outputs],
        "metadata": _plain(found.tables),
        "complete": found.complete,
        "files": [{"name": name, "raw_bytes": len(content)} for name, content in found.files.items()],
    }


def _plain(value: Any) -> Any:
    """JSON has no bytes, and no number that is none."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def metadata_text(found: Metadata) -> str:
    """For people: the model, its ends and the files, a line each."""
    tables = found.tables
    lines = [printable(str(found.path))]
    if tables is None:
        lines.append("no TFLite metadata; write some with --description, --labels, --mean and --std (see --help)")
    else:
        lines += [f"{key:<11} {_short(tables[key])}" for key in _GENERAL if tables.get(key)]
    graph: dict[str, Any] = next(iter((tables or {}).get("subgraph_metadata", [])), {})
    for word, ends in (("input", found.inputs), ("output", found.outputs)):
        told = graph.get(f"{word}_tensor_metadata", [])
        lines += _end_lines(word, ends, told, found)
    lines += [f"file        {_short(name)}, {format_bytes(len(content))}" for name, content in found.files.items()]
    if not found.complete:
        lines.append("and more, of a newer schema than is known here")
    return "\n".join(lines)


_GENERAL = ("name", "description", "version", "author", "license")


def _short(text: object) -> str:
    return printable(str(text), _MOST_CHARS)


def _end_lines(word: str, ends: Sequence[End], told: Sequence[dict[str, Any]], found: Metadata) -> Iterator[str]:
    for number, end in enumerate(ends):
        table = told[number] if number < len(told) else {}
        facts = [f"{end.dtype} {list(end.shape)}", *_facts(table, found)]
        yield f"{word:<11} {_short(table.get('name', end.name))}: {', '.join(facts)}"


def _facts(table: dict[str, Any], found: Metadata) -> Iterator[str]:
    """What a tensor's table says, in words."""
    color = table.get("content", {}).get("content_properties", {}).get("color_space")
    if color:
        yield f"{color} pictures"
    for unit in table.get("process_units", []):
        if unit.get("options_type") == "NormalizationOptions":
            mean, std = (_numbers(unit["options"].get(key, [])) for key in ("mean", "std"))
            yield f"(x - {mean}) / {std}"
    for entry in table.get("associated_files", []):
        name = entry.get("name", "")
        yield f"{_short(name)}{_labels(found.files.get(name), entry.get('type'))}"
    if table.get("description"):
        yield _short(table["description"])


def _numbers(values: Sequence[float]) -> str:
    told = [f"{value:g}" for value in values[:4]]
    return told[0] if len(told) == 1 else f"[{', '.join(told)}]"


def _labels(content: bytes | None, kind: object) -> str:
    """How many labels a file has, and the first of them."""
    if content is None:
        return " (missing)"
    if kind != "TENSOR_AXIS_LABELS":
        return ""
    names = content.decode(errors="replace").splitlines()
    more = ", ..." if len(names) > _NAMED else ""
    return f" ({len(names)} labels: {', '.join(printable(name, 40) for name in names[:_NAMED])}{more})"

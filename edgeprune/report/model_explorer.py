"""Bytes of operations as node data for Google's Model Explorer, which lays them over its drawing of a .tflite file."""

from __future__ import annotations

import json

from edgeprune.checker.size.records import FileAccount

__all__ = ["node_data"]

_MAIN = "main"  # what it calls the first graph of a file; operations there have their number as name
_PALE, _FULL = "#f2f7fc", "#2a6fb5"


def node_data(record: FileAccount) -> str:
    """The JSON for the account of a .tflite file that has every operation (`account(every=True)`): the part of each in
    the download by deflate, in bytes.

    Format: `ModelNodeData` in node_data_builder.py of ai-edge-model-explorer 0.1.34.
    """
    own = [layer for layer in record.layers if not layer.group]
    results = {str(number): {"value": layer.deflate_bytes or 0} for number, layer in enumerate(own)}
    graph = {
        "results": results,
        "name": "download bytes (deflate)",
        "gradient": [{"stop": 0, "bgColor": _PALE}, {"stop": 1, "bgColor": _FULL}],
    }
    return json.dumps({_MAIN: graph}, indent=1) + "\n"

"""Made-up records of model files for the tests of reports: every number is chosen, none measured."""

from __future__ import annotations

from typing import Any

from edgeprune.checker.size.records import FileAccount, LayerAccount

__all__ = ["NASTY", "layer", "record"]

# A name with everything that ends a line, a cell, a tag or a command somewhere, and what GitHub would link.
NASTY = "a|b`c\n::error::d <b>&amp;</b> @octocat #12 \\| \x1b[31m \u202e\u2028 http://x.y ]]> \ud800 \"q\" 'r' %0A, =1"


def layer(name: str = "conv", **more: Any) -> LayerAccount:
    """A convolution of 1,000 float32 weights, 800 of them zero."""
    facts: dict[str, Any] = {
        "kind": "CONV_2D",
        "group": "",
        "shape": (1, 8, 8, 16),
        "precision": "float32",
        "parameters": 1000,
        "zeros": 800,
        "raw_bytes": 4000,
        "deflate_bytes": 1100,
        "bound_bytes": 1050,
        "macs": 64_000,
    }
    facts["weights"] = more.get("parameters", facts["parameters"])
    return LayerAccount(name=name, **{**facts, **more})


def record(path: str = "m.tflite", **more: Any) -> FileAccount:
    """A .tflite file of one layer: 5,000 bytes, 1,600 of them in a deflated download."""
    facts: dict[str, Any] = {
        "format": "tflite",
        "complete": True,
        "note": "",
        "raw_bytes": 5000,
        "sections": {"graph": 900, "weights": 4000, "metadata": 60, "padding": 40},
        "training_bytes": 0,
        "download_bytes": {"deflate": 1600, "brotli": 1500, "zstd": 1550, "xz": 1480},
        "bound_bytes": 1050,
        "parameters": 1000,
        "weights": 1000,
        "zeros": 800,
        "sparsity": 0.8,
        "macs": 64_000,
        "layers": (layer(),),
    }
    return FileAccount(path=path, **{**facts, **more})

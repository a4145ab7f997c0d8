"""The child process that converts: started by `edgeprune.host.children`.

One JSON job a line on standard input, one JSON reply a line on what was standard output. TensorFlow and coremltools are
imported here, once, and kept for the next job. A converter that takes its process down (it happens: SIGSEGV in the
quantizer) takes only this one.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.converters.frozen import FrozenGraph
    from edgeprune.converters.packaging import AppOptions

__all__ = ["main"]


def _convert(job: dict[str, Any]) -> dict[str, Any]:
    from edgeprune.converters.frozen import FrozenGraph
    from edgeprune.converters.packaging import AppOptions

    graph, out = FrozenGraph.from_json(job["graph"]), Path(job["out"])
    options = AppOptions.from_json(job["app"])
    if job["format"] == "tflite":
        return _write_tflite(job, graph, out, options)
    if job["format"] == "onnx":
        from edgeprune.converters.onnx import convert_onnx

        asked = {name: job[name] for name in ("precision", "opset")}
        convert_onnx(graph, out, options=options, calibration=_arrays(job, "calibration"), **asked)
        return {}
    from edgeprune.converters.coreml import convert_coreml

    convert_coreml(
        graph,
        out,
        precision=job["precision"],
        options=options,
        calibration=_arrays(job, "calibration"),
        ranges={name: (least, most) for name, (least, most) in job["ranges"].items()},
        tables=_arrays(job, "tables"),
    )
    return {}


def _write_tflite(job: dict[str, Any], graph: FrozenGraph, out: Path, options: AppOptions) -> dict[str, Any]:
    from edgeprune.converters.tflite import convert_tflite
    from edgeprune.formats.tflite.metadata import with_metadata

    made = convert_tflite(
        graph,
        precision=job["precision"],
        io_type=job.get("io_type", "float32"),
        calibration=_arrays(job, "calibration"),
        float_fallback=job.get("float_fallback", False),
        per_tensor=job.get("per_tensor", False),
        signature=job["signature"],
        scales=job["scales"],
        drop_names=job["drop_names"],
        start=Path(job["begin"]).read_bytes() if "begin" in job else b"",
        ranges=job["ranges"],
        float_nodes=job["float_nodes"],
    )
    if job["start"]:
        Path(job["start"]).write_bytes(made.start)
    out.write_bytes(with_metadata(Path(out.name), made.content, options) if options.told else made.content)
    return {"left": made.left}


def _arrays(job: dict[str, Any], key: str) -> dict[str, Any] | None:
    import numpy as np

    if not job.get(key):
        return None
    with np.load(job[key], allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": True, **_convert(job)}
    except Exception as cause:  # noqa: BLE001  (converters raise anything; the parent turns it into one line)
        return {"ok": False, "kind": type(cause).__name__, "reason": str(cause)}


def _silence() -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    warnings.simplefilter("ignore")
    import logging

    logging.disable(logging.ERROR)  # coremltools warns of every untested version and absent macOS library


def main() -> None:
    """Answer jobs until standard input closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a converter prints must not mix with the replies
    _silence()
    for line in sys.stdin:
        replies.write(json.dumps(_answer(json.loads(line))) + "\n")
        replies.flush()

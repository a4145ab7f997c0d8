"""ONNX Runtime in the worker: one sample and several at once, refusals, and files that are not trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.checker.latency.measure import timed_files
from edgeprune.errors import MissingExtra, RuntimeFailure
from edgeprune.runtime.runtimes import ONNX_RUNTIMES, RuntimeSpec
from edgeprune.runtime.session import run_onnx, trace_tflite

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


def written(path: Path, *nodes: Any, **constants: np.ndarray) -> Path:
    """A model of these nodes from x [batch, 3] to y [batch, ...], with W among its constants."""
    numbers = {"W": WEIGHTS, **constants}
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 3), ("y", 2))
    ]
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in numbers.items()]
    graph = onnx.helper.make_graph(list(nodes), "g", ends[:1], ends[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def product(path: Path) -> Path:
    """y = relu(x W)."""
    nodes = onnx.helper.make_node("MatMul", ["x", "W"], ["h"]), onnx.helper.make_node("Relu", ["h"], ["y"])
    return written(path, *nodes)


def test_samples_alone_and_together(tmp_path: Path) -> None:
    """Outputs in the samples' order, however many went at once; a trace tells what each node makes."""
    path = product(tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    counts: list[tuple[int, int]] = []
    found = run_onnx(path, {"x": x}, on_progress=lambda done, total: counts.append((done, total)))
    assert np.allclose(found.outputs["y"], np.maximum(x @ WEIGHTS, 0), atol=1e-6)
    assert (found.runtime, found.samples, counts[-1]) == ("onnxruntime", 20, (20, 20))
    tensors = trace_tflite(path, {"x": x[:2]}, runtime="onnxruntime").tensors
    assert [(tensor.name, tensor.op) for tensor in tensors] == [("h", "MatMul"), ("y", "Relu")]
    assert tensors[0].values is not None
    assert np.allclose(tensors[0].values, x[:2] @ WEIGHTS, atol=1e-6)


def test_samples_that_touch_one_another(tmp_path: Path) -> None:
    """A file that computes right for a batch of one alone gives others another answer than the first."""
    nodes = (
        onnx.helper.make_node("MatMul", ["x", "W"], ["h"]),
        onnx.helper.make_node("ReduceMean", ["h"], ["m"], axes=[0]),
        onnx.helper.make_node("Sub", ["h", "m"], ["y"]),
    )
    x = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    found = run_onnx(written(tmp_path / "m.onnx", *nodes), {"x": x}).outputs["y"]
    assert not found[0].any()
    assert found[1:].all()


def test_batches_are_timed(tmp_path: Path) -> None:
    """An open batch takes the size that is asked for; the record says which was timed."""
    path = product(tmp_path / "m.onnx")
    found = [timed_files(path, path, processes=1, pairs=2, batch=batch)[1] for batch in (None, 4)]
    assert [{times.batch for times in processes} for processes in found] == [{1}, {4}]


def test_refusals(tmp_path: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators of others are refused by the runtime, weights outside the folder by the reader before it."""
    node = onnx.helper.make_node("Own", ["x"], ["y"], domain="example.org")
    with pytest.raises(RuntimeFailure, match="the file was refused"):
        run_onnx(written(tmp_path / "own.onnx", node), {"x": np.ones((1, 3), np.float32)})
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    model = onnx.load(str(product(inner / "m.onnx")))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../w.bin")
    (inner / "m.onnx").write_bytes(model.SerializeToString())
    for verb in (("bench",), ("verify", "--against", "none.keras")):
        call(verb[0], inner / "m.onnx", *verb[1:]).error(4, "refused", "../w.bin")
    (tmp_path / "m.tflite").write_bytes(b"")
    call("bench", product(tmp_path / "m.onnx"), "--against", tmp_path / "m.tflite").error(2, "files of one format")
    monkeypatch.setitem(
        ONNX_RUNTIMES, "onnxruntime", RuntimeSpec(distribution="edgeprune-none", module="", extra="onnx")
    )
    with pytest.raises(MissingExtra, match=r"'edgeprune\[onnx\]'"):
        run_onnx(tmp_path / "m.onnx", {"x": np.ones((1, 3), np.float32)})

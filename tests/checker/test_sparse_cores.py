"""Where 2:4 would pay on sparse tensor cores: what is eligible, Amdahl's range, and a table measured on a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import written_onnx as onnx
from places import ROOT, TESTS
from wire import number, piece

from edgeprune.checker.latency.accelerators.placement import place_operations
from edgeprune.checker.latency.accelerators.placement_records import Gain, Maps, MatrixShape, Placement
from edgeprune.checker.latency.accelerators.sparse_cores import amdahl
from edgeprune.checker.latency.accelerators.sparse_table import read_table
from edgeprune.errors import InputError
from edgeprune.formats import read_contents

TARGET = "tensorrt-sparse-ampere"
# Made by hand for these tests; nothing measured it.
TABLE = """
schema = 1
card = "a card of the tests"
torch = "0"
date = "2026-01-01"
[[rows]]
dtype = "float16"
outputs = 512
inputs = 256
columns = 16
dense_us = 30.0
sparse_us = 20.0
[[rows]]
dtype = "float16"
outputs = 512
inputs = 256
columns = 1024
dense_us = 10.0
sparse_us = 20.0
"""


def network(path: Path, *, keep: bool = True) -> Path:
    """A 3-channel stem, a depthwise, a small and a large 1x1 convolution on 4 x 4, written by hand.

    MACs: 16 * (16*3, 16, 256*16, 512*256).
    """
    dense = np.ones((512, 256, 1, 1), "f4")
    dense[:, 2::4] = dense[:, 3::4] = 0
    if not keep:
        dense[7, :4] = 1
    shapes = {"s": (16, 3, 1, 1), "d": (16, 1, 1, 1), "n": (256, 16, 1, 1)}
    tensors = [onnx.tensor(k, onnx.FLOAT, v, onnx.raw(np.ones(v, "f4").tobytes())) for k, v in shapes.items()]
    tensors.append(onnx.tensor("w", onnx.FLOAT, dense.shape, onnx.raw(dense.tobytes())))
    group = onnx.attribute("group", number(3, 16))
    nodes = [
        onnx.node("Conv", ["x", "s"], ["a"], name="stem"),
        onnx.node("Conv", ["a", "d"], ["b"], group, name="depthwise"),
        onnx.node("Conv", ["b", "n"], ["c"], name="small"),
        onnx.node("Conv", ["c", "w"], ["y"], name="large"),
    ]
    widths = {"a": 16, "b": 16, "c": 256}
    more = [piece(11, onnx.value("x", 1, 3, 4, 4)), piece(12, onnx.value("y", 1, 512, 4, 4))]
    more += [piece(13, onnx.value(name, 1, width, 4, 4)) for name, width in widths.items()]
    path.write_bytes(onnx.model(onnx.graph(nodes, tensors, *more)))
    return path


def placed(path: Path) -> tuple[Placement, Gain]:
    found = place_operations(read_contents(path), TARGET)
    assert found.gain is not None
    return found, found.gain


def test_what_is_eligible_and_why_not(tmp_path: Path) -> None:
    found, gain = placed(network(tmp_path / "m.onnx"))
    assert [op.maps for op in found.ops] == [Maps.NO, Maps.NO, Maps.NO, Maps.YES]
    said = [[condition.found for condition in op.conditions] for op in found.ops]
    assert said[0] == ["3 inputs"]
    assert said[1] == ["one input channel for each output"]
    assert said[2] == ["16 inputs, 256 outputs", "1024 of 1024 groups are fuller"]
    assert all(condition.source.startswith("https://") for op in found.ops for condition in op.conditions)
    macs = np.array([48, 16, 4096, 131072])
    assert gain.eligible_share == pytest.approx(macs[2:].sum() / macs.sum())
    assert gain.wide_share == gain.kept_share == pytest.approx(macs[3] / macs.sum())
    assert (gain.weights, gain.weights_kept) == (1, 1)


def test_one_group_that_is_fuller_is_found(tmp_path: Path) -> None:
    found, gain = placed(network(tmp_path / "m.onnx", keep=False))
    assert found.ops[3].conditions[0].found == "1 of 32768 groups are fuller"
    assert (gain.weights, gain.weights_kept, gain.kept_share) == (1, 0, 0)
    assert gain.wide_share == pytest.approx(131072 / 135232)


def test_amdahl() -> None:
    """Everything twice as fast is twice as fast, nothing is 1; published shares of two networks give these."""
    assert amdahl([(1.0, 2.0)]) == 2
    assert amdahl([]) == 1
    assert amdahl([(0.121, 2.0)]) == pytest.approx(1.064, abs=1e-3)
    assert amdahl([(0.582, 2.0)]) == pytest.approx(1.410, abs=1e-3)


def test_a_small_network_is_told_no(call: Any) -> None:
    """In one sentence, with the range; and how to measure it needs ONNX."""
    told = call("estimate", TESTS / "files" / "float32.tflite", "--target", TARGET)
    assert told.code == 0
    assert "no, 0 % of its MACs are eligible: at most 1.00 times as fast" in told.out
    assert "convert the model to ONNX" in told.out
    assert "nothing was compiled, nothing measured" in told.out


def test_an_onnx_file_gets_the_commands(call: Any, tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx")
    told = call("estimate", path, "--target", TARGET).out
    assert "worth measuring: 97 % of its MACs are eligible" in told
    assert f"trtexec --onnx={path} --fp16 --sparsity=enable" in told
    assert f"trtexec --onnx={path} --fp16 --sparsity=disable" in told
    assert "1.29 to 1.57 times as fast, at most 1.94; an estimate from documents and no GPU's time" in told
    why = call("inspect", path, "--why").out
    assert "Does 2:4 pay in TensorRT" in why
    body = json.loads(call("estimate", path, "--target", TARGET, "--json").out)["placement"]
    assert body["gain"]["shapes"][-1] == {"outputs": 512, "inputs": 256, "columns": 16}
    assert body["measured"] is False


def test_a_file_without_its_macs_is_not_guessed_at(call: Any) -> None:
    told = call("estimate", TESTS.parent / "sample_models" / "fashion" / "fashion.keras", "--target", TARGET)
    assert told.code == 3
    assert "not known: the file does not tell its MACs" in told.out


def test_a_table_gives_k_by_shape(call: Any, tmp_path: Path) -> None:
    """The nearest columns, no further off than four times; of others k stays the documents'."""
    (tmp_path / "table.toml").write_text(TABLE)
    table = read_table(tmp_path / "table.toml")
    assert table.factor(MatrixShape(outputs=512, inputs=256, columns=20), "float16") == 1.5
    assert table.factor(MatrixShape(outputs=512, inputs=256, columns=900), "float16") == 0.5
    for other in (
        MatrixShape(outputs=512, inputs=256, columns=100_000),
        MatrixShape(outputs=256, inputs=512, columns=16),
    ):
        assert table.factor(other, "float16") is None
    assert table.factor(MatrixShape(outputs=512, inputs=256, columns=16), "int8") is None
    told = call("estimate", network(tmp_path / "m.onnx"), "--target", TARGET, "--measured", tmp_path / "table.toml").out
    assert "k is measured for 1 of the 1 large operations, in table.toml (a card of the tests)" in told
    assert "1.48 to 1.48 times as fast, at most 1.48" in told


@pytest.mark.parametrize(
    ("old", "new"),
    [("schema = 1", "schema = 2"), ("30.0", "0"), ("outputs = 512", "outputs = -1"), ("card =", "cart ="), ("=", "")],
)
def test_a_broken_table_is_one_line(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "table.toml"
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(InputError, match="no table of sparse products") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_a_table_is_of_this_target_only(call: Any, tmp_path: Path) -> None:
    (tmp_path / "table.toml").write_text(TABLE)
    told = call(
        "estimate", TESTS / "files" / "int8.tflite", "--target", "edgetpu", "--measured", tmp_path / "table.toml"
    )
    assert (told.code, told.err.count("\n")) == (2, 1)


# --- the script that measures a table, as far as it goes without a GPU


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """benchmarks/two_four_gpu.py"""
    spec = importlib.util.spec_from_file_location("two_four_gpu", ROOT / "benchmarks" / "two_four_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_one_line(script: ModuleType, capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """Exit code 3 and no table, with no PyTorch and with one that sees no GPU."""
    blind = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    for torch, told in ((None, "no PyTorch here"), (blind, "no NVIDIA GPU here")):
        monkeypatch.setitem(sys.modules, "torch", torch)
        assert script.main(["-o", str(tmp_path / "t.toml")]) == 3
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1
    assert not (tmp_path / "t.toml").exists()


def test_what_the_script_writes_is_what_is_read(script: ModuleType, tmp_path: Path) -> None:
    row = script.Row("int8", 512, 256, 16, 30.0, 20.0, 0.0)
    path = tmp_path / "t.toml"
    path.write_text(script.to_toml([row], {"card": 'a "card" of the tests', "date": "2026-01-01"}))
    table = read_table(path)
    assert table.card == 'a "card" of the tests'
    assert table.factor(MatrixShape(outputs=512, inputs=256, columns=16), "int8") == 1.5
    assert "1.50" in script.to_text([row])


def test_the_shapes_that_it_measures(script: ModuleType, call: Any, tmp_path: Path) -> None:
    """ResNet-50's, or those of an estimate; aligned weights and padded columns only, each product once."""
    shapes = script.resnet50()
    assert script.Shape(512, 2048, 49) in shapes
    assert len(shapes) == len(set(shapes))
    for dtype, (rows, columns) in script.MULTIPLES.items():
        made = list(script.products(shapes, script.BATCHES, dtype))
        assert made
        assert len(made) == len(set(made))
        assert all(s.outputs % rows == s.inputs % columns == s.columns % script.PAD == 0 for s in made)
    printed = call("estimate", network(tmp_path / "m.onnx"), "--target", TARGET, "--json").out
    assert script.Shape(512, 256, 16) in script.shapes_of(printed)
    with pytest.raises(ValueError, match="not what"):
        script.shapes_of("{}")

"""Limits on what a small change of a model breaks: each fails when it is broken, names the layer, and never passes
where nothing was looked at."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite
import written_onnx as onnx
import written_tflite as flat
from places import TESTS

from edgeprune.checker.budget import Budget
from edgeprune.checker.structure import COUNTS, Counted
from edgeprune.errors import UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.pattern import Pattern
from edgeprune.verdict import Limit, Unknown

FILES = TESTS / "files"
TWO_FOUR = Pattern(n=2, m=4)


def counted(limit: Limit, path: Path, **limits: Any) -> Counted:
    return COUNTS[limit](read_contents(path), Budget(**limits))


def dense_layers(path: Path, *shapes: tuple[int, int], full: int | None = None) -> Path:
    """Dense layers (outputs, inputs) in a row in a .tflite; they keep 2:4, but for the layer numbered `full`."""
    tensors = [flat.TensorSpec(shape=(1, shapes[0][1]), name="x")]
    buffers, ops = [b""], []
    for number, (outputs, inputs) in enumerate(shapes):
        kernel = np.ones((outputs, inputs), "f4")
        if number != full:
            kernel[:, 1::2] = -0.0
        buffers.append(kernel.tobytes())
        before = 0 if not number else 2 * number
        tensors += [
            flat.TensorSpec(shape=kernel.shape, buffer=number + 1, name=f"k{number}"),
            flat.TensorSpec(shape=(1, outputs), name=f"dense{number}"),
        ]
        kind = tflite.BuiltinOperator.FULLY_CONNECTED
        ops.append(flat.OpSpec(kind=kind, inputs=(before, 2 * number + 1), outputs=(2 * number + 2,)))
    graph = flat.GraphSpec(tensors=tuple(tensors), ops=tuple(ops), outputs=(2 * len(shapes),))
    return flat.write(path, graph, buffers=buffers)


def test_a_layer_that_lost_its_pattern_is_named(tmp_path: Path) -> None:
    kept = dense_layers(tmp_path / "a.tflite", (16, 8), (10, 16))
    assert counted(Limit.PATTERN, kept, pattern=TWO_FOUR) == Counted(actual=0)
    lost = dense_layers(tmp_path / "b.tflite", (16, 8), (10, 16), full=1)
    assert counted(Limit.PATTERN, lost, pattern=TWO_FOUR) == Counted(actual=1, layers=("dense1",))


def test_no_weight_to_keep_a_pattern_is_no_pass(tmp_path: Path) -> None:
    """Inputs off the multiple, storage that is not decoded."""
    none = counted(Limit.PATTERN, dense_layers(tmp_path / "a.tflite", (8, 6)), pattern=TWO_FOUR)
    assert (none.actual, none.unknown) == (None, Unknown.NO_WEIGHTS)
    unread = counted(Limit.PATTERN, FILES / "float32_sparse.tflite", pattern=TWO_FOUR)
    assert (unread.actual, unread.unknown) == (None, Unknown.NOT_COUNTED)
    assert "not decoded" in unread.detail


def test_widths_between_layers(tmp_path: Path) -> None:
    """The model's input (6) and its output (10) are nobody's choice; 30 channels are, and the layer is named."""
    path = dense_layers(tmp_path / "a.tflite", (16, 6), (30, 16), (10, 30))
    assert counted(Limit.CHANNEL_MULTIPLE, path, channel_multiple=2) == Counted(actual=0)
    assert counted(Limit.CHANNEL_MULTIPLE, path, channel_multiple=8) == Counted(actual=1, layers=("dense2 reads 30",))
    alone = counted(Limit.CHANNEL_MULTIPLE, dense_layers(tmp_path / "b.tflite", (16, 6)), channel_multiple=8)
    assert alone.unknown is Unknown.NO_WEIGHTS


def test_a_hidden_width_equal_to_the_input_is_looked_at(tmp_path: Path) -> None:
    path = dense_layers(tmp_path / "a.tflite", (30, 30), (10, 30))
    assert counted(Limit.CHANNEL_MULTIPLE, path, channel_multiple=8).layers == ("dense1 reads 30",)


def test_float_operations_of_an_integer_file() -> None:
    """What turns numbers at the ends is none; every operation of a float file is one."""
    assert counted(Limit.MAX_FLOAT_OPS, FILES / "int8.tflite", max_float_ops=0) == Counted(actual=0)
    found = counted(Limit.MAX_FLOAT_OPS, FILES / "float32.tflite", max_float_ops=0)
    assert (found.actual, found.layers[0]) == (4, "CONV_2D Relu")
    other = counted(Limit.MAX_FLOAT_OPS, FILES / "half.mlpackage", max_float_ops=0)
    assert (other.actual, other.unknown) == (None, Unknown.NOT_COUNTED)


def test_the_share_that_an_accelerator_takes() -> None:
    limits: dict[str, Any] = {"min_eligible": 0.8, "target": "edgetpu"}
    found = counted(Limit.MIN_ELIGIBLE, FILES / "int8.tflite", **limits)
    assert found.actual is not None
    assert 0.5 < found.actual < 1
    assert found.layers == ("PartitionedCall:01",)
    whole = counted(Limit.MIN_ELIGIBLE, FILES / "float32.tflite", **limits)
    assert whole.actual == 0
    assert "the file is float32" in whole.detail
    other = counted(Limit.MIN_ELIGIBLE, FILES / "half.mlpackage", **limits)
    assert (other.actual, other.unknown) == (None, Unknown.NOT_COUNTED)


def test_sparse_kernels_of_xnnpack() -> None:
    assert counted(Limit.SPARSE_KERNELS, FILES / "eligible_sparse.tflite", sparse_kernels=True) == Counted(actual=0)
    broken = counted(Limit.SPARSE_KERNELS, FILES / "float32_sparse.tflite", sparse_kernels=True)
    assert broken.actual == 1
    assert "3x3 stem" in broken.layers[0]
    assert counted(Limit.SPARSE_KERNELS, FILES / "half.mlpackage", sparse_kernels=True).actual is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"min_eligible": 0.5, "target": "edge-tpu"}, "did you mean"), ({"channel_multiple": 1}, "at least 2")],
)
def test_a_budget_of_nothing_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Budget(**fields)


def test_it_fails_ci_and_names_the_layer(call: Any, tmp_path: Path) -> None:
    """Exit code 1 with the layer in every format; 0 when all is kept, 3 when nothing could be looked at."""
    path = dense_layers(tmp_path / "m.tflite", (16, 8), (10, 16), full=1)
    told = call("check", path, "--pattern", "2:4")
    assert told.code == 1
    assert f"{path}: fuller than 2:4 1 layer (dense1), limit 0 layers: OVER by 1 layer" in told.out
    assert "dense1" in call("check", path, "--pattern", "2:4", "--format", "github").out
    junit = ElementTree.fromstring(call("check", path, "--pattern", "2:4", "--format", "junit").out)
    assert "dense1" in next(junit.iter("failure")).attrib["message"]
    body = json.loads(call("check", path, "--pattern", "2:4", "--json").out)
    assert body["verdicts"][0]["layers"] == ["dense1"]
    assert body["verdicts"][0]["asked"] == "2:4"
    assert call("check", path, "--pattern", "4:8", "--channel-multiple", "16").code == 1
    assert call("check", path, "--channel-multiple", "16").code == 0
    assert call("check", dense_layers(tmp_path / "n.tflite", (8, 6)), "--pattern", "2:4").code == 3


def test_the_other_limits_from_the_command_line(call: Any) -> None:
    int8 = FILES / "int8.tflite"
    assert call("check", int8, "--max-float-ops", "0", "--min-eligible", "50 %", "--target", "edgetpu").code == 0
    low = call("check", int8, "--min-eligible", "99 %", "--target", "edgetpu")
    assert low.code == 1
    assert "share of the MACs on edgetpu" in low.out
    assert "(PartitionedCall:01), wanted at least 99.00 %: TOO LOW by" in low.out
    assert call("check", FILES / "eligible_sparse.tflite", "--sparse-kernels").code == 0
    assert call("check", FILES / "float32_sparse.tflite", "--sparse-kernels").code == 1
    for wrong in (["--min-eligible", "50 %"], ["--target", "edgetpu"], ["--pattern", "4:2"]):
        refused = call("check", int8, *wrong)
        assert (refused.code, refused.err.count("\n")) == (2, 1), wrong


def test_in_the_configuration(call: Any, tmp_path: Path) -> None:
    """One table for every limit; a file inside a bundle is looked at, too."""
    dense_layers(tmp_path / "m.tflite", (16, 8), (10, 16))
    (tmp_path / "edgeprune.toml").write_text(
        '[[budget]]\npath = "m.tflite"\npattern = "2:4"\nchannel_multiple = 8\n'
        '[[budget]]\npath = "m.tflite"\nmax_float_ops = 0\n'
    )
    told = call("check", "--config", tmp_path / "edgeprune.toml")
    assert told.code == 1
    assert "fuller than 2:4 0 layers, limit 0 layers: ok" in told.out
    assert "floating point 2 operations (FULLY_CONNECTED dense0; FULLY_CONNECTED dense1)" in told.out
    import zipfile

    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.write(tmp_path / "m.tflite", "m.tflite")
    assert call("check", tmp_path / "app.zip", "--pattern", "2:4").code == 0


def test_two_four_on_a_gpu_can_be_a_limit(tmp_path: Path) -> None:
    """Of tensorrt-sparse-ampere only what is pruned counts."""
    limits: dict[str, Any] = {"min_eligible": 0.5, "target": "tensorrt-sparse-ampere"}
    shares = [
        counted(Limit.MIN_ELIGIBLE, dense_layers(tmp_path / f"{full}.tflite", (256, 256), full=full), **limits).actual
        for full in (None, 0)
    ]
    assert shares == [1.0, 0.0]
    weights = onnx.tensor("k", onnx.FLOAT, (256, 256), onnx.raw(np.zeros((256, 256), "f4").tobytes()))
    graph = onnx.graph([onnx.node("MatMul", ["x", "k"], ["y"])], [weights])
    (tmp_path / "m.onnx").write_bytes(onnx.model(graph))
    assert counted(Limit.MIN_ELIGIBLE, tmp_path / "m.onnx", **limits).unknown is Unknown.NOT_COUNTED

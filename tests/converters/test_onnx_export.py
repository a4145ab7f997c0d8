"""ONNX files: read back, run by ONNX Runtime, and what goes wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.artifact import Format, Precision
from edgeprune.converters.exported import said_of
from edgeprune.converters.exports import OPSET, check_export, check_opset
from edgeprune.converters.file_checks import kernel_zeros
from edgeprune.converters.packaging import AppOptions, check_words
from edgeprune.converters.parity import sqnr_db
from edgeprune.converters.verification import bisect_file, opened
from edgeprune.errors import ConversionError, MissingExtra, UsageError
from edgeprune.formats.metadata import ImageInput
from edgeprune.formats.precision import onnx_precision
from edgeprune.formats.weights import Role
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.runtime.session import run_onnx

pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")

# Precision -> smallest SQNR, decibels, of the small image model (three quarters of its kernels are zero).
PRECISIONS = {Precision.FLOAT32: 100, Precision.FLOAT16: 50, Precision.INT8: 25}


def samples(model: Any, count: int = 20) -> dict[str, np.ndarray]:
    """Samples of a model's inputs; whole numbers are indexes below 6."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=(count, *shape[1:])).astype(dtype)
        if dtype.startswith("float")
        else rng.integers(0, 6, (count, *shape[1:])).astype(dtype)
        for name, (shape, dtype) in input_specs(model).items()
    }


@pytest.fixture(scope="module")
def pruned(image_model: Any) -> Any:
    """A model of which three quarters of the kernels are zero, with a normalisation behind a convolution."""
    return prune_magnitude(image_model, MagnitudeOptions(sparsity=0.75)).model


@pytest.fixture(scope="module")
def mixed(keras: Any) -> Any:
    """Text and sound: an embedding with a mask, LSTM, a GRU both ways, attention with the exact GELU, grouped and
    depthwise convolutions with a normalisation; two outputs."""
    layers = keras.layers
    ids, sound = keras.Input((6,), dtype="int32", name="ids"), keras.Input((8, 8, 4), name="sound")
    words = layers.Embedding(6, 8, mask_zero=True)(ids)
    states = layers.LSTM(4, return_sequences=True)(layers.Dense(4)(words))
    attended = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(words, words))
    read = layers.Bidirectional(layers.GRU(3))(layers.Dense(8, activation="gelu")(attended))
    heard = layers.BatchNormalization(name="norm")(layers.DepthwiseConv2D(3)(layers.Conv2D(8, 3, groups=2)(sound)))
    heard = layers.GlobalAveragePooling2D()(
        layers.Conv2DTranspose(4, 3, strides=2)(layers.Activation("hard_silu")(heard))
    )
    both = layers.Concatenate()([layers.GlobalAveragePooling1D()(states), read, heard])
    model = keras.Model([ids, sound], {"kind": layers.Dense(3, name="kind")(both), "level": layers.Dense(1)(both)})
    rng = np.random.default_rng(1)
    model.get_layer("norm").moving_variance.assign(rng.uniform(0.5, 1.5, 8))
    model.get_layer("norm").moving_mean.assign(rng.uniform(-0.5, 0.5, 8))
    return model


@pytest.mark.slow
def test_recurrent_and_attention_layers(mixed: Any, converter: Any, tmp_path: Path) -> None:
    """Both outputs under their names, equal for one sample and for a batch: the batch stays free, the layout the
    model's, a normalisation behind a depthwise convolution is folded, and the same model gives the same bytes."""
    made = converter.export(mixed, tmp_path / "m.onnx", Format.ONNX, Precision.FLOAT32)
    given = samples(mixed)
    found, expected = run_onnx(made.path, given).outputs, predict(mixed, given)
    assert list(found) == ["kind", "level"]
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() <= 1e-5 * np.ptp(values)
    ends = made.contents.onnx
    assert {end.name: end.shape for end in ends.inputs} == {"ids": (None, 6), "sound": (None, 8, 8, 4)}
    assert ends.opset == OPSET
    assert onnx_precision(made.contents) == "float32"
    assert "BatchNormalization" not in {layer.kind for layer in made.contents.layers}
    again = converter.export(mixed, tmp_path / "n.onnx", Format.ONNX, Precision.FLOAT32)
    assert again.sha256 == made.sha256


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_zeros_survive(pruned: Any, converter: Any, tmp_path: Path, precision: Precision) -> None:
    """Every zero of the model's kernels is one of the file's, next to the model's outputs."""
    given = samples(pruned)
    made = converter.export(
        pruned, tmp_path / "m.onnx", Format.ONNX, precision, calibration=given, app=AppOptions(author="A. Maker")
    )
    found, expected = run_onnx(made.path, given).outputs["scores"], predict(pruned, given)["scores"]
    noise = sqnr_db(expected, found)
    assert noise is None or noise >= PRECISIONS[precision]
    weights = [a for layer in made.contents.layers for a in layer.arrays if a.role is Role.WEIGHT]
    elements, zeros = kernel_zeros(pruned)
    assert sum(array.elements for array in weights) == elements
    held = sum(array.zeros for array in weights)
    assert held >= zeros if precision is Precision.INT8 else held == zeros
    assert {array.precision for array in weights} == {str(precision)}
    assert onnx_precision(made.contents) == precision
    assert b"A. Maker" in made.path.read_bytes()
    said = said_of(made, pruned)
    assert ("sparse tactics" in said[0]) if precision is Precision.INT8 else not said


@pytest.mark.slow
def test_layers_are_found(pruned: Any, converter: Any, tmp_path: Path) -> None:
    """A bisection finds every layer in a sound file, and names the layer of a kernel that was changed."""
    import onnx
    from onnx import numpy_helper

    made = converter.export(pruned, tmp_path / "m.onnx", Format.ONNX, Precision.FLOAT32)
    given = samples(pruned, 4)
    assert bisect_file(opened(made), pruned, given).first is None
    model = onnx.load(str(made.path))
    kernel = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [12, 8, 1, 1])
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, str(made.path))
    first = bisect_file(opened(made), pruned, given).first
    assert first is not None
    assert first.layer == "point"


@pytest.mark.slow
def test_unknown_operation(keras: Any, converter: Any, tmp_path: Path) -> None:
    """An operation that ONNX has not is named, and nothing is left."""
    import tensorflow as tf

    class Lgamma(keras.layers.Layer):  # type: ignore[misc,name-defined]
        """Computes what ONNX has no operation for."""

        def call(self, x: Any) -> Any:
            return tf.math.digamma(x)

    x = keras.Input((3,), name="x")
    with pytest.raises(ConversionError, match=r"onnx float32: tf2onnx cannot write Digamma as ONNX of opset 17: repl"):
        converter.export(keras.Model(x, Lgamma()(x)), tmp_path / "m.onnx", Format.ONNX, Precision.FLOAT32)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
def test_a_run_exports_onnx(call: Callable[..., Any], recipe: Callable[..., Path], work: Path) -> None:
    """A recipe's .onnx files are scored by ONNX Runtime, and stand in summary and report; `verify` agrees with them."""
    exports = "".join(f'[[exports]]\nformat = "onnx"\nprecision = "{word}"\n' for word in ("float32", "int8"))

    done = call("run", recipe(exports), "-o", work / "out", "-q")
    assert done.code == 0, done.err
    report = (work / "out" / "report.md").read_text()
    for word in ("float32", "int8"):
        assert f"accuracy of model.{word}.onnx" in done.out
        assert f"model.{word}.onnx" in report
    assert "latency of model.float32.onnx, model.int8.onnx; edgeprune bench FILE times it" in done.out
    file = work / "out" / "model.float32.onnx"
    told = call("verify", file, "--against", work / "model.keras", "--data", work / "test.npz", "-q")
    assert (told.code, told.out.splitlines()[-1]) == (0, "agrees"), told.err
    assert "run by onnxruntime" in told.out


def test_what_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opsets that there are not, words that a file has no place for, and packages that are missing."""
    check_opset(Format.ONNX, 13)
    with pytest.raises(UsageError, match=r"--opset is a number from 13 to 18; got 12"):
        check_opset(Format.ONNX, 12)
    with pytest.raises(UsageError, match=r"--opset is for onnx; got tflite"):
        check_opset(Format.TFLITE, 17)
    check_words(Format.ONNX, AppOptions(author="A", version="1", softmax=True))
    for options, word in (
        (AppOptions(image=ImageInput(name="x")), "--image-input"),
        (AppOptions(class_labels=("a",)), "--class-labels"),
        (AppOptions(name="n"), "name is for a .tflite file"),
    ):
        with pytest.raises(UsageError, match=word):
            check_words(Format.ONNX, options)
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else known(name))
    with pytest.raises(MissingExtra, match=r"an ONNX export needs tf2onnx, .*'edgeprune\[onnx\]'"):
        check_export(Format.ONNX, Precision.FLOAT32)


def test_a_message_that_grows_is_given_back() -> None:
    """Each step of tf2onnx writes a node anew: into another message, for one that is cleared keeps its memory."""
    from onnx import TensorProto, helper
    from tf2onnx.graph import GraphUtil

    from edgeprune.converters.onnx_repairs import repair_tf2onnx

    repair_tf2onnx()
    value = helper.make_tensor("value", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    nodes = [helper.make_node("Constant", [], ["c"], name="c", value=value), helper.make_node("Neg", ["c"], ["y"], "n")]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    model = helper.make_model(helper.make_graph(nodes, "g", [], [y]), opset_imports=[helper.make_opsetid("", 17)])
    (node,) = [node for node in GraphUtil.create_graph_from_onnx_model(model).get_nodes() if node.is_const()]
    node.update_proto()
    before = node.op
    node.update_proto()
    assert node.op is not before
    assert node.op.SerializeToString() == before.SerializeToString()

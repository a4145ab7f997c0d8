"""Real conversions: names, order, numbers, zeros, and a converter process that dies or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.artifact import Format, Precision, sha256_of
from edgeprune.converters.exports import check_export, check_io_type
from edgeprune.converters.frozen import FrozenGraph, FrozenTensor, freeze
from edgeprune.converters.refusals import one_line
from edgeprune.converters.session import Converter
from edgeprune.converters.tflite import positive_zeros
from edgeprune.errors import ConversionError, Unsupported, UsageError
from edgeprune.formats import read_graph
from edgeprune.formats.input_sizes import InputSizes
from edgeprune.maker.keras.models import predict
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.runtime.session import installed_runtimes, run_tflite

RUNTIME = next(reversed(installed_runtimes()), "")
RNG = np.random.default_rng(0)
# A program that converts in a copy of itself, kills the copy, and begins another child.
COPIED = """
import os, signal, sys
from pathlib import Path
from edgeprune.artifact import Format, Precision
from edgeprune.converters.session import Converter
from edgeprune.errors import ConversionError
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.starting import at_start
place, converter = Path(sys.argv[1]), Converter()
with at_start(converter.start):
    model = load_model(place / "m.keras")
with converter:
    converter.export(model, place / "m.tflite", Format.TFLITE, Precision.FLOAT32)
    converter.export(model, place / "m.mlpackage", Format.COREML, Precision.FLOAT16)
    print(converter._copied)
    os.kill(converter._child.pid, signal.SIGSEGV)
    try:
        converter.export(model, place / "n.tflite", Format.TFLITE, Precision.FLOAT32)
    except ConversionError as error:
        print("died of SIGSEGV" if "died of SIGSEGV" in str(error) else error)
    converter.start()
    print(converter._copied)
"""


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(1).normal(size=(count, 8, 8, 1)).astype(np.float32)}


@pytest.fixture(scope="module")
def pruned(image_model: Any) -> Any:
    """The image model, three quarters of its kernels zero; half its normalisation scales are negative."""
    return prune_magnitude(image_model, MagnitudeOptions(sparsity=0.75)).model


@pytest.mark.parametrize(
    ("model_format", "precision", "target", "word"),
    [
        (Format.TFLITE, Precision.SPARSE, "iOS16", "tflite has no precision 'sparse'"),
        (Format.COREML, Precision.DYNAMIC, "iOS16", "coreml has no precision 'dynamic'"),
        (Format.KERAS, Precision.FLOAT32, "iOS16", "unknown export format 'keras'; known: tflite, coreml, onnx"),
        (Format.COREML, Precision.INT8, "iOS15", "iOS 16 or newer"),
        (Format.COREML, Precision.SPARSE, "iOS15", "iOS 16 or newer"),
        (Format.COREML, Precision.FLOAT16, "iOS14", "unknown deployment target"),
    ],
)
def test_exports_that_do_not_exist(model_format: Format, precision: Precision, target: str, word: str) -> None:
    """A combination that cannot be exported is refused before anything is imported."""
    with pytest.raises(UsageError, match=word):
        check_export(model_format, precision, target)


def test_a_graph_survives_the_way_to_the_child() -> None:
    """What the parent tells the child as JSON is what the child reads."""
    end = FrozenTensor(name="x", node="x:0", shape=(1, 2), dtype="float32")
    wide = replace(end, shape=(1, None), sizes=InputSizes.parse("1,2..4"))
    graph = FrozenGraph(path=Path("g.pb"), inputs=(end, wide), outputs=(end, end))
    assert FrozenGraph.from_json(graph.to_json()) == graph


def test_open_sizes_are_refused(keras: Any, tmp_path: Path) -> None:
    """A phone needs sizes: an input without them is refused by name, with what to type."""
    x = keras.Input((None, 4), name="text")
    with pytest.raises(Unsupported, match=r"'text' has the open shape \(None, 4\); .*--input-shape text=1,\.\.\.,4"):
        freeze(keras.Model(x, keras.layers.Dense(2)(x)), tmp_path / "g.pb")


def test_a_converter_ends_with_its_last_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What nobody closes goes with the object: its folder does not stay."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lone = Converter()
    assert lone._folder.is_dir()
    del lone
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "reason", "line"),
    [
        ("ValueError", "", "ValueError"),
        ("ValueError", "short", "ValueError: short"),
        ("KeyError", "KeyError: x", "KeyError: x"),
        ("E", "first\n  <unknown>:0: error: op is not supported\nmore", "E: <unknown>:0: error: op is not supported"),
        ("E", "x" * 999, "E: " + "x" * 300),
        (
            "ConverterError",
            "<unknown>:0: error: failed while converting: 'main': \nTF Select ops: Erf, Sinh\nDetails:\n\ttf.Erf",
            "TFLite has no operation for Erf, Sinh in any precision: replace it in the model",
        ),
        (
            "RuntimeError",
            "Quantization to 16x8-bit not yet supported for op: 'ELU'.\n" * 2,
            "TFLite has no int16x8 kernel for ELU: leave these in float with --float-fallback (in a recipe: "
            "float_fallback = true), or use --precision int8 or dynamic",
        ),
        (
            "RuntimeError",
            "Max and min for dynamic tensors should be recorded during calibration: Failed for tensor "
            "serving_default_words:0\nEmpty min/max for tensor serving_default_words:0",
            "int16x8 cannot quantize the arithmetic on whole numbers that reads 'words' (a mask of padding, a "
            "comparison): use --precision int8 or dynamic",
        ),
    ],
)
def test_a_long_complaint_becomes_one_line(kind: str, reason: str, line: str) -> None:
    """Of a converter's pages the telling line is kept."""
    assert one_line(kind, reason, "int16x8") == line


@pytest.mark.parametrize(
    ("model_format", "precision", "io_type", "fine"),
    [
        (Format.TFLITE, Precision.INT8, "int8", True),
        (Format.TFLITE, Precision.INT16X8, "int16", True),
        (Format.TFLITE, Precision.INT8, "uint8", True),
        (Format.TFLITE, Precision.INT16X8, "int8", False),
        (Format.TFLITE, Precision.INT8, "int16", False),
        (Format.TFLITE, Precision.DYNAMIC, "int8", False),
        (Format.COREML, Precision.INT8, "int8", False),
        (Format.COREML, Precision.INT8, "float32", True),
    ],
)
def test_types_of_the_ends(model_format: Format, precision: Precision, io_type: str, fine: bool) -> None:
    """Integer inputs and outputs are those of the file's own precision; anything else is refused, never ignored."""
    if fine:
        check_io_type(model_format, precision, io_type)
        return
    with pytest.raises(
        UsageError, match=f"{model_format} {precision} has inputs and outputs of float32.*not {io_type}"
    ):
        check_io_type(model_format, precision, io_type)


def most_scales(path: Path) -> int:
    """The largest number of scales that a tensor of the file has: one a channel of a kernel, or one for all."""
    import tflite

    model: Any = tflite.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    found = (graph.Tensors(index).Quantization() for index in range(graph.TensorsLength()))
    return max(told.ScaleLength() for told in found if told is not None)


def negative_zeros(path: Path) -> int:
    """-0.0 among the float32 and float16 constants of a .tflite file, by their bytes."""
    import tflite

    model: Any = tflite.Model.GetRootAs(path.read_bytes(), 0)
    count = 0
    for part in range(model.SubgraphsLength()):
        for index in range(model.Subgraphs(part).TensorsLength()):
            tensor = model.Subgraphs(part).Tensors(index)
            words = {tflite.TensorType.FLOAT32: "<u4", tflite.TensorType.FLOAT16: "<u2"}.get(tensor.Type())
            stored = model.Buffers(tensor.Buffer())
            if words and stored.DataLength():
                bits = stored.DataAsNumpy().view(words)
                count += int((bits == 1 << (8 * bits.itemsize - 1)).sum())
    return count


def test_negative_zeros_are_turned() -> None:
    """-0.0 of a float file becomes +0.0; a second pass changes nothing."""
    content = bytearray((TESTS / "files" / "float32_sparse.tflite").read_bytes())
    zeros = [i for i in range(0, len(content) - 4, 4) if content[i : i + 4] == bytes(4)]
    made = positive_zeros(bytes(content))
    assert positive_zeros(made) == made
    assert zeros


@pytest.mark.slow
@pytest.mark.skipif(not RUNTIME, reason="no TFLite runtime is installed")
class TestTflite:
    """Files from the TFLite converter."""

    @pytest.mark.parametrize(
        ("precision", "limit"), [(Precision.FLOAT32, 1e-5), (Precision.FLOAT16, 2e-3), (Precision.DYNAMIC, 2e-2)]
    )
    def test_float_files(self, converter: Any, pruned: Any, tmp_path: Path, precision: Precision, limit: float) -> None:
        """The file computes what the model computes, keeps every zero and holds no -0.0."""
        artifact = converter.export(pruned, tmp_path / "m.tflite", Format.TFLITE, precision)
        x = images(20)
        expected = predict(pruned, x)
        found = run_tflite(artifact.path, x, runtime=RUNTIME)
        assert list(found.outputs) == ["scores"]
        assert np.abs(found.outputs["scores"] - expected["scores"]).max() <= limit
        graph = read_graph(artifact.path)
        assert [(s.name, s.inputs, s.outputs) for s in graph.signatures] == [
            ("serving_default", ("image",), ("scores",))
        ]
        # Kernels: conv 72, depthwise 72 (dense), point 96, scores 36; three of them are three quarters zero.
        assert graph.weight_elements == 276
        assert graph.weight_zeros >= 153
        assert negative_zeros(artifact.path) == 0
        assert artifact.sha256 == sha256_of(artifact.path)

    @pytest.mark.parametrize("io_type", ["float32", "int8", "uint8"])
    def test_int8_file(self, converter: Any, pruned: Any, tmp_path: Path, io_type: str) -> None:
        """Full integer: zeros stay zeros, inputs and outputs have the asked type, classes mostly agree; a kernel has a
        scale for each of its channels, or a single one where that is asked."""
        asked: dict[str, Any] = {"io_type": io_type, "calibration": images(50), "per_tensor": io_type == "uint8"}
        artifact = converter.export(pruned, tmp_path / "m.tflite", Format.TFLITE, Precision.INT8, **asked)
        x = images(40)
        found = run_tflite(artifact.path, x, runtime=RUNTIME)
        assert most_scales(artifact.path) == (1 if io_type == "uint8" else 12)
        assert found.input_dtypes == {"image": io_type}
        assert found.output_dtypes == {"scores": io_type}
        assert np.abs(found.outputs["scores"] - predict(pruned, x)["scores"]).max() < 0.1
        graph = read_graph(artifact.path)
        assert graph.weight_elements == 276
        assert graph.weight_zeros >= 153

    def test_names_and_order(self, converter: Any, keras: Any, tmp_path: Path) -> None:
        """Two inputs and two outputs keep their names, whatever the order of the alphabet."""
        late, early = keras.Input((3,), name="zeta"), keras.Input((2,), name="alpha")
        both = keras.layers.Concatenate()([late, early])
        outputs = [keras.layers.Dense(n, name=name)(both) for name, n in (("scores", 4), ("area", 1))]
        model = keras.Model([late, early], outputs)
        artifact = converter.export(model, tmp_path / "m.tflite", Format.TFLITE, Precision.FLOAT32)
        x = {name: RNG.normal(size=(6, n)).astype(np.float32) for name, n in (("alpha", 2), ("zeta", 3))}
        found, expected = run_tflite(artifact.path, x, runtime=RUNTIME).outputs, predict(model, x)
        assert {name: a.shape for name, a in found.items()} == {"scores": (6, 4), "area": (6, 1)}
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)

    @pytest.mark.parametrize("io_type", ["float32", "int8"])
    def test_integer_inputs(self, converter: Any, keras: Any, tmp_path: Path, io_type: str) -> None:
        """Indexes stay int32 inputs in an int8 file; their sibling of floats has the asked type."""
        index, size = keras.Input((2,), dtype="int32", name="index"), keras.Input((3,), name="size")
        words = keras.layers.Flatten()(keras.layers.Embedding(10, 4, name="words")(index))
        h = keras.layers.Dense(8, activation="relu")(keras.layers.Concatenate()([words, size]))
        model = keras.Model([index, size], keras.layers.Dense(3, name="scores")(h))
        x = {
            "index": RNG.integers(0, 10, (40, 2)).astype(np.int32),
            "size": RNG.normal(size=(40, 3)).astype(np.float32),
        }
        artifact = converter.export(
            model, tmp_path / "m.tflite", Format.TFLITE, Precision.INT8, io_type=io_type, calibration=x
        )
        found, expected = run_tflite(artifact.path, x, runtime=RUNTIME), predict(model, x)
        assert found.input_dtypes == {"index": "int32", "size": io_type}
        assert found.output_dtypes == {"scores": io_type}
        assert np.abs(found.outputs["scores"] - expected["scores"]).max() < 0.1 * np.ptp(expected["scores"])

    def test_inputs_in_a_dict(self, converter: Any, keras: Any, tmp_path: Path) -> None:
        """A model called with a dict is exported with each input under its own name."""
        ends = {name: keras.Input((n,), name=name) for name, n in (("zeta", 3), ("alpha", 2))}
        joined = keras.layers.Concatenate()([ends["zeta"], ends["alpha"]])
        model = keras.Model(ends, keras.layers.Dense(2, name="d")(joined))
        artifact = converter.export(model, tmp_path / "m.tflite", Format.TFLITE, Precision.FLOAT32)
        x = {name: RNG.normal(size=(5, n)).astype(np.float32) for name, n in (("zeta", 3), ("alpha", 2))}
        found = run_tflite(artifact.path, x, runtime=RUNTIME).outputs
        np.testing.assert_allclose(found["d"], predict(model, x)["d"], atol=1e-5)

    def test_no_calibration(self, converter: Any, pruned: Any, tmp_path: Path) -> None:
        """int8 without samples is a usage error."""
        with pytest.raises(UsageError, match="calibration set"):
            converter.export(pruned, tmp_path / "m.tflite", Format.TFLITE, Precision.INT8)
        with pytest.raises(UsageError, match="calibration set"):
            converter.export(
                pruned,
                tmp_path / "m.tflite",
                Format.TFLITE,
                Precision.INT8,
                calibration={"image": np.zeros((0, 8, 8, 1))},
            )
        assert list(tmp_path.iterdir()) == []

    def test_the_same_file_twice(self, converter: Any, pruned: Any, tmp_path: Path) -> None:
        """Two exports of one model are equal byte by byte."""
        hashes = {
            converter.export(pruned, tmp_path / name, Format.TFLITE, Precision.FLOAT32).sha256
            for name in ("a.tflite", "b.tflite")
        }
        assert len(hashes) == 1


@pytest.mark.slow
class TestChild:
    """The converter's process when it fails."""

    def test_a_crash_an_end_and_new_starts(self, vector_model: Any, tmp_path: Path) -> None:
        """Outside a `with` it starts when it is first used. A killed child is an error, and the next export works; it
        ends when closed or at the end of a context, with its folder, and each new start makes the same file."""
        lone = Converter(timeout_s=300)

        def export(name: str) -> tuple[str, Any, Path]:
            made = lone.export(vector_model, tmp_path / name, Format.TFLITE, Precision.FLOAT32)
            assert lone._child is not None
            return made.sha256, lone._child, lone._folder

        first, child, _ = export("a.tflite")
        os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(ConversionError, match=r"tflite float32: .* died of SIGSEGV"):
            export("b.tflite")
        assert [p.name for p in tmp_path.iterdir()] == ["a.tflite"]
        second, child, folder = export("b.tflite")
        lone.close()
        assert (folder.exists(), Path(f"/proc/{child.pid}").exists()) == (False, False)
        with lone:
            third, child, folder = export("c.tflite")
        assert (folder.exists(), Path(f"/proc/{child.pid}").exists()) == (False, False)
        assert first == second == third
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tflite", "b.tflite", "c.tflite"]

    @pytest.mark.skipif(sys.platform != "linux", reason="no process is copied there")
    def test_a_copy_makes_the_same_files(self, converter: Any, vector_model: Any, tmp_path: Path) -> None:
        """A child that is a copy of a process that has imported TensorFlow, and computed nothing, makes the files that
        one of its own start makes; a crash of it is an error, and the next child is one of its own start."""
        vector_model.save(tmp_path / "m.keras")
        (tmp_path / "b").mkdir()
        told = subprocess.run(
            [sys.executable, "-P", "-c", COPIED, tmp_path], capture_output=True, text=True, check=False
        )
        assert told.stdout.splitlines() == ["True", "died of SIGSEGV", "False"], told.stderr
        for name, kind, precision in (
            ("m.tflite", Format.TFLITE, Precision.FLOAT32),
            ("m.mlpackage", Format.COREML, Precision.FLOAT16),
        ):
            converter.export(vector_model, tmp_path / "b" / name, kind, precision)
            assert sha256_of(tmp_path / name) == sha256_of(tmp_path / "b" / name), name

    def test_a_hang(self, pruned: Any, tmp_path: Path) -> None:
        """A child that does not answer in time is ended."""
        with Converter(timeout_s=0.05) as converter:
            with pytest.raises(ConversionError, match=r"did not finish within 0\.05 s"):
                converter.export(pruned, tmp_path / "a.tflite", Format.TFLITE, Precision.FLOAT32)
            assert converter._child is None
        assert list(tmp_path.iterdir()) == []

    def test_an_operation_that_cannot_be_converted(self, converter: Any, keras: Any, tmp_path: Path) -> None:
        """A converter's refusal is one line with its reason, and the child goes on."""
        x = keras.Input((4,), name="x")
        model = keras.Model(x, keras.ops.svd(keras.ops.reshape(x, (1, 2, 2)), compute_uv=False))
        with pytest.raises(ConversionError, match="tflite float32: ") as caught:
            converter.export(model, tmp_path / "a.tflite", Format.TFLITE, Precision.FLOAT32)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

"""`edgeprune variant`: another file of the same model, held against the one it was made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from places import TESTS
from sparse_networks import headed, plain

from edgeprune.checker.latency.sparsity import runs_sparse_kernels
from edgeprune.checker.sparse_kernels.ineligible import IneligibleError
from edgeprune.commands.bench import bench_warnings
from edgeprune.converters.sparse_exports import check_eligible
from edgeprune.formats import read_contents, read_graph
from edgeprune.formats.precision import tflite_precision
from edgeprune.ledger import schema_path
from edgeprune.runtime.session import newest_runtime, run_tflite

Call = Callable[..., Outcome]
FILES = TESTS / "files"


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A small network without zeros."""
    path = tmp_path / "dense.tflite"
    path.write_bytes(headed(plain(sparsity=0.0)))
    return path


def test_a_dense_file_becomes_a_sparse_one(call: Call, dense: Path, tmp_path: Path) -> None:
    """Pruned, rewritten, stored and run on every runtime in one command; what was done is told."""
    out = tmp_path / "sparse.tflite"
    done = call("variant", dense, "--sparsity", 0.8, "--sparse-kernels", "-o", out, "-q")
    assert done.code == 0, done.err
    assert runs_sparse_kernels(read_contents(out))
    assert read_graph(out).sparsity == pytest.approx(0.595, abs=0.01)  # the stem and the depthwise kernel stay dense
    for text in (
        "rewritten, rot180 in 2 layers",
        "rewritten, explicit-padding in 2 layers",
        "rewrites change outputs by at most",
        "on 64 samples",
        "% zeros in the 1x1 filters",
        "against dense.tflite on 8 random samples",
        "runs on: ",
        f"Written: {out}",
    ):
        assert text in done.out
    assert "in one shot, without fine-tuning" in done.err
    assert "pruning alone" not in done.err  # what noise is taken for says nothing


def test_another_precision_as_json(call: Call, dense: Path, tmp_path: Path) -> None:
    """float16 of real samples: the record is the one of a ledger."""
    np.savez(tmp_path / "data.npz", image=np.random.default_rng(0).random((3, 16, 16, 3), np.float32))
    out = tmp_path / "half.tflite"
    data = ("--data", tmp_path / "data.npz", "--scale", 2, "--offset", -1)
    done = call("variant", dense, "--precision", "float16", *data, "-o", out, "--json", "-q")
    assert done.code == 0, done.err
    told = json.loads(done.out)["output"]
    assert (told["precision"], told["sparse_kernels"], told["parity_on"]) == ("float16", None, "samples of data.npz")
    assert told["parity"][0]["samples"] == 3
    assert told["parity"][0]["relative_error"] < 0.01
    assert tflite_precision(read_graph(out)) == "float16"
    assert out.stat().st_size < 0.75 * dense.stat().st_size


def test_no_file_runs_more_often_than_it_must(
    call: Call, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof's outputs of the file as it was serve again; what pruning changes is told of real samples alone."""
    runs: list[tuple[str, int]] = []

    def counted(path: Path, inputs: Any, **more: Any) -> Any:
        runs.append((more["runtime"], len(inputs["image"])))
        return run_tflite(path, inputs, **more)

    for place in ("checker.sparse_kernels.proof", "converters.variants", "converters.evaluation"):
        monkeypatch.setattr(f"edgeprune.{place}.run_tflite", counted)
    asked = ("variant", dense, "--sparsity", 0.8, "--sparse-kernels", "-q")
    assert call(*asked, "-o", tmp_path / "random.tflite").code == 0
    newest = newest_runtime()
    assert [count for name, count in runs if name == newest] == [64, 64, 8]
    runs.clear()
    np.savez(tmp_path / "data.npz", image=np.random.default_rng(0).random((70, 16, 16, 3), np.float32))
    done = call(*asked, "--data", tmp_path / "data.npz", "-o", tmp_path / "real.tflite")
    assert (done.code, "pruning alone: the top class" in done.err) == (0, True)
    assert [count for name, count in runs if name == newest] == [64, 64, 64, 64]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "nothing to change; add --precision, --sparsity or --sparse-kernels"),
        (("--sparsity", 1.5), 2, "sparsity"),
        (("--precision", "float16", "--prefer", "install"), 2, "--prefer and --reversed-input are about"),
        (("--sparse-kernels",), 3, "condition f: 0.0% zeros in its 1x1 filters, and more than 66.7% are needed; prune"),
    ],
)
def test_what_cannot_be_asked(
    call: Call, dense: Path, tmp_path: Path, words: tuple[object, ...], code: int, told: str
) -> None:
    """One line, and no file."""
    done = call("variant", dense, *words, "-o", tmp_path / "out.tflite", "-q")
    assert (done.code, told in done.err, (tmp_path / "out.tflite").exists()) == (code, True, False), done.err


def test_files_that_cannot_be_changed(call: Call, dense: Path, tmp_path: Path) -> None:
    """Integers have lost their floats; what is missing or broken is said; an output that stands there stays."""
    out = tmp_path / "out.tflite"
    done = call("variant", FILES / "int8.tflite", "--precision", "float16", "-o", out)
    assert (done.code, "start from a float32 or float16 file" in done.err) == (3, True)
    assert call("variant", tmp_path / "none.tflite", "--precision", "float16", "-o", out).code == 4
    (tmp_path / "broken.tflite").write_bytes(dense.read_bytes()[:300])
    assert call("variant", tmp_path / "broken.tflite", "--precision", "float16", "-o", out).code == 4
    assert call("variant", dense, "--precision", "float16", "-o", dense).code == 2


def test_no_tensorflow(dense: Path, tmp_path: Path) -> None:
    """A variant loads neither TensorFlow nor Keras."""
    script = (
        "import sys\n"
        "from edgeprune.commands.cli import main\n"
        "try:\n"
        f"    main(['variant', {str(dense)!r}, '--precision', 'float16', '-o', {str(tmp_path / 'o.tflite')!r}, '-q'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True, capture_output=True)


@pytest.mark.slow
def test_convert_for_sparse_kernels(call: Call, keras: Any, tmp_path: Path) -> None:
    """A pruned Keras model is converted, rewritten and held against the model."""
    model = _mobile(keras)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.startswith(("point", "scores")):
            kernel = rng.normal(0, 0.3, layer.kernel.shape)
            layer.kernel.assign(np.where(rng.random(kernel.shape) < 0.8, 0, kernel))
    path, out = tmp_path / "model.keras", tmp_path / "out.tflite"
    model.save(path)
    done = call("convert", path, "--to", "tflite", "--sparse-kernels", "-o", out, "--json", "-q")
    assert done.code == 0, done.err
    told = json.loads(done.out)["output"]
    assert [item["name"] for item in told["sparse_kernels"]["rewrites"]] == ["rot180", "explicit-padding"]
    assert told["parity"][0]["relative_error"] < 1e-5
    assert runs_sparse_kernels(read_contents(out))
    _check_schema(told)


def _check_schema(told: dict[str, object]) -> None:
    """The part of the record that is new is as the schema says."""
    schema = json.loads(schema_path().read_text())["$defs"]["artifact"]["properties"]["sparse_kernels"]
    found = told["sparse_kernels"]
    assert isinstance(found, dict)
    assert set(found) == set(schema["required"]) == set(schema["properties"])


def _mobile(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(24, 1, activation="relu", name="point1")(x)
    x = layers.DepthwiseConv2D(3, 2, padding="same", activation="relu")(x)
    x = layers.Conv2D(32, 1, activation="relu", name="point2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(4, name="scores")(x))


def test_a_run_asks_before_it_trains(dense: Path, tmp_path: Path) -> None:
    """The dense file of a run tells whether its model can ever be eligible, however few zeros it has."""
    check_eligible(dense)
    network = plain()
    network.unary("SOFTMAX")
    (tmp_path / "never.tflite").write_bytes(headed(network))
    with pytest.raises(IneligibleError, match="a SOFTMAX"):
        check_eligible(tmp_path / "never.tflite")


def test_a_recipe_refuses_integers(call: Call, tmp_path: Path) -> None:
    """Sparse kernels are for float exports; said when the recipe is read."""
    lines = ['model = "m.keras"', "[data]", 'train = "t.npz"', 'test = "t.npz"', "[[steps]]", 'kind = "quantize"']
    lines += ["[[exports]]", 'format = "tflite"', 'precision = "int8"', "sparse_kernels = true"]
    (tmp_path / "r.toml").write_text("\n".join(lines) + "\n")
    done = call("run", tmp_path / "r.toml", "-o", tmp_path / "out")
    assert (done.code, "--sparse-kernels is for tflite float32 and float16" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("avx", "file", "told"), [(True, "eligible_sparse", 1), (False, "eligible_sparse", 0), (True, "float32", 0)]
)
def test_x86_runs_dense(monkeypatch: pytest.MonkeyPatch, avx: bool, file: str, told: int) -> None:
    """With AVX a file for sparse kernels is warned of before it is timed; without, and for other files, nothing is."""
    monkeypatch.setattr("edgeprune.host.processor.has_avx", lambda: avx)
    lines = bench_warnings((FILES / f"{file}.tflite",))
    assert len(lines) == told
    assert all("XNNPACK keeps its sparse kernels off" in line for line in lines)


def test_avx_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The flags of an x86, those of its wide vectors too; other processors have none."""
    from edgeprune.host import processor

    place = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "_CPUINFO", place)
    core = "flags : avx avx512bw avx512dq avx512f avx512vl"
    for machine, text, has, wide in (
        ("x86_64", "flags : fpu avx sse", True, False),
        ("x86_64", "flags : fpu sse", False, False),
        ("x86_64", "flags : avx avx512f", True, False),
        ("x86_64", core, True, True),
        ("x86_64", "model : 1", True, False),
        ("aarch64", "flags : avx", False, False),
        ("aarch64", core, False, False),
    ):
        place.write_text(text + "\n")
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert (processor.has_avx(), processor.has_avx512()) == (has, wide)


def test_what_convert_refuses_before_it_starts(call: Call, tmp_path: Path) -> None:
    """Sparse kernels of integers and of other formats."""
    for words in (("--to", "tflite", "--precision", "int8"), ("--to", "onnx")):
        out = tmp_path / f"out.{words[1]}"
        done = call("convert", tmp_path / "none.keras", *words, "--sparse-kernels", "-o", out, "--calibration", "t.npz")
        assert (done.code, "--sparse-kernels is for tflite float32 and float16" in done.err) == (2, True), done.err

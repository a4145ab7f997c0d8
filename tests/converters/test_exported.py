"""The record of a file that was made: one function for `convert` and for a recipe's run, and each file run once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

from edgeprune.artifact import SUFFIXES, Artifact, DeploymentTarget, Format, Precision
from edgeprune.checker.size.account import account
from edgeprune.converters import evaluation
from edgeprune.converters.exports import EXPORTS, TARGETS, USUAL, format_of
from edgeprune.converters.file_checks import kernel_zeros, refuse_lost_sparsity
from edgeprune.converters.packaging import AppOptions, PackageOptions
from edgeprune.errors import ConversionError, UsageError
from edgeprune.formats import read_contents
from edgeprune.runtime.session import installed_runtimes

EXPORT = '[[exports]]\nformat = "tflite"\nprecision = "float32"\n'


@pytest.mark.slow
@pytest.mark.skipif(not installed_runtimes(), reason="no TFLite runtime is installed")
@pytest.mark.usefixtures("one_converter")
def test_a_file_that_ships_is_run_once(
    call: Callable[..., Any], recipe: Callable[..., Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage's file that becomes an export was run on every runtime when it was made, and is not run again; `convert`
    gives the same record of the same file."""
    ran: list[str] = []
    known = evaluation.run_on_runtimes

    def counted(path: Path, *given: Any, **named: Any) -> Any:
        ran.append(path.name)
        return known(path, *given, **named)

    monkeypatch.setattr(evaluation, "run_on_runtimes", counted)
    done = call("run", recipe(EXPORT), "-o", work / "out", "-q")
    assert (done.code, ran) == (0, ["model.dense.float32.tflite"])
    ledger = json.loads((work / "out" / "ledger.json").read_text())
    (entry,) = ledger["stages"][0]["artifacts"]
    assert (entry["path"], entry["exported"], entry["metric"]["file"]) == ("model.float32.tflite", True, entry["path"])
    assert [run["name"] for run in entry["runtimes"]] == list(installed_runtimes())
    assert ledger["stages"][0]["metric"] == entry["metric"]
    options = ("--to", "tflite", "--data", work / "test.npz", "-o", work / "m.tflite", "--json", "-q")
    alone = json.loads(call("convert", work / "model.keras", *options).out)["output"]
    assert alone.keys() == entry.keys()
    same = set(entry) - {"path", "metric", "metrics", "seconds"}
    assert {key: alone[key] for key in same} == {key: entry[key] for key in same}


def test_tables_of_exports() -> None:
    """Each format that is written has an ending and a usual precision, and each deployment target a line."""
    assert EXPORTS.keys() == SUFFIXES.keys() == USUAL.keys()
    assert all(USUAL[known] in precisions for known, precisions in EXPORTS.items())
    assert list(TARGETS) == list(DeploymentTarget)
    assert sorted(each for brought in TARGETS.values() for each in brought) == sorted(EXPORTS[Format.COREML])
    assert [format_of(Path(f"m{ending}")) for ending in SUFFIXES.values()] == list(SUFFIXES)
    with pytest.raises(UsageError, match=r"m\.pb: an exported file ends in \.tflite or \.mlpackage or \.onnx"):
        format_of(Path("m.pb"))


def test_one_mapping_of_package_options(tmp_path: Path) -> None:
    """Every option reaches the package; those that belong together are refused alone."""
    (tmp_path / "labels.txt").write_text("a\nb\n")
    words = {"author": "A", "license": "L", "description": "D", "version": "V"}
    given = PackageOptions(image_input="x", class_labels=Path("labels.txt"), **words).below(tmp_path)
    made = given.resolved(scale=0.5, bias=(-1.0,))
    assert made.image is not None
    assert (made.image.name, made.image.scale, made.image.bias, made.image.color) == ("x", 0.5, (-1.0,), "RGB")
    assert (made.class_labels, made.author, made.license) == (("a", "b"), "A", "L")
    assert (made.description, made.version, made.target) == ("D", "V", "iOS16")
    assert AppOptions.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert made.told
    assert not PackageOptions(deployment_target=DeploymentTarget.IOS18).resolved().told


def test_lost_zeros(keras: Any, tmp_path: Path) -> None:
    """A file that lost the zeros of its model is refused; zeros of states, slopes and statistics are no kernels', and a
    file that holds other weights beside the kernels has lost nothing."""
    x = keras.Input(batch_shape=(1, 5, 8))
    layers = [
        keras.layers.PReLU(),
        keras.layers.LSTM(4, stateful=True, name="lstm"),
        keras.layers.Dense(4, name="last"),
    ]
    model = keras.Sequential([x, *layers])
    assert kernel_zeros(model) == (16 * (8 + 4) + 16, 0)
    kernel, bias = model.get_layer("last").get_weights()
    kernel[:3] = 0
    model.get_layer("last").set_weights([kernel, bias])
    assert kernel_zeros(model) == (208, 12)
    made = Artifact(path=tmp_path / "m.tflite", format=Format.TFLITE, precision=Precision.INT8, sha256="")
    known = account(read_contents(TESTS / "files" / "int8.tflite"), ("deflate",), shares=False, bounds=False)
    with pytest.raises(
        ConversionError, match=r"sparsity was lost in the conversion to int8: 5\.8% of the model's weights"
    ):
        refuse_lost_sparsity(made, replace(known, weights=208, zeros=2, sparsity=2 / 208), model)
    refuse_lost_sparsity(made, replace(known, weights=2080, zeros=12, sparsity=12 / 2080), model)
    refuse_lost_sparsity(made, replace(known, weights=None, zeros=None, sparsity=None), model)

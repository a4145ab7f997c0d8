"""One account of a file: ledger, check, inspect and compare say the same of every sample and every format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from compiled_zoo import HALF, PALETTE, text
from compiled_zoo import model as compiled
from places import ROOT, TESTS
from two_layers import PARAMETERS, SPARSITY, WRITERS

from edgeprune.artifact import Format, Precision
from edgeprune.checker.size.account import account
from edgeprune.converters.evaluation import Evaluated
from edgeprune.converters.exported import artifact_entry
from edgeprune.converters.session import Exported
from edgeprune.formats import read_contents
from edgeprune.formats.weights import Role, Uses

SUFFIXES = (".tflite", ".mlpackage", ".mlmodel", ".keras", ".h5", ".onnx")
SAMPLES = [
    path
    for folder in (ROOT / "sample_models", TESTS / "files", TESTS / "runtime_files")
    for path in sorted(folder.rglob("*"))
    if path.suffix in SUFFIXES and path.name not in ("endless.h5", "model.mlmodel", "broken.tflite")
]
FACTS = ("sparsity", "parameters", "macs", "raw_bytes")


@pytest.fixture(params=[*SAMPLES, *WRITERS, "half.mlmodelc", "palette.mlmodelc"], ids=lambda item: Path(item).name)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model file: a sample, or one written here."""
    if isinstance(request.param, Path):
        return request.param
    path = tmp_path / request.param
    if request.param in WRITERS:
        WRITERS[request.param](path)
        return path
    package, lines = {"half": ("half", HALF), "palette": ("palette4", PALETTE)}[path.stem]
    return compiled(tmp_path, package, text(*lines, old=True))


def of(found: Mapping[str, Any]) -> dict[str, Any]:
    """What all must agree about."""
    return {**{name: found[name] for name in FACTS}, "deflate": found["download_bytes"]["deflate"]}


def ledger_entry(path: Path) -> dict[str, Any] | None:
    """What a ledger says of a file; None where a run makes no such file."""
    formats = {".tflite": Format.TFLITE, ".mlpackage": Format.COREML}
    if path.suffix not in formats:
        return None
    contents = read_contents(path)
    made = Exported(
        path=path, format=formats[path.suffix], precision=Precision.FLOAT32, sha256="0" * 64, contents=contents
    )
    entry = artifact_entry(made, account(contents), Evaluated(note=""), path.name, None, True)
    return {name: getattr(entry, name) for name in (*FACTS, "download_bytes")}


def test_every_verb_says_the_same(call: Any, model: Path) -> None:
    """Sparsity, parameters, MACs, install and download, from one file by four ways."""
    (checked,) = json.loads(call("check", model, "--show", "--fast", "--json").out)["files"]
    (inspected,) = json.loads(call("inspect", model, "--json").out)["files"]
    compared = json.loads(call("compare", model, model, "--json").out)
    wanted = of(checked)
    assert of(inspected) == of(compared["before"]) == of(compared["after"]) == wanted
    entry = ledger_entry(model)
    if entry is not None:
        assert of(entry) == wanted


@pytest.mark.parametrize("path", [path for path in SAMPLES if path.suffix == ".tflite"], ids=lambda path: path.name)
def test_the_graph_says_the_same(path: Path) -> None:
    """What estimates and refusals read off a graph: its weights and zeros are those of the contents."""
    contents = read_contents(path)
    assert contents.graph is not None
    arrays = [array for layer in contents.layers for array in layer.arrays]
    weights = [array for array in arrays if array.role is Role.WEIGHT]
    assert contents.graph.weight_elements == sum(array.elements for array in weights)
    assert contents.graph.weight_zeros == sum(array.zeros or 0 for array in weights)
    assert contents.graph.parameters == sum(array.elements for array in arrays if array.parameter)
    assert contents.graph.macs == contents.macs


@pytest.mark.parametrize("name", WRITERS)
def test_a_dense_layer_of_one_unit_has_weights(call: Any, tmp_path: Path, name: str) -> None:
    """Its kernel is a column, and counts in every format: 8 zeros of 18 weights, and 3 biases."""
    WRITERS[name](tmp_path / name)
    (found,) = json.loads(call("check", tmp_path / name, "--show", "--fast", "--json").out)["files"]
    assert (found["sparsity"], found["parameters"]) == (SPARSITY, PARAMETERS)


@pytest.mark.parametrize(
    ("kind", "place", "shape", "role"),
    [
        ("Dense", "kernel", (8, 1), Role.WEIGHT),
        ("LSTM", "bias", (2, 64), Role.BIAS),
        ("Dense", "other", (8, 8), Role.BIAS),  # a known operation, and no place of its weights
        ("Add", "x", (196, 64), Role.BIAS),
        ("Own", "x", (8, 8), Role.WEIGHT),
        ("Own", "x", (1, 8, 1), Role.BIAS),
        ("", "table", (4, 4), Role.WEIGHT),
    ],
)
def test_the_rule(kind: str, place: str, shape: tuple[int, ...], role: Role) -> None:
    """By what an array is for; by its axes only where nothing tells that."""
    uses = Uses(weights={"Dense": ("kernel",)}, biases={"": ("bias",)}, elementwise=frozenset({"Add"}))
    assert uses.role(kind, place, shape) is role

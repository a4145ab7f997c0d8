"""Code to paste: whole outputs, hostile names, and Python code that is run."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.commands.inspect import inspect
from edgeprune.errors import Unsupported
from edgeprune.formats import read_graph
from edgeprune.formats.coreml.mil import Feature
from edgeprune.report.snippets import coreml_code, tflite_code
from edgeprune.report.snippets.languages import LANGUAGES
from edgeprune.report.snippets.values import LITERALS, Value, inputs_of

FILES, GOLDEN = TESTS / "files", TESTS / "golden"
NASTY = "a\"\n*/ ${x} \\(y) \u2028\u202e'{z}# é😀"
PICTURE = Value(name=NASTY, shape=(1, 4, 4, 3), dtype="uint8", scale=np.float32(0.0078125), zero_point=128)
COUNT = Value(name="count", shape=(1,), dtype="int32")
SCORES = Value(name="scores", shape=(1, 10), dtype="float32")
CLASSES = Value(name="classes", shape=(1, 5), dtype="uint8", scale=np.float32(0.1), zero_point=3)
TFLITE = (PICTURE, COUNT), (SCORES, CLASSES)
COREML = (
    (
        Feature(name=NASTY, kind="image", shape=(32, 64), color="RGB"),
        Feature(name="array", kind="array", shape=(1, 3), dtype="float32"),
    ),
    (
        Feature(name="logits", kind="array", shape=(1, 4), dtype="float16"),
        Feature(name="classLabel", kind="string"),
        Feature(name="probabilities", kind="dictionary"),
    ),
)
MADE = {
    "snippet_tflite.kt": tflite_code.kotlin_code("my model.tflite", *TFLITE),
    "snippet_tflite.swift": tflite_code.swift_code("my model.tflite", *TFLITE),
    "snippet_tflite.py.txt": tflite_code.python_code("my model.tflite", *TFLITE),
    "snippet_tflite.js": tflite_code.js_code("my model.tflite", *TFLITE),
    "snippet_coreml.swift": coreml_code.swift_code("My Model.mlpackage", *COREML),
    "snippet_coreml.py.txt": coreml_code.python_code("My Model.mlpackage", *COREML),
}


@pytest.mark.parametrize("name", MADE)
def test_whole_outputs(name: str) -> None:
    """Two inputs and outputs, scaled and not, one with a name that would end a string, a comment or a template."""
    assert MADE[name] == (GOLDEN / name).read_text()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_is_one_literal(language: str) -> None:
    """On one line, in ASCII, with nothing that a language reads in a string; the languages read the name back."""
    literal = LITERALS[language](NASTY + "\udc80")
    assert literal.isascii()
    assert re.fullmatch(r'"([^"\\${}*\'`\n]|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\u\{[0-9a-f]+\})*"', literal)
    read = {"python": ast.literal_eval, "kotlin": json.loads, "js": json.loads}.get(language)
    if read is not None:
        assert read(LITERALS[language](NASTY)) == NASTY
    else:
        back = re.sub(r"\\u\{([0-9a-f]+)\}", lambda found: chr(int(found[1], 16)), LITERALS[language](NASTY))
        assert back == f'"{NASTY}"'


def ran(code: str, monkeypatch: pytest.MonkeyPatch, outputs: list[np.ndarray]) -> tuple[list[Any], dict[str, Any]]:
    """What a program sets as inputs and calls its results, on an interpreter that gives these outputs."""
    given: list[Any] = []

    class Interpreter:
        def __init__(self, model_path: str) -> None:
            assert model_path == "my model.tflite"

        def allocate_tensors(self) -> None:
            """Nothing to do."""

        def get_input_details(self) -> list[dict[str, int]]:
            return [{"index": number} for number in range(9)]

        invoke, get_output_details = allocate_tensors, get_input_details
        set_tensor = staticmethod(given.insert)
        get_tensor = staticmethod(outputs.__getitem__)

    for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        module = types.ModuleType(name)
        module.Interpreter = Interpreter  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    names: dict[str, Any] = {}
    exec(compile(code, "snippet", "exec"), names)
    return given, names["results"]


def test_the_scaling_of_the_python_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros become the zero point, in the type of the file; outputs become numbers."""
    outputs = [np.ones((1, 10), np.float32), np.full((1, 5), 13, np.uint8)]
    given, results = ran(MADE["snippet_tflite.py.txt"], monkeypatch, outputs)
    assert [(item.dtype, item.shape) for item in given] == [(np.uint8, (1, 4, 4, 3)), (np.int32, (1,))]
    assert (given[0] == 128).all()
    assert np.allclose(results["classes"], 1.0)
    assert list(results) == ["scores", "classes"]


@pytest.mark.parametrize("file", [FILES / "int8.tflite", TESTS / "runtime_files" / "two_inputs.tflite"])
def test_the_python_code_runs(file: Path, call: Any) -> None:
    """As pasted, beside the file, on LiteRT."""
    pytest.importorskip("ai_edge_litert")
    code = call("inspect", file, "--snippet", "python").out + "print({k: v.shape for k, v in results.items()})"
    done = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'")


def test_types_that_a_runtime_has_not() -> None:
    """One line with those that it has; no code that would fail in the app."""
    whole = Value(name="x", shape=(1,), dtype="int8", scale=0.5)
    for code, runtime in ((tflite_code.js_code, "LiteRT.js"), (tflite_code.swift_code, "TensorFlowLiteSwift")):
        with pytest.raises(Unsupported, match=rf"{runtime} has no int8 tensors .*convert with --io-type float32"):
            code("x.tflite", (whole,), ())
    assert "coerceIn(-128, 127).toByte()" in tflite_code.kotlin_code("x.tflite", (whole,), ())
    with pytest.raises(Unsupported, match="no code for an input or output that is sequence"):
        coreml_code.swift_code("X.mlpackage", (Feature(name="x", kind="sequence"),), ())
    with pytest.raises(Unsupported, match="one name"):
        coreml_code.python_code("X.mlpackage", (COREML[0][0],) * 2, ())


def test_inputs_stand_in_the_order_of_the_graph() -> None:
    """That is not the order of the signature, which only gives the names."""
    graph = read_graph(TESTS / "runtime_files" / "two_inputs.tflite")
    assert graph.signatures[0].inputs == ("row", "value")
    assert [(value.name, value.dtype) for value in inputs_of(graph)] == [("value", "float32"), ("row", "int32")]


def test_as_a_user_types_it(call: Any) -> None:
    """The code alone on stdout; one line where there is none."""
    assert call("inspect", FILES / "half.mlpackage", "--snippet", "swift").out.startswith("// The model")
    assert '"image": float32, 1x8x8x2' in call("inspect", FILES / "int8.tflite", "--snippet", "kotlin").out
    refused = call("inspect", FILES / "half.mlpackage", "--snippet", "js").error(
        2, "there is no js code", "swift, python"
    )
    assert refused.endswith("Core ML (swift, python)")
    call("inspect", FILES / "int8.tflite", "--snippet", "js", "--json").error(2, "leave out --format")
    choices = {option.name: option.type for option in inspect.params}
    assert tuple(choices["language"].choices) == LANGUAGES  # type: ignore[attr-defined]
    assert tuple(choices["units"].choices) == tuple(coreml_code.COMPUTE_UNITS)  # type: ignore[attr-defined]


def test_compute_units(call: Any) -> None:
    """They stand where the app loads the model, for a Core ML package has no place for them."""
    package, units = FILES / "half.mlpackage", ("--compute-units", "cpuAndNeuralEngine")
    swift = call("inspect", package, "--snippet", "swift", *units).out
    assert "    configuration.computeUnits = .cpuAndNeuralEngine\n" in swift
    assert "MLModel(contentsOf: url, configuration: configuration)" in swift
    python = call("inspect", package, "--snippet", "python", *units).out
    assert 'MLModel("half.mlpackage", compute_units=ct.ComputeUnit.CPU_AND_NE)' in python
    call("inspect", FILES / "int8.tflite", "--snippet", "swift", *units).error(2, "--compute-units is for Core ML")
    call("inspect", package, *units).error(2, "add --snippet swift or --snippet python")

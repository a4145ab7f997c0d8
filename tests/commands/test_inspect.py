"""`edgeprune inspect`: the graph as a table, by hand, in each format."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from made_records import NASTY, layer, record
from places import TESTS

from edgeprune.report.inspect_report import INSPECT_FORMATS

FILES = TESTS / "files"
GOLDEN = TESTS / "golden"
NUMBERS = ("parameters", "zeros", "raw_bytes", "deflate_bytes", "bound_bytes", "macs")
MADE = record(
    layers=(
        layer("stem", bound_bytes=1050),
        layer("relu", kind="RELU", precision=None, **dict.fromkeys(NUMBERS, 0)),
        layer("odd", kind="MyOp", group="subgraph 1", shape=None, zeros=None, macs=None, bound_bytes=None),
    ),
    note="a note",
)


@pytest.mark.parametrize(("name", "suffix"), [("text", "txt"), ("markdown", "md"), ("csv", "csv"), ("json", "json")])
def test_whole_outputs(name: str, suffix: str) -> None:
    """A made-up file: an operation with weights, one without, one of which little is known."""
    assert INSPECT_FORMATS[name]([MADE]) == (GOLDEN / f"inspect.{suffix}").read_text()


def test_every_operation_is_a_row(call: Any) -> None:
    """Of the int8 network in order, with precision, parameters, zeros, MACs and bytes from its making."""
    rows = list(csv.DictReader(io.StringIO(call("inspect", FILES / "int8.tflite", "--format", "csv").out)))
    kinds = ["QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE", "FULLY_CONNECTED", "DEQUANTIZE"]
    assert [row["kind"] for row in rows] == kinds
    conv = rows[1]
    assert (conv["precision"], conv["shape"], conv["parameters"], conv["zeros"]) == ("int8", "1x6x6x8", "152", "120")
    assert (conv["macs"], conv["raw_bytes"]) == ("5184", str(144 + 32))


def test_rows_and_rest_add_up_to_the_file(call: Any) -> None:
    """To the byte: layers, what is beside them, and the size that the operating system tells."""
    for name in ("float32.tflite", "float32_sparse.tflite"):
        (found,) = json.loads(call("inspect", FILES / name, "--json").out)["files"]
        layers = sum(item["raw_bytes"] for item in found["layers"])
        rest = sum(count for section, count in found["sections"].items() if section != "weights")
        assert layers + rest == found["raw_bytes"] == (FILES / name).stat().st_size


def test_why_goes_to_stderr_beside_a_machine_format(call: Any) -> None:
    """The JSON stays JSON."""
    outcome = call("inspect", FILES / "int8.tflite", "--json", "--why")
    json.loads(outcome.out)
    assert outcome.err.startswith("- Of 5.16 kB on disk")
    assert "- Of 5.16 kB on disk" in call("inspect", FILES / "int8.tflite", "--why").out


def test_several_models_are_one_document() -> None:
    """Those of an app bundle: one JSON, one CSV with one head, a table each."""
    two = [record("a.apk!x"), record("a.apk!y")]
    assert [item["path"] for item in json.loads(INSPECT_FORMATS["json"](two))["files"]] == ["a.apk!x", "a.apk!y"]
    assert [row["file"] for row in csv.DictReader(io.StringIO(INSPECT_FORMATS["csv"](two)))] == ["a.apk!x", "a.apk!y"]
    assert INSPECT_FORMATS["text"](two).count("\ntotal ") == 2
    assert INSPECT_FORMATS["markdown"](two).count("### ") == 2


SHORT = "<b>|@octocat\ud800"
HOSTILE = record(NASTY, note=NASTY, layers=(layer(NASTY, kind=SHORT, group=NASTY, precision=SHORT),))


@pytest.mark.parametrize("name", ["text", "markdown", "csv", "json"])
def test_hostile_names(name: str) -> None:
    """One line each, nothing that a terminal, a spreadsheet or GitHub would act on."""
    text = INSPECT_FORMATS[name]([HOSTILE])
    text.encode()
    assert "\x1b" not in text
    assert not any(line.startswith("::") for line in text.splitlines())
    if name == "markdown":
        assert "@octocat" not in text
        assert "<b>" not in text
    if name == "csv":
        assert len(list(csv.reader(io.StringIO(text)))) == 2


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_is_a_formula(start: str) -> None:
    """A spreadsheet runs what begins like one."""
    text = INSPECT_FORMATS["csv"]([record(layers=(layer(f"{start}cmd|'/c calc'!A0"),))])
    assert f"'{start}cmd" in text

"""An installed Vela is called and its estimate shown as its own; the one here is a script that stands in for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

INT8 = TESTS / "files" / "int8.tflite"
HEADS = (
    "accelerator_configuration,system_config,memory_mode,inference_time,total_original_weights,"
    "total_npu_encoded_weights,nn_macs,cycles_npu,cycles_total"
)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A program "vela" on the path, and none beside this Python."""
    program = folder / "vela"
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


WRITES = f"""
import sys
if "--version" in sys.argv:
    print("9.9.9")
    raise SystemExit
chosen = sys.argv[sys.argv.index("--accelerator-config") + 1]
folder = sys.argv[sys.argv.index("--output-dir") + 1]
with open(folder + "/m_summary_X.csv", "w") as file:
    file.write({HEADS!r} + "\\n" + chosen + ",A_SYSTEM,A_MODE,1.5e-3,2000,1000,5280,900000,1500000.0\\n")
"""


def test_its_estimate_is_called_its_own(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, WRITES)
    told = call("estimate", INT8, "--target", "ethos-u85")
    assert told.code == 0, told.err
    assert "(ethos-u85-256): Vela 9.9.9 estimates 1.5 ms for one inference, 1,500,000 cycles" in told.out
    assert "2,000 weights take 1.00 kB as Vela encodes them (0.50 bytes each)" in told.out
    assert "900,000 of the cycles are multiplications (2:4 halves those of dense weights); 0 of 1 weights" in told.out
    assert "nothing was measured" in told.out
    body = json.loads(call("estimate", INT8, "--target", "ethos-u85-512", "--json").out)["vela"]
    assert (body["accelerator"], body["measured"], body["estimated_by"]) == ("ethos-u85-512", False, "Vela 9.9.9")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise SystemExit('no such operation')", "Vela refuses it: no such operation"),
        ("import sys\nprint('9')", "wrote no summary"),
        (WRITES.replace("cycles_total", "cycles"), "has another form"),
    ],
)
def test_what_it_does_not_do_is_one_line(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    install(tmp_path, monkeypatch, body)
    outcome = call("estimate", INT8, "--target", "ethos-u85")
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
    assert told in outcome.err


def test_without_it(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to install; a package is no .tflite file."""
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = call("estimate", INT8, "--target", "ethos-u85")
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
    assert "pip install ethos-u-vela" in outcome.err
    assert call("estimate", TESTS / "files" / "half.mlpackage", "--target", "ethos-u85").code == 4

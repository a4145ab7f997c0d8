"""Measurements in a table or a log: what is read from them, and a bad row or run is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from benchmark_logs import LITERT_2, NEW
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TESTS

from edgeprune.checker.latency.benchmark_log import RunSettings, timed_runs
from edgeprune.checker.latency.measurements import read_measurements
from edgeprune.errors import EdgepruneError, InputError

FILES = TESTS / "files"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,latency_us\nfloat32.tflite,5\n", "row 1: column 'latency_us' (microseconds)"),
        ("file,latency\nfloat32.tflite,5\n", "row 1: column 'latency' (no unit)"),
        ("name,latency_ms\nfloat32.tflite,5\n", "row 1: no column 'file'"),
        ("file\nfloat32.tflite\n", "row 1: no column 'latency_ms'"),
        ("file,latency_ms\nfloat32.tflite,5\nfloat32.tflite,fast\n", "row 3: latency_ms is 'fast', not a number"),
        ("file,latency_ms\nfloat32.tflite,5 us\n", "row 2: latency_ms is '5 us', not a number (numbers only"),
        ("file,latency_ms\nfloat32.tflite,0\n", "row 2: latency_ms is '0'; a latency is above 0"),
        ("file,latency_ms\nfloat32.tflite,-3\n", "a latency is above 0"),
        ("file,latency_ms\nfloat32.tflite,nan\n", "a latency is above 0"),
        ("file,latency_ms\n\nnone.tflite,3\n", "row 3: none.tflite is not in"),
        ("file,latency_ms\nfloat32.tflite\n", "row 2: 1 cells where the header has 2"),
        ("file,latency_ms\n,3\n", "row 2: no file name"),
        ("file,latency_ms\n", "no measurements in it"),
        ("\n", "row 1: no column 'file'"),
        (
            "INFO: Inference timings in us: Init: 1, Inference (avg): 5\n",
            "run 1: no line names the model ('Graph: [...]'",
        ),
        ("file,latency_ms\nfloat32.tflite,3,5\n", "row 2: 3 cells where the header has 2; is there a decimal comma?"),
        ('file,latency_ms\nfloat32.tflite,"3,5"\n', "row 2: latency_ms is '3,5', not a number (a decimal comma?"),
        ("file,latency_ms,Latency_ms\nfloat32.tflite,10,20\n", "row 1: 2 columns 'latency_ms'; keep one"),
        ("file,latency_ms\nfloat32.tflite,1_0\n", "row 2: latency_ms is '1_0', not a number"),
        ("file,latency_ms\nfloat32.tflite,\u0663\n", "not a number"),
        ("file;latency_ms\nfloat32.tflite;3\n", "it is separated by ';'"),
        ("file\tlatency_ms\nfloat32.tflite\t3\n", "it is separated by tabs"),
        ("# Pixel 9\nfile,latency_ms\nfloat32.tflite,3\n", "it begins with a comment"),
    ],
)
def test_bad_tables_name_the_row(tmp_path: Path, text: str, told: str) -> None:
    """Wrong units, bad numbers, missing files and columns."""
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_measurements(path, FILES)
    assert told in str(error.value)
    assert str(path) in str(error.value)


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """What is no table is refused with an error of this tool."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    with pytest.raises(EdgepruneError):
        read_measurements(path, FILES)


def test_a_table_with_more_columns() -> None:
    """Other columns are ignored, family is kept, blank lines and a byte order mark do no harm."""
    path = FILES.parent / "nowhere.csv"
    with pytest.raises(InputError, match="does not exist"):
        read_measurements(path)


def test_columns_in_any_order(tmp_path: Path) -> None:
    """The header says which column is which."""
    path = tmp_path / "m.csv"
    path.write_text("\ufeffphone,latency_ms,Family,file\nX, 1.5 ,small,float32.tflite\n\n,2,big,float16.tflite\n")
    first, second = read_measurements(path, FILES)
    assert (first.row, first.latency_ms, first.family, first.file) == (2, 1.5, "small", FILES / "float32.tflite")
    assert (second.row, second.latency_ms) == (4, 2.0)


OLD = """Graph: [/data/local/tmp/float16.tflite]
Average inference timings in us: Warmup: 83235, Init: 38467, Inference: 79760.9
"""


def test_the_text_of_benchmark_model(tmp_path: Path) -> None:
    """Two runs in one text, of today's tool and of that of 2019; microseconds become milliseconds."""
    path = tmp_path / "run.txt"
    path.write_text(NEW + OLD)
    first, second = read_measurements(path, FILES)
    assert (first.file.name, first.latency_ms) == ("float32.tflite", pytest.approx(14.5752))
    assert (second.file.name, second.latency_ms) == ("float16.tflite", pytest.approx(79.7609))


def test_utf16_is_named(tmp_path: Path) -> None:
    """What Excel calls Unicode text, with and without its mark."""
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "m.csv").write_bytes("file,latency_ms\nfloat32.tflite,3\n".encode(encoding))
        with pytest.raises(InputError, match=r"UTF-16 .*save it as UTF-8"):
            read_measurements(tmp_path / "m.csv", FILES)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe would wait for ever, a device never end; as measurements and as a model."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match=r"is neither a file nor a folder|is a folder; name a \.csv"):
            read_measurements(path, FILES)
    (tmp_path / "m.csv").write_text("file,latency_ms\npipe,3\n")
    with pytest.raises(InputError, match=r"row 2: .*pipe is neither a file nor a folder"):
        read_measurements(tmp_path / "m.csv")


def test_empty_cells_at_the_end_are_no_values(tmp_path: Path) -> None:
    """A spreadsheet may write more separators than the header has."""
    (tmp_path / "m.csv").write_text("file,latency_ms\nfloat32.tflite,3,,\n")
    assert read_measurements(tmp_path / "m.csv", FILES)[0].latency_ms == 3.0


# --- logs of benchmark_model ------------------------------------------------------------------------------------------

# The lines of BUILDING.md of google-ai-edge/LiteRT (September 2025), with another model and other times.


def test_the_text_of_litert_2(tmp_path: Path) -> None:
    """Milliseconds with two decimals, for which the line before has more; a run without that line too."""
    bare = (
        "INFO: STARTING!\nINFO: Graph: [float16.tflite]\nINFO: [b.h:100] Inference (avg):      7430.20 ms (10 runs)\n"
    )
    (tmp_path / "run.txt").write_text(LITERT_2 + bare)
    first, second = read_measurements(tmp_path / "run.txt", FILES)
    assert (first.file.name, first.latency_ms) == ("float32.tflite", pytest.approx(0.947132))
    assert first.settings == RunSettings(threads=4, xnnpack=True)
    assert (second.file.name, second.latency_ms) == ("float16.tflite", pytest.approx(7430.20))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            NEW + "INFO: STARTING!\nINFO: Graph: [float16.tflite]\nERROR: failed\n",
            "run 2: float16.tflite has no result",
        ),
        (NEW + "INFO: Graph: [float16.tflite]\nERROR: failed\n" + NEW, "run 2: float16.tflite has no result"),
        (NEW + "INFO: STARTING!\nERROR: no such flag\n", "run 2: no line names the model"),
        (NEW.replace("avg): 14575.2", "avg): nan"), "run 1: the time of float32.tflite is 'nan'; a latency is above 0"),
        (
            NEW.replace("avg): 14575.2", "avg): -nan(ind)"),
            "run 1: the time of float32.tflite is '-nan(ind)', not a num",
        ),
        (LITERT_2.replace("0.95 ms", "0.00 ms"), "run 1: the time of float32.tflite is '0.00'; a latency is above 0"),
        (NEW + NEW.splitlines()[-2].replace("14575.2", "15000.0"), "run 1: float32.tflite has 2 results"),
    ],
)
def test_a_run_without_one_result_is_named(tmp_path: Path, text: str, told: str) -> None:
    """Crashed, never started, not a number, or two results for one run."""
    (tmp_path / "run.txt").write_text(text)
    with pytest.raises(InputError) as error:
        read_measurements(tmp_path / "run.txt", FILES)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("INFO: #threads used for CPU inference: [2]", RunSettings(threads=2)),
        ("Use nnapi : [0]", RunSettings()),
        ("INFO: Use NNAPI: [1]", RunSettings(accelerator="NNAPI")),
        ("INFO: Use Hexagon: [1]", RunSettings(accelerator="Hexagon")),
        ("INFO: Use npu: [1]", RunSettings(accelerator="NPU")),
        ("INFO: Use xnnpack: [0]", RunSettings(xnnpack=False)),
        (
            "VERBOSE: Replacing 9 out of 9 node(s) with delegate (TfLiteGpuDelegateV2) node",
            RunSettings(accelerator="GPU"),
        ),
        ("VERBOSE: Replacing 9 out of 9 node(s) with delegate (TfLiteXNNPackDelegate) node", RunSettings(xnnpack=True)),
        ("INFO: [auto_registration.cc:80] GPU accelerator registered.", RunSettings()),
    ],
)
def test_settings_in_a_log(line: str, told: RunSettings) -> None:
    """Each line that tells how a run was made; an accelerator that is only there tells nothing."""
    (run,) = timed_runs("x", NEW.replace("INFO: STARTING!", f"INFO: STARTING!\n{line}"))
    assert run.settings == told


def test_long_lines_take_no_time() -> None:
    """The words that begin a pattern, a hundred thousand times in one line, and numbers of any length."""
    line = "Inference (avg): " * 100_000 + "count=1 " * 100_000 + "avg=" * 100_000
    with pytest.raises(InputError, match="names the model"):
        timed_runs("x", f"nference timings in us: {line}")
    (run,) = timed_runs("x", NEW.replace("INFO: STARTING!", f"INFO: STARTING!\nNum threads: [{'9' * 5000}]\navg=1e+e"))
    assert run.settings.threads is None

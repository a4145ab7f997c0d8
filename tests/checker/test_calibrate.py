"""Calibration: a user's measurements become a profile, and a bad row is named."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tflite
from benchmark_logs import GPU, LITERT_2, NEW
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TESTS
from written_tflite import GraphSpec, OpSpec, TensorSpec, write

from edgeprune.checker.latency.benchmark_log import RunSettings
from edgeprune.checker.latency.calibrate import REFIT_ROWS, _measured_runtime, calibrate, settings_notes
from edgeprune.checker.latency.estimate import estimate_latency, how_of
from edgeprune.checker.latency.kernels import Kind
from edgeprune.checker.latency.measurements import Measurement, read_measurements
from edgeprune.checker.latency.profiles import Profile, find_profile, load_profile
from edgeprune.commands.calibrate import calibrate as calibrate_command
from edgeprune.errors import InputError, Unsupported, UsageError
from edgeprune.formats import read_contents

FILES = TESTS / "files"
BASE = "pixel3-tflite-4t-float32"


@pytest.fixture(scope="module")
def base() -> Profile:
    """A profile that any operation mix suits."""
    return dataclasses.replace(find_profile(BASE), largest_share={kind.value: 1.0 for kind in Kind})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight files: a dense layer of growing size, and additions on vectors of growing length, in varying parts."""
    folder = tmp_path_factory.mktemp("models")
    made = []
    for n in range(8):
        width, length = 64 * (1 + n), 20_000 * (1 + (n * 5) % 7)
        spec = GraphSpec(
            tensors=(
                TensorSpec(shape=(40, width)),
                TensorSpec(shape=(width, width), buffer=1),
                TensorSpec(shape=(40, width)),
                TensorSpec(shape=(1, length)),
                TensorSpec(shape=(1, length)),
            ),
            ops=(
                OpSpec(kind=tflite.BuiltinOperator.FULLY_CONNECTED, inputs=(0, 1), outputs=(2,)),
                OpSpec(kind=tflite.BuiltinOperator.RELU, inputs=(3,), outputs=(4,)),
            ),
            inputs=(0, 3),
            outputs=(2, 4),
        )
        content = np.ones(width * width, np.float32).tobytes()
        made.append(write(folder / f"m{n}.tflite", spec, buffers=(b"", content)))
    return made


def measured(paths: list[Path], profile: Profile, slower: float = 1.0) -> list[Measurement]:
    """What a device of this profile would show, without error."""
    found = []
    for row, path in enumerate(paths, start=2):
        total = estimate_latency(read_contents(path), profile).total_ms
        assert total is not None
        found.append(Measurement(row=row, file=path, latency_ms=total * slower))
    return found


@given(st.floats(0.1, 10))
@settings(max_examples=10, deadline=None)
def test_one_row_sets_the_speed(base: Profile, models: list[Path], slower: float) -> None:
    """Every other estimate scales with it; nothing was left out, so the band is that of pairs of the base's rows."""
    made = calibrate(base, measured(models[:1], base, slower), name="mine")
    before, after = (estimate_latency(read_contents(models[5]), profile).total_ms for profile in (base, made))
    assert before is not None
    assert after == pytest.approx(slower * before, rel=1e-3)
    assert made.kind == "scaled"
    assert (made.accuracy.left_out, made.accuracy.median, made.accuracy.rows) == ("none", None, 1)
    assert made.accuracy.band_factor > base.accuracy.band_factor


def test_a_few_rows_set_the_speed_by_their_median(base: Profile, models: list[Path]) -> None:
    """One of three is 30 % off: the speed is that of the others, and leaving it out shows how far it is off."""
    rows = measured(models[:3], base, 2.0)
    rows[1] = dataclasses.replace(rows[1], latency_ms=rows[1].latency_ms * 1.3)
    made = calibrate(base, rows, name="mine")
    assert made.coefficients.dense_gmacs_per_s == pytest.approx(base.coefficients.dense_gmacs_per_s / 2, rel=1e-3)
    assert made.accuracy.left_out == "file"
    assert made.accuracy.band_factor >= 1.3
    assert made.accuracy.band_share == 1.0


def test_five_rows_refit(base: Profile, models: list[Path]) -> None:
    """A device with a quarter of the arithmetic and the same memory is found from eight files, not from a scale."""
    slow = dataclasses.replace(
        base,
        coefficients=dataclasses.replace(base.coefficients, dense_gmacs_per_s=30.36 / 4),
    )
    made = calibrate(base, measured(models, slow), name="mine")
    assert made.kind == "fitted"
    assert len(models) >= REFIT_ROWS
    ratio = made.coefficients.dense_gmacs_per_s / made.coefficients.memory_gb_per_s
    assert ratio < 0.5 * base.coefficients.dense_gmacs_per_s / base.coefficients.memory_gb_per_s
    assert made.accuracy.median is not None
    assert made.accuracy.median < 0.1
    errors = [math.log(row.left_out_ms / row.latency_ms) for row in made.truth if row.left_out_ms]
    assert math.log(made.accuracy.band_factor) > max(abs(e) for e in errors)


def test_the_band_of_few_rows_is_that_of_the_base(base: Profile, models: list[Path]) -> None:
    """Rows without any error narrow the band with their number, slowly, and not to nothing; one family does not."""
    rows = measured(models, base, 2.0)
    bands = [calibrate(base, rows[:count], name="mine").accuracy.band_factor for count in (1, 2, 3, 4, 6, 8)]
    assert bands == sorted(bands, reverse=True)
    # One row: 25 % between devices. Two: ln 1.25 times sqrt(5 / 6 * 3 / 4). Eight: times sqrt(5 / 12 * 9 / 16).
    assert [round(bands[place], 3) for place in (0, 1, 5)] == [1.25, 1.193, 1.114]
    told = how_of(calibrate(base, rows[:2], name="mine"))
    assert "±19 %: 2 of 2 measured files left out" in told
    assert "the errors of the profile it is based on count in it" in told
    kin = [dataclasses.replace(row, family="ours") for row in rows]
    assert calibrate(base, kin[:4], name="mine").accuracy.band_factor == pytest.approx(1.25)


def test_a_calibrated_profile_can_be_calibrated(base: Profile, models: list[Path]) -> None:
    """A base with one row and no error of its own passes its band on; its runtime is told once."""
    once = calibrate(base, measured(models[:1], base), name="once")
    twice = calibrate(once, measured(models[1:3], base), name="twice")
    assert 1.1 < twice.accuracy.band_factor < once.accuracy.band_factor
    assert calibrate(once, measured(models[1:2], base), name="x").accuracy.band_factor == once.accuracy.band_factor
    assert twice.runtime == "TFLite CPU, user's measurements on the proportions of once"


def test_whose_measurements_they_are(base: Profile, models: list[Path]) -> None:
    """Without a label the profile does not claim to be the phone or the year that it started from."""
    made = calibrate(base, measured(models[:1], base), name="mine")
    told = (
        "a measured device, TFLite CPU, user's measurements on the proportions of pixel3-tflite-4t-float32, 4 threads"
    )
    assert made.summary == f"{told}, float32"
    assert made.soc == ""
    hexagon = find_profile("galaxy-s24-hexagon-float16")
    assert "(Hexagon NPU), user's" in dataclasses.replace(made, runtime=_measured_runtime(hexagon)).runtime


def test_files_of_the_same_name_are_two_networks(base: Profile, models: list[Path], tmp_path: Path) -> None:
    """a/m.tflite and b/m.tflite, other models, are left out one by one and named with their folders."""
    files = [tmp_path / place / "m.tflite" for place in ("a", "b", "c")]
    for file, model in zip(files, models, strict=False):
        file.parent.mkdir()
        shutil.copy(model, file)
    made = calibrate(base, measured(files, base, 3.0), name="mine")
    assert (made.accuracy.left_out, made.accuracy.rows, made.accuracy.families) == ("file", 3, 3)
    assert [row.network for row in made.truth] == ["a/m.tflite", "b/m.tflite", "c/m.tflite"]
    assert all(row.left_out_ms for row in made.truth)


def test_five_copies_of_one_network_refit_nothing(base: Profile, models: list[Path], tmp_path: Path) -> None:
    """The same operations with other weights, as pruning leaves them, are one network, however many files."""
    content = models[0].read_bytes()
    files = [tmp_path / f"zeros{n}.tflite" for n in range(6)]
    for n, file in enumerate(files):
        changed = content.replace(np.ones(64, np.float32).tobytes(), np.full(64, n, np.float32).tobytes(), 1)
        file.write_bytes(changed)
    assert len({file.read_bytes() for file in files}) == 6
    made = calibrate(base, measured(files, base, 3.0), name="mine")
    assert (made.kind, made.accuracy.left_out, made.accuracy.rows) == ("scaled", "none", 6)
    assert made.accuracy.band_factor == pytest.approx(1.25)


def test_rows_keep_their_source(base: Profile, models: list[Path]) -> None:
    """Each row tells the table it is from, its line, and the file by its hash."""
    made = calibrate(base, measured(models[:2], base), name="mine", device="My phone", origin="phone.csv")
    assert [row.source.split(";")[0] for row in made.truth] == ["phone.csv, row 2", "phone.csv, row 3"]
    assert all("sha256 " in row.source for row in made.truth)
    assert (made.name, made.device, made.based_on) == ("mine", "My phone", BASE)


def test_one_file_counts_once(base: Profile, models: list[Path], tmp_path: Path) -> None:
    """Repeats, also under another name, become their median: five rows of four files refit nothing."""
    copy = shutil.copy(models[0], tmp_path / "copy.tflite")
    rows = measured(models[:4], base)
    again = [dataclasses.replace(rows[0], row=9, file=Path(copy), latency_ms=1.2 * rows[0].latency_ms)]
    found = calibrate(base, [*rows, *again], name="mine")
    assert (found.kind, found.accuracy.rows) == ("scaled", 4)
    assert found.truth[0].latency_ms == pytest.approx(1.1 * rows[0].latency_ms)
    assert "median of rows 2, 9;" in found.truth[0].source


def test_contradicting_rows_of_one_file(base: Profile, models: list[Path]) -> None:
    """A file cannot take 10 ms and 14 ms: both rows are named."""
    rows = measured(models[:5], base)
    wrong = dataclasses.replace(rows[1], row=8, latency_ms=1.4 * rows[1].latency_ms)
    with pytest.raises(InputError, match=r"rows 3 and 8 contradict .* m1\.tflite"):
        calibrate(base, [*rows, wrong], name="mine")


def test_it_covers_the_operations_it_was_measured_on(models: list[Path]) -> None:
    """Dense layers, which the profile refuses, are covered once it was calibrated with them."""
    strict = find_profile(BASE)
    assert estimate_latency(read_contents(models[0]), strict).total_ms is None
    rows = [Measurement(row=2, file=models[0], latency_ms=0.5)]
    made = calibrate(strict, rows, name="mine")
    assert estimate_latency(read_contents(models[0]), made).total_ms == pytest.approx(0.5, rel=1e-3)


def test_a_profile_that_ranks_gives_milliseconds_once_calibrated() -> None:
    """Core ML: one measurement of a package."""
    base = find_profile("iphone12-coreml-float16")
    row = Measurement(row=2, file=FILES / "half.mlpackage", latency_ms=0.25)
    found = estimate_latency(read_contents(FILES / "palette4.mlpackage"), calibrate(base, [row], name="mine"))
    assert found.total_ms == pytest.approx(0.25, rel=1e-3)


# --- bad measurements -----------------------------------------------------------------------------------------------


def test_microseconds_are_noticed(base: Profile, models: list[Path]) -> None:
    """A row a thousand times above the others, and a single one a thousand times above the profile."""
    rows = measured(models[:4], base)
    rows[2] = dataclasses.replace(rows[2], latency_ms=rows[2].latency_ms * 1000)
    with pytest.raises(InputError, match=r"row 4: .*times more than the other rows make likely; is it in milliseconds"):
        calibrate(base, rows, name="mine")
    with pytest.raises(InputError, match=r"row 4: .*than profile pixel3"):
        calibrate(base, rows[2:3], name="mine")


@pytest.mark.parametrize(("slower", "told"), [(0.001, "1,000 times less"), (1000.0, "1,000 times more")])
@pytest.mark.parametrize("count", [3, 5])
def test_all_rows_in_another_unit(base: Profile, models: list[Path], slower: float, told: str, count: int) -> None:
    """Seconds and microseconds throughout agree with each other, and not with any phone."""
    with pytest.raises(InputError, match=rf"{told} than profile pixel3.*are they in milliseconds"):
        calibrate(base, measured(models[:count], base, slower), name="mine")


def test_a_row_that_the_profile_does_not_cover(base: Profile) -> None:
    """The precision of a file is not that of the profile."""
    with pytest.raises(Unsupported, match=r"row 7: .*int8"):
        calibrate(base, [Measurement(row=7, file=FILES / "int8.tflite", latency_ms=1.0)], name="mine")
    with pytest.raises(InputError, match="no measurements"):
        calibrate(base, [], name="mine")


# --- how the runs of a log were made --------------------------------------------------------------------------------


def test_a_run_on_other_hardware_is_refused(models: list[Path], base: Profile, tmp_path: Path) -> None:
    """A GPU's latency sets no CPU profile; the error names the profile of GPUs."""
    (tmp_path / "run.txt").write_text(NEW.replace("float32", "m0").replace("INFO: Loaded", f"{GPU}INFO: Loaded"))
    rows = read_measurements(tmp_path / "run.txt", models[0].parent)
    assert rows[0].settings.accelerator == "GPU"
    with pytest.raises(InputError, match=r"run 1 used GPU.*profiles of GPU: pixel3-gpu-float32"):
        calibrate(base, rows, name="mine")
    off = dataclasses.replace(rows[0], settings=RunSettings(accelerator="NNAPI"))
    with pytest.raises(InputError, match="profiles of NNAPI: none"):
        calibrate(base, [off], name="mine")


def test_threads_of_the_log(models: list[Path], base: Profile) -> None:
    """Other threads than the profile's: told, with profiles of as many, in the new profile, and with a wide band."""
    rows = [dataclasses.replace(row, settings=RunSettings(threads=1)) for row in measured(models[:2], base)]
    (note,) = settings_notes(base, rows)
    assert "measured with 1 thread, and pixel3-tflite-4t-float32 is of 4" in note
    assert "pixel1-tflite-1t-float32" in note
    made = calibrate(base, rows, name="mine")
    assert made.threads == 1
    assert made.accuracy.band_factor > 1.5
    same = [dataclasses.replace(row, settings=RunSettings(threads=4)) for row in rows]
    assert settings_notes(base, same) == ()
    with pytest.raises(InputError, match="run 3 used 4 threads, others 1"):
        calibrate(base, [rows[0], same[1]], name="mine")


def test_xnnpack_in_the_log(models: list[Path], base: Profile) -> None:
    """XNNPACK on a profile of TFLite's own kernels, and the other way round, is told."""
    (row,) = measured(models[:1], base)
    (note,) = settings_notes(base, [dataclasses.replace(row, settings=RunSettings(xnnpack=True))])
    assert "measured with XNNPACK" in note
    assert "rpi4-xnnpack-4t-float32" in note
    (note,) = settings_notes(
        find_profile("rpi4-xnnpack-4t-float32"), [dataclasses.replace(row, settings=RunSettings(xnnpack=False))]
    )
    assert "measured without XNNPACK" in note
    assert "pixel3-tflite-4t-float32" in note


# --- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_writes_a_profile_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a CSV to a file that --device takes; an existing output is kept."""
    shutil.copy(FILES / "float32.tflite", tmp_path)
    (tmp_path / "m.csv").write_text("file,latency_ms\nfloat32.tflite,0.02\n")
    out = tmp_path / "mine.toml"
    options = {"device": BASE, "label": "My phone", "models": None, "as_json": False}
    assert calibrate_command.callback(tmp_path / "m.csv", output=out, overwrite=False, **options) == 0  # type: ignore[arg-type]
    text = capsys.readouterr().out
    assert "speed set from 1 measurement" in text
    assert "measurements of one model set its scale" in text
    made = load_profile(out)
    assert made.name == "mine"
    assert estimate_latency(read_contents(FILES / "float32.tflite"), made).total_ms == pytest.approx(0.02, rel=1e-2)
    before = out.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        calibrate_command.callback(tmp_path / "m.csv", output=out, overwrite=False, **options)  # type: ignore[arg-type]
    again = {**options, "as_json": True}
    assert calibrate_command.callback(tmp_path / "m.csv", output=out, overwrite=True, **again) == 0  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out)["accuracy"]["left_out"] == "none"
    assert out.read_bytes() == before


def test_the_verb_names_the_file_and_takes_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds: the error begins with the file; notes on the runs go to stderr; a label is one line."""
    shutil.copy(FILES / "float32.tflite", tmp_path)
    table, out = tmp_path / "m.csv", tmp_path / "mine.toml"
    table.write_text("file,latency_ms\nfloat32.tflite,9000\n")
    options = {"device": BASE, "output": out, "models": None, "as_json": False, "overwrite": False}
    with pytest.raises(InputError) as error:
        calibrate_command.callback(table, label="", **options)  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{table}: row 2: 9000 ms for float32.tflite")
    with pytest.raises(UsageError, match="--label is one line"):
        calibrate_command.callback(table, label="Pixel\n9", **options)  # type: ignore[arg-type]
    (tmp_path / "run.txt").write_text(LITERT_2.replace("947.132", "20.1").replace("0.95 ms", "0.02 ms"))
    assert calibrate_command.callback(tmp_path / "run.txt", label="", **options) == 0  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert printed.err.startswith("note: measured with XNNPACK")
    assert "speed set from 1 measurement, based" in printed.out
    assert "(a measured device, TFLite CPU, user's measurements" in printed.out
    assert "Pixel 3" not in printed.out
    table.write_text("file,latency_ms\nfloat32.tflite,0.02\nfloat32.tflite,0.021\n")
    assert calibrate_command.callback(table, label="", **{**options, "overwrite": True}) == 0  # type: ignore[arg-type]
    assert "speed set from 2 measurements of 1 file, based" in capsys.readouterr().out

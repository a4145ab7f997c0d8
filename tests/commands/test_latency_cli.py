"""estimate, devices, calibrate, bench and latency budgets as a user types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.checker.latency.measure import ProcessTimes, judge

FILES = TESTS / "files"
PROFILE = "pixel3-tflite-4t-float32"


def test_estimate_as_json(call: Any, covered: Path) -> None:
    """Milliseconds with their band, how they came about, every operation."""
    outcome = call("estimate", FILES / "float32.tflite", "--device", covered, "--json")
    body = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert body["low_ms"] < body["total_ms"] < body["high_ms"]
    assert "estimated from profile" in body["how"]
    assert [op["op"] for op in body["ops"]].count("CONV_2D") == 1


def test_a_file_that_is_not_covered(call: Any) -> None:
    """An int8 file on a float32 profile: exit code 3, no milliseconds, and the profiles that would do."""
    outcome = call("estimate", FILES / "int8.tflite", "--device", PROFILE, "--json")
    assert (outcome.code, outcome.out) == (3, "")
    assert "pixel3-tflite-4t-int8" in outcome.err


def test_a_refused_estimate_shows_no_times(call: Any, covered: Path) -> None:
    """Operations and what binds them, but no milliseconds, no shares, and no error of an estimate that is none."""
    outcome = call("estimate", FILES / "float32.tflite", "--device", PROFILE)
    assert outcome.code == 3
    assert "FULLY_CONNECTED" in outcome.out
    assert not any(word in outcome.out for word in (" ms", "share", "estimated from profile"))
    ranked = call("estimate", FILES / "float32.tflite", "--device", "pixel3-gpu-float32").out
    assert "share" in ranked
    assert "not known" not in ranked


def test_unknown_device(call: Any) -> None:
    """The nearest names are told."""
    outcome = call("estimate", FILES / "float32.tflite", "--device", "pixel3-tflite-4t-float23")
    assert (outcome.code, outcome.out) == (2, "")
    assert PROFILE in outcome.err


@pytest.mark.parametrize(
    ("device", "code", "told"),
    [("pixel3", 2, "pixel3-tflite-4t-float32"), ("/dev/zero", 4, "neither a file nor a folder"), ("tests/", 4, "")],
)
def test_devices_that_are_none(call: Any, device: str, code: int, told: str) -> None:
    """The profiles that begin so, and no reading of what never ends."""
    outcome = call("estimate", FILES / "float32.tflite", "--device", device)
    assert (outcome.code, outcome.out) == (code, "")
    assert told in outcome.err


def test_what_an_estimate_is_of(call: Any, tmp_path: Path) -> None:
    """Compressed weights of a package are taken as float16, and a profile of another format names those that fit."""
    device = "iphone12-coreml-float16"
    assert "taken as float16" in call("estimate", FILES / "palette4.mlpackage", "--device", device).out
    assert "taken as float16" not in call("estimate", FILES / "half.mlpackage", "--device", device).out
    assert f"those that do: {device}" in call("estimate", FILES / "half.mlpackage", "--device", PROFILE).err
    refused = call("bench", FILES / "half.mlpackage")
    assert refused.code == 2
    assert "edgeprune estimate" in refused.err


def test_devices(call: Any) -> None:
    """A row for each profile, with its error."""
    outcome = call("devices")
    assert (outcome.code, outcome.err) == (0, "")
    assert PROFILE in outcome.out
    assert len(json.loads(call("devices", "--json").out)["devices"]) >= 15


def test_calibrate_and_use(call: Any, covered: Path, tmp_path: Path) -> None:
    """One measurement that is twice the estimate doubles every estimate."""
    model = FILES / "float32.tflite"
    before = json.loads(call("estimate", model, "--device", covered, "--json").out)["total_ms"]
    rows = tmp_path / "mine.csv"
    rows.write_text(f"file,latency_ms\nfloat32.tflite,{2 * before}\n")
    mine = tmp_path / "mine.toml"
    outcome = call("calibrate", rows, "--device", covered, "--models", FILES, "-o", mine, "--label", "my phone")
    assert outcome.code == 0, outcome.err
    after = json.loads(call("estimate", model, "--device", mine, "--json").out)
    assert after["total_ms"] == pytest.approx(2 * before, rel=1e-3)
    assert "my phone" in after["how"]


@pytest.mark.parametrize(("limit", "code"), [(1e6, 0), (1e-9, 1)])
def test_a_latency_budget(
    call: Any, covered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, code: int
) -> None:
    """The estimate is held against its limit; the verdict names the profile and carries the band."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").write_bytes((FILES / "float32.tflite").read_bytes())
    (tmp_path / "edgeprune.toml").write_text(
        f'[[budget]]\npath = "m.tflite"\nmax_latency_ms = {limit:f}0001\ndevice = "wide.toml"\n'
    )
    outcome = call("check", "--fast", "--json")
    (verdict,) = json.loads(outcome.out)["verdicts"]
    assert outcome.code == code, outcome.err
    assert (verdict["unit"], verdict["passed"]) == ("ms", code == 0)
    assert (verdict["kind"], verdict["device"]) == ("max_latency_ms", PROFILE)
    assert verdict["now"]["low_ms"] < verdict["now"]["ms"] == verdict["actual"] < verdict["now"]["high_ms"]


def test_a_latency_that_cannot_be_estimated(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An int8 file has no estimate on a float32 profile: not a pass, exit code 3 with the reason."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").write_bytes((FILES / "int8.tflite").read_bytes())
    budget = f'[[budget]]\npath = "m.tflite"\nmax_latency_ms = 5\ndevice = "{PROFILE}"\n'
    (tmp_path / "edgeprune.toml").write_text(budget)
    outcome = call("check", "--fast")
    assert outcome.code == 3
    assert "CANNOT BE CHECKED (" in outcome.out


def test_one_file_without_an_estimate_hides_no_other(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package on a TFLite profile cannot be checked; the file over its limit is still told, exit code 1."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FILES / "half.mlpackage", tmp_path / "m.mlpackage")
    (tmp_path / "m.tflite").write_bytes((FILES / "float32.tflite").read_bytes())
    budget = f'[[budget]]\npath = "m.mlpackage"\nmax_latency_ms = 5\ndevice = "{PROFILE}"\n'
    (tmp_path / "edgeprune.toml").write_text(budget + '[[budget]]\npath = "m.tflite"\ndownload = "1 kB"\n')
    outcome = call("check", "--fast")
    assert (outcome.code, outcome.err) == (1, "")
    assert "CANNOT BE CHECKED (" in outcome.out
    assert "OVER by" in outcome.out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("max_latency_ms = 5", "device = "),
        ('max_latency_ms = 5\ndevice = "pixel33"', "pixel"),
        (f'max_latency_ms = -1\ndevice = "{PROFILE}"', "above 0"),
        (f'max_latency_ms = nan\ndevice = "{PROFILE}"', "above 0"),
        (f'max_latency_ms = "5 ms"\ndevice = "{PROFILE}"', "must be a number"),
    ],
)
def test_wrong_latency_budgets(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    """One line that says what to write."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.tflite").write_bytes((FILES / "float32.tflite").read_bytes())
    (tmp_path / "edgeprune.toml").write_text(f'[[budget]]\npath = "m.tflite"\n{line}\n')
    outcome = call("check", "--fast")
    assert outcome.code == 2
    assert told in outcome.err


class TestBench:
    """What is said about a comparison whose times are made up: 1 ms for the baseline."""

    @pytest.fixture
    def timed(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
        """Sets what the candidate takes, in milliseconds, and how much single pairs stray."""

        def set_times(candidate: float, noise: float = 0.001) -> None:
            def compare(*_: Any, batch: int | None, **__: Any) -> Any:
                rng = np.random.default_rng(0)
                columns = np.array([1.0, 1.0, candidate]) * rng.normal(1, noise, (5, 30, 3)).clip(0.5, 1.5)
                times = [
                    ProcessTimes(
                        cpu_ms=own, wall_ms=2 * own, batch=batch or 1, single_cpu_ms=own, single_wall_ms=2 * own
                    )
                    for own in columns
                ]
                return judge(times, runtime="litert", runtime_version="2.3.0", seed=0), tuple(times)

            monkeypatch.setattr("edgeprune.checker.latency.measure.timed_files", compare)

        return set_times

    @pytest.mark.parametrize(
        ("candidate", "noise", "verdict", "code"),
        [
            (1.0, 0.001, "unchanged", 0),
            (0.75, 0.001, "faster", 0),
            (1.3, 0.001, "slower", 0),
            (1.03, 0.2, "inconclusive", 3),
        ],
    )
    def test_verdicts(self, call: Any, timed: Any, candidate: float, noise: float, verdict: str, code: int) -> None:
        """The verdict with its interval, how it was measured, and an exit code of its own for no verdict."""
        timed(candidate, noise)
        arguments = ("bench", FILES / "float32_sparse.tflite", "--against", FILES / "float32.tflite", "-q")
        outcome = call(*arguments)
        assert (outcome.code, outcome.err) == (code, "")
        assert f"\n{verdict}: " in outcome.out
        assert "\nmeasured: thread CPU time on this host" in outcome.out
        assert json.loads(call(*arguments, "--json").out)["verdict"] == verdict

    def test_precisions_are_not_ranked(self, call: Any, timed: Any) -> None:
        """An int8 file that takes twice as long here gets times and a warning, no verdict."""
        timed(2.0)
        outcome = call("bench", FILES / "int8.tflite", "--against", FILES / "float32.tflite", "-q")
        assert outcome.code == 0
        assert "no verdict: int8 and float32 are not ranked here" in outcome.out
        assert "slower:" not in outcome.out

    def test_batches(self, call: Any, timed: Any) -> None:
        """A table for each batch size with percentiles of single calls, and an object for each in JSON."""
        timed(0.5)
        arguments = ("bench", FILES / "float32_sparse.tflite", "--against", FILES / "float32.tflite", "-q")
        told = call(*arguments, "--batch", "1,4").out
        assert told.index("\nmeasured: ") < told.index("batches of 4")
        assert told.count("\nfaster: ") == 2
        assert told.count("P99") == 4
        body = json.loads(call(*arguments, "--batch", "1,4", "--json").out)
        assert [one["batch"] for one in body["batches"]] == [1, 4]
        cpu = body["batches"][1]["percentiles"]["path"][0]
        assert (cpu["clock"], [value["share"] for value in cpu["values"]]) == ("CPU", [0.5, 0.95, 0.99])
        assert cpu["calls"] == 150

    @pytest.mark.parametrize("sizes", ["0", "two", "1;2", "", "99999"])
    def test_batches_that_are_none(self, call: Any, sizes: str) -> None:
        """What is no list of sizes is a usage error that shows one."""
        outcome = call("bench", FILES / "float32.tflite", "--batch", sizes)
        outcome.error(2, "write 1,2,4")

    def test_one_file(self, call: Any, timed: Any) -> None:
        """Its times, the percentiles by either clock, and no verdict about itself."""
        timed(1.0)
        outcome = call("bench", FILES / "int8.tflite", "-q")
        assert (outcome.code, outcome.out.count("int8.tflite"), "unchanged" in outcome.out) == (0, 3, False)

"""Estimates in a check: shown for --device, limited against a baseline, also inside an app bundle."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

FILES = TESTS / "files"
PROFILE = "pixel3-tflite-4t-float32"


@pytest.fixture
def project(covered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with m.tflite, a profile that covers it, and the report main.json of a check of it."""
    monkeypatch.chdir(covered.parent)
    shutil.copy(FILES / "float32.tflite", "m.tflite")
    return covered.parent


def budget(limit: str, path: str = "m.tflite") -> None:
    """The configuration of the project."""
    text = f'[[budget]]\npath = "{path}"\nmax_latency_growth = {limit}\ndevice = "wide.toml"\n'
    Path("edgeprune.toml").write_text(text)


def main_report(call: Any, **changes: Any) -> None:
    """main.json: the report of a check of m.tflite, with these changes of its estimate (None: without one)."""
    body = json.loads(call("check", "m.tflite", "--fast", "--show", "--device", "wide.toml", "--json").out)
    (estimate,) = body["files"][0]["estimates"]
    if changes.pop("none", False):
        body["files"][0]["estimates"] = []
    estimate.update({key: value(estimate[key]) if callable(value) else value for key, value in changes.items()})
    Path("main.json").write_text(json.dumps(body))


def verdict_of(call: Any, baseline: str, code: int) -> dict[str, Any]:
    """The one verdict of the check against this baseline."""
    outcome = call("check", "--fast", "--baseline", baseline, "--json")
    assert outcome.code == code, outcome.err
    (verdict,) = json.loads(outcome.out)["verdicts"]
    assert (verdict["kind"], verdict["codec"], verdict["device"]) == ("max_latency_growth", None, PROFILE)
    return dict(verdict)


@pytest.mark.parametrize(("limit", "code"), [('"25 %"', 0), ("0.25", 0), ('"24.9 %"', 1)])
def test_growth_against_a_report(call: Any, project: Path, limit: str, code: int) -> None:
    """A file that took 0.8 of the time has grown by a quarter; both estimates and bands are told."""
    budget(limit)
    main_report(call, total_ms=lambda ms: 0.8 * ms)
    verdict = verdict_of(call, "main.json", code)
    assert verdict["actual"] == pytest.approx(0.25)
    assert (verdict["unit"], verdict["passed"]) == ("fraction", code == 0)
    assert verdict["now"]["ms"] == pytest.approx(1.25 * verdict["before"]["ms"])


def test_growth_against_files(call: Any, project: Path) -> None:
    """A file and a folder are estimated like the file that is checked: the same file has not grown."""
    budget('"0 %"')
    (project / "old").mkdir()
    shutil.copy("m.tflite", "old/m.tflite")
    for baseline in ("old/m.tflite", "old"):
        assert verdict_of(call, baseline, 0)["actual"] == 0


@pytest.mark.parametrize(
    ("changes", "unknown", "told"),
    [
        ({"basis": "0" * 16}, "other basis", "another state of the profile"),
        ({"none": True}, "not in baseline", "make it again with this configuration"),
        (
            {"total_ms": None, "low_ms": None, "high_ms": None, "refused": "too strange"},
            "not in baseline",
            "too strange",
        ),
        ({"total_ms": 0}, "not in baseline", "its estimate is 0"),
    ],
)
def test_growth_that_cannot_be_judged(
    call: Any, project: Path, changes: dict[str, Any], unknown: str, told: str
) -> None:
    """Estimates of different bases are not compared, and none is not zero: exit code 3 and the reason."""
    budget('"5 %"')
    main_report(call, **changes)
    verdict = verdict_of(call, "main.json", 3)
    assert (verdict["actual"], verdict["passed"], verdict["unknown"]) == (None, None, unknown)
    assert told in call("check", "--fast", "--baseline", "main.json").out


def test_growth_without_a_baseline(call: Any, project: Path) -> None:
    """The only limit of a file was not judged: no pass, and what to add."""
    budget('"5 %"')
    outcome = call("check", "--fast")
    assert outcome.code == 3
    assert "add --baseline" in outcome.out


def test_growth_in_a_bundle(call: Any, project: Path) -> None:
    """A model inside an app is estimated as it is there, now and in the baseline."""
    budget('"5 %"', path="app.apk")
    with zipfile.ZipFile("app.apk", "w") as archive:
        archive.write("m.tflite", "assets/m.tflite")
    shutil.copy("app.apk", "old.apk")
    verdict = verdict_of(call, "old.apk", 0)
    assert (verdict["path"], verdict["actual"]) == ("app.apk!assets/m.tflite", 0)


def test_two_profiles_of_one_name(call: Any, project: Path) -> None:
    """A project's own profile that is named like another keeps its own estimate."""
    slow = (project / "wide.toml").read_text().replace("fixed_ms = 0.0", "fixed_ms = 1000.0")
    (project / "slow.toml").write_text(slow)
    text = "".join(
        f'[[budget]]\npath = "m.tflite"\nmax_latency_ms = 100000\ndevice = "{name}.toml"\n' for name in ("wide", "slow")
    )
    (project / "edgeprune.toml").write_text(text)
    fast, slowed = json.loads(call("check", "--fast", "--json").out)["verdicts"]
    assert fast["device"] == slowed["device"]
    assert 0 < fast["actual"] < slowed["actual"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('max_latency_growth = "5 %"', 'add device = "'),
        (f'max_latency_growth = "five"\ndevice = "{PROFILE}"', "is not a percentage"),
        (f'max_latency_growth = -0.1\ndevice = "{PROFILE}"', "such as '5 %'"),
        (f'max_latency_growth = nan\ndevice = "{PROFILE}"', "such as '5 %'"),
        (f'download = "5 kB"\ndevice = "{PROFILE}"', "device without a limit on it"),
        ('max_latency_growth = "5 %"\ndevice = "pixel33"', "pixel3"),
    ],
)
def test_wrong_growth_budgets(call: Any, project: Path, lines: str, told: str) -> None:
    """One line that says what to write, before anything is measured."""
    (project / "edgeprune.toml").write_text(f'[[budget]]\npath = "m.tflite"\n{lines}\n')
    outcome = call("check", "--fast")
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err


def test_estimates_beside_the_sizes(call: Any, project: Path) -> None:
    """A table of its own with the band, how it was obtained, and why a file has none."""
    shutil.copy(FILES / "int8.tflite", "i.tflite")
    for kind in ("text", "markdown"):
        outcome = call("check", "m.tflite", "i.tflite", "--fast", "--show", "--device", "wide.toml", "--format", kind)
        assert outcome.code == 0, outcome.err
        assert "latency estimated for" in outcome.out
        assert outcome.out.count("estimated from profile") == 1
        assert "not estimated for pixel3-tflite-4t-float32: i.tflite is int8" in outcome.out.replace("\\", "")


def test_a_ranking_beside_the_sizes(call: Any, project: Path) -> None:
    """A profile that only ranks gives no milliseconds, but how many times a known network's time."""
    text = (project / "wide.toml").read_text().replace('kind = "fitted"', 'kind = "ranking-only"')
    (project / "rank.toml").write_text(text)
    outcome = call("check", "m.tflite", "--fast", "--show", "--device", "rank.toml")
    assert outcome.code == 0, outcome.err
    assert " x MobileNetV2" in outcome.out
    assert "only ranks models; in times of MobileNetV2 1.0 224" in outcome.out
    assert "not estimated" not in outcome.out


def test_a_limit_beside_its_baseline(call: Any, project: Path) -> None:
    """The row of a latency limit tells the earlier estimate and the change."""
    (project / "edgeprune.toml").write_text(
        '[[budget]]\npath = "m.tflite"\nmax_latency_ms = 100\ndevice = "wide.toml"\n'
    )
    main_report(call, total_ms=lambda ms: ms / 2)
    outcome = call("check", "--fast", "--baseline", "main.json")
    assert outcome.code == 0, outcome.err
    (row,) = [line for line in outcome.out.splitlines() if f"latency estimate, {PROFILE}  " in line]
    assert "+100.0 %" in row
    main_report(call, basis="other")
    outcome = call("check", "--fast", "--baseline", "main.json")
    (row,) = [line for line in outcome.out.splitlines() if f"latency estimate, {PROFILE}  " in line]
    assert " %" not in row


def test_an_unknown_device(call: Any, project: Path) -> None:
    """Told before any file is read."""
    outcome = call("check", "gone.tflite", "--show", "--device", "pixel33")
    assert (outcome.code, outcome.out) == (2, "")


def test_a_broken_file_hides_no_other(call: Any, project: Path) -> None:
    """Among several files the others are told first; the exit code is that of the broken one."""
    (project / "b.tflite").write_bytes(b"TFL3 in name only")
    outcome = call("check", "b.tflite", "m.tflite", "--fast", "--download", "1 kB")
    assert outcome.code == 4
    assert "OVER by" in outcome.out
    assert "b.tflite: download (deflate) unknown, limit 1.00 kB: CANNOT BE CHECKED (not read: " in outcome.out
    assert "b.tflite" in outcome.err
    both = call("check", "b.tflite", "b.tflite", "--fast", "--download", "1 kB")
    assert both.code == 4
    assert both.out.startswith("no file could be read\n\nb.tflite: download")

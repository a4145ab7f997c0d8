"""A fault of one file, whatever it is, is one line of that file: the others are reported."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

from edgeprune.formats import Contents, reading

GOOD = TESTS / "files" / "int8.tflite"
FAULTS = [TypeError("no such thing"), MemoryError(), OSError(28, "No space left on device"), RecursionError("deep")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.tflite and c.tflite, which are good, and b.tflite, which a defect of the reader hits."""
    for name in "abc":
        shutil.copy(GOOD, tmp_path / f"{name}.tflite")
    monkeypatch.chdir(tmp_path)
    break_reader(monkeypatch, TypeError("no\nsuch thing"))
    return tmp_path


def break_reader(monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    """Let the reader of .tflite fail at every b.tflite."""
    read: Callable[[Path], Contents] = reading._tflite

    def broken(path: Path) -> Contents:
        if path.name == "b.tflite":
            raise fault
        return read(path)

    monkeypatch.setattr(reading, "_READERS", {**reading._READERS, ".tflite": broken})


@pytest.mark.parametrize("kind", ["text", "markdown", "github"])
def test_every_format_tells_all(call: Any, here: Path, kind: str) -> None:
    """Each file is in the report, the faulty one with its reason, and the exit code is that of its fault."""
    outcome = call("check", "a.tflite", "b.tflite", "c.tflite", "--fast", "--download", "1 kB", "--format", kind)
    assert outcome.code == 3
    assert all(f"{name}.tflite" in outcome.out for name in "abc")
    assert "unexpected TypeError: no such thing" in outcome.out.replace("\\", "")
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("edgeprune: b.tflite: unexpected TypeError: no such thing; this is a defect")


def test_formats_for_programs(call: Any, here: Path) -> None:
    """JSON holds the accounts of the others; in JUnit the faulty one is an error and the others are judged."""
    options = ("a.tflite", "b.tflite", "c.tflite", "--fast", "--download", "1 MB")
    outcome = call("check", *options, "--json")
    body = json.loads(outcome.out)
    assert (outcome.code, body["passed"]) == (3, None)
    assert [record["path"] for record in body["files"]] == ["a.tflite", "c.tflite"]
    assert [verdict["passed"] for verdict in body["verdicts"]] == [True, True, None]
    root = ElementTree.fromstring(call("check", *options, "--format", "junit").out)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "0", "1")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_any_fault_is_a_line_of_its_file(
    call: Any, here: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """No memory, a full disk, a defect: alone one line, among others beside their report."""
    break_reader(monkeypatch, fault)
    call("check", "b.tflite", "--show").error(3, "b.tflite: ")
    outcome = call("check", "b.tflite", "a.tflite", "--show", "--fast")
    assert outcome.code == 3
    assert "a.tflite  5.16 kB" in outcome.out
    assert "note: b.tflite: not read: " in outcome.out


def test_an_interruption_is_no_fault_of_a_file(call: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the check."""
    break_reader(monkeypatch, KeyboardInterrupt())
    call("check", "b.tflite", "a.tflite", "--show", "--fast").error(130, "interrupted")


def test_the_worst_exit_code_counts(call: Any, here: Path) -> None:
    """A missing file is 4, in whatever order; also where no file at all can be read each has its line."""
    for files in (["b.tflite", "missing.tflite"], ["missing.tflite", "b.tflite"]):
        outcome = call("check", *files, "--show")
        assert outcome.code == 4
        assert "note: b.tflite: not read: unexpected TypeError" in outcome.out
        assert "note: missing.tflite: not read: " in outcome.out


def test_a_missing_file_beside_a_configuration(call: Any, here: Path) -> None:
    """The budgets of the others are held."""
    (here / "edgeprune.toml").write_text('[[budget]]\npath = "*.tflite"\ndownload = "1 MB"\n')
    outcome = call("check", "a.tflite", "missing.tflite", "--fast")
    assert outcome.code == 4
    assert "a.tflite: download (deflate) 1.93 kB, limit 1.00 MB: ok" in outcome.out


def test_a_ring_of_links(call: Any, here: Path) -> None:
    """A link to itself is one file that cannot be read, whether it is named or found by a budget."""
    (here / "b.tflite").unlink()
    (here / "d.tflite").symlink_to("d.tflite")
    (here / "edgeprune.toml").write_text('[[budget]]\npath = "*.tflite"\ndownload = "1 MB"\n')
    for files in ([], ["d.tflite", "a.tflite"], ["d.tflite", "a.tflite", "-o", "report.txt"]):
        outcome = call("check", "--fast", *files)
        assert outcome.code == 4
        assert "a.tflite: download (deflate) 1.93 kB, limit 1.00 MB: ok" in outcome.out
        assert outcome.err == "edgeprune: d.tflite cannot be read: Too many levels of symbolic links\n"


@pytest.mark.parametrize("suffix", ["apk", "ipa", "zip"])
def test_a_model_in_a_bundle(call: Any, here: Path, suffix: str) -> None:
    """The others of the bundle are judged, and the exit code is that of the fault, also where nothing is judged."""
    with zipfile.ZipFile(here / f"app.{suffix}", "w") as bundle:
        bundle.write("a.tflite", "assets/a.tflite")
        bundle.write("b.tflite", "assets/b.tflite")
    outcome = call("check", f"app.{suffix}", "c.tflite", "--fast", "--show")
    assert outcome.code == 3
    assert f"app.{suffix}!assets/a.tflite  5.16 kB" in outcome.out
    assert f"note: app.{suffix}!assets/b.tflite: not read: unexpected TypeError" in outcome.out
    assert "edgeprune-bundle" not in outcome.out + outcome.err
    inspected = call("inspect", f"app.{suffix}")
    assert inspected.code == 3
    assert "assets/a.tflite" in inspected.out
    assert f"not read: app.{suffix}!assets/b.tflite: unexpected TypeError" in inspected.err


def test_reasons_that_cannot_be_given(call: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in --why is told where the reasons would stand."""

    def broken(*_: object) -> list[str]:
        raise TypeError("no reason")

    monkeypatch.setattr("edgeprune.checker.check.reasons", broken)
    outcome = call("check", "a.tflite", "--fast", "--show", "--why")
    assert outcome.code == 3
    assert "a.tflite  5.16 kB" in outcome.out
    assert "- unexpected TypeError: no reason" in outcome.out


@pytest.mark.parametrize("kind", ["text", "json", "markdown"])
def test_compare_shows_the_one_that_it_can_read(call: Any, here: Path, kind: str) -> None:
    """The other file as `inspect` shows it, and the fault in one line; both faults where both have one."""
    outcome = call("compare", "b.tflite", "a.tflite", "--format", kind)
    assert outcome.code == 3
    assert "a.tflite" in outcome.out
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("edgeprune: b.tflite: unexpected TypeError")
    outcome = call("compare", "b.tflite", "missing.tflite", "--format", kind)
    assert (outcome.code, outcome.out) == (4, "")
    assert outcome.err.splitlines()[0].startswith("not read: b.tflite: unexpected TypeError")
    assert outcome.err.splitlines()[1].startswith("edgeprune: missing.tflite does not exist")


def test_a_baseline_with_a_broken_file(call: Any, here: Path) -> None:
    """Growth of the others is judged; that of its file cannot be, and the baseline's fault is told."""
    (here / "main").mkdir()
    for name in "ab":
        shutil.copy(GOOD, here / "main" / f"{name}.tflite")
    for name in ("a.tflite", "sub/b.tflite"):
        (here / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GOOD, here / "new" / name)
    (here / "new/sub/b.tflite").rename(here / "new/sub/x.tflite")
    (here / "main/x.tflite").write_bytes(GOOD.read_bytes()[:900])
    options = ("--fast", "--growth", "1 %", "--baseline", "main")
    outcome = call("check", "new/a.tflite", "new/sub/x.tflite", *options)
    assert outcome.code == 4
    assert "new/a.tflite: growth" in outcome.out
    assert "x.tflite of the baseline" in outcome.out
    assert "new, so its growth is not judged" not in outcome.out
    assert outcome.err.startswith("edgeprune: main/x.tflite is a broken TFLite file")

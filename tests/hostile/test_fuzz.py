"""A part of the fuzzing in every run, always the same: `make fuzz` does the whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hostile import fuzz
from places import TESTS

from edgeprune.formats import reading

COUNT, SEED = 400, 1


@pytest.fixture(scope="module")
def report() -> fuzz.Report:
    """The first cases of a seed, in a process of their own."""
    return fuzz.run(COUNT, SEED)


@pytest.mark.slow(minutes=1)
def test_every_file_is_read_or_refused(report: fuzz.Report) -> None:
    """Nothing unexpected, no hang, and no more memory than three times the file and 300 MB."""
    assert [(found.case, found.outcome, found.detail) for found in report.broken] == []
    assert len(report.results) == COUNT
    assert sum(found.kind in ("keras", "h5") for found in report.results) == COUNT // 2
    for kind in fuzz.SHARES:
        assert report.count(kind, "read")
        assert report.count(kind, "refused")


@pytest.mark.slow(minutes=1)
def test_every_architecture_is_admitted_or_refused(report: fuzz.Report, keras: Any) -> None:
    """What a Keras file that can be read says of its layers is held against the list of what it may name."""
    outcomes = {case: fuzz.admitted(version, config) for case, version, config in report.architectures}
    assert set(outcomes.values()) == {"read", "refused"}, outcomes


def test_a_case_is_always_the_same_file(tmp_path: Path) -> None:
    """So that one which broke a promise can be looked at again."""
    for case in range(20):
        one, other = (fuzz.written(tmp_path / name, case, SEED) for name in ("one", "other"))
        files = [sorted(file for file in (path, *path.rglob("*")) if file.is_file()) for path in (one, other)]
        assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


@pytest.mark.parametrize(("fault", "outcome"), [(TypeError("a"), "unexpected"), (MemoryError(), "unexpected")])
def test_it_bites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, outcome: str) -> None:
    """A defect of a reader is none of a file."""

    def broken(_: Path) -> Any:
        raise fault

    monkeypatch.setattr(reading, "_READERS", {".tflite": broken})
    monkeypatch.setattr(fuzz, "_peak_bytes", lambda: 0)  # of this process, which may hold anything
    shutil.copy(TESTS / "files" / "int8.tflite", tmp_path)
    assert fuzz._looked_at(tmp_path / "int8.tflite")["outcome"] == outcome

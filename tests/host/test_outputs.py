"""Outputs appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from edgeprune.errors import OutputError, UsageError
from edgeprune.host.outputs import check_output_file, output_folder, write_file


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    """Inside the context the final name is free; after it, the folder is there and nothing else."""
    with output_folder(tmp_path / "out", overwrite=False) as scratch:
        (scratch / "ledger.json").write_text("{}")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["ledger.json"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever ends the work early, no folder stays."""
    with contextlib.suppress(error), output_folder(tmp_path / "out", overwrite=False) as scratch:
        (scratch / "half").write_text("x")
        raise error
    assert names(tmp_path) == []


def test_overwrite_keeps_the_old_until_the_new_is_complete(tmp_path: Path) -> None:
    """With overwrite a failed run leaves the earlier output; a good one replaces it whole."""
    old = tmp_path / "out"
    old.mkdir()
    (old / "ledger.json").write_text("old")
    (old / "gone").write_text("x")
    with pytest.raises(ValueError, match="stop"), output_folder(old, overwrite=True):
        raise ValueError("stop")
    assert names(old) == ["gone", "ledger.json"]
    with output_folder(old, overwrite=True) as scratch:
        (scratch / "ledger.json").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(old) == ["ledger.json"]


def test_an_error_of_the_system_is_told_in_one_line(tmp_path: Path) -> None:
    """An OSError inside the context becomes an OutputError with the folder's name."""
    place = output_folder(tmp_path / "out", overwrite=False)
    with pytest.raises(OutputError, match="out: cannot be written: No space left"), place:
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_write_file(tmp_path: Path) -> None:
    """A file is written beside its name and renamed."""
    write_file(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    """Where there is no room, one error names the file, and no half file stays."""
    (tmp_path / f".a.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="a: cannot be written: No space left on device"):
        write_file(tmp_path / "a", b"1")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "suffix", "word"),
    [("m.bin", ".keras", "name it m.keras"), ("no/m.keras", ".keras", "mkdir -p"), ("dir.keras", ".keras", "a folder")],
)
def test_names_that_cannot_become_the_output(tmp_path: Path, name: str, suffix: str, word: str) -> None:
    """A wrong suffix, a missing parent and a folder in the way are usage errors."""
    (tmp_path / "dir.keras").mkdir()
    with pytest.raises(UsageError, match=word):
        check_output_file(tmp_path / name, overwrite=True, suffix=suffix)


def test_a_package_may_replace_a_package(tmp_path: Path) -> None:
    """--overwrite takes an existing Core ML package, but no file of that name."""
    package = tmp_path / "m.mlpackage"
    package.mkdir()
    (package / "Manifest.json").write_text("{}")
    check_output_file(package, overwrite=True, suffix=".mlpackage")
    (tmp_path / "f.mlpackage").write_text("x")
    with pytest.raises(UsageError, match="a file"):
        check_output_file(tmp_path / "f.mlpackage", overwrite=True, suffix=".mlpackage")

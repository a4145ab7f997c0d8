"""Outputs appear whole or not at all."""

from __future__ import annotations

import contextlib
import resource
import shutil
from pathlib import Path

import pytest

from edgeprune.errors import OutputError, UsageError
from edgeprune.host import outputs
from edgeprune.host.outputs import check_output_file, output_file, output_folder, write_file


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


def test_a_full_disk(tmp_path: Path) -> None:
    """Where there is no room, one error names the file, and no half file stays."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # Python ignores the signal of it
        with pytest.raises(OutputError, match=r"^[^ ]*/a: cannot be written: File too large$"):
            write_file(tmp_path / "a", b"1" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


APPEARED = "appeared while this ran, and is not replaced; choose another name or add --overwrite"


@pytest.mark.parametrize("rename", ["of the system", "of Python"])
@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_what_appears_meanwhile_is_kept(
    tmp_path: Path, folder: bool, rename: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without overwrite an output that somebody else makes during the work stays, be it an empty folder, a folder or
    a file; where the system cannot rename so, a look before the renaming does it."""
    if rename == "of Python":
        monkeypatch.setattr(outputs, "_rename_exclusively", lambda *_: False)
    path = tmp_path / "m.mlpackage"
    for other in ("file", "folder", "empty folder", "broken link"):
        with pytest.raises(OutputError, match=APPEARED) as caught, output_file(path, overwrite=False) as made:
            work(made, path, folder=folder, meanwhile=other)
        assert str(caught.value) == f"{path}: {APPEARED}"
        assert names(tmp_path) == ["m.mlpackage"]
        assert kind_of(path) == other
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(OutputError, match=APPEARED), output_folder(path, overwrite=False):
        appear(path, "empty folder")
    assert kind_of(path) == "empty folder"


def work(made: Path, path: Path, *, folder: bool, meanwhile: str) -> None:
    """Make the output while somebody else makes something at its place."""
    (made.mkdir if folder else made.touch)()
    appear(path, meanwhile)


def appear(path: Path, kind: str) -> None:
    """Something at a path."""
    if kind == "broken link":
        path.symlink_to("nowhere")
    elif kind == "file":
        path.write_text("other")
    else:
        path.mkdir()
        if kind == "folder":
            (path / "other").touch()


def kind_of(path: Path) -> str:
    """What `appear` made."""
    if path.is_symlink():
        return "broken link"
    if path.is_file():
        return "file" if path.read_text() == "other" else "another file"
    return {(): "empty folder", ("other",): "folder"}.get(tuple(names(path)), "another folder")


def test_with_overwrite_it_is_replaced(tmp_path: Path) -> None:
    """With overwrite what appears meanwhile is replaced as what was there before would be."""
    path = tmp_path / "m.tflite"
    with output_file(path, overwrite=True) as made:
        made.write_text("ours")
        path.write_text("other")
    assert (path.read_text(), names(tmp_path)) == ("ours", ["m.tflite"])


def test_errors_do_not_name_what_is_hidden(tmp_path: Path) -> None:
    """An error about the half output tells the name that was asked for."""
    with pytest.raises(OutputError) as caught, output_folder(tmp_path / "out", overwrite=False) as made:
        raise OutputError(f"{made / 'm.keras'}: cannot be written")
    assert str(caught.value) == f"{tmp_path / 'out' / 'm.keras'}: cannot be written"


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

"""What the converter's child made comes out of its folder, wherever that lies."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgeprune.converters.session import _move
from edgeprune.errors import OutputError


@pytest.mark.parametrize("elsewhere", [True, False])
def test_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """A file replaces a file and a package takes a free name, on the same disk and on another one."""

    def refuse(_: Path, __: Path) -> Path:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if elsewhere:
        monkeypatch.setattr(Path, "replace", refuse)
    file, package = tmp_path / "a", tmp_path / "b"
    file.write_text("new")
    (tmp_path / "out").write_text("old")
    _move(file, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "new"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "weights").write_text("w")
    _move(package, tmp_path / "p.mlpackage")
    assert (tmp_path / "p.mlpackage" / "Data" / "weights").read_text() == "w"


def test_move_to_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that is not there is one line."""
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match=r"no/out: cannot be written: No such file or directory"):
        _move(tmp_path / "a", tmp_path / "no" / "out")


def test_move_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package for which there is no room elsewhere is one line, in the system's words."""

    def refuse(_: Path, __: Path) -> Path:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def full(_: object, place: Path, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))

    monkeypatch.setattr(Path, "replace", refuse)
    for name in ("copyfile", "copy2"):
        monkeypatch.setattr(f"shutil.{name}", full)
    (tmp_path / "made" / "Data").mkdir(parents=True)
    (tmp_path / "made" / "Data" / "weights").write_text("w")
    with pytest.raises(OutputError) as told:
        _move(tmp_path / "made", tmp_path / "p.mlpackage")
    assert str(told.value) == f"{tmp_path / 'p.mlpackage'}: cannot be written: No space left on device"

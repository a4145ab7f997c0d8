"""Scratch folders: what dead runs left is cleared by the next one, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeprune.host import scratch
from edgeprune.host.outputs import output_folder
from edgeprune.host.scratch import scratch_folder

OTHER_RUN = """
import sys, tempfile, time
from pathlib import Path
from edgeprune.host.scratch import scratch_folder
tempfile.tempdir = sys.argv[1]
with scratch_folder("convert") as temporary, scratch_folder(beside=Path(sys.argv[1]) / "out") as hidden:
    for folder in (temporary, hidden):
        (folder / "made" / "deep").mkdir(parents=True)
        (folder / "made" / "deep" / "file").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has cleared nothing yet, whose temporary files are in the test's folder."""
    monkeypatch.setattr(scratch, "_cleared", set())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@contextmanager
def other_run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has two scratch folders in a folder, as a process."""
    command = [sys.executable, "-P", "-c", OTHER_RUN, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_dead_run_left_is_cleared(tmp_path: Path) -> None:
    """After SIGKILL both kinds of folder stay; the next run that writes there removes them."""
    with other_run(tmp_path) as process:
        process.kill()
        process.wait()
    left = names(tmp_path)
    assert (left[0].startswith(".out.edgeprune-"), left[1].startswith("edgeprune-convert-")) == (True, True)
    with output_folder(tmp_path / "mine", overwrite=False) as folder:
        (folder / "ledger.json").write_text("{}")
    assert names(tmp_path) == ["mine"]


def test_what_a_living_run_uses_stays(tmp_path: Path) -> None:
    """Two runs at a time in the same folder leave each other's scratch alone, however old it looks."""
    with other_run(tmp_path):
        left = names(tmp_path)
        for name in left:
            os.utime(tmp_path / name, (0, 0))
        with scratch_folder() as folder:
            assert sorted([*left, folder.name]) == names(tmp_path)
        assert names(tmp_path) == left
        assert all((tmp_path / name / "made" / "deep" / "file").read_text() == "x" for name in left)


def test_what_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of such a name without our lock, links to folders, files, and folders of other users are not touched."""
    (tmp_path / "edgeprune-download").mkdir()
    (tmp_path / "edgeprune-download" / "mine").touch()
    (tmp_path / "edgeprune-aaaaaaaa").touch()
    target = tmp_path / "other"
    target.mkdir()
    (target / ".edgeprune-lock").touch()
    (tmp_path / "edgeprune-bbbbbbbb").symlink_to(target)
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    with scratch_folder():
        pass
    assert names(tmp_path) == ["edgeprune-aaaaaaaa", "edgeprune-bbbbbbbb", "edgeprune-download", "other"]
    assert names(target) == [".edgeprune-lock"]
    foreign = tmp_path / "edgeprune-cccccccc"
    foreign.mkdir()
    (foreign / ".edgeprune-lock").touch()
    monkeypatch.setattr(scratch, "_cleared", set())
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 12345)
        with scratch_folder():
            pass
    assert foreign.is_dir()


@pytest.mark.parametrize(("age_s", "stays"), [(60, True), (2 * 86_400, False)])
def test_an_empty_folder_without_a_lock(tmp_path: Path, age_s: float, stays: bool) -> None:
    """One whose run was killed before it had a lock goes after a day; a run that is about to lock it is younger."""
    empty = tmp_path / "edgeprune-bundle-abcdefgh"
    empty.mkdir()
    os.utime(empty, (time.time() - age_s,) * 2)
    with scratch_folder():
        pass
    assert empty.exists() == stays


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be locked nobody knows who lives: a folder can be had, and none is cleared."""

    def refuse(_: int, __: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    left = tmp_path / "edgeprune-abcdefgh"
    left.mkdir()
    (left / ".edgeprune-lock").touch()
    with scratch_folder() as folder:
        assert folder.is_dir()
    assert names(tmp_path) == ["edgeprune-abcdefgh"]


def test_a_folder_that_was_cleared_before_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that clears between our making a folder and locking it: another folder is made."""
    real, seen = scratch._locked, []

    def late(lock: int, *, wait: bool) -> bool | None:
        if not seen:
            seen.append(next(tmp_path.glob("edgeprune-*")))
            scratch._clear(tmp_path)
        return real(lock, wait=wait)

    monkeypatch.setattr(scratch, "_locked", late)
    monkeypatch.setattr(scratch, "_cleared", {tmp_path})
    with scratch_folder() as folder:
        assert folder.is_dir()
        assert folder != seen[0]
        assert not seen[0].exists()

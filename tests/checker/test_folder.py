"""What is seen in a folder: by names alone, two folders down."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.checker import folder
from edgeprune.checker.folder import look


def make(place: Path, *names: str) -> None:
    """Empty files."""
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()


def names(place: Path, paths: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(place).as_posix() for path in paths]


def test_each_thing_is_taken_for_what_it_is(tmp_path: Path) -> None:
    """Models, exported files and bundles by their endings, samples by the words in their names; the nearest first."""
    make(tmp_path, "b/old.h5", "model.keras", "a/b/m.onnx", "app.apk", "a/m.tflite", "P.mlpackage/Manifest.json")
    make(tmp_path, "data/mnist_train.npz", "data/latest.csv", "data/val-2.parquet", "notes.txt", "some.zip")
    seen = look(tmp_path)
    assert names(tmp_path, seen.models) == ["model.keras", "b/old.h5"]
    assert names(tmp_path, seen.exported) == ["a/m.tflite", "P.mlpackage", "a/b/m.onnx"]
    assert names(tmp_path, seen.bundles) == ["app.apk"]
    assert {split: path.name for split, path in seen.splits.items()} == {
        "train": "mnist_train.npz",
        "validation": "val-2.parquet",
    }
    assert names(tmp_path, seen.samples) == ["data/latest.csv"]
    assert seen.whole


def test_the_nearest_samples_count(tmp_path: Path) -> None:
    """Of two files for a split that on top."""
    make(tmp_path, "old/train.npz", "train.npz")
    assert look(tmp_path).splits == {"train": tmp_path / "train.npz"}


def test_folders_of_pictures(tmp_path: Path) -> None:
    """A folder named for a split, with folders in it, is samples; its pictures are not looked at."""
    make(tmp_path, "photos/train/cat/1.png", "photos/train/dog/m.tflite", "photos/test/cat/2.png", "train/readme.txt")
    seen = look(tmp_path)
    assert seen.splits == {"train": tmp_path / "photos" / "train", "test": tmp_path / "photos" / "test"}
    assert seen.exported == ()


def test_what_is_passed_over(tmp_path: Path) -> None:
    """Hidden folders, libraries, what lies deeper, links to folders; of what a run left, its stages and its models."""
    make(tmp_path, ".git/a.keras", "venv/b.keras", "1/2/3/c.keras", "node_modules/d.tflite")
    make(tmp_path, "out/ledger.json", "out/e.int8.tflite", "out/model.keras", "out/stages/f.tflite")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    seen = look(tmp_path)
    assert names(tmp_path, (*seen.models, *seen.ships)) == ["out/e.int8.tflite"]


def test_somebodys_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after so many entries, and says so."""
    monkeypatch.setattr(folder, "MOST_ENTRIES", 3)
    make(tmp_path, *(f"{n}.tflite" for n in range(5)))
    seen = look(tmp_path)
    assert (len(seen.exported), seen.whole) == (3, False)

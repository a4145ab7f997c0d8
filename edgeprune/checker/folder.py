"""What lies in a folder and two folders down: Keras models, exported files, app bundles, samples. Nothing is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.formats.bundles import BUNDLES
from edgeprune.host.outputs import MARK

__all__ = ["EXPORTED", "Seen", "exported_files", "look"]

DEPTH = 2
MOST_ENTRIES = 20_000  # a folder of more is somebody's disk, not a project
EXPORTED = (".tflite", ".mlpackage", ".onnx")
KERAS = (".keras", ".h5")
SAMPLES = (".npz", ".csv", ".parquet", ".tfrecord", ".tfrecords")
# Word in a name -> the split that it stands for.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "holdout"), "test"),
}
_SKIPPED = {"node_modules", "venv", "env", "__pycache__", "site-packages"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen, the nearest first; `splits` by train, validation and test, `samples` files of none of them.

    `whole` is False where the folder has more entries than are looked at.
    """

    folder: Path
    models: tuple[Path, ...] = ()
    exported: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = ()
    splits: Mapping[str, Path]
    samples: tuple[Path, ...] = ()
    whole: bool = True

    @property
    def ships(self) -> tuple[Path, ...]:
        """What budgets are for."""
        return (*self.exported, *self.bundles)


def look(folder: Path) -> Seen:
    """Raises OSError where the folder cannot be listed."""
    os.scandir(folder).close()
    entries = []
    for path in _walk(folder, DEPTH):
        entries.append(path)
        if len(entries) == MOST_ENTRIES:
            break
    near = sorted(entries, key=lambda path: (len(path.relative_to(folder).parts), path))
    suffixes = {path: path.suffix.lower() for path in near}
    samples = [path for path in near if suffixes[path] in SAMPLES or (not suffixes[path] and path.is_dir())]
    splits: dict[str, Path] = {}
    for path in samples:
        if (split := _split(path)) is not None:
            splits.setdefault(split, path)
    bundles = BUNDLES - {".zip"}  # most of those are no bundle
    return Seen(
        folder=folder,
        models=tuple(path for path in near if suffixes[path] in KERAS and not _is_output(path.parent)),
        exported=tuple(sorted((p for p in near if suffixes[p] in EXPORTED), key=lambda p: EXPORTED.index(suffixes[p]))),
        bundles=tuple(path for path in near if suffixes[path] in bundles),
        splits=splits,
        samples=tuple(path for path in samples if _split(path) is None and suffixes[path]),
        whole=len(entries) < MOST_ENTRIES,
    )


def exported_files(folder: Path) -> tuple[Path, ...]:
    """The exported files in and below a folder, by format, the nearest first; none where it cannot be listed."""
    try:
        return look(folder).exported
    except OSError:
        return ()


def _split(path: Path) -> str | None:
    """The split that a name tells: that of mnist_train.npz is train."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _is_output(folder: Path) -> bool:
    """Whether a run left it: its models are results."""
    return (folder / MARK).is_file()


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Files, packages and folders of samples; links to folders are not followed, hidden names and folders of libraries
    are passed over. Of what a run left only the files on top count, not those of its stages."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    below = depth > 0 and not _is_output(folder)
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if not entry.is_dir() or path.suffix.lower() in EXPORTED:
            yield path
        elif below and not entry.is_symlink():
            if _split(path) is not None and _has_folders(path):
                yield path  # pictures, a folder for each class
            else:
                yield from _walk(path, depth - 1)


def _has_folders(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir() for entry in entries)
    except OSError:
        return False

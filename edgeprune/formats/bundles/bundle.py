"""The models inside an app: what an APK, App Bundle or IPA holds, and how each model is packed there.

Sources: developer.android.com, AssetManager.openFd (an asset must be stored to be opened by descriptor, and so to be
memory-mapped) and zipalign (stored data at multiples of 4 bytes; 16 KiB pages are for .so files only);
tensorflow.org/lite/android (since Android Gradle plugin 4.1 .tflite is never compressed, other suffixes need
androidResources.noCompress); bundletool's config.proto, Compression (Play packs the APKs anew from an .aab);
developer.apple.com, MLModel.compileModel. LiteRT-LM: a .litertlm file begins with the letters LITERTLM; it is no zip.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeprune.artifact import GIT_LFS_POINTER
from edgeprune.errors import InputError, OutputError
from edgeprune.formats.bundles import BUNDLES
from edgeprune.formats.bundles.archive import BrokenArchiveError, Entry, Window, chunks, first_bytes, read_entries
from edgeprune.formats.bundles.opening import inner_archive, innermost, told, whole_file
from edgeprune.formats.bundles.packing import notes_of
from edgeprune.formats.contents import printable
from edgeprune.host.scratch import scratch_folder

__all__ = [
    "INFLATED_LIMIT_BYTES",
    "Bundle",
    "BundledModel",
    "Unreadable",
    "content",
    "extracted",
    "read_bundle",
]

# What may be inflated out of one bundle: no store takes an app of more (App Store: 4 GB of app; Play: 4 GB in all).
INFLATED_LIMIT_BYTES = 4 << 30
_ALIGNMENT_BYTES = 4
_FOLDER = re.compile(r"(?:[^/]+/)*?[^/]+\.(mlmodelc|mlpackage)(?=/)", re.IGNORECASE)
_SUFFIXES = {
    ".h5": "h5",
    ".hdf5": "h5",
    ".keras": "keras",
    ".lite": "tflite",
    ".litertlm": "litertlm",
    ".mlmodel": "mlmodel",
    ".onnx": "onnx",
    ".task": "task",
    ".tflite": "tflite",
}
_TFLITE, _LITERTLM, _ZIP = b"TFL3", b"LITERTLM", b"PK\3\4"
_FOLDERS = ("mlmodelc", "mlpackage")
_LONGEST_FILE_NAME = 200  # bytes, with room below the 255 of most file systems


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledModel:
    """A model inside a bundle: a file, or a .mlpackage or .mlmodelc folder.

    `name` is its path, behind "!/" of the inner archive it is in, fit to be shown. `kind`: tflite, task, litertlm,
    onnx, keras, h5, mlmodel, mlpackage or mlmodelc. `raw_bytes` and `compressed_bytes` are of its `files` in the
    archive that directly holds them; `method` is "stored", "deflated" or, for a folder, "mixed". `offset` is where its
    data begin in the archive that is installed, `aligned` whether that is a multiple of 4; both None for a folder, and
    where there is no such place (something deflated around it). `install_bytes` is what it takes on the device, with
    the copy that an app must make of a model that it cannot map; None where the bundle does not decide it (.aab, .zip).
    `parts` are the .tflite files of a .task: already counted in it. `notes` say in words what the packing means.
    """

    name: str
    kind: str
    raw_bytes: int
    compressed_bytes: int
    method: str
    offset: int | None
    aligned: bool | None
    install_bytes: int | None
    notes: tuple[str, ...]
    files: tuple[Entry, ...]
    archives: tuple[Entry, ...] = ()
    parts: tuple[BundledModel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A member that was refused, and why. `kind` of the model it would be by its name, "" where it tells of none."""

    name: str
    reason: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What was found in a bundle of `raw_bytes`. `kind` is its suffix without the dot.

    `rest_bytes` is everything but the models as packed: other members, headers, signatures; None where a model is in an
    inner archive that is itself compressed. `unreadable` members may be models: a verdict on the bundle is not complete
    with them.
    """

    path: Path
    kind: str
    raw_bytes: int
    rest_bytes: int | None
    models: tuple[BundledModel, ...]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...] = ()


def read_bundle(path: Path) -> Bundle:
    """The models in the .apk, .aab, .apks, .xapk, .ipa or .zip at `path`, and in the .apk files directly inside it.

    A .tflite is found by its content under any name. The content of each model is checked against the size and checksum
    that the archive claims; nothing is written but, in a temporary folder, inner archives that are compressed. Raises
    InputError when the bundle is missing, a folder, empty, no zip archive, cut short, or built to deceive: overlapping
    members, more than archive.MEMBER_LIMIT of them, or more than INFLATED_LIMIT_BYTES to inflate. A single member that
    cannot be trusted (see `archive.read_entries`) is listed as unreadable, and the rest is read.
    """
    kind = path.suffix.lower()
    if kind not in BUNDLES:
        raise InputError(f"{path}: not an app bundle this tool knows; it reads {', '.join(sorted(BUNDLES))}")
    with whole_file(path) as window, scratch_folder("bundle") as scratch, told(path):
        return _Reading(path, kind[1:], window, scratch).bundle()


@contextlib.contextmanager
def extracted(bundle: Bundle, model: BundledModel) -> Iterator[Path]:
    """The model as a file or folder of its own in a temporary folder, gone when the context ends.

    A file is named as in the bundle, with the usual suffix of its kind. Raises InputError when the bundle has changed
    or its content is not what it claims, OutputError when the temporary folder cannot take it.
    """
    with scratch_folder("bundle") as scratch:
        with whole_file(bundle.path) as window, told(bundle.path), innermost(window, model.archives, scratch) as inside:
            target = _write(inside, bundle, model, scratch)
        yield target


def content(bundle: Bundle, model: BundledModel, most_bytes: int) -> bytes:
    """The bytes of a model that is one file. Raises InputError above `most_bytes`, and as `extracted` does."""
    if len(model.files) != 1 or model.raw_bytes > most_bytes:
        raise InputError(f"{bundle.path}: {model.name}: not one file of at most {most_bytes} bytes")
    with (
        whole_file(bundle.path) as window,
        scratch_folder("bundle") as scratch,
        told(bundle.path),
        innermost(window, model.archives, scratch) as inside,
    ):
        return b"".join(chunks(inside, model.files[0]))


def _write(window: Window, bundle: Bundle, model: BundledModel, scratch: Path) -> Path:
    folder = _FOLDER.match(model.files[0].name) if model.kind in _FOLDERS else None
    whole = folder.group() if folder else model.files[0].name
    target = scratch / "model" / _file_name(whole, model.kind)
    try:
        for entry in model.files:
            place = target / entry.name[len(whole) + 1 :] if folder else target
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                for piece in chunks(window, entry):
                    file.write(piece)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as cause:
        raise BrokenArchiveError(f"{model.name}: two of its members have one place") from cause
    except OSError as cause:
        raise OutputError(f"{bundle.path}: {model.name} cannot be unpacked to {scratch}: {cause.strerror}") from cause
    return target


def _file_name(name: str, kind: str) -> str:
    """The last part of a member's name, with a suffix by which readers know the kind."""
    base = name.rpartition("/")[2]
    if _SUFFIXES.get(_suffix(base)) != kind and kind not in _FOLDERS:
        base = f"{base.rpartition('.')[0] or base}.{kind}"
    return base if len(base.encode()) <= _LONGEST_FILE_NAME else f"model.{kind}"


class _Reading:
    """One bundle being read."""

    def __init__(self, path: Path, kind: str, window: Window, scratch: Path) -> None:
        self.path, self.kind, self.window, self.scratch = path, kind, window, scratch
        self.models: list[BundledModel] = []
        self.unreadable: list[Unreadable] = []
        self.left_bytes = INFLATED_LIMIT_BYTES
        self.rest: int | None = window.length

    def bundle(self) -> Bundle:
        self.archive(self.window, self.kind, ())
        notes: tuple[str, ...] = ()
        if self.kind in ("apks", "xapk"):
            notes = (
                "a device installs some of the APKs in it, not all: a model in several of them is listed once each",
            )
        return Bundle(
            path=self.path,
            kind=self.kind,
            raw_bytes=self.window.length,
            rest_bytes=self.rest,
            models=tuple(self.models),
            unreadable=tuple(self.unreadable),
            notes=notes,
        )

    def archive(self, window: Window, kind: str, around: tuple[Entry, ...]) -> None:
        """The models of one archive, `around` which are the archives that hold it."""
        folders: dict[str, list[Entry]] = {}
        for entry in read_entries(window):
            folder = _FOLDER.match(entry.name)
            if folder and not entry.is_folder:
                folders.setdefault(folder.group(), []).append(entry)
            elif entry.problem:
                self.refuse(entry.name, around, entry.problem, _SUFFIXES.get(_suffix(entry.name), ""))
            elif not around and _suffix(entry.name) == ".apk":
                self.inner(window, entry)
            elif found := _kind(entry, first_bytes(window, entry, 16)):
                self.model(window, kind, found, entry.name, (entry,), around)
        for name, entries in folders.items():
            self.model(window, kind, _suffix(name)[1:], name, tuple(entries), around)

    def inner(self, window: Window, entry: Entry) -> None:
        """A split .apk; one that is broken is told and the others are read."""
        try:
            with self.opened(window, entry) as inside:
                self.archive(inside, "apk", (entry,))
        except BrokenArchiveError as cause:
            self.refuse(entry.name, (), str(cause), "")

    @contextlib.contextmanager
    def opened(self, window: Window, entry: Entry) -> Iterator[Window]:
        """The archive that is a member of another."""
        self.spend(entry)
        with inner_archive(window, entry, self.scratch) as inside:
            yield inside

    def spend(self, entry: Entry) -> None:
        if entry.method == "deflated":
            self.left_bytes -= entry.raw_bytes
        if self.left_bytes < 0:
            raise InputError(
                f"{self.path}: refused at {printable(entry.name)}: more than {INFLATED_LIMIT_BYTES} bytes to inflate, "
                "above what any app store takes"
            )

    def model(
        self, window: Window, kind: str, found: str, name: str, files: tuple[Entry, ...], around: tuple[Entry, ...]
    ) -> None:
        """Add one model, or the reason why not."""
        try:
            for entry in files:
                self.check(window, entry, found)
            parts = self.parts(window, kind, files[0], around) if found == "task" else ()
        except BrokenArchiveError as cause:
            self.refuse(name, around, str(cause), found)
            return
        made = _model(kind, found, name, files, around, parts)
        self.models.append(made)
        stored_outside = all(entry.method == "stored" for entry in around)
        self.rest = self.rest - made.compressed_bytes if self.rest is not None and stored_outside else None

    def check(self, window: Window, entry: Entry, found: str) -> None:
        """Read a file of a model through."""
        if entry.problem:
            raise BrokenArchiveError(entry.problem)
        self.spend(entry)
        start = first_bytes(window, entry, 32)
        if start.startswith(GIT_LFS_POINTER):
            raise BrokenArchiveError(
                "a git-lfs pointer, not the model itself; run 'git lfs pull' and build the app again"
            )
        if found == "tflite" and start[4:8] != _TFLITE:
            raise BrokenArchiveError(
                "named as TFLite, but bytes 4 to 8 are not 'TFL3': encrypted by the app, or no model"
            )
        for _ in chunks(window, entry):
            pass

    def parts(self, window: Window, kind: str, task: Entry, around: tuple[Entry, ...]) -> tuple[BundledModel, ...]:
        """The .tflite files of a MediaPipe task bundle, a zip archive of stored files."""
        found = []
        with self.opened(window, task) as inside:
            for entry in read_entries(inside):
                if not entry.problem and _kind(entry, first_bytes(inside, entry, 16)) == "tflite":
                    self.check(inside, entry, "tflite")
                    found.append(_model(kind, "tflite", entry.name, (entry,), (*around, task), ()))
        return tuple(found)

    def refuse(self, name: str, around: tuple[Entry, ...], reason: str, kind: str) -> None:
        self.unreadable.append(Unreadable(name=_shown(name, around), reason=reason, kind=kind))


def _suffix(name: str) -> str:
    base = name.rpartition("/")[2]
    return f".{base.rpartition('.')[2]}".lower() if "." in base else ""


def _kind(entry: Entry, start: bytes) -> str:
    """The kind of model that a file is, "" for none; its content counts for more than its name."""
    by_name = _SUFFIXES.get(_suffix(entry.name), "")
    if entry.is_folder:
        return ""
    if start[4:8] == _TFLITE:
        return "tflite"
    if start.startswith(_LITERTLM):
        return "litertlm"
    if by_name in ("litertlm", "task") and start.startswith(_ZIP):
        return "task"
    return by_name


def _shown(name: str, around: tuple[Entry, ...]) -> str:
    return printable("!/".join([*(entry.name for entry in around), name]))


def _model(
    kind: str,
    found: str,
    name: str,
    files: tuple[Entry, ...],
    around: tuple[Entry, ...],
    parts: tuple[BundledModel, ...],
) -> BundledModel:
    raw, compressed = (sum(e.raw_bytes for e in files), sum(e.compressed_bytes for e in files))
    methods = {entry.method for entry in files}
    method = methods.pop() if len(methods) == 1 else "mixed"
    is_file = found not in _FOLDERS
    # A .task around it is read in place; a split APK is installed as a file of its own.
    outer = [entry for entry in around if _suffix(entry.name) != ".apk"]
    offset = None
    if is_file and all(entry.method == "stored" for entry in (*files, *outer)):
        offset = sum(entry.data_offset for entry in (*files, *outer))
    aligned = offset % _ALIGNMENT_BYTES == 0 if offset is not None else None
    install, notes = notes_of(kind, found, _suffix(name), raw, compressed, method, aligned)
    return BundledModel(
        name=_shown(name, around),
        kind=found,
        raw_bytes=raw,
        compressed_bytes=compressed,
        method=method,
        offset=offset,
        aligned=aligned,
        install_bytes=install,
        notes=notes,
        files=files,
        archives=around,
        parts=parts,
    )

"""A model into an archive: a new one, or in the place of the one that is there; read back before it is kept."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.checker.packing.records import ArchivePlace, PackedMember
from edgeprune.errors import ConversionError, InputError, Unsupported, UsageError
from edgeprune.formats.bundles import BUNDLES
from edgeprune.formats.bundles.archive import Entry, Window, chunks, first_bytes, read_entries
from edgeprune.formats.bundles.bundle import read_bundle
from edgeprune.formats.bundles.opening import told, whole_file
from edgeprune.formats.bundles.replacing import NewMember, new_archive, signatures_of, write_replaced
from edgeprune.formats.contents import printable
from edgeprune.formats.tflite.flatbuffer import MAGIC
from edgeprune.host.children import child_process

__all__ = ["chosen_entry", "write_into", "write_new"]

_UNZIP = "unzip"
_UNZIP_S = 600
_WARNED = 1  # of unzip: read all the same
_SHOWN = 5  # names in a message
_CHUNK = 1 << 20


def chosen_entry(name: str, place: ArchivePlace) -> Entry:
    """The entry of an archive that a file called `name` replaces.

    Raises UsageError where it is not clear which one, InputError for an archive that is missing, broken or hostile.
    """
    path = place.archive
    if path.suffix.lower() not in BUNDLES:
        raise UsageError(f"{path}: not an archive this tool knows; it takes {', '.join(sorted(BUNDLES))}")
    with whole_file(path) as window, told(path):
        entries = read_entries(window)
        for entry in entries:
            if entry.problem:
                raise InputError(f"{path}: {printable(entry.name, 80)}: {entry.problem}; nothing is changed in it")
        if place.entry is not None:
            found = [entry for entry in entries if entry.name == place.entry]
        else:
            found = [entry for entry in entries if entry.name.rpartition("/")[2] == name and not entry.is_folder]
        if len(found) == 1 and not found[0].is_folder:
            return found[0]
        models = [entry.name for entry in entries if first_bytes(window, entry, 8)[4:8] == MAGIC]
    names = [entry.name for entry in found] or models
    what = f"{len(found)} entries are called {name}" if found else f"no entry is {place.entry or f'called {name}'}"
    raise UsageError(f"{path}: {what}; say which one with --entry PATH: {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name, 80) for name in names[:_SHOWN])
    return f"{shown}{', ...' if len(names) > _SHOWN else ''}" if names else "it holds no .tflite file"


def write_new(made: Path, name: str, content: bytes, stream: bytes | None) -> PackedMember:
    """A new archive at `made` with one member, and what it is there."""
    made.write_bytes(new_archive(name, NewMember(content=content, stream=stream)))
    with whole_file(made) as window, told(made):
        entry = _entry(window, name)
        _check_content(window, entry, content)
    return _member(made, entry, _read_by(made, name, content))


def write_into(made: Path, place: ArchivePlace, old: Entry, content: bytes, stream: bytes | None) -> PackedMember:
    """The archive of `place` written to `made` with another content of the entry `old`.

    Raises ConversionError where it does not read back, member for member.
    """
    path = place.archive
    with whole_file(path) as source, told(path):
        entries = read_entries(source)
        with made.open("wb") as target:
            try:
                write_replaced(source, old, NewMember(content=content, stream=stream), target)
            except Unsupported as cause:
                raise Unsupported(f"{path}: {cause}") from cause
        signatures = signatures_of(source, entries)
        with whole_file(made) as window, told(made):
            again = read_entries(window)
            _check_rest(path, source, entries, window, again, old.name)
            entry = _entry(window, old.name)
            _check_content(window, entry, content)
        old_bytes = source.length
    notes = next((model.notes for model in read_bundle(made).models if model.name == printable(old.name)), ())
    found = _member(made, entry, _read_by(made, old.name, content))
    return replace(
        found,
        old_method=old.method,
        old_compressed_bytes=old.compressed_bytes,
        old_archive_bytes=old_bytes,
        signatures=signatures,
        notes=notes,
    )


def _member(made: Path, entry: Entry, read_by: tuple[str, ...]) -> PackedMember:
    return PackedMember(
        name=entry.name,
        method=entry.method,
        compressed_bytes=entry.compressed_bytes,
        offset=entry.data_offset,
        archive_bytes=made.stat().st_size,
        read_by=read_by,
    )


def _entry(window: Window, name: str) -> Entry:
    return next(entry for entry in read_entries(window) if entry.name == name)


def _check_content(window: Window, entry: Entry, content: bytes) -> None:
    if b"".join(chunks(window, entry)) != content:
        raise ConversionError(f"{entry.name}: reads back as something else; this is a defect of edgeprune")


def _check_rest(
    path: Path, source: Window, before: Sequence[Entry], window: Window, after: Sequence[Entry], replaced: str
) -> None:
    """Every other member is the same, as it is compressed."""
    pairs = list(itertools.zip_longest(before, after))
    for old, new in pairs:
        facts = [(e.name, e.method, e.raw_bytes, e.compressed_bytes, e.crc) for e in (old, new) if e is not None]
        same = len(facts) == 2 and (old.name == new.name == replaced or facts[0] == facts[1])
        if not same or (old.name != replaced and not _same_bytes(source, old, window, new)):
            raise ConversionError(f"{path}: {old.name}: would be changed too; this is a defect of edgeprune")


def _same_bytes(source: Window, old: Entry, window: Window, new: Entry) -> bool:
    return all(
        source.read(old.data_offset + at, size) == window.read(new.data_offset + at, size)
        for at in range(0, old.compressed_bytes, _CHUNK)
        for size in (min(_CHUNK, old.compressed_bytes - at),)
    )


def _read_by(made: Path, name: str, content: bytes) -> tuple[str, ...]:
    """What else reads the archive: Python's zipfile the model, and unzip, where there is one, all members."""
    try:
        with zipfile.ZipFile(made) as archive:
            if archive.read(name) != content:
                raise ConversionError(f"{made}: Python's zipfile reads {name} as something else")
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, zlib.error) as cause:
        raise ConversionError(f"{made}: Python's zipfile refuses it: {cause}") from cause
    program = shutil.which(_UNZIP)
    if program is None:
        return ("Python's zipfile",)
    with child_process([program, "-tqq", str(made.absolute())], writable=[], stderr=subprocess.STDOUT) as child:
        try:
            text, _ = child.communicate(timeout=_UNZIP_S)
        except subprocess.TimeoutExpired:
            raise ConversionError(f"{made}: unzip -t did not end within {_UNZIP_S} s") from None
    if child.returncode > _WARNED:
        lines = text.decode(errors="replace").split("\n")
        raise ConversionError(f"{made}: unzip -t refuses it: {' '.join(lines)[:300]}")
    return ("Python's zipfile", "unzip -t")

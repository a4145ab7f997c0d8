"""The models behind a path: the file itself, or those inside an app bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.size.layers import Account, account
from edgeprune.size.records import FileRecord, InArchive, file_record

__all__ = ["BUNDLES", "Source", "is_bundle", "sources_of"]

BUNDLES = (".aab", ".apk", ".apks", ".ipa", ".xapk", ".zip")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A model: its record, its account, and where it is (None inside an archive)."""

    record: FileRecord
    found: Account
    file: Path | None


def is_bundle(path: Path) -> bool:
    """Whether models are looked for inside a file."""
    return path.suffix.lower() in BUNDLES and not path.is_dir()


def sources_of(path: Path, codecs: Sequence[str], *, every: bool = False) -> Iterator[Source]:
    """The models at `path`; `every` as for `file_record`. Raises InputError, and Unsupported where a file cannot be
    read."""
    if not is_bundle(path):
        found = account(path, codecs)
        yield Source(record=file_record(found, every=every), found=found, file=path)
        return
    from edgeprune.contents.bundle import extracted, read_bundle

    bundle = read_bundle(path)
    if not bundle.models:
        raise InputError(f"{path}: no model in it; nothing to check")
    for model in bundle.models:
        name = f"{path}!{model.name}"
        place = InArchive(
            archive=str(path), method=model.method, compressed_bytes=model.compressed_bytes, notes=tuple(model.notes)
        )
        with extracted(bundle, model) as inner:
            found = account(inner, codecs)
            yield Source(record=file_record(found, path=name, in_archive=place, every=every), found=found, file=None)

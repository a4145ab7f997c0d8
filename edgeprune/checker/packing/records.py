"""What packing is asked for, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune.formats.bundles.replacing import Signature
from edgeprune.formats.tflite.packed import Changes
from edgeprune.ledger import RuntimeRun

__all__ = ["ArchivePlace", "Compared", "PackResult", "PackedMember"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePlace:
    """Where a file goes: `archive` has it already, as `entry` (None: the one of the file's name). `compress` says
    whether it is deflated there, None as it is now."""

    archive: Path
    entry: str | None = None
    compress: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Outputs of the file before and after, bit by bit, over `samples` samples which `samples_are` describes.

    Every one of `runtimes` that ran gave the same; the others did not take the file before either.
    """

    samples: int
    samples_are: str
    runtimes: tuple[RuntimeRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMember:
    """The file in an archive, sizes in bytes: `method` is stored or deflated, `offset` where its data begin.

    What is `old_` is of the member that it replaced and its archive, None in a new archive. `signatures` are those that
    no longer hold, `notes` what the packing means on a device, `read_by` what read the archive back.
    """

    name: str
    method: str
    compressed_bytes: int
    offset: int
    archive_bytes: int
    old_method: str | None = None
    old_compressed_bytes: int | None = None
    old_archive_bytes: int | None = None
    signatures: tuple[Signature, ...] = ()
    notes: tuple[str, ...] = ()
    read_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackResult:
    """What packing gave: sizes before and after in bytes, as they are (`raw`) and by codec (`download`).

    `changes` and `compared` are None for a file that went in as it is, `member` for one in no archive.
    """

    path: Path
    output: Path
    raw_bytes: int
    packed_raw_bytes: int
    download_bytes: Mapping[str, int]
    packed_download_bytes: Mapping[str, int]
    changes: Changes | None
    compared: Compared | None
    member: PackedMember | None

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        body = {**asdict(self), "path": str(self.path), "output": str(self.output)}
        return {"schema_version": 1, **body}

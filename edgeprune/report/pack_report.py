"""What `pack` prints: sizes before and after, what was changed, what was compared, and what an archive needs now."""

from __future__ import annotations

from collections.abc import Iterator

from edgeprune.checker.packing.records import Compared, PackedMember, PackResult
from edgeprune.checker.size.codecs import BASE_CODEC, PACK_CODEC
from edgeprune.formats.tflite.packed import Changes
from edgeprune.report.table import Table, to_text
from edgeprune.units import format_bytes, format_count, format_percent

__all__ = ["pack_text"]


def pack_text(found: PackResult) -> str:
    """A result for people."""
    lines = [to_text(_sizes(found))]
    if found.changes is not None:
        lines.append(f"changed: {', '.join(_changes(found.changes)) or 'only the order of its parts'}")
    lines.append(_compared(found.compared) if found.compared else "the file itself is as it was, byte for byte")
    if found.member is not None:
        lines += _member_lines(found.member)
    return "\n".join([*lines, f"Written: {found.output}"])


def _sizes(found: PackResult) -> Table:
    before, after = found.download_bytes[BASE_CODEC], found.packed_download_bytes
    rows = [
        ("install", found.raw_bytes, found.packed_raw_bytes),
        ("download, deflate 9", before, after[BASE_CODEC]),
        ("download, deflate by pack", before, after[PACK_CODEC]),
    ]
    cells = tuple((name, format_bytes(a), format_bytes(b), _change(a, b)) for name, a, b in rows)
    return Table(heads=("size", "before", "packed", "change"), rows=cells)


def _change(before: int, after: int) -> str:
    return f"{100 * (after - before) / before:+.2f} %" if before else "-"


def _changes(changes: Changes) -> Iterator[str]:
    if changes.negative_zeros:
        yield f"{format_count(changes.negative_zeros)} weights of -0.0 are +0.0"
    if changes.shared_bytes:
        yield f"{format_bytes(changes.shared_bytes)} of equal constants are stored once"
    if changes.names:
        yield f"{changes.names} names of inner tensors are left out"
    if changes.metadata:
        yield f"left out: {', '.join(changes.metadata)}"


def _compared(compared: Compared) -> str:
    ran = [f"{run.name} {run.version}" for run in compared.runtimes if run.ran]
    others = [f"; {run.name} {run.version} took neither" for run in compared.runtimes if not run.ran]
    return (
        f"outputs agree bit for bit with those of the file before, on {compared.samples} samples "
        f"({compared.samples_are}) in {', '.join(ran)}{''.join(others)}"
    )


def _member_lines(member: PackedMember) -> Iterator[str]:
    yield f"{member.name}: {member.method}, {format_bytes(member.compressed_bytes)}{_instead(member)}"
    if member.old_archive_bytes is not None:
        share = format_percent((member.archive_bytes - member.old_archive_bytes) / member.old_archive_bytes)
        sizes = f"{format_bytes(member.old_archive_bytes)} -> {format_bytes(member.archive_bytes)} ({share})"
        yield f"archive: {sizes}; all other members are as they were, byte for byte"
    yield from member.notes
    for signature in member.signatures:
        yield f"broken: {signature.kind} no longer holds; {signature.remedy}"
    yield f"read back by {' and '.join(member.read_by)}"


def _instead(member: PackedMember) -> str:
    if member.old_compressed_bytes is None:
        return ""
    return f" (was {member.old_method}, {format_bytes(member.old_compressed_bytes)})"

"""Histories written and read: a line is appended whole, and a damaged one costs only itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.checker.history.records import CommitRecord, Damaged, History
from edgeprune.checker.size.records import FileAccount, LayerAccount
from edgeprune.errors import InputError
from edgeprune.host.git import GitCommit
from edgeprune.host.json_values import decode, record_of
from edgeprune.host.outputs import append_line, between_appends
from edgeprune.host.untrusted import read_whole

__all__ = ["append_record", "line_of", "read_history"]

SCHEMA_VERSION = 1
_KIND = "a history of 'edgeprune check --history'"
_MOST_BYTES = 1 << 30


def append_record(path: Path, record: CommitRecord) -> bool:
    """Append the line of a commit; False where that very line is there already. Raises OutputError."""
    return append_line(path, line_of(record))


def line_of(record: CommitRecord) -> bytes:
    """The JSON of a commit on one line, without its end."""
    body = {
        "schema_version": SCHEMA_VERSION,
        "commit": record.commit.name,
        "date": record.commit.date,
        "tags": list(record.commit.tags),
        "tool": record.tool,
        "files": [account.to_json() for account in record.files],
        "metrics": {name: dict(values) for name, values in record.metrics.items()},
        "instructions": {name: dict(values) for name, values in record.instructions.items()},
    }
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="replace")  # a name of a file may have what is no text


def read_history(path: Path) -> History:
    """The commits of a history. Two lines of one commit, of two CI jobs or of a second run, are one; of a file that is
    in both, the later line counts. Raises InputError for a file that cannot be read."""
    with between_appends(path):
        lines = read_whole(path, _KIND, most_bytes=_MOST_BYTES).split(b"\n")
    reader, damaged = _Reader(), []
    records: dict[str, CommitRecord] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = reader.record(line)
        except InputError as cause:
            damaged.append(Damaged(line=number, reason=str(cause).removeprefix("it is ").removeprefix("it: ")))
            continue
        before = records.get(record.commit.name)
        records[record.commit.name] = record if before is None else _merged(before, record)
    commits = sorted(records.values(), key=lambda record: record.commit.date)  # lines of two branches may be mixed
    return History(path=path, commits=tuple(commits), damaged=tuple(damaged))


def _merged(one: CommitRecord, other: CommitRecord) -> CommitRecord:
    files = {account.path: account for account in (*one.files, *other.files)}
    tags = tuple(sorted({*one.commit.tags, *other.commit.tags}))
    return CommitRecord(
        commit=replace(one.commit, tags=tags),
        tool=other.tool,
        files=tuple(files.values()),
        metrics={**one.metrics, **other.metrics},
        instructions={**one.instructions, **other.instructions},
    )


class _Reader:
    """Reads lines. Most of a commit is as it was in the one before, so what was read once is not read again."""

    def __init__(self) -> None:
        self._files: dict[bytes, FileAccount] = {}
        self._layers: dict[bytes, LayerAccount] = {}

    def record(self, line: bytes) -> CommitRecord:
        """Raises InputError for a line that is none."""
        body = _parts(line)
        version = decode(body.get("schema_version", b"null"), "it")
        if version != SCHEMA_VERSION:
            raise InputError(f"it is of version {str(version)[:20]} of the format, not of {SCHEMA_VERSION}")
        plain = _plain(body, ("commit", "date", "tags", "tool", "metrics", "instructions"))
        commit = {"name": plain.pop("commit", None), "date": plain.pop("date", None), "tags": plain.pop("tags", [])}
        files = tuple(self._file(raw) for raw in _items(body.get("files", b"null")))
        return record_of(CommitRecord, {**plain, "commit": record_of(GitCommit, commit, "it"), "files": files}, "it")

    def _file(self, raw: bytes) -> FileAccount:
        account = self._files.get(raw)
        if account is None:
            body = _parts(raw)
            layers = tuple(self._layer(item) for item in _items(body.pop("layers", b"[]")))
            account = record_of(FileAccount, {**_plain(body, body), "layers": layers}, "it")
            self._files[raw] = account
        return account

    def _layer(self, raw: bytes) -> LayerAccount:
        layer = self._layers.get(raw)
        if layer is None:
            layer = self._layers[raw] = record_of(LayerAccount, decode(raw, "it"), "it")
        return layer


def _parts(text: bytes) -> dict[str, bytes]:
    """The JSON of each value of an object."""
    import msgspec

    try:
        return {key: bytes(raw) for key, raw in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as cause:
        raise InputError(f"it is no line of a history ({str(cause)[:120]})") from cause


def _items(text: bytes) -> list[bytes]:
    """The JSON of each value of a list."""
    import msgspec

    try:
        return [bytes(raw) for raw in msgspec.json.decode(text, type=list[msgspec.Raw])]
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as cause:
        raise InputError(f"it is no line of a history ({str(cause)[:120]})") from cause


def _plain(parts: dict[str, bytes], names: Iterable[str]) -> dict[str, Any]:
    return {name: decode(parts[name], "it") for name in names if name in parts}

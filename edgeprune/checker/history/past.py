"""What came before a commit: which line of a history a growth is counted from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from edgeprune.checker.history.lines import read_history
from edgeprune.checker.history.records import CommitRecord, Damaged
from edgeprune.checker.history.since import Since
from edgeprune.checker.size.records import FileAccount
from edgeprune.host.git import GitCommit, ancestors

__all__ = ["Earlier", "Past", "load_past"]

_NAMED = 5  # damaged lines in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What growth is counted from: the account of a file at a commit. Without one, `missing` says why; `is_here`: for
    the good reason that it counts from this commit, the first with the file, or the tagged one."""

    account: FileAccount | None = None
    commit: GitCommit | None = None
    missing: str = ""
    is_here: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The commits of the history at `path` that came before the one that is checked, the nearest first.

    `tagged` are those at and before each tag that was asked for, likewise; `tags_here` are the tags that are this
    commit. `by_git`: git tells which came before; else it is their order by date. `is_new`: there is no such file yet.
    `damaged` are the lines that were passed over.
    """

    path: Path
    commits: tuple[CommitRecord, ...]
    tagged: Mapping[str, tuple[CommitRecord, ...]] = field(default_factory=dict)
    tags_here: tuple[str, ...] = ()
    by_git: bool = False
    is_new: bool = False
    damaged: tuple[Damaged, ...] = ()

    def earlier(self, path: str, since: Since | None = None) -> Earlier:
        """Where the growth of the file of that path is counted from; without `since` the commit before."""
        if since is not None and since.tag is not None:
            return self._of_tag(path, since.tag)
        found = list(islice(_with(path, self.commits), 1 if since is None else since.commits))
        if found:
            return Earlier(account=found[-1][1], commit=found[-1][0].commit)
        is_here = bool(self.commits) or not self.damaged  # else a damaged line may have been the first
        return Earlier(missing=f"{self.path} has no line of an earlier commit with it", is_here=is_here)

    def _of_tag(self, path: str, tag: str) -> Earlier:
        if tag in self.tags_here:
            return Earlier(missing=f"this commit is {tag}", is_here=True)
        for record, account in _with(path, self.tagged.get(tag, ())):
            return Earlier(account=account, commit=record.commit)
        lacks = f"{self.path} has no line with it of {tag}, or of a commit before {tag}"
        return Earlier(missing=f"{lacks}; where git does not know {tag} here: git fetch --tags")

    def notes(self) -> Iterator[str]:
        """What there is to know of the history, in sentences."""
        if self.is_new:
            yield f"{self.path} is new: growth counts from this commit"
        for item in self.damaged[:_NAMED]:
            yield f"{self.path}: line {item.line} is damaged and passed over: {item.reason}"
        if len(self.damaged) > _NAMED:
            yield f"{self.path}: {len(self.damaged) - _NAMED} more lines are damaged and passed over"
        if self.commits and not self.by_git:
            yield (
                f"git does not tell which commits came before this one (no repository here, a shallow clone, or none "
                f"of {self.path} is among them), so those of {self.path} count by their dates"
            )


def _with(path: str, records: Iterable[CommitRecord]) -> Iterator[tuple[CommitRecord, FileAccount]]:
    for record in records:
        account = record.find(path)
        if account is not None:
            yield record, account


def load_past(path: Path, commit: GitCommit | None, tags: Iterable[str] = (), *, may_be_new: bool = False) -> Past:
    """The history at `path` as the commit that is checked sees it, None for one without a name.

    Raises InputError where it cannot be read, or is not there; with `may_be_new` it is empty then.
    """
    if may_be_new and (not path.exists() or (path.is_file() and not path.stat().st_size)):
        return Past(path=path, commits=(), is_new=True)
    history = read_history(path)
    others = [record for record in history.commits if commit is None or record.commit.name != commit.name]
    line = ancestors(Path.cwd(), commit.name if commit else "HEAD") if others else None
    by_git = _of_line(others, line)
    earlier = [record for record in others if commit is None or record.commit.date <= commit.date]
    lines = {tag: ancestors(Path.cwd(), tag) or () for tag in dict.fromkeys(tags)}
    return Past(
        path=path,
        commits=tuple(by_git or earlier[::-1]),
        tagged={tag: tuple(_of_tag(others, tag, line)) for tag, line in lines.items()},
        tags_here=tuple(tag for tag, line in lines.items() if commit and _is_here(commit, tag, line)),
        by_git=bool(by_git),
        damaged=history.damaged,
    )


def _is_here(commit: GitCommit, tag: str, line: Sequence[str]) -> bool:
    return tag in commit.tags or commit.name in line[:1]


def _of_line(records: Sequence[CommitRecord], line: Sequence[str] | None) -> list[CommitRecord]:
    """The records of the commits of a line, in its order."""
    by_name = {record.commit.name: record for record in records}
    return [by_name[name] for name in line or () if name in by_name]


def _of_tag(records: Sequence[CommitRecord], tag: str, line: Sequence[str]) -> list[CommitRecord]:
    """The commits at and before a tag, the nearest first: as git tells, else those whose line has the tag."""
    marked = [record for record in reversed(records) if tag in (*record.commit.tags, record.commit.name)]
    return _of_line(records, line) or marked

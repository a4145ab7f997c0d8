"""The git repository around a folder, read and never written: which commit this is, and which came before it."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgeprune.errors import UsageError
from edgeprune.host.children import child_process

__all__ = ["GitCommit", "ancestors", "commit_here", "named_commit", "short_name", "this_commit"]

_TIMEOUT_S = 60
_MOST_COMMITS = 50_000
_MOST_NAME = 200
# No lock is taken, nobody is asked for a password, and of a partial clone nothing is fetched.
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
_PLAIN = ("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "log.showSignature=false")  # starts no other program
_HASH = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GitCommit:
    """A commit: its hash (or the name that it was given by hand), when it was made (UTC, ISO 8601), and its tags."""

    name: str
    date: str
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for what is no name of a commit, or no date."""
        for name in (self.name, *self.tags):
            if not 0 < len(name) <= _MOST_NAME or not name.isprintable():
                raise ValueError(f"{name[:40]!r} is no name of a commit")
        datetime.strptime(self.date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)

    @property
    def short(self) -> str:
        """What people call it."""
        return short_name(self.name)


def short_name(commit: str) -> str:
    """Ten digits of the hash of a commit; a name that was given by hand as it is."""
    return commit[:10] if _HASH.fullmatch(commit) else commit


def this_commit(folder: Path) -> GitCommit:
    """The commit that is checked out in `folder`. Raises UsageError where there is none."""
    code, told = _git(folder, "log", "--max-count=1", "--no-color", "--decorate=full", "--format=%H%x00%ct%x00%D")
    if code:
        raise UsageError(f"{folder}: {_reason(told)}; name the commit by hand: --commit NAME")
    return _commit(told)


def commit_here(folder: Path) -> GitCommit | None:
    """The commit that is checked out in `folder`, None where there is none."""
    try:
        return this_commit(folder)
    except UsageError:
        return None


def named_commit(folder: Path, name: str) -> GitCommit:
    """The commit of that name in the repository around `folder`; a name that git does not know stands for itself, with
    the date of SOURCE_DATE_EPOCH or of now. Raises UsageError for what is no name."""
    asked = f"{name}^{{commit}}"
    if name and not name.startswith("-") and name.isprintable():
        form = "--format=%H%x00%ct%x00%D"
        code, told = _git(
            folder, "log", "--max-count=1", "--no-color", "--decorate=full", form, "--end-of-options", asked, "--"
        )
        if not code:
            return _commit(told)
    try:
        return GitCommit(name=name, date=_utc(_now()))
    except ValueError as cause:
        raise UsageError(f"--commit: {cause}; give a hash or a short name") from cause


def ancestors(folder: Path, name: str = "HEAD") -> tuple[str, ...] | None:
    """The hashes of the commit `name` and of those before it, the nearest first; None where git cannot tell: no
    repository, no such name, or a shallow clone, in which those before are not there."""
    if name.startswith("-"):
        return None
    code, told = _git(folder, "rev-parse", "--is-shallow-repository")
    if code or told.strip() != "false":
        return None
    asked = f"{name}^{{commit}}"
    code, told = _git(folder, "rev-list", f"--max-count={_MOST_COMMITS}", "--end-of-options", asked, "--")
    return None if code else tuple(told.split())


def _git(folder: Path, *arguments: str) -> tuple[int, str]:
    """(exit code, what it printed, or what it complains of); 127 where there is no git."""
    try:
        with child_process(
            [*_PLAIN, *arguments], writable=[], stderr=subprocess.PIPE, settings=_QUIET, cwd=folder
        ) as child:
            answer, complaint = child.communicate(timeout=_TIMEOUT_S)
    except (OSError, ValueError, subprocess.TimeoutExpired) as cause:  # ValueError: a name with a zero byte
        return 127, f"git cannot be run: {getattr(cause, 'strerror', None) or cause}"
    return child.returncode, (complaint if child.returncode else answer).decode(errors="replace")


def _commit(told: str) -> GitCommit:
    name, seconds, decoration = told.splitlines()[-1].split("\0")
    marks = [mark.strip() for mark in decoration.split(", ")]
    tags = [mark.removeprefix("tag: refs/tags/") for mark in marks if mark.startswith("tag: refs/tags/")]
    return GitCommit(name=name, date=_utc(int(seconds)), tags=tuple(sorted(tag[:_MOST_NAME] for tag in tags)))


def _reason(told: str) -> str:
    """What git says against it, in one line."""
    if "dubious ownership" in told:
        return "git does not read a repository of another user (git config --global --add safe.directory ... lets it)"
    if "does not have any commits yet" in told:
        return "the git repository has no commit yet"
    if "not a git repository" in told:
        return "no git repository here or above"
    last = [line.strip() for line in told.splitlines() if line.strip()]
    return last[-1].removeprefix("fatal: ")[:200] if last else "git told nothing"


def _now() -> int:
    """Seconds since 1970; a build that wants to be the same each time sets SOURCE_DATE_EPOCH."""
    told = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(told) if re.fullmatch(r"[0-9]{1,11}", told) else int(datetime.now(UTC).timestamp())


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Git repositories made by tests, the same on every machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["commit", "git", "repository"]

_NOBODY = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(folder: Path, *arguments: str, day: int = 1) -> str:
    """What a git command prints; `day` of January 2026 is when a commit is made."""
    when = f"2026-01-{day:02d}T12:00:00Z"
    settings = {**os.environ, **_NOBODY, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=settings, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    """An empty repository with the branch main."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    return folder


def commit(folder: Path, *, day: int = 1, tag: str = "") -> str:
    """Commit what is in the folder, also where nothing changed; the hash."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "a change", day=day)
    if tag:
        git(folder, "tag", tag)
    return git(folder, "rev-parse", "HEAD")

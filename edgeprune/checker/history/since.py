"""From which commit a growth is counted, as people write it behind the limit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeprune.errors import UsageError

__all__ = ["HISTORY_SUFFIX", "Since", "split_since"]

HISTORY_SUFFIX = ".jsonl"

_WORDS = re.compile(
    r"(?P<limit>.*?)\s+(?:over the last (?P<commits>\d{1,6}) commits?|since (?:tag )?(?P<tag>\S{1,200}))"
)
_MARKS = re.compile(r"\b(over|since|last|commits?|tag)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """So many commits of the history ago, or the commit of a tag (a branch, a hash)."""

    commits: int | None = None
    tag: str | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for neither and for both."""
        if (self.commits is None) is (self.tag is None) or (self.commits is not None and self.commits < 1):
            raise UsageError("growth is over the last so many commits, at least 1, or since a tag")

    def __str__(self) -> str:
        if self.tag is not None:
            return f"since {self.tag}"
        return f"over the last {self.commits} commit{'' if self.commits == 1 else 's'}"


def split_since(text: str) -> tuple[str, Since | None]:
    """The limit in "2 % over the last 10 commits" or "5 % since tag v1", and since when. Raises UsageError."""
    match = _WORDS.fullmatch(text.strip())
    if match is not None:
        commits = match["commits"]
        return match["limit"], Since(commits=None if commits is None else int(commits), tag=match["tag"])
    if _MARKS.search(text):
        raise UsageError(
            f"{text[:60]!r} is no growth; write '2 %', '50 kB', '2 % over the last 10 commits' or '5 % since tag v1'"
        )
    return text, None

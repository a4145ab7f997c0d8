"""The code blocks of README.md, CONTRIBUTING.md and docs/: what a reader would copy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from places import ROOT

__all__ = ["PAGES", "Block", "Command", "blocks_of", "commands_in"]

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"(?:^<!-- no-run: (?P<reason>[^\n]*?) -->\n\n?)?^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S
)
_TITLE = re.compile(r'title="([^"]+)"')
_CODE = re.compile(r"# .*exit code (\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. `reason` says why it is not run here ("" where it is), `title` is the file that it shows."""

    page: Path
    line: int
    language: str
    title: str
    reason: str
    body: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A line of a shell block: its words, the exit code that its comment promises, and what is shown below it."""

    words: tuple[str, ...]
    code: int
    shown: str


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        language, _, rest = found["info"].partition(" ")
        title = _TITLE.search(rest)
        yield Block(
            page=page,
            line=text.count("\n", 0, found.start("info")) + 1,
            language=language,
            title=title[1] if title else "",
            reason=found["reason"] or "",
            body=found["body"],
        )


def commands_in(block: Block) -> Iterator[Command]:
    """The commands of a ```shell block, or those after a $ in a ```console block, which shows their output too."""
    text = block.body.replace("\\\n", " ")
    if block.language == "console":
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            line, _, shown = part.partition("\n")
            yield _command(line, shown)
    else:
        yield from (_command(line, "") for line in text.splitlines() if shlex.split(line, comments=True))


def _command(line: str, shown: str) -> Command:
    promised = _CODE.search(line)
    words = tuple(shlex.split(line, comments=True))
    return Command(words=words, code=int(promised[1]) if promised else 0, shown=shown.strip("\n"))

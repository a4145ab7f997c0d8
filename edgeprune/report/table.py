"""A table of ready text: nothing is computed in this package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Table", "reason_lines", "to_markdown", "to_terminal", "to_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Column heads and rows of cells; columns in `left` are aligned to the left, the others to the right."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})


def reason_lines(what: str, items: Iterable[tuple[str, str]], *, every: bool) -> list[str]:
    """A line for each reason: "left dense (matched by exclude): a, b"; `items` are (name, reason). Only `every` shows
    more than four names."""
    names_by: dict[str, list[str]] = {}
    for name, reason in items:
        names_by.setdefault(reason, []).append(name)
    lines = []
    for reason, names in names_by.items():
        shown = ", ".join(names) if every or len(names) <= 4 else ", ".join(names[:3]) + f" and {len(names) - 3} more"
        lines.append(f"{what} ({reason}): {shown}")
    return lines


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join("---" if n in table.left else "---:" for n in range(len(table.heads))) + "|"
    return "\n".join([line(table.heads), rule, *(line(row) for row in table.rows)])


def to_text(table: Table) -> str:
    """Aligned columns without colour, for logs and pipes."""
    widths = [max(len(row[n]) for row in (table.heads, *table.rows)) for n in range(len(table.heads))]

    def line(cells: tuple[str, ...]) -> str:
        padded = (
            c.ljust(w) if n in table.left else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(table.heads), "  ".join("-" * w for w in widths), *(line(row) for row in table.rows)])


def to_terminal(table: Table, width: int) -> str:
    """The table fitted into `width` columns; cells wrap."""
    import io

    import rich.box
    import rich.console
    import rich.table

    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    for n, head in enumerate(table.heads):
        drawn.add_column(head, justify="left" if n in table.left else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(cell.replace("[", "\\[") for cell in row))
    console = rich.console.Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get().rstrip()

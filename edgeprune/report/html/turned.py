"""Which answers a file changed against the dense model: the classes that pay, mistakes that became more, errors."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.answers import AnswerChange, ErrorCounts, Swap
from edgeprune.report.html.bars import Bar, bars
from edgeprune.report.html.drawing import NARROW, WIDE, Scale, axis, line, path, rect, svg, text, ticks
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.page import Picture, slug
from edgeprune.report.table import Table
from edgeprune.units import format_percent

__all__ = ["answer_pictures"]

_MOST_IN_MATRIX = 20  # classes


def answer_pictures(found: AnswerChange, file: str) -> list[Picture]:
    """The pictures of one output of a file."""
    where = f"{found.answers:,} answers of output {found.output}, {file} against the dense model on the same samples"
    if found.errors is not None:
        return [_errors(found, found.errors, where)]
    pictures = [_classes(found, where)] if found.classes else []
    return [*pictures, _swaps(found, where)] if found.swaps else pictures


def _classes(found: AnswerChange, where: str) -> Picture:
    rows = [
        Bar(
            name=f"class {one.index}",
            value=-one.drop,
            words=f"{0.0 - 100 * one.drop:+.1f} points ({one.right_after - one.right_before:+d} of {one.answers:,})",
            class_="bad" if one.drop > 0 else "good",
        )
        for one in found.classes
    ]
    cells = tuple(
        (
            str(one.index),
            f"{one.answers:,}",
            f"{one.right_before:,}",
            f"{one.right_after:,}",
            f"{0.0 - 100 * one.drop:+.2f} points",
        )
        for one in found.classes
    )
    others = f" {found.others} classes that changed less are not listed." if found.others else ""
    heads = ("class", "answers", "right, dense model", "right, file", "change")
    return bars(
        rows,
        name=f"classes-{slug(found.output)}",
        title="Which classes pay",
        caption=f"Change of the share of right answers in each class: {where}. {found.lost:,} answers were right and "
        f"are wrong, {found.won:,} the other way round; a class of few samples turns with one of them.{others}",
        table=Table(heads=heads, rows=cells),
        word=lambda value: f"{100 * value:+.3g}" if value else "0",
        value_pixels=168,
    )


def _swaps(found: AnswerChange, where: str) -> Picture:
    rows = tuple(
        (f"{one.actual} taken for {one.taken}", f"{one.before:,}", f"{one.after:,}", f"{one.after - one.before:+d}")
        for one in found.swaps
    )
    table = Table(heads=("mistake", "dense model", "file", "change"), rows=rows)
    title = "Mistakes that became more or fewer"
    caption = (
        f"Counts of {where}. Red: more of this mistake; green: fewer. At most thirty are kept, those that changed most."
    )
    highest = max(max(one.actual, one.taken) for one in found.swaps)
    name = f"mistakes-{slug(found.output)}"
    if highest < _MOST_IN_MATRIX:
        label = f"Mistakes by class and answer, {len(found.swaps)} of which changed; the table below has the numbers"
        return Picture(
            name=name,
            title=title,
            caption=f"{caption} Rows: the class that is there; columns: the class that was answered.",
            table=table,
            wide=_matrix(found.swaps, highest + 1, WIDE, label),
            narrow=_matrix(found.swaps, highest + 1, NARROW, label),
        )
    drawn = [
        Bar(
            name=f"{one.actual} taken for {one.taken}",
            value=float(one.after - one.before),
            words=f"{one.before:,} to {one.after:,}",
            class_="bad" if one.after > one.before else "good",
        )
        for one in found.swaps
    ]
    return bars(drawn, name=name, title=title, caption=caption, table=table, word=lambda value: f"{value:+g}")


def _matrix(swaps: Sequence[Swap], count: int, width: float, label: str) -> Markup:
    """A square for each pair of class and answer, coloured where their mistakes changed."""
    left, top = 30.0, 22.0
    side = min(36.0, (width - left - 4) / count)
    most = max(abs(one.after - one.before) for one in swaps)
    parts = [
        text(0, top - 8, "is", "small strong"),
        text(left + count * side, top - 8, "answered", "small strong", anchor="end"),
    ]
    for n in range(count):
        middle = (n + 0.5) * side
        parts.append(text(left - 8, top + middle + 4, str(n), "small", anchor="end"))
        parts.append(text(left + middle, top + count * side + 15, str(n), "small", anchor="middle"))
        parts.append(rect(left + n * side, top + n * side, side, side, "band"))
    for one in swaps:
        x, y, change = left + one.taken * side, top + one.actual * side, one.after - one.before
        class_ = "bad-fill" if change > 0 else "good-fill"
        tip = f"{one.actual} taken for {one.taken}: {one.before:,} to {one.after:,}"
        parts.append(
            rect(x + 1, y + 1, side - 2, side - 2, f"{class_}{'' if abs(change) * 3 > most else ' faint'}", tip)
        )
        if side >= 22:
            parts.append(text(x + side / 2, y + side / 2 + 4, f"{change:+d}", "small", anchor="middle"))
    parts += [rect(left, top, count * side, count * side, "outline")]
    return svg(width, top + count * side + 22, *parts, label=label)


def _errors(found: AnswerChange, errors: ErrorCounts, where: str) -> Picture:
    rows = tuple(
        (f"{low:.4g} to {high:.4g}", f"{before:,}", f"{after:,}", format_percent(after / max(1, found.answers), 2))
        for low, high, before, after in zip(errors.edges, errors.edges[1:], errors.before, errors.after, strict=False)
    )
    label = "How many answers miss by how much, before and after; the table below has the numbers"
    return Picture(
        name=f"errors-{slug(found.output)}",
        title="Errors before and after",
        caption=f"Output minus target of {where}. Filled: the file; line: the dense model. Those beyond the edges are "
        "counted in the outermost.",
        table=Table(heads=("error", "dense model", "file", "of all"), rows=rows),
        wide=_histogram(errors, WIDE, label),
        narrow=_histogram(errors, NARROW, label),
    )


def _histogram(errors: ErrorCounts, width: float, label: str) -> Markup:
    high, top = 190.0, 8.0
    across = Scale(low=errors.edges[0], high=errors.edges[-1], start=48, end=width - 8)
    up = Scale(low=0, high=max(*errors.before, *errors.after, 1), start=top + high, end=top)
    parts = axis(across, top, top + high, lambda value: f"{value:g}", 7 if width == WIDE else 4)
    for count in ticks(0, up.high, 4)[1:]:
        parts += [
            line(48, up(count), across.end, up(count), "grid"),
            text(42, up(count) + 4, f"{count:g}", "small", anchor="end"),
        ]
    points: list[tuple[float, float]] = []
    for low, edge, before, after in zip(errors.edges, errors.edges[1:], errors.before, errors.after, strict=False):
        tip = f"{low:.4g} to {edge:.4g}: {before:,} dense, {after:,} now"
        parts.append(rect(across(low) + 0.5, up(after), across(edge) - across(low) - 1, up(0) - up(after), "fill", tip))
        points += [(across(low), up(before)), (across(edge), up(before))]
    parts.append(path(points, "line second"))
    return svg(width, top + high + 24, *parts, label=label)

"""Who did the damage, as tables."""

from __future__ import annotations

from edgeprune.ledger import Blame, MetricChange, Undone
from edgeprune.report.table import Table, to_markdown, to_terminal, to_text
from edgeprune.units import format_percent

__all__ = ["blame_markdown", "blame_text", "layers_table", "steps_table"]

HOW = (
    "Undone: zeros get the weights from before the step again, int8 goes back to float; a channel or finetune step is "
    "left out and the later steps repeated in one shot, without their training. Layers are made dense in the float "
    "model. Intervals: 95 %, paired bootstrap over the same samples."
)


def steps_table(blame: Blame) -> Table:
    """A row for each step."""
    rows = tuple(
        (row.step, *_cells(blame, row), "-" if row.alone is None else _signed(-_gain(blame, row.alone), blame), row.how)
        for row in blame.steps
    )
    heads = ("step", "without it", "changes", "95 % interval", "only it changes", "how it is undone")
    return Table(heads=heads, rows=rows, left=frozenset({0, 5}))


def layers_table(blame: Blame, most: int = 0) -> Table:
    """A row for each layer that can be undone, the worst first; `most` of them (0: all)."""
    shown = blame.layers[:most] if most else blame.layers
    rows = tuple((row.layer or "", row.what, *_cells(blame, row)) for row in shown)
    return Table(
        heads=("layer", "made", blame.metric.name, "changes", "95 % interval"), rows=rows, left=frozenset({0, 1})
    )


def blame_text(blame: Blame, *, width: int | None = None) -> str:
    """Text for a log, or, with the `width` of a terminal, tables that fit it."""

    def shown(table: Table) -> str:
        return to_text(table) if width is None else to_terminal(table, width)

    parts = [shown(steps_table(blame))]
    if blame.layers:
        parts += ["", shown(layers_table(blame))]
    return "\n".join([*parts, "", *(f"* {line}" for line in _sentences(blame))])


def blame_markdown(blame: Blame) -> list[str]:
    """The same as a section of a Markdown page."""
    parts = [
        "## Who did the damage",
        "",
        *(f"- {line}" for line in _sentences(blame)),
        "",
        to_markdown(steps_table(blame)),
    ]
    return [*parts, "", *([to_markdown(layers_table(blame)), ""] if blame.layers else [])]


def _sentences(blame: Blame) -> list[str]:
    stack, name = blame.stack, blame.metric.name
    lines = [
        f"{name} on {blame.samples:,} samples of {blame.data}: {_value(stack.before, blame)} dense, "
        f"{_value(stack.before + stack.difference, blame)} at the end ({_signed(stack.difference, blame)}"
        f"{', ' + _interval(stack, blame) if stack.low is not None else ''})."
    ]
    if blame.rest is not None and blame.compounding is not None:
        lines.append(
            f"Compounding: {_signed(-_gain(blame, blame.compounding), blame)}, the change of the whole stack less "
            f"what stays when all is undone that can be (training, widths: "
            f"{_signed(-_gain(blame, blame.rest), blame)}) and what each step changes alone."
        )
    return [*lines, *(f"{note[0].upper()}{note[1:]}." for note in blame.notes), HOW]


def _gain(blame: Blame, loss: float) -> float:
    """A loss in the metric's own direction: what is lost of an accuracy is less of it, of an error more."""
    return loss if blame.metric.higher_is_better else -loss


def _cells(blame: Blame, row: Undone) -> tuple[str, str, str]:
    change = row.change
    if change is None:
        return "not measured", row.reason or "", ""
    return _value(change.before + change.difference, blame), _signed(change.difference, blame), _interval(change, blame)


def _interval(change: MetricChange, blame: Blame) -> str:
    if change.low is None or change.high is None:
        return "none"
    return f"{_signed(change.low, blame)} to {_signed(change.high, blame)}{' (noise)' if change.is_noise else ''}"


def _value(value: float, blame: Blame) -> str:
    return format_percent(value, 2) if blame.metric.is_share else f"{value:.4f}"


def _signed(value: float, blame: Blame) -> str:
    return f"{'+' if value >= 0 else ''}{_value(value + 0.0, blame)}"  # no minus before a zero

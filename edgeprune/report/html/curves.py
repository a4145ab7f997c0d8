"""How the training of each step went: loss and validation metric, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.ledger import EpochLog, Ledger, MetricKind, Stage
from edgeprune.report.html.drawing import NARROW, WIDE, Scale, dot, line, path, svg, text, ticks
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.page import Picture
from edgeprune.report.table import Table
from edgeprune.units import format_percent

__all__ = ["curves"]

_HIGH = 132.0


def curves(ledger: Ledger) -> Picture | None:
    """All trainings of a run, one after the other; None where nothing was trained."""
    trained = [stage for stage in ledger.stages if stage.training and stage.training.epochs]
    if not trained:
        return None
    kind = ledger.metric
    heads = ("stage", "epoch", "training loss", f"validation {kind.name}", "kept")
    rows = tuple(
        (
            stage.name,
            str(number),
            f"{epoch.loss:.4g}",
            "not measured" if epoch.validation is None else _value(kind, epoch.validation),
            "yes" if number == stage.training.kept_epoch else "",
        )
        for stage in trained
        if stage.training
        for number, epoch in enumerate(stage.training.epochs, start=1)
    )
    label = f"Training of {len(trained)} stages, epoch by epoch; the table below has the numbers"
    return Picture(
        name="learning",
        title="Learning curves",
        caption=f"Mean training loss of each epoch, and {kind.name} on the validation samples after it (never on "
        "test samples). Ringed: the epoch whose weights were kept. Losses of stages that train for different things do "
        "not compare.",
        table=Table(heads=heads, rows=rows, left=frozenset({0})),
        wide=_drawn(trained, kind, WIDE, label),
        narrow=_drawn(trained, kind, NARROW, label),
    )


def _value(kind: MetricKind, value: float) -> str:
    return format_percent(value, 2) if kind.is_share else f"{value:.4f}"


def _drawn(stages: Sequence[Stage], kind: MetricKind, width: float, label: str) -> Markup:
    """A row for each stage: its loss, and beside it (on a phone: below it) the metric."""
    parts: list[Markup] = []
    beside = width == WIDE
    high = _HIGH + 52
    for n, stage in enumerate(stages):
        assert stage.training is not None
        epochs, kept = stage.training.epochs, stage.training.kept_epoch
        top = n * high * (1 if beside else 2)
        losses = [epoch.loss for epoch in epochs]
        parts += _plot(
            f"{stage.name}: loss", losses, kept, (0.0, top, (width - 24) / 2 if beside else width), "second", "{:.3g}"
        )
        x, y = ((width + 24) / 2, top) if beside else (0.0, top + high)
        parts += _metric(stage.name, kind, epochs, kept, (x, y, width - x))
    return svg(width, len(stages) * high * (1 if beside else 2), *parts, label=label)


def _metric(
    stage: str, kind: MetricKind, epochs: Sequence[EpochLog], kept: int, place: tuple[float, float, float]
) -> list[Markup]:
    title = f"{stage}: validation {kind.name}"
    known = [(number, epoch.validation) for number, epoch in enumerate(epochs, start=1) if epoch.validation is not None]
    if not known:
        x, y, _ = place
        return [text(x, y + 14, title, "head"), text(x, y + 40, "not measured", "soft")]
    # With keep_from only the last epochs are scored.
    values = [100 * value if kind.is_share else value for _, value in known]
    return _plot(title, values, kept, place, "", "{:.4g} %" if kind.is_share else "{:.4g}", first=known[0][0])


def _plot(
    title: str,
    values: Sequence[float],
    kept: int,
    place: tuple[float, float, float],
    class_: str,
    word: str,
    *,
    first: int = 1,
) -> list[Markup]:
    """Values of the epochs from `first`, those that count drawn larger."""
    x, y, width = place
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
    down = Scale(low=low - room, high=high + room, start=y + 26 + _HIGH, end=y + 26)
    last = first + len(values) - 1
    across = Scale(low=1, high=max(2, last), start=x + 52, end=x + width - 12)
    parts = [text(x, y + 14, title, "head")]
    for value in ticks(down.low, down.high, 4):
        parts += [
            line(across.start - 6, down(value), across.end + 6, down(value), "grid"),
            text(across.start - 10, down(value) + 4, word.format(value), "small", anchor="end"),
        ]
    parts += [text(across(number), down.start + 15, str(number), "small", anchor="middle") for number in {1, last}]
    points = [(across(number), down(value)) for number, value in enumerate(values, start=first)]
    parts.append(path(points, f"line {class_}".strip()))
    for number, (point, value) in enumerate(zip(points, values, strict=True), start=first):
        if number == kept or len(values) <= 60:
            tip = f"epoch {number}: {word.format(value)}"
            parts.append(
                dot(*point, 5 if number == kept else 3, f"{class_ or 'main'}{' kept' if number == kept else ''}", tip)
            )
    return parts

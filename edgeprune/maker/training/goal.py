"""What a recipe or a command line says of loss and metric: words, held against a model later. Light."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.errors import RecipeError, UsageError
from edgeprune.host.toml_values import check_choice, typed
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.user_code import code_of

__all__ = ["DEFAULT", "FIRST", "GOAL_KEYS", "Goal", "Words", "goal_of", "read_goal"]

FIRST = ""  # stands for the output that has no name in the words: the only one, or the first
GOAL_KEYS = ("metric", "loss", "loss_weights")  # of a recipe
Words = str | Sequence[str] | Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Metrics and losses by the output's name (FIRST: the only output, or the first).

    The first metric is the main one. Empty is what the model is compiled with.
    """

    metric: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """How outputs are scored: `"accuracy"`, `"top5"`, `"iou"`, `"binary_accuracy"`, `"auc"`, `"f1"`, `"mse"`, `"rmse"`,
    `"mae"` or `"r2"`, or your own `"file.py:function"`; several in a list, those of each output in a table by its name:
    `{ kind = "accuracy", box = ["mae", "score.py:overlap"] }`. The first one chooses the best epoch. Left out, what the
    model is compiled with."""
    loss: Mapping[str, str] = field(default_factory=dict)
    """What training makes small: a name of `keras.losses` such as `"huber"`, or your own `"file.py:function"`; that of
    each output in a table. Left out, what the model is compiled with, else the loss that goes with the metric."""
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    """How much the loss of each output counts, in a table."""

    def __post_init__(self) -> None:
        """Raise UsageError for words that no model could make right."""
        for names in self.metric.values():
            for name in names:
                if code_of(name) is None:
                    check_choice("metric", name, METRICS)
            if len(set(names)) != len(names):
                raise UsageError(f"the metric {next(n for n in names if names.count(n) > 1)!r} is named twice")
        for output, weight in self.loss_weights.items():
            if not 0 <= weight < float("inf"):
                raise UsageError(f"the weight of a loss is a number, at least 0; got {weight:g} for {output!r}")


DEFAULT = Goal(metric={FIRST: ("accuracy",)})


def goal_of(metric: Words = (), loss: str | Mapping[str, str] = "", **more: Mapping[str, float]) -> Goal:
    """A goal out of names: one metric, several, or those of each output; a loss, or that of each output."""
    metrics = metric if isinstance(metric, Mapping) else {FIRST: metric} if metric else {}
    losses = loss if isinstance(loss, Mapping) else {FIRST: loss} if loss else {}
    return Goal(metric={output: _several(names) for output, names in metrics.items()}, loss=dict(losses), **more)


def _several(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def read_goal(path: Path, raw: Mapping[str, object]) -> Goal:
    """The keys `metric`, `loss` and `loss_weights` of a recipe. Raises RecipeError."""
    losses = {output: typed(path, "loss", value, str) for output, value in _by_output(raw.get("loss"))}
    try:
        return Goal(
            metric={output: _texts(path, "metric", value) for output, value in _by_output(raw.get("metric"))},
            loss={output: _placed(path, word) for output, word in losses.items()},
            loss_weights={
                output: typed(path, "loss_weights", value, float)
                for output, value in _by_output(raw.get("loss_weights"))
            },
        )
    except UsageError as cause:
        raise RecipeError(f"{path}: {cause}") from cause


def _by_output(value: object) -> list[tuple[str, object]]:
    if value is None:
        return []
    return [(str(key), item) for key, item in value.items()] if isinstance(value, Mapping) else [(FIRST, value)]


def _texts(path: Path, key: str, value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(_placed(path, typed(path, key, item, str)) for item in items)


def _placed(path: Path, word: str) -> str:
    """A word of a recipe; code of the user's own counts from the recipe's folder."""
    return word if code_of(word) is None else str(path.parent / word)

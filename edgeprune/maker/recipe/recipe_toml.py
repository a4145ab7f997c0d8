"""A recipe as text: what a program chose, in the form that people write by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeprune.maker.keras.compiled import compiled_of
from edgeprune.maker.keras.types import Model
from edgeprune.maker.training.data.loading import stored_at
from edgeprune.maker.training.goal import DEFAULT, FIRST, Goal

__all__ = ["RecipeFiles", "goal_words", "moved_toml", "recipe_toml"]

# Keys of a recipe that may name files.
PATHS = ("model", "train", "validation", "test", "teacher", "class_labels", "device", "devices", "metric", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFiles:
    """What a recipe names: the model, the splits by key, and what else stands in its tables; `goal` are the words for
    metric and losses, by key."""

    model: Path
    splits: Mapping[str, Path]
    goal: Mapping[str, object] = field(default_factory=dict)
    scale: float = 1.0
    offset: float = 0.0
    on_bad_sample: str = "error"
    set_aside: float | None = None
    seed: int = 0
    threads: int | None = None


def goal_words(goal: Goal, model: Model) -> dict[str, object]:
    """Metric, loss and weights as a recipe writes them, accuracy where neither they nor the model say a metric; what is
    left out there is missing here."""
    goal = replace(goal, metric=DEFAULT.metric) if not goal.metric and compiled_of(model) is None else goal
    metric = {name: list(some) if len(some) > 1 else some[0] for name, some in goal.metric.items()}
    told: dict[str, Mapping[str, object]] = {
        "metric": metric,
        "loss": goal.loss,
        "loss_weights": goal.loss_weights,
    }
    return {key: words[FIRST] if set(words) == {FIRST} else words for key, words in told.items() if words}


def recipe_toml(
    files: RecipeFiles,
    place: Path,
    *,
    head: str,
    steps: Iterable[Mapping[str, object]],
    exports: Sequence[tuple[str, str]],
    latency: Mapping[str, object],
    budget: Mapping[str, object] | None = None,
) -> str:
    """A recipe with paths beside `place`, where it will stand; `head` is the comment on its first line."""
    lines = [
        f"# {head}",
        f"#   edgeprune run {place.name} -o output",
        _line("model", _beside(files.model, place)),
        *(_line(key, words) for key, words in files.goal.items()),
        _line("seed", files.seed),
        *([_line("threads", files.threads)] if files.threads is not None else []),
        "",
        "[data]",
        *(_line(key, _beside(path, place)) for key, path in files.splits.items()),
        *([_line("scale", files.scale)] if files.scale != 1 else []),
        *([_line("offset", files.offset)] if files.offset else []),
        *([_line("on_bad_sample", files.on_bad_sample)] if files.on_bad_sample != "error" else []),
        *([_line("set_aside", files.set_aside)] if files.set_aside is not None else []),
    ]
    for step in steps:
        lines += ["", "[[steps]]", *(_line(key, value) for key, value in step.items())]
    for form, stored in exports:
        lines += ["", "[[exports]]", _line("format", form), _line("precision", stored)]
    if latency:
        lines += ["", "[latency]", *(_line(key, value) for key, value in latency.items())]
    if budget:
        lines += ["", "[budget]", *(_line(key, value) for key, value in budget.items())]
    return "\n".join(lines) + "\n"


def moved_toml(raw: Mapping[str, Any], seen_from: Path, place: Path, *, head: str) -> str:
    """A recipe's values, whose files lie beside `seen_from`, as the text of one that stands at `place`."""
    tables, lines = dict[str, Any](), [f"# {head}", f"#   edgeprune run {place.name} -o output"]
    for key, value in _seen_at(raw, seen_from.absolute().parent, place).items():
        listed = isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)
        if listed or key in ("data", "latency", "budget", "student"):
            tables[key] = value
        else:
            lines.append(_line(key, value))
    for key, value in tables.items():
        for table in value if isinstance(value, list) else [value]:
            lines += ["", f"[[{key}]]" if isinstance(value, list) else f"[{key}]"]
            lines += [_line(name, each) for name, each in table.items()]
    return "\n".join(lines) + "\n"


def _seen_at(value: Any, folder: Path, place: Path, key: str = "") -> Any:
    """The same values with the files that they name as seen from the folder of `place`."""
    if isinstance(value, Mapping):
        return {name: _seen_at(each, folder, place, name if name in PATHS else key) for name, each in value.items()}
    if isinstance(value, list):
        return [_seen_at(each, folder, place, key) for each in value]
    if key in PATHS and isinstance(value, str) and stored_at(folder / value).exists():
        return _beside(folder / value, place)
    return value


def _line(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(name)} = {_toml(each)}" for name, each in value.items())
        return f"{key} = {{ {inner} }}"
    return f"{key} = {_toml(value)}"


def _toml(value: object) -> str:
    """A value of TOML; its strings, numbers and lists are written as in JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _beside(path: Path, place: Path) -> str:
    """A path as seen from the folder of the recipe."""
    return Path(os.path.relpath(path, place.absolute().parent)).as_posix()

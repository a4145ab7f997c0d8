"""A space of recipes: a recipe in which keys are open, and a table that says what is looked for."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.artifact import Format
from edgeprune.errors import EdgepruneError, RecipeError, UsageError
from edgeprune.host.toml_values import check_choice, known_keys, read_toml
from edgeprune.maker.recipe.recipe import ExportSpec, Recipe, recipe_of_text
from edgeprune.maker.recipe.recipe_toml import moved_toml
from edgeprune.maker.recipe.steps import training_of
from edgeprune.maker.recipe.tables import read_table
from edgeprune.maker.search.asked import AimOptions
from edgeprune.maker.search.executors import TrialLimits

__all__ = [
    "OBJECTIVES",
    "SAMPLERS",
    "Choice",
    "Range",
    "Space",
    "SweepOptions",
    "epochs_of",
    "judged_export",
    "load_space",
]

OBJECTIVES = ("metric", "download", "latency")
SAMPLERS = ("tpe", "nsga2")
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions(AimOptions):
    """[sweep]: what is looked for, and how."""

    objectives: tuple[str, ...] = ("metric", "download")
    """What is made better, all at once: of `"metric"`, `"download"`, `"latency"`."""
    trials: int = 40
    """How many recipes are tried; more than before goes on with the same search."""
    batch: int = 8
    """So many are chosen before any of them is known, and no more run side by side; a generation of `nsga2`."""
    sampler: str = "tpe"
    """`"tpe"` (Bergstra et al., 2011) or `"nsga2"` (Deb et al., 2002); both are Optuna's."""
    limits: TrialLimits = field(default_factory=TrialLimits)

    def __post_init__(self) -> None:
        for name in self.objectives:
            check_choice("objective", name, OBJECTIVES)
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise UsageError(f"objectives are some of {', '.join(OBJECTIVES)}, each once")
        check_choice("sampler", self.sampler, SAMPLERS)
        if not (1 <= self.trials <= 100_000 and 1 <= self.batch <= 10_000):
            raise UsageError("trials are 1 to 100,000, and batch is 1 to 10,000")
        if self.device is not None and not self.timed:
            raise UsageError('device is what the latency is estimated for; add "latency" to objectives, or a latency')
        self.check()

    @property
    def timed(self) -> bool:
        """Whether latencies are asked for."""
        return "latency" in self.objectives or self.latency is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of several values."""

    options: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked before any trial."""
        return self.options

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.options))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A number from `low` to `high`, whole where both ends are; with `log` small ones are as likely as large ones."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked before any trial."""
        return self.low, self.high

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step:g}"
        return f"{self.low:g} to {self.high:g}{step}{', log' if self.log else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The recipes that a file stands for; `open` are the keys that vary, by their place such as steps.2.macs."""

    path: Path
    raw: Mapping[str, Any]
    open: Mapping[str, Choice | Range]
    sweep: SweepOptions

    def first(self) -> Values:
        """The first value of each open key."""
        return {name: each.ends[0] for name, each in self.open.items()}

    def text(self, values: Values, place: Path | None = None, *, head: str = "A trial.") -> str:
        """The recipe with these values as it stands at `place`; left out, where the space stands."""
        raw = copy.deepcopy(dict(self.raw))
        for name, value in values.items():
            table, number, key = name.split(".")
            raw[table][int(number) - 1][key] = value
        return moved_toml(raw, self.path, place or self.path, head=head)

    def recipe(self, values: Values) -> Recipe:
        """The recipe with these values. Raises RecipeError."""
        return recipe_of_text(self.path, self.text(values))

    def words(self, values: Values) -> str:
        """The values in words."""
        last = [name.rpartition(".")[2] for name in self.open]
        short = {name: key if last.count(key) == 1 else name for name, key in zip(self.open, last, strict=True)}
        return ", ".join(f"{short[name]} {json.dumps(values[name]).strip(chr(34))}" for name in self.open)

    @property
    def sha256(self) -> str:
        """A hash of all that decides which recipe is tried next: not of how many, and not of where they run."""
        sweep, open_keys = self.sweep, {name: repr(each) for name, each in self.open.items()}
        told = [self.raw, open_keys, sweep.objectives, sweep.sampler, sweep.batch, sweep.device]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def judged_export(recipe: Recipe) -> ExportSpec:
    """The file that stands for a recipe: its first .tflite export. Raises RecipeError."""
    fit = (e for e in recipe.exports if e.format is Format.TFLITE and not e.sparse_kernels)
    found = next(fit, None)
    if found is None:
        raise RecipeError(f"{recipe.path}: a sweep judges the first tflite export; add one to [[exports]]")
    return found


def epochs_of(recipe: Recipe) -> int:
    """Passes over the training samples in all steps."""
    trained = ((training_of(step), getattr(step, "rounds", 1)) for step in recipe.steps)
    return sum(options.epochs * rounds for options, rounds in trained if options is not None)


def load_space(path: Path) -> Space:
    """Read a space; every value of an open key is tried in a recipe, without model and data.

    Raises InputError for a file that cannot be read, RecipeError for one that is no space.
    """
    _, raw = read_toml(path)
    told = raw.pop("sweep", {})
    sweep = read_table(path, "sweep", told, SweepOptions)
    found = dict(_open_keys(path, raw))
    if not found:
        raise RecipeError(
            f"{path}: no key is open; write macs = {{ from = 0.3, to = 0.8 }} or importance = "
            '{ one_of = ["lamp", "fisher"] } in a step'
        )
    space = Space(path=path, raw=raw, open=found, sweep=sweep)
    for name, each in [("", None), *found.items()]:
        for value in each.ends if each else [None]:
            _check(space, name, value)
    return space


def _check(space: Space, name: str, value: Any) -> None:
    try:
        recipe = space.recipe({**space.first(), **({name: value} if name else {})})
    except EdgepruneError as cause:
        told = str(cause).removeprefix(f"{space.path}: ")
        raise RecipeError(
            f"{space.path}: {name or 'the first values'} {'' if value is None else value}: {told}"
        ) from cause
    judged_export(recipe)
    if not (recipe.data.validation or recipe.data.set_aside):
        raise RecipeError(f"{space.path}: validation samples decide; set validation or set_aside in [data]")
    if recipe.student is not None:
        raise RecipeError(f"{space.path}: a sweep takes no [student]; make the student first, and sweep over it")


def _open_keys(path: Path, raw: Mapping[str, Any]) -> Iterator[tuple[str, Choice | Range]]:
    for key, value in raw.items():
        if key in ("steps", "exports") and isinstance(value, list):
            for number, table in enumerate(value, start=1):
                for inner, each in table.items() if isinstance(table, Mapping) else ():
                    if _is_open(each):
                        yield f"{key}.{number}.{inner}", _read_open(path, f"{key}.{number}.{inner}", each)
        elif _is_open(value) or (isinstance(value, Mapping) and any(map(_is_open, value.values()))):
            raise RecipeError(f"{path}: '{key}' is the same for all trials; keys of [[steps]] and [[exports]] are open")


def _is_open(value: object) -> bool:
    return isinstance(value, Mapping) and ("one_of" in value or "from" in value or "to" in value)


def _read_open(path: Path, name: str, raw: Mapping[str, Any]) -> Choice | Range:
    if name.endswith((".teacher", ".kind", ".name")):
        raise RecipeError(f"{path}: {name} is the same for all trials")
    if "one_of" in raw:
        known_keys(path, name, raw, ["one_of"])
        options = raw["one_of"]
        if not isinstance(options, list) or len(options) < 2:
            raise RecipeError(f"{path}: {name}: one_of is a list of two values or more")
        return Choice(options=tuple(options))
    known_keys(path, name, raw, ["from", "to", "step", "log"])
    ends = [raw.get("from"), raw.get("to")]
    numbers = [each for each in ends if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise RecipeError(f"{path}: {name}: a range is {{ from = NUMBER, to = LARGER }}; got {dict(raw)}")
    found = Range(low=numbers[0], high=numbers[1], step=raw.get("step"), log=raw.get("log", False))
    if (found.step is not None and not (isinstance(found.step, int | float) and found.step > 0)) or (
        found.log and (found.step is not None or found.low <= 0)
    ):
        raise RecipeError(f"{path}: {name}: step is above 0; log takes no step, and begins above 0")
    return found

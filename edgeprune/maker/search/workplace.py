"""Where trials are carried out in another process: model and data are read once, then one trial follows the other.

As a program (`edgeprune.host.children` starts it) it takes a setting and then jobs from standard input, one JSON object
a line, and answers each with a line on what was standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgeprune.errors import EdgepruneError, unexpected
from edgeprune.maker.keras.starting import take_threads
from edgeprune.maker.search.executors import (
    Executor,
    Job,
    Means,
    Setting,
    Spread,
    Workplace,
    executor_of,
)

if TYPE_CHECKING:
    from edgeprune.artifact import Precision
    from edgeprune.maker.recipe.recipe import Recipe
    from edgeprune.maker.recipe.stages import Store
    from edgeprune.maker.search.recipe_trials import RecipeTrials

__all__ = ["RecipeWork", "executor_for", "failure_of", "main", "open_workplace", "opened"]

Elsewhere = Callable[[str], bytes | None]


class RecipeWork:
    """Carries out jobs with the trials of a search; their recipes stand at `place`."""

    def __init__(self, trials: RecipeTrials, place: Path) -> None:
        self.trials, self.place = trials, place

    @property
    def store(self) -> Store:
        """What results are left in."""
        return self.trials.store

    def carry_out(self, job: Job) -> None:
        """Make and judge the file of a recipe."""
        self.trials.made(*self._asked(job))

    def needs(self, job: Job) -> list[str]:
        """The files in the store that a job can begin with, by name."""
        return self.trials.needs(*self._asked(job))

    def _asked(self, job: Job) -> tuple[Recipe, Precision]:
        from edgeprune.artifact import Precision
        from edgeprune.maker.recipe.recipe import recipe_of_text

        return recipe_of_text(self.place, job.recipe), Precision(job.precision)


def executor_for(
    trials: RecipeTrials,
    place: Path,
    recipe: str,
    spread: Spread,
    *,
    inputs: Mapping[str, Path],
    trust_code: bool,
    custom: Sequence[Path],
) -> Executor:
    """Who carries out trials that are spread so: their recipes stand at `place`, and `recipe` is one of them; `inputs`
    are the model and the splits as the recipe names them."""
    from edgeprune.maker.training.data.loading import stored_at

    setting = Setting(
        recipe=recipe,
        place=str(place),
        folder=str(trials.store.folder.absolute()),
        store_base=trials.store.base,
        seed=trials.seed,
        cpus=spread.limits.cpus,
        trust_code=trust_code,
        custom=tuple(str(file.absolute()) for file in custom),
    )
    work = RecipeWork(trials, place)
    files = {key: stored_at(path) for key, path in inputs.items()}
    files |= {f"custom {number}": file for number, file in enumerate(custom)}
    return executor_of(
        Means(setting=setting, spread=spread, work=work, progress=trials.progress, needs=work.needs, inputs=files)
    )


def opened(setting: Setting, elsewhere: Elsewhere) -> Workplace:
    """A workplace of its own: TensorFlow, the model and the data, and a converter."""
    from edgeprune.converters.session import Converter
    from edgeprune.host.progress import Progress
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.keras.models import keras_module
    from edgeprune.maker.keras.starting import at_start
    from edgeprune.maker.recipe.prepare import prepare
    from edgeprune.maker.recipe.recipe import recipe_of_text
    from edgeprune.maker.recipe.stages import Store
    from edgeprune.maker.search.recipe_trials import RecipeTrials
    from edgeprune.maker.training.loop import make_deterministic

    place, custom = Path(setting.place), tuple(Path(file) for file in setting.custom)
    recipe = recipe_of_text(place, setting.recipe)
    splits = {name: _moved(setting, name, getattr(recipe.data, name)) for name in ("train", "validation", "test")}
    recipe = replace(recipe, model=_moved(setting, "model", recipe.model), data=replace(recipe.data, **splits))
    converter = Converter()
    with at_start(converter.start):
        prepared = prepare(recipe, trust_code=setting.trust_code, custom=custom)
    make_deterministic(keras_module(), setting.seed)

    load = partial(load_model, trust_code=setting.trust_code, custom=custom)
    trials = RecipeTrials(
        prepared=prepared,
        store=Store(Path(setting.folder), setting.store_base, load, elsewhere=elsewhere),
        converter=converter,
        progress=Progress(quiet=True),
        seed=setting.seed,
    )
    return RecipeWork(trials, place)


def _moved(setting: Setting, key: str, path: Path | None) -> Any:
    """Where what a key of the recipe names lies now; "file.py:function" goes with its file."""
    from edgeprune.maker.training.user_code import code_of

    if path is None or key not in setting.moved:
        return path
    code = code_of(path)
    return Path(setting.moved[key] if code is None else f"{setting.moved[key]}:{code[1]}")


def open_workplace(setting: Setting, elsewhere: Elsewhere = lambda _: None) -> Workplace:
    """What the setting says that makes one; called before TensorFlow is loaded."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    take_threads(setting.cpus)
    module, _, function = setting.opens.partition(":")
    return cast("Workplace", getattr(importlib.import_module(module), function)(setting, elsewhere))


def failure_of(work: Workplace, job: Job) -> str | None:
    """Carry out a job; why it could not be done."""
    try:
        work.carry_out(job)
    except EdgepruneError as cause:
        return str(cause)
    except Exception as cause:  # noqa: BLE001  (told by whoever asked)
        return unexpected(cause)
    return None


def main() -> None:
    """Answer jobs until standard input closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever training prints must not mix with the replies

    def reply(told: Mapping[str, object]) -> None:
        replies.write(json.dumps(told) + "\n")
        replies.flush()

    told = json.loads(sys.stdin.readline())
    with contextlib.suppress(BrokenPipeError):
        try:
            work = open_workplace(Setting(**{**told, "custom": tuple(told["custom"])}))
        except EdgepruneError as cause:
            reply({"refused": str(cause)})
            return
        for line in sys.stdin:
            reply({"failure": failure_of(work, Job(**json.loads(line)))})

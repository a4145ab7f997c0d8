"""A run that is over: its ledger, its recipe, and the models of its stages, read back from the folder that it left."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.artifact import sha256_of
from edgeprune.errors import InputError, RecipeError, UsageError
from edgeprune.host.untrusted import read_whole
from edgeprune.ledger import Ledger, ModelOrigin
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.types import Model
from edgeprune.maker.recipe.entries import stage_model
from edgeprune.maker.recipe.prepare import Prepared
from edgeprune.maker.recipe.recipe import QatStep, QuantizeStep, Recipe, load_recipe
from edgeprune.maker.training.goal import Goal, goal_of
from edgeprune.maker.training.goals import Asked
from edgeprune.maker.training.metrics import Metric
from edgeprune.maker.training.task import Task

__all__ = ["recipe_of", "stage_files", "stage_models"]


def recipe_of(
    folder: Path, recipe: Path | None = None, *, data: Path | None = None, metric: Asked | None = None
) -> Recipe:
    """The recipe of a finished run, with other samples in the place of its validation samples and another metric, if it
    is told by names.

    Without `recipe` it is looked for by its name beside the folder and in the working folder. Raises InputError where
    there is no ledger or no such recipe, or the model is another by now, and UsageError for the recipe of another run.
    """
    place = folder / "ledger.json"
    ledger = Ledger.from_json(read_whole(place, "the ledger of a run"), str(place))
    wanted = ledger.recipe
    if recipe is None:
        near = [folder.parent / wanted.path, Path(wanted.path)]
        recipe = next((path for path in near if path.is_file() and _hash(path) == wanted.sha256), None)
    if recipe is None:
        raise InputError(f"{place}: its recipe {wanted.path} is not beside the folder or here: give --recipe FILE")
    if _hash(recipe) != wanted.sha256:
        raise UsageError(f"{recipe} is not the recipe of the run in {folder}, or was changed since: run it again")
    found = load_recipe(recipe)
    _check_model(found.model, ledger.input)
    if metric and not isinstance(metric, Metric | Task):
        asked = metric if isinstance(metric, Goal) else goal_of(metric)
        found = replace(found, goal=_with_metric(found, asked))
    return found if data is None else replace(found, data=replace(found.data, validation=data))


def _with_metric(recipe: Recipe, asked: Goal) -> Goal:
    return replace(recipe.goal, metric=asked.metric)


def _hash(path: Path) -> str:
    return hashlib.sha256(read_whole(path, "a recipe")).hexdigest()


def _check_model(path: Path, origin: ModelOrigin) -> None:
    if not path.exists() or sha256_of(path) != origin.sha256:
        raise InputError(f"{path} is not the model that the run began with, or is gone: run the recipe again")


def stage_files(folder: Path, recipe: Recipe) -> dict[str, Path]:
    """The file of each stage that changed the model, by its name. Raises RecipeError where a run did not keep them."""
    changed = [s for s in recipe.steps if isinstance(s, QatStep) or not isinstance(s, QuantizeStep)]
    files = {step.name: stage_model(folder, recipe, step.name) for step in changed}
    for path in files.values():
        if not path.is_file():
            raise RecipeError(
                f"{path}: the model of this stage was not kept: put keep_stages = true on top of {recipe.path.name} "
                "and run it again, or blame = true, which measures at the end of the run"
            )
    return files


def stage_models(
    folder: Path, prepared: Prepared, *, trust_code: bool = False, custom: Sequence[Path] = ()
) -> dict[str, Model]:
    """The Keras model of each stage by its name; int8 has that of the stage before. Raises as `stage_files`."""
    models, files = {"dense": prepared.model}, stage_files(folder, prepared.recipe)
    for step in prepared.recipe.steps:
        path, before = files.get(step.name), list(models.values())[-1]
        models[step.name] = before if path is None else load_model(path, trust_code=trust_code, custom=custom)
    return models

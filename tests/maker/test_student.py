"""Who teaches in a step of a recipe, and the smaller dense model that learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import RecipeError
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.models import clone, count_parameters, output_shapes
from edgeprune.maker.recipe.model_steps import ModelSteps
from edgeprune.maker.recipe.plan_words import plan_lines
from edgeprune.maker.recipe.prepare import prepare
from edgeprune.maker.recipe.recipe import load_recipe
from edgeprune.maker.recipe.student import fresh, narrower

STUDENT = """
[student]
width = 0.5

[[steps]]
kind = "prune"
sparsity = 0.5

[[steps]]
kind = "finetune"
name = "student"
teacher = "pruned"
distill = 0.5
epochs = 1
"""


def test_half_the_width_with_fresh_weights(image_model: Any) -> None:
    made, again, other = (narrower(image_model, 0.5, seed=seed) for seed in (1, 1, 2))
    assert output_shapes(made) == output_shapes(image_model)
    assert made.get_layer("point").kernel.shape[-1] == 8  # of 12, in multiples of 8
    assert 0 < count_parameters(made) < count_parameters(image_model)
    pairs = list(zip(made.get_weights(), again.get_weights(), other.get_weights(), strict=True))
    assert all((a == b).all() for a, b, _ in pairs)
    assert any((a != c).any() for a, _, c in pairs)


def test_statistics_of_the_data_and_frozen_layers_stay(keras: Any) -> None:
    layers = keras.layers
    x = keras.Input((6,), name="x")
    norm = layers.Normalization(mean=[1.0] * 6, variance=[4.0] * 6)
    adapted = layers.Normalization(name="adapted")
    h = layers.Dense(8, name="frozen", trainable=False)(adapted(norm(x)))
    model = keras.Model(x, layers.Dense(3, name="learned")(h))
    adapted.adapt(np.random.default_rng(0).normal(3, 2, (50, 6)))
    made = fresh(model, seed=4)
    inside = [keras.Model(m.input, m.get_layer("frozen").output) for m in (model, made)]
    told = [np.asarray(m(np.ones((2, 6), np.float32))) for m in inside]
    np.testing.assert_allclose(*told, rtol=1e-6)
    assert (np.asarray(made.get_layer("learned").kernel) != np.asarray(model.get_layer("learned").kernel)).any()


def test_the_teacher_is_the_stage_or_the_file_that_is_named(
    recipe: Callable[..., Path], work: Path, image_model: Any
) -> None:
    clone(image_model).save(work / "wise.keras")
    text = STUDENT + '\n[[steps]]\nkind = "finetune"\nteacher = "wise.keras"\ndistill = 0.5\nepochs = 1\n'
    prepared = prepare(load_recipe(recipe(text)))
    runner: Any = ModelSteps(prepared, Progress(quiet=True), None)  # type: ignore[arg-type]
    runner.models["pruned"] = image_model
    pruned, student, tuned = prepared.recipe.steps
    assert runner.teacher(pruned) is prepared.model
    assert runner.teacher(student) is image_model
    assert runner.teacher(tuned) is next(iter(prepared.teachers.values()))
    assert any("the student" in line and "taught by pruned" in line for line in plan_lines(prepared))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('teacher = "pruned"', 'teacher = "prune"', "earlier stage (dense, pruned)"),
        ('teacher = "pruned"', 'teacher = "student"', "earlier stage (dense, pruned)"),
        ("distill = 0.5", "", "distill = 0.5, or leave teacher out"),
        ('teacher = "pruned"', "", "[student] needs a step that trains it"),
        ("width = 0.5", "", "one of width = 0.5 and model"),
        ("width = 0.5", "width = 2", "above 0 and at most 1"),
        ("width = 0.5", 'width = 0.5\nmodel = "m.keras"', "one of width = 0.5 and model"),
        (
            "epochs = 1",
            'epochs = 1\n[[steps]]\nkind = "prune"\nname = "cut"\nstyle = "channel"\nratio = 0.5',
            "channel",
        ),
    ],
)
def test_what_no_student_can_learn_from(recipe: Callable[..., Path], old: str, new: str, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(recipe(STUDENT.replace(old, new, 1)))
    assert told in str(raised.value)


def test_a_student_with_other_outputs_is_refused(recipe: Callable[..., Path], work: Path, vector_model: Any) -> None:
    vector_model.save(work / "small.keras")
    with pytest.raises(RecipeError, match=r"the student small\.keras has the inputs"):
        prepare(load_recipe(recipe(STUDENT.replace("width = 0.5", 'model = "small.keras"'))))


@pytest.mark.slow(minutes=0.2)
def test_a_run_ends_with_the_student(
    recipe: Callable[..., Path], call: Callable[..., Any], one_converter: None, tmp_path: Path
) -> None:
    """Dense again, narrower, and nothing of the zeros of its teacher is asked of it."""
    path = recipe(STUDENT)
    path.write_text("keep_stages = true\n" + path.read_text())
    assert call("run", path, "-o", tmp_path / "out", "--quiet").code == 0
    stages = json.loads((tmp_path / "out" / "ledger.json").read_text())["stages"]
    dense, pruned, student = stages
    assert pruned["nonzero_parameters"] < dense["nonzero_parameters"]
    assert student["student"]["parameters_before"] == dense["parameters"]
    assert student["student"]["parameters_after"] == student["parameters"] < dense["parameters"]
    assert student["kept"] == []
    assert pruned["student"] is None
    kept = sorted(file.name for file in (tmp_path / "out" / "stages").glob("*.keras"))
    assert kept == ["model.dense.keras", "model.pruned.keras", "model.student.keras"]

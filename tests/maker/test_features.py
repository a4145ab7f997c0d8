"""What layers make as a lesson: the channels that stayed against their own in the model that they were cut from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import EdgepruneError, RecipeError, UsageError
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.models import clone
from edgeprune.maker.pruning.channel.pruner import prune_channels
from edgeprune.maker.pruning.channel.rounds import prune_in_rounds
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.recipe.model_steps import ModelSteps
from edgeprune.maker.recipe.prepare import prepare
from edgeprune.maker.recipe.recipe import load_recipe
from edgeprune.maker.training import loop
from edgeprune.maker.training.distillation_losses import FeatureDistillation
from edgeprune.maker.training.features import Kept, feature_losses
from edgeprune.maker.training.options import QatOptions, TrainOptions

X = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def network(keras: Any) -> Any:
    """Convolutions, a residual sum, a depthwise one, channels by their mean, and a head."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    x = keras.Input((8, 8, 3), name="x")
    a = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x)
    b = layers.Conv2D(8, 1, activation="relu", name="second")(a)
    c = layers.Add(name="sum")([a, b])
    d = layers.DepthwiseConv2D(3, name="deep")(c)
    e = layers.Conv2D(12, 1, name="third")(d)
    f = layers.Flatten(name="flat")(layers.AveragePooling2D(3, name="small")(e))
    return keras.Model(x, layers.Dense(4, activation="softmax", name="head")(f))


def outputs(model: Any, names: Sequence[str]) -> list[np.ndarray]:
    import keras

    view = keras.Model(model.input, [model.get_layer(name).output for name in names])
    return [np.asarray(made, np.float64) for made in keras.tree.flatten(view(X))]


def test_channels_that_stayed_are_held_against_their_own(network: Any) -> None:
    """The loss is the mean squared difference over the variance of what the teacher makes, of the channels that the
    model still has; behind two cuts too."""
    cut = prune_in_rounds(
        network, ChannelOptions(ratio=0.5, importance="l1", round_to=1), rounds=2, train=lambda model, *_: clone(model)
    )
    losses = feature_losses(network, cut.model, cut.kept)
    names = [str(loss.teacher_layer_name) for loss in losses]
    assert names == ["first", "deep", "flat"]
    places = {w.path: left for w, left in zip(network.weights, cut.kept, strict=True)}
    wanted = [places["second/kernel"][2], places["third/kernel"][2], places["head/kernel"][0]]
    assert all(len(left) < whole for left, whole in zip(wanted, (8, 8, 48), strict=True))
    for loss, left, teacher, own in zip(
        losses, wanted, outputs(network, names), outputs(cut.model, names), strict=True
    ):
        made = float(loss.compute_loss(teacher.astype(np.float32), own.astype(np.float32)))
        assert made == pytest.approx(((teacher[..., left] - own) ** 2).mean() / teacher[..., left].var(), rel=1e-4)


def test_what_was_not_changed_costs_nothing(network: Any) -> None:
    """The first layer loses channels and reads the image as before: what is left of it makes the same numbers."""
    cut = prune_channels(network, ChannelOptions(ratio=0.5, importance="l1", round_to=1))
    first = feature_losses(network, cut.model, cut.kept)[0]
    ends = [made.astype(np.float32) for made in (*outputs(network, ["first"]), *outputs(cut.model, ["first"]))]
    assert float(first.compute_loss(*ends)) == 0
    wrong = FeatureDistillation("mse", "first", "first", teacher_channels=[0, 1, 2, 3], relative=True)
    kept = cut.kept[0][3].tolist()
    assert (float(wrong.compute_loss(*ends)) > 0.01) == (kept != [0, 1, 2, 3])


def test_layers_of_equal_widths_without_a_word_on_what_was_cut(network: Any) -> None:
    """Without `kept` only those are compared; where there are none, one line says so."""
    cut = prune_channels(network, ChannelOptions(ratio=0.5, importance="l1", round_to=1, include=("third",)))
    assert [loss.teacher_layer_name for loss in feature_losses(network, cut.model, None)] == ["first", "deep"]
    narrow = prune_channels(network, ChannelOptions(ratio=0.5, importance="l1", round_to=1))
    with pytest.raises(UsageError, match="leave it out"):
        feature_losses(network, narrow.model, None)


def test_at_most_eight_over_the_whole_depth(keras: Any) -> None:
    """The first and the last are among them; a layer that is used twice, and a map of one place, are not."""
    layers = keras.layers
    x = keras.Input((8,), name="x")
    h, twice = x, layers.Dense(8, name="twice")
    for number in range(20):
        h = layers.Dense(8, name=f"dense_{number}")(h)
        h = twice(h) if number in (0, 1) else h
    model = keras.Model(x, layers.Dense(2, name="end")(h))
    names = [loss.teacher_layer_name for loss in feature_losses(model, clone(model), None)]
    assert len(names) == 8
    assert (names[0], names[-1]) == ("dense_0", "dense_19")
    assert "twice" not in names


def test_a_recipe_knows_what_its_cuts_left(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, one_converter: None
) -> None:
    """Two cuts, the second in rounds with training between, then tuning: each training is told what is left of the
    recipe's own model by then."""
    text = """
[[steps]]
kind = "prune"
name = "first"
style = "channel"
ratio = 0.25
round_to = 1

[[steps]]
kind = "prune"
name = "second"
style = "channel"
ratio = 0.5
round_to = 1
rounds = 2
epochs = 1
learning_rate = 1e-7
renew_norms = false
distill = 0.9
features = 1.0

[[steps]]
kind = "finetune"
epochs = 1
distill = 0.9
features = 1.0
"""
    prepared = prepare(load_recipe(recipe(text)))
    seen = []

    def spied(teacher: Any, student: Any, kept: Kept | None) -> list[FeatureDistillation]:
        assert kept is not None
        for whole, left, own in zip(teacher.weights, kept, student.weights, strict=True):
            values = np.asarray(whole)
            for axis, places in left.items():
                values = np.take(values, places, axis)
            assert values.shape == tuple(own.shape)
            if own.name == "kernel":
                np.testing.assert_allclose(values, np.asarray(own), atol=1e-4)
        seen.append(student.count_params())
        return feature_losses(teacher, student, kept)

    monkeypatch.setattr(loop, "feature_losses", spied)
    runner: Any = ModelSteps(prepared, Progress(quiet=True), None)  # type: ignore[arg-type]
    model = prepared.model
    for step in prepared.recipe.steps:
        model = runner.run(model, step).model
    assert len(seen) == 3
    assert seen[0] > seen[1] == seen[2]


CUT = '[[steps]]\nkind = "prune"\nstyle = "channel"\nratio = 0.5\n'
TUNED = '[[steps]]\nkind = "finetune"\nepochs = 1\ndistill = 0.9\nfeatures = 1.0\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TUNED.replace("distill = 0.9\n", ""), "set distill = 0.9 too"),
        (CUT + TUNED + 'teacher = "pruned"\n', "leave out teacher, or features"),
        ('[[steps]]\nkind = "prune"\nsparsity = "2:4"\npermute = true\n' + TUNED, "those of step 'pruned' are others"),
        ("[student]\nwidth = 0.5\n" + TUNED.replace("features = 1.0", 'teacher = "dense"') + TUNED, "[student]"),
        (TUNED.replace("1.0", "-1"), "0 to 100"),
    ],
)
def test_what_cannot_be_compared(recipe: Callable[..., Path], text: str, told: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(recipe(text.replace("kind", 'name = "tuned"\nkind', 1) if text.count("finetune") > 1 else text))
    assert told in str(raised.value)


def test_values_that_cannot_be_right(network: Any) -> None:
    for make, told in (
        (lambda: QatOptions(epochs=1, features=1.0), "leave out features"),
        (lambda: TrainOptions(epochs=1, features=1.0), "distill"),
        (lambda: FeatureDistillation(teacher_channels=[0]), "teacher_layer_name"),
        (
            lambda: FeatureDistillation("mse", "first", "first", teacher_channels=[8]).validate_model_compatibility(
                network, network
            ),
            "name others",
        ),
    ):
        with pytest.raises(EdgepruneError, match=told):
            make()

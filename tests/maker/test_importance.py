"""Importance of channels: contract tests over the table, and values by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channel_zoo import ZOO, inputs_for, randomised
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeprune.errors import UsageError
from edgeprune.maker.pruning.channel.criteria import CRITERIA, geometric_median, l1, l2, lamp
from edgeprune.maker.pruning.channel.importance import unit_scores
from edgeprune.maker.pruning.channel.observe import _logits
from edgeprune.maker.pruning.channel.pruner import analyse
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import find_task

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")
ROWS = hnp.arrays(np.float64, (4, 3), elements=st.floats(-10, 10, width=32))


def samples_for(model: Any) -> Samples:
    inputs = inputs_for(model, count=20)
    classes = model.outputs[0].shape[-1]
    return Samples(path=Path("made"), inputs=inputs, targets=np.arange(20) % classes)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("model", ["residual", "nested", "lstm"])
def test_every_criterion_scores_every_unit(keras: Any, name: str, model: str) -> None:
    """Scores are finite, not negative, not all equal, the same for the same seed, and the model is left alone."""
    made = randomised(ZOO[model](keras, keras.layers, keras.ops))
    before = [np.array(w) for w in made.weights]
    structure, samples = analyse(made), samples_for(made)
    first, second = (
        unit_scores(
            structure, name, samples=samples, task=find_task(structure.trace.model, "accuracy", trains=True), seed=3
        )
        for _ in range(2)
    )
    assert first.shape == (len(structure),)
    assert np.isfinite(first).all()
    assert (first >= 0).all()
    assert len(np.unique(first)) > 1
    np.testing.assert_array_equal(first, second)
    assert all((old == np.array(new)).all() for old, new in zip(before, made.weights, strict=True))
    assert CRITERIA[name].source.count("arXiv:") == 1


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "lamp", "bn_scale"])
def test_a_layer_scaled_as_a_whole_keeps_its_scores(keras: Any, name: str) -> None:
    """A global ranking compares channels, not the scales of their layers."""
    model = randomised(ZOO["plain"](keras, keras.layers, keras.ops))
    before = unit_scores(analyse(model), name)
    for variable in (model.get_layer("b").kernel, model.get_layer("a").kernel):
        variable.assign(np.asarray(variable) * 7)
    np.testing.assert_allclose(unit_scores(analyse(model), name), before, rtol=1e-4)


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "bn_scale", "fisher", "taylor", "activation"])
def test_a_channel_switched_off_matters_least(keras: Any, name: str) -> None:
    """A channel whose kernel, bias and scale are zero scores lowest of its layer."""
    model = randomised(ZOO["plain"](keras, keras.layers, keras.ops))
    for layer in ("a", "b"):
        for variable in model.get_layer(layer).weights:
            values = np.array(variable)
            values[..., 5] = 0
            variable.assign(values)
    norm = next(la for la in model.layers if type(la).__name__ == "BatchNormalization")
    for variable in (norm.gamma, norm.beta):
        values = np.array(variable)
        values[5] = 0
        variable.assign(values)
    structure = analyse(model)
    scores = unit_scores(
        structure, name, samples=samples_for(model), task=find_task(structure.trace.model, "accuracy", trains=True)
    )
    for group in structure.groups[:2]:
        assert np.argmin(scores[group.units]) == 5


def test_fisher_is_how_far_outputs_move(keras: Any) -> None:
    """Of a linear network: the mean over samples of the squares of what each unit adds to the outputs, over all groups
    alike; a depthwise kernel between passes a unit on and does not count it again."""
    layers = keras.layers
    x = keras.Input((6, 6, 3), name="x")
    a = layers.Conv2D(8, 1, use_bias=False, name="a")(x)
    b = layers.Conv2D(6, 1, use_bias=False, name="b")(layers.DepthwiseConv2D(1, use_bias=False, name="between")(a))
    model = randomised(keras.Model(x, layers.Dense(3, use_bias=False, name="d")(layers.GlobalAveragePooling2D()(b))))
    images = np.random.default_rng(0).normal(size=(400, 6, 6, 3)).astype(np.float32)
    structure = analyse(model)
    found = unit_scores(structure, "fisher", samples=Samples(path=Path("made"), inputs={"x": images}, targets=None))

    first, between, second, last = (
        np.asarray(model.get_layer(n).weights[0]).squeeze() for n in ("a", "between", "b", "d")
    )
    made = images.mean((1, 2)) @ first * between  # [samples, 8]; all is linear, so the mean may come first
    adds = made[:, :, None] * (second @ last)[None], (made @ second)[:, :, None] * last[None]
    expected = np.concatenate([(each**2).sum(2).mean(0) for each in adds])
    scores = np.concatenate([found[group.units] for group in structure.groups[:2]])
    np.testing.assert_allclose(scores / scores.mean(), expected / expected.mean(), rtol=0.4)
    assert np.corrcoef(scores, expected)[0, 1] > 0.95


@pytest.mark.parametrize(("end", "numbers"), [("softmax", [-3.0, 1.0, 2.0]), ("sigmoid", [-3.0, 1.0, 9.0])])
def test_logits_behind_probabilities(keras: Any, end: str, numbers: list[float]) -> None:
    """What a softmax or sigmoid was given comes out again, of classes about its mean; other outputs stay."""
    given = np.array([numbers], np.float32)
    made = getattr(keras.activations, end)(keras.ops.convert_to_tensor(given))
    wanted = given - given.mean() if end == "softmax" else given
    np.testing.assert_allclose(np.asarray(_logits(made, end)), wanted, rtol=1e-3)
    np.testing.assert_array_equal(np.asarray(_logits(given, "")), given)


@pytest.mark.parametrize(("name", "part"), [(name, "training samples") for name in ("fisher", "taylor", "activation")])
def test_criteria_that_look_at_data_say_so(keras: Any, name: str, part: str) -> None:
    """Without samples they are refused, with the ones that need none named."""
    with pytest.raises(UsageError, match=part):
        unit_scores(analyse(ZOO["plain"](keras, keras.layers, keras.ops)), name)


def test_an_unknown_criterion_is_refused(keras: Any) -> None:
    """The known ones are listed."""
    with pytest.raises(UsageError, match="known: l1, l2"):
        unit_scores(analyse(ZOO["plain"](keras, keras.layers, keras.ops)), "l3")


def test_values_by_hand() -> None:
    """Norms, distances and LAMP scores of three small channels."""
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(l1(rows), [7, 0, 3])
    np.testing.assert_allclose(l2(rows), [5, 0, 3])
    np.testing.assert_allclose(geometric_median(rows), [5 + 4, 5 + 3, 4 + 3])
    np.testing.assert_allclose(lamp(rows), [25 / 25, 0, 9 / 34])


@given(ROWS, st.floats(0.01, 100))
def test_norms_grow_with_the_weights(rows: np.ndarray, factor: float) -> None:
    """l1 and l2 are homogeneous and keep the order; LAMP does not see the scale and is at most 1."""
    np.testing.assert_allclose(l1(factor * rows), factor * l1(rows), rtol=1e-9)
    np.testing.assert_allclose(l2(factor * rows), factor * l2(rows), rtol=1e-9)
    assert (lamp(rows) <= 1).all()
    if np.abs(rows).max() > 1e-3:
        # Sorted: which of two equal rows comes first is up to the rounding of their sums.
        np.testing.assert_allclose(np.sort(lamp(factor * rows)), np.sort(lamp(rows)), rtol=1e-6, atol=1e-12)

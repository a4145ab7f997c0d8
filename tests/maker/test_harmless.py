"""Channels that do nothing on real input: what goes, what must stay, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import UsageError
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.pruning.channel.harmless import prune_harmless
from edgeprune.maker.pruning.channel.rounds import prune_in_rounds
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.recipe.steps import ChannelStep, check_step
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.options import TrainOptions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")
IDLE = range(3, 9)  # channels of `hidden` that are as good as a constant


@pytest.fixture(scope="module")
def model(keras: Any) -> Any:
    """12 hidden channels; six of them are nearly a constant that is not zero, and are read like the others."""
    keras.utils.set_random_seed(1)
    L = keras.layers  # noqa: N806
    made = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            L.Conv2D(12, 3, padding="same", activation="relu", name="hidden"),
            L.Conv2D(8, 1, name="reader"),
            L.GlobalAveragePooling2D(),
            L.Dense(3, name="scores"),
        ]
    )
    kernel, bias = (np.array(v) for v in made.get_layer("hidden").weights)
    kernel[..., IDLE] *= 1e-6
    bias[IDLE] = 0.7
    made.get_layer("hidden").set_weights([kernel, bias])
    return made


@pytest.fixture(scope="module")
def samples() -> Samples:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6, 6, 2)).astype(np.float32)
    return Samples(path=Path("train.npz"), inputs={"x": x}, targets=None)


def _named(model: Any, samples: Samples) -> Samples:
    name = next(iter(input_specs(model)))
    return Samples(path=samples.path, inputs={name: samples.inputs["x"]}, targets=None)


def _removed(result: Any) -> dict[str, int]:
    return {item.layer: item.before - item.after for item in result.report.removed}


def test_what_does_nothing_goes(model: Any, samples: Samples) -> None:
    """The six idle channels go, their constant moves on, and outputs on samples of another kind stay too."""
    given = _named(model, samples)
    result = prune_harmless(model, ChannelOptions(harmless=1e-4, round_to=1), samples=given)
    assert _removed(result) == {"hidden": 6}
    found = result.report.harmless
    assert found is not None
    assert found.looked_at_error <= 1e-4
    assert found.checked_error <= 1e-4
    assert found.checked == 100
    other = {name: np.full_like(values, 0.3) for name, values in given.inputs.items()}
    before, after = (next(iter(predict(each, other).values())) for each in (model, result.model))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_free_ones_fill_up_the_multiples(model: Any, samples: Samples) -> None:
    """In widths of four 12 become 8: two of the six that do nothing stay."""
    result = prune_harmless(model, ChannelOptions(harmless=1e-4, round_to=4), samples=_named(model, samples))
    assert _removed(result) == {"hidden": 4}


def test_what_only_other_samples_need_stays(keras: Any) -> None:
    """A channel that is silent on the samples that are looked at, and not on the others, is found out."""
    L = keras.layers  # noqa: N806
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, activation="relu", name="hidden"), L.Dense(2, name="scores")]
    )
    model.get_layer("hidden").set_weights([np.eye(4), np.zeros(4)])
    x = np.abs(np.random.default_rng(0).normal(size=(200, 4))).astype(np.float32)
    order = np.random.default_rng(0).permutation(200)
    x[order[:100], 3] = 0.0
    samples = Samples(path=Path("train.npz"), inputs={next(iter(input_specs(model))): x}, targets=None)
    result = prune_harmless(model, ChannelOptions(harmless=1e-4, round_to=1, seed=0), samples=samples)
    assert _removed(result) == {}


def test_a_step_of_a_recipe(model: Any, samples: Samples) -> None:
    """As one round of a channel step, with the training that follows; none without samples."""
    options = ChannelOptions(harmless=1e-4, round_to=1)
    trained: list[int] = []

    def train(made: Any, number: int, _: object) -> Any:
        trained.append(number)
        return made

    result = prune_in_rounds(model, options, samples=_named(model, samples), train=train)
    assert (_removed(result), trained) == ({"hidden": 6}, [1])
    with pytest.raises(UsageError, match="looks at training samples"):
        prune_in_rounds(model, options)


def test_no_rounds() -> None:
    """What does nothing goes at once: rounds would find nothing more."""
    step = ChannelStep(options=ChannelOptions(harmless=1e-4), rounds=2, training=TrainOptions(epochs=1))
    with pytest.raises(UsageError, match="rounds are for training in between"):
        check_step(step)


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0])
def test_a_tolerance_is_small(value: float) -> None:
    """What is no small part of a range is refused."""
    with pytest.raises(UsageError, match="such as 1e-4"):
        ChannelOptions(harmless=value)

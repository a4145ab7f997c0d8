"""Plans fill the limit that they are given, from below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.pruning.channel.importance import unit_scores
from edgeprune.maker.pruning.channel.plan import cost_of, plan_channels
from edgeprune.maker.pruning.channel.pruner import analyse
from edgeprune.maker.pruning.options import ChannelOptions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")
FASHION = Path(__file__).parents[2] / "sample_models" / "fashion" / "fashion.keras"
COSTS = ("macs", "parameters", "download")


def _resnet8(keras: Any) -> Any:
    """The shape of MLPerf Tiny's image classifier: 16, 32 and 64 channels."""
    L = keras.layers  # noqa: N806
    x = keras.Input((32, 32, 3))
    y = L.Conv2D(16, 3, padding="same", activation="relu")(x)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        z = L.Conv2D(filters, 3, stride, padding="same", activation="relu")(y)
        z = L.Conv2D(filters, 3, padding="same")(z)
        y = y if stride == 1 else L.Conv2D(filters, 1, stride, padding="same")(y)
        y = L.ReLU()(L.Add()([y, z]))
    return keras.Model(x, L.Dense(10)(L.GlobalAveragePooling2D()(y)))


def _ds_cnn(keras: Any) -> Any:
    """The shape of MLPerf Tiny's keyword spotter: 64 channels, depthwise separable."""
    L = keras.layers  # noqa: N806
    made = [keras.Input((49, 10, 1)), L.Conv2D(64, (10, 4), 2, padding="same", activation="relu")]
    for _ in range(4):
        made += [L.DepthwiseConv2D(3, padding="same", activation="relu"), L.Conv2D(64, 1, activation="relu")]
    return keras.Sequential([*made, L.GlobalAveragePooling2D(), L.Dense(12)])


def _mobilenet(keras: Any) -> Any:
    return keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3))


NETS = {"resnet8": _resnet8, "ds_cnn": _ds_cnn, "mobilenet": _mobilenet, "fashion": lambda _: load_model(FASHION)}


@pytest.fixture(scope="module")
def structures(keras: Any) -> dict[str, Any]:
    keras.utils.set_random_seed(3)
    return {name: analyse(make(keras)) for name, make in NETS.items()}


@pytest.mark.parametrize("importance", ["lamp", "taylor"])
@pytest.mark.parametrize("net", NETS)
def test_half_of_the_macs_is_filled(structures: dict[str, Any], net: str, importance: str) -> None:
    """Half of the MACs in widths of eight: between 0.47 and 0.5 of them, whether scores are relative or absolute."""
    structure = structures[net]
    scores = unit_scores(structure, "lamp")
    if importance == "taylor":  # of another scale in each layer, as gradients are
        scores = scores * np.exp(np.random.default_rng(5).normal(0, 2, len(scores)))
    kept = plan_channels(structure, ChannelOptions(macs=0.5, importance=importance), scores)
    got = structure.cost(kept).macs / structure.whole().macs
    assert 0.47 <= got <= 0.5


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0.35, 1.0), cost=st.sampled_from(COSTS), seed=st.integers(0, 2**20))
def test_a_limit_is_filled_from_below(structures: dict[str, Any], share: float, cost: str, seed: int) -> None:
    """Whatever channels matter, a plan is within its limit, uses most of it, and its widths are multiples."""
    structure = structures["fashion"]
    scores = np.random.default_rng(seed).lognormal(0, 1, len(structure))
    kept = plan_channels(structure, ChannelOptions(**{cost: share}), scores)  # type: ignore[arg-type]
    size = cost_of(structure, cost)
    assert 0.94 * share <= size(kept) / size(np.ones(len(structure), bool)) <= share
    for group in structure.groups:
        count = int(kept[group.units].sum())
        assert count == len(group.units) or count % 8 == 0
        stay, go = scores[group.units[kept[group.units]]], scores[group.units[~kept[group.units]]]
        assert not len(go) or stay.min() >= go.max()


def test_bytes_that_deflate_are_cheap(keras: Any) -> None:
    """A layer of zeros costs next to nothing to download, so that channels go elsewhere."""
    L = keras.layers  # noqa: N806
    model = keras.Sequential([keras.Input((32,)), L.Dense(64, name="full"), L.Dense(64, name="empty"), L.Dense(4)])
    model.get_layer("empty").kernel.assign(np.zeros((64, 64)))
    structure = analyse(model)
    whole = np.ones(len(structure), bool)
    without = {group.name: np.isin(np.arange(len(structure)), group.units, invert=True) for group in structure.groups}
    saved = {name: structure.download_bytes(whole) - structure.download_bytes(kept) for name, kept in without.items()}
    assert saved["full"] > 5 * saved["empty"]

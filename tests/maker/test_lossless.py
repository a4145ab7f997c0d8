"""Dead channels: found from the weights, removed with the outputs unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from channel_zoo import ZOO, inputs_for, randomised

from edgeprune.maker.keras.graphs import functional_of
from edgeprune.maker.keras.models import predict
from edgeprune.maker.pruning.channel.lossless import prune_dead
from edgeprune.maker.pruning.channel.observe import play
from edgeprune.maker.pruning.channel.ranges import ranges_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")


# Models of the zoo in which nothing is bounded but what comes behind layers without a rule.
UNBOUNDED = {
    *("attention", "cross_attention", "keyword_attention", "time_distributed", "bidirectional", "repeated", "mixer"),
    *("separable", "masked_lstm", "two_sizes", "group_norms"),
}


def removed(result: Any) -> dict[str, int]:
    return {item.layer: item.before - item.after for item in result.report.removed}


def outputs(model: Any, x: Any) -> np.ndarray:
    return next(iter(predict(model, x).values()))


@pytest.mark.parametrize("name", ZOO)
def test_a_living_model_stays_as_it_is(keras: Any, name: str) -> None:
    """Random weights leave no channel dead: nothing is removed, nothing changes."""
    model = randomised(ZOO[name](keras, keras.layers, keras.ops))
    result = prune_dead(model)
    assert removed(result) == {}
    x = inputs_for(model)
    for key, expected in predict(model, x).items():
        np.testing.assert_allclose(predict(result.model, x)[key], expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def chain(keras: Any) -> Any:
    """Convolution, normalisation, rectifier, depthwise, pointwise, dense."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    y = L.ReLU(6.0)(L.BatchNormalization(name="norm")(L.Conv2D(16, 3, use_bias=False, name="a")(x)))
    y = L.ReLU(6.0)(L.BatchNormalization(name="norm2")(L.DepthwiseConv2D(3, name="depthwise", use_bias=False)(y)))
    y = L.ReLU(6.0)(L.BatchNormalization(name="norm3")(L.Conv2D(24, 1, use_bias=False, name="b")(y)))
    return randomised(keras.Model(x, L.Dense(4, name="scores")(L.GlobalAveragePooling2D()(y))))


def set_channel(model: Any, layer: str, name: str, channel: int, value: float) -> None:
    variable = next(v for v in model.get_layer(layer).weights if v.name == name)
    values = np.array(variable)
    values[..., channel] = value
    variable.assign(values)


@pytest.mark.parametrize("shift", [0.7, -0.7])
def test_a_scale_of_zero(chain: Any, shift: float) -> None:
    """A channel with scale 0 is a constant: it moves into the mean of the next normalisation, or vanishes."""
    set_channel(chain, "norm", "gamma", 3, 0.0)
    set_channel(chain, "norm", "beta", 3, shift)
    result = prune_dead(chain)
    assert removed(result) == {"a": 1}
    assert result.model.get_layer("depthwise").kernel.shape[-2] == 15
    x = inputs_for(chain, count=8)
    np.testing.assert_allclose(outputs(result.model, x), outputs(chain, x), rtol=1e-5, atol=1e-5)
    assert result.report.verified is not None
    assert result.report.verified < 1e-5


def test_a_constant_into_a_bias(chain: Any) -> None:
    """A constant that a Dense layer reads moves into its bias."""
    set_channel(chain, "norm3", "gamma", 5, 0.0)
    set_channel(chain, "norm3", "beta", 5, 2.0)
    result = prune_dead(chain)
    assert removed(result) == {"b": 1}
    x = inputs_for(chain, count=8)
    np.testing.assert_allclose(outputs(result.model, x), outputs(chain, x), rtol=1e-5, atol=1e-5)


def test_a_rectifier_that_never_opens(chain: Any) -> None:
    """Inputs of the pointwise layer lie in 0..6; a bias far below keeps one of its channels shut."""
    reach = 6 * np.abs(np.asarray(chain.get_layer("b").kernel)[..., 7]).sum()
    set_channel(chain, "norm3", "gamma", 7, 1.0)
    set_channel(chain, "norm3", "beta", 7, -10 * (reach + 1))
    assert removed(prune_dead(chain)) == {"b": 1}


def test_a_channel_that_nobody_reads(chain: Any) -> None:
    """A live channel whose weights in the reader are all zero is removed."""
    kernel = np.array(chain.get_layer("scores").kernel)
    kernel[9] = 0
    chain.get_layer("scores").kernel.assign(kernel)
    result = prune_dead(chain)
    assert removed(result) == {"b": 1}
    x = inputs_for(chain, count=8)
    np.testing.assert_allclose(outputs(result.model, x), outputs(chain, x), rtol=1e-5, atol=1e-5)


def test_a_constant_under_padding_stays(keras: Any) -> None:
    """At the border of a padded convolution a constant other than 0 is not one: the channel stays."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization(name="norm")(L.Conv2D(16, 3, name="a")(x)))
    y = L.Conv2D(16, 3, padding="same", activation="relu", name="b")(y)
    model = randomised(keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y))))
    set_channel(model, "norm", "gamma", 2, 0.0)
    set_channel(model, "norm", "beta", 2, 1.0)
    assert removed(prune_dead(model)) == {}
    set_channel(model, "norm", "beta", 2, -1.0)  # 0 behind the rectifier, at the border too
    assert removed(prune_dead(model)) == {"a": 1}


def test_a_constant_that_is_padded_with_zeros_stays(keras: Any) -> None:
    """The same where the padding is a layer of its own in front of a convolution without any."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    y = L.BatchNormalization(name="norm")(L.Conv2D(16, 3, name="a")(x))
    y = L.Conv2D(16, 3, activation="relu", name="b")(L.ZeroPadding2D(1)(y))
    model = randomised(keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y))))
    set_channel(model, "norm", "gamma", 2, 0.0)
    set_channel(model, "norm", "beta", 2, 1.0)
    assert removed(prune_dead(model)) == {}
    set_channel(model, "norm", "beta", 2, 0.0)
    assert removed(prune_dead(model)) == {"a": 1}


def test_a_channel_dead_in_one_branch_only_stays(keras: Any) -> None:
    """Of channels that are added up all must be dead."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    a = L.BatchNormalization(name="na")(L.Conv2D(16, 1, name="a")(x))
    b = L.BatchNormalization(name="nb")(L.Conv2D(16, 1, name="b")(x))
    model = randomised(keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(L.Add()([a, b])))))
    set_channel(model, "na", "gamma", 1, 0.0)
    assert removed(prune_dead(model)) == {}
    set_channel(model, "nb", "gamma", 1, 0.0)
    assert removed(prune_dead(model)) == {"a": 1, "b": 1}


def test_one_channel_of_a_dead_layer_is_kept(chain: Any) -> None:
    """A layer cannot be left without channels, and what reads constants only is constant itself."""
    for channel in range(16):
        set_channel(chain, "norm", "gamma", channel, 0.0)
    result = prune_dead(chain)
    assert removed(result) == {"a": 15, "b": 23}  # a constant in, constants out


@pytest.mark.parametrize("name", ZOO)
def test_ranges_hold(keras: Any, name: str) -> None:
    """Whatever flows through a model of the zoo lies within the bounds that were computed from its weights."""
    model = randomised(ZOO[name](keras, keras.layers, keras.ops))
    ranges, checked = ranges_of(model), 0

    def seen(node: Any, _inputs: Any, made: Any) -> None:
        nonlocal checked
        for tensor, value in zip(node.outputs, made, strict=True):
            bounds = ranges.get(id(tensor))
            if bounds is not None:
                array = np.asarray(value, np.float64)
                slack = 1e-4 * (1 + np.abs(array))
                assert (array >= bounds.low - slack).all(), node.operation.name
                assert (array <= bounds.high + slack).all(), node.operation.name
                checked += bool(np.isfinite(bounds.low).any() or np.isfinite(bounds.high).any())

    import tensorflow as tf

    x = inputs_for(model, count=4)
    play(functional_of(model), [tf.constant(array) for array in x.values()], seen)
    assert checked or name in UNBOUNDED


def test_a_shared_layer_that_reads_two_constants(keras: Any) -> None:
    """One bias cannot take the constants of two uses: the channel stays."""
    L = keras.layers  # noqa: N806
    x = keras.Input((6,))
    a, b = (L.BatchNormalization(name=n)(L.Dense(8, name=f"to_{n}")(x)) for n in ("na", "nb"))
    shared = L.Dense(8, name="shared")
    model = randomised(keras.Model(x, L.Dense(2)(L.Concatenate()([shared(a), shared(b)]))))
    for norm, shift in (("na", 0.7), ("nb", -0.4)):
        set_channel(model, norm, "gamma", 2, 0.0)
        set_channel(model, norm, "beta", 2, shift)
    assert removed(prune_dead(model)) == {}


def test_interpolation_that_overshoots(keras: Any) -> None:
    """Behind bicubic up-sampling a rectifier's output may be negative."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    up = {}
    for way in ("bilinear", "bicubic"):
        made = L.UpSampling2D(interpolation=way)(L.ReLU()(x))
        up[way] = ranges_of(keras.Model(x, made))[id(made)].low.min()
    assert up["bilinear"] == 0
    assert up["bicubic"] == -np.inf

"""The layer at which a file departs, found by values: fused layers, branches, layouts, precisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeprune.checker.agreement import Departure
from edgeprune.converters.bisect import _Played, find_departure, layer_outputs, match_layers
from edgeprune.errors import Unsupported

RNG = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    """Normal numbers, float32."""
    return RNG.normal(size=shape).astype(np.float32)


def played(name: str, array: np.ndarray, *feeds: int) -> _Played:
    """A call of a layer, fed by earlier calls."""
    return _Played(layer=name, kind="Layer", values=array, feeds=feeds)


def departure(
    calls: Sequence[_Played], tensors: Sequence[tuple[str, np.ndarray]], precision: str = "float32"
) -> Departure:
    """What is found for these tensors of a file."""
    return find_departure(calls, match_layers(calls, tensors, precision))


def test_a_file_that_agrees() -> None:
    """Equal outputs have no decibels, agree, and nothing departs."""
    calls = [played("a", values(2, 5)), played("b", values(2, 3), 0)]
    found = departure(calls, [("t0", calls[0].values), ("t1", calls[1].values)])
    assert (found.first, found.last_sound) == (None, None)
    assert [(m.layer, m.tensor, m.sqnr_db, m.agrees) for m in found.layers] == [
        ("a", "t0", None, True),
        ("b", "t1", None, True),
    ]


def test_the_first_that_departs() -> None:
    """Of three layers in a row the second is wrong, and so all behind it: it is named, with the one before it."""
    calls = [played("a", values(2, 5)), played("b", values(2, 4), 0), played("c", values(2, 3), 1)]
    tensors = [("ta", calls[0].values), ("tb", values(2, 4)), ("tc", values(2, 3))]
    found = departure(calls, tensors)
    assert found.first is not None
    assert (found.first.layer, found.first.tensor, found.last_sound) == ("b", "tb", "a")
    assert found.first.sqnr_db is not None
    assert found.first.sqnr_db < 10


def test_the_very_first() -> None:
    """When the first layer departs there is no sound one before it."""
    calls = [played("a", values(2, 5))]
    found = departure(calls, [("ta", values(2, 5))])
    assert found.first is not None
    assert (found.first.layer, found.last_sound) == ("a", None)


def test_a_fused_layer_is_sound() -> None:
    """A layer without a tensor of its own is sound when one behind it agrees, however far; not when none does."""
    calls = [played("conv", values(2, 6)), played("norm", values(2, 5), 0), played("relu", values(2, 4), 1)]
    assert departure(calls, [("t", calls[2].values)]).first is None
    found = departure(calls, [("t", calls[0].values)])
    assert found.first is not None
    assert (found.first.layer, found.first.tensor, found.first.sqnr_db) == ("norm", "", -np.inf)
    assert found.last_sound == "conv"


def test_one_of_two_branches() -> None:
    """The broken branch is named, not the sound one beside it, and the layer before both is sound."""
    calls = [
        played("stem", values(2, 6)),
        played("left", values(2, 5), 0),
        played("right", values(2, 4), 0),
        played("sum", values(2, 3), 1, 2),
    ]
    tensors = [("tl", calls[1].values), ("tr", values(2, 4)), ("ts", values(2, 3))]
    found = departure(calls, tensors)
    assert found.first is not None
    assert (found.first.layer, found.last_sound) == ("right", "left")
    assert [m.agrees for m in found.layers] == [False, True, False, False]


def test_a_fused_pair_of_branches() -> None:
    """Where branches come together soundly, both are sound."""
    calls = [played("a", values(2, 5)), played("b", values(2, 4)), played("sum", values(2, 3), 0, 1)]
    assert departure(calls, [("t", calls[2].values)]).first is None


@pytest.mark.parametrize(
    ("shape", "turned"),
    [((2, 4, 5, 3), (0, 3, 1, 2)), ((2, 3, 4, 5), (0, 2, 3, 1)), ((2, 5, 3), (0, 2, 1)), ((2, 3, 3, 3), (0, 3, 1, 2))],
)
def test_layouts(shape: tuple[int, ...], turned: tuple[int, ...]) -> None:
    """Channels first in the file and last in the model, or the other way, are the same values; cubes too."""
    call = played("conv", values(*shape))
    (found,) = match_layers([call], [("t", np.ascontiguousarray(call.values.transpose(turned)))], "float32")
    assert (found.agrees, found.sqnr_db) == (True, None)


def test_axes_of_one() -> None:
    """Axes of size one that a converter adds or takes off do not matter."""
    call = played("pool", values(2, 1, 1, 6))
    for shape in ((2, 6), (2, 6, 1, 1), (2, 1, 6)):
        (found,) = match_layers([call], [("t", call.values.reshape(shape))], "float32")
        assert (found.agrees, found.sqnr_db) == (True, None)


def test_an_order_that_no_converter_uses() -> None:
    """A picture on its side is another picture."""
    call = played("conv", values(2, 4, 5, 3))
    (found,) = match_layers([call], [("t", call.values.transpose(0, 2, 1, 3))], "float32")
    assert not found.agrees


def test_the_closest_tensor() -> None:
    """Of several tensors of the same size the closest one is taken, and its decibels are told."""
    call = played("a", values(50, 20))
    noise = values(50, 20)
    tensors = [(f"t{scale}", call.values + np.float32(scale) * noise) for scale in (1, 0.01, 0.1)]
    (found,) = match_layers([call], tensors, "float32")
    assert found.tensor == "t0.01"
    assert found.sqnr_db == pytest.approx(40, abs=0.5)


@pytest.mark.parametrize(
    ("precision", "decibels", "agrees"),
    [
        ("float32", 70, True),
        ("float32", 50, False),
        ("float16", 50, True),
        ("float16", 30, False),
        ("int8", 15, True),
        ("palette4", 15, True),
        ("int8", 5, False),
    ],
)
def test_precisions(precision: str, decibels: float, agrees: bool) -> None:
    """A float32 file must agree to 60 dB, a float16 file to 40, a compressed one to 10."""
    call = played("a", values(50, 20))
    tensor = call.values + values(50, 20) * np.float32(10 ** (-decibels / 20))
    (found,) = match_layers([call], [("t", tensor)], precision)
    assert found.agrees is agrees


def test_nan_agrees_with_nothing() -> None:
    """NaN in the file or in the model never counts as agreement, not even with itself."""
    array = values(2, 3)
    broken = array.copy()
    broken[0, 0] = np.nan
    for layer, tensor in ((array, broken), (broken, array), (broken, broken)):
        (found,) = match_layers([played("a", layer)], [("t", tensor)], "int8")
        assert (found.agrees, found.sqnr_db) == (False, -np.inf)


def test_zeros() -> None:
    """An output of zeros agrees with zeros and with nothing else."""
    zeros = np.zeros((2, 3), np.float32)
    assert match_layers([played("a", zeros)], [("t", zeros)], "float32")[0].agrees
    assert not match_layers([played("a", zeros)], [("t", zeros + 1)], "int8")[0].agrees


def test_other_numbers_of_samples() -> None:
    """A tensor of the same size that is not sample by sample is no candidate."""
    call = played("a", values(2, 6))
    (found,) = match_layers([call], [("t", call.values.reshape(3, 4))], "float32")
    assert not found.agrees


# --- the model's side -----------------------------------------------------------------------------------------------


def test_outputs_of_layers(keras: Any) -> None:
    """Layers in the order of execution, nested models opened, each with its feeds and its values; inputs are none."""
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="deep"), layers.ReLU(name="bent")], name="inner")
    x = keras.Input((4,), name="x")
    left, right = layers.Dense(3, name="left")(x), inner(x)
    model = keras.Model(x, layers.Add(name="sum")([left, right]))
    data = values(5, 4)
    calls = layer_outputs(model, {"x": data})
    by_name = {call.layer: call for call in calls}
    assert set(by_name) - {"x"} == {"left", "deep", "bent", "sum"}
    names = [call.layer for call in calls]
    assert [sorted(names[i] for i in by_name[name].feeds if names[i] != "x") for name in ("sum", "bent", "left")] == [
        ["bent", "left"],
        ["deep"],
        [],
    ]
    np.testing.assert_allclose(by_name["sum"].values, model.predict(data, verbose=0), rtol=1e-5, atol=1e-6)
    deep = inner.get_layer("deep")
    np.testing.assert_allclose(by_name["deep"].values, np.asarray(deep(data)), rtol=1e-5, atol=1e-6)
    assert by_name["bent"].kind == "ReLU"


def test_a_shared_layer_is_called_twice(keras: Any) -> None:
    """Each call of a layer that is used twice has its own output."""
    shared = keras.layers.Dense(3, name="shared")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], keras.layers.Concatenate(name="both")([shared(a), shared(b)]))
    data = {"a": values(2, 4), "b": values(2, 4)}
    found = [call.values for call in layer_outputs(model, data) if call.layer == "shared"]
    assert len(found) == 2
    for array, name in zip(found, ("a", "b"), strict=True):
        np.testing.assert_allclose(array, np.asarray(shared(data[name])), rtol=1e-5, atol=1e-6)


def test_a_model_without_a_graph(keras: Any) -> None:
    """A subclassed model has no layers in an order: refused by its name."""

    class Own(keras.Model):  # type: ignore[name-defined,misc]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(Unsupported, match=r"^mine: --bisect names layers of Functional or Sequential models"):
        layer_outputs(Own(name="mine"), {})


def test_a_broken_layer_of_a_real_model(keras: Any) -> None:
    """One kernel of a convolutional network is changed in the 'file': it is named, by channels-first tensors."""
    layers = keras.layers
    x = keras.Input((6, 6, 2), name="x")
    h = layers.Conv2D(3, 3, activation="relu", name="one")(x)
    h = layers.Conv2D(4, 2, activation="relu", name="two")(h)
    model = keras.Model(x, layers.Dense(5, name="three")(layers.Flatten(name="flat")(h)))
    data = {"x": values(4, 6, 6, 2)}
    calls = layer_outputs(model, data)
    model.get_layer("two").set_weights([w + 0.3 for w in model.get_layer("two").get_weights()])
    tensors = [
        (f"t{i}", np.moveaxis(call.values, -1, 1) if call.values.ndim == 4 else call.values)
        for i, call in enumerate(layer_outputs(model, data))
    ]
    found = departure(calls, tensors)
    assert found.first is not None
    assert (found.first.layer, found.last_sound) == ("two", "one")


def test_an_output_that_hides_channels() -> None:
    """An output that joins wide and narrow numbers is not right because most of its power is; within, power decides."""
    boxes, scores = values(40, 4) * 300, values(40, 2)
    calls = [played("scores", scores), played("joined", np.concatenate([boxes, scores], 1), 0)]
    tensors = [("ts", np.round(scores / 3) * 3), ("tj", np.round(calls[1].values / 3) * 3)]
    found = departure(calls, tensors, "int8")
    assert found.first is not None
    assert found.first.layer == "scores"
    assert found.layers[1].sqnr_db is not None
    assert (found.layers[1].sqnr_db > 40, found.layers[1].agrees) == (True, False)
    assert departure([*calls, played("end", boxes, 1)], [*tensors, ("te", boxes)], "int8").first is None

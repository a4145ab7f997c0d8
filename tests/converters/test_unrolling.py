"""Recurrent layers written out: the same numbers, the caller's model left alone, and clear words where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.artifact import Format, Precision
from edgeprune.converters.frozen import freeze
from edgeprune.converters.session import Converter
from edgeprune.converters.unrolling import rolled_layers, unrolled
from edgeprune.errors import Unsupported
from edgeprune.maker.keras.models import input_specs, predict

Layers = Any
STEPS = 4


def samples(model: Any, count: int = 6) -> dict[str, np.ndarray]:
    """Normal floats, or words from 0 to 4, by input name."""
    rng = np.random.default_rng(3)
    made: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in input_specs(model).items():
        whole = dtype.startswith("int")
        made[name] = rng.integers(0, 5, (count, *shape[1:])) if whole else rng.normal(size=(count, *shape[1:]))
        made[name] = made[name].astype(dtype)
    return made


def nested(keras: Any, layers: Layers, x: Any) -> Any:
    inner = keras.Input((STEPS, 3))
    return keras.Model(inner, layers.GRU(4, name="deep")(inner), name="inside")(x)


def custom_cell(keras: Any, layers: Layers, x: Any) -> Any:
    class Decay(keras.layers.Layer):
        """A cell of one's own: half of the state stays."""

        state_size = 3

        def call(self, inputs: Any, states: Any) -> Any:
            """One step."""
            made = 0.5 * states[0] + inputs
            return made, [made]

    return layers.RNN(Decay(), name="decay")(x)


def test_a_state_between_calls(keras: Any, tmp_path: Path) -> None:
    """A stateful layer is named, with what to do."""
    x = keras.Input(batch_shape=(1, STEPS, 3))
    model = keras.Model(x, keras.layers.LSTM(2, stateful=True, name="memory")(x))
    with pytest.raises(Unsupported, match=r"layer 'memory' is stateful.*--explicit-states"):
        freeze(model, tmp_path / "g.pb")


KINDS: dict[str, Callable[[Any, Layers, Any], Any]] = {
    "lstm": lambda _, layers, x: layers.LSTM(4)(x),
    "gru": lambda _, layers, x: layers.GRU(4, return_sequences=True)(x),
    "gru_reset_before": lambda _, layers, x: layers.GRU(4, reset_after=False)(x),
    "simple_rnn": lambda _, layers, x: layers.SimpleRNN(4, go_backwards=True)(x),
    "bidirectional": lambda _, layers, x: layers.Bidirectional(layers.LSTM(4))(x),
    "stacked": lambda _, layers, x: layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)])(x),
    "time_distributed": lambda _, layers, x: layers.TimeDistributed(layers.GRU(2))(layers.Reshape((2, 2, 3))(x)),
    "conv_lstm": lambda _, layers, x: layers.ConvLSTM1D(2, 2)(layers.Reshape((STEPS, 3, 1))(x)),
    "nested": nested,
    "custom_cell": custom_cell,
    "masked": lambda _, layers, x: layers.LSTM(4)(layers.Masking(0.0)(x)),
}


def traced(model: Any, given: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a model that is traced with its recurrent layers unrolled."""
    with unrolled(model):
        assert not rolled_layers(model)
        return next(iter(predict(model, given).values()))


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_models_compute_the_same(keras: Any, kind: str, tmp_path: Path) -> None:
    """Every kind of recurrent layer, also inside wrappers and models, computes the same unrolled; the graph then has no
    loop, its ends keep their names, and the caller's model stays rolled."""
    x = keras.Input((STEPS, 3), name="series")
    model = keras.Model(x, keras.layers.Dense(2, name="scores")(KINDS[kind](keras, keras.layers, x)), name=kind)
    given = samples(model)
    given["series"][:, 2:] *= np.array([1, 0, 1, 0, 1, 0], np.float32)[:, None, None]  # steps that Masking skips
    rolled, weights = rolled_layers(model), model.get_weights()
    np.testing.assert_allclose(traced(model, given), predict(model, given)["scores"], atol=1e-6)
    graph = freeze(model, tmp_path / "unrolled.pb", unroll=True)
    assert (graph.loops, [t.name for t in graph.inputs], [t.name for t in graph.outputs]) == (
        (),
        ["series"],
        ["scores"],
    )
    assert freeze(model, tmp_path / "rolled.pb").loops
    assert rolled_layers(model) == rolled
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_masked_words(keras: Any) -> None:
    """A mask made by an embedding still skips its steps when unrolled."""
    x = keras.Input((STEPS,), dtype="int32", name="words")
    y = keras.layers.LSTM(4, return_sequences=True)(keras.layers.Embedding(5, 3, mask_zero=True)(x))
    model = keras.Model(x, keras.layers.GRU(3, name="out")(y))
    given = samples(model)
    given["words"][:, 2] = 0
    moved = {"words": given["words"][:, [0, 1, 3, 2]]}  # the skipped step last: the same words are left
    found = traced(model, given)
    np.testing.assert_allclose(found, predict(model, given)["out"], atol=1e-6)
    np.testing.assert_allclose(found, predict(model, moved)["out"], atol=1e-6)


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "SimpleRNN"])
def test_masked_rows_both_ways(keras: Any, kind: str, merge: str) -> None:
    """Stacked bidirectional layers over padding on the right, on the left, within and everywhere: every step and state
    is what the loop computes, and the layers are as they were."""
    layers, x = keras.layers, keras.Input((5,), dtype="int32")
    keras.utils.set_random_seed(1)
    words = layers.Embedding(6, 3, mask_zero=True)(x)
    whole = layers.Bidirectional(getattr(layers, kind)(3, return_sequences=True), merge_mode=merge)(words)
    back = getattr(layers, kind)(2, return_sequences=True, go_backwards=True)(words)
    last = layers.Bidirectional(getattr(layers, kind)(2), merge_mode=merge)(whole)
    model = keras.Model(x, [whole, back, last])
    given = np.array([[1, 2, 3, 4, 5], [5, 4, 0, 0, 0], [0, 0, 0, 3, 1], [1, 0, 2, 0, 3], [0, 0, 0, 0, 0]], np.int32)
    expected = [np.asarray(y) for y in model(given)]
    with unrolled(model):
        found = [np.asarray(y) for y in model(given)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert not any("inner_loop" in vars(layer) for layer in rolled_layers(model))
    assert [layer.go_backwards for layer in rolled_layers(model)].count(True) == 3


def test_what_the_author_unrolled_stays(keras: Any) -> None:
    """A layer that was unrolled before is unrolled after."""
    x = keras.Input((STEPS, 3))
    model = keras.Model(x, keras.layers.LSTM(2, unroll=True, name="out")(x))
    with unrolled(model):
        pass
    assert model.get_layer("out").unroll


def test_a_failure_inside_rolls_up_again(keras: Any) -> None:
    """An error of another kind passes unchanged, and the model is rolled again."""
    x = keras.Input((STEPS, 3))
    model = keras.Model(x, keras.layers.LSTM(2)(x))
    with pytest.raises(ValueError, match="something else"), unrolled(model):
        raise ValueError("something else")
    assert rolled_layers(model)


def test_an_open_number_of_steps(keras: Any, tmp_path: Path) -> None:
    """A sequence whose length is known at run time only is refused with the name of the layer."""

    class Shorten(keras.layers.Layer):
        """As many steps as the first number says."""

        def call(self, inputs: Any) -> Any:
            """Cut the time axis."""
            return inputs[:, : keras.ops.cast(inputs[0, 0, 0], "int32")]

        def compute_output_spec(self, inputs: Any) -> Any:
            """The time axis is open."""
            return keras.KerasTensor((inputs.shape[0], None, inputs.shape[2]))

    x = keras.Input((STEPS, 3), name="series")
    model = keras.Model(x, keras.layers.LSTM(2, name="memory")(Shorten()(x)))
    with pytest.raises(Unsupported, match="layer 'memory' has an open number of time steps"):
        freeze(model, tmp_path / "g.pb", unroll=True)


def test_a_subclass(keras: Any, tmp_path: Path) -> None:
    """A model under a class of its own, which Keras cannot copy, unrolls too."""

    class Own(keras.Model):
        """A functional model."""

    x = keras.Input((STEPS, 3))
    assert freeze(Own(x, keras.layers.LSTM(2)(x)), tmp_path / "g.pb", unroll=True).loops == ()


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT16X8])
def test_a_loop_of_another_kind(keras: Any, tmp_path: Path, precision: Precision) -> None:
    """A loop that is no recurrent layer never reaches the quantizer, which it would take down."""

    class Doubling(keras.layers.Layer):
        """Three times doubled, in a loop."""

        def call(self, inputs: Any) -> Any:
            """Loop."""
            return keras.ops.while_loop(lambda n, _: n < 3, lambda n, t: (n + 1, 2 * t), (0, inputs))[1]

    x = keras.Input((3,), name="x")
    model = keras.Model(x, Doubling(name="doubling")(x))
    given = {"x": np.ones((2, 3), np.float32)}
    with (
        Converter() as converter,
        pytest.raises(Unsupported, match=r"'\S*doubling\S*' is a loop .* --precision dynamic"),
    ):
        converter.export(model, tmp_path / "a.tflite", Format.TFLITE, precision, calibration=given)
    assert list(tmp_path.iterdir()) == []


def test_one_graph_for_each_way(keras: Any, vector_model: Any) -> None:
    """A converter keeps the rolled and the unrolled graph of a model apart, and one for a model without loops."""
    x = keras.Input((STEPS, 3))
    model = keras.Model(x, keras.layers.LSTM(2)(x))
    with Converter() as converter:
        rolled, out = (converter._freeze(model, unroll=unroll, sizes={}) for unroll in (False, True))
        assert (bool(rolled.loops), bool(out.loops)) == (True, False)
        assert converter._freeze(model, unroll=False, sizes={}) is rolled
        same = [converter._freeze(vector_model, unroll=unroll, sizes={}) for unroll in (True, False)]
        assert same[0] is same[1]

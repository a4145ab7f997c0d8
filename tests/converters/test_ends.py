"""The ends of an exported file: outputs that stay, sizes, batches, states, names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.session import Converter
from edgeprune.converters.verification import verify
from edgeprune.errors import Unsupported, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.input_sizes import InputSizes, combinations
from edgeprune.maker.keras.ends import EndOptions, with_ends
from edgeprune.maker.keras.models import input_specs, keras_module, output_names, predict
from edgeprune.maker.training.data.samples import Samples

RNG = np.random.default_rng(5)
AXIS = st.integers(1, 4096)


@given(st.integers(1, 64), st.lists(AXIS | st.tuples(AXIS, AXIS).filter(lambda pair: pair[0] < pair[1]), min_size=1))
def test_ranges_read_back(batch: int, axes: list[int | tuple[int, int]]) -> None:
    """What is shown of sizes says the same sizes."""
    text = ",".join([str(batch), *(str(a) if isinstance(a, int) else f"{a[0]}..{a[1]}" for a in axes)])
    found = InputSizes.parse(text)
    assert str(found) == text
    assert found.signature[1:] == tuple(a if isinstance(a, int) else None for a in axes)
    assert InputSizes.parse(str(found)) == found


@given(st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(AXIS, min_size=n, max_size=n), min_size=1, max_size=3)))
def test_lists_belong_together(axes: list[list[int]]) -> None:
    """The n-th size of each axis makes the n-th shape."""
    found = InputSizes.parse("1," + ",".join("|".join(map(str, axis)) for axis in axes))
    assert found.shapes == tuple((1, *sizes) for sizes in zip(*axes, strict=True))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("224", "a batch and at least one size"),
        ("1,0,3", "from 1 to"),
        ("1,224..64,3", "smaller to a larger"),
        ("1..4,224,3", "the batch"),
        ("1,2..3,4|5", "a range and a list"),
        ("1,2|3,4|5|6", "as many sizes"),
        ("1,x,3", "not a shape"),
        ("1,,3", "not a shape"),
        ("1,99999999,3", "from 1 to 1048576"),
    ],
)
def test_sizes_that_no_file_takes(text: str, told: str) -> None:
    """A line that shows how sizes are written."""
    with pytest.raises(UsageError, match=told):
        InputSizes.parse(text)


def test_shapes_of_several_inputs() -> None:
    """Lists of different lengths go round."""
    sizes = {"a": InputSizes.parse("1,2|3"), "b": InputSizes.parse("1,5")}
    assert combinations(sizes) == [{"a": (1, 2), "b": (1, 5)}, {"a": (1, 3), "b": (1, 5)}]


@pytest.fixture(scope="module")
def open_model() -> Any:
    """Two outputs, any size, with a resize that Keras works out in Python."""
    keras = keras_module()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((None, None, 3), name="image")
    y = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    classes = layers.Dense(4, activation="softmax", name="classes")(layers.GlobalAveragePooling2D()(y))
    wide = layers.UpSampling2D(2, interpolation="bilinear")(y)
    return keras.Model(x, [classes, layers.Conv2D(2, 1, activation="sigmoid", name="mask")(wide)])


@pytest.fixture(scope="module")
def streaming() -> Any:
    """Two stateful layers, one after the other."""
    keras = keras_module()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input(batch_shape=(1, 4, 3), name="sound")
    y = layers.LSTM(5, stateful=True, return_sequences=True, name="first")(x)
    y = layers.GRU(4, stateful=True, name="second")(y)
    return keras.Model(x, layers.Dense(2, activation="softmax", name="word")(y))


def reset(model: Any) -> None:
    """The first states of the model."""
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            for state in keras_module().tree.flatten(layer.states):
                state.assign(np.zeros(state.shape))


def test_states_outside_are_the_states_inside(streaming: Any) -> None:
    """Fed with what the last call gave, the model computes what the stateful one does, call after call."""
    outside = with_ends(streaming, EndOptions(explicit_states=True))
    states = {
        name: np.zeros((1, *s[1:]), np.float32) for name, (s, _) in input_specs(outside).items() if "state" in name
    }
    assert list(states) == ["first_state_0", "first_state_1", "second_state_0"]
    reset(streaming)
    for _ in range(4):
        x = RNG.normal(size=(1, 4, 3)).astype(np.float32)
        inside, found = np.asarray(streaming(x)), predict(outside, {"sound": x, **states})
        np.testing.assert_allclose(found["word"], inside, atol=1e-6)
        states = {name: found[f"{name}_out"] for name in states}
    reset(streaming)


def test_states_of_cells_of_cells() -> None:
    """Two states in each of two cells, and cells that drop: the states outside are those inside."""
    keras = keras_module()
    layers = keras.layers
    x = keras.Input(batch_shape=(1, 4, 3), name="x")
    cells = layers.RNN([layers.LSTMCell(3, dropout=0.1), layers.GRUCell(2)], stateful=True, name="cells")
    model = keras.Model(x, layers.Dense(2, name="y")(cells(x)))
    drops = keras.Model(x, layers.GRU(3, stateful=True, dropout=0.1, recurrent_dropout=0.2, name="cells")(x))
    for one, count in ((model, 3), (drops, 1)):
        outside = with_ends(one, EndOptions(explicit_states=True))
        specs = {name: spec for name, spec in input_specs(outside).items() if name != "x"}
        assert len(specs) == count
        states = {name: np.zeros((1, *shape[1:]), np.float32) for name, (shape, _) in specs.items()}
        reset(one)
        for _ in range(3):
            given = RNG.normal(size=(1, 4, 3)).astype(np.float32)
            inside, found = np.asarray(one(given)), predict(outside, {"x": given, **states})
            np.testing.assert_allclose(next(iter(found.values())), inside, atol=1e-6)
            states = {name: found[f"{name}_out"] for name in states}


def test_the_caller_keeps_the_model(streaming: Any, open_model: Any) -> None:
    """Weights, state, names and settings of the caller's model stay as they were."""
    before = [w.copy() for w in streaming.get_weights()]
    with_ends(streaming, EndOptions(explicit_states=True, names={"sound": "audio"}))
    assert all(np.array_equal(a, b) for a, b in zip(before, streaming.get_weights(), strict=True))
    assert list(input_specs(streaming)) == ["sound"]
    assert streaming.get_layer("first").stateful
    with_ends(open_model, EndOptions(outputs=("mask",), sizes={"": InputSizes.parse("1,8,8,3")}))
    assert output_names(open_model) == ["classes", "mask"]
    assert input_specs(open_model)["image"][0] == (None, None, None, 3)


def test_states_that_cannot_be_taken_out() -> None:
    """Inside a wrapper, used twice, or of another kind: one line names the layer."""
    keras = keras_module()
    layers = keras.layers
    x = keras.Input(batch_shape=(1, 4, 3))
    lstm = layers.LSTM(3, stateful=True, return_sequences=True, name="cell")
    for model, told in (
        (keras.Model(x, lstm(lstm(x))), "'cell' is stateful and used 2 times"),
        (keras.Model(x, layers.Bidirectional(layers.LSTM(3, stateful=True), name="both")(x)), "'both'"),
        (
            keras.Model(x, keras.Sequential([keras.Input(batch_shape=(1, 4, 3)), layers.GRU(2, stateful=True)])(x)),
            "inside",
        ),
        (keras.Model(x, layers.Flatten()(x)), "no stateful"),
    ):
        with pytest.raises(Unsupported, match=told):
            with_ends(model, EndOptions(explicit_states=True))


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (EndOptions(outputs=("boxes",)), "--outputs boxes: no such output; the model has classes, mask"),
        (EndOptions(sizes={"x": InputSizes.parse("1,8,8,3")}), "no such input; the model has image"),
        (EndOptions(sizes={"": InputSizes.parse("1,8,8")}), "4 sizes with the batch"),
        (EndOptions(names={"x": "y"}), "--name x=y: no such input or output; there are image, classes, mask"),
        (EndOptions(names={"image": "1st"}), "begins with a letter"),
        (EndOptions(names={"image": "mask"}), "two ends of one name"),
    ],
)
def test_ends_that_there_are_not(open_model: Any, ends: EndOptions, told: str) -> None:
    """The line says which there are."""
    with pytest.raises(UsageError, match=told):
        with_ends(open_model, ends)


def test_sizes_that_a_layer_does_not_take() -> None:
    """A Dense layer behind Flatten is made for one size: fixed or within a range, it is said which does not fit."""
    keras = keras_module()
    x = keras.Input((8, 8, 3), name="image")
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    for text in ("1,9,8,3", "1,8..9,8,3"):
        with pytest.raises(Unsupported, match=r"does not take image 1,9,8,3|does not take image 1,9,8,3:"):
            with_ends(model, EndOptions(sizes={"": InputSizes.parse(text)}))
    batch = with_ends(model, EndOptions(sizes={"": InputSizes.parse("3,8,8,3")}))
    assert input_specs(batch)["image"][0] == (3, 8, 8, 3)
    pixels = RNG.normal(size=(7, 8, 8, 3)).astype(np.float32)  # no multiple of the batch
    same = [next(iter(predict(one, {"image": pixels}).values())) for one in (model, batch)]
    np.testing.assert_allclose(*same, atol=1e-5)


def test_sizes_that_shapes_do_not_tell() -> None:
    """What goes wrong only when it is computed is told by its size; inputs have one batch."""
    keras = keras_module()
    layers = keras.layers
    x = keras.Input((None, None, 2), name="image")
    half = layers.UpSampling2D()(layers.MaxPooling2D()(x))
    model = keras.Model(x, layers.Conv2D(1, 1)(layers.Concatenate()([x, half])))
    with pytest.raises(Unsupported, match="does not take image 1,5,5,2"):
        with_ends(model, EndOptions(sizes={"": InputSizes.parse("1,5..8,5..8,2")}))
    y = keras.Input((3,), name="meta")
    two = keras.Model([x, y], layers.Dense(2)(layers.Concatenate()([layers.GlobalMaxPooling2D()(x), y])))
    whole = with_ends(two, EndOptions(sizes={"image": InputSizes.parse("4,8,8,2")}))
    assert [shape[0] for shape, _ in input_specs(whole).values()] == [4, 4]
    sizes = {"image": InputSizes.parse("4,8,8,2"), "meta": InputSizes.parse("2,3")}
    with pytest.raises(UsageError, match="one batch"):
        with_ends(two, EndOptions(sizes=sizes))


@pytest.fixture(scope="module")
def converter() -> Any:
    """One child for all conversions."""
    with Converter() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.tflite", "m.mlpackage"])
def test_files_of_other_ends(open_model: Any, converter: Any, tmp_path: Path, name: str) -> None:
    """A range, a list and a batch, in both formats: right at every size, and held against the model again."""
    for number, (sizes, told) in enumerate(
        [("1,16..24,16..24,3", "size 24x24x3"), ("1,16|20,16|12,3", "size 20x12x3"), ("3,16,16,3", None)]
    ):
        ends = EndOptions(outputs=("mask",), sizes={"image": InputSizes.parse(sizes)}, names={"mask": "people"})
        path = tmp_path / f"{number}{name}"
        entry = convert(open_model, path, options=ConvertOptions(ends=ends), converter=converter)
        assert [item.output for item in entry.parity or ()] == ["people"]
        assert (told in entry.parity_on) if told else ("size" not in entry.parity_on)
        contents = read_contents(path)
        assert (contents.macs is None) == bool(told)  # of sizes that are not known nothing is known
        assert verify(path, open_model, ends=ends).reason is None


@pytest.mark.slow
def test_states_in_files(streaming: Any, converter: Any, tmp_path: Path) -> None:
    """int8 with ranges of states that samples leave, scored from the first state, right with later ones; Core ML."""
    rows = {"sound": RNG.normal(size=(60, 4, 3)).astype(np.float32)}
    data = Samples(path=tmp_path / "d.npz", inputs=rows, targets=RNG.integers(0, 2, 60))
    options = ConvertOptions(ends=EndOptions(explicit_states=True))
    entry = convert(
        streaming,
        tmp_path / "m.tflite",
        precision="int8",
        calibration=rows,
        samples=data,
        metric="accuracy",
        options=options,
        converter=converter,
    )
    assert entry.metric is not None
    assert "later states" in str(entry.parity_on)
    package = tmp_path / "m.mlpackage"
    convert(streaming, package, options=options, converter=converter)
    found = verify(package, streaming, ends=options.ends)
    assert found.reason is None
    assert "second_state_0_out" in found.pairs


@pytest.mark.slow
def test_a_file_that_is_wrong_at_one_size(open_model: Any, converter: Any, tmp_path: Path) -> None:
    """`verify` tries both ends of a range; what is wrong at one of them does not agree."""
    import tensorflow as tf

    keras = keras_module()
    ends = EndOptions(outputs=("mask",), sizes={"": InputSizes.parse("1,16..24,16..24,3")})
    samples = Samples(
        path=tmp_path / "s", inputs={"image": RNG.normal(size=(3, 20, 20, 3)).astype(np.float32)}, targets=None
    )
    path = tmp_path / "m.tflite"
    entry = convert(open_model, path, samples=samples, options=ConvertOptions(ends=ends), converter=converter)
    assert "size 16x16x3 and size 24x24x3" in str(entry.parity_on)
    held = verify(path, open_model, ends=ends)
    assert (held.reason, "size 24x24x3" in held.samples_are) == (None, True)
    x = keras.Input((None, None, 3), name="image")
    shifted = keras.layers.Lambda(lambda t: t + 5 * tf.cast(tf.shape(t)[1] > 16, tf.float32), name="mask2")
    wrong = keras.Model(x, shifted(open_model(x)[1]))
    convert(wrong, tmp_path / "w.tflite", options=ConvertOptions(ends=replace(ends, outputs=())), converter=converter)
    assert "(with size 24x24x3)" in str(verify(tmp_path / "w.tflite", open_model, ends=ends).reason)


@pytest.mark.slow
def test_a_signature_of_ones_own(open_model: Any, converter: Any, tmp_path: Path) -> None:
    """Signature and names are those that were asked for."""
    ends = EndOptions(sizes={"": InputSizes.parse("1,16,16,3")}, names={"image": "photo", "classes": "scores"})
    options = ConvertOptions(ends=ends, signature="predict")
    convert(open_model, tmp_path / "m.tflite", options=options, converter=converter)
    graph = read_contents(tmp_path / "m.tflite").graph
    assert graph is not None
    (signature,) = graph.signatures
    assert (signature.name, signature.inputs, sorted(signature.outputs)) == ("predict", ("photo",), ["mask", "scores"])
    with pytest.raises(UsageError, match="--signature"):
        convert(open_model, tmp_path / "m.mlpackage", options=options, converter=converter)


@pytest.mark.slow
def test_the_command(call: Callable[..., Any], open_model: Any, tmp_path: Path) -> None:
    """`convert` writes it, `verify` with the same options agrees, without them says which outputs it misses."""
    open_model.save(tmp_path / "m.keras")
    file, ends = tmp_path / "m.tflite", ("--outputs", "mask", "--input-shape", "image=2,16,16,3")
    made = call("convert", tmp_path / "m.keras", "--to", "tflite", *ends, "-o", file, "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["output"]["parity"][0]["output"] == "mask"
    against = ("verify", file, "--against", tmp_path / "m.keras")
    assert call(*against, *ends).code == 0
    wrong = call(*against)
    assert (wrong.code, "--outputs" in wrong.err) == (3, True)

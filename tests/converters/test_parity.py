"""The exported file against its model: what is reported and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeprune.converters.channel_parity import joined_axes
from edgeprune.converters.evaluation import strays
from edgeprune.converters.exports import EXPORTS
from edgeprune.converters.parity import compare_outputs, refuse_senseless, shows_nothing, spread_sqnr_db, sqnr_db
from edgeprune.errors import ConversionError
from edgeprune.ledger import schema_path
from edgeprune.report.agreement_report import channel_lines, spans

VALUES = arrays(np.float32, (3, 2), elements=st.floats(-100, 100, width=32))
MODEL = np.array([[0.0, 1.0], [4.0, 2.0]], np.float32)


def refuse(file: np.ndarray, model: np.ndarray = MODEL, precision: str = "float32") -> None:
    parity = compare_outputs({"o": model}, {"o": file})
    refuse_senseless("m.tflite", precision, {"o": model}, {"o": file}, parity)


def test_by_hand() -> None:
    """Differences 0, 0.5, 0, 1 over a range of 4; one of two samples keeps its largest element."""
    (found,) = compare_outputs({"o": MODEL}, {"o": np.array([[0.0, 0.5], [4.0, 3.0]], np.float32)})
    assert (found.output, found.samples, found.max_error, found.mean_error) == ("o", 2, 1.0, 0.375)
    assert (found.range, found.relative_error, found.agreement) == (4.0, 0.25, 1.0)
    (turned,) = compare_outputs({"o": MODEL}, {"o": MODEL[:, ::-1]})
    assert turned.agreement == 0.0


@given(VALUES)
def test_a_file_that_computes_the_same(values: np.ndarray) -> None:
    """No difference, full agreement, and nothing to refuse."""
    (found,) = compare_outputs({"o": values}, {"o": values})
    assert (found.max_error, found.agreement) == (0.0, 1.0)
    refuse(values, values)


@given(VALUES, VALUES)
def test_errors_have_an_order(model: np.ndarray, file: np.ndarray) -> None:
    """Errors are the same both ways, and the mean is never above the largest."""
    (there,), (back,) = compare_outputs({"o": model}, {"o": file}), compare_outputs({"o": file}, {"o": model})
    assert there.max_error == back.max_error
    assert 0 <= there.mean_error <= there.max_error * (1 + 1e-12)


def test_outputs_are_matched_by_name() -> None:
    """The order of the file's outputs does not matter; a missing name does."""
    model = {"a": MODEL, "b": MODEL + 1}
    assert [p.max_error for p in compare_outputs(model, {"b": MODEL + 1, "a": MODEL})] == [0.0, 0.0]
    with pytest.raises(ConversionError, match="has the outputs a, c; the model has a, b"):
        compare_outputs(model, {"a": MODEL, "c": MODEL})


def test_shapes_must_agree() -> None:
    """A batch or an axis that went lost is a failed conversion."""
    with pytest.raises(ConversionError, match=r"shape \(1, 2\) in the file and \(2, 2\)"):
        compare_outputs({"o": MODEL}, {"o": MODEL[:1]})


def test_one_sample_of_one_output() -> None:
    """A range of zero gives no relative error, and rounding is no reason to refuse."""
    one = np.array([[0.5]], np.float32)
    (found,) = compare_outputs({"o": one}, {"o": one + 1e-7})
    assert (found.range, found.relative_error, found.agreement) == (0.0, None, None)
    refuse(one + 1e-7, one)
    with pytest.raises(ConversionError, match="departs"):
        refuse(one + 1, one)


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_outputs(precision: str, value: float) -> None:
    """NaN and infinity are refused at every precision."""
    with pytest.raises(ConversionError, match="NaN or infinite"):
        refuse(np.array([[0.0, value], [4.0, 2.0]], np.float32), precision=precision)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_constant_outputs(precision: str) -> None:
    """A file that gives the same for every sample lost its weights."""
    with pytest.raises(ConversionError, match="the same for all 2 samples"):
        refuse(np.array([[0.0, 1.0], [0.0, 1.0]], np.float32), precision=precision)


def test_a_constant_model() -> None:
    """A model that gives the same for every sample itself may be exported."""
    same = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    refuse(same, same)
    refuse(same, same + np.array([[0.0, 0.0], [0.0, 0.001]], np.float32), precision="int8")


def test_only_float32_must_be_close() -> None:
    """A hundredth of the range is a failed float32 conversion, and what int8 costs."""
    off = MODEL + np.array([[0.04, 0.0], [0.0, 0.0]], np.float32)
    with pytest.raises(ConversionError, match="departs from the Keras model"):
        refuse(off)
    refuse(off, precision="int8")


def test_an_older_runtime_that_strays() -> None:
    """A runtime whose outputs are far from the newest one's has not run the file; a step of int8 is no difference."""
    newest = {"y": np.linspace(0, 1, 40).reshape(10, 4).astype(np.float32)}
    assert strays(newest, {"y": newest["y"][:6] + np.float32(0.004)}) is None
    assert "differs from the newest runtime's by up to 0.5, its range is 0.59" in str(
        strays(newest, {"y": newest["y"][:6] + np.float32(0.5)})
    )
    assert strays(newest, {"y": np.full((6, 4), np.nan, np.float32)}) is not None


@pytest.mark.parametrize(
    ("expected", "exported", "decibels"),
    [
        ([1.0, -1.0], [1.0, -1.0], None),
        ([3.0, 4.0], [3.0, 3.5], 20.0),  # 25 over 0.25
        ([1.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, 0.0], [-9.0, 0.0], -20.0),
        ([0.0, 0.0], [0.0, 1.0], -np.inf),
        ([0.0, 0.0], [0.0, 0.0], None),
        ([1.0, np.nan], [1.0, 0.0], None),
        ([1.0, 0.0], [1.0, np.inf], None),
    ],
)
def test_sqnr_by_hand(expected: list[float], exported: list[float], decibels: float | None) -> None:
    """10 log10 of signal over noise; None where both are equal or something is not finite."""
    found = sqnr_db(np.array(expected, np.float32), np.array(exported, np.float32))
    assert found == (decibels if decibels is None else pytest.approx(decibels, abs=1e-5))


def test_sqnr_of_large_numbers() -> None:
    """Squares of float16 and float32 numbers do not overflow."""
    for dtype, large in ((np.float16, 6e4), (np.float32, 1e30)):
        model = np.array([large, 0], dtype)
        assert sqnr_db(model, model * np.array(0.5, dtype)) == pytest.approx(20 * np.log10(2), abs=0.01)


@given(VALUES, st.floats(0.01, 100))
def test_sqnr_has_no_unit(values: np.ndarray, scale: float) -> None:
    """Model and file times the same number have the same ratio."""
    model, file = values.astype(np.float64), np.roll(values, 1).astype(np.float64)
    there, back = sqnr_db(model, file), sqnr_db(model * scale, file * scale)
    assert there == (back if back is None else pytest.approx(back, abs=1e-6))


@pytest.mark.parametrize(
    ("precision", "share", "sound"),
    [
        ("float32", 0.0009, True),
        ("float32", 0.0011, False),
        ("float16", 0.09, True),
        ("float16", 0.11, False),
        ("palette4", 0.5, True),
    ],
)
def test_limits_by_precision(precision: str, share: float, sound: bool) -> None:
    """A float32 file may be off by a thousandth of the range, a float16 one by a tenth, others by more."""
    off = MODEL + np.array([[share * 4, 0.0], [0.0, 0.0]], np.float32)
    if sound:
        refuse(off, precision=precision)
        return
    with pytest.raises(ConversionError, match=r"departs from the Keras model by .*, its range is 4"):
        refuse(off, precision=precision)


@pytest.mark.parametrize("precision", ["int8", "dynamic", "sparse-palette8"])
def test_noise_stronger_than_the_signal(precision: str) -> None:
    """A quantized file whose error has more power than its output is refused with its decibels."""
    refuse(MODEL * 0.1, precision=precision)
    with pytest.raises(ConversionError, match=r"stronger than its signal \(SQNR -6.0 dB\)"):
        refuse(MODEL * -1, precision=precision)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_tolerance_comes_before_the_limits(precision: str) -> None:
    """A tolerance that is told holds for every precision, stricter or wider than its own limit."""
    off = MODEL + np.array([[0.2, 0.0], [0.0, 0.0]], np.float32)  # a twentieth of the range
    parity = compare_outputs({"o": MODEL}, {"o": off})
    refuse_senseless("m", precision, {"o": MODEL}, {"o": off}, parity, tolerance=0.06)
    with pytest.raises(ConversionError, match="departs"):
        refuse_senseless("m", precision, {"o": MODEL}, {"o": off}, parity, tolerance=0.04)
    with pytest.raises(ConversionError, match="departs"):
        refuse_senseless("m", precision, {"o": MODEL}, {"o": off}, parity, tolerance=0.0)


def test_a_small_channel_behind_a_large_one() -> None:
    """A float32 channel that is wrong by its own range is refused, however small beside the others; rounding is not."""
    rng = np.random.default_rng(0)
    model = np.concatenate([1e5 * rng.normal(size=(8, 3)), rng.normal(size=(8, 2))], 1).astype(np.float32)
    wrong = model.copy()
    wrong[:, 4] = rng.normal(size=8) * 3
    parity = compare_outputs({"o": model}, {"o": wrong})
    with pytest.raises(ConversionError, match="channel 4 of output 'o' departs"):
        refuse_senseless("m", "float32", {"o": model}, {"o": wrong}, parity)
    rounded = model + np.float32(0.01) * rng.normal(size=model.shape).astype(np.float32)
    refuse_senseless("m", "float32", {"o": model}, {"o": rounded}, compare_outputs({"o": model}, {"o": rounded}))


def test_a_constant_output_is_held_to_its_size() -> None:
    """Where the model's output has no range, its magnitude is the measure."""
    model, wrong = np.full((4, 1), -5e-4, np.float32), np.full((4, 1), 3e-4, np.float32)
    with pytest.raises(ConversionError, match="departs"):
        refuse_senseless("m", "float32", {"o": model}, {"o": wrong}, compare_outputs({"o": model}, {"o": wrong}))


def test_an_offset_in_float16() -> None:
    """A float16 file whose error is far above float16's rounding is refused, though below a tenth of the range."""
    model = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    wrong = model + np.float32(0.3)
    with pytest.raises(ConversionError, match=r"is large for float16 \(SQNR 10\.\d dB\)"):
        refuse_senseless("m", "float16", {"o": model}, {"o": wrong}, compare_outputs({"o": model}, {"o": wrong}))


def test_samples_that_show_nothing() -> None:
    """Equal outputs for all samples prove nothing; and a constant offset is no signal."""
    same, other = np.ones((4, 2), np.float32), np.arange(8, dtype=np.float32).reshape(4, 2)
    assert shows_nothing({"a": same})
    assert not shows_nothing({"a": same, "b": other})
    offset, flat = other + 100, np.full_like(other, 100) + other.mean(0)
    assert spread_sqnr_db(offset, flat) == pytest.approx(0, abs=1e-5)
    assert (sqnr_db(offset, flat) or 0.0) > 20


def test_a_model_that_gives_nan_itself() -> None:
    """NaN of the model's own making is not blamed on the file, and no warning escapes."""
    model = np.array([[1.0], [np.nan]], np.float32)
    parity = compare_outputs({"o": model}, {"o": model})
    with pytest.raises(ConversionError, match="the model's own output 'o' holds NaN"):
        refuse_senseless("m", "float32", {"o": model}, {"o": model}, parity)


def test_the_ledger_s_schema_knows_every_precision() -> None:
    """What can be exported can stand in a ledger."""
    schema = json.loads(schema_path().read_text())
    known = set(schema["$defs"]["artifact"]["properties"]["precision"]["enum"])
    assert known == {str(precision) for precisions in EXPORTS.values() for precision in precisions}


def joined(boxes: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """An output [40, 6, 5] of three wide channels and two in 0 to 1, and the same in 256 steps of the whole range."""
    rng = np.random.default_rng(0)
    model = rng.random((40, 6, 5)).astype(np.float32)
    model[..., :3] *= boxes
    step = np.ptp(model) / 255
    return model, (np.round(model / step) * step).astype(np.float32)


def test_channels_that_an_output_hides() -> None:
    """The whole output is right to 40 dB; the two narrow channels are lost, and are named with their cure."""
    model, file = joined()
    (found,) = compare_outputs({"o": model}, {"o": file})
    assert found.sqnr_db is not None
    assert found.sqnr_db > 40
    assert [(c.axis, c.channel) for c in found.channels] == [(-1, 3), (-1, 4)]
    for channel in found.channels:
        part, error = model[..., channel.channel].astype(np.float64), (model - file)[..., channel.channel]
        assert channel.sqnr_db == pytest.approx(10 * np.log10(part.var() / np.square(error).mean()), abs=1e-3)
        assert channel.max_error == pytest.approx(np.abs(error).max())
    (line,) = channel_lines((found,))
    assert "channels 3 to 4 of output 'o' are far from the model's" in line
    assert "an output of their own, or bring all channels to one range" in line


def test_channels_of_one_range_are_not_named() -> None:
    """256 steps are enough where all channels have one range; a channel that never varies has nothing to lose."""
    model, file = joined(boxes=1.0)
    model[..., 2], file[..., 2] = 0.5, 0.501
    assert compare_outputs({"o": model}, {"o": file})[0].channels == ()


def test_rare_classes_of_one_distribution_are_not_named() -> None:
    """Probabilities below one step of int8 become 0; they share their unit with those above."""
    logits = np.random.default_rng(0).normal(size=(50, 40)) * 4
    model = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    file = np.round(model * 256) / 256
    assert compare_outputs({"o": model}, {"o": file})[0].channels == ()


def test_channels_on_the_axis_that_was_joined() -> None:
    """Boxes and scores that lie along the first axis, as detectors for phones often write them."""
    model, file = (np.moveaxis(array, 2, 1) for array in joined())
    assert compare_outputs({"o": model}, {"o": file})[0].channels == ()
    (found,) = compare_outputs({"o": model}, {"o": file}, {"o": 1})
    assert [(c.axis, c.channel) for c in found.channels] == [(-2, 3), (-2, 4)]


def test_the_axis_of_joined_outputs(keras: Any) -> None:
    """Concatenate is found behind what only swaps axes or leaves numbers in place, in nested models too."""
    x = keras.Input((6, 4), name="x")
    parts = [keras.layers.Dense(n)(x) for n in (3, 2)]
    inner = keras.Model(x, keras.layers.Concatenate()(parts))
    y = keras.Input((6, 4), name="y")
    whole = inner(y)
    turned = keras.layers.Permute((2, 1), name="turned")(whole)
    model = keras.Model(y, [whole, keras.layers.Activation("relu", name="kept")(turned), keras.layers.Dense(2)(y)])
    assert list(joined_axes(model).values()) == [2, 1]


@given(st.lists(st.integers(0, 40), unique=True, min_size=1).map(sorted))
def test_spans_name_every_number(numbers: list[int]) -> None:
    """Runs of numbers as "4 to 6"; what is left out is counted."""
    text = spans(numbers)
    runs, _, more = text.partition(" and ")
    named = [part.split(" to ") for part in runs.split(", ")]
    told = [n for ends in named for n in range(int(ends[0]), int(ends[-1]) + 1)]
    assert told == numbers[: len(told)]
    assert len(numbers) - len(told) == int(more.removesuffix(" more") or 0)

"""Ends of a file that others made, matched with the model's: by name, size, position, and closeness of values."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.converters.pairing import pair_inputs, pair_outputs
from edgeprune.errors import ConversionError

RNG = np.random.default_rng(0)
Shapes = dict[str, tuple[int | None, ...]]


@pytest.mark.parametrize(
    ("model", "file", "pairs"),
    [
        ({"a": (None, 4), "b": (None, 4)}, {"b": (1, 4), "a": (1, 4)}, {"a": "a", "b": "b"}),
        (
            {"a": (None, 4), "b": (None, 4)},
            {"serving_default_b:0": (1, 4), "serving_default_a:0": (1, 4)},
            {"a": "serving_default_a:0", "b": "serving_default_b:0"},
        ),
        ({"a": (None, 4), "b": (None, 5)}, {"x": (1, 5), "y": (1, 4)}, {"a": "y", "b": "x"}),
        ({"a": (None, 4), "b": (None, 4)}, {"x": (1, 4), "y": (1, 4)}, {"a": "x", "b": "y"}),
        (dict.fromkeys("abc", (None, 4)), dict.fromkeys("xyz", (1, 4)), {"a": "x", "b": "y", "c": "z"}),
        (dict.fromkeys("abcd", (None, 4)), dict.fromkeys("wxyz", (1, 4)), dict(zip("abcd", "wxyz", strict=True))),
        ({"a": (None, 4), "b": (None, 1)}, {"x": (1, 1, 4), "y": (1,)}, {"a": "x", "b": "y"}),
        ({"a": (None, None), "b": (None, 4)}, {"x": (1, 7), "y": (1, 4)}, {"a": "x", "b": "y"}),
        ({"a": (None, 8, 8, 1)}, {"x": (1, 1, 8, 8)}, {"a": "x"}),
        ({}, {}, {}),
    ],
    ids=["names", "TensorFlow's names", "sizes", "position", "three", "four", "ones", "open", "channels", "none"],
)
def test_inputs(model: Shapes, file: Shapes, pairs: dict[str, str]) -> None:
    """By name, else by a size that fits only once, else by position; axes of one and open sizes fit."""
    assert pair_inputs(model, file, "m.tflite") == pairs


@pytest.mark.parametrize(
    ("model", "file", "word"),
    [
        ({"a": (None, 4)}, {"x": (1, 4), "y": (1, 4)}, r"m.tflite has 2 inputs \(x, y\), the model 1"),
        ({"a": (None, 4)}, {"x": (1, 5)}, r"no input for the model's 'a' of shape \[4\]"),
        ({"a": (None, 4, 2)}, {"x": (1, 2, 4)}, "no input for the model's 'a'"),
        ({"a": (None, 4), "b": (None, 4)}, {"x": (1, 4), "y": (1, 5)}, "no input for the model's 'b'"),
        ({"a": (None, None), "b": (None, 4)}, {"x": (1, 4), "y": (1, 4)}, "cannot be told apart for a, b"),
    ],
    ids=["number", "size", "order", "taken", "ambiguous"],
)
def test_inputs_that_do_not_fit(model: Shapes, file: Shapes, word: str) -> None:
    """Other numbers of inputs, sizes that nothing has, and inputs that could be either are refused."""
    with pytest.raises(ConversionError, match=word):
        pair_inputs(model, file, "m.tflite")


def test_outputs_by_name() -> None:
    """An output of the model's name is taken, however far it is off and whatever else the file has; in its shape."""
    a = RNG.normal(size=(3, 1, 4))
    found, pairs = pair_outputs({"a": a}, {"b": a, "a": np.zeros((3, 4))}, "m")
    assert pairs == {"a": "a"}
    assert found["a"].shape == (3, 1, 4)
    assert not found["a"].any()


def test_outputs_by_closeness() -> None:
    """Two outputs of one size go to those that they are closest to, in either order of the file."""
    a, b = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))
    near = {"y": b + 0.01, "x": a + 0.01}
    for file in (near, dict(reversed(near.items()))):
        found, pairs = pair_outputs({"a": a, "b": b}, file, "m")
        assert pairs == {"a": "x", "b": "y"}
        np.testing.assert_array_equal(found["a"], a + 0.01)


def test_an_equal_output_is_closest() -> None:
    """An output without any error comes before one with little."""
    a = RNG.normal(size=(3, 4))
    assert pair_outputs({"a": a}, {"x": a + 1e-6, "y": a.copy(), "z": a - 1e-6}, "m")[1] == {"a": "y"}


def test_nan_is_taken_last() -> None:
    """An output with NaN is taken only where nothing else is left."""
    a, broken = RNG.normal(size=(3, 4)), np.full((3, 4), np.nan)
    assert pair_outputs({"a": a}, {"x": broken, "y": -a}, "m")[1] == {"a": "y"}
    assert pair_outputs({"a": a}, {"x": broken}, "m")[1] == {"a": "x"}


def test_outputs_that_do_not_fit() -> None:
    """No output of that size, one for two, or the right name with another size are refused with the file's shapes."""
    a = RNG.normal(size=(3, 4))
    with pytest.raises(ConversionError, match=r"no output for the model's 'a' of shape \[4\]; it has x \[5\]"):
        pair_outputs({"a": a}, {"x": np.zeros((3, 5))}, "m")
    with pytest.raises(ConversionError, match="no output for the model's 'b'"):
        pair_outputs({"a": a, "b": a}, {"x": a}, "m")
    with pytest.raises(ConversionError, match=r"output 'a' has shape \[5\], the model's 'a' \[4\]"):
        pair_outputs({"a": a}, {"a": np.zeros((3, 5))}, "m")


def test_another_shape_is_not_the_same_output() -> None:
    """[3, 4] and [4, 3] hold as many numbers and are not the same; a size of 1 more or less is."""
    model = {"o": np.zeros((2, 3, 4), np.float32)}
    with pytest.raises(ConversionError, match=r"has shape \[4, 3\], the model's 'o' \[3, 4\]"):
        pair_outputs(model, {"f": np.zeros((2, 4, 3), np.float32)}, "file")
    assert pair_outputs(model, {"f": np.zeros((2, 1, 3, 4), np.float32)}, "file")[1] == {"o": "f"}

"""Columns of samples that stay in their file, metrics against plain loops, weights of samples."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeprune.errors import InputError
from edgeprune.maker.training.data import npz
from edgeprune.maker.training.data.columns import FileRows, ScaledRows, as_type, in_parts, taken
from edgeprune.maker.training.data.loading import load_samples
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.loop import evaluate, train
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.options import TrainOptions

RNG = np.random.default_rng(8)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)
TYPES = st.sampled_from([np.uint8, np.int16, np.float32])


@given(st.data())
def test_rows_of_a_file_are_rows_of_the_array(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Slices, numbers in any order and twice, and single rows: what NumPy gives of the array itself."""
    array = data.draw(hnp.arrays(data.draw(TYPES), data.draw(SHAPES)))
    path = tmp_path_factory.mktemp("rows") / "d.bin"
    path.write_bytes(b"head" + array.tobytes())
    rows = FileRows(path, start=4, shape=array.shape, dtype=array.dtype)
    assert (len(rows), rows.shape) == (len(array), array.shape)
    number = st.integers(0, len(array) - 1)
    for key in (
        slice(*sorted((data.draw(number), data.draw(number)))),
        slice(None),
        slice(None, None, 2),
        np.array(data.draw(st.lists(number, max_size=9)), int),
        data.draw(number),
    ):
        np.testing.assert_array_equal(rows[key], array[key])
        np.testing.assert_array_equal(taken(as_type(rows, np.float32), key), array[key].astype(np.float32))
    parts = np.concatenate([taken(rows, part) for part in in_parts(rows)])
    np.testing.assert_array_equal(parts, array)


def test_scaled_rows_are_scaled_samples() -> None:
    """To the bit what the whole array gives, with numbers for each channel."""
    pixels = RNG.integers(0, 256, (7, 3, 3, 2)).astype(np.uint8)
    scale, offset = np.array([0.5, 0.1], np.float32), np.array([-1.0, 0.3], np.float32)
    rows = ScaledRows(pixels, scale, offset)
    whole = pixels.astype(np.float32) * scale + offset
    for key in (slice(2, 5), np.array([6, 0, 6]), 3):
        np.testing.assert_array_equal(rows[key], whole[key])
    np.testing.assert_array_equal(np.asarray(rows), whole)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a kilobyte count as large."""
    monkeypatch.setattr(npz, "LARGE_BYTES", 1000)


@pytest.mark.usefixtures("large")
def test_large_arrays_stay_in_their_file(tmp_path: Path) -> None:
    """Plain ones do and give the same rows; compressed ones, and those in Fortran's order, are read."""
    array = RNG.normal(size=(50, 5, 2)).astype(np.float32)
    kinds = {}
    for name, save in (("plain", np.savez), ("packed", np.savez_compressed)):
        save(tmp_path / name, x=array, y=np.arange(50), sample_weight=np.ones(50))
        arrays = npz.read_npz(tmp_path / f"{name}.npz")
        kinds[name] = type(arrays["x"]).__name__
        np.testing.assert_array_equal(arrays["x"][np.array([4, 49, 0])], array[[4, 49, 0]])
    np.savez(tmp_path / "turned", x=np.asfortranarray(array))
    kinds["turned"] = type(npz.read_npz(tmp_path / "turned.npz")["x"]).__name__
    assert kinds == {"plain": "FileRows", "packed": "ndarray", "turned": "ndarray"}


@pytest.mark.usefixtures("large")
def test_large_arrays_are_held_against_the_file(tmp_path: Path) -> None:
    """NaN is found part by part and told by its sample; a size that the file has not is refused."""
    array = RNG.normal(size=(40, 10)).astype(np.float32)
    array[33, 4] = np.nan
    np.savez(tmp_path / "d", x=array)
    specs = {"x": ((None, 10), "float32")}
    with pytest.raises(InputError, match="first in sample 33"):
        load_samples(tmp_path / "d.npz", specs, need_targets=False)
    with zipfile.ZipFile(tmp_path / "d.npz") as archive:
        member = archive.read("x.npy").replace(b"(40, 10)", b"(90, 10)")
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(InputError, match="damaged or cut short"):
        load_samples(tmp_path / "e.npz", specs, need_targets=False)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"z": np.zeros(4)}, "unknown array 'z'.*inputs image"),
        ({"sample_weight": np.ones((4, 2))}, "no number for each sample"),
        ({"sample_weight": np.ones(3)}, "different length: .*sample_weight 3"),
        ({"sample_weight": -np.ones(4)}, "negative weights"),
        ({"sample_weight": np.zeros(4)}, "only zeros"),
        ({"sample_weight": np.full(4, np.nan)}, "NaN"),
    ],
)
def test_arrays_that_nobody_asked_for(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    """An unknown array and weights that weigh nothing are errors that name them."""
    np.savez(tmp_path / "d.npz", image=np.zeros((4, 2)), y=np.zeros(4), **arrays)
    with pytest.raises(InputError, match=told):
        load_samples(tmp_path / "d.npz", {"image": ((None, 2), "float32")})


def test_names_of_outputs_are_left_alone(tmp_path: Path) -> None:
    """Targets of several outputs, by their names, do not disturb a calibration."""
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 2)), age=np.zeros(4))
    made = load_samples(tmp_path / "d.npz", {"face": ((None, 2), "float32")}, need_targets=False, other=["age"])
    assert list(made.inputs) == ["face"]


def test_metrics_of_classes() -> None:
    """Top-1, top-5 and IoU over maps of pixels, against loops."""
    outputs = RNG.normal(size=(5, 4, 3, 7))
    outputs[0] = 1.0  # ties
    targets = RNG.integers(0, 6, (5, 4, 3))
    places = [(outputs[at], targets[at]) for at in np.ndindex(5, 4, 3)]
    assert METRICS["accuracy"].compute(outputs, targets) == np.mean([row.argmax() == want for row, want in places])
    ranked = [sorted(range(7), key=lambda n, row=row: (-row[n], n))[:5] for row, _ in places]  # type: ignore[misc]
    assert METRICS["top5"].compute(outputs, targets) == np.mean(
        [w in r for r, (_, w) in zip(ranked, places, strict=True)]
    )
    said = outputs.argmax(-1)
    shares = []
    for number in range(7):
        either = ((said == number) | (targets == number)).sum()
        if either:
            shares.append(((said == number) & (targets == number)).sum() / either)
    assert METRICS["iou"].compute(outputs, targets) == pytest.approx(np.mean(shares))


def test_metrics_of_labels() -> None:
    """AUC and F1 of several labels are means over those that can be judged; logits and shares give the same F1."""
    targets = RNG.integers(0, 2, (30, 3))
    targets[:, 2] = 1  # no negative: no AUC
    shares = RNG.random((30, 3))
    pairs = [
        np.mean(
            [(a > b) + 0.5 * (a == b) for a in shares[targets[:, n] == 1, n] for b in shares[targets[:, n] == 0, n]]
        )
        for n in (0, 1)
    ]
    assert METRICS["auc"].compute(shares, targets) == pytest.approx(np.mean(pairs))
    said = shares > 0.5
    expected = [2 * (said & (targets == 1))[:, n].sum() / (said[:, n].sum() + targets[:, n].sum()) for n in range(3)]
    assert METRICS["f1"].compute(shares, targets) == pytest.approx(np.mean(expected))
    assert METRICS["f1"].compute(np.log(shares / (1 - shares)), targets) == pytest.approx(np.mean(expected))
    for metric, nothing in (("auc", "both classes"), ("f1", "a label that is there")):
        with pytest.raises(InputError, match=nothing):
            METRICS[metric].compute(np.zeros((4, 1)), np.zeros(4))


def test_metrics_of_numbers() -> None:
    """RMSE is the root of MSE; R2 is 1 for the targets and 0 for their mean."""
    told = RNG.normal(size=(20, 2))
    assert METRICS["rmse"].compute(told + 3, told) == pytest.approx(3)
    assert METRICS["r2"].compute(told, told) == 1
    assert METRICS["r2"].compute(np.broadcast_to(told.mean(0), told.shape), told) == pytest.approx(0)
    with pytest.raises(InputError, match="targets that differ"):
        METRICS["r2"].compute(told, np.ones_like(told))


@pytest.mark.slow
def test_weights_of_samples_count(keras: Any) -> None:
    """Samples of weight 0 teach nothing: training with them is training on labels that are all right."""
    keras.utils.set_random_seed(0)
    inputs = RNG.normal(size=(256, 6)).astype(np.float32)
    right = (inputs[:, 0] > 0).astype(np.int64)
    wrong = np.where(np.arange(256) % 4 == 0, right, 1 - right)  # three quarters lie
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, activation="softmax")(x))
    start, scores = model.get_weights(), {}
    for name, weights in (("all alike", None), ("liars out", (np.arange(256) % 4 == 0).astype(np.float32))):
        model.set_weights(start)
        samples = Samples(path=Path("d"), inputs={"x": inputs}, targets=wrong, weights=weights)
        train(
            model, samples, None, find_task(model, "accuracy", trains=True), TrainOptions(epochs=30, learning_rate=0.05)
        )
        truth = Samples(path=Path("d"), inputs={"x": inputs}, targets=right)
        scores[name] = evaluate(model, truth, find_task(model, "accuracy"))[0]
    assert scores["all alike"] < 0.3
    assert scores["liars out"] > 0.8


def test_samples_are_set_aside() -> None:
    """Each sample is in one part, in the order that it had, and the same seed draws the same."""
    x = np.arange(20, dtype=np.float32)[:, None]
    samples = Samples(path=Path("train.npz"), inputs={"x": x}, targets=np.arange(20))
    rest, first, second = samples.set_aside(3, 2, np.random.default_rng(5))
    assert [len(part) for part in (rest, first, second)] == [14, 3, 3]
    labels = [part.told[""].tolist() for part in (rest, first, second)]
    assert sorted(label for part in labels for label in part) == list(range(20))
    assert all(part == sorted(part) for part in labels)
    again = samples.set_aside(3, 2, np.random.default_rng(5))
    assert [part.told[""].tolist() for part in again] == labels

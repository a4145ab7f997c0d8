"""Reading samples (what is refused is tested through the command line in test_cli_bad_input)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import InputError
from edgeprune.maker.keras.saved_models import SavedModel, SavedTensor
from edgeprune.maker.training.data.loading import (
    InputSpecs,
    calibration_set,
    calibration_split,
    load_samples,
    load_split,
)
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.targets import fitting_targets
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.task import Score, Task

IMAGE: InputSpecs = {"image": ((None, 2, 2, 1), "float32")}
TWO: InputSpecs = {"index": ((None, 3), "int32"), "size": ((None, 1), "float32")}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images of bytes with targets."""
    np.savez(tmp_path / "d.npz", x=np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), y=np.array([0, 1, 0]))
    return tmp_path / "d.npz"


def test_x_stands_for_the_only_input(images: Path) -> None:
    """A model with one input finds its samples under x; bytes stay bytes until they are scaled."""
    samples = load_samples(images, IMAGE)
    assert len(samples) == 3
    assert samples.inputs["image"].dtype == np.uint8
    assert samples.told[""].tolist() == [0, 1, 0]


def test_scale_and_offset(images: Path) -> None:
    """Float inputs become value * scale + offset, in float32."""
    samples = load_samples(images, IMAGE, scale=0.5, offset=-1.0)
    assert samples.inputs["image"].dtype == np.float32
    assert samples.inputs["image"][1].ravel().tolist() == [1.0, 1.5, 2.0, 2.5]


def test_integer_inputs_are_not_scaled(tmp_path: Path) -> None:
    """Indexes are left alone; every input is found under its own name."""
    np.savez(tmp_path / "d.npz", index=np.array([[1, 2, 3]]), size=np.array([[4.0]]), y=np.array([1]))
    samples = load_samples(tmp_path / "d.npz", TWO, scale=10.0)
    assert samples.inputs["index"].tolist() == [[1, 2, 3]]
    assert samples.inputs["size"].tolist() == [[40.0]]


def test_targets_may_be_left_out(tmp_path: Path) -> None:
    """Calibration samples need no targets."""
    np.savez(tmp_path / "d.npz", image=np.zeros((1, 2, 2, 1)))
    assert load_samples(tmp_path / "d.npz", IMAGE, need_targets=False).targets is None


def test_a_split_is_held_against_model_and_metric(images: Path) -> None:
    """What a model reads, in one call: inputs by its own names, targets that suit the metric, or none at all."""
    ends = [SavedTensor(name=n, shape=s, dtype="float32") for n, s in (("image", (None, 2, 2, 1)), ("out", (None, 2)))]
    model = SavedModel(name="m", signature=None, whole=None, inputs=(ends[0],), outputs=(ends[1],))
    assert load_split(images, model, find_task(model, "accuracy"), scale=2.0).inputs["image"].max() == 22
    with pytest.raises(InputError, match="targets of 1 values, the model's output has 2"):
        load_split(images, model, find_task(model, "mse"))
    np.savez(images, x=np.zeros((1, 2, 2, 1)))
    assert load_split(images, model, None).targets is None
    with pytest.raises(InputError, match="no array 'y'"):
        load_split(images, model, find_task(model, "mse"))


def test_open_sizes_take_anything(tmp_path: Path) -> None:
    """A size that the model leaves open fits every sample."""
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 7)), y=np.zeros(2))
    assert load_samples(tmp_path / "d.npz", {"t": ((None, None), "float32")}).inputs["t"].shape == (2, 7)


def test_other_members_are_ignored(tmp_path: Path) -> None:
    """A member of the archive that is no array is not taken for one."""
    import zipfile

    np.savez(tmp_path / "d.npz", x=np.zeros((1, 2, 2, 1)))
    with zipfile.ZipFile(tmp_path / "d.npz", "a") as archive:
        archive.writestr("y", "not an array")
    with pytest.raises(InputError, match="no array 'y'"):
        load_samples(tmp_path / "d.npz", IMAGE)


def test_some_draws_without_replacement() -> None:
    """A seed fixes the draw, no sample comes twice, and asking for more than there are gives all."""
    samples = Samples(path=Path("d"), inputs={"x": np.arange(10)}, targets=np.arange(10) * 2)
    drawn = samples.some(4, np.random.default_rng(1))
    assert len(set(drawn.inputs["x"].tolist())) == 4
    assert (drawn.told[""] == drawn.inputs["x"] * 2).all()
    assert (samples.some(4, np.random.default_rng(1)).inputs["x"] == drawn.inputs["x"]).all()
    assert len(samples.some(99, np.random.default_rng(1))) == 10


def test_calibration_takes_the_models_types() -> None:
    """A calibration set has the dtypes of the inputs and at most so many samples."""
    samples = Samples(path=Path("d"), inputs={"image": np.ones((9, 2, 2, 1), np.uint8)}, targets=None)
    drawn = calibration_set(samples, IMAGE, 4, seed=0)
    assert (drawn["image"].shape, drawn["image"].dtype) == ((4, 2, 2, 1), np.float32)


def against(shape: tuple[int | None, ...], metric: str) -> tuple[dict[str, tuple[int | None, ...]], Task]:
    """The one output of a model, and its task."""
    score = Score(name=metric, metric=METRICS[metric], output="out", place=0)
    return {"out": shape}, Task(scores=(score,))


@pytest.mark.parametrize(
    ("metric", "targets", "shape"),
    [
        ("accuracy", [0, 2], (None, 3)),
        ("accuracy", [[0.0], [2.0]], (None, 3)),
        ("accuracy", [[[0], [1]], [[1], [0]]], (None, 2, 2)),
        ("top5", [0, 2], (None, 1, 1, 3)),
        ("iou", [[[0, 1]], [[1, 1]]], (None, None, None, 2)),
        ("auc", [0, 1], (None, 1)),
        ("f1", [[0, 1, 1], [0, 0, 0]], (None, 3)),
        ("mse", [[1.0, 2.0], [3.0, 4.0]], (None, 2)),
        ("mae", [[1.0, 2.0], [3.0, 4.0]], (None, 2, 1)),
    ],
)
def test_fitting_targets(metric: str, targets: list[object], shape: tuple[int | None, ...]) -> None:
    """Targets that fit the metric and the output pass."""
    fitting_targets(
        Samples(path=Path("d"), inputs={"x": np.zeros(2)}, targets=np.array(targets)), *against(shape, metric)
    )


@pytest.mark.parametrize(
    ("metric", "targets", "shape", "word"),
    [
        ("accuracy", [0, 3], (None, 3), "run from 0 to 3"),
        ("accuracy", [[1, 1], [0, 1]], (None, 2), "several labels: score it with the metric auc or f1"),
        ("accuracy", [[0.5, 0.5], [0, 1]], (None, 2), "argmax"),
        ("accuracy", [[1, 2, 1], [0, 1, 1]], (None, 2), "one class index of each sample"),
        ("accuracy", [[0, 1], [1, 2]], (None, 2, 2), "run from 0 to 2"),
        ("iou", [0, 1], (None, 8, 8, 2), "the places 8x8"),
        ("accuracy", [0.5, 1], (None, 2), "whole numbers"),
        ("auc", [0, 2], (None, 1), "0 or 1"),
        ("auc", [0, 1], (None, 2), "the model's output has 2: auc needs a 0 or 1 for each"),
        ("mse", [1.0, 2.0], (None, 2), "targets of 1 values"),
        ("accuracy", None, (None, 2), "no array 'y'"),
    ],
)
def test_targets_that_do_not_fit(
    metric: str, targets: list[object] | None, shape: tuple[int | None, ...], word: str
) -> None:
    """Targets that a metric cannot be computed from are refused before any model runs."""
    made = None if targets is None else np.array(targets)
    with pytest.raises(InputError, match=word):
        fitting_targets(Samples(path=Path("d"), inputs={"x": np.zeros(2)}, targets=made), *against(shape, metric))


@pytest.mark.parametrize(
    ("stored", "count", "used", "held"),
    [(500, 200, 200, 100), (210, 200, 200, 10), (205, 200, 164, 41), (20, 200, 16, 4)],
)
def test_what_judges_a_file_did_not_calibrate_it(stored: int, count: int, used: int, held: int) -> None:
    """Samples that were not drawn are held back; where few are left, a fifth of all. None is in both."""
    samples = Samples(path=Path("t.npz"), inputs={"image": np.arange(stored)[:, None]}, targets=np.zeros(stored))
    drawn, rest = calibration_split(samples, {"image": ((None, 1), "float32")}, count, seed=0)
    assert (len(drawn["image"]), len(rest), rest.targets) == (used, held, None)
    assert not set(drawn["image"].ravel()) & set(rest.inputs["image"].ravel())
    if used == count:
        np.testing.assert_array_equal(drawn["image"], calibration_set(samples, IMAGE, count, seed=0)["image"])


def test_a_single_sample_calibrates_and_judges() -> None:
    """There is no other."""
    samples = Samples(path=Path("t.npz"), inputs={"image": np.ones((1, 2))}, targets=None)
    drawn, rest = calibration_split(samples, IMAGE, 200, seed=0)
    assert (len(drawn["image"]), len(rest)) == (1, 1)

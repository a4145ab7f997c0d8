"""Facts about the committed sample models and their data, read without TensorFlow."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from places import ROOT

SAMPLES = ROOT / "sample_models"
FASHION, FLIGHTS, SHAPES = SAMPLES / "fashion", SAMPLES / "flights", SAMPLES / "shapes"
ROWS = {"train": 12_000, "validation": 2_000, "test": 5_000}
MODELS = [FASHION / "fashion.keras", FLIGHTS / "flights.keras", SHAPES / "shapes.keras"]
by_model = pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
by_split = pytest.mark.parametrize("split", ROWS)

Array = npt.NDArray[np.generic]


def arrays_of(folder: Path, split: str) -> dict[str, Array]:
    with np.load(folder / f"{split}.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def config_of(model: Path) -> dict[str, Any]:
    with zipfile.ZipFile(model) as archive:
        config: dict[str, Any] = json.loads(archive.read("config.json"))
    return config


def layers_of(model: Path) -> dict[str, dict[str, Any]]:
    return {layer["config"]["name"]: layer for layer in config_of(model)["config"]["layers"]}


def weights_of(model: Path) -> dict[str, Array]:
    """HDF5 path -> array, for every array in the model's weights file."""
    h5py = pytest.importorskip("h5py")
    with zipfile.ZipFile(model) as archive:
        raw = io.BytesIO(archive.read("model.weights.h5"))
    arrays: dict[str, Array] = {}
    with h5py.File(raw, "r") as file:
        file.visititems(lambda path, item: arrays.update({path: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


@by_split
def test_fashion_images_are_raw_bytes(split: str) -> None:
    """Fashion subsets hold uint8 images [n, 28, 28, 1] over the whole range 0 to 255 and uint8 labels [n]."""
    arrays = arrays_of(FASHION, split)
    assert sorted(arrays) == ["x", "y"]
    assert [arrays[name].dtype.name for name in "xy"] == ["uint8", "uint8"]
    assert [arrays[name].shape for name in "xy"] == [(ROWS[split], 28, 28, 1), (ROWS[split],)]
    assert [arrays["x"].min(), arrays["x"].max()] == [0, 255]


@by_split
def test_fashion_classes_are_equally_frequent(split: str) -> None:
    """Each of the ten classes has a tenth of the rows of every Fashion subset."""
    labels, counts = np.unique(arrays_of(FASHION, split)["y"], return_counts=True)
    assert labels.tolist() == list(range(10))
    assert counts.tolist() == [ROWS[split] // 10] * 10


def test_fashion_rows_are_shuffled() -> None:
    """The first hundred calibration images of the Fashion training subset show every class."""
    assert len(np.unique(arrays_of(FASHION, "train")["y"][:100])) == 10


@by_split
def test_flights_arrays_are_named_after_the_inputs(split: str) -> None:
    """Flight subsets hold one int32 [n, 1] code per categorical input, float32 [n, 15] and uint8 labels [n]."""
    rows = ROWS[split]
    assert {name: (array.dtype.name, array.shape) for name, array in arrays_of(FLIGHTS, split).items()} == {
        "carrier": ("int32", (rows, 1)),
        "origin": ("int32", (rows, 1)),
        "dest": ("int32", (rows, 1)),
        "dense": ("float32", (rows, 15)),
        "y": ("uint8", (rows,)),
    }


@by_split
def test_flights_are_finite_and_late_at_a_natural_share(split: str) -> None:
    """No feature is missing, labels are 0 or 1, and 20 to 30 % of the flights are late."""
    arrays = arrays_of(FLIGHTS, split)
    assert np.isfinite(arrays["dense"].astype(np.float64)).all()
    assert set(arrays["y"].tolist()) == {0, 1}
    assert 0.20 < np.mean(arrays["y"] == 1) < 0.30


@by_split
@pytest.mark.parametrize("name", ["carrier", "origin", "dest"])
def test_flight_codes_stay_inside_their_embedding(split: str, name: str) -> None:
    """Every code addresses a row of its embedding, which has one row per known code and row 0 for unknown ones."""
    codes = arrays_of(FLIGHTS, split)[name].astype(np.int64)
    vocabulary = json.loads((FLIGHTS / "vocabulary.json").read_text(encoding="utf-8"))[name]
    size = layers_of(FLIGHTS / "flights.keras")[f"{name}_embedding"]["config"]["input_dim"]
    assert sorted(vocabulary.values()) == list(range(1, size))
    assert codes.min() >= 0
    assert codes.max() < size


def test_flights_vocabulary_names_the_airports_of_new_york() -> None:
    """The three origins have fixed codes, and the fifteen columns of `dense` are named with units."""
    vocabulary = json.loads((FLIGHTS / "vocabulary.json").read_text(encoding="utf-8"))
    assert vocabulary["origin"] == {"EWR": 1, "JFK": 2, "LGA": 3}
    assert len(vocabulary["dense"]) == 15
    assert all(sorted(column) == ["name", "unit"] and column["unit"] for column in vocabulary["dense"])


def test_flights_columns_keep_to_their_units() -> None:
    """Month, day of week, clock hours and the shortest and longest distance lie where the units put them."""
    columns = json.loads((FLIGHTS / "vocabulary.json").read_text(encoding="utf-8"))["dense"]
    dense = arrays_of(FLIGHTS, "train")["dense"].astype(np.float64)
    found = {column["name"]: dense[:, index] for index, column in enumerate(columns)}
    assert set(found["month"]) == set(range(1, 13))
    assert set(found["day_of_week"]) == set(range(1, 8))
    assert 5 <= found["departure"].min() < found["departure"].max() < 24
    # Newark to Philadelphia is 80 miles, Kennedy to Honolulu 4,983.
    assert found["distance"].min() >= 0.80
    assert found["distance"].max() == pytest.approx(49.83)


def test_flights_standardization_matches_the_rows() -> None:
    """The constants in the model centre the training subset: mean near 0, deviation near 1 in each column."""
    standardize = layers_of(FLIGHTS / "flights.keras")["standardize"]
    assert standardize["class_name"] == "Normalization"
    mean, variance = (np.asarray(standardize["config"][key]).reshape(-1) for key in ("mean", "variance"))
    scaled = (arrays_of(FLIGHTS, "train")["dense"].astype(np.float64) - mean) / np.sqrt(variance)
    assert np.abs(scaled.mean(axis=0)).max() < 0.05
    assert np.abs(scaled.std(axis=0) - 1).max() < 0.05


@pytest.mark.parametrize(("split", "rows"), [("train", 2_400), ("validation", 400), ("test", 1_000)])
def test_shapes_are_where_they_are_said_to_be(split: str, rows: int) -> None:
    """Pictures of 16 levels, the four kinds equally often; the mask fills its frame, and the frame holds the mask."""
    arrays = arrays_of(SHAPES, split)
    assert {name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()} == {
        "image": ("uint8", (32, 32, 1)),
        "kind": ("uint8", ()),
        "box": ("float32", (4,)),
        "mask": ("uint8", (16, 16)),
    }
    assert {len(array) for array in arrays.values()} == {rows}
    assert len(np.unique(arrays["image"])) == 16
    assert abs(np.bincount(arrays["kind"].astype(np.int64)) - rows / 4).max() < 0.1 * rows
    for box, mask in zip(arrays["box"].astype(np.float64) * 16, arrays["mask"], strict=True):
        down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        marks = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1])
        assert abs(box - marks).max() <= 2


@by_model
def test_models_are_plain_archives(model: Path) -> None:
    """A sample model is a Keras 3 archive of three members without optimizer slots; shapes says how it is trained."""
    with zipfile.ZipFile(model) as archive:
        assert {"config.json", "metadata.json", "model.weights.h5"} == set(archive.namelist())
    assert bool(config_of(model).get("compile_config")) is (model.stem == "shapes")
    weights = weights_of(model)
    assert weights
    assert not [path for path in weights if path.startswith("optimizer") and weights[path].ndim]


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (MODELS[0], {"image": ("float32", [None, 28, 28, 1])}),
        (
            MODELS[1],
            {
                "carrier": ("int32", [None, 1]),
                "origin": ("int32", [None, 1]),
                "dest": ("int32", [None, 1]),
                "dense": ("float32", [None, 15]),
            },
        ),
    ],
    ids=["fashion", "flights"],
)
def test_models_take_the_documented_inputs(model: Path, inputs: dict[str, tuple[str, list[int | None]]]) -> None:
    """Input names, dtypes and shapes are those of the README files."""
    found = {
        name: (layer["config"]["dtype"], layer["config"]["batch_shape"])
        for name, layer in layers_of(model).items()
        if layer["class_name"] == "InputLayer"
    }
    assert found == inputs


@pytest.mark.parametrize(
    ("model", "output", "units", "activation"),
    [(MODELS[0], "probs", 10, "softmax"), (MODELS[1], "late", 1, "sigmoid")],
    ids=["fashion", "flights"],
)
def test_models_end_in_probabilities(model: Path, output: str, units: int, activation: str) -> None:
    """The last layer is a Dense one with the documented name, width and activation."""
    last = layers_of(model)[output]
    assert last["class_name"] == "Dense"
    assert (last["config"]["units"], last["config"]["activation"]) == (units, activation)


@by_model
def test_models_use_layers_without_custom_code(model: Path) -> None:
    """Every layer comes from Keras itself, and none carries a Python function (Lambda)."""
    layers = layers_of(model).values()
    assert {layer["module"] for layer in layers} <= {"keras.layers"}
    assert not [layer for layer in layers if layer["class_name"] == "Lambda" or layer.get("registered_name")]


@pytest.mark.parametrize(
    ("model", "least", "most"),
    [(MODELS[0], 50_000, 300_000), (MODELS[1], 60_000, 120_000)],
    ids=["fashion", "flights"],
)
def test_parameter_counts_leave_something_to_prune(model: Path, least: int, most: int) -> None:
    """Fashion has at most 300,000 parameters, flights 60,000 to 120,000, and every one is a finite float32."""
    weights = list(weights_of(model).values())
    assert {array.dtype.name for array in weights} == {"float32"}
    assert all(np.isfinite(array.astype(np.float64)).all() for array in weights)
    assert least <= sum(array.size for array in weights) <= most


def test_flights_parameter_count_is_the_one_of_the_recipe() -> None:
    """17·16 + 4·4 + 105·32 for the embeddings, 67·320 + 320·160 + 160·80 + 80 and the biases for the rest."""
    expected = 17 * 16 + 4 * 4 + 105 * 32 + 67 * 320 + 320 + 320 * 160 + 160 + 160 * 80 + 80 + 80 + 1
    assert sum(array.size for array in weights_of(FLIGHTS / "flights.keras").values()) == expected


def test_committed_sizes_stay_small() -> None:
    """Fashion .npz files take at most 11 MB and its model 2 MB; everything of flights takes at most 1.5 MB."""
    assert sum(path.stat().st_size for path in FASHION.glob("*.npz")) <= 11_000_000
    assert MODELS[0].stat().st_size <= 2_000_000
    assert sum(path.stat().st_size for path in FLIGHTS.iterdir() if path.is_file()) <= 1_500_000


@pytest.mark.parametrize(
    ("path", "phrases"),
    [
        (FASHION / "LICENSE-DATA", ["Copyright © 2017 Zalando SE", "Permission is hereby granted", "AS IS"]),
        (FASHION / "README.md", ["`image`", "`probs`", "MIT", "arXiv:1708.07747"]),
        (FLIGHTS / "README.md", ["`carrier`", "`dense`", "`late`", "CC0", "Bureau of Transportation Statistics"]),
    ],
    ids=["fashion licence", "fashion readme", "flights readme"],
)
def test_origin_and_licence_are_stated(path: Path, phrases: list[str]) -> None:
    """The files beside the data name the inputs, the source and its licence."""
    text = path.read_text(encoding="utf-8")
    assert [phrase for phrase in phrases if phrase not in text] == []

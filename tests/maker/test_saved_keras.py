"""SavedModels of Keras 2: rebuilt with their layers, or said to be a computation, and why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.model_files import load_convertible, load_model
from edgeprune.maker.keras.models import output_names, predict
from edgeprune.maker.keras.saved_keras import METADATA
from edgeprune.maker.keras.saved_models import SavedModel, open_saved_model

FOLDER = TESTS / "files" / "keras2_saved"  # written by make_saved_keras.py
IMAGES = {"image": np.random.default_rng(2).normal(size=(5, 8, 8, 1)).astype(np.float32)}


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[[bytes, bytes], Path]:
    """The folder with other bytes in its metadata."""

    def written(before: bytes, after: bytes) -> Path:
        folder = tmp_path / "saved"
        shutil.copytree(FOLDER, folder)
        content = (folder / METADATA).read_bytes()
        assert before in content
        (folder / METADATA).write_bytes(content.replace(before, after))
        return folder

    return written


def test_a_model_is_rebuilt(keras: Any) -> None:
    """It has the layers of the model that was saved, and computes what the SavedModel computes."""
    model = load_model(FOLDER)
    assert isinstance(model, keras.Model)
    assert [layer.name for layer in model.layers] == ["image", "conv", "norm", "pool", "scores"]
    expected = predict(open_saved_model(FOLDER), IMAGES)["scores"]
    np.testing.assert_allclose(predict(model, IMAGES)["scores"], expected, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.01
    converted = load_convertible(FOLDER)
    assert not isinstance(converted, SavedModel)
    assert output_names(converted) == ["scores"]


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (b'"softmax"', b'"sigmoid"', "output 'scores' of its signature is not what its layers compute"),
        (b'"filters": 4', b'"filters": 5', "weights of the shapes"),
        (b'"GlobalAveragePooling2D"', b'"GlobalAveragePooling9D"', "GlobalAveragePooling9D"),
        (b'"layers": [', b'"lawyers": ', "keras_metadata.pb is damaged"),
        (b"_tf_keras_network", b"_tf_keras_metwork", "whose graph is code: rebuild it with the functional API"),
    ],
)
def test_a_model_that_cannot_be_rebuilt(
    spoilt: Callable[[bytes, bytes], Path], before: bytes, after: bytes, word: str
) -> None:
    """Verbs that need layers say why; it can be converted as a computation, and that is said too."""
    folder, notes = spoilt(before, after), []
    with pytest.raises(Unsupported, match=r"holds a computation, not layers.*model\.save\('name\.keras'\)") as refused:
        load_model(folder)
    assert word in str(refused.value)
    assert isinstance(load_convertible(folder, on_note=notes.append), SavedModel)
    assert "taken as a computation without layers" in notes[0]


def test_a_model_without_an_architecture(tmp_path: Path) -> None:
    """That is what Keras 3 exports; nothing is to be said when it is converted."""
    folder, notes = tmp_path / "saved", []
    shutil.copytree(FOLDER, folder)
    (folder / METADATA).unlink()
    with pytest.raises(Unsupported, match="no architecture is stored with it"):
        load_model(folder)
    assert isinstance(load_convertible(folder, on_note=notes.append), SavedModel)
    assert notes == []


@pytest.mark.parametrize("verb", ["prune", "groups", "run"])
def test_verbs_take_it(call: Any, work: Path, recipe: Any, verb: str) -> None:
    """As they take a .keras file."""
    arguments: dict[str, list[object]] = {
        "prune": [FOLDER, "--sparsity", 0.5, "-o", work / "out.keras"],
        "groups": [FOLDER],
        "run": [recipe('[[steps]]\nkind = "prune"\nsparsity = 0.5\n', model=f'model = "{FOLDER}"'), "--dry-run"],
    }
    told = call(verb, *arguments[verb])
    assert told.code == 0, told.err

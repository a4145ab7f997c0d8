"""`edgeprune init`: what it writes passes `run --dry-run` and `check`, and nothing is replaced unasked."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.maker.recipe.first_recipe import metric_for

FILES = TESTS / "files"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two exported files and a bundle, which is the current one."""
    place = tmp_path / "app"
    place.mkdir()
    shutil.copy(FILES / "int8.tflite", place / "a [1].tflite")
    shutil.copytree(FILES / "sparse_int8.mlpackage", place / "B.mlpackage")
    with zipfile.ZipFile(place / "app.apk", "w") as bundle:
        bundle.write(FILES / "float32.tflite", "assets/model.tflite")
    monkeypatch.chdir(place)
    return place


def test_budgets_that_check_holds(call: Any, app: Path) -> None:
    """One for each file, a tenth above today, whatever its name; without TensorFlow."""
    outcome = call("init")
    assert (outcome.code, outcome.err) == (0, "")
    assert "a [1].tflite  exported file" in outcome.out
    assert "app.apk       app bundle" in outcome.out
    assert "edgeprune.toml: 3 budgets: the download of today and a tenth, counted" in outcome.out
    assert "no Keras model was seen" in outcome.out
    outcome = call("check", "--json")
    assert outcome.code == 0
    assert [verdict["passed"] for verdict in json.loads(outcome.out)["verdicts"]] == [True] * 3
    shutil.copy(FILES / "float32.tflite", app / "a [1].tflite")
    assert call("check").code == 1


def test_a_hostile_name_stays_on_its_line(call: Any, app: Path) -> None:
    """Control characters are escaped in what is shown, and the budget still finds the file."""
    (app / "a [1].tflite").rename(app / "a\n\x1b[31m'\".tflite")
    outcome = call("init")
    assert "a\\n\\x1b[31m'\".tflite" in outcome.out
    assert "\x1b" not in outcome.out
    assert call("check", "--format", "json").code == 0


def test_what_is_there_stays(call: Any, app: Path) -> None:
    """Not one byte of it changes without --overwrite; a configuration above the folder is the one in force."""
    (app / "edgeprune.toml").write_text("# mine\n")
    call("init").error(2, "edgeprune.toml stayed as it was", "--overwrite")
    assert (app / "edgeprune.toml").read_text() == "# mine\n"
    assert call("init", "--overwrite").code == 0
    assert call("check").code == 0
    (app / "edgeprune.toml").rename(app.parent / "edgeprune.toml")
    call("init").error(2, "stayed as it was", str(app.parent / "edgeprune.toml"))
    assert not (app / "edgeprune.toml").exists()


def test_nothing_to_see(call: Any, tmp_path: Path) -> None:
    """Exit code 4, with what was looked for; likewise for a folder that is none."""
    (tmp_path / "notes.txt").touch()
    call("init", tmp_path).error(4, "nothing to see", ".keras", ".tflite", "edgeprune init FOLDER")
    call("init", tmp_path / "none").error(4, "cannot be looked into", "No such file")
    call("init", tmp_path / "notes.txt").error(4, "cannot be looked into")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_broken_file_is_named(call: Any, app: Path) -> None:
    """It gets no budget, and the others have theirs."""
    (app / "c.tflite").write_bytes(b"not a model")
    outcome = call("init", "--json")
    facts = json.loads(outcome.out)
    assert facts["written"] == ["edgeprune.toml"]
    assert any("c.tflite: cannot be read, so it has no budget" in line for line in facts["open"])
    assert call("check").code == 0


@pytest.mark.parametrize(
    ("shape", "targets", "metric"),
    [
        ((None, 10), np.array([0, 9, 3]), "accuracy"),
        ((None, 10), np.array([0.0, 9.0, 3.0]), "accuracy"),
        ((None, 16, 16, 2), np.zeros((3, 16, 16), np.uint8), "iou"),
        ((None, 1), np.array([0, 1, 1]), "auc"),
        ((None, 1), np.array([[0], [1], [1]]), "auc"),
        ((None, 5), np.eye(5), "binary_accuracy"),
        ((None, 1), np.array([0.5, 1.25, -3.0]), "mae"),
        ((None, 4), np.ones((3, 4)) / 3, "mae"),
        ((None, 3), np.array([0, 7, 1]), "mae"),
    ],
)
def test_metrics(shape: tuple[int | None, ...], targets: np.ndarray, metric: str) -> None:
    """By the output's shape and the targets: classes, labels, numbers."""
    assert metric_for(shape, targets) == metric


@pytest.mark.slow
class TestRecipe:
    """Of a folder with a Keras model and samples."""

    def test_a_recipe_that_runs_dry(self, call: Any, work: Path) -> None:
        """All that was seen is in it, what was not is set aside, and `run --dry-run` takes it as it stands."""
        outcome = call("init", work, "-q")
        assert (outcome.code, outcome.err) == (0, "")
        text = (work / "recipe.toml").read_text()
        for line in ('model = "model.keras"', 'metric = "accuracy"', 'test = "test.npz"', "set_aside = 0.1"):
            assert f"\n{line}\n" in text
        assert "validation: a tenth of train.npz is set aside" in outcome.out
        assert "run the recipe, then edgeprune init again" in outcome.out
        assert f"edgeprune run {work / 'recipe.toml'} -o {work / 'out'}" in outcome.out
        dry = call("run", work / "recipe.toml", "--dry-run")
        assert (dry.code, dry.err) == (0, "")
        assert dry.out.strip() in "\n".join(line.strip() for line in outcome.out.splitlines())
        call("init", work, "-q").error(2, "recipe.toml stayed as it was")
        assert (work / "recipe.toml").read_text() == text

    def test_formats_in_use(self, call: Any, work: Path) -> None:
        """An app with .tflite files gets no Core ML package; without samples to train on nothing is pruned."""
        shutil.copy(FILES / "int8.tflite", work / "m.tflite")
        (work / "train.npz").unlink()
        assert call("init", work, "-q").code == 0
        text = (work / "recipe.toml").read_text()
        assert 'format = "tflite"\nprecision = "float16"' in text
        assert "coreml" not in text
        assert "[[steps]]" not in text
        assert call("run", work / "recipe.toml", "--dry-run").code == 0

    def test_no_samples(self, call: Any, work: Path) -> None:
        """Nothing could be measured: one line that says what to put there."""
        for name in ("train.npz", "test.npz"):
            (work / name).unlink()
        call("init", work, "-q").error(2, "no samples were seen", "train.npz", "edgeprune init again")

    def test_samples_that_do_not_fit(self, call: Any, work: Path) -> None:
        """The error of the samples, and no recipe; budgets are written all the same where there is a file for them."""
        np.savez(work / "train.npz", x=np.zeros((4, 3), np.float32), y=np.zeros(4))
        call("init", work, "-q").error(4, "train.npz")
        assert not (work / "recipe.toml").exists()
        shutil.copy(FILES / "int8.tflite", work / "m.tflite")
        outcome = call("init", work, "-q")
        assert outcome.code == 0
        assert "no recipe was written: " in outcome.out
        assert (work / "edgeprune.toml").exists()
        assert not (work / "recipe.toml").exists()

    def test_a_model_without_kernels_to_prune(self, call: Any, keras: Any, tmp_path: Path) -> None:
        """Quantized only, instead of refused."""
        x = keras.Input((5, 5, 3), name="image")
        h = keras.layers.GlobalAveragePooling2D()(keras.layers.DepthwiseConv2D(3)(x))
        keras.Model(x, keras.layers.Softmax()(h)).save(tmp_path / "m.keras")
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "data.npz", x=rng.normal(size=(60, 5, 5, 3)), y=rng.integers(0, 3, 60))
        outcome = call("init", tmp_path, "-q")
        assert (outcome.code, outcome.err) == (0, "")
        text = (tmp_path / "recipe.toml").read_text()
        assert 'kind = "prune"' not in text
        assert 'kind = "quantize"' in text
        assert call("run", tmp_path / "recipe.toml", "--dry-run").code == 0

"""Bad input: one clear line on stderr, the right exit code, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")

INT8 = ("m.keras", "--to", "tflite", "--precision", "int8", "--calibration", "t.npz", "-o", "o.tflite")
PRUNE = '[[steps]]\nkind = "prune"\nsparsity = 0.5\n'
FLOAT = '[[exports]]\nformat = "tflite"\nprecision = "float32"\n'


@pytest.fixture(autouse=True)
def may_stay(tmp_path: Path) -> Iterator[set[str]]:
    """After each test no file may lie there whose name begins with a dot or "out", but for those added to this set."""
    allowed: set[str] = set()
    yield allowed
    left = {p.name for p in tmp_path.iterdir() if p.name.startswith((".", "out"))}
    assert left <= allowed


def prune(call: Any, folder: Path, *extra: object, model: str = "model.keras") -> Any:
    return call("prune", folder / model, "--sparsity", 0.5, "-o", folder / "out.keras", *extra)


def run(call: Any, recipe: Path, *extra: object) -> Any:
    return call("run", recipe, "-o", recipe.parent / "out", "--quiet", *extra)


class TestModelFiles:
    """What can be wrong with the model file."""

    def test_missing(self, call: Any, tmp_path: Path) -> None:
        """A missing model is exit code 4."""
        prune(call, tmp_path).error(4, "model.keras does not exist")

    def test_folder(self, call: Any, tmp_path: Path) -> None:
        """A folder is not a model file."""
        (tmp_path / "model.keras").mkdir()
        prune(call, tmp_path).error(4, "is a folder; name a Keras model")

    def test_saved_model_folder(self, call: Any, tmp_path: Path) -> None:
        """A SavedModel folder that is damaged is told as one."""
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
        prune(call, tmp_path, model="saved").error(4, "saved_model.pb is damaged")

    @pytest.mark.parametrize(("content", "word"), [(b"hello\n", "neither a .keras archive nor HDF5"), (b"", "empty")])
    def test_text_file(self, call: Any, tmp_path: Path, content: bytes, word: str) -> None:
        """A text or empty file named .keras is told by its first bytes."""
        (tmp_path / "model.keras").write_bytes(content)
        prune(call, tmp_path).error(4, word)

    def test_lfs_pointer(self, call: Any, tmp_path: Path) -> None:
        """A git-lfs pointer is named with the command that fetches the file."""
        (tmp_path / "model.keras").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        prune(call, tmp_path).error(4, "git lfs pull")

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_truncated_keras(self, call: Any, work: Path, share: float) -> None:
        """A .keras file cut short is damaged."""
        content = (work / "model.keras").read_bytes()
        (work / "model.keras").write_bytes(content[: int(len(content) * share)])
        prune(call, work).error(4, "damaged or cut short")

    def test_flipped_bytes(self, call: Any, work: Path) -> None:
        """Damage inside the weights is found by the archive's checksum."""
        with zipfile.ZipFile(work / "model.keras") as archive:
            offset = archive.getinfo("model.weights.h5").header_offset + 2000
        content = bytearray((work / "model.keras").read_bytes())
        content[offset] ^= 0xFF
        (work / "model.keras").write_bytes(content)
        prune(call, work).error(4, "damaged or cut short (model.weights.h5: its checksum (CRC-32) is wrong)")

    def test_truncated_h5(self, call: Any, work: Path, image_model: Any) -> None:
        """An .h5 file cut short is damaged."""
        image_model.save(work / "model.h5")
        content = (work / "model.h5").read_bytes()
        (work / "model.h5").write_bytes(content[: len(content) // 2])
        prune(call, work, model="model.h5").error(4, "damaged or cut short HDF5")

    @pytest.mark.parametrize(("entry", "word"), [("../evil", "leads out of the archive"), ("x", "without config.json")])
    def test_strange_archive(self, call: Any, tmp_path: Path, entry: str, word: str) -> None:
        """A zip archive that is no model, or that would write elsewhere, is refused."""
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
            archive.writestr(entry, "x")
        prune(call, tmp_path).error(4, word)

    def test_zip_bomb(self, call: Any, tmp_path: Path) -> None:
        """An archive that expands more than a thousandfold is refused unopened."""
        with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", bytes(30_000_000))
        prune(call, tmp_path).error(4, "zip bomb")

    @pytest.mark.parametrize("config", ["[1]", "{", '{"class_name": "Functional", "config": 3}', "\x00"])
    def test_nonsense_config(self, call: Any, tmp_path: Path, config: str) -> None:
        """An archive whose config.json is nonsense is unreadable, not a crash."""
        with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", b"x")
        prune(call, tmp_path).error(4, "model.keras: ")

    def test_keras_2_with_unreadable_key(self, call: Any, tmp_path: Path) -> None:
        """A Keras 2 .h5 that Keras 3 cannot read is exit code 3 and names version, reason and way out."""
        dense = {"name": "d", "units": 2, "batch_input_shape": [None, 3], "secret_option": 1}
        config = {"name": "m", "layers": [{"class_name": "Dense", "config": dense}]}
        write_h5(tmp_path / "old.h5", {"class_name": "Sequential", "config": config})
        prune(call, tmp_path, model="old.h5").error(3, "Keras 2.9.0", "secret_option", "tf_keras")

    @pytest.mark.parametrize("config", [7, "{", "[1]"])
    def test_h5_without_a_model(self, call: Any, tmp_path: Path, config: Any) -> None:
        """An .h5 whose architecture is nonsense is not a model."""
        import h5py

        with h5py.File(tmp_path / "old.h5", "w") as file:
            file.attrs["model_config"] = config
        assert prune(call, tmp_path, model="old.h5").code in (3, 4)

    def test_h5_with_weights_only(self, call: Any, tmp_path: Path) -> None:
        """An .h5 that holds weights alone is told apart."""
        import h5py

        with h5py.File(tmp_path / "old.h5", "w") as file:
            file["kernel"] = np.zeros(3)
        prune(call, tmp_path, model="old.h5").error(4, "weights but no architecture")

    def test_custom_layer(self, call: Any, tmp_path: Path, keras: Any) -> None:
        """A layer that is not Keras's own is exit code 3 and named."""

        class Twice(keras.layers.Layer):  # type: ignore[misc]
            def call(self, x: Any) -> Any:
                return 2 * x

        x = keras.Input((3,))
        keras.Model(x, Twice()(x)).save(tmp_path / "model.keras")
        prune(call, tmp_path).error(3, "custom layer 'Twice'", "--custom FILE.py")

    def test_nan_weights(self, call: Any, work: Path, keras: Any) -> None:
        """NaN in a weight is refused with the layer's name."""
        model = keras.models.load_model(work / "model.keras")
        model.get_layer("conv").bias.assign(np.full(8, np.nan))
        model.save(work / "model.keras")
        prune(call, work).error(4, "layer 'conv' holds NaN")


def write_h5(path: Path, config: dict[str, Any]) -> None:
    """A file as Keras 2.9 wrote it, as far as it is read before its architecture fails."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.9.0"
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = json.dumps(config)
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = np.array([b"d"])
        weights.attrs["backend"] = "tensorflow"
        weights.attrs["keras_version"] = "2.9.0"


class TestLambda:
    """Code inside a model file."""

    @pytest.fixture
    def file(self, keras: Any, tmp_path: Path) -> Path:
        """A model with a Lambda layer."""
        x = keras.Input((3,), name="x")
        keras.Model(x, keras.layers.Dense(2)(keras.layers.Lambda(lambda v: v * 2, name="code")(x))).save(
            tmp_path / "model.keras"
        )
        return tmp_path

    def test_refused(self, call: Any, file: Path) -> None:
        """A Lambda layer is refused and the option that allows it is named."""
        prune(call, file).error(3, "layer 'code' is a Lambda", "--trust-code")

    def test_trusted(self, call: Any, may_stay: set[str], file: Path) -> None:
        """With --trust-code the model is pruned and saved."""
        may_stay.add("out.keras")
        outcome = prune(call, file, "--trust-code")
        assert (outcome.code, outcome.err) == (0, "")
        assert (file / "out.keras").exists()

    def test_hidden_in_a_nested_model(self, call: Any, keras: Any, tmp_path: Path) -> None:
        """A Lambda inside an inner model is found as well."""
        x = keras.Input((3,))
        inner = keras.Model(x, keras.layers.Lambda(lambda v: v, name="deep")(x))
        outer = keras.Input((3,))
        keras.Model(outer, keras.layers.Dense(2)(inner(outer))).save(tmp_path / "model.keras")
        prune(call, tmp_path).error(3, "'deep'")


class TestData:
    """What can be wrong with the samples."""

    def score(self, call: Any, work: Path, **arrays: Any) -> Any:
        np.savez(work / "bad.npz", **arrays)
        return prune(call, work, "--data", work / "bad.npz")

    def test_missing(self, call: Any, work: Path) -> None:
        """A missing data file is exit code 4."""
        prune(call, work, "--data", work / "no.npz").error(4, "no.npz does not exist")

    def test_folder(self, call: Any, work: Path) -> None:
        """A folder holds pictures, or it is not a data file."""
        prune(call, work, "--data", work).error(4, "no pictures")

    @pytest.mark.parametrize(
        ("content", "words"),
        [(b"x,y\n1,2\n", "not an .npz file"), (b"", "is empty"), (b"PK\x03\x04 cut short", "not an .npz file")],
    )
    def test_other_file(self, call: Any, work: Path, content: bytes, words: str) -> None:
        """A file that is no .npz is refused."""
        (work / "data.npz").write_bytes(content)
        prune(call, work, "--data", work / "data.npz").error(4, words)

    @pytest.mark.parametrize("position", [400, 3000, 9000])
    def test_damaged(self, call: Any, work: Path, position: int) -> None:
        """Damage inside the compressed arrays is an unreadable file."""
        content = bytearray((work / "test.npz").read_bytes())
        content[position : position + 40] = bytes(40)
        (work / "test.npz").write_bytes(content)
        prune(call, work, "--data", work / "test.npz").error(4, "test.npz")

    def test_empty(self, call: Any, work: Path) -> None:
        """No samples is an error, not a division by zero."""
        self.score(call, work, x=np.zeros((0, 8, 8, 1), np.float32), y=np.zeros(0, int)).error(4, "empty")

    def test_wrong_shape(self, call: Any, work: Path) -> None:
        """Images of another size are told with both shapes."""
        outcome = self.score(call, work, x=np.zeros((5, 9, 9, 1), np.float32), y=np.zeros(5, int))
        outcome.error(4, "(9, 9, 1)", "(8, 8, 1)")

    def test_channels_first(self, call: Any, work: Path) -> None:
        """Channels in front are guessed from the sizes."""
        outcome = self.score(call, work, x=np.zeros((5, 1, 8, 8), np.float32), y=np.zeros(5, int))
        outcome.error(4, "channels go last")

    def test_no_channel_axis(self, call: Any, work: Path) -> None:
        """Grey images without their channel axis: the fix is in the message."""
        self.score(call, work, x=np.zeros((5, 8, 8), np.float32), y=np.zeros(5, int)).error(4, "x[..., None]")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nonfinite(self, call: Any, work: Path, value: float) -> None:
        """NaN and infinity in the samples are refused."""
        x = np.zeros((5, 8, 8, 1), np.float32)
        x[3, 2, 1, 0] = value
        self.score(call, work, x=x, y=np.zeros(5, int)).error(4, "'x'", "NaN or infinite")

    @pytest.mark.parametrize("label", [3, -1])
    def test_labels_out_of_range(self, call: Any, work: Path, label: int) -> None:
        """A class index that the model has no output for is refused."""
        y = np.array([0, 1, label])
        self.score(call, work, x=np.zeros((3, 8, 8, 1), np.float32), y=y).error(4, "the model tells 3 classes apart")

    @pytest.mark.parametrize(
        "y", [np.ones((3, 3)), np.array(["a", "b", "c"]), np.array(1), np.zeros((3, 0)), np.array([0, 0.5, 1])]
    )
    def test_other_targets(self, call: Any, work: Path, y: np.ndarray) -> None:
        """Targets that are no class indexes are refused by name."""
        self.score(call, work, x=np.zeros((3, 8, 8, 1), np.float32), y=y).error(4, "'y'")

    def test_no_targets(self, call: Any, work: Path) -> None:
        """A file without y cannot be scored."""
        self.score(call, work, x=np.zeros((3, 8, 8, 1), np.float32)).error(4, "no array 'y'", "it has: x")

    def test_different_lengths(self, call: Any, work: Path) -> None:
        """Arrays of different length are told with their lengths."""
        outcome = self.score(call, work, x=np.zeros((3, 8, 8, 1), np.float32), y=np.zeros(4, int))
        outcome.error(4, "image 3, y 4")

    def test_other_names(self, call: Any, work: Path) -> None:
        """Without the input's array, the arrays of the file are listed."""
        self.score(call, work, pictures=np.zeros(3), y=np.zeros(3, int)).error(4, "'image' (or 'x')", "pictures, y")

    def test_text_samples(self, call: Any, work: Path) -> None:
        """Samples that are no numbers are refused."""
        x = np.full((3, 8, 8, 1), "a")
        self.score(call, work, x=x, y=np.zeros(3, int)).error(4, "not numbers")

    def test_pickle_is_not_opened(self, call: Any, work: Path) -> None:
        """A pickled object in the .npz is refused and its code never runs."""

        class Trap:
            def __reduce__(self) -> tuple[Any, tuple[str, str]]:
                return Path.write_text, (work / "sprung", "x")  # type: ignore[return-value]

        np.savez(work / "bad.npz", x=np.array([Trap()], dtype=object), y=np.zeros(1, int))
        prune(call, work, "--data", work / "bad.npz").error(4, "Python objects")
        assert not (work / "sprung").exists()

    def test_auc_of_many_outputs(self, call: Any, work: Path) -> None:
        """AUC of a model with three scores has no meaning."""
        prune(call, work, "--data", work / "test.npz", "--metric", "auc").error(4, "auc")

    def test_wrong_target_size(self, call: Any, work: Path) -> None:
        """A regression metric needs targets of the output's size."""
        prune(call, work, "--data", work / "test.npz", "--metric", "mse").error(4, "targets of 1 values")


RECIPES = [
    ('[[steps]]\nkind = "prune"\nsparsitty = 0.5\n', 2, "did you mean 'sparsity'?"),
    ('[[steps]]\nkind = "prune"\nsparsity = 1.2\n', 2, "below 1; got 1.2"),
    ('[[steps]]\nkind = "prune"\nsparsity = 80\n', 2, "did you mean 0.8?"),
    ('[[steps]]\nkind = "prune"\nsparsity = nan\n', 2, "sparsity"),
    ('[[steps]]\nkind = "prune"\nsparsity = "0.8"\n', 2, "must be a number"),
    ('[[steps]]\nkind = "prune"\n', 2, "lacks 'sparsity'"),
    ('[[steps]]\nkind = "prnue"\nsparsity = 0.5\n', 2, "did you mean 'prune'?"),
    ('[[steps]]\nkind = "finetune"\nepochs = 0\n', 2, "epochs is at least 1"),
    ('[[steps]]\nkind = "finetune"\nepochs = 1\noptimizer = "adamax"\n', 2, "unknown optimizer"),
    ('[[steps]]\nkind = "finetune"\nepochs = 1\nlearning_rate = nan\n', 2, "learning_rate"),
    ('[[steps]]\nkind = "finetune"\nepochs = 1\nbatch_size = 0\n', 2, "batch_size"),
    ('[[steps]]\nkind = "finetune"\nepochs = 1\npatience = 0\n', 2, "patience"),
    ('[[steps]]\nkind = "prune"\nsparsity = 0.5\nepochs = 1\npower = 0\n', 2, "power above 0"),
    (PRUNE + PRUNE, 2, "two stages are called 'pruned'"),
    (PRUNE + 'name = "a/b"\n', 2, "cannot be part of a file name"),
    (PRUNE + 'name = "a b"\n' + PRUNE + 'name = "a-b"\n', 2, "the same file name"),
    (PRUNE + 'include = ["nothing*"]\n', 2, "matches no layer"),
    (PRUNE + 'exclude = ["*"]\n', 2, "nothing to prune"),
    ("", 2, "nothing to do"),
    ('[[steps]]\nkind = "quantize"\n' + PRUNE, 2, "'quantize' or 'qat' comes once and last"),
    ('[[exports]]\nformat = "tflite"\nprecision = "int8"\n', 2, 'needs a step with kind = "quantize"'),
    ('[[exports]]\nformat = "tflite"\nprecision = "int16x8"\n', 2, 'kind = "quantize" and precision = "int16x8"'),
    ('[[steps]]\nkind = "quantize"\nprecision = "int16"\n', 2, "precision is int8 or int16x8; got 'int16'"),
    (
        '[[steps]]\nkind = "quantize"\nio_type = "int16"\n',
        2,
        "io_type of int8 is float32 or int8 or uint8; got 'int16'",
    ),
    ('[[steps]]\nkind = "quantize"\nscales = "slimm"\n', 2, "did you mean 'slim'?"),
    ('[[steps]]\nkind = "quantize"\nspend = "2"\n', 2, "'2' is not a percentage"),
    ('[[steps]]\nkind = "quantize"\ndownload_target = "2x"\n', 2, "download_target is such as '0.09x'"),
    ('[[exports]]\nformat = "tflite"\nprecision = "sparse"\n', 2, "tflite has no precision 'sparse'"),
    ('[[exports]]\nformat = "coreml"\nprecision = "int8"\ndeployment_target = "iOS15"\n', 2, "iOS 16 or newer"),
    ('[[exports]]\nformat = "coreml"\nprecision = "float16"\ndeployment_target = "iOS99"\n', 2, "iOS99"),
    ('[[exports]]\nformat = "mlir"\nprecision = "float32"\n', 2, "[exports 1] unknown format 'mlir'"),
    ('[[exports]]\nformat = "onnx"\nprecision = "float32"\nopset = 9\n', 2, "--opset is a number from 13 to 18"),
    ('[[exports]]\nformat = "keras"\nprecision = "float32"\n', 2, "unknown export format 'keras'"),
    (FLOAT + FLOAT, 2, "exported twice"),
    (FLOAT + '[budget]\ndownload = "350"\n', 2, "'350' is not a size"),
    (FLOAT + "[budget]\n", 2, "sets no limit"),
    (PRUNE + '[budget]\ndownload = "350 kB"\n', 2, "there are no [[exports]]"),
    ("steps = 5\n", 2, "unknown key 'steps' in [latency]"),
    ("this is not TOML", 2, "not valid TOML"),
]


class TestRecipes:
    """What can be wrong with a recipe: known before any training, with or without --dry-run."""

    @pytest.mark.parametrize(("text", "code", "part"), RECIPES)
    def test_bad_recipe(self, call: Any, recipe: Any, text: str, code: int, part: str) -> None:
        """A bad recipe is one line that names the file and the mistake."""
        path = recipe(text)
        run(call, path).error(code, f"{path}", part)
        call("run", path, "--dry-run").error(code, part)

    @pytest.mark.parametrize(
        ("replaced", "code", "part"),
        [
            ({"seed": "seed = -1"}, 2, "seed"),
            ({"metric": 'metric = "acuracy"'}, 2, "did you mean 'accuracy'?"),
            ({"train": ""}, 2, "set train in [data]"),
            ({"train": "scale = nan"}, 2, "finite"),
            ({"model": ""}, 2, "'model' is missing"),
            ({"model": 'model = "no.keras"'}, 4, "no.keras does not exist"),
            ({"test": 'test = "no.npz"'}, 4, "no.npz does not exist"),
            ({"train": 'train = "model.keras"'}, 4, "no array 'image'"),
            ({"measure": "measure = 1"}, 2, "must be true or false"),
        ],
    )
    def test_bad_head(self, call: Any, recipe: Any, replaced: dict[str, str], code: int, part: str) -> None:
        """Mistakes at the top of a recipe, and files that it names."""
        path = recipe('[[steps]]\nkind = "finetune"\nepochs = 1\n', **replaced)
        run(call, path).error(code, part)

    def test_ranges_need_training_data(self, call: Any, recipe: Any) -> None:
        """An export whose scales are learnt has something to learn them from."""
        export = '[[exports]]\nformat = "coreml"\nprecision = "w8a8"\ndeployment_target = "iOS17"\n'
        run(call, recipe(export, train="")).error(2, "set train in [data]")

    def test_missing(self, call: Any, tmp_path: Path) -> None:
        """A missing recipe is exit code 4."""
        run(call, tmp_path / "recipe.toml").error(4, "does not exist")

    def test_folder(self, call: Any, tmp_path: Path) -> None:
        """A folder in place of a recipe."""
        (tmp_path / "demo").mkdir()
        call("run", tmp_path / "demo", "-o", tmp_path / "out").error(4, "demo is a folder; name a TOML file")

    def test_binary(self, call: Any, work: Path) -> None:
        """A model file in place of a recipe is not a text file."""
        call("run", work / "model.keras", "-o", work / "out").error(4, "not a text file")

    def test_no_output(self, call: Any, recipe: Any) -> None:
        """A run needs an output folder, or --dry-run."""
        call("run", recipe(PRUNE)).error(2, "-o FOLDER", "--dry-run")


class TestOutputs:
    """Where a result cannot go."""

    def test_folder_exists(self, call: Any, may_stay: set[str], recipe: Any, work: Path) -> None:
        """An output folder that exists is left alone."""
        may_stay.add("out")
        (work / "out").mkdir()
        run(call, recipe(PRUNE)).error(2, "exists already", "--overwrite")
        assert list((work / "out").iterdir()) == []

    def test_folder_of_somebody_else(self, call: Any, may_stay: set[str], recipe: Any, work: Path) -> None:
        """--overwrite does not replace a folder that no run has made."""
        may_stay.add("out")
        (work / "out").mkdir()
        (work / "out" / "thesis.txt").write_text("years of work")
        run(call, recipe(PRUNE), "--overwrite").error(2, "not the output of an earlier run")
        assert (work / "out" / "thesis.txt").read_text() == "years of work"

    def test_file_in_place_of_folder(self, call: Any, may_stay: set[str], recipe: Any, work: Path) -> None:
        """A file is never replaced by a folder."""
        may_stay.add("out")
        (work / "out").write_text("x")
        run(call, recipe(PRUNE), "--overwrite").error(2, "is a file")

    def test_parent_missing(self, call: Any, work: Path, recipe: Any) -> None:
        """A missing parent folder is a usage error with the command that makes it."""
        call("run", recipe(PRUNE), "-o", work / "no" / "out").error(2, "mkdir -p")
        call("prune", work / "model.keras", "--sparsity", 0.5, "-o", work / "no" / "out.keras").error(2, "mkdir -p")
        assert not (work / "no").exists()

    def test_file_exists(self, call: Any, may_stay: set[str], work: Path) -> None:
        """An output file that exists is left alone without --overwrite."""
        may_stay.add("out.keras")
        (work / "out.keras").write_text("old")
        prune(call, work).error(2, "exists already", "--overwrite")
        assert (work / "out.keras").read_text() == "old"

    def test_a_file_that_appears_meanwhile(
        self, call: Any, may_stay: set[str], work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that somebody else writes during the work is left alone too."""
        from edgeprune.maker.keras import models

        may_stay.add("out.keras")
        save = models.save_model

        def slow(model: Any, path: Path) -> None:
            save(model, path)
            (work / "out.keras").write_text("other")

        monkeypatch.setattr(models, "save_model", slow)
        prune(call, work).error(3, f"{work / 'out.keras'}: appeared while this ran", "--overwrite")
        assert (work / "out.keras").read_text() == "other"

    def test_folder_in_place_of_file(self, call: Any, may_stay: set[str], work: Path) -> None:
        """--overwrite never deletes a folder to put a file there."""
        may_stay.add("out.tflite")
        (work / "out.tflite").mkdir()
        (work / "out.tflite" / "thesis.txt").write_text("years of work")
        target = work / "out.tflite"
        outcome = call("convert", work / "model.keras", "--to", "tflite", "-o", target, "--overwrite", "-q")
        outcome.error(2, "a folder, which is not replaced")
        assert (target / "thesis.txt").exists()

    def test_other_folder_in_place_of_package(self, call: Any, may_stay: set[str], work: Path) -> None:
        """--overwrite replaces a Core ML package and no other folder."""
        may_stay.add("out.mlpackage")
        (work / "out.mlpackage").mkdir()
        (work / "out.mlpackage" / "thesis.txt").write_text("years of work")
        target = work / "out.mlpackage"
        outcome = call("convert", work / "model.keras", "--to", "coreml", "-o", target, "--overwrite", "-q")
        outcome.error(2, "not a Core ML package")

    def test_wrong_suffix(self, call: Any, work: Path) -> None:
        """The suffix of an output says what it is; another one is refused with the right name."""
        outcome = call("convert", work / "model.keras", "--to", "tflite", "-o", work / "out.bin")
        outcome.error(2, "name it out.tflite")

    def test_folder_that_cannot_be_written(
        self, call: Any, work: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A read-only file system is noticed before any work (permission bits do not bind root, so it is faked)."""

        def refuse(**_: Any) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        run(call, recipe(PRUNE)).error(3, "nothing can be written there", "Read-only file system")
        prune(call, work).error(3, "nothing can be written there")

    def test_no_room(self, call: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A write that fails half-way (here: a limit on file sizes) is one line, and the half file is gone."""
        from edgeprune.maker.keras import models as keras_models

        before, save = resource.getrlimit(resource.RLIMIT_FSIZE), keras_models.save_model

        def save_in_little_room(*arguments: Any, **options: Any) -> Any:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            try:
                return save(*arguments, **options)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        monkeypatch.setattr(keras_models, "save_model", save_in_little_room)
        prune(call, work).error(3, "out.keras: cannot be written")

    def test_no_temporary_folder(self, call: Any, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A temporary folder that cannot be made is one line."""

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device", "/tmp/model")

        monkeypatch.setattr("edgeprune.converters.session.scratch_folder", refuse)
        run(call, recipe(FLOAT)).error(3, "No space left on device")


class TestUsage:
    """What can be wrong with the command line itself."""

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (("bogus",), "No such command 'bogus'"),
            (("prune",), "Missing argument 'MODEL'"),
            (("prune", "m.keras", "-o", "o.keras"), "Missing option '--sparsity'"),
            (("prune", "m.keras", "-o", "o.keras", "--sparsity", "80"), "did you mean 0.8?"),
            (("prune", "m.keras", "-o", "o.keras", "--sparsity", "1.2"), "below 1"),
            (("prune", "m.keras", "-o", "o.keras", "--sparsity", "much"), "or a pattern N:M, 2:4; got 'much'"),
            (("prune", "m.keras", "-o", "o.keras", "--sparsty", "1"), "No such option"),
            (("inspect",), "Missing argument"),
            (("check", "m.tflite", "--download", "350"), "'350' is not a size"),
            (("finetune", "m.keras", "-o", "o.keras", "--train", "t.npz", "--epochs", "0"), "epochs"),
            (("finetune", "m.keras", "-o", "o.keras", "--train", "t", "--epochs", "1", "--seed", "-1"), "--seed"),
            (("finetune", "m.keras", "-o", "o.keras", "--train", "t", "--epochs", "1", "--patience", "1"), "--valid"),
            (("convert", "m.keras", "--to", "tflite", "--precision", "int8", "-o", "o.tflite"), "--calibration"),
            (("convert", "m.keras", "--to", "coreml", "--precision", "dynamic", "-o", "o.mlpackage"), "dynamic"),
            (
                ("convert", "m", "--to=coreml", "--precision=int8", "-oo.mlpackage", "--deployment-target=iOS15"),
                "iOS 16",
            ),
            (("convert", "m", "--to", "tflite", "-o", "o.tflite", "--samples", "0"), "--samples is at least 1"),
            (("convert", "m", "--to", "tflite", "-o", "o.tflite", "--per-tensor"), "--per-tensor is for tflite int8"),
            (
                ("convert", "m", "--to", "tflite", "-o", "o.tflite", "--scales", "float32"),
                "for tflite int8 and int16x8",
            ),
            (("convert", *INT8, "--validation", "v.npz"), "--validation DATA goes with --max-drop, --spend"),
            (("convert", *INT8, "--spend", "0.2 %"), "add --validation"),
            (("convert", *INT8, "--spend", "much"), "'much' is not a percentage"),
        ],
    )
    def test_wrong_option(
        self,
        call: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        part: str,
    ) -> None:
        """A wrong option is exit code 2 and told before any file is read."""
        monkeypatch.chdir(tmp_path)
        call(*arguments).error(2, part)
        assert list(tmp_path.iterdir()) == []

    def test_no_arguments(self, call: Any) -> None:
        """Without a verb the help is shown line by line, exit code 2."""
        outcome = call()
        assert outcome.code == 2
        assert len(outcome.err.splitlines()) > 10

    @pytest.mark.parametrize(("content", "code"), [(None, 4), (b"", 4), (b"x" * 100, 4)])
    def test_check_of_a_broken_file(self, call: Any, tmp_path: Path, content: bytes | None, code: int) -> None:
        """`check` of a missing, empty or broken .tflite is exit code 4."""
        if content is not None:
            (tmp_path / "m.tflite").write_bytes(content)
        call("check", tmp_path / "m.tflite").error(code, "m.tflite")


class TestExtras:
    """Packages that are not installed (find_spec is made to miss them)."""

    @pytest.mark.parametrize(
        ("package", "text", "extra"),
        [
            ("tensorflow", PRUNE, "edgeprune[convert]"),
            ("coremltools", '[[exports]]\nformat = "coreml"\nprecision = "float16"\n', "edgeprune[convert]"),
            (
                "tensorflow_model_optimization",
                PRUNE + 'backend = "tfmot"\nepochs = 1\n',
                "edgeprune[tfmot]",
            ),
        ],
    )
    def test_missing_extra(
        self, call: Any, recipe: Any, monkeypatch: pytest.MonkeyPatch, package: str, text: str, extra: str
    ) -> None:
        """A missing package is exit code 3 with the command that installs it, before any work."""
        hide(monkeypatch, package)
        run(call, recipe(text)).error(3, f"pip install '{extra}'")

    def test_core_ml(self, call: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The convert verb says the same for Core ML."""
        hide(monkeypatch, "coremltools")
        outcome = call("convert", work / "model.keras", "--to", "coreml", "-o", work / "out.mlpackage", "-q")
        outcome.error(3, "pip install 'edgeprune[convert]'")

    def test_no_runtime(self, call: Any, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a TFLite runtime a run cannot measure anything."""
        monkeypatch.setattr("edgeprune.maker.recipe.prepare.installed_runtimes", dict)
        run(call, recipe(PRUNE)).error(3, "edgeprune[litert]")

    def test_no_keras(self, call: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other verbs say it too when the import itself fails."""
        monkeypatch.setitem(sys.modules, "keras", None)
        prune(call, work).error(3, "pip install 'edgeprune[convert]'")


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make find_spec miss a package."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest))


def test_converter_child_that_crashes(
    call: Any, work: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A converter that dies of SIGSEGV is exit code 3, and neither an output nor a scratch folder stays."""
    (tmp_path / "modules").mkdir()
    script = (
        "import os, signal\ndef main():\n    os.write(2, b'last words\\n')\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    (tmp_path / "modules" / "dies.py").write_text(script)
    path = [str(tmp_path / "modules"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setattr("edgeprune.converters.session._WORKER", "dies")
    outcome = call("convert", work / "model.keras", "--to", "tflite", "-o", work / "out.tflite", "-q")
    outcome.error(3, "died of SIGSEGV", "last words")
    run(call, recipe(FLOAT)).error(3, "died of SIGSEGV")


def children_of(mark: str) -> list[int]:
    """Processes whose environment holds a word."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


# Python ignores Ctrl-C where its parent did (a shell's background job): the test must not depend on that.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgeprune.commands.cli import main
main(sys.argv[1:])
"""


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds child processes in /proc")
def test_interrupt_while_training(work: Path, recipe: Callable[..., Path]) -> None:
    """Ctrl-C while training ends with 130, without output, scratch folder or child processes."""
    path = recipe('[[steps]]\nkind = "finetune"\nepochs = 100000\n')
    mark = f"EDGEPRUNE_TEST_{os.getpid()}_{time.monotonic_ns()}"
    command = [sys.executable, "-P", "-c", INTERRUPTIBLE, "run", str(path), "-o", str(work / "out")]
    temporary = work / "temporary"
    temporary.mkdir()
    env = {**os.environ, mark: "1", "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("fine-tuned: fine-tune: "):  # steps are being done, the function is traced
                break
        assert process.poll() is None, said
        process.send_signal(signal.SIGINT)
        try:
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    told = [line for line in rest.splitlines() if line.strip() and not line.startswith("fine-tuned: ")]
    assert (told, process.returncode) == (["edgeprune: interrupted; nothing was written"], 130)
    assert children_of(mark) == []
    assert list(temporary.iterdir()) == []

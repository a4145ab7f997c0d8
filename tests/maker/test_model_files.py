"""Files that are not trusted: archives, HDF5, stored code; and the user's own layers."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hostile_keras
import numpy as np
import pytest
from places import TESTS

from edgeprune.errors import InputError, Unsupported, UsageError
from edgeprune.formats.keras import hdf5_session
from edgeprune.formats.keras.hdf5_limits import check_hdf5
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import clone, count_parameters, predict, save_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:keras.*")
TWICE = """
import keras

class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def group_link(file: h5py.File) -> None:
    """Weights in another file."""
    file["layers"] = h5py.ExternalLink("/etc/other.h5", "/")


def soft_link(file: h5py.File) -> None:
    """A soft link to a place that an external link may fill."""
    file["a"] = h5py.SoftLink("/b/c")


def outside_storage(file: h5py.File) -> None:
    """Raw bytes of any file as an array."""
    file.create_dataset("d", (16,), "u1", external=[("/etc/hostname", 0, 16)])


def virtual(file: h5py.File) -> None:
    """An array put together from other files."""
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "d", (4,))
    file.create_virtual_dataset("v", layout)


def grows(file: h5py.File) -> None:
    """Compressed zeros."""
    file.create_dataset("d", (30_000, 10_000), "f4", chunks=(1000, 1000), compression="gzip")


@pytest.mark.slow
def test_reading_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage over which the HDF5 library loops for ever is one line, too."""
    monkeypatch.setattr(hdf5_session, "_FIRST_CPU_S", 1)
    with pytest.raises(InputError, match=r"endless\.h5: .*reading it does not end"):
        load_model(TESTS / "files" / "endless.h5")


HOSTILE = (
    (group_link, "link to somewhere else"),
    (soft_link, "link to somewhere else"),
    (outside_storage, "kept in another file"),
    (virtual, "kept in another file"),
    (grows, "bomb"),
)


@pytest.mark.parametrize(("spoil", "told"), HOSTILE, ids=[spoil.__name__ for spoil, _ in HOSTILE])
@pytest.mark.parametrize("kind", ["h5", "keras", "compressed"])
def test_hostile_hdf5(
    tmp_path: Path, image_model: Any, spoil: Callable[[h5py.File], None], told: str, kind: str
) -> None:
    """HDF5 that leaves its file or grows without bound is refused, on its own and inside an archive."""
    path = tmp_path / ("m.h5" if kind == "h5" else "m.keras")
    image_model.save(path)
    if kind == "h5":
        with h5py.File(path, "r+") as file:
            spoil(file.create_group("more"))
    else:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        weights = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(weights, "r+") as file:
            spoil(file.create_group("more"))
        parts["model.weights.h5"] = weights.getvalue()
        method = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    with pytest.raises(InputError, match=rf"{path.name}: (model\.weights\.h5: )?refused.*{told}"):
        load_model(path)


def test_a_group_in_itself(tmp_path: Path) -> None:
    """A group that is its own member does not keep the check going for ever."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a"] = file["/"]
    check_hdf5(tmp_path / "m.h5", largest=10)


@pytest.mark.parametrize("version", [b"\xff2", b"3.\xc3(", ""])
def test_a_version_that_is_no_text(tmp_path: Path, version: object) -> None:
    """One line, or the model, whatever stands where the version of Keras should."""
    path = hostile_keras.write_h5(tmp_path / "m.h5", hostile_keras.model_config())
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = np.bytes_(version) if version else h5py.Empty("S4")
    if version == b"3.\xc3(":
        assert load_model(path).name == "m"
    else:
        with pytest.raises((InputError, Unsupported), match=r"m\.h5"):
            load_model(path)


def test_training_state_is_left_behind(tmp_path: Path, keras: Any) -> None:
    """Optimizer slots in Keras 3 files are neither counted nor saved again."""
    x = keras.Input((64,))
    model = keras.Model(x, keras.layers.Dense(64)(x))
    model.compile("adam", "mse", jit_compile=False)
    model.train_on_batch(np.ones((4, 64), np.float32), np.ones((4, 64), np.float32))
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        loaded = load_model(tmp_path / name)
        assert count_parameters(loaded) == 65 * 64
        save_model(loaded, tmp_path / "saved.keras")
        assert (tmp_path / "saved.keras").stat().st_size < 0.6 * (tmp_path / name).stat().st_size


def test_weights_that_keras_quantized(tmp_path: Path, keras: Any) -> None:
    """One line with the layer and the way, where the file is opened: for every verb."""
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2, name="a")(x))
    model.get_layer("a").quantize("int8")
    model.save(tmp_path / "m.keras")
    with pytest.raises(Unsupported, match=r"m\.keras: layer 'a' was quantized by Keras .* save the float model"):
        load_model(tmp_path / "m.keras")


def test_pickles_are_never_opened(tmp_path: Path, image_model: Any) -> None:
    """A pickle beside the weights in an archive is ignored."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    image_model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras", "a") as archive:
        archive.writestr("assets/extra.pkl", pickle.dumps(Evil()))
        archive.writestr("config.pkl", pickle.dumps(Evil()))
    load_model(tmp_path / "m.keras")
    assert not (tmp_path / "ran").exists()


def test_marshalled_code_of_keras_2(tmp_path: Path) -> None:
    """A Lambda of Keras 2 holds marshalled code: refused before anything is read from it."""
    code = {"name": "code", "function": ["4wEAAAA=", None, None], "function_type": "lambda"}
    layers = [{"class_name": "Lambda", "config": {**code, "batch_input_shape": [None, 3]}}]
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["keras_version"] = "2.12.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "m", "layers": layers}})
    with pytest.raises(Unsupported, match=r"'code' is a Lambda.*--trust-code"):
        load_model(tmp_path / "m.h5")


@pytest.mark.parametrize("kind", ["TFSMLayer", "TorchModuleWrapper", "__lambda__"])
def test_other_ways_to_run_code(tmp_path: Path, image_model: Any, kind: str) -> None:
    """Layers that run or unpickle something else than Keras are refused wherever they stand."""
    image_model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][2]["config"]["more"] = [{"class_name": kind, "config": {"name": "hidden"}}]
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(Unsupported, match=r"layer 'hidden' is a .*--trust-code"):
        load_model(tmp_path / "m.keras")


@pytest.fixture
def own_layer(tmp_path: Path, keras: Any) -> Path:
    """A folder with a model that uses a layer of its own, and own_twice.py, which defines it."""
    scope: dict[str, Any] = {"__name__": "elsewhere"}
    exec(TWICE, scope)
    x = keras.Input((3,), name="x")
    keras.Model(x, keras.layers.Dense(2)(scope["Twice"](name="doubling")(x))).save(tmp_path / "m.keras")
    (tmp_path / "own_twice.py").write_text(TWICE)
    return tmp_path


def test_a_custom_layer(own_layer: Path) -> None:
    """The error names class and layer and what to add; with the file the model loads, copies and computes."""
    with pytest.raises(Unsupported, match=r"custom layer 'Twice' \(named 'doubling'\).*add --custom FILE.py"):
        load_model(own_layer / "m.keras")
    for _ in range(2):
        model = load_model(own_layer / "m.keras", custom=[own_layer / "own_twice.py"])
    x = {"x": np.ones((1, 3), np.float32)}
    kernel, bias = model.layers[-1].get_weights()
    for made in (model, clone(model)):
        (output,) = predict(made, x).values()
        np.testing.assert_allclose(output, 2 * np.ones((1, 3)) @ kernel + bias, rtol=1e-6)


def test_a_registered_layer_of_keras_2(tmp_path: Path, keras: Any) -> None:
    """A layer under a package's name in a Keras 2 file is found in the user's file, with its weights."""
    (tmp_path / "scaled.py").write_text(
        "import keras\n\n@keras.saving.register_keras_serializable('mine')\nclass Scaled(keras.layers.Layer):\n"
        "    def build(self, shape):\n        self.scale = self.add_weight(shape=(shape[-1],), name='scale')\n\n"
        "    def call(self, x):\n        return x * self.scale\n"
    )
    layer = {"name": "a/b", "dtype": "float32", "trainable": True, "batch_input_shape": [None, 3]}
    config = {"name": "m", "layers": [{"class_name": "mine>Scaled", "config": layer}]}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["keras_version"] = "2.9.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
        file["model_weights/a/b/a/b/scale:0"] = np.array([1, 2, 3], np.float32)
        file["model_weights/a/b"].attrs["weight_names"] = [b"a/b/scale:0"]
    with pytest.raises(Unsupported, match=r"custom layer 'Scaled' .*--custom FILE.py"):
        load_model(tmp_path / "m.h5")
    model = load_model(tmp_path / "m.h5", custom=[tmp_path / "scaled.py"])
    made = predict(model, dict.fromkeys(["a_b_input"], np.ones((1, 3))))
    assert next(iter(made.values())).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import keras\n\nraise ValueError('no')\n", r"bad.py, line 3: ValueError: no"),
        ("x = 1\ny = (\n", r"bad.py, line 2: SyntaxError"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", r"bad.py, line 2: ZeroDivisionError"),
        ("import nothing_of_that_name\n", r"bad.py, line 1: ModuleNotFoundError"),
    ],
)
def test_a_custom_file_that_fails(own_layer: Path, text: str, told: str) -> None:
    """An error in the user's file is one line with the file and the line number."""
    (own_layer / "bad.py").write_text(text)
    with pytest.raises(UsageError, match=told):
        load_model(own_layer / "m.keras", custom=[own_layer / "bad.py"])


@pytest.mark.parametrize("verb", ["prune", "groups", "finetune", "convert", "run"])
def test_custom_on_every_verb(call: Any, work: Path, recipe: Any, verb: str) -> None:
    """Each verb that reads a model takes --custom and reports a missing file."""
    model, output = work / "model.keras", work / "out.keras"
    arguments: dict[str, list[object]] = {
        "prune": [model, "--sparsity", 0.5, "-o", output],
        "groups": [model],
        "finetune": [model, "--train", work / "train.npz", "--epochs", 1, "-o", output],
        "convert": [model, "--to", "tflite", "-o", work / "out.tflite", "-q"],
        "run": [recipe('[[steps]]\nkind = "prune"\nsparsity = 0.5\n'), "--dry-run"],
    }
    call(verb, *arguments[verb], "--custom", work / "no.py").error(4, "no.py does not exist")


def test_pruning_with_a_custom_layer(call: Any, own_layer: Path) -> None:
    """A model with a layer of the user's own is pruned and written."""
    done = call(
        *("prune", own_layer / "m.keras", "--sparsity", 0.5, "--custom", own_layer / "own_twice.py"),
        *("-o", own_layer / "out.keras"),
    )
    assert (done.code, done.err) == (0, "")
    assert (own_layer / "out.keras").exists()

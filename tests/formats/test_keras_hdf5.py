"""Keras files taken apart: layouts of Keras 2 and 3, archives, and files that libhdf5 cannot read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from damage import POINTER, check_sound, cut, flipped, read_spoilt
from places import ROOT, TESTS

from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents, StoredArray
from edgeprune.formats.keras import hdf5_session
from edgeprune.formats.keras.hdf5 import read_keras
from edgeprune.formats.keras.layout import architecture, channel_axis, store_name

SHARED = ROOT.parent / "shared" / "data"
FILES = TESTS / "files"
LAYERS = [
    {"class_name": "InputLayer", "config": {"name": "x"}},
    {"class_name": "Conv2D", "config": {"name": "c"}},
    {"class_name": "BatchNormalization", "config": {"name": "n", "scale": False, "center": True}},
    {
        "class_name": "Sequential",
        "config": {"name": "inner", "layers": [{"class_name": "DepthwiseConv2D", "config": {"name": "d"}}]},
    },
    {"class_name": "mine>LSTM", "config": {"name": "l"}},
    {"class_name": "Dense", "config": {"name": "out"}},
]
CONFIG = json.dumps({"class_name": "Functional", "config": {"name": "m", "layers": LAYERS}})
# Arrays by number of the layers above, as Keras 3 and Keras 2 keep them in a .keras file.
STORE = {
    "layers/conv2d/vars/0": np.eye(3, 8, dtype="f4").reshape(1, 1, 3, 8),
    "layers/conv2d/vars/1": np.zeros(8, "f4"),
    "layers/batch_normalization/vars/0": np.ones(8, "f4"),
    "layers/batch_normalization/vars/1": np.ones(8, "f4"),
    "layers/batch_normalization/vars/2": np.ones(8, "f4"),
    "layers/sequential/layers/depthwise_conv2d/vars/0": np.ones((3, 3, 8, 2), "f2"),
    "layers/lstm/cell/vars/0": np.ones((16, 12), "f4"),
    "layers/lstm/cell/vars/1": np.ones((3, 12), "f4"),
    "layers/lstm/cell/vars/2": np.ones(12, "f4"),
    "layers/dense/vars/0": np.ones((3, 5), "f4"),
    "layers/dense/seed_generator/vars/0": np.ones(2, "u4"),
    "optimizer/vars/0": np.array(7, "i8"),
    "optimizer/vars/1": np.ones((3, 5), "f4"),
    "metrics/mean/vars/0": np.array(0, "f4"),
}
NAMES = {"conv2d": "c", "batch_normalization": "n", "sequential": "inner", "lstm": "l", "dense": "out"}


def write_store(target: Any, *, names: bool, **options: Any) -> None:
    """A weight file of numbered variables; Keras 3 writes the layers' names, Keras 2 does not."""
    with h5py.File(target, "w") as file:
        for path, value in STORE.items():
            file.create_dataset(path, data=value, **(options if value.size > 100 else {}))
        for step, name in NAMES.items() if names else ():
            file.require_group(f"layers/{step}/vars").attrs["name"] = name
        if names:
            file["layers/sequential/layers/depthwise_conv2d/vars"].attrs["name"] = "d"


def write_keras(path: Path, *, names: bool = True, method: int = zipfile.ZIP_STORED, **more: bytes) -> None:
    """A .keras archive."""
    write_store(path.with_suffix(".tmp"), names=names)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", CONFIG)
        archive.write(path.with_suffix(".tmp"), "model.weights.h5")
        for name, content in more.items():
            archive.writestr(name, content)
    path.with_suffix(".tmp").unlink()


def read(path: Path) -> Contents:
    """Read and check."""
    contents = read_keras(path)
    check_sound(contents)
    assert contents.raw_bytes == path.stat().st_size
    for section, outside in (("weights", False), ("optimizer", True)):
        layers = [layer for layer in contents.layers if (layer.group != "") == outside]
        stored = sum(array.stored_bytes for layer in layers for array in layer.arrays)
        assert contents.sections.get(section, 0) == stored
    return contents


def arrays(contents: Contents) -> dict[str, StoredArray]:
    """All arrays by layer and name."""
    return {f"{layer.name}:{array.name}": array for layer in contents.layers for array in layer.arrays}


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [True, False], ids=["keras3", "keras2"])
def test_keras_archive(tmp_path: Path, names: bool) -> None:
    """Layers in the model's order by their own names and classes, state of training apart."""
    write_keras(tmp_path / "m.keras", names=names)
    contents = read(tmp_path / "m.keras")
    told = [(layer.name, layer.kind, layer.group) for layer in contents.layers]
    assert told == [
        ("c", "Conv2D", ""),
        ("n", "BatchNormalization", ""),
        ("inner/d", "DepthwiseConv2D", ""),
        ("l", "LSTM", ""),
        ("out", "Dense", ""),
        ("layers/dense/seed_generator", "", "training"),
        ("metrics/mean", "", "training"),
        ("optimizer", "", "optimizer"),
    ]
    found = arrays(contents)
    assert {name: array.pieces[0].axis for name, array in found.items() if array.parameter} == {
        "c:kernel": 3,
        "c:bias": 0,
        "n:beta": 0,
        "n:moving_mean": 0,
        "n:moving_variance": 0,
        "inner/d:depthwise_kernel": 2,
        "l:cell/kernel": 1,
        "l:cell/recurrent_kernel": 1,
        "l:cell/bias": 0,
        "out:kernel": 1,
    }
    assert (found["c:kernel"].zeros, found["c:bias"].zeros) == (21, 8)
    assert found["inner/d:depthwise_kernel"].precision == "float16"
    assert contents.sections["graph"] == len(CONFIG)
    assert contents.sections["weights"] == 4 * (24 + 8 + 24 + 192 + 36 + 12 + 15) + 2 * 144
    assert contents.sections["optimizer"] == 8 + 8 + 60 + 4


def test_weights_only(tmp_path: Path) -> None:
    """A .weights.h5 of Keras 3: kinds are the classes in snake case; chunked and zipped arrays take what they take."""
    write_store(tmp_path / "m.weights.h5", names=True, chunks=True, compression="gzip")
    contents = read(tmp_path / "m.weights.h5")
    assert {layer.name: layer.kind for layer in contents.layers if not layer.group} == {
        "c": "conv2d",
        "n": "batch_normalization",
        "inner/d": "depthwise_conv2d",
        "l": "lstm",
        "out": "dense",
    }
    kernel = arrays(contents)["l:cell/kernel"]
    assert kernel.stored_bytes < 100
    assert kernel.pieces[0].raw.view("<f4").tolist() == [1.0] * 192
    assert arrays(contents)["n:0"].shape == (8,)  # gamma or beta: the file does not say


def test_legacy_h5(tmp_path: Path) -> None:
    """A whole model of Keras 2: layers in the order of the list, weights by name, a model inside, the optimizer."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = CONFIG
        file.attrs["training_config"] = "{}"
        file.attrs["keras_version"] = b"2.15.0"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"out", b"inner", b"c"]
        group.create_dataset("out/out_1/bias:0", data=np.zeros(5, ">f4"))
        group.create_dataset("out/out_1/kernel:0", data=np.arange(15, dtype=">f4").reshape(3, 5))
        group["out"].attrs["weight_names0"] = [b"out_1/kernel:0"]
        group["out"].attrs["weight_names1"] = [b"out_1/bias:0"]
        group.create_dataset("inner/d/depthwise_kernel:0", data=np.ones((3, 3, 8, 2), "f4"))
        group.create_dataset("c/c/kernel:0", data=np.ones((1, 1, 3, 8), "f4"))
        file.create_dataset("optimizer_weights/Adam/m/out/kernel:0", data=np.ones((3, 5), "f4"))
    contents = read(tmp_path / "m.h5")
    assert [(layer.name, layer.kind) for layer in contents.layers] == [
        ("c", "Conv2D"),
        ("inner/d", "DepthwiseConv2D"),
        ("out", "Dense"),
        ("optimizer", ""),
    ]
    found = arrays(contents)
    assert list(found) == [
        "c:kernel",
        "inner/d:depthwise_kernel",
        "out:out_1/kernel",
        "out:out_1/bias",
        "optimizer:Adam/m/out/kernel:0",
    ]
    # Big-endian numbers come out little-endian.
    assert found["out:out_1/kernel"].pieces[0].raw.view("<f4").tolist() == list(range(15))
    assert found["out:out_1/kernel"].zeros == 1
    assert contents.sections["metadata"] == len("{}") + len("2.15.0")


def test_what_is_no_number(tmp_path: Path) -> None:
    """bfloat16 is kept as opaque bytes; text, empty and shared arrays are no arrays of their own."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        data = file.create_dataset("layers/dense/vars/0", data=np.array([0, 0x80, 0x3F80], "<u2").view("V2"))
        data.attrs["dtype"] = "bfloat16"
        file["layers/unmarked/vars/0"] = np.array([1, 2], "<u2").view("V2")
        file["layers/quaint/vars/0"] = np.array([1, 2], "<u4").view("V4")
        file.create_dataset("layers/text/vars/0", data="words")
        file.create_dataset("layers/none/vars/0", data=h5py.Empty("f4"))
        file.create_dataset("layers/flags/vars/0", data=np.array([True, False]))
        file["layers/twin"] = file["layers/dense"]
        file["layers/ring"] = file["layers"]
    contents = read(tmp_path / "m.h5")
    assert {name: (array.precision, array.zeros) for name, array in arrays(contents).items()} == {
        "dense:kernel": ("bfloat16", 1),
        "unmarked:0": ("bfloat16", 0),
        "flags:0": ("bool", 1),
    }


def test_names_of_lists() -> None:
    """Objects of one class are numbered in a list; a class's own package is no part of its name."""
    counts: dict[str, int] = {}
    kinds = ["Conv2D", "Conv2D", "ReLU", "BatchNormalization", "_Own"]
    names = ["conv2d", "conv2d_1", "re_lu", "batch_normalization", "private__own"]
    assert [store_name(kind, counts) for kind in kinds] == names


@pytest.mark.parametrize(
    ("kind", "name", "shape", "axis"),
    [
        ("Conv2DTranspose", "kernel", (3, 3, 8, 4), 2),
        ("SeparableConv2D", "depthwise_kernel", (3, 3, 4, 1), 2),
        ("SeparableConv2D", "pointwise_kernel", (1, 1, 4, 8), 3),
        ("Embedding", "embeddings", (100, 8), None),
        ("", "kernel", (3, 3, 4, 8), None),
        ("", "kernel", (4, 8), 1),
        ("Dense", "bias", (8,), 0),
        ("Dense", "kernel", (), None),
    ],
)
def test_channel_axes(kind: str, name: str, shape: tuple[int, ...], axis: int | None) -> None:
    """Channels are last but in depthwise and transposed convolutions; without a class a kernel may be either."""
    assert channel_axis(kind, name, shape) == axis


@pytest.mark.parametrize("text", ["[1, 2]", "{}", '{"config": 3}', '{"config": {"layers": [1, null, {}]}}'])
def test_strange_architectures(text: str) -> None:
    """JSON of another shape says nothing of the layers."""
    assert all(part.name == "" for part in architecture(text))
    with pytest.raises(ValueError, match="deep"):
        architecture("[" * 100_000)


# --- archives -------------------------------------------------------------------------------------------------------


def test_compressed_archive(tmp_path: Path) -> None:
    """Of a deflated weight file the compressed bytes of each array are measured: noise takes its size, ones little."""
    noise = np.random.default_rng(3).bytes(40_000)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.frombuffer(noise, "u1").reshape(100, 400))
        file.create_dataset("layers/dense/vars/1", data=np.ones(40_000, "f4"))
        file.create_dataset("optimizer/vars/0", data=np.frombuffer(noise[::-1], "u1"), chunks=(9000,))
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", CONFIG)
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    found = arrays(read(tmp_path / "m.keras"))
    assert 39_990 < found["out:kernel"].stored_bytes < 40_300
    assert 0 < found["out:bias"].stored_bytes < 800
    assert 39_990 < found["optimizer:vars/0"].stored_bytes < 45_200
    assert found["out:kernel"].pieces[0].raw.tobytes() == noise


def test_sharded_weights(tmp_path: Path) -> None:
    """Weight files that share a model: a layer's arrays come together; assets are other."""
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", CONFIG)
        archive.writestr("model.weights.json", "{}")
        archive.writestr("assets/words.txt", "a" * 50)
        for part, at in (("a", 0), ("b", 1)):
            with h5py.File(tmp_path / part, "w") as file:
                file.create_dataset(f"layers/dense/vars/{at}", data=np.ones(5, "f4"))
            archive.write(tmp_path / part, f"model_{part}.weights.h5")
    contents = read(tmp_path / "m.keras")
    assert list(arrays(contents)) == ["out:kernel", "out:bias"]
    assert len(contents.layers) == 1
    assert contents.sections["graph"] == len(CONFIG) + 2


def climbing(path: Path) -> None:
    """A member outside the archive."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("assets/../../evil", "x")


def encrypted(path: Path) -> None:
    """The mark of encryption on the first member, in both of its headers."""
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def bomb(path: Path) -> None:
    """A member that claims to expand beyond what deflate can do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(content)


def twice(path: Path) -> None:
    """Two members of one name."""
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")


def zeros_in_zeros(path: Path) -> None:
    """An array of zeros, gzipped inside and deflated outside."""
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("d", (30_000, 10_000), "f4", chunks=(3000, 10_000), compression="gzip")[:3000] = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", CONFIG)
        archive.write(path.with_suffix(".h5"), "model.weights.h5")


def no_weights(path: Path) -> None:
    """Only a configuration."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", CONFIG)


def no_json(path: Path) -> None:
    """A configuration that is none."""
    write_keras(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'{"class_name": "Functional"', b'#"class_name": "Functional"'))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (climbing, "out of the archive"),
        (encrypted, "encrypted"),
        (bomb, "1073741824 bytes in 27"),
        (twice, "another member has the same name"),
        (zeros_in_zeros, "bomb"),
        (no_weights, "holds no weights"),
        (no_json, "damaged or cut short"),  # the checksum is wrong first
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_hostile_archives(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    """Archives that leave themselves, hide or grow are refused."""
    path = tmp_path / "m.keras"
    write_keras(path)
    spoil(path)
    with pytest.raises(InputError, match=r"m\.keras") as error:
        read_keras(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# --- HDF5 that is not sound -----------------------------------------------------------------------------------------


def external_link(file: h5py.File) -> None:
    """A group in another file."""
    file["layers"] = h5py.ExternalLink("/etc/other.h5", "/")


def external_data(file: h5py.File) -> None:
    """Bytes of any file as an array."""
    file.create_dataset("d", (16,), "u1", external=[("/etc/hostname", 0, 16)])


def virtual_data(file: h5py.File) -> None:
    """An array put together from other files."""
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "d", (4,))
    file.create_virtual_dataset("v", layout)


def growing_data(file: h5py.File) -> None:
    """An array of 2^31 numbers that were never written."""
    file.create_dataset("d", (1 << 31,), "f4", chunks=(1 << 20,))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (external_link, "link to somewhere else"),
        (external_data, "in another file"),
        (virtual_data, "in another file"),
        (growing_data, "bomb"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_hostile_hdf5(tmp_path: Path, spoil: Callable[[h5py.File], None], told: str) -> None:
    """HDF5 that leaves its file or grows without bound is refused."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        spoil(file)
    with pytest.raises(InputError, match=told):
        read_keras(tmp_path / "m.h5")


@pytest.mark.parametrize("place", ["name", "attribute", "list"])
def test_texts_that_are_no_utf8(tmp_path: Path, place: str) -> None:
    """A name or text of other bytes is one line about this file."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("model_weights")
        group[b"a\xbe" if place == "name" else b"a"] = np.zeros(3, "f4")
        if place == "attribute":
            file.attrs.create("model_config", b'{"a": "\xbe"}', dtype=h5py.string_dtype("utf-8"))
        if place == "list":
            group.attrs.create("layer_names", [b"\xbe"], dtype=h5py.string_dtype("utf-8"))
    with pytest.raises(InputError, match=r"m\.h5: damaged .*no UTF-8"):
        read_keras(tmp_path / "m.h5")


def test_reading_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of endless.h5 sends libhdf5 round in circles; the child that reads it is ended by the system."""
    monkeypatch.setattr(hdf5_session, "_FIRST_CPU_S", 1)
    with pytest.raises(InputError, match="reading it does not end"):
        read_keras(FILES / "endless.h5")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (POINTER, "git lfs pull"),
        (b"hello", "neither HDF5 nor a zip"),
        (b"\x89HDF\r\n\x1a\n", "damaged or cut short"),
        (b"PK\x03\x04" + bytes(60), "damaged or cut short"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, told: str) -> None:
    """Empty files, pointers, text, and a beginning without the rest."""
    (tmp_path / "m.h5").write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_keras(tmp_path / "m.h5")
    with pytest.raises(InputError, match="does not exist"):
        read_keras(tmp_path / "none.h5")


def test_spoilt_files(tmp_path: Path) -> None:
    """A handful of damaged files; the slow test below takes many."""
    path = tmp_path / "m.keras"
    write_keras(path)
    content = path.read_bytes()
    assert read_spoilt(read_keras, path, cut(content)) == 16
    read_spoilt(read_keras, path, flipped(content, 4))


@pytest.mark.slow
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_many_spoilt_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Files of the oldest and the newest format of HDF5, with bytes changed and cut short."""
    monkeypatch.setattr(hdf5_session, "_FIRST_CPU_S", 2)
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver=version) as file:
        file.attrs["model_config"] = CONFIG
        for name, value in STORE.items():
            file[name] = value
        file.create_dataset("layers/dense/vars/1", data=np.ones(400, "f4"), chunks=(100,), compression="gzip")
    content = path.read_bytes()
    read_spoilt(read_keras, path, cut(content))
    read_spoilt(read_keras, path, flipped(content, 20))


# --- real models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "optimizer_bytes"),
    [
        ("imagenet_models/mobilenet_v1_0.25_224.h5", 475_544, 0),
        ("imagenet_models/mobilenet_v1_025_224_imagenet.keras", 475_544, 0),
        ("mlperf_tiny/image_classification/pretrainedResnet.h5", 78_666, 625_496),
        ("mlperf_tiny/keyword_spotting/kws_ref_model_resaved_tfkeras.h5", 24_908, 190_048),
    ],
)
def test_real_files(name: str, parameters: int, optimizer_bytes: int) -> None:
    """Parameters as their papers and Keras count them; of a trained file the optimizer takes twice the weights."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip("no shared data")
    contents = read(path)
    counted = sum(array.elements for layer in contents.layers if not layer.group for array in layer.arrays)
    assert counted == parameters
    assert contents.sections["weights"] == 4 * parameters
    assert contents.sections.get("optimizer", 0) == optimizer_bytes
    assert all(layer.kind for layer in contents.layers if not layer.group)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:keras.*")
def test_against_keras(tmp_path: Path, keras: Any) -> None:
    """Names, shapes and values are those of Keras for a trained model, in each of its formats."""
    layers = keras.layers
    x = keras.Input((8, 8, 3))
    inner = keras.Sequential([layers.Conv2D(4, 1, name="point")], name="inner")
    y = inner(layers.BatchNormalization(name="norm", scale=False)(layers.Conv2D(4, 3, name="conv")(x)))
    y = layers.Bidirectional(layers.GRU(3), name="both")(
        layers.Reshape((-1, 4))(layers.DepthwiseConv2D(3, name="dw")(y))
    )
    model = keras.Model(x, layers.Dense(2, name="out", dtype="bfloat16")(y))
    model.compile("adam", "mse", jit_compile=False)
    model.train_on_batch(np.ones((2, 8, 8, 3), np.float32), np.zeros((2, 2), np.float32))
    wanted = sorted((tuple(w.shape), np.asarray(w.numpy(), np.float32).tobytes()) for w in model.weights)
    for name in ("m.keras", "m.h5", "m.weights.h5"):
        save = model.save_weights if name == "m.weights.h5" else model.save
        save(tmp_path / name)
        contents = read(tmp_path / name)
        held = [array for layer in contents.layers if not layer.group for array in layer.arrays]
        assert sorted((array.shape, _floats(array).tobytes()) for array in held) == wanted
        titles = {layer.name: layer.kind for layer in contents.layers}
        assert {"conv", "norm", "inner/point", "dw", "both", "out", "optimizer"} == set(titles)
        assert name == "m.weights.h5" or titles["inner/point"] == "Conv2D"


def _floats(array: StoredArray) -> Any:
    """float32 values."""
    raw = array.pieces[0].raw
    if array.precision == "bfloat16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view("<f4")

"""Sound model files of every format that is read, small, and how a format is spoilt."""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import compiled_zoo
import hostile_keras
import written_mil as mil
import written_network as network
import written_onnx
import written_tflite
from mutations import Chance, Files, mutated_bytes, mutated_hdf5, mutated_json, mutated_text, mutated_zip, rezipped
from places import ROOT, TESTS
from wire import number, piece

__all__ = ["SHARES", "Sample", "corpus", "mutated"]

FILES = TESTS / "files"
# Of every 20 mutations; the Keras formats have the most code behind them, here and in libhdf5.
SHARES = {"keras": 5, "h5": 5, "mlmodel": 3, "tflite": 2, "onnx": 1, "mlpackage": 1, "mlmodelc": 1, "bundle": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A model: `files` as in `mutations`; how often it is taken grows with `weight`."""

    name: str
    files: Files
    weight: float = 1


@functools.cache
def corpus() -> Mapping[str, tuple[Sample, ...]]:
    """The samples of each format of SHARES."""
    with tempfile.TemporaryDirectory() as folder:
        found = {kind: tuple(make(Path(folder))) for kind, make in _MAKERS.items()}
    assert found.keys() == SHARES.keys()
    return found


def mutated(kind: str, sample: Sample, chance: Chance) -> Files:
    """The sample with one of its files spoilt in a way that fits the format."""
    files = dict(sample.files)
    name = chance.choice(sorted(files))
    if len(files) > 1 and chance.random() < 0.05:
        del files[name]
    else:
        files[name] = _by_name(name or sample.name, files[name], chance)
    return files


def _by_name(name: str, content: bytes, chance: Chance) -> bytes:
    """A file by the end of its name, which tells what is in it."""
    spoil = _SPOIL.get(name.rpartition(".")[2].lower(), mutated_bytes)
    return spoil(content, chance)


def _archive(content: bytes, chance: Chance) -> bytes:
    return mutated_zip(content, chance, _by_name)


_SPOIL: Mapping[str, Callable[[bytes, Chance], bytes]] = {
    "h5": mutated_hdf5,
    "json": mutated_json,
    "mil": mutated_text,
    **dict.fromkeys(("keras", "zip", "apk", "ipa", "apks", "task"), _archive),
}


# --- the samples ----------------------------------------------------------------------------------------------------


def _read(folder: Path) -> Files:
    """A folder's files by their places in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _tflite(folder: Path) -> Iterator[Sample]:
    for file in sorted(FILES.glob("*.tflite")):
        yield Sample(name=file.name, files={"": file.read_bytes()})
    kernel = written_tflite.TensorSpec(shape=(3, 4), buffer=1, zero_points=(0,))
    written = written_tflite.write(
        folder / "w.tflite", written_tflite.dense_graph(kernel), buffers=(b"", bytes(48)), signatures=[("serve", 0)]
    )
    yield Sample(name="written.tflite", files={"": written.read_bytes()})


def _configs() -> Iterator[tuple[str, object]]:
    named = hostile_keras.named
    yield "plain", hostile_keras.model_config()
    yield "relu", hostile_keras.model_config(named("keras.layers", "ReLU", {"name": "middle"}))
    options = {"kernel_regularizer": named("keras.regularizers", "L2", {"l2": 0.5}), "activation": "relu"}
    yield "settings", hostile_keras.model_config(**options)
    inner = named("keras.layers", "Dense", {"name": "inside", "units": 4})
    yield "wrapped", hostile_keras.model_config(named("keras.layers", "TimeDistributed", {"name": "m", "layer": inner}))


def _keras(folder: Path) -> Iterator[Sample]:
    for name, config in _configs():
        content = hostile_keras.write_keras(folder / "m.keras", config, {"assets/layers/x.txt": "a\nb"}).read_bytes()
        yield Sample(name=f"{name}.keras", files={"": content}, weight=5)
    for path in (ROOT / "sample_models/flights/flights.keras", ROOT / "sample_models/fashion/fashion.keras"):
        yield Sample(name=path.name, files={"": path.read_bytes()}, weight=0.1)
        yield Sample(name=path.name, files={"": _hollow(path)}, weight=5)


def _hollow(path: Path) -> bytes:
    """A sample model with its architecture and the weights of a smaller one."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in ("config.json", "metadata.json")}
    made = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        small = hostile_keras.write_keras(Path(folder) / "m.keras", hostile_keras.model_config())
        with zipfile.ZipFile(small) as archive, zipfile.ZipFile(made, "w") as copy:
            for name, content in (members | {"model.weights.h5": archive.read("model.weights.h5")}).items():
                copy.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()


def _h5(folder: Path) -> Iterator[Sample]:
    for name, config in _configs():
        for form in (hostile_keras.write_h5, hostile_keras.write_keras2):
            content = form(folder / "m.h5", config).read_bytes()
            yield Sample(name=f"{name}.h5", files={"": content}, weight=5)
    with zipfile.ZipFile(folder / "m.keras") as archive:
        yield Sample(name="model.weights.h5", files={"": archive.read("model.weights.h5")}, weight=5)
    yield Sample(name="endless.h5", files={"": (FILES / "endless.h5").read_bytes()}, weight=0.02)


def _onnx(_: Path) -> Iterator[Sample]:
    yield Sample(name="small.onnx", files={"": written_onnx.small()})
    make = written_onnx
    scale, point = make.floats("s"), make.tensor("z", make.INT8, (), make.raw(b"\0"))
    kernel = make.tensor("q", make.INT8, (3, 4), make.raw(bytes(12)))
    nodes = [
        make.node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        make.node("MatMul", ["x", "w"], ["y"], make.attribute("a", number(3, 1)), name="product"),
    ]
    ends = [piece(11, make.value("x", 2, 3)), piece(12, make.value("y", "n", 4))]
    beside = make.tensor("far", make.FLOAT, (2,), piece(13, piece(1, "location"), piece(2, "w.bin")), number(14, 1))
    yield Sample(name="quantized.onnx", files={"": make.model(make.graph(nodes, [kernel, scale, point], *ends))})
    yield Sample(name="beside.onnx", files={"": make.model(make.graph(nodes, [kernel, scale, point, beside], *ends))})


def _mlmodel(_: Path) -> Iterator[Sample]:
    make = network
    dense = make.dense(make.floats(*range(6)))
    kernel = number(1, 4) + number(2, 3) + number(10, 1) + piece(20, b"\1", b"\2")
    convolution = make.layer("c", make.CONVOLUTION, kernel, piece(90, make.floats(*range(24))))
    coded = make.dense(make.linear(bytes(range(30)), 5, [0.5] * 4, [0.0] * 4), into=12, out=4)
    table = make.dense(make.table(bytes(9), 3, [0.0] * 8), into=8, out=3)
    embedding = make.layer("e", make.EMBEDDING, number(1, 3), number(2, 2), piece(20, make.floats(*range(6))))
    branch = make.layer("b", make.BRANCH, piece(1, dense))
    plain = make.model(make.NETWORK, dense, convolution)
    yield Sample(name="plain.mlmodel", files={"": plain})
    yield Sample(name="classes.mlmodel", files={"": make.model(make.CLASSIFIER, dense, piece(100, piece(1, "cat")))})
    yield Sample(name="coded.mlmodel", files={"": make.model(make.NETWORK, coded, table, embedding, branch)})
    both = piece(1, plain) + piece(1, make.model(make.TREES, bytes(20)))
    yield Sample(name="pipeline.mlmodel", files={"": make.model(make.PIPELINE, both)})
    values = mil.immediate(1, bytes(24))
    program = mil.model(mil.constant("w", mil.tensor_type(mil.FLOAT32, 2, 3), values), outputs=["w"])
    yield Sample(name="program.mlmodel", files={"": program})
    wide = make.dense(make.floats(*(n / 7 for n in range(600))), into=30, out=20)
    yield Sample(name="wide.mlmodel", files={"": make.model(make.NETWORK, wide)}, weight=2)


def _mlpackage(_: Path) -> Iterator[Sample]:
    for folder in sorted(FILES.glob("*.mlpackage")):
        yield Sample(name=folder.name, files=_read(folder))


def _mlmodelc(folder: Path) -> Iterator[Sample]:
    zoo = compiled_zoo
    programs = {"half": zoo.HALF, "palette4": zoo.PALETTE, "sparse_int8": zoo.SPARSE}
    for package, lines in programs.items():
        for old in (True, False):
            place = zoo.model(folder / f"{package}{old}", package, zoo.text(*lines, old=old))
            (place / "metadata.json").write_text(json.dumps([{"shortDescription": "x", "storagePrecision": "Float16"}]))
            yield Sample(name="Net.mlmodelc", files=_read(place))


def _bundle(folder: Path) -> Iterator[Sample]:
    tflite, onnx = (FILES / "int8.tflite").read_bytes(), written_onnx.small()
    keras = hostile_keras.write_keras(folder / "b.keras", hostile_keras.model_config()).read_bytes()
    package = {f"Payload/A.app/N.mlpackage/{name}": raw for name, raw in _read(FILES / "half.mlpackage").items()}
    made = _compiled_in_app(folder)
    app = {"assets/m.tflite": tflite, "assets/m.onnx": onnx, "assets/m.keras": keras, "AndroidManifest.xml": b"<a/>"}
    chance = Chance(0)
    yield Sample(name="app.apk", files={"": rezipped(app, chance)})
    yield Sample(name="app.ipa", files={"": rezipped(package | made, chance)})
    yield Sample(name="all.zip", files={"": rezipped({"m.keras": keras, "m.mlmodel": _first("mlmodel")}, chance)})
    task = rezipped({"d.tflite": tflite}, chance)
    yield Sample(name="app.apks", files={"": rezipped({"a.apk": rezipped(app, chance), "p.task": task}, chance)})


def _compiled_in_app(folder: Path) -> Files:
    """A compiled model as it lies in an app."""
    place = compiled_zoo.model(folder / "in_app", "half", compiled_zoo.text(*compiled_zoo.HALF, old=False))
    return {f"Payload/A.app/N.mlmodelc/{name}": raw for name, raw in _read(place).items()}


def _first(kind: str) -> bytes:
    return next(_MAKERS[kind](Path())).files[""]


_MAKERS: Mapping[str, Callable[[Path], Iterator[Sample]]] = {
    "keras": _keras,
    "h5": _h5,
    "mlmodel": _mlmodel,
    "tflite": _tflite,
    "onnx": _onnx,
    "mlpackage": _mlpackage,
    "mlmodelc": _mlmodelc,
    "bundle": _bundle,
}

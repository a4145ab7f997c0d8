"""Take a Core ML neural network apart (the format before ML programs), and pipelines of them.

Format: github.com/apple/coremltools, mlmodel/format/Model.proto and NeuralNetwork.proto (field numbers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray, printable
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.coreml.mil_reader import Specification
from edgeprune.formats.coreml.neural_layers import FIRST_LAYER, LAYERS, LayerKind, Place
from edgeprune.formats.coreml.neural_weights import floats_of, read_weights
from edgeprune.formats.elements import count_zeros
from edgeprune.formats.protobuf import BrokenMessageError, Message
from edgeprune.formats.weights import Role

__all__ = ["network_contents"]

# Model.proto, the oneof "Type": members with a network or with models inside, and what the others are called.
_NETWORKS = (303, 403, 500)
_PIPELINES: Mapping[int, bool] = {200: True, 201: True, 202: False}  # whether the pipeline is one level down
_FIRST_TYPE = 200
_TYPES: Mapping[int, str] = {
    300: "a linear model",
    301: "a support vector machine",
    302: "a tree ensemble",
    304: "a Bayesian probit regressor",
    400: "a linear model",
    401: "a support vector machine",
    402: "a tree ensemble",
    404: "a nearest neighbors classifier",
    501: "a recommender",
    502: "an ML program",
    555: "a custom model",
    556: "a linked model",
    560: "a class confidence threshold",
    600: "a one-hot encoder",
    601: "an imputer",
    602: "a feature vectorizer",
    603: "a dictionary vectorizer",
    604: "a scaler",
    606: "a categorical mapping",
    607: "a normalizer",
    609: "an array feature extractor",
    610: "non-maximum suppression",
    900: "an identity",
    2000: "a text classifier",
    2001: "a word tagger",
    2002: "an Apple vision feature print",
    2003: "an Apple sound preprocessing",
    2004: "a gazetteer",
    2005: "a word embedding",
    2006: "an Apple audio feature print",
    3000: "a serialized model",
}
_LABELS = (100, 101)
_MAX_DEPTH, _MOST_LAYERS = 32, 1 << 20
_DIRECTIONS = ("forward/", "backward/")


def network_contents(path: Path, package: Package, found: Specification) -> Contents:
    """The layers of a `.mlmodel` file, or of a `.mlpackage` folder whose model is no ML program.

    A pipeline's models are read in turn, each a group of layers. What is no neural network is only sized: its bytes
    are "other", and the note says what it is. MACs are not known: such a file states no sizes of activations. Raises
    InputError for what is broken.
    """
    reader = _Reader()
    try:
        reader.model(found.model, "", 0)
    except (BrokenMessageError, RecursionError) as cause:
        raise InputError(f"{path}: not a Core ML model, or a broken one: {cause}; export it again") from cause
    files = _files(path) if found.place != path else {}
    inside = str(found.place.relative_to(path)) if files else ""
    return replace(_contents(path, found.raw_bytes, files, inside, reader), package=package)


def _contents(path: Path, model_bytes: int, files: Mapping[str, int], inside: str, reader: _Reader) -> Contents:
    weights = sum(array.stored_bytes for layer in reader.layers for array in layer.arrays)
    manifest = files.get("Manifest.json", 0)
    beside = sum(size for name, size in files.items() if name not in (inside, "Manifest.json"))
    sections = {
        "weights": weights,
        "graph": model_bytes - weights - reader.told_bytes - reader.unread_bytes,
        "metadata": reader.told_bytes + manifest,
        "other": reader.unread_bytes + beside,
    }
    kinds = ", ".join(dict.fromkeys(reader.unread))
    return Contents(
        path=path,
        format="mlpackage" if files else "mlmodel",
        raw_bytes=model_bytes + manifest + beside,
        sections={name: size for name, size in sections.items() if size or name != "other"},
        layers=tuple(reader.layers),
        files=files,
        complete=not reader.unread,
        note=f"only sized, its layers are not known: {kinds}" if kinds else "",
    )


def _files(package: Path) -> dict[str, int]:
    """Sizes of all files of a package by path. Raises InputError for a link: it may lead outside."""
    found = {}
    for file in sorted(package.rglob("*")):
        if file.is_symlink():
            raise InputError(
                f"{package}: refused, {file.relative_to(package)} is a link; copy the package with its files"
            )
        if file.is_file():
            found[str(file.relative_to(package))] = file.stat().st_size
    return found


@dataclass(slots=True, eq=False)
class _Reader:
    """One file being read: layers, what was no network, and bytes of descriptions and of what was not read."""

    layers: list[Layer] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    told_bytes: int = 0
    unread_bytes: int = 0

    def model(self, model: Message, group: str, depth: int) -> None:
        """Model: its description and whichever type it is of."""
        if depth > _MAX_DEPTH:
            raise BrokenMessageError(f"models nested deeper than {_MAX_DEPTH}")
        kinds = [key for key in model.pieces if key >= _FIRST_TYPE]
        if not kinds or 1 not in model.numbers:
            raise BrokenMessageError("it holds no model")
        self.told_bytes += sum(map(len, model.child(2).pieces.get(100, ())))
        key = kinds[-1]
        if key in _PIPELINES:
            self._pipeline(model.child(key).child(1) if _PIPELINES[key] else model.child(key), group, depth)
        elif key in _NETWORKS:
            network = model.child(key)
            self.told_bytes += sum(len(piece) for labels in _LABELS for piece in network.pieces.get(labels, ()))
            self._network(network, group, depth)
        else:
            self.unread.append(_TYPES.get(key, f"a model of type {key}"))
            self.unread_bytes += len(model.pieces[key][-1])

    def _pipeline(self, pipeline: Message, group: str, depth: int) -> None:
        for number, model in enumerate(pipeline.children(1)):
            self.model(model, f"{group}/model {number}".lstrip("/"), depth + 1)

    def _network(self, network: Message, group: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BrokenMessageError(f"networks nested deeper than {_MAX_DEPTH}")
        for preprocessing in network.children(2):
            self._mean_image(preprocessing, group)
        for layer in network.children(1):
            if len(self.layers) > _MOST_LAYERS:
                raise BrokenMessageError(f"more than {_MOST_LAYERS} layers")
            keys = [key for key in layer.pieces if key >= FIRST_LAYER]
            kind = LAYERS.get(keys[-1]) if keys else None
            name = printable(layer.text(1))
            settings = layer.child(keys[-1]) if keys else Message()
            found = tuple(_arrays(settings, kind)) if kind else ()
            title = kind.name if kind else f"layer type {keys[-1]}" if keys else ""
            self.layers.append(Layer(name=name, kind=title, arrays=found, group=group))
            for key, inner in (kind.networks if kind else {}).items():
                for body in settings.children(key):
                    self._network(body, f"{group}/{name}.{inner}".lstrip("/"), depth + 1)

    def _mean_image(self, preprocessing: Message, group: str) -> None:
        """NeuralNetworkPreprocessing: the mean image is an array, a scaler is a few numbers."""
        raw = floats_of(preprocessing.child(11), 1)
        if not len(raw):
            return
        shape = (len(raw) // 4,)
        piece = Piece(raw=raw, dtype="float32", shape=shape, axis=None, stored_bytes=len(raw))
        array = StoredArray(
            name="meanImage",
            shape=shape,
            precision="float32",
            role=Role.STEERING,
            zeros=count_zeros(raw, "float32", shape),
            pieces=(piece,),
        )
        name = printable(preprocessing.text(1))
        self.layers.append(Layer(name=name, kind="preprocessing", arrays=(array,), group=group))


def _arrays(settings: Message, kind: LayerKind) -> Iterator[StoredArray]:
    for place in kind.places:
        for number, message in enumerate(_messages(settings, place)):
            name = place.name
            if kind.name == "biDirectionalLSTM" and place.keys[0] == 20 and number < len(_DIRECTIONS):
                name = _DIRECTIONS[number] + name
            elif number:
                name = f"{name} {number}"
            sizes = place.sizes(settings) if place.sizes else ()
            array = read_weights(message, name, sizes, axis=place.axis, role=place.role)
            if array is not None:
                yield array


def _messages(settings: Message, place: Place) -> list[Message]:
    found = [settings]
    for key in place.keys:
        found = [inner for message in found for inner in message.children(key)]
    return found

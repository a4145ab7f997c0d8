"""SavedModels that Keras 2 wrote (`model.save(folder)`): beside the computation they hold the architecture, as JSON.

It is rebuilt like that of an `.h5` file, and taken only where it computes what the SavedModel computes.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.protobuf import BrokenMessageError, Message, parse
from edgeprune.host.untrusted import read_whole
from edgeprune.maker.keras.models import input_specs, output_names, predict
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import Model

if TYPE_CHECKING:
    from h5py import File

__all__ = ["METADATA", "Architecture", "read_architecture", "refuse_unequal", "weights_file"]

METADATA = "keras_metadata.pb"
MOST_BYTES = 1 << 28
# keras/protobuf/saved_metadata.proto of Keras 2: SavedMetadata.nodes; SavedObject.node_path, identifier, metadata.
_NODES, _PATH, _IDENTIFIER, _JSON = 1, 3, 4, 5
_LAYER = re.compile(r"root\.(layer(?:_with_weights)?-\d+)")
_TUPLES = ("__tuple__", "TensorShape")
_EQUAL = 1e-5  # share of an output's range
_TRIED = 4
_OPEN_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The serialised object of a model, the Keras that wrote it, and layer names by the attribute that holds them."""

    config: Mapping[str, Any]
    version: str
    layers: Mapping[str, str]


def read_architecture(path: Path) -> Architecture:
    """What a SavedModel folder says of its layers; nothing in it is run.

    Raises Unsupported where it says nothing, or holds a model whose graph is code; InputError for a damaged file.
    """
    place = path / METADATA
    if not place.is_file():
        raise Unsupported("no architecture is stored with it (model.export of Keras 3 stores none)")
    try:
        nodes = list(parse(memoryview(read_whole(place, "Keras metadata", most_bytes=MOST_BYTES))).children(_NODES))
        root = next((node for node in nodes if node.text(_PATH) == "root"), Message())
        told = _told(root)
        config = told.get("config")
        if root.text(_IDENTIFIER) not in ("_tf_keras_network", "_tf_keras_sequential", "_tf_keras_model") or not (
            isinstance(config, dict) and isinstance(config.get("layers"), list)
        ):
            raise Unsupported(
                "its model is a subclass of keras.Model, whose graph is code: rebuild it with the functional API"
            )
        layers = {found[1]: _told(node).get("name") for node in nodes if (found := _LAYER.fullmatch(node.text(_PATH)))}
    except (BrokenMessageError, ValueError, RecursionError) as cause:
        raise InputError(f"{METADATA} is damaged; save the model again") from cause
    return Architecture(
        config={"class_name": str(told.get("class_name")), "config": config},
        version=str(told.get("keras_version", "2")),
        layers={attribute: name for attribute, name in layers.items() if isinstance(name, str) and name},
    )


def _told(node: Message) -> Mapping[str, Any]:
    value = _plain(json.loads(node.text(_JSON) or "{}"))
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
    """JSON with lists for what Keras marks as tuples, as in an .h5 file."""
    if isinstance(value, dict):
        if value.get("class_name") in _TUPLES and isinstance(value.get("items"), list):
            return [_plain(item) for item in value["items"]]
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def weights_file(saved: SavedModel, layers: Mapping[str, str]) -> File:
    """The weights of the outermost layers as Keras 2 lays them out in an .h5 file, in memory."""
    import h5py

    file = h5py.File(io.BytesIO(), "w")
    for attribute, name in layers.items():
        layer: Any = getattr(saved.whole, attribute, None)
        group = file.create_group(name) if name not in file else file[name]
        names = []
        for number, variable in enumerate(_variables(layer)):
            names.append(f"{number}/{variable.name}")
            group[names[-1]] = np.asarray(variable)
        group.attrs["weight_names"] = [each.encode() for each in names]
    return file


def _variables(layer: Any) -> Iterator[Any]:
    """Those that train before the others."""
    for owner, attribute in (
        (layer, "trainable_variables"),
        (getattr(layer, "keras_api", None), "non_trainable_variables"),
    ):
        yield from getattr(owner, attribute, ())


def refuse_unequal(saved: SavedModel, model: Model) -> None:
    """Raise Unsupported where a model does not compute what the signature of the SavedModel computes, by random
    inputs."""
    specs = input_specs(model)
    if {name: dtype for name, (_, dtype) in specs.items()} != {end.name: end.dtype for end in saved.inputs}:
        raise Unsupported("its signature has other inputs than its layers")
    rng = np.random.default_rng(0)
    given = {}
    for end in saved.inputs:
        size = (end.shape[0] or _TRIED, *(length or _OPEN_SIZE for length in end.shape[1:]))
        whole = not end.dtype.startswith("float")
        given[end.name] = (rng.integers(0, 2, size) if whole else rng.normal(size=size)).astype(end.dtype)
    expected, found = predict(saved, given), predict(model, given)
    if len(expected) == len(found) == 1:
        found = dict(zip(expected, found.values(), strict=True))
    if set(expected) != set(found):
        raise Unsupported(
            f"its signature has the outputs {', '.join(expected)}, its layers {', '.join(output_names(model))}"
        )
    for name, values in expected.items():
        if values.shape != found[name].shape or not _close(values, found[name]):
            raise Unsupported(f"output {name!r} of its signature is not what its layers compute")


def _close(expected: np.ndarray, found: np.ndarray) -> bool:
    whole = expected.astype(np.float64)
    size = max(float(np.ptp(whole)), float(np.abs(whole).max(initial=0)))
    return bool(np.abs(whole - found).max(initial=0) <= _EQUAL * size)

"""Model files, which are not trusted: told by their first bytes, looked through, and then loaded.

Code stored in a file runs only when the user says so; a Python file with the user's own layers is named by the user.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.keras.hdf5 import read_keras
from edgeprune.host.untrusted import open_file, status_of
from edgeprune.maker.keras.custom_layers import custom_objects
from edgeprune.maker.keras.keras2 import translate
from edgeprune.maker.keras.keras2_weights import assign_h5, assign_store
from edgeprune.maker.keras.models import keras_module, leaf_layers, own_weights
from edgeprune.maker.keras.saved_models import NOT_LAYERS, SavedModel, is_saved_model, open_saved_model
from edgeprune.maker.keras.types import AnyModel, Model

__all__ = ["load_convertible", "load_model"]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
SUFFIXES = {"keras": (".keras",), "h5": (".h5", ".hdf5")}
CODE = {
    "Lambda": "a Lambda, which runs code stored in the file",
    "__lambda__": "a Lambda, which runs code stored in the file",
    "TFSMLayer": "a TFSMLayer, which runs a SavedModel stored elsewhere",
    "TorchModuleWrapper": "a TorchModuleWrapper, which unpickles what is stored in the file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model file that was looked through: its kind, the architecture in it, and the Keras that wrote it."""

    path: Path
    kind: str
    config: Mapping[str, Any]
    version: str

    @property
    def is_keras2(self) -> bool:
        """Whether a Keras before 3 wrote it."""
        return not self.version.startswith("3")


def load_model(path: Path, *, trust_code: bool = False, custom: Sequence[Path] = ()) -> Model:
    """A Keras 3 model from a `.keras` or `.h5` file of Keras 3 or 2, without its optimizer and compile state.

    Raises InputError (missing, damaged, not a model, NaN weights) and Unsupported (code inside, a layer that is not
    known, a Keras 2 file that Keras 3 cannot express, a SavedModel). Code stored in the file (Lambda layers) runs only
    with `trust_code`; `custom` are Python files with the user's own layers, which are run.
    """
    source = _look_through(path)
    if not trust_code:
        _refuse_code(path, source.config)
    keras = keras_module()
    own = custom_objects(custom, keras)
    own |= {name: own[tail] for name, tail in _registered(source.config) if tail in own}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load = _load_keras2 if source.is_keras2 else _load_keras3
        model = load(keras, source, own, safe=not trust_code)
    _refuse_nan(path, model)
    return model


def load_convertible(path: Path, *, trust_code: bool = False, custom: Sequence[Path] = ()) -> AnyModel:
    """What can be converted: a Keras model as `load_model` gives it, or a SavedModel."""
    if not is_saved_model(path):
        return load_model(path, trust_code=trust_code, custom=custom)
    keras_module()
    model = open_saved_model(path, trust_code=trust_code)
    _refuse_nan(path, model)
    return model


def _look_through(path: Path) -> Source:
    """Raise InputError for what is not a model file or must not be opened; nothing in it is run."""
    kind = _kind_of(path)
    if path.suffix not in SUFFIXES[kind]:  # Keras goes by the name alone
        raise InputError(
            f"{path}: its content is that of a {SUFFIXES[kind][0]} file; rename it to {path.stem}{SUFFIXES[kind][0]}"
        )
    config, version = _keras_config(path) if kind == "keras" else _h5_config(path)
    return Source(path=path, kind=kind, config=config, version=version)


def _load_keras3(keras: ModuleType, source: Source, own: dict[str, type], *, safe: bool) -> Model:
    try:
        return keras.saving.load_model(source.path, custom_objects=own, compile=False, safe_mode=safe)
    except Exception as cause:  # Keras raises anything from KeyError to OSError on damaged files
        raise _loading_error(source, cause) from cause


def _load_keras2(keras: ModuleType, source: Source, own: dict[str, type], *, safe: bool) -> Model:
    try:
        made = translate(source.config, custom=frozenset(own))
    except (InputError, Unsupported) as cause:
        raise type(cause)(f"{source.path}: {cause}") from cause
    for item in _objects(made.config):
        if item.get("module") == "keras.layers" and not hasattr(keras.layers, str(item["class_name"])):
            raise _unknown_layer(source, str(item["class_name"]))
    try:
        model = keras.saving.deserialize_keras_object(made.config, custom_objects=own, safe_mode=safe)
    except Exception as cause:  # as above
        raise _loading_error(source, cause) from cause
    try:
        with _weights(source) as (root, kind):
            assign = assign_h5 if kind == "h5" else assign_store
            assign(root, model, made.parts)
    except InputError as cause:
        raise InputError(f"{source.path}: {cause}") from cause
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as cause:
        raise InputError(f"{source.path}: its weights cannot be read ({cause}); copy or save the file again") from cause
    return model


@contextlib.contextmanager
def _weights(source: Source) -> Iterator[tuple[Any, str]]:
    """The HDF5 group with the weights, and how it is laid out."""
    import h5py

    if source.kind == "h5":
        with h5py.File(source.path, "r") as file:
            yield file.get("model_weights", file), "h5"
        return
    with zipfile.ZipFile(source.path) as archive, h5py.File(_h5_in(archive, "model.weights.h5"), "r") as file:
        yield file, "keras"


def _h5_in(archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    """A file in an archive, in memory: a stream out of an archive goes back only by starting again."""
    return io.BytesIO(archive.read(name))


def _kind_of(path: Path) -> str:
    """ "keras" or "h5", by the first bytes and not by the name."""
    status_of(path)
    if is_saved_model(path):
        raise Unsupported(f"{path}: {NOT_LAYERS} (edgeprune convert); save the model with model.save('name.keras')")
    with open_file(path, "a Keras model (.keras or .h5)") as stream:
        head = stream.read(8)
    if head.startswith(ZIP_MAGIC):
        return "keras"
    if head.startswith(HDF5_MAGIC):
        return "h5"
    raise InputError(
        f"{path}: not a Keras model: neither a .keras archive nor HDF5; save it with model.save('name.keras')"
    )


def _keras_config(path: Path) -> tuple[Mapping[str, Any], str]:
    """The architecture inside a `.keras` archive, read without Keras, and the version of Keras that wrote it."""
    read_keras(path)  # holds the archive against what it claims; its weights in a child, for libhdf5 may loop for ever
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            told = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as cause:
        raise InputError(f"{path}: damaged or cut short ({cause}); copy or save the file again") from cause
    if not isinstance(config, dict):
        raise InputError(f"{path}: config.json does not describe a model")
    return config, str(told.get("keras_version", "3")) if isinstance(told, dict) else "3"


def _h5_config(path: Path) -> tuple[Mapping[str, Any], str]:
    """The architecture inside an HDF5 file and the version of Keras that wrote it."""
    import h5py

    read_keras(path)  # as above
    try:
        with h5py.File(path, "r") as file:
            raw = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", "unknown")
    except (OSError, RuntimeError, KeyError) as cause:
        raise InputError(f"{path}: damaged or cut short HDF5 file; copy or save it again") from cause
    if raw is None:
        raise InputError(f"{path}: holds weights but no architecture; save it with model.save('name.keras')")
    try:
        config = json.loads(raw)
    except (ValueError, TypeError, RecursionError) as cause:
        raise InputError(f"{path}: its model_config is not JSON") from cause
    if not isinstance(config, dict):
        raise InputError(f"{path}: its model_config does not describe a model")
    return config, version.decode() if isinstance(version, bytes) else str(version)


def _objects(config: object) -> Iterator[Mapping[str, Any]]:
    """Every serialised object inside a config, outermost first."""
    stack = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if "class_name" in item:
                yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _registered(config: object) -> Iterator[tuple[str, str]]:
    """Names with a package ("mine>Twice") and what follows it."""
    for item in _objects(config):
        for name in (item.get("registered_name"), item["class_name"]):
            if isinstance(name, str) and ">" in name:
                yield name, name.rpartition(">")[2]


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    for item in _objects(config):
        if item["class_name"] in CODE:
            inner = item.get("config")
            name = inner.get("name", "") if isinstance(inner, dict) else ""
            raise Unsupported(
                f"{path}: layer {name or 'Lambda'!r} is {CODE[item['class_name']]}; "
                "if you trust its author, add --trust-code"
            )


def _unknown_layer(source: Source, kind: str) -> Unsupported:
    def named() -> Iterator[str]:
        for item in _objects(source.config):
            config = item.get("config")
            if str(item["class_name"]).rpartition(">")[2] == kind and isinstance(config, dict) and "name" in config:
                yield str(config["name"])

    name = next(named(), "")
    return Unsupported(
        f"{source.path}: holds the custom layer {kind!r}{f' (named {name!r})' if name else ''}, which Keras does not "
        "know; define it in a Python file and add --custom FILE.py"
    )


def _loading_error(source: Source, cause: Exception) -> Exception:
    text = " ".join(str(cause).split())
    unknown = re.search(
        r"(?:Could not locate class|Unknown layer:|Could not deserialize class|Could not locate function) '?([\w>]+)'?",
        text,
    )
    if unknown:
        return _unknown_layer(source, unknown.group(1))
    if source.is_keras2:
        return Unsupported(
            f"{source.path}: written by Keras {source.version}, and Keras 3 cannot read it: {_first_reason(text)}; "
            "load it with the tf_keras package there, rebuild it in Keras 3 and save it as .keras"
        )
    return InputError(f"{source.path}: cannot be loaded: {_first_reason(text)}")


def _first_reason(text: str) -> str:
    found = re.search(
        r"(Unrecognized keyword arguments passed to \w+: \{.*?\}|Unrecognized keyword arguments?.{0,80})", text
    )
    return found.group(1) if found else text[:160]


def _refuse_nan(path: Path, model: AnyModel) -> None:
    def held() -> Iterator[tuple[str, Any]]:
        if isinstance(model, SavedModel):
            yield from (("the signature", weight) for weight in model.weights)
            return
        for leaf in leaf_layers(model):
            yield from ((f"layer {leaf.path!r}", variable) for variable in own_weights(leaf.layer))

    for owner, variable in held():
        values = np.asarray(variable)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            named = getattr(variable, "name", "a constant")
            raise InputError(f"{path}: {owner} holds NaN or infinite weights ({named})")

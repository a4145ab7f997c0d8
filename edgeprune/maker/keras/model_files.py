"""Model files, which are not trusted: told by their first bytes, looked through, and then loaded.

Code stored in a file runs only when the user says so; a Python file with the user's own layers is named by the user.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeprune.artifact import files_of
from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.keras.hdf5 import read_keras
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import open_file, status_of
from edgeprune.maker.keras.admission import admit, unknown_object
from edgeprune.maker.keras.compiled import remember_compiled
from edgeprune.maker.keras.custom_layers import custom_objects, training_objects
from edgeprune.maker.keras.keras2 import PRUNED, translate
from edgeprune.maker.keras.keras2_weights import assign_h5, assign_store
from edgeprune.maker.keras.known_names import CODE
from edgeprune.maker.keras.loaded import refuse_nan, refuse_sizes
from edgeprune.maker.keras.models import (
    call_model,
    keras_module,
    one_line,
    output_names,
    refuse_quantized,
)
from edgeprune.maker.keras.resolution import bounded_weights, only_known
from edgeprune.maker.keras.saved_keras import METADATA, read_architecture, refuse_unequal, weights_file
from edgeprune.maker.keras.saved_models import NOT_LAYERS, SavedModel, is_saved_model, open_saved_model
from edgeprune.maker.keras.types import AnyModel, Model

__all__ = ["load_convertible", "load_model"]

OnNote = Callable[[str], None]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
WEIGHTS = "model.weights.h5"
SUFFIXES = {"keras": (".keras",), "h5": (".h5", ".hdf5")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model file that was looked through: its kind, the architecture in it, the Keras that wrote it, and how many
    bytes its weights have when they are unpacked."""

    path: Path
    kind: str
    config: Mapping[str, Any]
    version: str
    stored_bytes: int
    training: Any = None

    @property
    def is_keras2(self) -> bool:
        """Whether a Keras before 3 wrote it."""
        return not self.version.startswith("3")


def load_model(
    path: Path, *, trust_code: bool = False, custom: Sequence[Path] = (), on_note: OnNote | None = None
) -> Model:
    """A Keras 3 model from a `.keras` or `.h5` file of Keras 3 or 2, or from a SavedModel of Keras 2, without its
    optimizer and compile state.

    Raises InputError (missing, damaged, not a model, NaN weights) and Unsupported (code inside, a layer that is not
    known, a Keras 2 file that Keras 3 cannot express, a SavedModel in which there is no Keras model). Code stored in
    the file (Lambda layers) runs only with `trust_code`; `custom` are Python files with the user's own layers, which
    are run. `on_note` is told in a line where the model is not quite the one in the file.
    """
    if is_saved_model(path):
        keras_module()
        saved = open_saved_model(path, trust_code=trust_code)
        try:
            return _rebuilt(path, saved, trust_code=trust_code, custom=custom, on_note=on_note)
        except (InputError, Unsupported) as cause:
            reason = str(cause).removeprefix(f"{path}: ")
            raise Unsupported(
                f"{path}: {NOT_LAYERS} (edgeprune convert): {reason}; save the model with model.save('name.keras')"
            ) from cause
    source = _look_through(path)
    load = _load_keras2 if source.is_keras2 else _load_keras3
    return _loaded(source, load, trust_code=trust_code, custom=custom, on_note=on_note)


def _rebuilt(
    path: Path, saved: SavedModel, *, trust_code: bool, custom: Sequence[Path], on_note: OnNote | None
) -> Model:
    """The Keras model in a SavedModel that Keras 2 wrote. Raises Unsupported or InputError where there is none, or
    where it does not compute the same."""
    found = read_architecture(path)
    with weights_file(saved, found.layers) as stored:
        source = Source(
            path=path,
            kind="h5",
            config=found.config,
            version=found.version,
            stored_bytes=sum(file.stat().st_size for file in files_of(path / "variables")),
        )
        load = functools.partial(_load_keras2, stored=stored)
        model = _loaded(source, load, trust_code=trust_code, custom=custom, on_note=on_note)
    refuse_unequal(saved, model)
    if len(saved.outputs) == 1:  # a Sequential has no name for it
        setattr(model, "output_names", output_names(saved))  # noqa: B010  (Keras types it nowhere)
    return model


def _loaded(
    source: Source, load: Callable[..., Model], *, trust_code: bool, custom: Sequence[Path], on_note: OnNote | None
) -> Model:
    """The model of a file that was looked through, looked through itself."""
    path, keras = source.path, keras_module()
    own = custom_objects(custom, keras)
    own |= {name: own[tail] for name, tail in _registered(source.config) if tail in own}
    wrapped = sum(str(item["class_name"]).rpartition(">")[2] == PRUNED for item in _objects(source.config))
    with warnings.catch_warnings(), _named(source):
        warnings.simplefilter("ignore")
        with bounded_weights(keras, source.stored_bytes), nullcontext() if trust_code else only_known(keras, own):
            model = load(keras, source, own, safe=not trust_code)
        if not isinstance(model, keras.Model):
            raise InputError("its architecture is not that of a model")
        refuse_quantized(model)
        if trust_code and _holds_code(source.config):
            _try_out(model)
    refuse_sizes(path, model)
    refuse_nan(path, model)
    remember_compiled(model, source.training, training_objects(custom))
    if wrapped and on_note and PRUNED not in own:
        on_note(f"{path.name}: {wrapped} pruning wrappers of tensorflow-model-optimization taken off")
    return model


def load_convertible(
    path: Path, *, trust_code: bool = False, custom: Sequence[Path] = (), on_note: OnNote | None = None
) -> AnyModel:
    """What can be converted: a Keras model as `load_model` gives it, or a SavedModel in which there is none."""
    if not is_saved_model(path):
        return load_model(path, trust_code=trust_code, custom=custom, on_note=on_note)
    keras_module()
    model = open_saved_model(path, trust_code=trust_code)
    try:
        return _rebuilt(path, model, trust_code=trust_code, custom=custom, on_note=on_note)
    except (InputError, Unsupported) as cause:
        if on_note and (path / METADATA).exists():
            reason = str(cause).removeprefix(f"{path}: ").partition(": ")[0]  # what to do instead is for other verbs
            on_note(f"{path.name}: taken as a computation without layers: {reason}")
    refuse_nan(path, model)
    return model


def _look_through(path: Path) -> Source:
    """Raise InputError for what is not a model file or must not be opened; nothing in it is run."""
    kind = _kind_of(path)
    if path.suffix not in SUFFIXES[kind]:  # Keras goes by the name alone
        raise InputError(
            f"{path}: its content is that of a {SUFFIXES[kind][0]} file; rename it to {path.stem}{SUFFIXES[kind][0]}"
        )
    contents = read_keras(path)  # holds the file against what it claims; in a child, for libhdf5 may loop for ever
    config, version = _keras_config(path) if kind == "keras" else _h5_config(path)
    training = config.get("compile_config") if kind == "keras" else _h5_training(path)
    stored = (piece for layer in contents.layers for array in layer.arrays for piece in array.pieces)
    return Source(
        path=path,
        kind=kind,
        config=config,
        version=version,
        stored_bytes=sum(len(piece.raw) for piece in stored),
        training=training,
    )


@contextlib.contextmanager
def _named(source: Source) -> Iterator[None]:
    """Errors with the file's name before them."""
    try:
        yield
    except (InputError, Unsupported) as cause:
        raise type(cause)(f"{source.path}: {cause}") from cause


def _load_keras3(keras: ModuleType, source: Source, own: dict[str, type], *, safe: bool) -> Model:
    config = admit(source.config, custom=own) if safe else {}
    try:
        if not safe:
            return keras.saving.load_model(source.path, custom_objects=own, compile=False, safe_mode=False)
        if source.kind == "keras":
            with _checked_archive(source, config) as path:
                return keras.saving.load_model(path, custom_objects=own, compile=False, safe_mode=True)
        model: Model = keras.saving.deserialize_keras_object(config, custom_objects=own, safe_mode=True)
        model.load_weights(source.path)
        return model
    except (InputError, Unsupported):
        raise
    except Exception as cause:  # Keras raises anything from KeyError to OSError on damaged files
        raise _loading_error(source, cause) from cause


@contextlib.contextmanager
def _checked_archive(source: Source, config: Mapping[str, Any]) -> Iterator[Path]:
    """A copy of a `.keras` archive for Keras, with the admitted configuration and nothing that was not looked at."""
    with scratch_folder() as folder:
        path = folder / "model.keras"
        with zipfile.ZipFile(source.path) as archive, zipfile.ZipFile(path, "w") as copy:
            copy.writestr("config.json", json.dumps(config))
            copy.writestr("metadata.json", json.dumps({"keras_version": source.version}))
            for name in archive.namelist():
                steps = name.split("/")
                if name == WEIGHTS or (steps[0] == "assets" and not {"", ".", ".."} & set(steps)):
                    with archive.open(name) as member, copy.open(name, "w", force_zip64=True) as target:
                        shutil.copyfileobj(member, target)
        yield path


def _load_keras2(keras: ModuleType, source: Source, own: dict[str, type], *, safe: bool, stored: Any = None) -> Model:
    """`stored` is the HDF5 group of the weights where these are not in the file itself."""
    made = translate(source.config, custom=frozenset(own))
    config = admit(made.config, custom=own) if safe else made.config
    for item in _objects(config):
        if item.get("module") == "keras.layers" and not hasattr(keras.layers, str(item["class_name"])):
            raise unknown_object(None, str(item["class_name"]), str(item["config"].get("name", "")))
    try:
        model = keras.saving.deserialize_keras_object(config, custom_objects=own, safe_mode=safe)
    except (InputError, Unsupported):
        raise
    except Exception as cause:  # as above
        raise _loading_error(source, cause) from cause
    try:
        with _weights(source) if stored is None else nullcontext((stored, "h5")) as (root, kind):
            assign = assign_h5 if kind == "h5" else assign_store
            assign(root, model, made.parts)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as cause:
        raise InputError(f"its weights cannot be read ({cause}); copy or save the file again") from cause
    return model


def _holds_code(config: Mapping[str, Any]) -> bool:
    return any(str(item["class_name"]).rpartition(">")[2].rpartition(".")[2] in CODE for item in _objects(config))


def _try_out(model: Model) -> None:
    """Compute once: a layer with code may declare a shape and fail in another way than all other layers."""
    import tensorflow as tf

    call_model(model, [tf.zeros([size or 1 for size in tensor.shape], tensor.dtype) for tensor in model.inputs])


@contextlib.contextmanager
def _weights(source: Source) -> Iterator[tuple[Any, str]]:
    """The HDF5 group with the weights, and how it is laid out."""
    import h5py

    if source.kind == "h5":
        with h5py.File(source.path, "r") as file:
            yield file.get("model_weights", file), "h5"
        return
    with zipfile.ZipFile(source.path) as archive, h5py.File(_h5_in(archive, WEIGHTS), "r") as file:
        yield file, "keras"


def _h5_in(archive: zipfile.ZipFile, name: str) -> io.BytesIO:
    """A file in an archive, in memory: a stream out of an archive goes back only by starting again."""
    return io.BytesIO(archive.read(name))


def _kind_of(path: Path) -> str:
    """ "keras" or "h5", by the first bytes and not by the name."""
    status_of(path)
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
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            told = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
            is_complete = WEIGHTS in archive.namelist()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as cause:
        raise InputError(f"{path}: damaged or cut short ({cause}); copy or save the file again") from cause
    if not isinstance(config, dict):
        raise InputError(f"{path}: config.json does not describe a model")
    if not is_complete:
        raise InputError(f"{path}: its weights are not where Keras looks for them ({WEIGHTS}); save it again")
    return config, str(told.get("keras_version", "3")) if isinstance(told, dict) else "3"


def _h5_config(path: Path) -> tuple[Mapping[str, Any], str]:
    """The architecture inside an HDF5 file and the version of Keras that wrote it."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            raw = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", "unknown")
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as cause:
        raise InputError(f"{path}: damaged or cut short HDF5 file; copy or save it again") from cause
    if raw is None:
        raise InputError(f"{path}: holds weights but no architecture; save it with model.save('name.keras')")
    try:
        config = json.loads(raw)
    except (ValueError, TypeError, RecursionError) as cause:
        raise InputError(f"{path}: its model_config is not JSON") from cause
    if not isinstance(config, dict):
        raise InputError(f"{path}: its model_config does not describe a model")
    told = version if isinstance(version, bytes) else str(version).encode("utf-8", "surrogateescape")
    return config, told.decode("utf-8", "backslashreplace")


def _h5_training(path: Path) -> Any:
    """The training configuration inside an HDF5 file, as JSON; None where there is none."""
    import h5py

    with h5py.File(path, "r") as file:
        found = file.attrs.get("training_config")
    return found if isinstance(found, str | bytes) else None


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


def _loading_error(source: Source, cause: Exception) -> Exception:
    text = one_line(cause)
    unknown = re.search(
        r"(?:Could not locate class|Unknown layer:|Could not deserialize class|Could not locate function) '?([\w>]+)'?",
        text,
    )
    if unknown:
        return unknown_object(None, unknown.group(1), _layer_of(source.config, unknown.group(1)))
    if source.is_keras2:
        return Unsupported(
            f"written by Keras {source.version}, and Keras 3 cannot read it: {_first_reason(text)}; "
            "load it with the tf_keras package there, rebuild it in Keras 3 and save it as .keras"
        )
    return InputError(f"cannot be loaded: {_first_reason(text)}")


def _layer_of(config: object, kind: str) -> str:
    """The name of the first layer of a class."""
    for item in _objects(config):
        inner = item.get("config")
        if str(item["class_name"]).rpartition(">")[2] == kind.rpartition(">")[2] and isinstance(inner, dict):
            return str(inner.get("name", ""))
    return ""


def _first_reason(text: str) -> str:
    found = re.search(
        r"(Unrecognized keyword arguments passed to \w+: \{.*?\}|Unrecognized keyword arguments?.{0,80})", text
    )
    return found.group(1) if found else text[:160]

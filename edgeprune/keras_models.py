"""Load, copy, save and walk Keras models: the only place that knows Keras quirks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import InputError, MissingExtra, OutputError, Unsupported
from edgeprune.interrupts import undoing

__all__ = [
    "Leaf",
    "Predictor",
    "as_called",
    "call_model",
    "clone",
    "count_nonzero_parameters",
    "count_parameters",
    "ends_in",
    "input_specs",
    "keras_module",
    "leaf_layers",
    "load_model",
    "output_names",
    "own_weights",
    "predict",
    "predictor",
    "refuse_half_precision",
    "save_model",
    "unlocked",
]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
SUFFIXES = {"keras": (".keras",), "h5": (".h5", ".hdf5")}
LFS_MAGIC = b"version https://git-lfs"
Predictor = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
# A weight file expands to about its own size; a thousandfold expansion is an attack (zip bomb).
MAX_EXPANDED_BYTES = 8 * 1000**3
LARGEST_RATIO = 1000


def quiet_tensorflow() -> None:
    """Ask TensorFlow, absl and oneDNN for errors only. Must run before their first import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Hide what native code writes to file descriptor 2 while TensorFlow starts; nothing of Python's is lost."""
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  (a device, not a file)
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def keras_module() -> Any:
    """The keras package on its TensorFlow backend. Raises MissingExtra when it is not installed."""
    quiet_tensorflow()
    chosen = os.environ.get("KERAS_BACKEND", "tensorflow")
    if chosen != "tensorflow":
        raise Unsupported(f"KERAS_BACKEND is set to {chosen!r} and exporting needs TensorFlow: unset KERAS_BACKEND")
    keras: Any = sys.modules.get("keras") if "tensorflow" in sys.modules else None
    keras = keras or _start_keras()
    if keras.backend.backend() != "tensorflow":
        raise Unsupported(
            f"Keras runs on its {keras.backend.backend()} backend; exporting needs TensorFlow: unset KERAS_BACKEND"
        )
    return keras


def _start_keras() -> Any:
    try:
        with muted_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import keras
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
    except ImportError as cause:
        raise MissingExtra("tensorflow and keras", "convert", "working on a Keras model") from cause
    return keras


def load_model(path: Path, *, trust_code: bool = False) -> Any:
    """A Keras 3 model from a `.keras` or `.h5` file, without its optimizer and compile state.

    Raises InputError (missing, damaged, not a model, NaN weights) and Unsupported (code inside, custom layers, a
    Keras 2 file that Keras 3 cannot read). Code stored in the file (Lambda layers) runs only with `trust_code`.
    """
    kind = _kind_of(path)
    if path.suffix not in SUFFIXES[kind]:  # Keras goes by the name alone
        raise InputError(
            f"{path}: its content is that of a {SUFFIXES[kind][0]} file; rename it to {path.stem}{SUFFIXES[kind][0]}"
        )
    config = _keras_config(path) if kind == "keras" else _h5_config(path)
    if not trust_code:
        _refuse_code(path, config)
    keras = keras_module()
    custom = {} if kind == "keras" else _keras2_layers(keras)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = keras.saving.load_model(path, custom_objects=custom, compile=False, safe_mode=not trust_code)
    except Exception as cause:  # Keras raises anything from KeyError to OSError on damaged files
        raise _loading_error(path, kind, config, cause) from cause
    _refuse_nan(path, model)
    return model


def _kind_of(path: Path) -> str:
    """ "keras" or "h5", by the first bytes and not by the name."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        what = "a SavedModel folder" if (path / "saved_model.pb").exists() else "a folder"
        raise InputError(
            f"{path}: {what}, not a model file; save the model with model.save('name.keras') and pass that"
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as cause:
        raise InputError(f"{path}: cannot be read: {cause.strerror}") from cause
    if head.startswith(ZIP_MAGIC):
        return "keras"
    if head.startswith(HDF5_MAGIC):
        return "h5"
    if head.startswith(LFS_MAGIC):
        raise InputError(f"{path}: a git-lfs pointer, not the model itself; run: git lfs pull")
    what = "empty" if not head else "not a Keras model: neither a .keras archive nor HDF5"
    raise InputError(f"{path}: {what}; save it with model.save('name.keras')")


def _keras_config(path: Path) -> Mapping[str, Any]:
    """The architecture inside a `.keras` archive, read without Keras."""
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bad_archive(path, archive)
            names = set(archive.namelist())
            if "config.json" not in names:
                raise InputError(f"{path}: a zip archive without config.json, so not a .keras model")
            if not names & {"model.weights.h5", "model.weights.json"}:
                raise InputError(f"{path}: the archive holds no weights (model.weights.h5 is missing)")
            config = json.loads(archive.read("config.json"))
            broken = archive.testzip()
            if broken is not None:
                raise InputError(f"{path}: damaged ({broken} fails its checksum); copy or save the file again")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as cause:
        raise InputError(f"{path}: damaged or cut short ({cause}); copy or save the file again") from cause
    if not isinstance(config, dict):
        raise InputError(f"{path}: config.json does not describe a model")
    return config


def _refuse_bad_archive(path: Path, archive: zipfile.ZipFile) -> None:
    for entry in archive.infolist():
        parts = entry.filename.replace("\\", "/").split("/")
        if ".." in parts or entry.filename.startswith(("/", "\\")):
            raise InputError(f"{path}: refused, an entry points outside the archive: {entry.filename!r}")
    expanded = sum(entry.file_size for entry in archive.infolist())
    if expanded > MAX_EXPANDED_BYTES or expanded > LARGEST_RATIO * max(path.stat().st_size, 1):
        raise InputError(f"{path}: refused, its entries expand to {expanded} bytes (zip bomb?)")


def _h5_config(path: Path) -> Mapping[str, Any]:
    """The architecture inside an HDF5 file, with the version of Keras that wrote it under "keras_version"."""
    try:
        import h5py
    except ImportError as cause:
        raise MissingExtra("h5py", "convert", "reading a .h5 model") from cause
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
    return {"model": config, "keras_version": version.decode() if isinstance(version, bytes) else str(version)}


def _objects(config: Any) -> Iterator[Mapping[str, Any]]:
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


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    for item in _objects(config):
        if item["class_name"] in ("Lambda", "__lambda__"):
            inner = item.get("config")
            name = inner.get("name", "") if isinstance(inner, dict) else ""
            raise Unsupported(
                f"{path}: layer {name or 'Lambda'!r} is a Lambda, which runs code stored in the file; "
                "if you trust its author, add --trust-code"
            )


def _keras2_layers(keras: Any) -> dict[str, Any]:
    """Layers of Keras 2 whose saved keys Keras 3 refuses although they hold the default: the key is dropped."""
    defaults: dict[str, dict[str, Any]] = {
        "DepthwiseConv2D": {"groups": 1},
        "DepthwiseConv1D": {"groups": 1},
        "GRU": {"time_major": False},
        "LSTM": {"time_major": False},
        "SimpleRNN": {"time_major": False},
    }

    def adapter(name: str, drop: dict[str, Any]) -> Any:
        plain = getattr(keras.layers, name)

        def from_config(config: dict[str, Any]) -> Any:
            kept = {k: v for k, v in config.items() if not (k in drop and v == drop[k])}
            return plain.from_config(kept)

        return type(name, (), {"from_config": staticmethod(from_config)})

    return {name: adapter(name, drop) for name, drop in defaults.items()}


def _loading_error(path: Path, kind: str, config: Mapping[str, Any], cause: Exception) -> Exception:
    text = " ".join(str(cause).split())
    unknown = re.search(r"(?:Could not locate class|Unknown layer:|Could not deserialize class) '?(\w+)'?", text)
    if unknown:
        return Unsupported(
            f"{path}: holds the custom layer {unknown.group(1)!r}, which this process does not know; "
            "only layers of Keras itself are read from a file"
        )
    version = str(config.get("keras_version", ""))
    if kind == "h5" and not version.startswith("3"):
        return Unsupported(
            f"{path}: written by Keras {version}, and Keras 3 cannot read it: {_first_reason(text)}; "
            "load it with the tf_keras package there, rebuild it in Keras 3 and save it as .keras"
        )
    return InputError(f"{path}: cannot be loaded: {_first_reason(text)}")


def _first_reason(text: str) -> str:
    found = re.search(
        r"(Unrecognized keyword arguments passed to \w+: \{.*?\}|Unrecognized keyword arguments?.{0,80})", text
    )
    return found.group(1) if found else text[:160]


def _refuse_nan(path: Path, model: Any) -> None:
    for leaf in leaf_layers(model):
        for variable in own_weights(leaf.layer):
            values = np.asarray(variable)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise InputError(f"{path}: layer {leaf.path!r} holds NaN or infinite weights ({variable.name})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A layer that owns weights or does work, and the nested models and wrappers that hold it, outermost first."""

    layer: Any
    holders: tuple[Any, ...]

    @property
    def path(self) -> str:
        """Names from the outside in: "encoder/lstm_cell"."""
        return "/".join(layer.name for layer in (*self.holders, self.layer))


def refuse_half_precision(model: Any) -> None:
    """Raise Unsupported for layers that compute in float16 or bfloat16: TFLite has no such kernels."""
    for leaf in leaf_layers(model):
        dtype = leaf.layer.compute_dtype
        if dtype in ("float16", "bfloat16"):
            raise Unsupported(
                f"layer {leaf.layer.name!r} computes in {dtype} (policy {leaf.layer.dtype_policy.name!r}), which "
                "TFLite cannot; build the model with the float32 policy, load these weights into it and save that"
            )


def leaf_layers(model: Any) -> list[Leaf]:
    """Nested models and wrappers opened, in the model's order, each layer once (also where it is shared).

    A wrapper with weights of its own (SpectralNormalization) is listed after what it wraps.
    """
    seen: set[int] = set()

    def walk(parent: Any, holders: tuple[Any, ...]) -> Iterator[Leaf]:
        # Keras's own recursive walk lists the layers of a nested model last to first.
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            inner = list(walk(layer, (*holders, layer)))
            yield from inner
            if not inner or own_weights(layer):
                yield Leaf(layer=layer, holders=holders)

    return list(walk(model, ()))


def own_weights(layer: Any) -> list[Any]:
    """The weights of a layer without those of the layers that it holds."""
    children = layer._flatten_layers(include_self=False, recursive=False)
    inner = {id(weight) for child in children for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def clone(model: Any) -> Any:
    """A copy with its own variables and the same weights; neither optimizer nor compile state is carried."""
    keras = keras_module()
    if not isinstance(model, keras.Sequential) and type(model).__name__ not in ("Functional", "Model"):
        raise Unsupported(
            f"model {model.name!r} is a subclass of keras.Model ({type(model).__name__}); its graph cannot be copied: "
            "rebuild it with the functional API"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Code in the model (Lambda) was allowed when it was loaded; a copy runs nothing new.
        with unlocked(), _uncompiled(model):
            copy = keras.models.clone_model(model, input_tensors=_named_inputs(keras, model))
    if not copy.built:
        copy.build(model.input_shape)
    if len(copy.weights) != len(model.weights):
        raise Unsupported(
            f"model {model.name!r} cannot be copied: a layer is shared through several wrappers (TimeDistributed, "
            "Bidirectional); wrap it once and share the wrapper"
        )
    copy.set_weights(model.get_weights())
    return copy


def unlocked() -> Any:
    """A context in which layers with code (Lambda) are made from their configuration."""
    return keras_module().src.saving.serialization_lib.SafeModeScope(False)


@contextlib.contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """Keras copies the compile state too, and fails on a loss that it cannot find by name; hide it meanwhile."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def _named_inputs(keras: Any, model: Any) -> Any:
    """Inputs for a copy under the names of `input_specs`; None where Keras keeps these itself."""
    names = list(input_specs(model))
    if isinstance(model, keras.Sequential) or names == [tensor.name for tensor in model.inputs]:
        return None
    tensors = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]
    return as_called(model, tensors)


def save_model(model: Any, path: Path) -> None:
    """Write a plain `.keras` file: no optimizer slots, no compile state. Written beside and renamed."""
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.keras")
    try:
        with undoing(lambda: scratch.unlink(missing_ok=True)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clone(model).save(scratch)
            scratch.replace(path)
    except OSError as cause:
        raise OutputError(f"{path}: cannot be written: {cause.strerror or cause}") from cause
    finally:
        scratch.unlink(missing_ok=True)


def input_specs(model: Any) -> dict[str, tuple[tuple[int | None, ...], str]]:
    """Input name -> (shape with the batch first, dtype), in the model's order.

    The name is that of the input layer: the name of its tensor differs between a model and its copy.
    """
    return {t._keras_history.operation.name: (tuple(t.shape), str(t.dtype)) for t in model.inputs}


def output_names(model: Any) -> list[str]:
    """One name for each output: the name of the layer that makes it, numbered where a layer makes several."""
    if isinstance(getattr(model, "output_names", None), list) and len(set(model.output_names)) == len(model.outputs):
        return [str(name).replace("/", "_") for name in model.output_names]
    return [f"output_{index}" for index in range(len(model.outputs))]


def predict(model: Any, inputs: Mapping[str, np.ndarray], *, batch_size: int = 256) -> dict[str, np.ndarray]:
    """Outputs by name for samples given by input name; inference mode, no progress bar."""
    return predictor(model, batch_size=batch_size)(inputs)


def predictor(model: Any, *, batch_size: int = 256) -> Predictor:
    """`predict` for a model that is asked again and again: it is traced once, and its weights may change meanwhile."""
    import tensorflow as tf

    call = tf.function(lambda *tensors: call_model(model, tensors), autograph=False, reduce_retracing=True)

    def outputs(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        ordered = [np.asarray(inputs[name], dtype) for name, (_, dtype) in input_specs(model).items()]
        pieces: list[list[np.ndarray]] = []
        for start in range(0, len(ordered[0]), batch_size):
            made = call(*[tf.constant(a[start : start + batch_size]) for a in ordered])
            pieces.append([t.numpy() for t in made])
        columns = [np.concatenate(column) for column in zip(*pieces, strict=True)]
        return dict(zip(output_names(model), columns, strict=True))

    return outputs


def as_called(model: Any, values: Sequence[Any]) -> Any:
    """Input values in the order of `input_specs`, put into the structure that the model is called with."""
    import tensorflow as tf

    structure = getattr(model, "_inputs_struct", None)
    if isinstance(structure, dict | list | tuple):
        return tf.nest.pack_sequence_as(structure, list(values))
    return values[0] if len(values) == 1 else list(values)


def call_model(model: Any, tensors: Sequence[Any]) -> Any:
    """The model's outputs, flat and in order, for input tensors in the order of `input_specs`; inference mode."""
    import tensorflow as tf

    return tf.nest.flatten(model(as_called(model, tensors), training=False))


def ends_in(model: Any, activation: str) -> bool:
    """Whether the layer that makes the model's first output applies this activation ("softmax", "sigmoid")."""
    maker = model.outputs[0]._keras_history.operation
    name = getattr(getattr(maker, "activation", None), "__name__", "")
    return bool(name == activation or type(maker).__name__.lower() == activation)


def count_parameters(model: Any) -> int:
    """Numbers that the model stores to compute its output (training-only state left out)."""
    return sum(int(np.prod(w.shape)) for w in model.weights)


def count_nonzero_parameters(model: Any) -> int:
    """How many of these are not zero."""
    return sum(int(np.count_nonzero(np.asarray(w))) for w in model.weights)

"""Copy, save, walk and call Keras models: the only place that knows Keras quirks. Some of it serves SavedModels too."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.errors import InputError, OutputError, Unsupported
from edgeprune.formats.contents import printable
from edgeprune.host.interrupts import undoing
from edgeprune.maker.keras.backends import conversions, on_tensorflow
from edgeprune.maker.keras.graphs import functional_of, is_model
from edgeprune.maker.keras.layouts import computed_channels_last
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.starting import quiet_tensorflow, start_keras
from edgeprune.maker.keras.types import AnyModel, Layer, Model, Shape, Tensor, Variable

__all__ = [
    "FEW",
    "Leaf",
    "Predictor",
    "as_called",
    "batch_of",
    "call_model",
    "clone",
    "count_nonzero_parameters",
    "count_parameters",
    "filled_rows",
    "input_specs",
    "keras_module",
    "leaf_layers",
    "one_line",
    "output_names",
    "output_shapes",
    "own_weights",
    "predict",
    "predictor",
    "refresh",
    "refuse_half_precision",
    "refuse_quantized",
    "save_model",
    "share_end",
    "unlocked",
    "weight_of",
]

FEW = 16  # samples
Predictor = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def keras_module(*, any_backend: bool = False) -> ModuleType:
    """The keras package, on TensorFlow unless `any_backend`. Raises MissingExtra when it is not installed."""
    quiet_tensorflow()
    chosen = os.environ.get("KERAS_BACKEND", "tensorflow")
    if any_backend:
        return sys.modules.get("keras") or start_keras(with_tensorflow=chosen == "tensorflow")
    if chosen != "tensorflow":
        raise Unsupported(f"KERAS_BACKEND is set to {chosen!r} and exporting needs TensorFlow: unset KERAS_BACKEND")
    keras = sys.modules.get("keras") if "tensorflow" in sys.modules else None
    keras = keras or start_keras()
    if keras.backend.backend() != "tensorflow":
        raise Unsupported(
            f"Keras runs on its {keras.backend.backend()} backend; exporting needs TensorFlow: unset KERAS_BACKEND"
        )
    return keras


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A layer that owns weights or does work, and the nested models and wrappers that hold it, outermost first."""

    layer: Layer
    holders: tuple[Layer, ...]

    @property
    def path(self) -> str:
        """Names from the outside in: "encoder/lstm_cell"."""
        return "/".join(layer.name for layer in (*self.holders, self.layer))


def refuse_half_precision(model: AnyModel) -> None:
    """Raise Unsupported for layers that compute in float16, bfloat16 or float64: TFLite has no such kernels."""
    for leaf in [] if isinstance(model, SavedModel) else leaf_layers(model):
        dtype = leaf.layer.compute_dtype
        if dtype in ("float16", "bfloat16", "float64"):
            raise Unsupported(
                f"layer {leaf.layer.name!r} computes in {dtype} (policy {leaf.layer.dtype_policy.name!r}), which "
                "TFLite cannot; build the model with the float32 policy, load these weights into it and save that"
            )


def refuse_quantized(model: AnyModel) -> None:
    """Raise Unsupported for layers whose weights Keras stores as integers (`model.quantize`)."""
    for leaf in [] if isinstance(model, SavedModel) else leaf_layers(model):
        mode = getattr(leaf.layer, "quantization_mode", None)
        if mode:
            raise Unsupported(
                f"layer {leaf.layer.name!r} was quantized by Keras (model.quantize({mode!r})), whose integers can be "
                "neither pruned, trained nor converted: save the float model, before quantize, and quantize here "
                "(edgeprune convert --precision int8)"
            )


def leaf_layers(model: Model) -> list[Leaf]:
    """Nested models and wrappers opened, in the model's order, each layer once (also where it is shared).

    A wrapper with weights of its own (SpectralNormalization) is listed after what it wraps.
    """
    seen: set[int] = set()

    def walk(parent: Layer, holders: tuple[Layer, ...]) -> Iterator[Leaf]:
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


def own_weights(layer: Layer) -> list[Variable]:
    """The weights of a layer without those of the layers that it holds."""
    children = layer._flatten_layers(include_self=False, recursive=False)
    inner = {id(weight) for child in children for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def weight_of(layer: Layer, name: str) -> Variable:
    """The variable itself, where a layer shows a computed property under its name."""
    hidden: Any = getattr(layer, f"_{name}", None)
    return hidden if hasattr(hidden, "assign") else getattr(layer, name)


def clone(model: Model) -> Model:
    """A copy with its own variables and the same weights; neither optimizer nor compile state is carried."""
    keras = keras_module(any_backend=True)
    if not isinstance(model, keras.Sequential) and type(model).__name__ not in ("Functional", "Model"):
        raise Unsupported(
            f"model {model.name!r} is a subclass of keras.Model ({type(model).__name__}); its graph cannot be copied: "
            "rebuild it with the functional API"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Code in the model (Lambda) was allowed when it was loaded; a copy runs nothing new.
        with unlocked(), _uncompiled(model):
            try:
                copy = keras.models.clone_model(model, input_tensors=_named_inputs(keras, model))
            except Exception as cause:  # a file may declare for a layer what the graph around it does not give
                raise Unsupported(f"model {model.name!r} cannot be copied: {one_line(cause)[:160]}") from cause
    if not copy.built:
        copy.build(model.input_shape)
    if len(copy.weights) != len(model.weights):
        raise Unsupported(
            f"model {model.name!r} cannot be copied: a layer is shared through several wrappers (TimeDistributed, "
            "Bidirectional); wrap it once and share the wrapper"
        )
    copy.set_weights(model.get_weights())
    refresh(copy)
    return copy


def refresh(model: Layer) -> None:
    """Let layers that compute with a copy of their weights (Normalization) take it again; also for a single layer."""
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def unlocked() -> AbstractContextManager[object]:
    """A context in which layers with code (Lambda) are made from their configuration."""
    return keras_module(any_backend=True).src.saving.serialization_lib.SafeModeScope(False)


@contextlib.contextmanager
def _uncompiled(model: Model) -> Iterator[None]:
    """Keras copies the compile state too, and fails on a loss that it cannot find by name; hide it meanwhile."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def _named_inputs(keras: ModuleType, model: Model) -> object:
    """Inputs for a copy under the names of `input_specs`; None where Keras keeps these itself."""
    names = list(input_specs(model))
    if isinstance(model, keras.Sequential) or names == [tensor.name for tensor in model.inputs]:
        return None
    tensors = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]
    return as_called(model, tensors)


def save_model(model: Model, path: Path) -> None:
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


def input_specs(model: AnyModel) -> dict[str, tuple[Shape, str]]:
    """Input name -> (shape with the batch first, dtype), in the model's order.

    The name is that of the input layer: the name of its tensor differs between a model and its copy.
    """
    if isinstance(model, SavedModel):
        return {t.name: (t.shape, t.dtype) for t in model.inputs}
    if not hasattr(model, "inputs") or model.inputs is None:
        raise Unsupported(
            f"model {model.name!r} is a subclass of keras.Model ({type(model).__name__}), whose inputs are not "
            "declared: rebuild it with the functional API, or write it with model.export('folder') and convert that"
        )
    return {t._keras_history.operation.name: (tuple(t.shape), str(t.dtype)) for t in model.inputs}


def output_names(model: AnyModel) -> list[str]:
    """One name for each output: its key where the model returns a dict, else the name of the layer that makes it,
    numbered where a layer makes several."""
    if isinstance(model, SavedModel):
        return [t.name for t in model.outputs]
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(structure, dict) and len(structure) == len(model.outputs):
        return [str(key).replace("/", "_") for key in sorted(structure)]  # the order in which it is flattened
    if isinstance(getattr(model, "output_names", None), list) and len(set(model.output_names)) == len(model.outputs):
        return [str(name).replace("/", "_") for name in model.output_names]
    return [f"output_{index}" for index in range(len(model.outputs))]


def output_shapes(model: AnyModel) -> dict[str, Shape]:
    """Output name -> shape with the batch first, in the model's order."""
    ends: Sequence[Any] = model.outputs
    return {name: tuple(end.shape) for name, end in zip(output_names(model), ends, strict=True)}


def predict(model: AnyModel, inputs: Mapping[str, np.ndarray], *, batch_size: int = 256) -> dict[str, np.ndarray]:
    """Outputs by name for samples given by input name; inference mode, no progress bar."""
    few = len(next(iter(inputs.values()))) <= FEW or not on_tensorflow()  # a trace would cost more than it saves
    return _outputs_of(model, functools.partial(_called, model) if few else _traced(model), batch_size)(inputs)


def predictor(model: AnyModel, *, batch_size: int = 256) -> Predictor:
    """`predict` for a model that is asked again and again: it is traced once, and its weights may change meanwhile."""
    return _outputs_of(model, _traced(model), batch_size)


def _called(model: AnyModel, *tensors: Tensor) -> Sequence[Tensor]:
    return call_model(model, tensors)


def _traced(model: AnyModel) -> Callable[..., Sequence[Tensor]]:
    import tensorflow as tf

    return tf.function(functools.partial(_called, model), autograph=False, reduce_retracing=True)


def _outputs_of(model: AnyModel, call: Callable[..., Sequence[Tensor]], batch_size: int) -> Predictor:
    constant, numbers = conversions()

    def outputs(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        specs = input_specs(model)
        pieces: list[list[np.ndarray]] = []
        count = len(inputs[next(iter(specs))])
        fixed = max((shape[0] or 1 for shape, _ in specs.values()))
        for start in range(0, count, fixed if fixed > 1 else batch_size):
            rows = filled_rows(start, fixed, count) if fixed > 1 else slice(start, start + batch_size)
            made = call(*map(constant, batch_of(model, inputs, rows)))
            pieces.append([numbers(t)[: count - start] for t in made])
        columns = [np.concatenate(column) for column in zip(*pieces, strict=True)]
        return dict(zip(output_names(model), columns, strict=True))

    return outputs


def batch_of(model: AnyModel, inputs: Mapping[str, Any], rows: np.ndarray | slice) -> list[np.ndarray]:
    """Rows of the inputs [samples, ...] as the model takes them: in the order and the dtypes of `input_specs`."""
    return [np.asarray(inputs[name][rows], dtype) for name, (_, dtype) in input_specs(model).items()]


def filled_rows(start: int, size: int, count: int) -> np.ndarray:
    """Indices of the batch of `size` from `start` on, filled up with the last of `count` samples."""
    return np.minimum(np.arange(start, start + size), count - 1)


def as_called(model: Model, values: Sequence[object]) -> object:
    """Input values in the order of `input_specs`, put into the structure that the model is called with."""
    structure = getattr(model, "_inputs_struct", None)
    if isinstance(structure, dict | list | tuple):
        return keras_module(any_backend=True).tree.pack_sequence_as(structure, list(values))
    return values[0] if len(values) == 1 else list(values)


def call_model(model: AnyModel, tensors: Sequence[Tensor], *, as_written: bool = False) -> list[Tensor]:
    """The model's outputs, flat and in order, for input tensors in the order of `input_specs`; inference mode.

    With `as_written` operations that only a GPU computes (channels first) stay in a graph that is traced. Raises
    InputError for a model that was made and cannot be computed: a file may hold settings that nobody has looked at
    until then, and Keras raises anything for them.
    """
    if isinstance(model, SavedModel):
        return model.call(tensors)
    keras = keras_module(any_backend=True)
    layout = contextlib.nullcontext() if as_written else computed_channels_last(keras, model)
    try:
        with layout:
            return list(keras.tree.flatten(model(as_called(model, tensors), training=False)))
    except Exception as cause:
        reason = f"{type(cause).__name__}: {one_line(cause)[:160]}"
        raise InputError(f"model {model.name!r} cannot be computed: {reason}") from cause


def one_line(cause: Exception) -> str:
    """A message of Keras or TensorFlow without line breaks, colours, names of nodes and lists of arguments."""
    text = " ".join(re.sub(r"\x1b\[[\d;]*m", "", str(cause)).split())
    text = re.sub(r"\{\{function_node \S+\}\} ?", "", text).partition(" Arguments received by ")[0]
    return printable(text)


def share_end(model: Model, output: int = 0) -> str:
    """The activation, "softmax" or "sigmoid", of the layer that makes one of the model's outputs, "" where it makes no
    shares; nested models are opened, and what only lays numbers out is passed."""
    tensor: Any = model.outputs[output]
    while True:
        history = tensor._keras_history
        maker = history.operation
        inner = getattr(maker, "stands_for", maker)  # the model that a layer computes
        if is_model(inner):
            tensor = functional_of(inner).outputs[history.tensor_index]
        elif type(maker).__name__ in ("Flatten", "Identity", "Reshape"):
            tensor = maker._inbound_nodes[history.node_index].input_tensors[0]
        else:
            names = getattr(getattr(maker, "activation", None), "__name__", ""), type(maker).__name__.lower()
            return next((end for end in ("softmax", "sigmoid") if end in names), "")


def count_parameters(model: AnyModel) -> int:
    """Numbers that the model stores to compute its output (training-only state left out)."""
    return sum(int(np.prod(w.shape)) for w in model.weights)


def count_nonzero_parameters(model: AnyModel) -> int:
    """How many of these are not zero."""
    return sum(int(np.count_nonzero(np.asarray(w))) for w in model.weights)

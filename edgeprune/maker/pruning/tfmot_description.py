"""A Keras 3 model as plain values that tf_keras can rebuild it from, for the child process in which tfmot runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.graphs import functional_of
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import Layer, Model, Node

__all__ = ["CARRIED", "NATIVE", "Json", "describe", "refuse_shared"]

Json = dict[str, Any]  # plain values, for another process
NATIVE = 'use backend = "native"'

# Layer class -> the options that mean the same in Keras 3 and in tf_keras and are carried over as they stand.
_CONV = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "use_bias", "activation")
_POOL = ("pool_size", "strides", "padding", "data_format")
CARRIED: dict[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "AveragePooling1D": _POOL,
    "AveragePooling2D": _POOL,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv1D": (*_CONV, "groups"),
    "Conv2D": (*_CONV, "groups"),
    "Conv2DTranspose": (*_CONV, "output_padding"),
    "Dense": ("units", "use_bias", "activation"),
    "DepthwiseConv2D": (*_CONV[1:], "depth_multiplier"),
    "Dropout": ("rate",),
    "Embedding": ("input_dim", "output_dim"),
    "Flatten": ("data_format",),
    "GlobalAveragePooling1D": ("data_format", "keepdims"),
    "GlobalAveragePooling2D": ("data_format", "keepdims"),
    "GlobalMaxPooling1D": ("data_format", "keepdims"),
    "GlobalMaxPooling2D": ("data_format", "keepdims"),
    "LeakyReLU": ("negative_slope",),
    "MaxPooling1D": _POOL,
    "MaxPooling2D": _POOL,
    "Multiply": (),
    "Normalization": ("axis", "invert"),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "SeparableConv2D": (*_CONV, "depth_multiplier"),
    "Softmax": ("axis",),
    "UpSampling2D": ("size", "data_format", "interpolation"),
    "ZeroPadding2D": ("padding", "data_format"),
}
RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}
# Of no effect on a model that has its weights, or handled by name elsewhere.
IGNORED = frozenset({"dtype", "mean", "name", "renorm_momentum", "seed", "trainable", "variance"})
# Options that tf_keras lacks or treats differently: accepted only while they are off.
OFF = frozenset({"mask_zero", "noise_shape", "quantization_config", "renorm", "renorm_clipping", "synchronized"})
# hard_sigmoid is left out: Keras 3 computes relu6(x + 3) / 6, tf_keras clips 0.2 x + 0.5.
ACTIVATIONS = {
    **{n: n for n in ("elu", "exponential", "gelu", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "softmax")},
    **{n: n for n in ("softplus", "softsign", "swish", "tanh")},
    "silu": "swish",
}
REGULARIZERS = {"L1": ("l1",), "L1L2": ("l1", "l2"), "L2": ("l2",)}


def describe(model: Model) -> Json:
    """The functional graph as plain JSON values: layers (name, class, tf_keras options) and calls in execution order.

    Each call names its layer and the calls that its inputs come from, by index. Raises Unsupported for a layer, an
    option or an operation that has no known equal in tf_keras.
    """
    keras = keras_module()
    functional = functional_of(model)
    layers: dict[int, Json] = {}
    order: dict[int, int] = {}
    calls: list[Json] = []
    made: dict[int, int] = {}
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            layer = node.operation
            if id(layer) not in layers:
                order[id(layer)] = len(layers)
                layers[id(layer)] = _describe_layer(keras, layer)
            _check_call(keras, node)
            made[id(node.outputs[0])] = len(calls)
            calls.append({"layer": order[id(layer)], "inputs": [made[id(t)] for t in node.input_tensors]})
    return {
        "layers": list(layers.values()),
        "calls": calls,
        "inputs": [made[id(tensor)] for tensor in functional.inputs],
        "outputs": [made[id(tensor)] for tensor in functional.outputs],
    }


def _refusal(layer: Layer, what: str) -> Unsupported:
    return Unsupported(f"layer {layer.name!r} ({type(layer).__name__}) cannot be rebuilt for tfmot: {what}; {NATIVE}")


def _check_call(keras: ModuleType, node: Node) -> None:
    plain = len(keras.tree.flatten(node.arguments.args)) == len(node.input_tensors)
    # Keras notes training=False and mask=None where the caller said nothing.
    if not plain or any(value not in (None, False) for value in node.arguments.kwargs.values()):
        raise _refusal(node.operation, "it is called with more than its input tensors")


def _describe_layer(keras: ModuleType, layer: Layer) -> Json:
    kind, config = type(layer).__name__, layer.get_config() if isinstance(layer, keras.Layer) else {}
    if type(layer) is keras.layers.InputLayer:
        if config.get("sparse") or config.get("ragged") or config.get("optional"):
            raise _refusal(layer, "a sparse, ragged or optional input")
        options: Json = {"shape": list(layer.batch_shape[1:]), "dtype": str(layer.dtype)}
        return {"name": layer.name, "kind": kind, "options": options}
    if kind not in CARRIED or type(layer) is not getattr(keras.layers, kind):
        raise _refusal(layer, "this class is not one of those known to be equal in tf_keras")
    if layer.dtype_policy.name != "float32":
        raise _refusal(layer, f"its dtype policy is {layer.dtype_policy.name}, not float32")
    options = {}
    for key, value in config.items():
        if (carried := _option(layer, kind, key, value)) is not None:
            options[RENAMED.get((kind, key), key)] = carried
    if kind == "Normalization":
        options |= _statistics(layer)
    return {"name": layer.name, "kind": kind, "options": options, "trainable": bool(layer.trainable)}


def _option(layer: Layer, kind: str, key: str, value: object) -> object:
    """The option as tf_keras takes it, None where it can be left out. Raises Unsupported for anything else."""
    if key in IGNORED or key.endswith("_initializer") or value is None:
        return None
    if key in OFF and not value:
        return None
    if key == "activation" and key in CARRIED[kind] and isinstance(value, str) and value in ACTIVATIONS:
        return ACTIVATIONS[value]
    if key.endswith("_regularizer") and isinstance(value, dict) and value.get("class_name") in REGULARIZERS:
        factors = {name: float(value["config"][name]) for name in REGULARIZERS[value["class_name"]]}
        return {"l1": 0.0, "l2": 0.0, **factors}
    if key in CARRIED[kind] and key != "activation" and _is_plain(value):
        return value
    shown = value.get("class_name", "...") if isinstance(value, dict) else value
    raise _refusal(layer, f"{key} = {shown!s:.60}")


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _statistics(layer: Layer) -> Json:
    """Mean and variance of a Normalization layer, which tf_keras takes as options instead of weights."""
    if len(layer._keep_axis) > 1:
        raise _refusal(layer, "it normalises over more than one axis")
    return {name: np.asarray(getattr(layer, name)).ravel().tolist() for name in ("mean", "variance")}


def refuse_shared(graph: Mapping[str, Any], layers: Iterable[str]) -> None:
    """Raise Unsupported for a layer to prune that the graph calls more than once."""
    for layer in layers:
        uses = sum(graph["layers"][call["layer"]]["name"] == layer for call in graph["calls"])
        if uses != 1:
            raise Unsupported(
                f"layer {layer!r} is used {uses} times, and tfmot would count each use as a step; {NATIVE}"
            )

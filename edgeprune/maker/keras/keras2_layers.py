"""Settings of single layers of Keras 2 for Keras 3: pure functions on JSON-like values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.types import Config

__all__ = ["OBJECTS", "RECURRENT", "dtype_of", "object_of", "plain_name", "settings_of"]

RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
RANDOM = (
    *("RandomBrightness", "RandomContrast", "RandomCrop", "RandomFlip", "RandomRotation", "RandomTranslation"),
    "RandomZoom",
)
# Functions of tf.nn and old names -> Keras 3. hard_sigmoid is missing on purpose: Keras 3 has another function of it.
ACTIVATIONS = {
    **{name: name for name in ("elu", "exponential", "gelu", "leaky_relu", "linear", "log_softmax", "mish", "relu")},
    **{name: name for name in ("relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh")},
    "hard_swish": "hard_silu",
    "log_softmax_v2": "log_softmax",
    "softmax_v2": "softmax",
    "swish": "silu",
}
ANYTHING: Any = object()
# Keys that Keras 3 does not have: dropped when they hold one of these values, an error otherwise.
DROPPED: dict[str, dict[str, tuple[Any, ...]]] = {
    "BatchNormalization": {
        "renorm": (False,),
        "virtual_batch_size": (None,),
        "adjustment": (None,),
        "fused": (ANYTHING,),
        **{f"renorm_{key}": (ANYTHING,) for key in ("clipping", "momentum")},  # they count with renorm only
    },
    **{name: {"groups": (1, None)} for name in ("DepthwiseConv1D", "DepthwiseConv2D")},
    **{f"Conv{n}DTranspose": {"groups": (1, None)} for n in (1, 2, 3)},
    **{
        f"SeparableConv{n}D": {
            "groups": (1, None),
            **{f"kernel_{key}": (ANYTHING,) for key in ("initializer", "regularizer", "constraint")},  # never used
        }
        for n in (1, 2)
    },
    **{name: {"time_major": (False,), "implementation": (ANYTHING,)} for name in RECURRENT},
    **{name: {"implementation": (ANYTHING,)} for name in ("LSTMCell", "GRUCell", "SimpleRNNCell")},
    "Embedding": {"input_length": (ANYTHING,), "activity_regularizer": (None,)},
    "MultiHeadAttention": {
        **dict.fromkeys(("query_shape", "key_shape", "value_shape"), (ANYTHING,)),
        "softmax_robust_masking": (False,),
    },
    "Attention": {"causal": (False,)},
    "AdditiveAttention": {"causal": (False,)},
    **{name: {"rng_type": (ANYTHING,)} for name in RANDOM},
    **{f"SpatialDropout{n}D": {"trainable": (ANYTHING,), "noise_shape": (None,)} for n in (1, 2, 3)},
    "Discretization": {"trainable": (ANYTHING,)},
    "InputLayer": {"sparse": (False,), "ragged": (False,), "trainable": (ANYTHING,)},
    "Lambda": dict.fromkeys(("module", "function_type", "output_shape_type", "output_shape_module"), (ANYTHING,)),
}
RENAMED = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "InputLayer": {"batch_input_shape": "batch_shape"},
}
OBJECTS = {
    "_initializer": "keras.initializers",
    "_regularizer": "keras.regularizers",
    "_constraint": "keras.constraints",
}
# Layers that Keras 3 left behind -> what they are.
GONE = {
    "AbstractRNNCell": "a class of Keras 2",
    "CuDNNGRU": "a layer of TensorFlow 1",
    "CuDNNLSTM": "a layer of TensorFlow 1",
    "DenseFeatures": "a layer of Keras 2",
    "LocallyConnected1D": "a layer of Keras 2",
    "LocallyConnected2D": "a layer of Keras 2",
    "RandomHeight": "a layer of Keras 2",
    "RandomWidth": "a layer of Keras 2",
    "TensorFlowOpLayer": "an operator as TensorFlow 2.0 to 2.3 wrote it",
    "ThresholdedReLU": "a layer of Keras 2",
}


def settings_of(kind: str, told: Mapping[str, Any], custom: frozenset[str]) -> Config:
    """The settings of a layer of Keras itself. Raises Unsupported, naming the layer, for one that Keras 3 lacks."""
    name = str(told.get("name", kind))
    if kind in GONE:
        raise Unsupported(f"layer {name!r} is a {kind}, {GONE[kind]}, which has no equal in Keras 3")
    config: Config = {}
    for key, value in _defaults(kind, told):
        allowed = DROPPED.get(kind, {}).get(key)
        if allowed is not None:
            if allowed[0] is not ANYTHING and value not in allowed:
                raise Unsupported(f"layer {name!r} ({kind}) has {key}={value!r}, which has no equal in Keras 3")
            continue
        new = RENAMED.get(kind, {}).get(key, key)
        if new != "batch_input_shape":
            config[new] = _setting(name, kind, new, value, custom)
    if "name" in config:
        config["name"] = plain_name(name)
    return config


def _setting(name: str, kind: str, key: str, value: object, custom: frozenset[str]) -> Any:
    if key in ("activation", "recurrent_activation"):
        return _activation(name, value, custom)
    if key == "dtype":
        return dtype_of(value)
    if kind == "BatchNormalization" and key == "axis" and isinstance(value, list):
        if len(value) != 1:
            raise Unsupported(f"layer {name!r} normalises over the axes {value}; Keras 3 takes one axis")
        return value[0]
    if kind == "Lambda" and key == "function" and isinstance(value, list):
        code = dict(zip(("code", "defaults", "closure"), value, strict=True))
        return {"class_name": "__lambda__", "config": code}
    for ending, module in OBJECTS.items():
        if key.endswith(ending) and isinstance(value, Mapping):
            return _setting_object(module, value, custom)
    return _untupled(value)


def _setting_object(module: str, value: Mapping[str, Any], custom: frozenset[str]) -> Mapping[str, Any]:
    """An initializer, regularizer or constraint."""
    if {value.get("class_name"), value.get("registered_name")} & custom:
        return value
    inner = {k: v for k, v in (value.get("config") or {}).items() if not (k == "dtype" and "init" in module)}
    return object_of(module, str(value["class_name"]), inner)


def _activation(name: str, value: object, custom: frozenset[str]) -> Any:
    if value is None:
        return None
    told = value
    if isinstance(told, Mapping):  # a function, or a layer used as one
        told = told["config"] if isinstance(told.get("config"), str) else told.get("class_name")
    if told in custom or (isinstance(value, Mapping) and value.get("registered_name") in custom):
        return value
    if told == "hard_sigmoid":
        raise Unsupported(
            f"layer {name!r} has the activation hard_sigmoid, which is clip(0.2 x + 0.5) in Keras 2 and another "
            "function in Keras 3"
        )
    if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
        kind = str(value["class_name"])
        return object_of("keras.layers", kind, settings_of(kind, value["config"], custom))
    if told not in ACTIVATIONS:
        raise Unsupported(
            f"layer {name!r} has the activation {told!r}, which Keras 3 does not know; if it is your own, define "
            "it in a Python file and add --custom FILE.py"
        )
    return ACTIVATIONS[told]


def object_of(module: str | None, kind: str, config: Config) -> Config:
    """An object as Keras 3 writes one of its own."""
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _defaults(kind: str, told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings, and one whose default Keras changed after the file was written."""
    yield from told.items()
    if kind in ("GRU", "GRUCell") and "reset_after" not in told:
        yield "reset_after", False


def dtype_of(value: object) -> Any:
    """The name of a data type or of a policy."""
    if isinstance(value, Mapping):
        return value["config"]["name"]
    return value


def _untupled(value: object) -> Any:
    if isinstance(value, Mapping):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return [_untupled(item) for item in value["items"]]
        return value
    return [_untupled(item) for item in value] if isinstance(value, list) else value


def plain_name(name: str) -> str:
    """A name without the slashes that Keras 3 refuses."""
    return re.sub(r"/+", "_", name).strip("_") or "layer"

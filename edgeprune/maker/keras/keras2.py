"""Configurations of Keras 2 as Keras 3 reads them: pure functions on JSON-like values, without TensorFlow or Keras.

Whatever a configuration says is either translated, or is a default that changes nothing, or is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.admission import unknown_object
from edgeprune.maker.keras.keras2_layers import OBJECTS, RECURRENT, dtype_of, object_of, plain_name, settings_of
from edgeprune.maker.keras.keras2_ops import PREVIOUS, Call, calls_of, constant
from edgeprune.maker.keras.known_names import CODE
from edgeprune.maker.keras.types import Config

__all__ = ["PRUNED", "Part", "Translation", "translate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A layer: its names in Keras 2 and Keras 3, its class in Keras 2, and the layers of a model inside it."""

    before: str
    now: str
    kind: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What Keras 3 makes the model from, and the layers in the order in which Keras 2 stored their weights."""

    config: Config
    parts: tuple[Part, ...]


MODELS = ("Functional", "Model", "Sequential")
NESTED_IN = ("TimeDistributed", "Bidirectional", "RNN", "StackedRNNCells", "SpectralNormalization")
OLD_NAMES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "Model": "Functional",
}
# What tensorflow-model-optimization wraps layers in.
PRUNED = "PruneLowMagnitude"
QUANTIZING = frozenset({"QuantizeAnnotate", "QuantizeLayer", "QuantizeWrapper", "QuantizeWrapperV2"})
# Layers that keras.applications defines beside its models.
HOMES = {
    "CustomScaleLayer": "keras.src.applications.inception_resnet_v2",
    "LayerScale": "keras.src.applications.convnext",
    "StochasticDepth": "keras.src.applications.convnext",
}


def translate(config: Mapping[str, Any], *, custom: frozenset[str] = frozenset()) -> Translation:
    """A model's serialised object ({"class_name", "config"}) of Keras 2 for Keras 3.

    `custom` names classes and functions that the user brings along; what carries such a name is left as it is.
    Raises Unsupported, naming the layer, for what Keras 3 does not have, and InputError for nonsense.
    """
    try:
        made, part = _Translator(custom=custom).layer(config)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as cause:
        raise InputError(
            f"its architecture is not one that Keras 2 writes ({type(cause).__name__}: {cause})"
        ) from cause
    if part.kind not in MODELS:
        raise Unsupported(f"holds the class {part.kind!r}, which is neither a Sequential nor a functional model")
    return Translation(config=made, parts=part.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Translator:
    custom: frozenset[str]

    def layer(self, item: Mapping[str, Any]) -> tuple[Config, Part]:
        """A layer or model, without its nodes."""
        written = str(item["class_name"])
        kind = written.rpartition(">")[2]
        if {written, kind, item.get("registered_name")} & self.custom:
            return self._own(item, kind)
        if kind == PRUNED:
            return self._stripped(item)
        if kind in QUANTIZING:
            raise Unsupported(
                f"layer {str(item['config'].get('name', kind))!r} is of quantization-aware training in "
                "tensorflow-model-optimization, which Keras 3 lacks: save the model there as a folder "
                "(model.save('folder', save_format='tf')) and convert that, with the ranges that it learned "
                "(edgeprune convert folder --to tflite --precision int8); or save the float model and quantize that"
            )
        if ">" in written and kind not in CODE:  # somebody's layer, which may be called as one of Keras's
            raise unknown_object(None, written, str(item["config"].get("name", "")))
        kind = OLD_NAMES.get(kind, kind)
        if kind in MODELS:
            return self._model(item, kind)
        config = settings_of(kind, item["config"], self.custom)
        if written == "SyncBatchNormalization":
            config["synchronized"] = True
        before = str(item["config"].get("name", kind))
        part = Part(before=before, now=str(config.get("name", "")), kind=written)
        if kind in NESTED_IN:
            inner: list[Part] = []
            for key, value in config.items():
                config[key] = self._inside(value, inner)
            if kind == "TimeDistributed" and inner:
                part = replace(part, parts=tuple(inner))
        return object_of(HOMES.get(kind, "keras.layers"), kind, config), part

    def _inside(self, value: object, found: list[Part]) -> Any:
        """Layers among the settings of a wrapper."""
        if isinstance(value, list):
            return [self._inside(item, found) for item in value]
        if not isinstance(value, Mapping) or "config" not in value or value.get("module") in OBJECTS.values():
            return value
        made, part = self.layer(value)
        found.append(part)
        return made

    def _own(self, item: Mapping[str, Any], kind: str) -> tuple[Config, Part]:
        """A layer of the user's: its configuration is that of its own code."""
        config = {key: value for key, value in item["config"].items() if key != "batch_input_shape"}
        config["name"] = plain_name(str(config.get("name", kind)))
        if isinstance(config.get("dtype"), Mapping):
            config["dtype"] = dtype_of(config["dtype"])
        made = object_of(None, kind, config)
        made["registered_name"] = item.get("registered_name") or item["class_name"]
        return made, Part(before=str(item["config"].get("name", kind)), now=config["name"], kind=kind)

    def _stripped(self, item: Mapping[str, Any]) -> tuple[Config, Part]:
        """What a wrapper of tensorflow-model-optimization prunes, without it."""
        made, inner = self.layer(item["config"]["layer"])
        return made, Part(before=str(item["config"]["name"]), now=inner.now, kind=PRUNED, parts=(inner,))

    def _model(self, item: Mapping[str, Any], kind: str) -> tuple[Config, Part]:
        told = item["config"]
        if isinstance(told, list):  # a Sequential of the first Keras 2 releases
            told = {"name": "sequential", "layers": told}
        name = str(told.get("name", kind.lower()))
        build = _Sequential if kind == "Sequential" else _Graph
        config, parts = build(translator=self, told=told).make()
        config["name"] = plain_name(name)
        made = object_of("keras" if kind == "Sequential" else "keras.src.models.functional", kind, config)
        return made, Part(before=name, now=config["name"], kind=kind, parts=parts)


@dataclass(slots=True, kw_only=True)
class _Sequential:
    translator: _Translator
    told: Mapping[str, Any]

    def make(self) -> tuple[Config, tuple[Part, ...]]:
        """The configuration of a Sequential, with an input layer in any case."""
        items = list(self.told["layers"])
        first = items[0]
        pairs = [self.translator.layer(item) for item in items]
        _unique(pairs)
        layers = [made for made, _ in pairs]
        if first["class_name"] != "InputLayer" and not _starts_with_input(first):
            shape = first["config"].get("batch_input_shape") or self.told.get("build_input_shape")
            if shape is None:
                raise Unsupported(
                    "is a Sequential that was never built; build it with an input shape and save it again"
                )
            dtype = "int32" if layers[0]["class_name"] == "Embedding" else "float32"
            name = f"{layers[0]['config']['name']}_input"
            layers.insert(
                0, object_of("keras.layers", "InputLayer", {"batch_shape": shape, "dtype": dtype, "name": name})
            )
        return {"layers": layers}, tuple(part for _, part in pairs if part.kind != "InputLayer")


@dataclass(slots=True, kw_only=True)
class _Graph:
    """A functional model."""

    translator: _Translator
    told: Mapping[str, Any]
    offsets: dict[str, int] = field(default_factory=dict)  # how Keras 2 counts the calls of each layer
    names: dict[str, str] = field(default_factory=dict)
    outputs: dict[tuple[str, int], str] = field(default_factory=dict)  # an operator's call -> its last operation
    taken: set[str] = field(default_factory=set)

    def make(self) -> tuple[Config, tuple[Part, ...]]:
        """The configuration of a functional model: layers with their nodes."""
        items = self.told["layers"]
        self.offsets = {str(item["name"]): int(_starts_with_input(item)) for item in items}
        graphs = {str(item["name"]) for item in items if item["class_name"] in ("Functional", "Model")}
        pairs = [self.translator.layer(item) for item in items if not _is_operator(item)]
        _unique(pairs)
        self.names = {part.before: part.now for _, part in pairs}
        self.taken = set(self.names.values())
        for item in items:
            if _is_operator(item):
                self._name_operator(item)
        layers: list[Config] = []
        real = iter(pairs)
        for item in items:
            if _is_operator(item):
                layers += self._operator(item)
                continue
            made, part = next(real)
            made["name"] = part.now
            made["inbound_nodes"] = [self._node(part.kind, node) for node in item["inbound_nodes"]]
            layers.append(made)
        ends = {key: self._ends(self.told[key], graphs) for key in ("input_layers", "output_layers")}
        config = {"trainable": self.told.get("trainable", True), "layers": layers, **ends}
        return config, tuple(part for _, part in pairs)

    def _name_operator(self, item: Mapping[str, Any]) -> None:
        """Each call of an operator becomes an operation of its own, since its settings belong to the call."""
        for index, _ in enumerate(item["inbound_nodes"]):
            self.outputs[str(item["name"]), index] = self._fresh(plain_name(str(item["name"])))

    def _fresh(self, name: str) -> str:
        made, number = name, 0
        while made in self.taken:
            number += 1
            made = f"{name}_{number}"
        self.taken.add(made)
        return made

    def _tensor(self, leaf: Sequence[Any]) -> Config:
        name, node, index = str(leaf[0]), int(leaf[1]), int(leaf[2])
        if (name, node) in self.outputs:
            return _keras_tensor(self.outputs[name, node], 0, index)
        return _keras_tensor(self.names[name], node - self.offsets[name], index)

    def _value(self, value: object) -> Any:
        """An argument: tensors of the model, constants, or a structure of both."""
        if isinstance(value, list | tuple):
            if self._is_tensor(value):
                return self._tensor(value)
            return [self._value(item) for item in value]
        if isinstance(value, Mapping):
            if value.get("class_name") == "__tuple__":
                return [self._value(item) for item in value["items"]]
            return {key: self._value(item) for key, item in value.items()}
        return value

    def _is_tensor(self, value: object) -> TypeGuard[Sequence[Any]]:
        return (
            isinstance(value, list | tuple)
            and len(value) == 3
            and isinstance(value[0], str)
            and value[0] in self.offsets
            and all(isinstance(number, int) for number in value[1:])
        )

    def _first(self, node: Mapping[str, Any] | Sequence[Any]) -> tuple[Any, Config]:
        """The first argument of a call and the keywords that Keras 2 wrote beside each of its tensors."""
        if isinstance(node, Mapping):
            made = {key: self._first(item) for key, item in node.items()}
            return {key: value for key, (value, _) in made.items()}, next((k for _, k in made.values()), {})
        if node and isinstance(node[0], str):
            keywords = dict(node[3]) if len(node) > 3 else {}
            return (constant(node[2]) if node[0] == "_CONSTANT_VALUE" else self._tensor(node)), keywords
        pairs = [self._first(item) for item in node]
        return [value for value, _ in pairs], pairs[0][1] if pairs else {}

    def _node(self, kind: str, node: Mapping[str, Any] | Sequence[Any]) -> Config:
        """A call of a layer."""
        first, keywords = self._first(node)
        told = {key: self._value(value) for key, value in keywords.items()}
        if isinstance(first, list) and len(first) == 1:
            first = first[0]
        if isinstance(first, list) and kind in RECURRENT:
            first, told["initial_state"] = first[0], first[1:]
        return {"args": [first], "kwargs": told}

    def _operator(self, item: Mapping[str, Any]) -> Iterator[Config]:
        name, function = str(item["name"]), str(item["config"]["function"])
        for index, node in enumerate(item["inbound_nodes"]):
            first, keywords = self._first(node)
            told = {key: self._value(value) for key, value in keywords.items()}
            calls = calls_of(function, name, first, told)
            previous = ""
            for number, call in enumerate(calls, start=1):
                last = number == len(calls)
                now = self.outputs[name, index] if last else self._fresh(f"{plain_name(name)}_part")
                yield _operation(call, now, previous)
                previous = now

    def _ends(self, told: object, graphs: set[str]) -> Any:
        """Inputs or outputs. Keras 3 counts a nested model's own node here, and not among the arguments."""
        if self._is_tensor(told):
            name, node, index = _keras_tensor_history(self._tensor(told))
            return [name, node + (told[0] in graphs), index]
        if isinstance(told, Mapping):
            return {key: self._ends(item, graphs) for key, item in told.items()}
        if not isinstance(told, list) or isinstance(told[0], str):
            raise ValueError(f"no layer for the end {told!r}")
        if len(told) == 1:
            return self._ends(told[0], graphs)
        return [self._ends(item, graphs) for item in told]


def _operation(call: Call, name: str, previous: str) -> Config:
    place, kind = call.operation.split(".")
    arguments = [_keras_tensor(previous, 0, 0) if value is PREVIOUS else value for value in call.arguments]
    made = object_of(f"keras.src.ops.{place}", kind, {**call.settings, "name": name})
    made["name"] = name
    made["inbound_nodes"] = [{"args": arguments, "kwargs": dict(call.keywords)}]
    return made


def _keras_tensor(name: str, node: int, index: int) -> Config:
    history = {"shape": [None], "dtype": "float32", "keras_history": [name, node, index]}
    return {"class_name": "__keras_tensor__", "config": history}


def _keras_tensor_history(tensor: Mapping[str, Any]) -> tuple[str, int, int]:
    name, node, index = tensor["config"]["keras_history"]
    return name, node, index


def _is_operator(item: Mapping[str, Any]) -> bool:
    return item["class_name"] in ("TFOpLambda", "SlicingOpLambda")


def _starts_with_input(item: Mapping[str, Any]) -> bool:
    """Whether this is a model whose calls Keras 2 counts from one: its own input is node zero."""
    if item["class_name"] not in MODELS or not isinstance(item["config"], Mapping):
        return False
    layers = item["config"]["layers"]
    return bool(layers) and layers[0]["class_name"] == "InputLayer"


def _unique(pairs: list[tuple[Config, Part]]) -> None:
    """Number the names of a model's layers that were told apart by a slash only."""
    slashed = [i for i, (_, part) in enumerate(pairs) if part.now != part.before]
    taken = {part.now for _, part in pairs if part.now == part.before}
    for i in slashed:
        made, part = pairs[i]
        name, number = part.now, 0
        while name in taken:
            number += 1
            name = f"{part.now}_{number}"
        taken.add(name)
        made["config"]["name"] = name
        pairs[i] = (made, replace(part, now=name))

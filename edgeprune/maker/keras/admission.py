"""What the configuration of a model names is resolved here, and not by Keras: against a list, wherever it stands.

`admit` gives the configuration back with every object under its one reviewed name; what is not on the list is refused.
Read for it: keras/src/saving/serialization_lib.py, keras/src/models/functional.py, keras/src/legacy/saving.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.contents import printable
from edgeprune.maker.keras.known_names import CODE
from edgeprune.maker.keras.known_objects import Known, find
from edgeprune.maker.keras.types import Config

__all__ = ["admit", "unknown_object"]

_MOST_DEPTH = 200  # dicts and lists in each other: about ten for each model in a model
_MOST_CALLS = 100_000  # of layers: a model in a model counts as often as it is called
_LARGEST_NUMBER = 2**63  # sizes, seeds and identities are below
_FAMILIES = {
    "_initializer": "keras.initializers",
    "_regularizer": "keras.regularizers",
    "_constraint": "keras.constraints",
}
_NUMBERS = frozenset(
    {"bool", "bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64"}
    | {"uint8", "uint16", "uint32", "uint64"}
)
# Settings in which a layer takes the name of a file as well as a list. Keras keeps a vocabulary in the configuration or
# in the archive's assets; a file elsewhere is none of them.
_LISTS_ONLY = dict.fromkeys(("StringLookup", "IntegerLookup", "TextVectorization"), ("vocabulary", "idf_weights"))


def admit(config: Mapping[str, Any], *, custom: Mapping[str, object]) -> Config:
    """The configuration of a model with every object in it resolved, without its compile state.

    `custom` are the objects of the user's own files, by name. Raises Unsupported for what is not on the list, with the
    layer it stands in and what to do, and InputError for what no Keras writes.
    """
    try:
        made = _Walk(custom=custom).resolved(config, _Place())
        if (calls := _calls(made)) > _MOST_CALLS:
            raise InputError(f"refused, its models call each other so often that {calls:,} layers would be called")
    except RecursionError as cause:
        raise InputError("its architecture is nested too deep") from cause
    return made


def unknown_object(module: str | None, name: str, place: str, *, what: str = "layer") -> Unsupported:
    """The error for an object that is on no list: what it is, where it stands (a layer's name), what to do."""
    where = f" (in layer {printable(place)!r})" if place else ""
    is_of_keras = module is not None and module.partition(".")[0] == "keras"
    if is_of_keras and name in vars(sys.modules.get(str(module), object)):
        full = printable(f"{module}.{name}")
        return Unsupported(
            f"names {full!r}{where}, which is not among the parts of Keras that a model file may use; "
            "if you trust its author, add --trust-code"
        )
    named = f" (named {printable(place)!r})" if place else ""
    return Unsupported(
        f"holds the custom {what} {printable(name.rpartition('>')[2])!r}{named}, which Keras does not know; "
        "define it in a Python file and add --custom FILE.py"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where in the configuration: the layer, the setting in it, and how deep."""

    layer: str = ""
    setting: str = ""
    depth: int = 0

    def inside(self, setting: str = "", layer: str = "") -> _Place:
        if self.depth >= _MOST_DEPTH:
            raise InputError("its architecture is nested too deep")
        return _Place(layer=layer or self.layer, setting=setting or self.setting, depth=self.depth + 1)

    def wrong(self, what: str) -> InputError:
        where = f"layer {printable(self.layer)!r}" if self.layer else "its architecture"
        return InputError(f"{where} {what}; copy or save the file again")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    custom: Mapping[str, object]

    def value(self, value: object, place: _Place) -> Any:
        """A setting: objects in it are resolved, anything else is as it was."""
        if isinstance(value, dict):
            if "class_name" in value:
                return self.resolved(value, place)
            return {_plain(key, place): self.value(item, place.inside(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, place.inside()) for item in value]
        return _plain(value, place)

    def resolved(self, item: Mapping[str, Any], place: _Place) -> Config:
        """A serialised object."""
        kind, module, registered, inner = _fields(item, place)
        place = place.inside(layer=_title(item, inner))
        if kind in CODE and kind.startswith("__"):
            raise _is_code(kind, place)
        if kind.startswith("__"):
            return self._literal(kind, item, place)
        known, own = None, self._own(kind, module, registered, inner)
        if own and kind == "function":
            return {"module": None, "class_name": kind, "config": own, "registered_name": own}
        if own:
            made: Config = {"module": module, "class_name": kind, "registered_name": own}
        elif kind == "function":
            return self._function(module, inner, place)
        else:
            known = self._known(kind, module or _family(place), registered, place)
            if not known.is_class:
                return _as_function(known)
            _no_files(known, inner, place)
            made = {"module": known.module, "class_name": known.name, "registered_name": None}
        made["config"] = self.value(inner, place)
        return made | self._rest(item, place, is_own=known is None)

    def _rest(self, item: Mapping[str, Any], place: _Place, *, is_own: bool) -> Config:
        """What stands beside the settings of an object. The compile state is left out: nothing here trains with it."""
        rest: Config = {}
        if "name" in item:
            rest["name"] = self.value(item["name"], place)
        shared = item.get("shared_object_id")
        if shared is not None:
            if not isinstance(shared, int | str):
                raise place.wrong("has a shared_object_id that is no number")
            rest["shared_object_id"] = shared
        if item.get("build_config") is not None:
            rest["build_config"] = self.value(item["build_config"], place)
        if "inbound_nodes" in item:
            nodes = item["inbound_nodes"]
            if not isinstance(nodes, list):
                raise place.wrong("has calls that are no list")
            rest["inbound_nodes"] = [_Call(place=place, is_own=is_own).node(node) for node in nodes]
        return rest

    def _own(self, kind: str, module: str | None, registered: str | None, inner: object) -> str:
        """The name under which the user's files define this; "" where they do not."""
        asked = [registered, inner if kind == "function" else kind]
        if module is not None and module.partition(".")[0] == "keras" and registered is None:
            return ""  # one of Keras's own, whatever names the user's file has
        for name in asked:
            if isinstance(name, str) and name in self.custom:
                return name
        return ""

    def _known(self, kind: str, module: str | None, registered: str | None, place: _Place) -> Known:
        """An object of Keras. Raises Unsupported or InputError for all else."""
        tail = kind.rpartition(">")[2]
        if ">" in kind and tail in CODE:
            raise _is_code(tail, place)
        if "." in kind:
            raise place.wrong(f"has the class {printable(kind)!r}, and no class has a dot in its name")
        known = find(module, kind)
        if known is None or (registered is not None and ">" in registered):
            raise unknown_object(module, registered if registered and ">" in registered else kind, place.layer)
        if known.refused:
            raise _is_code(known.name, place) if known.name in CODE else _not_allowed(known, place)
        return known

    def _function(self, module: str | None, name: object, place: _Place) -> Config:
        if not isinstance(name, str):
            raise place.wrong("has a function without a name")
        # Keras before 3.6 wrote "builtins" for its own.
        homes = ("keras.activations", "keras.losses", "keras.metrics") if module in (None, "builtins") else (module,)
        known = next((found for home in homes if (found := find(home, name)) is not None), None)
        if known is None or known.is_class:
            raise unknown_object(module, name, place.layer, what="function")
        if known.refused:
            raise _not_allowed(known, place)
        return _as_function(known)

    def _literal(self, kind: str, item: Mapping[str, Any], place: _Place) -> Config:
        """A value that JSON has no form for."""
        config = item.get("config")
        if kind in ("__numpy__", "__tensor__"):
            return {"class_name": kind, "config": _array(config, place)}
        if kind == "__bytes__" and isinstance(config, dict) and isinstance(config.get("value"), str):
            return {"class_name": kind, "config": {"value": config["value"]}}
        if kind == "__ellipsis__":
            return {"class_name": kind, "config": {}}
        if kind == "__slice__" and isinstance(config, dict):
            return {"class_name": kind, "config": _slice(config, place)}
        if kind == "__keras_tensor__":
            return {"class_name": kind, "config": _tensor(config, place)}
        raise place.wrong(f"has a value of the kind {printable(kind)!r}, which no model needs")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A call of a layer in a graph: tensors, numbers, and structures of them. Only a user's own layer is told more."""

    place: _Place
    is_own: bool

    def node(self, node: object) -> Any:
        """Keras 3 writes {"args", "kwargs"}; the older form lists [layer, node, tensor, keywords] for each tensor."""
        if isinstance(node, dict):
            args, kwargs = node.get("args"), node.get("kwargs", {})
            if not isinstance(args, list) or not isinstance(kwargs, dict):
                raise self.place.wrong("is called with something else than arguments")
            made = {"args": self.argument(args, self.place), "kwargs": self.argument(kwargs, self.place)}
            if not any(_is_tensor(value) for value in _leaves(made)):
                raise self.place.wrong("is called without a tensor of the model")
            return made
        if not isinstance(node, list) or not node:
            raise self.place.wrong("is called with something else than arguments")
        return [self._old(told) for told in node]

    def _old(self, told: object) -> list[Any]:
        if not isinstance(told, list) or len(told) not in (3, 4):
            raise self.place.wrong("is called with something else than tensors")
        keywords = told[3] if len(told) == 4 else {}
        if not isinstance(keywords, dict):
            raise self.place.wrong("is called with keywords that are none")
        return [*_history(told[:3], self.place), self.argument(keywords, self.place)]

    def argument(self, value: object, place: _Place) -> Any:
        if isinstance(value, dict) and "class_name" in value:
            if value["class_name"] not in ("__keras_tensor__", "__numpy__", "__tensor__", "__slice__", "__ellipsis__"):
                raise place.wrong("is called with an object, which no layer takes")
            return _Walk(custom={}).resolved(value, place)
        if isinstance(value, dict):
            return {key: self.argument(item, place.inside()) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.argument(item, place.inside()) for item in value]
        if isinstance(value, str) and not self.is_own:  # no layer or operation of Keras takes one
            raise Unsupported(
                f"layer {printable(place.layer)!r} is called with the text {printable(value)!r}, which no layer of "
                "Keras takes; if you trust its author, add --trust-code"
            )
        return _plain(value, place)


def _fields(item: Mapping[str, Any], place: _Place) -> tuple[str, str | None, str | None, Any]:
    """Class, module, registered name and settings. Raises InputError where they are of other kinds."""
    if not isinstance(item, dict) or not isinstance(item.get("class_name"), str) or not item["class_name"]:
        raise place.inside(layer=_title(item, None)).wrong("has a class whose name is no text")
    for key in ("module", "registered_name"):
        if not isinstance(item.get(key), str | None):
            raise place.inside(layer=_title(item, None)).wrong(f"has a {key} that is no text")
    kind, inner = item["class_name"], item.get("config")
    inner = {} if inner is None else inner
    if not isinstance(inner, dict) and not (kind == "function" or kind.startswith("__")):
        raise place.inside(layer=_title(item, None)).wrong("has settings that are no table")
    registered = item.get("registered_name")
    return kind, item.get("module"), registered or (kind if ">" in kind else None), inner


def _plain(value: Any, place: _Place) -> Any:
    """A value that TensorFlow can take. JSON can write half a character, and numbers of any length."""
    if isinstance(value, int) and abs(value) >= _LARGEST_NUMBER:
        raise place.wrong("has a number that is larger than any size")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as cause:
            raise place.wrong("has a text that is no UTF-8") from cause
    return value


def _calls(value: object) -> int:
    """How many layers are called when the graph is made, models in models included."""
    if isinstance(value, list):
        return sum(map(_calls, value))
    if not isinstance(value, dict):
        return 0
    inside = sum(_calls(item) for key, item in value.items() if key != "inbound_nodes")
    return (1 + inside) * max(len(value["inbound_nodes"]), 1) if "inbound_nodes" in value else inside


def _title(item: object, inner: object) -> str:
    """The name of a layer, where the object is one."""
    settings = inner if isinstance(inner, dict) else item.get("config") if isinstance(item, dict) else None
    name = settings.get("name") if isinstance(settings, dict) else None
    if not isinstance(name, str) and isinstance(item, dict):
        name = item.get("name")
    is_policy = isinstance(item, dict) and str(item.get("class_name")).endswith("DTypePolicy")
    return name if isinstance(name, str) and not is_policy else ""


def _family(place: _Place) -> str | None:
    """The module of an object that is written without one, from the setting that it stands in."""
    return next((module for ending, module in _FAMILIES.items() if place.setting.endswith(ending)), None)


def _as_function(known: Known) -> Config:
    return {"module": known.module, "class_name": "function", "config": known.name, "registered_name": known.name}


def _is_code(kind: str, place: _Place) -> Unsupported:
    return Unsupported(
        f"layer {printable(place.layer) or 'Lambda'!r} is {CODE[kind]}; if you trust its author, add --trust-code"
    )


def _not_allowed(known: Known, place: _Place) -> Unsupported:
    where = f"layer {printable(place.layer)!r}" if place.layer else "the model"
    return Unsupported(
        f"{where} holds {known.module}.{known.name} ({known.refused}), which a model file may not name; "
        "if you trust its author, add --trust-code"
    )


def _no_files(known: Known, inner: object, place: _Place) -> None:
    for key in _LISTS_ONLY.get(known.name, ()):
        value = inner.get(key) if isinstance(inner, dict) else None
        is_array = isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__")
        if value is not None and not isinstance(value, list) and not is_array:
            raise Unsupported(
                f"layer {printable(place.layer)!r} takes its {key} from a file outside of the model; save it with the "
                f"words themselves ({known.name}({key}=[...])), or, if you trust its author, add --trust-code"
            )


def _array(config: object, place: _Place) -> Config:
    """Numbers in lists, and their type."""
    if not isinstance(config, dict) or config.get("dtype") not in _NUMBERS:
        raise place.wrong("holds an array of something else than numbers")
    if any(not isinstance(value, int | float) for value in _leaves(config.get("value"))):
        raise place.wrong("holds an array with something else than numbers in it")
    return {"value": config["value"], "dtype": config["dtype"]}


def _slice(config: Mapping[str, Any], place: _Place) -> Config:
    made = {key: config.get(key) for key in ("start", "stop", "step")}
    if any(not isinstance(value, int | None) for value in made.values()):
        raise place.wrong("takes a slice whose ends are no numbers")
    return made


def _tensor(config: object, place: _Place) -> Config:
    if not isinstance(config, dict):
        raise place.wrong("is called with a tensor that is none")
    shape, dtype = config.get("shape"), config.get("dtype")
    if not isinstance(shape, list) or any(not isinstance(size, int | None) for size in shape):
        raise place.wrong("is called with a tensor whose shape is none")
    if not isinstance(dtype, str):
        raise place.wrong("is called with a tensor of no type")
    return {"shape": shape, "dtype": dtype, "keras_history": _history(config.get("keras_history"), place)}


def _history(told: object, place: _Place) -> list[Any]:
    """Which tensor of the graph: the layer, the number of its call, the number of the output."""
    if not isinstance(told, list | tuple) or len(told) != 3 or not isinstance(told[0], str):
        raise place.wrong("is called with a tensor that comes from nowhere")
    if any(not isinstance(number, int) or isinstance(number, bool) for number in told[1:]):
        raise place.wrong("is called with a tensor that comes from nowhere")
    return list(told)


def _is_tensor(value: object) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _leaves(value: object) -> Iterator[Any]:
    """What a structure of lists and tables holds; an object is one thing."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list | tuple):
            stack.extend(item)
        elif isinstance(item, dict) and "class_name" not in item:
            stack.extend(item.values())
        else:
            yield item

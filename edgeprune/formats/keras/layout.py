"""Whose array is it: the layers of a Keras model, told from the names in its weight file and from its architecture.

Three layouts (keras/src/legacy/saving/legacy_h5_format.py, keras/src/saving/saving_lib.py): in a `.h5` a group for each
layer, with its weights by name; in the `model.weights.h5` of a `.keras` file, and in a `.weights.h5` of Keras 3, a tree
of the model's attributes ("layers", a list, numbers objects of one class) with variables by number in groups "vars".
The architecture is only looked at: nothing in it is made or run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeprune.formats.elements import Shape
from edgeprune.formats.keras.hdf5_session import Hdf5File
from edgeprune.formats.weights import Uses

__all__ = ["KERAS_USES", "Owner", "Part", "architecture", "channel_axis", "owners", "store_name"]

_MAX_DEPTH = 64
_OPTIMIZER = frozenset({"optimizer", "optimizer_weights"})
_TRAINING = frozenset(
    {"_compile_loss", "_compile_metrics", "_loss_tracker", "_metrics", "compile_loss", "compile_metrics", "loss"}
    | {"loss_tracker", "metrics"}
)
_SEEDS = re.compile(r"(random_|seed_)generator(_\d+)?|random_seed")
_LISTS = frozenset({"_layer_checkpoint_dependencies", "layers"})
_RECURRENT = frozenset({"bidirectional", "convlstm1d", "convlstm2d", "convlstm3d", "gru", "lstm", "simplernn"})
_ATTENTION = frozenset({"groupqueryattention", "groupedqueryattention", "multiheadattention"})
_CELL = ("kernel", "recurrent_kernel", "bias")
_NORMALIZATION = ("gamma", "beta", "moving_mean", "moving_variance")
# What a layer keeps, in the order of its numbered variables (keras/src/layers).
_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "batchnormalization": _NORMALIZATION,
    "conv1d": ("kernel", "bias"),
    "conv1dtranspose": ("kernel", "bias"),
    "conv2d": ("kernel", "bias"),
    "conv2dtranspose": ("kernel", "bias"),
    "conv3d": ("kernel", "bias"),
    "conv3dtranspose": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwiseconv1d": ("depthwise_kernel", "bias"),
    "depthwiseconv2d": ("depthwise_kernel", "bias"),
    "einsumdense": ("kernel", "bias"),
    "embedding": ("embeddings",),
    "groupnormalization": ("gamma", "beta"),
    "layernormalization": ("gamma", "beta"),
    "prelu": ("alpha",),
    "separableconv1d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "separableconv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
}
KERAS_USES = Uses(
    weights={"": ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")},
    biases={"": (*_NORMALIZATION, "alpha", "bias", "mean", "variance", "count")},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A layer in the architecture; `parts` are those of a model inside. `lacks` are weights it was made without."""

    name: str
    kind: str
    parts: tuple[Part, ...] = ()
    lacks: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Owner:
    """A layer, and its arrays as (name, path in the file). `group` is "" for the model, "optimizer" or "training"."""

    name: str
    kind: str
    group: str = ""
    arrays: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Known:
    """Layers by what a weight file calls them; made once for each model and kept, a file may name thousands."""

    lists: dict[int, tuple[dict[str, Part], dict[str, Part]]] = field(default_factory=dict)
    inside: dict[int, dict[str, Part]] = field(default_factory=dict)

    def by_step(self, parts: tuple[Part, ...], step: str, told: str) -> Part | None:
        """The layer that has the name that the file tells or, where it tells none, is numbered so."""
        names, steps = self._list(parts)
        return names.get(told) if told else steps.get(step)

    def by_name(self, parts: tuple[Part, ...], name: str) -> Part | None:
        return self._list(parts)[0].get(name)

    def leaves(self, part: Part) -> dict[str, Part]:
        """The layers of all models inside a layer."""
        if id(part) not in self.inside:
            self.inside[id(part)] = {leaf.name: leaf for leaf in _leaves(part.parts)}
        return self.inside[id(part)]

    def _list(self, parts: tuple[Part, ...]) -> tuple[dict[str, Part], dict[str, Part]]:
        if id(parts) not in self.lists:
            counts: dict[str, int] = {}
            numbered = {store_name(part.kind, counts): part for part in parts}
            self.lists[id(parts)] = {part.name: part for part in reversed(parts)}, numbered
        return self.lists[id(parts)]


def architecture(text: str) -> tuple[Part, ...]:
    """The layers in a model's JSON; () where it says nothing of them. Raises ValueError for what is no JSON."""
    try:
        config = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return _parts(config, 0)


def owners(file: Hdf5File, parts: tuple[Part, ...]) -> list[Owner]:
    """The layers of a weight file in its order, the optimizer and the state of training last."""
    root = "model_weights/" if any(array.path.startswith("model_weights/") for array in file.arrays) else ""
    legacy = bool(root) or "" in file.orders
    known = _Known()
    found: dict[tuple[str, str], Owner] = {}
    for path in _in_order(file, root.rstrip("/")) if legacy else [array.path for array in file.arrays]:
        first = path.partition("/")[0]
        if first in _OPTIMIZER:
            owner, name = Owner(name="optimizer", kind="", group="optimizer"), path.partition("/")[2]
        elif first in _TRAINING or _SEEDS.search(path):
            title, _, name = path.rpartition("/")
            owner = Owner(name=title.removesuffix("/vars"), kind="", group="training")
        elif legacy:
            owner, name = _by_name(path.removeprefix(root), parts, known)
        else:
            owner, name = _by_number(path, parts, file, known)
        found.setdefault((owner.group, owner.name), owner).arrays.append((name, path))
    order = {title: at for at, title in enumerate(_titles(parts, ""))}
    return sorted(found.values(), key=lambda owner: (owner.group != "", order.get(owner.name, len(order))))


def channel_axis(kind: str, name: str, shape: Shape) -> int | None:
    """The axis of the output channels in an array of a layer; None where there is none or it is not known.

    Keras keeps them last, but for the kernels of depthwise (.., in, multiplier) and transposed (.., out, in)
    convolutions.
    """
    last, kind = name.rpartition("/")[2], _flat(kind)
    if len(shape) < 2:
        return 0 if shape else None
    if last == "depthwise_kernel" or kind.startswith("depthwiseconv"):
        return len(shape) - 2
    if kind.startswith("conv") and kind.endswith("transpose"):
        return len(shape) - 2
    if last in ("kernel", "pointwise_kernel", "recurrent_kernel"):
        return len(shape) - 1 if kind or len(shape) == 2 else None
    return None


def store_name(kind: str, counts: dict[str, int]) -> str:
    """The name of an object in a list of a `.keras` archive: its class in snake case, numbered."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    name = f"private{name}" if name.startswith("_") else name
    counts[name] = counts.get(name, -1) + 1
    return f"{name}_{counts[name]}" if counts[name] else name


def _flat(kind: str) -> str:
    return kind.replace("_", "").lower()


def _parts(config: Any, depth: int) -> tuple[Part, ...]:
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else inner  # Keras before 2.2 kept the bare list
    if not isinstance(layers, list) or depth > _MAX_DEPTH:
        return ()
    return tuple(_part(item, depth) for item in layers if isinstance(item, dict))


def _part(item: Mapping[str, Any], depth: int) -> Part:
    inner = item.get("config")
    settings: Mapping[str, Any] = inner if isinstance(inner, dict) else {}
    lacks = {key: name for key, name in (("scale", "gamma"), ("center", "beta")) if settings.get(key) is False}
    return Part(
        name=str(item.get("name") or settings.get("name") or ""),
        kind=str(item.get("class_name") or "").rpartition(">")[2],
        parts=_parts(item, depth + 1),
        lacks=frozenset(lacks.values()),
    )


def _in_order(file: Hdf5File, root: str) -> list[str]:
    """Paths of the arrays, layer by layer and weight by weight as the file's lists tell, what is in none behind."""
    known = {array.path: None for array in file.arrays}
    wanted = []
    for layer in file.orders.get(root, ()):
        group = f"{root}/{layer}".lstrip("/")
        wanted += [f"{group}/{weight}" for weight in file.orders.get(group, ())]
    return list(dict.fromkeys([path for path in wanted if path in known] + list(known)))


def _by_name(path: str, parts: tuple[Part, ...], known: _Known) -> tuple[Owner, str]:
    """The owner of an array in a layer's group, and the array's name without the layer's."""
    layer, _, rest = path.partition("/")
    names = [name for name in rest.split("/") if name]
    if not names:
        return Owner(name="", kind=""), layer
    part = known.by_name(parts, layer)
    if names[0] == layer and len(names) > 1:
        names = names[1:]
    title = layer
    inner = known.leaves(part) if part is not None else {}
    chosen = next((at for at, name in enumerate(names[:-1]) if name in inner), None)
    if chosen is not None:
        part, title = inner[names[chosen]], f"{layer}/{names[chosen]}"
        names = names[chosen + 1 :]
    # TensorFlow numbers what it makes: "kernel:0".
    return Owner(name=title, kind=part.kind if part else ""), re.sub(r":\d+$", "", "/".join(names))


def _leaves(parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        if part.parts:
            yield from _leaves(part.parts)
        else:
            yield part


def _by_number(path: str, parts: tuple[Part, ...], file: Hdf5File, known: _Known) -> tuple[Owner, str]:
    """The owner of a numbered variable, and the variable's name where its layer's are known."""
    steps = path.split("/")
    title, kind, part, at, here = [], "", None, 0, parts
    while at + 1 < len(steps) and steps[at] in _LISTS:
        told = file.names.get("/".join([*steps[: at + 2], "vars"]), "")
        part = known.by_step(here, steps[at + 1], told)
        title.append(told or (part.name if part else "") or steps[at + 1])
        kind = part.kind if part else re.sub(r"_\d+$", "", steps[at + 1])
        here, at = part.parts if part else (), at + 2
    rest = [step for step in steps[at:] if step != "vars"]
    if not title:  # an attribute of a model that is no list of layers
        title, rest = rest[:-1], rest[-1:]
    return Owner(name="/".join(title), kind=kind), "/".join(_variable(kind, rest, part))


def _variable(kind: str, rest: Sequence[str], part: Part | None) -> Sequence[str]:
    """The path of a variable in its layer, with its name for its number where that is known."""
    names = _VARIABLES.get(_flat(kind), ())
    if names == _NORMALIZATION and part is None:
        return rest  # made with or without gamma and beta
    if len(rest) > 1:
        flat = _flat(kind)
        is_dense = flat in _ATTENTION and rest[-2].endswith("_dense")
        names = _CELL if rest[-2] == "cell" and flat in _RECURRENT else ("kernel", "bias") if is_dense else ()
    left = [name for name in names if part is None or name not in part.lacks]
    if rest and rest[-1] in map(str, range(len(left))):
        return [*rest[:-1], left[int(rest[-1])]]
    return rest


def _titles(parts: Sequence[Part], above: str) -> Iterator[str]:
    for part in parts:
        yield f"{above}{part.name}"
        yield from _titles(part.parts, f"{above}{part.name}/")

"""Operator nodes of Keras 2 (TFOpLambda, SlicingOpLambda): which operation of Keras 3 computes the same.

Pure functions on JSON-like values; nothing of TensorFlow is imported or run. A function without an entry here is
refused by name: it is never looked up and called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.types import Config

__all__ = ["PREVIOUS", "Call", "calls_of", "constant"]

ABSENT = object()
PREVIOUS = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An operation of Keras 3: "numpy.Add", its settings, and what it is called with.

    An argument is a translated value, or PREVIOUS for the output of the call before this one.
    """

    operation: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a function of TensorFlow becomes an operation.

    `others`: names of its further tensors, in order; `settings`: TensorFlow's name of a setting -> Keras's name;
    `given`: Keras's settings where TensorFlow's default differs; `only`: settings that must hold one of these values.
    """

    operation: str
    others: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def _table() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}
    pairs = {
        "add": "Add",
        "subtract": "Subtract",
        "multiply": "Multiply",
        "truediv": "TrueDivide",
        "divide": "Divide",
        "pow": "Power",
        "maximum": "Maximum",
        "minimum": "Minimum",
        "floordiv": "FloorDivide",
        "floormod": "Mod",
        "mod": "Mod",
        "divide_no_nan": "DivideNoNan",
        "atan2": "Arctan2",
        "greater": "Greater",
        "greater_equal": "GreaterEqual",
        "less": "Less",
        "less_equal": "LessEqual",
        "equal": "Equal",
        "not_equal": "NotEqual",
        "logical_and": "LogicalAnd",
        "logical_or": "LogicalOr",
    }
    singles = {
        "abs": "Absolute",
        "negative": "Negative",
        "exp": "Exp",
        "log": "Log",
        "log1p": "Log1p",
        "expm1": "Expm1",
        "sqrt": "Sqrt",
        "square": "Square",
        "sign": "Sign",
        "sin": "Sin",
        "cos": "Cos",
        "tan": "Tan",
        "tanh": "Tanh",
        "floor": "Floor",
        "ceil": "Ceil",
        "round": "Round",
        "reciprocal": "Reciprocal",
        "logical_not": "LogicalNot",
    }
    for name, operation in pairs.items():
        rules[f"math.{name}"] = Rule(operation=f"numpy.{operation}", others=("y",))
    rules["__operators__.add"] = rules["math.add"]
    rules["math.floormod"] = rules["math.mod"]
    for name, operation in singles.items():
        rules[f"math.{name}"] = Rule(operation=f"numpy.{operation}")
    for name in ("relu", "relu6", "elu", "selu", "silu", "swish", "softplus", "softsign", "sigmoid", "tanh"):
        operation = "numpy.Tanh" if name == "tanh" else f"nn.{'Silu' if name == 'swish' else name.capitalize()}"
        rules[f"nn.{name}"] = Rule(operation=operation, only={"beta": (1.0,)})
    rules["math.sigmoid"], rules["math.softplus"] = rules["nn.sigmoid"], rules["nn.softplus"]
    rules["math.rsqrt"], rules["math.erf"] = Rule(operation="math.Rsqrt"), Rule(operation="math.Erf")
    for name, operation in {"softmax": "Softmax", "log_softmax": "LogSoftmax"}.items():
        rules[f"nn.{name}"] = Rule(operation=f"nn.{operation}", settings={"axis": "axis"}, given={"axis": -1})
    rules["nn.leaky_relu"] = Rule(operation="nn.LeakyRelu", settings={"alpha": "negative_slope"})
    rules["nn.gelu"] = Rule(operation="nn.Gelu", settings={"approximate": "approximate"}, given={"approximate": False})
    over = {"axis": "axis", "keepdims": "keepdims"}
    for name in ("mean", "sum", "max", "min", "prod", "any", "all", "std", "variance"):
        operation = "Var" if name == "variance" else name.capitalize()
        rules[f"math.reduce_{name}"] = Rule(operation=f"numpy.{operation}", settings=over)
    rules["math.reduce_logsumexp"] = Rule(operation="math.Logsumexp", settings=over)
    for name in ("expand_dims", "squeeze"):
        operation = "ExpandDims" if name == "expand_dims" else "Squeeze"
        rules[name] = Rule(operation=f"numpy.{operation}", settings={"axis": "axis"}, only={"squeeze_dims": (None,)})
        rules[f"compat.v1.{name}"] = rules[name]
    for name, operation in {"concat": "Concatenate", "stack": "Stack"}.items():
        rules[name] = Rule(operation=f"numpy.{operation}", settings={"axis": "axis"})
    rules["unstack"] = Rule(operation="core.Unstack", settings={"axis": "axis", "num": "num"})
    rules["reshape"] = Rule(operation="numpy.Reshape", settings={"shape": "newshape"})
    rules["transpose"] = Rule(operation="numpy.Transpose", settings={"perm": "axes"}, only={"conjugate": (False,)})
    rules["compat.v1.transpose"] = rules["transpose"]
    rules["tile"] = Rule(operation="numpy.Tile", settings={"multiples": "repeats"})
    rules["cast"] = Rule(operation="core.Cast", settings={"dtype": "dtype"})
    rules["where"] = Rule(operation="numpy.Where", others=("x", "y"))
    rules["clip_by_value"] = Rule(
        operation="numpy.Clip", settings={"clip_value_min": "x_min", "clip_value_max": "x_max"}
    )
    rules["broadcast_to"] = Rule(operation="numpy.BroadcastTo", settings={"shape": "shape"})
    rules["reverse"] = Rule(operation="numpy.Flip", settings={"axis": "axis"})
    rules["roll"] = Rule(operation="numpy.Roll", settings={"shift": "shift", "axis": "axis"})
    rules["stop_gradient"] = Rule(operation="core.StopGradient")
    rules["gather"] = Rule(
        operation="numpy.Take",
        others=("indices",),
        settings={"axis": "axis"},
        given={"axis": 0},
        only={"batch_dims": (0,), "validate_indices": (None,)},
    )
    rules["compat.v1.gather"] = rules["gather"]
    rules["nn.depth_to_space"] = Rule(
        operation="nn.DepthToSpace", settings={"block_size": "block_size"}, only={"data_format": ("NHWC",)}
    )
    rules["nn.space_to_depth"] = Rule(
        operation="nn.SpaceToDepth", settings={"block_size": "block_size"}, only={"data_format": ("NHWC",)}
    )
    return rules


RULES = _table()


def calls_of(function: str, layer: str, first: object, keywords: Mapping[str, Any]) -> list[Call]:
    """The operations of Keras 3, one after the other, that compute what a node of Keras 2 computes.

    `first` and the tensors among `keywords` are translated already. Raises Unsupported, naming the function.
    """
    told = {key: value for key, value in keywords.items() if key != "name"}
    special = _SPECIAL.get(function)
    if special is not None:
        return special(_Node(function=function, layer=layer, first=first, told=told))
    rule = RULES.get(function)
    if rule is None:
        raise Unsupported(f"layer {layer!r} is the operator tf.{function}, which has no equal in Keras 3")
    node = _Node(function=function, layer=layer, first=first, told=told)
    others = [node.take(name) for name in rule.others]
    settings = dict(rule.given)
    for theirs, ours in rule.settings.items():
        value = node.plain(theirs, ABSENT)
        if value is not ABSENT and not (value is None and ours in rule.given):
            settings[ours] = value
    for name, allowed in rule.only.items():
        if (value := node.plain(name, allowed[0])) not in allowed:
            raise node.refusal(name, value)
    node.finish()
    return [Call(operation=rule.operation, settings=settings, arguments=(first, *others))]


@dataclass(slots=True, kw_only=True)
class _Node:
    """A node of Keras 2 whose arguments are taken out one by one, so that none is lost silently."""

    function: str
    layer: str
    first: Any
    told: Config

    def take(self, name: str, default: object = ABSENT) -> Any:
        """An argument, tensor or not."""
        value = self.told.pop(name, default)
        if value is ABSENT:
            raise Unsupported(f"layer {self.layer!r} (operator tf.{self.function}) has no argument {name!r}")
        return constant(value)

    def plain(self, name: str, default: object) -> Any:
        """An argument that must be known now: a number, a list, a name."""
        value = self.told.pop(name, default)
        if _holds_tensor(value):
            raise Unsupported(
                f"layer {self.layer!r} is the operator tf.{self.function} whose {name!r} is computed by the model; "
                "Keras 3 needs a fixed value there"
            )
        return value

    def refusal(self, name: str, value: object) -> Unsupported:
        """The error for a setting that Keras 3 does not have."""
        return Unsupported(
            f"layer {self.layer!r} is the operator tf.{self.function} with {name}={value!r}, "
            "which has no equal in Keras 3"
        )

    def finish(self) -> None:
        """Refuse what nobody took."""
        for name, value in self.told.items():
            if value is not None:
                raise self.refusal(name, value)


def _holds_tensor(value: object) -> bool:
    if isinstance(value, Mapping):
        return value.get("class_name") in ("__keras_tensor__", "__numpy__") or any(map(_holds_tensor, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_tensor, value))


def constant(value: object) -> Any:
    """A list of numbers as the array that Keras 3 makes of it; anything else as it is."""
    if not isinstance(value, list) or _holds_other(value):
        return value
    whole = all(isinstance(number, int) for number in _numbers(value))
    return {"class_name": "__numpy__", "config": {"value": value, "dtype": "int32" if whole else "float32"}}


def _numbers(value: object) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    else:
        yield value


def _holds_other(value: list[Any]) -> bool:
    return not value or any(not isinstance(item, int | float) for item in _numbers(value))


def _slice(node: _Node) -> list[Call]:
    spec = node.plain("slice_spec", ABSENT)
    node.finish()

    def key(item: object) -> Any:
        if isinstance(item, Mapping) and item.get("class_name") == "__ellipsis__":
            return {"class_name": "__ellipsis__", "config": {}}
        if isinstance(item, Mapping) and set(item) == {"start", "stop", "step"}:
            return {"class_name": "__slice__", "config": dict(item)}
        if item is None or isinstance(item, int):
            return item
        raise node.refusal("slice_spec", item)

    keys = [key(item) for item in spec] if isinstance(spec, Sequence) else key(spec)
    return [Call(operation="numpy.GetItem", arguments=(node.first, keys))]


def _split(node: _Node) -> list[Call]:
    sizes, axis = node.plain("num_or_size_splits", ABSENT), node.plain("axis", 0)
    node.told.pop("num", None)
    node.finish()
    if isinstance(sizes, list):
        if any(size < 0 for size in sizes):
            raise node.refusal("num_or_size_splits", sizes)
        sizes = list(accumulate(sizes))[:-1]
    settings = {"indices_or_sections": sizes, "axis": axis}
    return [Call(operation="numpy.Split", settings=settings, arguments=(node.first,))]


def _pad(node: _Node) -> list[Call]:
    widths, mode = node.plain("paddings", ABSENT), str(node.plain("mode", "CONSTANT")).lower()
    value = node.plain("constant_values", 0)
    node.finish()
    if mode not in ("constant", "reflect", "symmetric"):
        raise node.refusal("mode", mode)
    keywords = {"constant_values": value} if mode == "constant" else {}
    settings = {"pad_width": widths, "mode": mode}
    return [Call(operation="numpy.Pad", settings=settings, arguments=(node.first,), keywords=keywords)]


def _matmul(node: _Node) -> list[Call]:
    other, calls, sides = node.take("b"), [], []
    turned = [node.plain("transpose_a", False), node.plain("transpose_b", False)]
    for name in ("adjoint_a", "adjoint_b", "a_is_sparse", "b_is_sparse", "output_type", "grad_a", "grad_b"):
        if value := node.plain(name, False):
            raise node.refusal(name, value)
    node.finish()
    if all(turned):
        raise node.refusal("transpose_a and transpose_b", True)
    for side, turn in zip((node.first, other), turned, strict=True):
        if turn:
            calls.append(Call(operation="numpy.Swapaxes", settings={"axis1": -2, "axis2": -1}, arguments=(side,)))
        sides.append(PREVIOUS if turn else side)
    return [*calls, Call(operation="numpy.Matmul", arguments=tuple(sides))]


def _squared_difference(node: _Node) -> list[Call]:
    other = node.take("y")
    node.finish()
    difference = Call(operation="numpy.Subtract", arguments=(node.first, other))
    return [difference, Call(operation="numpy.Square", arguments=(PREVIOUS,))]


def _l2_normalize(node: _Node) -> list[Call]:
    axis, epsilon = node.plain("axis", None), node.plain("epsilon", 1e-12)
    if (dim := node.plain("dim", None)) is not None:
        raise node.refusal("dim", dim)
    node.finish()
    if axis is None or isinstance(axis, list):
        raise node.refusal("axis", axis)
    # TensorFlow bounds the squared norm from below, Keras the norm.
    settings = {"axis": axis, "order": 2, "epsilon": epsilon**0.5}
    return [Call(operation="nn.Normalize", settings=settings, arguments=(node.first,))]


def _resize(node: _Node) -> list[Call]:
    size, method = node.plain("size", ABSENT), node.plain("method", "bilinear")
    antialias = node.plain("antialias", False)
    if node.plain("preserve_aspect_ratio", False):
        raise node.refusal("preserve_aspect_ratio", True)
    node.finish()
    if method not in ("bilinear", "nearest", "bicubic"):
        raise node.refusal("method", method)
    settings = {"size": size, "interpolation": method, "antialias": antialias, "data_format": "channels_last"}
    return [Call(operation="image.Resize", settings=settings, arguments=(node.first,))]


_SPECIAL = {
    "__operators__.getitem": _slice,
    "split": _split,
    "pad": _pad,
    "compat.v1.pad": _pad,
    "linalg.matmul": _matmul,
    "math.squared_difference": _squared_difference,
    "math.l2_normalize": _l2_normalize,
    "nn.l2_normalize": _l2_normalize,
    "linalg.l2_normalize": _l2_normalize,
    "image.resize": _resize,
}

"""What the first layers of a model expect of its inputs: statistics, table sizes, pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.maker.keras.models import input_specs
from edgeprune.maker.keras.types import AnyModel, Graph, Layer, Node

__all__ = ["Expected", "expected_inputs"]

# Layers that cut, lay out or resize and leave the numbers of an input what they are.
_PASSED = frozenset(
    {
        *(
            "CenterCrop",
            "Cropping1D",
            "Cropping2D",
            "Dropout",
            "Flatten",
            "Identity",
            "InputLayer",
            "Masking",
            "Permute",
        ),
        *("Reshape", "Resizing", "SpatialDropout1D", "SpatialDropout2D", "ZeroPadding1D", "ZeroPadding2D"),
    }
)
# A first layer that shrinks its input this far is fed with pixels of 0 to 255.
_PIXEL_SCALE = 1 / 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """Numbers that an input takes: `rows` of the smallest table that it indexes, else pixels of 0 to 255, else numbers
    around `mean` with the deviation `std` (numbers, or arrays that fit a sample). Of `padded` indexes 0 is padding."""

    rows: int | None = None
    padded: bool = False
    pixels: bool = False
    mean: np.ndarray | float = 0.0
    std: np.ndarray | float = 1.0


def expected_inputs(model: AnyModel) -> Mapping[str, Expected]:
    """By input name; an input whose first layers say nothing is left out, and so are all of a model without layers."""
    from edgeprune.maker.keras.graphs import graph_of

    graph = graph_of(model)
    if graph is None:
        return {}
    found: dict[str, Expected] = {}
    for name, layer, node in _first_layers(graph, list(input_specs(model))):
        told, known = _told(layer, node), found.get(name)
        if told is not None and (known is None or (told.rows or np.inf) < (known.rows or np.inf)):
            found[name] = told
    return found


def _first_layers(graph: Graph, names: Sequence[str | None]) -> Iterator[tuple[str, Layer, Node]]:
    """(input name, layer, its call) of each first layer that computes with an input, nested models opened."""
    from edgeprune.maker.keras.graphs import functional_of, is_model, nodes_of

    origin = {id(tensor): name for tensor, name in zip(graph.inputs, names, strict=True) if name is not None}
    for node in nodes_of(graph):
        given = [origin.get(id(tensor)) for tensor in node.input_tensors]
        if not any(given):
            continue
        if is_model(node.operation):
            inner = functional_of(node.operation)
            yield from _first_layers(inner, given)
            passed = (
                given[:1] if len(given) == 1 and all(_passes(inside.operation) for inside in nodes_of(inner)) else []
            )
        else:
            yield from ((name, node.operation, node) for name in given if name is not None)
            passed = given[:1] if _passes(node.operation) else []
        origin.update({id(tensor): name for tensor, name in zip(node.outputs, passed, strict=False) if name})


def _passes(operation: Layer) -> bool:
    kind = type(operation).__name__
    return kind in _PASSED or kind.startswith("Random")


def _told(layer: Layer, node: Node) -> Expected | None:
    kind = type(layer).__name__
    if kind == "Embedding":
        return Expected(rows=int(layer.input_dim), padded=bool(layer.mask_zero))
    if kind == "CategoryEncoding":
        return Expected(rows=int(layer.num_tokens))
    if kind == "Normalization":
        return None if layer.invert else _normalized(layer)
    if kind == "Rescaling":
        return _scaled(layer.scale, layer.offset)
    if kind in ("Multiply", "TrueDivide", "Divide") and len(node.arguments.args) == 2:
        factor = node.arguments.args[1]
        if isinstance(factor, int | float) and factor:
            return _scaled(factor if kind == "Multiply" else 1 / factor, 0.0)
    return None


def _normalized(layer: Layer) -> Expected | None:
    if getattr(layer, "mean", None) is None or getattr(layer, "variance", None) is None:
        return None
    mean, variance = (np.asarray(value, np.float64)[0] for value in (layer.mean, layer.variance))
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        return None
    return Expected(mean=mean, std=np.sqrt(np.maximum(variance, 0)))


def _scaled(scale: object, offset: object) -> Expected | None:
    """What a layer that computes x * scale + offset takes, so that numbers around 0 come out, or pixels."""
    factor, shift = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
    if not factor.all() or not np.isfinite(factor).all():
        return None
    if np.abs(factor).max() <= _PIXEL_SCALE:
        return Expected(pixels=True)
    return Expected(mean=-shift / factor, std=1 / np.abs(factor))

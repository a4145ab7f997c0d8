"""The functional graph of a Keras model: its calls in order, and which of them are models themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel, Graph, Model, Node

__all__ = ["functional_of", "graph_of", "is_model", "nodes_of"]


def functional_of(model: Model) -> Graph:
    """The functional graph of a Functional or Sequential model. Raises Unsupported for any other."""
    graph: Any = getattr(model, "_functional", None) or model
    if type(model).__name__ == "Sequential" and not hasattr(graph, "_nodes_by_depth"):
        raise Unsupported(f"model {model.name!r} has no input shape yet: add keras.Input(shape) as its first layer")
    if not hasattr(graph, "_nodes_by_depth"):
        raise Unsupported(
            f"model {model.name!r} is a subclass of keras.Model ({type(model).__name__}), whose graph is hidden in its "
            "call method: rebuild it with the functional API (keras.Model(inputs, outputs))"
        )
    return graph


def graph_of(model: AnyModel) -> Graph | None:
    """The functional graph of a model; None for one whose layers cannot be followed."""
    try:
        return None if isinstance(model, SavedModel) else functional_of(model)
    except Unsupported:
        return None


def is_model(operation: object) -> TypeGuard[Model]:
    """Whether a call is that of a nested Functional or Sequential model."""
    return hasattr(operation, "_nodes_by_depth") or getattr(operation, "_functional", None) is not None


def nodes_of(graph: Graph) -> Iterator[Node]:
    """Calls in the order of execution, input layers left out."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                yield node

"""argmax and argmin without Keras's care for the sign of zero.

Keras orders -0.0 below +0.0 there (keras/src/backend/tensorflow/numpy.py, argmax), with bit operations that neither
format has. Without them the two zeros are equal, which changes the answer only where the extreme value is a zero and
zeros of both signs compete.
"""

from __future__ import annotations

from edgeprune.converters.types import GraphDef, NodeDef

__all__ = ["without_signed_zeros"]

_EXTREMES = frozenset({"ArgMax", "ArgMin"})
_TEST = ("LogicalAnd", "Less", "BitwiseAnd", "Bitcast")  # what decides which zeros are negative, from its end


def without_signed_zeros(definition: GraphDef) -> GraphDef:
    """The GraphDef, changed in place: every argmax and argmin reads the values themselves."""
    nodes = {node.name: node for node in definition.node}
    for node in definition.node:
        if node.op in _EXTREMES:
            _bypass(node, nodes)
    return definition


def _bypass(node: NodeDef, nodes: dict[str, NodeDef]) -> None:
    """Let `node`, or the reshaping before it, read past the selection that replaces negative zeros."""
    for _ in range(3):
        source = nodes.get(_name(node.input[0]))
        if source is None:
            return
        if source.op == "SelectV2" and _tests_signs(source, nodes):
            node.input[0] = source.input[2]
            return
        if source.op not in ("Reshape", "Identity"):
            return
        node = source


def _tests_signs(select: NodeDef, nodes: dict[str, NodeDef]) -> bool:
    """Whether the condition of a selection is the sign of zeros of the very value it passes on."""
    node = nodes.get(_name(select.input[0]))
    for op in _TEST:
        if node is None or node.op != op:
            return False
        place = 1 if op == "LogicalAnd" else 0
        tested, node = node, nodes.get(_name(node.input[place]))
    return _name(tested.input[0]) == _name(select.input[2])


def _name(tensor: str) -> str:
    return tensor.removeprefix("^").split(":", maxsplit=1)[0]

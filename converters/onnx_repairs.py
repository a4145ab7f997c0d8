"""What tf2onnx 1.17, which nobody maintains, gets wrong: a step that fails, names and orders that differ each time.

Same model, same bytes: it takes nodes out of sets in the order of their addresses, and counts the names that it makes
up from the start of the process. Runs in the child process of `edgeprune.converters.session`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgeprune.converters.types import Generated

__all__ = ["number_einsums", "repair_tf2onnx", "restart_names"]

_ADDRESS = re.compile(r"einsum\d+_|OPT\w+_\d{9,}")
_done: list[bool] = []


def repair_tf2onnx() -> None:
    """Put the repairs into the modules of tf2onnx, once."""
    if not _done:
        _guard_scalars()
        _keep_order()
        _let_go()
        _done.append(True)


def restart_names() -> None:
    """Let the names that are made up start afresh, before a conversion."""
    import tf2onnx.utils

    tf2onnx.utils.INTERNAL_NAME = 1


def _guard_scalars() -> None:
    """It looks for the size of what is added behind a convolution, and fails where that is a scalar."""
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    known = TransposeOptimizer._add_handler

    def guarded(self: Generated, transposition: Generated, node: Generated) -> bool:
        added = node.inputs[1]
        if added.is_const() and added.get_tensor_value(as_list=False).ndim == 0:
            return self._handle_node_having_branches(transposition, node)
        return known(self, transposition, node)

    TransposeOptimizer._add_handler = guarded


def _keep_order() -> None:
    """Nodes go by name where they came in the order of a set."""
    from tf2onnx.graph import Graph

    known = Graph.extract_sub_graph_nodes

    def ordered(self: Generated, *given: object, **named: object) -> list[Generated]:
        return sorted(known(self, *given, **named), key=lambda node: node.name)

    Graph.extract_sub_graph_nodes = ordered


def _let_go() -> None:
    """Behind each of its dozens of steps the weights are copied into the message of their node, whose memory protobuf
    gives back with the whole message only: a new one takes its place. ConvNeXtTiny held 60 times its weights."""
    from onnx import NodeProto
    from tf2onnx.graph import Node

    known = Node.update_proto

    def renewed(self: Generated, *given: object, **named: object) -> None:
        old = self._op
        self._op = NodeProto(op_type=old.op_type, name=old.name, domain=old.domain, doc_string=old.doc_string)
        known(self, *given, **named)

    Node.update_proto = renewed


def number_einsums(graph: Generated, nodes: Iterable[Generated]) -> None:
    """Number, in place, what the steps of an Einsum are called by their addresses, in the order of `nodes`, and put
    constants in the order of their first use."""
    names: dict[str, str] = {}
    first: dict[str, int] = {}
    for node in nodes:
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                first.setdefault(name, len(first))
                field[place] = _numbered(names, name)
        node.name = _numbered(names, node.name)
    kept = sorted(graph.initializer, key=lambda tensor: first.get(tensor.name, len(first)))
    copies = [type(tensor)() for tensor in kept]
    for copy, tensor in zip(copies, kept, strict=True):
        copy.CopyFrom(tensor)
        copy.name = names.get(tensor.name, tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _numbered(names: dict[str, str], name: str) -> str:
    return names.setdefault(name, f"einsum_{len(names)}") if _ADDRESS.match(name) else name

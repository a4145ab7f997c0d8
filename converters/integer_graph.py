"""Change a GraphDef so that less of it stays in float, or fails, when TFLite quantizes it."""

from __future__ import annotations

from edgeprune.converters.types import GraphDef, NodeDef

__all__ = ["for_int16x8", "for_integers"]


def for_integers(definition: GraphDef) -> None:
    """Replace, in place, what normalisations need and has no integer kernel: negations become multiplications by -1,
    squared differences become products."""
    _multiply_by_minus_one(definition)
    _multiply_differences(definition)


def for_int16x8(definition: GraphDef) -> None:
    """The same, and drop the arithmetic by which Keras lets an embedding take negative indexes: it would be
    quantized."""
    for_integers(definition)
    _plain_indexes(definition)


def _multiply_by_minus_one(definition: GraphDef) -> None:
    import tensorflow as tf

    read_by: dict[str, list[NodeDef]] = {}
    for node in definition.node:
        for name in node.input:
            read_by.setdefault(_source(name), []).append(node)

    def in_gelu(node: NodeDef) -> bool:
        """The converter knows an exact GELU by erfc(-x * c) in it."""
        readers = read_by.get(node.name, [])
        return any(r.op == "Erfc" or any(far.op == "Erfc" for far in read_by.get(r.name, ())) for r in readers)

    for node in [node for node in definition.node if node.op == "Neg"]:
        if tf.as_dtype(node.attr["T"].type).is_floating and not in_gelu(node):
            factor = definition.node.add(name=f"{node.name}/minus_one", op="Const")
            factor.attr["dtype"].type = node.attr["T"].type
            factor.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(-1.0, dtype=node.attr["T"].type))
            node.op = "Mul"
            node.input.insert(1, factor.name)


def _multiply_differences(definition: GraphDef) -> None:
    for node in [node for node in definition.node if node.op == "SquaredDifference"]:
        difference = definition.node.add(name=f"{node.name}/difference", op="Sub", input=node.input)
        difference.attr["T"].CopyFrom(node.attr["T"])
        node.op = "Mul"
        del node.input[:]
        node.input.extend([difference.name, difference.name])


def _plain_indexes(definition: GraphDef) -> None:
    """Gather by x where it is by "x + n if x < 0 else x"."""
    nodes = {node.name: node for node in definition.node}

    def through(name: str) -> NodeDef:
        node = nodes[_source(name)]
        while node.op == "Identity":
            node = nodes[_source(node.input[0])]
        return node

    for node in definition.node:
        if node.op != "GatherV2":
            continue
        chosen = through(node.input[1])
        if chosen.op not in ("Select", "SelectV2"):
            continue
        is_negative, wrapped, index = (through(name) for name in chosen.input[:3])
        compares = is_negative.op == "Less" and through(is_negative.input[0]) is index
        wraps = wrapped.op in ("Add", "AddV2") and any(through(name) is index for name in wrapped.input[:2])
        if compares and wraps:
            node.input[1] = chosen.input[2]


def _source(name: str) -> str:
    """The node that a name in a list of inputs means ("^node" for control, "node:1" for a second output)."""
    return name.removeprefix("^").split(":")[0]

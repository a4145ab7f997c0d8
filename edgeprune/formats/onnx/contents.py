"""Take an ONNX model apart: its nodes, and the initializers that each is the first to use.

Format: github.com/onnx/onnx, onnx/onnx.proto3 (field numbers) and docs/IR.md (scopes of names). Nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents, Layer, StoredArray, printable
from edgeprune.formats.elements import Shape, count_zeros
from edgeprune.formats.onnx.ends import read_ends
from edgeprune.formats.onnx.operators import (
    MULTIPLIERS,
    QUANTIZED_INPUTS,
    TRANSPARENT,
    channel_axis,
    count_macs,
    role_of,
)
from edgeprune.formats.onnx.tensors import OutsideFiles, Tensor, integers_of, read_sparse, read_tensor
from edgeprune.formats.protobuf import BrokenMessageError, Message, parse
from edgeprune.formats.weights import Role
from edgeprune.host.untrusted import read_whole

__all__ = ["read_onnx"]

_KIND = "an ONNX model"
_GRAPH, _TRAINING, _FUNCTIONS = 7, 20, 25  # ModelProto
_TOLD = (2, 3, 4, 6, 14)  # producer, its version, domain, doc string, metadata
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE, _SPARSES = 5, 6, 10, 11, 22, 23  # AttributeProto
_MAX_DEPTH, _MOST_LAYERS = 32, 1 << 20
_QUANTIZED_AXES = {"DequantizeLinear": 1, "QLinearConv": 0}  # of zero points, where it is not the last
_MOVES = TRANSPARENT - {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"}


def read_onnx(path: Path) -> Contents:
    """The nodes of a `.onnx` file with their constants, files of external data included.

    A layer's MACs and shapes are known only where the file states the shapes (a free first dimension, the batch, reads
    1); when one multiplying node's are not, no layer's MACs are given, so that no sum leaves a part out. Raises
    InputError for a file that is missing, broken, no ONNX model, or keeps its weights outside its folder.
    """
    content = read_whole(path, _KIND)
    reader = _Reader(outside=OutsideFiles(path))
    try:
        model = parse(content)
        if not model.has(_GRAPH) or 1 not in model.numbers:
            raise BrokenMessageError("it holds no graph")
        reader.graph(model.child(_GRAPH), _Scope(), "", 0)
        for function in model.children(_FUNCTIONS):
            reader.nodes(function.children(7), _Scope(), f"function {printable(function.text(1))}", 1)
        outside_bytes = reader.outside.weight_bytes
    except (BrokenMessageError, RecursionError) as cause:
        raise InputError(f"{path}: not {_KIND}, or a broken one: {cause}; export it again") from cause
    return _contents(path, len(content), model, reader, outside_bytes)


def _contents(path: Path, model_bytes: int, model: Message, reader: _Reader, outside_bytes: int) -> Contents:
    layers = _without_partial_macs(reader.layers)
    weights = sum(array.stored_bytes for layer in layers for array in layer.arrays)
    told = sum(len(piece) for key in _TOLD for piece in model.pieces.get(key, ()))
    training = sum(map(len, model.pieces.get(_TRAINING, ())))
    beside = {place: len(found) for place, found in reader.outside.contents.items()}
    sections = {
        "weights": weights,
        "graph": model_bytes - (weights - outside_bytes) - told - training,
        "metadata": told,
        "padding": sum(beside.values()) - outside_bytes,
        "optimizer": training,
    }
    folder = path.parent.resolve()
    files = {path.name: model_bytes} | {str(place.relative_to(folder)): size for place, size in beside.items()}
    return Contents(
        path=path,
        format="onnx",
        raw_bytes=model_bytes + sum(beside.values()),
        sections={name: size for name, size in sections.items() if size or name in ("weights", "graph", "metadata")},
        layers=layers,
        files=files if beside else {},
        onnx=read_ends(model, model.child(_GRAPH)),
    )


def _without_partial_macs(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    if any(layer.macs is None for layer in layers):
        return tuple(replace(layer, macs=None) for layer in layers)
    return tuple(layers)


@dataclass(slots=True, eq=False)
class _Held:
    """A constant, and what it went through on the way to the node that uses it."""

    tensor: Tensor
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    quantized: bool = False
    quantized_axis: int = 1
    known: bool = True  # whether its zero point is in the file
    moved: bool = False  # its axes are not those of the tensor any more


@dataclass(slots=True, eq=False)
class _Scope:
    """Names in a graph, and in the graphs around it."""

    outer: _Scope | None = None
    held: dict[str, _Held] = field(default_factory=dict)
    sparse: dict[str, Message] = field(default_factory=dict)
    shapes: dict[str, Shape | None] = field(default_factory=dict)

    def find(self, name: str) -> _Held | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.held:
                return scope.held[name]
            scope = scope.outer
        return None

    def find_sparse(self, name: str) -> Message | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.sparse:
                return scope.sparse.pop(name)
            scope = scope.outer
        return None

    def shape(self, name: str) -> Shape | None:
        held = self.find(name)
        if held is not None and not held.moved:
            return held.tensor.shape
        return self.shapes.get(name)


@dataclass(slots=True, eq=False)
class _Reader:
    """One model being read: its layers so far, and the tensors that belong to one."""

    outside: OutsideFiles
    layers: list[Layer] = field(default_factory=list)
    taken: set[Tensor] = field(default_factory=set)

    def graph(self, graph: Message, scope: _Scope, group: str, depth: int) -> None:
        """GraphProto: its initializers become known, its nodes layers, and what no node uses a layer of its own."""
        if depth > _MAX_DEPTH:
            raise BrokenMessageError(f"graphs nested deeper than {_MAX_DEPTH}")
        for message in graph.children(5):
            tensor = read_tensor(message, self.outside)
            scope.held[tensor.name] = _Held(tensor)
        for message in graph.children(15):
            scope.sparse[message.child(1).text(8)] = message
        for key in (11, 12, 13):
            for value in graph.children(key):
                scope.shapes[value.text(1)] = _shape(value)
        self.nodes(graph.children(1), scope, group, depth)
        for held in scope.held.values():
            if held.tensor not in self.taken:
                self._leftover(self._array(held, "", 0, transposed=False, role=Role.STEERING), group)
        for message in scope.sparse.values():
            self._leftover(read_sparse(message, self.outside, lambda *_: Role.STEERING), group)

    def nodes(self, nodes: Iterator[Message], scope: _Scope, group: str, depth: int) -> None:
        """NodeProtos in order. Constant nodes are names for their values, as initializers are."""
        for node in nodes:
            if len(self.layers) > _MOST_LAYERS:
                raise BrokenMessageError(f"more than {_MOST_LAYERS} nodes")
            operator, inputs = node.text(4), _texts(node, 1)
            attributes = {item.text(1): item for item in node.children(5)}
            held = scope.find(inputs[0]) if inputs and operator in TRANSPARENT else None
            outputs = _texts(node, 2)
            if operator == "Constant" and outputs and self._constant(attributes, scope, outputs[0]):
                continue
            if held is not None and outputs:
                scope.held[outputs[0]] = _through(operator, held, inputs, attributes, scope)
            self._layer(node, (operator, inputs, outputs), attributes, scope, group, depth)

    def _layer(
        self,
        node: Message,
        call: tuple[str, Sequence[str], Sequence[str]],
        attributes: Mapping[str, Message],
        scope: _Scope,
        group: str,
        depth: int,
    ) -> None:
        operator, inputs, outputs = call
        name = printable(node.text(3) or next((output for output in outputs if output), operator))
        arrays = [*self._inputs(operator, inputs, attributes, scope), *self._attached(attributes)]
        shapes = [scope.shape(text) if text else () for text in inputs]
        produced = [scope.shape(text) for text in outputs if text]
        flowing = [scope.shape(text) for text in inputs if text and scope.find(text) is None]
        macs = count_macs(operator, shapes, produced[0] if produced else None)
        if operator in MULTIPLIERS and group:  # how often a body runs is not in the file
            macs = None
        elif node.text(7) not in ("", "ai.onnx", "ai.onnx.ml") and operator not in MULTIPLIERS:
            macs = None  # an operator of somebody's own
        self.layers.append(
            Layer(
                name=name,
                kind=printable(operator),
                arrays=tuple(arrays),
                inputs=_all_known(flowing),
                outputs=_all_known(produced),
                macs=macs,
                group=group,
            )
        )
        for key, attribute in attributes.items():
            bodies = [*attribute.children(_SUBGRAPH), *attribute.children(_SUBGRAPHS)]
            for number, body in enumerate(bodies):
                inner = f"{key} {number}" if len(bodies) > 1 else key
                self.graph(body, _Scope(outer=scope), printable(f"subgraph {name}.{inner}"), depth + 1)

    def _inputs(
        self, operator: str, inputs: Sequence[str], attributes: Mapping[str, Message], scope: _Scope
    ) -> Iterator[StoredArray]:
        """The constants that a node is the first to use. Quantized ones first: they take their scales along."""
        transposed = "transB" in attributes and attributes["transB"].number(3) != 0
        through = operator in TRANSPARENT and bool(inputs) and scope.find(inputs[0]) is not None
        skipped = set(range(3)) if operator in ("DequantizeLinear", "QuantizeLinear") else {0}
        order = sorted(range(len(inputs)), key=lambda position: (operator, position) not in QUANTIZED_INPUTS)
        for position in order:
            if through and position in skipped:
                continue
            sparse = scope.find_sparse(inputs[position])
            if sparse is not None:
                yield read_sparse(sparse, self.outside, partial(role_of, operator, position))
            held = scope.find(inputs[position])
            if held is None or held.tensor in self.taken:
                continue
            if (operator, position) in QUANTIZED_INPUTS:
                held = _quantized(operator, position, held, inputs, scope)
            role = role_of(operator, position, held.tensor.dtype, held.tensor.shape)
            yield self._array(held, operator, position, transposed=transposed, role=role)

    def _array(self, held: _Held, operator: str, position: int, *, transposed: bool, role: Role) -> StoredArray:
        tensor = held.tensor
        axis = None if held.moved else channel_axis(operator, position, tensor.shape, transposed=transposed)
        pieces = [tensor.piece(axis)]
        self.taken.add(tensor)
        for extra in (held.scale, held.zero_point):
            if extra is not None and extra not in self.taken:
                self.taken.add(extra)
                pieces.append(extra.piece(None))
        return StoredArray(
            name=printable(tensor.name),
            shape=tensor.shape,
            precision=tensor.dtype,
            role=role,
            zeros=None if operator == "MatMulNBits" and tensor.dtype == "uint8" else _zeros(held),  # packed in bytes
            pieces=tuple(pieces),
        )

    def _constant(self, attributes: Mapping[str, Message], scope: _Scope, output: str) -> bool:
        """Make the tensor of a Constant node known by the name of its output; False when it holds no tensor."""
        for attribute in attributes.values():
            if attribute.has(_TENSOR):
                scope.held[output] = _Held(replace(read_tensor(attribute.child(_TENSOR), self.outside), name=output))
                return True
            if attribute.has(_SPARSE):
                scope.sparse[output] = attribute.child(_SPARSE)
                return True
        return False

    def _attached(self, attributes: Mapping[str, Message]) -> Iterator[StoredArray]:
        """Tensors in the attributes of a node that is no Constant: an operator of somebody's own, a fill value."""
        for name, attribute in attributes.items():
            for message in [*attribute.children(_TENSOR), *attribute.children(_TENSORS)]:
                tensor = read_tensor(message, self.outside)
                held = _Held(tensor if tensor.name else replace(tensor, name=name))
                role = role_of("", 0, tensor.dtype, tensor.shape)
                yield self._array(held, "", 0, transposed=False, role=role)
            for message in [*attribute.children(_SPARSE), *attribute.children(_SPARSES)]:
                yield read_sparse(message, self.outside, partial(role_of, "", 0))

    def _leftover(self, array: StoredArray, group: str) -> None:
        self.layers.append(Layer(name=array.name, kind="", arrays=(array,), macs=0, group=group))


def _through(
    operator: str, held: _Held, inputs: Sequence[str], attributes: Mapping[str, Message], scope: _Scope
) -> _Held:
    """The constant that comes out of a node which only gives its first input another form."""
    if operator in _MOVES:
        return replace(held, moved=True)
    if operator != "DequantizeLinear" or held.quantized:
        return replace(held)
    found = _quantized(operator, 0, held, inputs, scope)
    if "axis" in attributes:
        found.quantized_axis = attributes["axis"].signed(3)
    return found


def _quantized(operator: str, position: int, held: _Held, inputs: Sequence[str], scope: _Scope) -> _Held:
    """With the scale and the zero point that stand at other inputs of the node."""
    at_scale, at_zero_point = QUANTIZED_INPUTS[operator, position]
    names = [inputs[at] if at is not None and at < len(inputs) else "" for at in (at_scale, at_zero_point)]
    scale, zero_point = (scope.find(name) if name else None for name in names)
    return replace(
        held,
        quantized=True,
        quantized_axis=_QUANTIZED_AXES.get(operator, -1),
        scale=scale.tensor if scale else None,
        zero_point=zero_point.tensor if zero_point else None,
        known=zero_point is not None or not names[1],
    )


def _zeros(held: _Held) -> int | None:
    """Zeros of the decoded array; None where its zero point is not in the file, or is one of blocks."""
    tensor = held.tensor
    points = integers_of(held.zero_point) if held.zero_point is not None else (0,)
    if not held.known or tensor.dtype == "string":
        return None
    points = points or (0,)  # of a float type: they are zero
    axis = held.quantized_axis % len(tensor.shape) if tensor.shape else 0
    if len(set(points)) > 1:
        flat = held.zero_point is not None and len(held.zero_point.shape) == 1
        if not flat or not tensor.shape or tensor.shape[axis] != len(points):
            return None
    return count_zeros(tensor.raw, tensor.dtype, tensor.shape, zero_points=points, axis=axis)


def _shape(value: Message) -> Shape | None:
    """ValueInfoProto: sizes of a tensor; a free first one reads 1, None when another one is free."""
    kind = value.child(2).child(1)
    if not kind.has(2):
        return None
    sizes = [
        item.number(1) if not item.has(2) and item.number(1) >> 62 == 0 else 0 for item in kind.child(2).children(1)
    ]
    if sizes and not sizes[0]:
        sizes[0] = 1
    return tuple(sizes) if all(sizes) else None


def _all_known(shapes: Sequence[Shape | None]) -> tuple[Shape, ...]:
    known = tuple(shape for shape in shapes if shape is not None)
    return known if len(known) == len(shapes) else ()


def _texts(message: Message, key: int) -> list[str]:
    return [bytes(piece).decode("utf-8", "backslashreplace") for piece in message.pieces.get(key, ())]

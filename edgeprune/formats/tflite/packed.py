"""The same .tflite file in fewer bytes: what no interpreter tells apart, written so that it compresses.

Constants lie together by type and size and are stored once where they are equal, and a weight of -0.0 is +0.0: half of
the zeros that a mask leaves are negative, in floating point two words where a codec could see one. What only people
read is left out on request. Layout: tensorflow/lite/schema/schema.fbs, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.graph import Graph, Tensor, unpacked_from
from edgeprune.formats.tflite.associated import find_appended, read_files, with_files
from edgeprune.formats.tflite.flatbuffer import MAGIC, Buffers, parse_tflite
from edgeprune.formats.tflite.objects import Generated, as_objects, file_bytes, schema_classes
from edgeprune.formats.weights import Role

__all__ = ["UNREAD_METADATA", "Changes", "PackOptions", "array_edges", "drop_names", "packed", "without_names"]

# Of the list of metadata: what converters note and no interpreter, delegate or task library reads.
UNREAD_METADATA = (b"CONVERSION_METADATA", b"min_runtime_version")
# Operations whose weights nothing sees but through sums of products; a table of GATHER comes out as it is.
_SUMS = frozenset({"BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
# What generated code, which checks nothing, ends in where an offset leads out of the file.
_OUTSIDE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)
_SIGNS: Mapping[str, Any] = {
    "float16": np.uint16(1 << 15),
    "float32": np.uint32(1 << 31),
    "float64": np.uint64(1 << 63),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What is left out beside: descriptions and what converters note, and the names of inner tensors."""

    drop_metadata: bool = False
    drop_names: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What was changed in a file: weights of -0.0 that became +0.0, bytes of constants that another one stands for,
    names of tensors and metadata that were left out."""

    negative_zeros: int
    shared_bytes: int
    names: int
    metadata: tuple[str, ...]


def array_edges(content: bytes) -> tuple[int, ...]:
    """Where the constants of a .tflite file begin and end; empty for what is no such file."""
    if content[4:8] != MAGIC:
        return ()
    try:
        _, buffers = parse_tflite(Path("model"), content)
    except (InputError, Unsupported):
        return ()
    return tuple(edge for start, size in buffers.places.values() for edge in (start, start + size))


def packed(path: Path, content: bytes, options: PackOptions) -> tuple[bytes, Changes]:
    """The .tflite file `content`, called `path` in messages, in fewer bytes, and what was changed.

    Raises InputError for a broken file, Unsupported for one of a newer schema or with its weights behind the
    flatbuffer, MissingExtra where no schema is installed.
    """
    graph, buffers = parse_tflite(path, content)
    try:
        made, changes = _written(path, content, graph, options)
    except _OUTSIDE as cause:
        raise InputError(
            f"{path} is a broken TFLite file: something in it that is copied only points outside the file ({cause})"
        ) from cause
    made = with_files(made, read_files(path, content, find_appended(buffers)))
    if not _same(graph, buffers, *parse_tflite(path, made)):
        raise Unsupported(f"{path}: it holds more than can be written again; deflate it as it is: --as-is")
    return made, changes


def _written(path: Path, content: bytes, graph: Graph, options: PackOptions) -> tuple[bytes, Changes]:
    """The flatbuffer alone."""
    model = as_objects(content)
    _check(path, model)
    changes = Changes(
        negative_zeros=_positive_zeros(model, graph),
        shared_bytes=_share_constants(model),
        names=drop_names(model) if options.drop_names else 0,
        metadata=_drop_metadata(model) if options.drop_metadata else (),
    )
    return file_bytes(model), changes


def _check(path: Path, model: Generated) -> None:
    """Objects lose what their schema does not know."""
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise Unsupported(f"{path}: its weights lie behind the flatbuffer, as in files above 2 GB; use --as-is")
    for subgraph in model.subgraphs:
        for op in subgraph.operators or ():
            lost = op.builtinOptionsType and op.builtinOptions is None
            if lost or (op.builtinOptions2Type and op.builtinOptions2 is None) or op.largeCustomOptionsOffset:
                raise Unsupported(f"{path}: an operation has options of a newer schema; use --as-is")


def _positive_zeros(model: Generated, graph: Graph) -> int:
    """Let weights of -0.0 be +0.0, and count them: a sum of products is the same for both.

    Only what an operation multiplies and adds up: elsewhere a sign can be seen, as in a division.
    """
    count = 0
    for number, dtype in _summed(graph).items():
        sign, buffer = _SIGNS[dtype], model.buffers[number]
        if len(buffer.data) % sign.itemsize:
            continue
        words = np.array(buffer.data, np.uint8).view(sign.dtype)
        negative = words == sign
        words[negative] = 0
        buffer.data = words.view(np.uint8)
        count += int(negative.sum())
    return count


def _summed(graph: Graph) -> dict[int, str]:
    """Buffers that are only multiplied and added up, with their type of floating point."""
    source, weights = unpacked_from(graph.ops), {i for i, role in graph.roles().items() if role is Role.WEIGHT}
    kinds: dict[int, set[str]] = {}
    for op in graph.ops:
        for place in op.inputs if not {source.get(output) for output in op.outputs} - {None} else ():
            index = source.get(place, place)
            if index >= 0:
                kinds.setdefault(graph.tensors[index].buffer, set()).add(op.kind)
    shown = {graph.tensors[index].buffer for index in graph.outputs}
    found = {graph.tensors[index].buffer: graph.tensors[index].dtype for index in weights}
    return {
        number: dtype
        for number, dtype in found.items()
        if number and number not in shown and dtype in _SIGNS and kinds.get(number, set()) <= _SUMS
    }


def _share_constants(model: Generated) -> int:
    """Let tensors with equal constants have one buffer; the bytes that are stored once less."""
    first: dict[bytes, int] = {}
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    described = {item.buffer for item in model.metadata or ()}
    held = {tensor.buffer for tensor in tensors if not tensor.isVariable} - described
    same = {}
    saved = 0
    for number in sorted(held):
        data = model.buffers[number].data
        if data is None or not len(data):
            continue
        same[number] = first.setdefault(np.asarray(data, np.uint8).tobytes(), number)
        if same[number] != number:
            saved += len(data)
            model.buffers[number].data = None
    for tensor in tensors:
        tensor.buffer = same.get(tensor.buffer, tensor.buffer)
    return saved


def _drop_metadata(model: Generated) -> tuple[str, ...]:
    """Leave out the model's description, names of subgraphs and UNREAD_METADATA; what was there of it."""
    found = []
    if model.description:
        model.description = None
        found.append("description")
    for subgraph in model.subgraphs:
        subgraph.name = None
    kept = []
    for item in model.metadata or ():
        if bytes(item.name or b"") in UNREAD_METADATA:
            model.buffers[item.buffer].data = None
            found.append(bytes(item.name).decode())
        else:
            kept.append(item)
    model.metadata = kept
    return tuple(found)


def drop_names(model: Generated, *, floats: bool = True) -> int:
    """Leave out the names of inner tensors, of `floats` too or of integers alone, and count them.

    Inputs and outputs keep theirs, signatures have their own.
    """
    count = 0
    for subgraph in model.subgraphs:
        ends = {int(number) for number in (*subgraph.inputs, *subgraph.outputs)}
        for number, tensor in enumerate(subgraph.tensors):
            if number not in ends and tensor.name and (floats or tensor.type != schema_classes().TensorType.FLOAT32):
                tensor.name = b""
                count += 1
    return count


def without_names(content: bytes) -> bytes:
    """The file without the names that no runtime reads: those of its inner tensors of integers."""
    model = as_objects(content)
    drop_names(model, floats=False)
    return file_bytes(model)


def _same(graph: Graph, buffers: Buffers, again: Graph, now: Buffers) -> bool:
    """Whether two files have the same operations on tensors with the same numbers, whatever their names."""
    if (graph.ops, graph.inputs, graph.outputs, graph.options) != (
        again.ops,
        again.inputs,
        again.outputs,
        again.options,
    ):
        return False
    if graph.signatures != again.signatures or len(graph.tensors) != len(again.tensors):
        return False
    if any(map(_differ, (buffers.scales, buffers.positions), (now.scales, now.positions))) or buffers.axes != now.axes:
        return False
    return all(
        (a.shape, a.dtype, a.zeros) == (b.shape, b.dtype, b.zeros)
        and np.array_equal(_words(a, buffers), _words(b, now))
        for a, b in zip(graph.tensors, again.tensors, strict=True)
    )


def _differ(before: Mapping[int, Any], after: Mapping[int, Any]) -> bool:
    """Whether arrays by tensor, one or several each, are not the same."""
    if before.keys() != after.keys():
        return True
    pairs = ((_listed(before[key]), _listed(after[key])) for key in before)
    return any(len(some) != len(others) or not all(map(np.array_equal, some, others)) for some, others in pairs)


def _listed(arrays: Any) -> Sequence[Any]:
    return arrays if isinstance(arrays, tuple) else (arrays,)


def _words(tensor: Tensor, buffers: Buffers) -> npt.NDArray[Any]:
    """The numbers of a constant as they are stored, its negative zeros as positive ones."""
    start, size = buffers.places.get(tensor.buffer, (0, 0)) if tensor.buffer else (0, 0)
    raw, sign = np.frombuffer(buffers.content, np.uint8, size, start), _SIGNS.get(tensor.dtype)
    if sign is None or size % sign.itemsize:
        return raw
    words = raw.view(sign.dtype)
    return np.where(words == sign, 0, words)

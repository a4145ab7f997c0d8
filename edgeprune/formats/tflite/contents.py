"""A .tflite file taken apart: every operator of every subgraph with its constants, and where all other bytes are.

Layout: tensorflow/lite/schema/schema.fbs, version 3; files associated with a model are appended as a zip
(TensorFlow Lite Metadata), and buffers of large files stand behind the flatbuffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray
from edgeprune.formats.graph import Graph, Op, Tensor, unpacked_from
from edgeprune.formats.tflite.associated import find_appended
from edgeprune.formats.tflite.embedding import prefix_bytes
from edgeprune.formats.tflite.flatbuffer import Buffers, parse_tflite
from edgeprune.formats.weights import Role
from edgeprune.host.untrusted import read_whole

__all__ = ["read_tflite"]

# The output channel's place in the kernels of TFLite.
_CHANNEL_AXIS: Mapping[str, int] = {
    "CONV_2D": 0,
    "CONV_3D": 4,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}
_ALIGNMENT = 16  # bytes; buffers are aligned to this (schema.fbs, force_align)
_AT_ONCE = 1 << 16


def read_tflite(path: Path) -> Contents:
    """The file at `path`. Raises InputError (missing, refused) and what `parse_tflite` raises."""
    content = read_whole(path, "a .tflite file")
    graph, buffers = parse_tflite(path, content)
    return Contents(
        path=path,
        format="tflite",
        raw_bytes=len(content),
        sections=_sections(graph, buffers),
        layers=tuple(_layers(graph, buffers)),
        graph=graph,
        scales=buffers.scales,
        zero_point_bytes=buffers.zero_point_bytes,
    )


def _layers(graph: Graph, buffers: Buffers) -> Iterator[Layer]:
    source, roles = unpacked_from(graph.ops), graph.roles()
    seen: set[tuple[int, int]] = set()  # places in the file that a layer has
    entries = {signature.subgraph for signature in graph.signatures} - {0}
    # Of open sizes the file has a 1, and what is multiplied for that is nobody's figure.
    unknown = bool(graph.options.open_inputs)
    for op in graph.ops:
        arrays = []
        for place in op.inputs if op.outputs and op.outputs[0] not in source else ():
            index = source.get(place, place)
            tensor = graph.tensors[index] if index >= 0 else None
            place_in_file = buffers.places.get(tensor.buffer) if tensor is not None and tensor.buffer else None
            if tensor is not None and place_in_file is not None and place_in_file not in seen:
                seen.add(place_in_file)
                arrays.append(_array(index, tensor, op.kind, roles.get(index, Role.STEERING), buffers))
        yield Layer(
            name=_name(graph, op),
            kind=op.kind,
            arrays=tuple(arrays),
            inputs=tuple(graph.tensors[i].shape for i in op.inputs if i >= 0 and not graph.tensors[i].constant),
            outputs=tuple(graph.tensors[i].shape for i in op.outputs if i >= 0),
            macs=None if unknown or op.subgraph in entries else op.macs,
            group=f"subgraph {op.subgraph}" if op.subgraph else "",
        )
    yield from _leftovers(graph, buffers, seen)


def _name(graph: Graph, op: Op) -> str:
    """The operator's first output, without the names of the operations fused into it."""
    index = next((index for index in op.outputs if index >= 0), None)
    return graph.tensors[index].name.split(";")[0] if index is not None else ""


def _array(index: int, tensor: Tensor, kind: str, role: Role, buffers: Buffers) -> StoredArray:
    start, size = buffers.places[tensor.buffer]
    axis = buffers.axes.get(index, _CHANNEL_AXIS.get(kind))
    sparse = buffers.positions.get(index, ())
    fits = axis is not None and axis < len(tensor.shape) and not sparse
    values = np.frombuffer(buffers.content, np.uint8, size, start)
    positions = tuple(
        Piece(raw=raw, dtype="uint8", shape=(len(raw),), axis=None, stored_bytes=len(raw)) for raw in sparse
    )
    plain = Piece(
        raw=values,
        dtype=tensor.dtype,
        shape=tensor.shape if not sparse else (),
        axis=axis if fits else None,
        stored_bytes=size,
    )
    return StoredArray(
        name=tensor.name,
        shape=tensor.shape,
        precision=f"sparse+{tensor.dtype}" if sparse else tensor.dtype,
        role=role,
        zeros=tensor.zeros,
        pieces=(plain, *positions),
    )


def _leftovers(graph: Graph, buffers: Buffers, seen: set[tuple[int, int]]) -> Iterator[Layer]:
    """Constants that no operator reads, and buffers that no tensor names."""
    arrays = []
    for index, tensor in enumerate(graph.tensors):
        place = buffers.places.get(tensor.buffer) if tensor.buffer else None
        if place is not None and place not in seen:
            seen.add(place)
            arrays.append(_array(index, tensor, "", Role.STEERING, buffers))
    for number in sorted(set(buffers.places) - buffers.metadata - {tensor.buffer for tensor in graph.tensors}):
        place = buffers.places[number]
        if place not in seen:
            seen.add(place)
            arrays.append(_unnamed(number, buffers))
    if arrays:
        yield Layer(name="(constants that nothing uses)", kind="", arrays=tuple(arrays), macs=0)


def _unnamed(number: int, buffers: Buffers) -> StoredArray:
    """A buffer without a tensor: bytes of no known type."""
    start, size = buffers.places[number]
    raw = np.frombuffer(buffers.content, np.uint8, size, start)
    piece = Piece(raw=raw, dtype="uint8", shape=(size,), axis=None, stored_bytes=size)
    return StoredArray(
        name=f"buffer {number}", shape=(size,), precision="uint8", role=Role.STEERING, zeros=None, pieces=(piece,)
    )


def _sections(graph: Graph, buffers: Buffers) -> dict[str, int]:
    """Bytes by purpose; shared and overlapping buffers count once."""
    kinds = np.zeros(len(buffers.content), np.uint8)  # 0 graph, 1 weights, 2 metadata, 3 padding
    named = {tensor.buffer for tensor in graph.tensors}
    described = {number for number in buffers.places if number in buffers.metadata and number not in named}
    for start, stop in _merged(buffers.places[number] for number in described):
        kinds[start:stop] = 2
    for start, stop in _merged(place for number, place in buffers.places.items() if number not in described):
        kinds[start:stop] = 1
    base = np.frombuffer(buffers.content, np.uint8)
    for raw in (raw for views in buffers.positions.values() for raw in views):
        start = raw.ctypes.data - base.ctypes.data
        kinds[start : start + len(raw)] = 1
    _mark_padding(kinds, base, buffers)
    kinds[: prefix_bytes(buffers)] = 2
    appended = find_appended(buffers)
    if appended is not None:
        kinds[appended.begin :] = 2
    counts = np.zeros(4, np.int64)
    for start in range(0, len(kinds), _AT_ONCE):  # a count needs 8 bytes for each that it looks at
        counts += np.bincount(kinds[start : start + _AT_ONCE], minlength=4)
    return dict(zip(("graph", "weights", "metadata", "padding"), counts.tolist(), strict=True))


def _merged(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of the areas that (start, bytes) cover together: a forged file lays thousands over one another."""
    end = 0
    for start, size in sorted(set(places)):
        if start + size > end:
            yield max(start, end), start + size
            end = start + size


def _mark_padding(kinds: np.ndarray, content: np.ndarray, buffers: Buffers) -> None:
    """Zero words right before a buffer's length, and zero bytes behind its end up to the next word."""
    end = len(content)
    for start, size in buffers.places.values():
        place = start - 8
        while place >= max(4, start - 4 - _ALIGNMENT) and not kinds[place] and not content[place : place + 4].any():
            kinds[place : place + 4] = 3
            place -= 4
        stop = min(end, start + size + (-(start + size) % 4))
        behind = slice(start + size, stop)
        if not kinds[behind].any() and not content[behind].any():
            kinds[behind] = 3

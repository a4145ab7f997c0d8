"""Put a buffer of metadata into a .tflite file without touching a byte of the model.

A flatbuffer's offsets point forward only, and count from where they stand. So a new root with longer lists of buffers
and metadata goes before the old file, which stays whole, weights and alignment included; what the new lists share
with the old ones they point to. The next metadata take the place of these: what stands before the old file is cut off
first. Layout: tensorflow/lite/schema/schema.fbs, version 3, tables Model, Metadata and Buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from edgeprune.errors import Unsupported
from edgeprune.formats.tflite.flatbuffer import MAGIC, Buffers

__all__ = ["NAME", "embedded", "metadata_place", "prefix_bytes"]

NAME = b"TFLITE_METADATA"
_ALIGNMENT = 16  # of buffers (schema.fbs, force_align)
# Numbers of fields of the table Model; all from _CODES to _LAST are offsets.
_VERSION, _CODES, _BUFFERS, _METADATA, _LAST = 0, 1, 4, 6, 9
_WHAT = "metadata cannot be put into this file"


class _Root:
    """The root table of a file, by place: what lies where, and which of it are the metadata named NAME.

    `fields` are the places of vectors and texts by number, 0 for none, `buffers` and `metadata` those of tables;
    `outside` is whether a buffer has its bytes at a place of the file, in place of a vector. `entry` is the position of
    NAME in the list of metadata, None where it is not there, and `number` that of its buffer in the list of buffers.
    Raises struct.error or IndexError where an offset leads out of the file.
    """

    def __init__(self, content: bytes, start: int = 0) -> None:
        self.content, self.start = content, start
        self.place = self.target(start)
        vtable = self.place - self.signed(self.place)
        count = self.half(vtable)
        self.slots = [self.half(vtable + at) for at in range(4, count - 1, 2)]
        self.version = self.word(self.place + self.slots[_VERSION])
        self.fields = {number: self._field(number) for number in range(_CODES, _LAST + 1)}
        self.buffers, self.metadata = self.items(_BUFFERS), self.items(_METADATA)
        self.entry = next((index for index, table in enumerate(self.metadata) if self._name(table) == NAME), None)
        slots = [(buffer, self._slot(buffer, 1)) for buffer in self.buffers]
        self.outside = any(slot and self._number("<Q", buffer + slot) > 1 for buffer, slot in slots)
        self.number = len(self.buffers) if self.entry is None else self._buffer(self.metadata[self.entry])

    def word(self, place: int) -> int:
        """An unsigned number of 32 bits."""
        return int(self._number("<I", place))

    def signed(self, place: int) -> int:
        """A signed number of 32 bits."""
        return int(self._number("<i", place))

    def half(self, place: int) -> int:
        """An unsigned number of 16 bits."""
        return int(self._number("<H", place))

    def _number(self, form: str, place: int) -> Any:
        if place < self.start:
            raise IndexError(place)
        return struct.unpack_from(form, self.content, place)[0]

    def target(self, place: int) -> int:
        """Where an offset points."""
        return place + self.word(place)

    def _field(self, number: int) -> int:
        slot = self.slots[number] if number < len(self.slots) else 0
        return self.target(self.place + slot) if slot else 0

    def items(self, number: int) -> list[int]:
        """Where the tables of a vector are."""
        vector = self.fields[number]
        count = self.word(vector) if vector else 0
        if count > len(self.content) // 4:
            raise IndexError(count)
        return [self.target(vector + 4 + 4 * index) for index in range(count)]

    def _buffer(self, table: int) -> int:
        slot = self._slot(table, 1)
        return self.word(table + slot) if slot else 0

    def _name(self, table: int) -> bytes:
        slot = self._slot(table, 0)
        if not slot:
            return b""
        text = self.target(table + slot)
        return bytes(self.content[text + 4 : text + 4 + min(self.word(text), len(NAME) + 1)])

    def _slot(self, table: int, number: int) -> int:
        vtable = table - self.signed(table)
        return self.half(vtable + 4 + 2 * number) if 4 + 2 * number < self.half(vtable) else 0


def metadata_place(buffers: Buffers) -> tuple[int, int] | None:
    """(start, bytes) of the metadata in a file that was parsed; None where it has none."""
    root = _root(buffers.content)
    return buffers.places.get(root.number) if root is not None and root.entry is not None else None


def _root(content: bytes, start: int = 0) -> _Root | None:
    try:
        return _Root(content, start)
    except (IndexError, struct.error):
        return None


def prefix_bytes(buffers: Buffers) -> int:
    """How many bytes `embedded` put before the model; 0 for a file that it did not make."""
    place, outer = metadata_place(buffers), _root(buffers.content)
    if place is None or outer is None:
        return 0
    start = sum(place) + -sum(place) % _ALIGNMENT
    if buffers.content[start + 4 : start + 8] != MAGIC:
        return 0
    inner = _root(buffers.content, start)
    if inner is None:
        return 0
    same = [[place for n, place in enumerate(root.buffers) if n != outer.number] for root in (outer, inner)]
    return start if same[0] == same[1] else 0


def embedded(model: bytes, buffers: Buffers, metadata: bytes) -> bytes:
    """The flatbuffer `model`, which `buffers` describes, with these metadata in the place of what it has.

    Raises Unsupported for files of a newer schema and those whose weights lie behind the flatbuffer.
    """
    model = model[prefix_bytes(buffers) :]
    model += bytes(-len(model) % _ALIGNMENT)
    root = _root(model)
    if root is None or any(root.slots[_LAST + 1 :]):
        raise Unsupported(f"{_WHAT}: it is of a newer schema")
    if root.outside:
        raise Unsupported(f"{_WHAT}: its weights lie behind the flatbuffer, as in files above 2 GB")
    if not 0 < root.number < len(root.buffers) + (root.entry is None):
        raise Unsupported(f"{_WHAT}: it has no list of buffers, or its metadata name one that is not there")
    return _written(model, root, metadata)


def _written(model: bytes, root: _Root, metadata: bytes) -> bytes:
    import flatbuffers

    room = 4 * (len(root.buffers) + len(root.metadata)) + len(metadata) + 1024
    builder = flatbuffers.Builder(len(model) + room)
    builder.head = len(builder.Bytes) - len(model)
    builder.Bytes[builder.head :] = model
    buffer = _put_buffer(builder, metadata)
    # The builder counts from the end.
    known = [len(model) - place for place in root.buffers]
    buffer_list = [*known[: root.number], buffer, *known[root.number + 1 :]]
    entries = [len(model) - place for place in root.metadata]
    if root.entry is None:
        entries.append(_put_entry(builder, root.number))
    lists = {_METADATA: _put_offsets(builder, entries), _BUFFERS: _put_offsets(builder, buffer_list)}
    builder.StartObject(_LAST + 1)
    builder.PrependUint32Slot(_VERSION, root.version, 0)
    for field in range(_CODES, _LAST + 1):
        place = root.fields[field]
        builder.PrependUOffsetTRelativeSlot(field, lists.get(field, len(model) - place if place else 0), 0)
    builder.Finish(builder.EndObject(), MAGIC)
    return bytes(builder.Output())


def _put_buffer(builder: Any, content: bytes) -> int:
    """Right before the old file, where `prefix_bytes` looks for its end."""
    builder.StartVector(1, len(content), _ALIGNMENT)
    builder.head -= len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    data = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, data, 0)
    return int(builder.EndObject())


def _put_entry(builder: Any, buffer: int) -> int:
    name = builder.CreateString(NAME)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint32Slot(1, buffer, 0)
    return int(builder.EndObject())


def _put_offsets(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())

"""Ways to spoil a file: bytes, JSON, text, zip archives, HDF5. All chance comes from the `random.Random` given."""

from __future__ import annotations

import contextlib
import io
import json
import random
import string
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np
from wire import varint

__all__ = ["Files", "mutated_bytes", "mutated_hdf5", "mutated_json", "mutated_text", "mutated_zip", "rezipped"]

Files = dict[str, bytes]  # a file (under the name "") or the files of a folder
Chance = random.Random

_HUGE = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
_NAMES = ("", "a\0b", "\n", "../up", "/", "a/b", "\u202e", "é" * 300, "=1+1", "<b>|`", "nul\\", "0", "__class__", "…")
_TEXTS = (
    "NaN",
    "Infinity",
    "-1e999",
    "9" * 5000,
    '"\\ud800"',
    "[" * 3000 + "]" * 3000,
    '{"a":' * 1500 + "0" + "}" * 1500,
)


# --- bytes ----------------------------------------------------------------------------------------------------------


def mutated_bytes(content: bytes, chance: Chance) -> bytes:
    """One to three changes of bytes, anywhere."""
    spoilt = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if spoilt:
            chance.choices(list(_BYTE_CHANGES), list(_BYTE_CHANGES.values()))[0](spoilt, chance)
    return bytes(spoilt)


def _flip(spoilt: bytearray, chance: Chance) -> None:
    for _ in range(chance.randint(1, 4)):
        spoilt[chance.randrange(len(spoilt))] = chance.choice((0, 1, 127, 255, chance.randrange(256)))


def _bit(spoilt: bytearray, chance: Chance) -> None:
    spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)


def _cut(spoilt: bytearray, chance: Chance) -> None:
    del spoilt[chance.randrange(len(spoilt)) :]


def _length(spoilt: bytearray, chance: Chance) -> None:
    """A number of 1, 2, 4 or 8 bytes, either way round, at a place where one may be, or one of protobuf."""
    value, width = chance.choice(_HUGE), chance.choice((1, 2, 4, 4, 4, 8))
    place = chance.randrange(len(spoilt)) // width * width
    raw = (value % (1 << 8 * width)).to_bytes(width, chance.choice(("little", "little", "big")))
    spoilt[place : place + width] = varint(value) if chance.random() < 0.2 else raw


def _splice(spoilt: bytearray, chance: Chance) -> None:
    """A piece of the file at another place in it, over what is there or between."""
    start, length = chance.randrange(len(spoilt)), chance.choice((1, 4, 16, 64, 512))
    place, piece = chance.randrange(len(spoilt)), spoilt[start : start + length]
    spoilt[place : place + chance.choice((0, len(piece)))] = piece


def _remove(spoilt: bytearray, chance: Chance) -> None:
    place = chance.randrange(len(spoilt))
    del spoilt[place : place + chance.choice((1, 4, 16, 64, 512))]


def _fill(spoilt: bytearray, chance: Chance) -> None:
    place, length = chance.randrange(len(spoilt)), chance.choice((2, 8, 32, 256))
    spoilt[place : place + length] = bytes([chance.choice((0, 255))]) * len(spoilt[place : place + length])


_BYTE_CHANGES: Mapping[Callable[[bytearray, Chance], None], int] = {
    _flip: 5,
    _bit: 5,
    _cut: 1,
    _length: 5,
    _splice: 2,
    _remove: 1,
    _fill: 2,
}


# --- JSON and text --------------------------------------------------------------------------------------------------


def mutated_json(content: bytes, chance: Chance) -> bytes:
    """A JSON document with some values of other kinds, removed, doubled or renamed, or written as no writer does."""
    if chance.random() < 0.1:
        return mutated_text(content, chance)
    document = [json.loads(content)]
    for _ in range(chance.choice((1, 1, 2, 3))):
        _change(document, chance)
    text = json.dumps(document[0])
    if chance.random() < 0.1:
        text = text.replace(chance.choice(("null", "true", "0", '"float32"', "[")), chance.choice(_TEXTS), 1)
    return text.encode()


def _change(document: list[Any], chance: Chance) -> None:
    """One value somewhere: go down by chance, so that what is far up changes as often as what is far below."""
    places = [(document, 0)]
    for holder, key in places:
        inside = holder[key]
        keys = inside.keys() if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        places.extend((inside, deeper) for deeper in keys)
    holder, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0 and holder is not document:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice((*_NAMES, "class_name", "config", "name"))] = holder.pop(key)
    elif kind == 2:
        other, where = chance.choice(places)
        holder[key] = (
            json.loads(json.dumps(other[where]))
            if where in other or (isinstance(other, list) and where < len(other))
            else None
        )
    else:
        holder[key] = _value(chance)


def _value(chance: Chance) -> Any:
    """A value that is likely to be none of what a place is for."""
    number = chance.choice((*_HUGE, -1, -(1 << 63), 0.5, -0.0, 1e308, 10**40))
    options = (None, True, number, number, chance.choice(_NAMES), [], {}, [[]], [None], [number], {"a": number})
    return chance.choice(
        (*options, {"class_name": chance.choice(_NAMES)}, "".join(chance.choices(string.printable, k=9)))
    )


def mutated_text(content: bytes, chance: Chance) -> bytes:
    """A text with a word exchanged for another one of it, a number for a huge one, a line doubled, or bytes changed."""
    words = [word for word in content.replace(b"(", b" ( ").replace(b"[", b" [ ").replace(b",", b" , ").split() if word]
    kind = chance.randrange(4)
    if kind == 0 or not words:
        return mutated_bytes(content, chance)
    if kind == 1:
        lines = content.splitlines(keepends=True)
        lines.insert(chance.randrange(len(lines)), chance.choice(lines))
        return b"".join(lines)
    old = chance.choice(words)
    new = str(chance.choice(_HUGE)).encode() if kind == 2 else chance.choice(words)
    place = chance.choice(_places(content, old) or [0])
    return content[:place] + new + content[place + len(old) :]


def _places(content: bytes, word: bytes) -> list[int]:
    found, place = [], content.find(word)
    while place >= 0 and len(found) < 1000:
        found.append(place)
        place = content.find(word, place + 1)
    return found


# --- archives -------------------------------------------------------------------------------------------------------


def rezipped(members: Mapping[str, bytes], chance: Chance) -> bytes:
    """An archive with right sizes and checksums, stored or deflated."""
    made = io.BytesIO()
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return made.getvalue()


def mutated_zip(content: bytes, chance: Chance, by_member: Callable[[str, bytes, Chance], bytes]) -> bytes:
    """One member changed, renamed or left out and the archive made anew; or its own bytes changed."""
    if chance.random() < 0.25:
        return mutated_bytes(content, chance)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice(list(members))
    kind = chance.randrange(12)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[chance.choice(_NAMES[3:]) + name[-20:]] = members.pop(name)
    else:
        members[name] = by_member(name, members[name], chance)
    return rezipped(members, chance)


# --- HDF5 -----------------------------------------------------------------------------------------------------------


_UNABLE = (KeyError, OSError, RuntimeError, TypeError, ValueError)  # h5py, of a change that a file does not bear


def mutated_hdf5(content: bytes, chance: Chance) -> bytes:
    """Attributes, arrays and groups of other kinds than Keras writes, or other bytes."""
    if chance.random() < 0.4:
        return mutated_bytes(content, chance)
    made = io.BytesIO(content)
    with h5py.File(made, "r+") as file:
        places: list[Any] = [file]
        file.visititems(lambda _, item: places.append(item))
        for _ in range(chance.choice((1, 1, 2))):
            kind = chance.choices((_attribute, _array, _links), (5, 3, 2))[0]
            with contextlib.suppress(*_UNABLE):
                kind(file, chance.choice(places), chance)
    spoilt = made.getvalue()
    return mutated_bytes(spoilt, chance) if chance.random() < 0.1 else spoilt


def _attribute(file: Any, item: Any, chance: Chance) -> None:
    if not item:  # removed before
        return
    owner = file if chance.random() < 0.5 else item
    keys = [*owner.attrs.keys(), "model_config", "layer_names", "weight_names", "name", "dtype", "keras_version"]
    key = chance.choice(keys)
    old = owner.attrs.get(key)
    if key == "model_config" and isinstance(old, str | bytes) and chance.random() < 0.8:
        text = old.encode() if isinstance(old, str) else old
        owner.attrs[key] = np.bytes_(mutated_json(text, chance))
        return
    value = chance.choice(_HELD)
    owner.attrs.create(key, *value) if isinstance(value, tuple) else owner.attrs.create(key, value)


_RECORD = np.dtype([("a", "<i4"), ("b", "S3")])
_HELD: tuple[Any, ...] = (
    "",
    "text",
    np.bytes_(b"\xff\xfe\x80"),
    np.array([b"\xff", b"dense"]),
    np.array([b"d1", b"d1", b"d1"]),
    np.int64(-1),
    np.float16(np.nan),
    np.zeros((0,), "S4"),
    np.zeros((2, 2), "<f8"),
    np.zeros(2, _RECORD),
    np.zeros(3, "V7"),
    np.bool_(True),
    np.array([b"x" * 200] * 200),
    h5py.Empty("S4"),
    h5py.Empty("f4"),
    (np.array(["d1", "é\u202e"], dtype=object), None, h5py.string_dtype()),
    (np.array([b"\xc3("], dtype=object), None, h5py.string_dtype()),
)
_ARRAYS: tuple[Callable[[Any, str], object], ...] = (
    lambda group, name: group.create_dataset(name, (1 << 40,), "f4", chunks=(1024,)),
    lambda group, name: group.create_dataset(name, (64, 64), "f4", chunks=(8, 8), compression="gzip"),
    lambda group, name: group.create_dataset(name, (0, 3), "f4"),
    lambda group, name: group.create_dataset(name, (), "f8"),
    lambda group, name: group.create_dataset(name, data=h5py.Empty("f4")),
    lambda group, name: group.create_dataset(name, (4, 3), ">c16"),
    lambda group, name: group.create_dataset(name, (4,), _RECORD),
    lambda group, name: group.create_dataset(name, (4,), "V2"),
    lambda group, name: group.create_dataset(name, (4,), h5py.string_dtype()),
    lambda group, name: group.create_dataset(name, (4,), h5py.enum_dtype({"a": 1}, "i1")),
    lambda group, name: group.create_dataset(name, (4,), h5py.ref_dtype),
    lambda group, name: group.create_dataset(name, (2,), np.dtype(("f4", (3,)))),
    lambda group, name: group.create_dataset(name, (1,) * 32, "f4"),
    lambda group, name: group.create_dataset(name, (3,), "bool"),
    lambda group, name: group.create_dataset(name, (4, 3), "f4", maxshape=(None, 3), fillvalue=np.nan),
    lambda group, name: group.create_dataset(name, (4, 3), "f4", external=[("/etc/passwd", 0, 48)]),
    lambda group, name: group.create_group(name),
)


def _array(file: Any, item: Any, chance: Chance) -> None:
    """Another array in the place of one."""
    if not item or item.name == "/":
        return
    name, group = item.name, item.parent
    del file[name]
    chance.choice(_ARRAYS)(group, name.rpartition("/")[2])


def _links(file: Any, item: Any, chance: Chance) -> None:
    """A second name, a strange name, a group in itself, a link that leads away."""
    group = item if item and isinstance(item, h5py.Group) else file
    name = chance.choice((b"\xff\xfe", b"dense:0", "é\u202e".encode(), b"x" * 2000, b"a\nb", struct.pack("<I", 7)[:1]))
    if group.get(name) is not None:
        return
    links: tuple[object, ...] = (file, item or file, h5py.SoftLink("/nowhere"), h5py.ExternalLink("other.h5", "/"))
    group[name] = chance.choice(links)

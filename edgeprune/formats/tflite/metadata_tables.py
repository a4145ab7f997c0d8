"""The tables of TensorFlow Lite Metadata: a flatbuffer of its own in a .tflite file, as nested dicts and back.

Layout: metadata_schema.fbs of tflite-support, version 1.5.0. The dicts have the names of the schema and the form that
its own tools print as JSON: a field that is not there is left out, an enumeration is its name, and a union has beside
it a field NAME_type. The bytes are not trusted: nothing outside them is read, and no more than they have room for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["MAGIC", "BrokenMetadataError", "Tables", "pack_tables", "unpack_tables"]

MAGIC = b"M001"  # at bytes 4 to 8
Tables = dict[str, Any]

_ENUMS: Mapping[str, tuple[str, ...]] = {
    "AssociatedFileType": (
        "UNKNOWN",
        "DESCRIPTIONS",
        "TENSOR_AXIS_LABELS",
        "TENSOR_VALUE_LABELS",
        "TENSOR_AXIS_SCORE_CALIBRATION",
        "VOCABULARY",
        "SCANN_INDEX_FILE",
    ),
    "BoundingBoxType": ("UNKNOWN", "BOUNDARIES", "UPPER_LEFT", "CENTER"),
    "ColorSpaceType": ("UNKNOWN", "RGB", "GRAYSCALE"),
    "CoordinateType": ("RATIO", "PIXEL"),
    "ScoreTransformationType": ("IDENTITY", "LOG", "INVERSE_LOGISTIC"),
}
# A union takes two fields: which table, and the table.
_UNIONS: Mapping[str, tuple[str, ...]] = {
    "ContentProperties": (
        "NONE",
        "FeatureProperties",
        "ImageProperties",
        "BoundingBoxProperties",
        "AudioProperties",
    ),
    "ProcessUnitOptions": (
        "NONE",
        "NormalizationOptions",
        "ScoreCalibrationOptions",
        "ScoreThresholdingOptions",
        "BertTokenizerOptions",
        "SentencePieceTokenizerOptions",
        "RegexTokenizerOptions",
    ),
}
# Fields in the order of their numbers.
_TABLES: Mapping[str, str] = {
    "ModelMetadata": "name:string description:string version:string subgraph_metadata:[SubGraphMetadata] author:string "
    "license:string associated_files:[AssociatedFile] min_parser_version:string",
    "SubGraphMetadata": "name:string description:string input_tensor_metadata:[TensorMetadata] "
    "output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile] input_process_units:[ProcessUnit] "
    "output_process_units:[ProcessUnit] input_tensor_groups:[TensorGroup] output_tensor_groups:[TensorGroup] "
    "custom_metadata:[CustomMetadata]",
    "TensorMetadata": "name:string description:string dimension_names:[string] content:Content "
    "process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]",
    "AssociatedFile": "name:string description:string type:AssociatedFileType locale:string version:string",
    "AudioProperties": "sample_rate:uint channels:uint",
    "BertTokenizerOptions": "vocab_file:[AssociatedFile]",
    "BoundingBoxProperties": "index:[uint] type:BoundingBoxType coordinate_type:CoordinateType",
    "Content": "content_properties:ContentProperties range:ValueRange",
    "CustomMetadata": "name:string data:[ubyte]",
    "FeatureProperties": "",
    "ImageProperties": "color_space:ColorSpaceType default_size:ImageSize",
    "ImageSize": "width:uint height:uint",
    "NormalizationOptions": "mean:[float] std:[float]",
    "ProcessUnit": "options:ProcessUnitOptions",
    "RegexTokenizerOptions": "delim_regex_pattern:string vocab_file:[AssociatedFile]",
    "ScoreCalibrationOptions": "score_transformation:ScoreTransformationType default_score:float",
    "ScoreThresholdingOptions": "global_score_threshold:float",
    "SentencePieceTokenizerOptions": "sentencePiece_model:[AssociatedFile] vocab_file:[AssociatedFile]",
    "Stats": "max:[float] min:[float]",
    "TensorGroup": "name:string tensor_names:[string]",
    "ValueRange": "min:int max:int",
}
_NUMBERS = {"int": "<i", "uint": "<I", "float": "<f", "ubyte": "<B"}
_BYTES_ALIGNMENT = 16  # of CustomMetadata.data


class BrokenMetadataError(ValueError):
    """What is wrong with the bytes, to be told together with the path of the file."""


def _fields(kind: str) -> Iterator[tuple[int, str, str]]:
    """(number, name, type) of the fields of a table; a union has the number of its first."""
    number = 0
    for field in _TABLES[kind].split():
        name, held = field.split(":")
        yield number, name, held
        number += 2 if held in _UNIONS else 1


def unpack_tables(content: bytes) -> tuple[Tables, bool]:
    """The table ModelMetadata in bytes, and whether all that they hold is in it: a newer schema has more fields.

    Raises BrokenMetadataError.
    """
    if content[4:8] != MAGIC:
        raise BrokenMetadataError(f"bytes 4 to 8 are not {MAGIC.decode()!r}")
    reader = _Reader(content)
    return reader.table("ModelMetadata", reader.target(0)), reader.complete


class _Reader:
    """The bytes being read."""

    def __init__(self, content: bytes) -> None:
        self.content, self.complete = content, True
        # With room for tables and texts that several places share.
        self.budget_bytes = 2 * len(content) + (1 << 12)

    def number(self, form: str, place: int) -> Any:
        """A scalar at a place."""
        if not 0 <= place <= len(self.content) - struct.calcsize(form):
            raise BrokenMetadataError("an offset or a length in it points outside")
        return struct.unpack_from(form, self.content, place)[0]

    def target(self, place: int) -> int:
        """Where the offset at a place points."""
        return place + int(self.number("<I", place))

    def charge(self, count: int) -> None:
        """Pay for reading so many bytes before reading them."""
        self.budget_bytes -= count
        if self.budget_bytes < 0:
            raise BrokenMetadataError("it claims more than its bytes have room for")

    def table(self, kind: str, place: int) -> Tables:
        """The table of a kind at a place."""
        self.charge(8)
        start = place - self.number("<i", place)
        slots = [self.number("<H", start + at) for at in range(4, self.number("<H", start) - 1, 2)]
        self.charge(2 * len(slots))
        found: Tables = {}
        known = 0
        for number, name, held in _fields(kind):
            known = number + (2 if held in _UNIONS else 1)
            if held in _UNIONS:
                pair = [place + slot if slot else 0 for slot in (*slots[number:known], 0, 0)[:2]]
                found |= self.union(name, _UNIONS[held], *pair)
            elif number < len(slots) and slots[number]:
                found[name] = self.value(held, place + slots[number])
        self.complete &= not any(slots[known:])
        return found

    def union(self, name: str, kinds: Sequence[str], kind_at: int, table_at: int) -> Tables:
        """The two fields of a union, where it is there and known."""
        number = self.number("<B", kind_at) if kind_at else 0
        if number >= len(kinds):
            self.complete = False
        if not 0 < number < len(kinds) or not table_at:
            return {}
        return {f"{name}_type": kinds[number], name: self.table(kinds[number], self.target(table_at))}

    def value(self, held: str, place: int) -> Any:
        """What a field of a type holds; `place` is that of the field."""
        if held.startswith("["):
            return self.vector(held[1:-1], self.target(place))
        if held == "string":
            return self.text(self.target(place))
        if held in _NUMBERS:
            return self.number(_NUMBERS[held], place)
        if held in _ENUMS:
            number = self.number("<b", place)
            self.complete &= 0 <= number < len(_ENUMS[held])
            return _ENUMS[held][number] if 0 <= number < len(_ENUMS[held]) else number
        return self.table(held, self.target(place))

    def vector(self, held: str, place: int) -> Any:
        """The elements of a vector: a list, or bytes."""
        count, each = self.number("<I", place), 1 if held == "ubyte" else 4
        self.charge(count * each)
        if place + 4 + count * each > len(self.content):
            raise BrokenMetadataError("an offset or a length in it points outside")
        if held == "ubyte":
            return self.content[place + 4 : place + 4 + count]
        return [self.value(held, place + 4 + 4 * index) for index in range(count)]

    def text(self, place: int) -> str:
        """A string."""
        raw: bytes = self.vector("ubyte", place)
        try:
            return raw.decode()
        except UnicodeDecodeError as cause:
            raise BrokenMetadataError("a text in it is not UTF-8") from cause


def pack_tables(tables: Tables) -> bytes:
    """The bytes of a table ModelMetadata: the inverse of `unpack_tables`."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_put_table(builder, "ModelMetadata", tables), MAGIC)
    return bytes(builder.Output())


def _put_table(builder: Any, kind: str, values: Tables) -> int:
    # What lies behind an offset is written before the table that holds the offset.
    slots: list[tuple[int, str, Any]] = []
    count = 0
    for number, name, held in _fields(kind):
        count = number + (2 if held in _UNIONS else 1)
        if values.get(name) is None:
            continue
        if held in _UNIONS:
            table = values[f"{name}_type"]
            slots += [(number, "ubyte", _UNIONS[held].index(table))]
            slots += [(number + 1, "", _put_table(builder, table, values[name]))]
        elif held in _ENUMS:
            slots.append((number, "enum", _enum(held, values[name])))
        elif held in _NUMBERS:
            slots.append((number, held, values[name]))
        else:
            slots.append((number, "", _put(builder, held, values[name])))
    builder.StartObject(count)
    for number, held, value in slots:
        _SLOTS[held](builder, number, value)
    return int(builder.EndObject())


_SLOTS = {
    "": lambda builder, number, value: builder.PrependUOffsetTRelativeSlot(number, value, 0),
    "enum": lambda builder, number, value: builder.PrependInt8Slot(number, value, 0),
    "float": lambda builder, number, value: builder.PrependFloat32Slot(number, value, 0.0),
    "int": lambda builder, number, value: builder.PrependInt32Slot(number, value, 0),
    "ubyte": lambda builder, number, value: builder.PrependUint8Slot(number, value, 0),
    "uint": lambda builder, number, value: builder.PrependUint32Slot(number, value, 0),
}


def _enum(held: str, value: str | int) -> int:
    return value if isinstance(value, int) else _ENUMS[held].index(value)


def _put(builder: Any, held: str, value: Any) -> int:
    """Write what stands behind an offset; its own offset."""
    if held == "string":
        return int(builder.CreateString(value))
    if not held.startswith("["):
        return _put_table(builder, held, value)
    inner = held[1:-1]
    if inner == "ubyte":
        return _put_bytes(builder, value)
    plain = inner in _NUMBERS
    items = value if plain else [_put(builder, inner, item) for item in value]
    builder.StartVector(4, len(items), 4)
    prepend = {"float": builder.PrependFloat32, "int": builder.PrependInt32, "uint": builder.PrependUint32}
    for item in reversed(items):
        prepend.get(inner, builder.PrependUOffsetTRelative)(item)
    return int(builder.EndVector())


def _put_bytes(builder: Any, value: bytes) -> int:
    builder.StartVector(1, len(value), _BYTES_ALIGNMENT)
    builder.head -= len(value)
    builder.Bytes[builder.head : builder.head + len(value)] = value
    return int(builder.EndVector())

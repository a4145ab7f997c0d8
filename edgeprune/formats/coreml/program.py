"""The layers of a compiled Core ML program: its operations, and the stored arrays that each is the first to use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgeprune.formats.contents import Layer, Piece, StoredArray, printable
from edgeprune.formats.coreml.blobs import Blob, BlobFile
from edgeprune.formats.coreml.mil_text import Reference, Statement, Value, statements
from edgeprune.formats.coreml.storage import MIL_USES
from edgeprune.formats.elements import Bytes, Shape, code_counts, count_zeros, element_bits
from edgeprune.formats.weights import Role

__all__ = ["BrokenProgramError", "Claims", "layers_of", "stored_bytes"]

_MODEL_PATH = "@model_path/"
# MIL operation -> its weight's dimension of the output channels (coremltools, MIL operations); a bias has only that.
_CHANNELS: Mapping[str, int] = {"conv": 0, "conv_transpose": 1, "linear": 0}
_MOST_DIMENSIONS = 16
_MOST_PER_BIT = 64  # numbers out of one stored bit: a palette of vectors has eight, say
_MOST_PARTS = 64  # a real one has six at most: mask, indices, table, data, scale, offset


class BrokenProgramError(ValueError):
    """How the program contradicts the weight files, to be told together with the model's path."""


@dataclass(slots=True)
class Claims:
    """The weight files of a model by path inside it, and the arrays that have an owner: (file, offset)."""

    files: Mapping[str, BlobFile]
    taken: set[tuple[str, int]] = field(default_factory=set)

    def place(self, folder: str, reference: Reference) -> tuple[str, int]:
        """(file, offset) of the array that a program in `folder` means, whether it is there or not."""
        inner = reference.path.removeprefix(_MODEL_PATH)
        return (inner if folder == "." else f"{folder}/{inner}"), reference.offset

    def blob(self, folder: str, reference: Reference) -> Blob:
        """That array. Raises BrokenProgramError where it is missing or too small."""
        name, offset = self.place(folder, reference)
        blob = self.files[name].blobs.get(offset) if name in self.files else None
        if blob is None:
            raise BrokenProgramError(f"its program has a constant at byte {offset} of {name!r}; none is there")
        try:
            wanted = -(-math.prod(reference.shape) * element_bits(reference.dtype) // 8)
        except KeyError:
            raise BrokenProgramError(f"a constant of the unknown type {reference.dtype!r}") from None
        if wanted > len(blob.raw) or len(reference.shape) > _MOST_DIMENSIONS:
            raise BrokenProgramError(
                f"its program reads {list(reference.shape)} of {reference.dtype} from {len(blob.raw)} bytes "
                f"at byte {offset} of {name!r}"
            )
        return blob


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A constant, stored or decoded: what it is made of, before an operation uses it."""

    value: Value
    parts: tuple[Reference, ...]
    words: tuple[str, ...] = ()


def layers_of(lines: Iterable[bytes], folder: str, claims: Claims) -> Iterator[Layer]:
    """The operations of a program (the lines of model.mil in `folder` of the model) that own stored arrays.

    Arrays already taken belong to the operation that took them. Raises BrokenProgramError.
    """
    held: dict[str, _Held] = {}
    shapes: dict[str, Shape] = {}
    group = first = ""
    for statement in statements(lines):
        if statement.kind == "func":
            yield from _left_over(held, folder, group, claims)
            first = first or statement.function
            held, shapes = {}, {value.name: value.shape for value in statement.outputs}
            group = _group(folder, statement.function if statement.function != first else "")
        elif statement.kind == "const" or statement.kind.startswith("constexpr_"):
            made = _constant(statement, held)
            held.update({value.name: replace(made, value=value) for value in statement.outputs})
        else:
            layer = _layer(statement, held, shapes, folder, claims)
            shapes.update({value.name: value.shape for value in statement.outputs})
            if layer.arrays:
                yield replace(layer, group=group)
    yield from _left_over(held, folder, group, claims)


def _group(folder: str, function: str) -> str:
    """Where a layer stands: "" in the (first) function of the model itself."""
    words = [folder if folder != "." else "", f"function {function}" if function else ""]
    return printable(" ".join(word for word in words if word))


def _constant(statement: Statement, held: Mapping[str, _Held]) -> _Held:
    """A constant with all that it is decoded from, each stored array once."""
    parts = {(part.path, part.offset): part for part in statement.references}
    inner: list[str] = []
    for parameter, word in statement.arguments:
        for part in held[word].parts if word in held else ():
            called = replace(part, parameter=parameter) if part.parameter == "val" else part
            parts.setdefault((part.path, part.offset), called)
        inner += held[word].words if word in held else ()
    if len(parts) > _MOST_PARTS:
        raise BrokenProgramError(f"a constant made of {len(parts)} arrays: {printable(statement.name)!r}")
    words = _words(statement.kind, {part.parameter: part for part in parts.values()})
    value = statement.outputs[0] if statement.outputs else Value(statement.name, "", ())
    return _Held(value=value, parts=tuple(parts.values()), words=tuple(dict.fromkeys([*words, *inner])))


def _words(kind: str, parts: Mapping[str, Reference]) -> list[str]:
    """How an operation compresses: "sparse", "palette" with its bits, or the type of the integers."""
    words = ["sparse"] if "sparse" in kind else []
    indices = parts.get("indices") or parts.get("indices_nonzero_data")
    if "lut" in kind and indices:
        words.append(f"palette{_index_bits(indices, parts.get('lut'))}")
    numbers = [parts[name] for name in ("quantized_data", "data", "nonzero_data", "source_val") if name in parts]
    if kind.endswith(("_dequantize", "_shift_scale", "_cast")):
        words += [part.dtype for part in numbers[:1]]
    return words


def _index_bits(indices: Reference, table: Reference | None) -> int:
    """Bits of an index: of its type, or (iOS 16: bytes, and one flat table) what the table's length needs."""
    if table is not None and len(table.shape) == 1:
        return max(1, (table.shape[0] - 1).bit_length())
    return element_bits(indices.dtype) if indices.dtype.startswith("uint") else 0


def _layer(
    statement: Statement, held: Mapping[str, _Held], shapes: Mapping[str, Shape], folder: str, claims: Claims
) -> Layer:
    arrays, inputs = [], []
    for part in statement.references:  # written in place, not as a constant with a name
        value = Value(f"{statement.name}.{part.parameter}", part.dtype, part.shape)
        made = _Held(value=value, parts=(replace(part, parameter="val"),))
        arrays.append(_array(made, (statement.kind, part.parameter), folder, claims))
    used: dict[str, str] = {}
    for parameter, word in statement.arguments:
        used.setdefault(word, parameter)
    for word, parameter in used.items():
        if word in held:
            arrays.append(_array(held[word], (statement.kind, parameter), folder, claims))
        elif word in shapes:
            inputs.append(shapes[word])
    return Layer(
        name=printable(statement.name),
        kind=statement.kind,
        arrays=tuple(array for array in arrays if array is not None),
        inputs=tuple(inputs),
        outputs=tuple(value.shape for value in statement.outputs),
    )


def _axis(kind: str, parameter: str, shape: Shape) -> int | None:
    if kind not in _CHANNELS or parameter not in ("weight", "bias"):
        return None
    axis = _CHANNELS[kind] if parameter == "weight" else 0
    return axis if axis < len(shape) else None


def _left_over(held: Mapping[str, _Held], folder: str, group: str, claims: Claims) -> Iterator[Layer]:
    """Stored constants that no operation uses (a function may give one out); decoded ones first, with their parts."""
    for made in reversed(list(held.values())):
        array = _array(made, ("", ""), folder, claims)
        if array is not None:
            yield Layer(name=array.name, kind="const", arrays=(array,), outputs=(made.value.shape,), group=group)


def _array(made: _Held, use: tuple[str, str], folder: str, claims: Claims) -> StoredArray | None:
    """The array that an operation of a kind takes as a parameter (`use`), with its pieces that nobody has taken yet.

    None when nothing is left to take.
    """
    places = [claims.place(folder, part) for part in made.parts]
    if claims.taken.issuperset(places):
        return None
    found = [(part, claims.blob(folder, part)) for part in made.parts]
    axis = _axis(*use, made.value.shape)
    is_real = bool(made.words) or made.value.dtype.startswith(("float", "bfloat"))
    _check_shape(made, sum(len(blob.raw) for _, blob in found))
    pieces = [
        Piece(
            raw=blob.raw,
            dtype=part.dtype,
            shape=part.shape,
            axis=axis if part.shape == made.value.shape else None,
            stored_bytes=len(blob.raw),
        )
        for (part, blob), place in zip(found, places, strict=True)
        if place not in claims.taken
    ]
    claims.taken.update(places)
    return StoredArray(
        name=printable(made.value.name),
        shape=made.value.shape,
        precision="+".join(made.words) or made.parts[0].dtype,
        role=MIL_USES.role(*use, made.value.shape) if is_real else Role.STEERING,
        zeros=_zeros(made, {part.parameter: (part, blob.raw) for part, blob in found}),
        pieces=tuple(pieces),
    )


def _check_shape(made: _Held, stored_bytes: int) -> None:
    """A shape is text, so hold it against the bytes it is decoded from."""
    shape = made.value.shape
    plain = [part.shape for part in made.parts] if not made.words else [shape]
    if plain[:1] != [shape] or math.prod(shape) > _MOST_PER_BIT * 8 * stored_bytes:
        raise BrokenProgramError(
            f"constant {printable(made.value.name)!r} has the shape {list(shape)[:_MOST_DIMENSIONS]}"
        )


def _zeros(made: _Held, parts: Mapping[str, tuple[Reference, Bytes]]) -> int | None:
    """Elements that are zero when decoded, where that needs no more than to count; None for the rest."""
    if not made.words:
        return _part_zeros(parts["val"]) if "val" in parts else None
    elements = math.prod(made.value.shape)
    palette = any(word.startswith("palette") for word in made.words)
    if made.words[0] == "sparse" and not palette and "nonzero_data" in parts and "offset" not in parts:
        inner, values = _part_zeros(parts["nonzero_data"]), math.prod(parts["nonzero_data"][0].shape)
        return elements - values + inner if inner is not None and values <= elements else None
    if palette and len(made.words) == 1 and {"indices", "lut"} <= parts.keys():
        return _palette_zeros(elements, parts["indices"], parts["lut"], int(made.words[0].removeprefix("palette")))
    if len(made.words) == 1 and "data" in parts and "offset" not in parts:  # scale * data, iOS 18
        return _part_zeros(parts["data"]) if parts["data"][0].shape == made.value.shape else None
    return None


def _part_zeros(part: tuple[Reference, Bytes]) -> int | None:
    reference, raw = part
    return count_zeros(raw[: stored_bytes(reference.dtype, reference.shape)], reference.dtype, reference.shape)


def stored_bytes(dtype: str, shape: Shape) -> int:
    """What a dense array takes; blobs may be longer."""
    return -(-math.prod(shape) * element_bits(dtype) // 8)


def _palette_zeros(
    elements: int, indices: tuple[Reference, Bytes], table: tuple[Reference, Bytes], bits: int
) -> int | None:
    """Of one table with a number for each index; None where there are more tables, or vectors in it."""
    reference, raw = table
    if not 0 < bits <= 8 or math.prod(reference.shape) != 1 << bits or 8 * len(indices[1]) < elements * bits:
        return None
    width = element_bits(reference.dtype) // 8
    if reference.dtype not in ("float16", "float32"):
        return None
    entries = np.frombuffer(raw[: width << bits], f"<f{width}")
    return int(code_counts(indices[1], bits, elements)[entries == 0].sum())

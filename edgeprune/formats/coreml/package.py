"""A Core ML program taken apart: every operation with the constants it is the first to use, as they are stored.

Formats: see edgeprune.formats.coreml.mil. Blobs of weight.bin are preceded by 64 bytes each that describe them, and
aligned to 64 bytes (coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents, Layer, Piece, StoredArray
from edgeprune.formats.coreml.constexpr import count_decoded_zeros, decode
from edgeprune.formats.coreml.mil import Block, Constant, Operation, Package, Port
from edgeprune.formats.coreml.mil_macs import mil_macs
from edgeprune.formats.coreml.storage import MIL_USES, compression_of, is_constant
from edgeprune.formats.elements import Shape
from edgeprune.formats.weights import Role
from edgeprune.host.untrusted import is_folder, status_of

__all__ = ["package_files", "program_contents"]

_BLOB_ALIGNMENT = 64  # bytes, of blobs and of what describes each
_MOST_PARTS = 8  # operations between a stored constant and its use; formats of today need 2
_GROUP_CHARS = 80  # of an operation's name in the name of its block: it stands in each layer of it
_OUTPUT_FIRST = frozenset({"conv", "linear", "lstm", "gru", "rnn"})
_STEERING = frozenset({"string", "list", "dictionary", "other"})


def program_contents(path: Path, package: Package) -> Contents:
    """The ML program at `path` (.mlpackage or .mlmodel). Raises InputError for what contradicts itself."""
    if package.weight_bytes and not path.is_dir():  # what ships is both
        raise InputError(
            f"{path}: its weights are in another file, beside it; name the .mlpackage folder that holds both"
        )
    files = package_files(path)
    reader = _Program(package)
    layers = tuple(reader.layers())
    if any(layer.macs is None for layer in layers):  # a sum of those that are known would be less than the truth
        layers = tuple(replace(layer, macs=None) for layer in layers)
    return Contents(
        path=path,
        format="mlpackage" if path.is_dir() else "mlmodel",
        raw_bytes=sum(files.values()),
        sections=_sections(reader, files),
        layers=layers,
        files=files,
        package=package,
    )


def package_files(path: Path) -> dict[str, int]:
    """Sizes of the files of a package by their path in it; of a file, its own. Raises InputError."""
    if not is_folder(path):
        return {path.name: status_of(path).st_size}
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            found[file.relative_to(path).as_posix()] = status_of(file).st_size
    return dict(sorted(found.items()))


class _Program:
    """The main function of a package, being walked."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.makers: dict[str, Operation] = {}
        self.shapes: dict[str, Shape] = {}
        self.open: set[str] = set()  # values with a size that is known only when the model runs
        self.used: set[str] = set()
        self.taken: set[int] = set()  # addresses of stored runs that an array already has
        self.blobs: list[tuple[int, int]] = []  # (address, end) of the runs in the weight file
        self.inline_bytes = 0  # of the runs in the program itself

    def layers(self) -> Iterator[Layer]:
        """Every operation that is no constant, blocks within it included."""
        assert self.package.program is not None
        yield from self._block(self.package.program, "")
        unused = [name for name, maker in self.makers.items() if name not in self.used and _stored(maker)]
        arrays = tuple(self._array(name, None, "") for name in unused)
        if arrays:
            yield Layer(name="(constants that nothing uses)", kind="", arrays=arrays, macs=0)

    def _block(self, block: Block, group: str) -> Iterator[Layer]:
        self._note(block.inputs)
        for operation in block.operations:
            self._note(operation.outputs)
            if is_constant(operation):
                self.makers.update({port.name: operation for port in operation.outputs})
                continue
            yield self._layer(operation, group)
            for number, inner in enumerate(operation.blocks):
                name = operation.outputs[0].name if operation.outputs else operation.kind
                yield from self._block(inner, f"{name[:_GROUP_CHARS]} block {number}")

    def _note(self, ports: Iterable[Port]) -> None:
        for port in ports:
            self.shapes[port.name] = tuple(1 if size is None else size for size in port.shape)
            if None in port.shape:
                self.open.add(port.name)

    def _layer(self, operation: Operation, group: str) -> Layer:
        arrays, activations = [], []
        for parameter, bindings in operation.inputs.items():
            for binding in bindings:
                name = binding if isinstance(binding, str) else self._named(binding, operation, parameter)
                if name not in self.makers:
                    activations.append(self.shapes.get(name, ()))
                elif name not in self.used and self._numbers(name):
                    array = self._array(name, operation.kind, parameter)
                    arrays += [array] if array.parameter or array.pieces else []
        return Layer(
            name=operation.outputs[0].name if operation.outputs else operation.kind,
            kind=operation.kind,
            arrays=tuple(arrays),
            inputs=tuple(activations),
            outputs=tuple(self.shapes[port.name] for port in operation.outputs),
            macs=self._macs(operation),
            group=group,
        )

    def _macs(self, operation: Operation) -> int | None:
        """None where a size that counts is open."""
        values = {binding for bindings in operation.inputs.values() for binding in bindings if isinstance(binding, str)}
        values |= {port.name for port in operation.outputs}
        count = mil_macs(operation, self.shapes, self.makers)
        return count if not count or values.isdisjoint(self.open) else None

    def _named(self, constant: Constant, operation: Operation, parameter: str) -> str:
        """A name for a constant that stands in the operation itself, where a program has none."""
        name = f"{operation.outputs[0].name if operation.outputs else operation.kind}.{parameter}"
        port = Port(name=name, dtype=constant.dtype, shape=constant.shape)
        if name not in self.makers:
            self.makers[name] = Operation(kind="const", inputs={}, outputs=(port,), attributes={"val": constant})
            self.shapes[name] = constant.shape
        return name

    def _numbers(self, name: str) -> bool:
        return self.makers[name].outputs[0].dtype not in _STEERING

    def _parts(self, name: str, depth: int = 0) -> Iterator[tuple[str, Operation]]:
        """The constant operations behind a value, itself first, each once."""
        if depth > _MOST_PARTS or name in self.used:
            return
        maker = self.makers[name]
        self.used.update(port.name for port in maker.outputs)
        yield name, maker
        for bindings in maker.inputs.values():
            for binding in bindings:
                if isinstance(binding, str) and binding in self.makers:
                    yield from self._parts(binding, depth + 1)

    def _array(self, name: str, kind: str | None, parameter: str) -> StoredArray:
        shape, dtype = self.shapes[name], self.makers[name].outputs[0].dtype
        parts = [part for _, part in self._parts(name)]
        numbers = kind is not None and dtype.startswith(("float", "bfloat"))
        is_parameter = numbers and (math.prod(shape) > 1 or MIL_USES.knows(kind or "", parameter))
        return StoredArray(
            name=name,
            shape=shape,
            precision=_precision(parts, dtype),
            role=MIL_USES.role(kind or "", parameter, shape) if is_parameter else Role.STEERING,
            zeros=self._zeros(name),
            pieces=tuple(self._pieces(parts, shape, _axis(kind, parameter), is_parameter)),
        )

    def _pieces(self, parts: list[Operation], shape: Shape, axis: int | None, is_parameter: bool) -> Iterator[Piece]:
        """The stored runs behind an array, each once; numbers that steer an operation belong to the graph."""
        for part in parts:
            for _, constant in _constants(part):
                raw = _raw(constant, is_parameter)
                if raw is None or raw.ctypes.data in self.taken:
                    continue
                self.taken.add(raw.ctypes.data)
                if constant.raw is None:
                    self.inline_bytes += len(raw)
                else:
                    self.blobs.append((raw.ctypes.data, raw.ctypes.data + len(raw)))
                whole = constant.shape == shape and len(shape) > 1
                yield Piece(
                    raw=raw,
                    dtype=constant.dtype,
                    shape=constant.shape,
                    axis=axis if whole else None,
                    stored_bytes=len(raw),
                )

    def _zeros(self, name: str) -> int | None:
        try:
            maker = self.makers[name]
            if maker.kind != "const" and len(maker.outputs) == 1:
                found = count_decoded_zeros(maker.kind, _parts_of(maker, self.makers))
                if found is not None:
                    return found
            return _zeros_in(_decoded(name, self.makers))
        except (KeyError, ValueError, IndexError, TypeError, OverflowError, RecursionError) as cause:
            raise InputError(f"{self.package.path}: a broken Core ML model: constant {name!r}: {cause}") from cause


def _zeros_in(values: Any) -> int | None:
    array = np.asarray(values)
    return int(array.size - np.count_nonzero(array)) if array.dtype.kind in "biuf" else None


def _decoded(name: str, makers: Mapping[str, Operation], depth: int = 0) -> Any:
    """The values of a constant, decoded now and kept by nobody."""
    maker = makers[name]
    if maker.kind == "const":
        return _plain(maker.attributes["val"])
    if depth > _MOST_PARTS:
        raise ValueError(f"decoded from more than {_MOST_PARTS} others")
    place = [port.name for port in maker.outputs].index(name)
    return decode(maker.kind, _parts_of(maker, makers, depth))[place]


def _parts_of(maker: Operation, makers: Mapping[str, Operation], depth: int = 0) -> dict[str, Any]:
    """What a constexpr operation decodes."""
    parts = {key: _plain(constant) for key, constant in maker.attributes.items()}
    for key, bindings in maker.inputs.items():
        told = bindings[0]
        parts[key] = _plain(told) if isinstance(told, Constant) else _decoded(told, makers, depth + 1)
    return parts


def _plain(constant: Constant) -> Any:
    return constant.values if constant.dtype in _STEERING else constant.array()


def _constants(operation: Operation) -> Iterator[tuple[str, Constant]]:
    yield from operation.attributes.items()
    for key, bindings in operation.inputs.items():
        for binding in bindings:
            if isinstance(binding, Constant):
                yield key, binding


def _stored(operation: Operation) -> bool:
    return any(constant.raw is not None for _, constant in _constants(operation))


def _axis(kind: str | None, parameter: str) -> int | None:
    """The output channel's place in a kernel."""
    if parameter in ("weight", "weight_ih", "weight_hh"):
        return 0 if kind in _OUTPUT_FIRST else 1 if kind == "conv_transpose" else None
    return None


def _raw(constant: Constant, is_parameter: bool) -> np.ndarray | None:
    """Bytes in the weight file; of parameters also those written in the program, where floats take their plain size."""
    if constant.raw is not None:
        return np.frombuffer(constant.raw, np.uint8)
    if is_parameter and isinstance(constant.values, np.ndarray) and constant.dtype in ("float16", "float32", "float64"):
        return constant.values.reshape(-1).view(np.uint8)
    return None


def _precision(parts: list[Operation], dtype: str) -> str:
    words = compression_of(parts)
    if "palette" in words:
        words[words.index("palette")] = f"palette{_palette_bits(parts)}"
    return "+".join(words) or dtype


def _palette_bits(parts: list[Operation]) -> int:
    """Bits of an index, from the length of the table: the whole table (iOS 16) or its last but one axis (iOS 18)."""
    table = next((c for part in parts for key, c in _constants(part) if key == "lut"), None)
    entries = 2 if table is None or not table.shape else table.shape[-2 if len(table.shape) > 2 else -1]
    return max(1, (entries - 1).bit_length())


def _sections(reader: _Program, files: Mapping[str, int]) -> dict[str, int]:
    """Bytes by purpose. A forged file may lay arrays over one another: what they cover together counts."""
    stored = reader.package.weight_bytes
    blobs = min(stored, sum(stop - start for start, stop in _merged(reader.blobs)))
    described = min(stored - blobs, _BLOB_ALIGNMENT * (1 + len(reader.blobs)))
    rest = stored - blobs - described
    padding = min(rest, sum((start - stop) % _BLOB_ALIGNMENT for start, stop in reader.blobs))
    model = sum(size for name, size in files.items() if name.endswith(".mlmodel") or len(files) == 1)
    inline = min(model, reader.inline_bytes)
    sections = {
        "weights": blobs + inline,
        "graph": model - inline + described,
        "padding": padding,
        "other": rest - padding,
    }
    sections["metadata"] = sum(files.values()) - sum(sections.values())
    return {name: count for name, count in sections.items() if count or name != "other"}


def _merged(areas: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    end = 0
    for start, stop in sorted(areas):
        if stop > end:
            yield max(start, end), stop
            end = stop

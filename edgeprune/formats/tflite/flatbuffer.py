"""Read a .tflite file without an interpreter: the flatbuffer, its tensors and operations.

Layout: tensorflow/lite/schema/schema.fbs, version 3. The file is not trusted: every vector is held against what a file
of its size can contain before it is read, so a forged length or an overlap costs neither memory nor time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.elements import count_zeros, element_bits
from edgeprune.formats.graph import Graph, Op, Signature, Tensor, count_macs
from edgeprune.formats.tflite.options import read_options
from edgeprune.formats.tflite.schema import schema

__all__ = ["MAGIC", "Buffers", "parse_tflite"]

MAGIC = b"TFL3"  # at bytes 4 to 8
_SCHEMA_VERSION = 3
_MAX_RANK = 32  # interpreters stop at 8 or so; without a limit, a product of a million dimensions takes minutes
_TABLE_BYTES = 24  # a lower bound on what one tensor or operator takes in a file
_BLAME_CHARS = 60
_KEEP_SHAPES = frozenset({"DEQUANTIZE", "QUANTIZE"})

# By number: files are newer than the schema package, which ends at bfloat16.
_DTYPES = (
    "float32",
    "float16",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
    "float64",
    "complex128",
    "uint64",
    "resource",
    "variant",
    "uint32",
    "uint16",
    "int4",
    "bfloat16",
    "int2",
    "uint4",
    "float8_e4m3fn",
    "float8_e5m2",
)
_OP_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}

# schema.fbs, SparseIndexVector.
_INDEX_VECTORS: Mapping[int, Callable[[], Any]] = {
    schema.SparseIndexVector.Int32Vector: schema.Int32Vector,
    schema.SparseIndexVector.Uint16Vector: schema.Uint16Vector,
    schema.SparseIndexVector.Uint8Vector: schema.Uint8Vector,
}


def _none() -> None:
    return None


class _BrokenError(Exception):
    """What is wrong with the file, to be told together with its path."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Buffers:
    """Where a .tflite file keeps its bytes.

    `places`: (start, bytes) in `content` of every buffer that holds any, by number; `metadata`: the numbers of those
    that only describe the model. `positions`: the index arrays of sparse tensors, uint8 views, and `axes` the axis
    along which a tensor has several scales, both by place in `Graph.tensors`, and so are `scales`, the scales of
    quantized tensors. `zero_point_bytes` is what their zero points take, the same ones once.
    """

    content: bytes
    places: Mapping[int, tuple[int, int]]
    metadata: frozenset[int]
    positions: Mapping[int, tuple[npt.NDArray[np.uint8], ...]]
    axes: Mapping[int, int]
    scales: Mapping[int, npt.NDArray[np.float32]]
    zero_point_bytes: int


def parse_tflite(path: Path, content: bytes) -> tuple[Graph, Buffers]:
    """The graph in the bytes of the .tflite file at `path`, and where its bytes are.

    Raises InputError when it is not a whole, consistent TFLite file; Unsupported when it uses an element type that
    this reader does not know.
    """
    if content[4:8] != MAGIC:
        raise InputError(f"{path} is not a TFLite file: bytes 4 to 8 are not {MAGIC.decode()!r}")
    try:
        reader = _Reader(path, content)
        return reader.graph(), reader.buffers()
    except _BrokenError as error:
        raise InputError(f"{path} is a broken TFLite file: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        # The schema package checks nothing: an offset out of the file ends in one of these.
        raise InputError(
            f"{path} is a broken TFLite file: an offset or a length in it points outside the file"
        ) from error


def _printable(name: bytes | None) -> str:
    """A name as it can be shown: other bytes than UTF-8 and control characters are escaped."""
    text = (name or b"").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _check_indices(indices: Sequence[int], count: int, what: str, *, lowest: int = 0) -> None:
    for index in indices:
        if not lowest <= index < count:
            raise _BrokenError(f"{what} refers to number {index}, and there are {count}")


class _Reader:
    """One file being read."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content
        # What a sound file can hold, with room for tables and arrays that several places share.
        self.budget_bytes = 2 * len(content) + (1 << 16)
        self.model: Any = schema.Model.GetRootAs(content, 0)
        self.zeros: dict[tuple[object, ...], int] = {}
        self.tensor_tables: list[Any] = []

    def graph(self) -> Graph:
        """The whole file."""
        if self.model.Version() != _SCHEMA_VERSION:
            raise _BrokenError(f"its schema version is {self.model.Version()}; only {_SCHEMA_VERSION} is in use")
        subgraphs = self.tables(self.model.SubgraphsLength(), self.model.Subgraphs)
        if not subgraphs:
            raise _BrokenError("it holds no graph")
        kinds = self.kinds()
        tensors: list[Tensor] = []
        ops: list[Op] = []
        starts: list[int] = []
        for number, subgraph in enumerate(subgraphs):
            starts.append(len(tensors))
            tables = self.tables(subgraph.TensorsLength(), subgraph.Tensors)
            tensors += [self.tensor(table) for table in tables]
            self.tensor_tables += tables
            operators = self.tables(subgraph.OperatorsLength(), subgraph.Operators)
            ops += [self.op(table, kinds, tensors, starts[-1], number) for table in operators]
        inputs, outputs = self.ends(subgraphs[0], starts[1] if len(starts) > 1 else len(tensors))
        return Graph(
            path=self.path,
            tensors=tuple(tensors),
            ops=tuple(ops),
            inputs=inputs,
            outputs=outputs,
            signatures=self.signatures(len(subgraphs)),
            options=read_options(self.model, [op.kind for op in ops if op.subgraph == 0]),
        )

    def buffers(self) -> Buffers:
        """Where the bytes are, once `graph` is read."""
        self.charge(self.model.BuffersLength(), 4)  # an offset each
        views = {index: self.buffer(index) for index in range(self.model.BuffersLength())}
        base = np.frombuffer(self.content, np.uint8).ctypes.data
        buffers = {index: (view.ctypes.data - base, len(view)) for index, view in views.items() if len(view)}
        named = {tensor.Buffer() for tensor in self.tensor_tables}
        self.charge(sum(size for _, size in {place for number, place in buffers.items() if number not in named}), 1)
        described = self.tables(self.model.MetadataLength(), self.model.Metadata)
        axes, positions, scales = {}, {}, {}
        zero_points: dict[int, int] = {}  # where they are -> how many bytes
        for place, table in enumerate(self.tensor_tables):
            quantization = table.Quantization()
            if quantization is not None and quantization.ScaleLength() > 1:
                axes[place] = quantization.QuantizedDimension()
            if quantization is not None and quantization.ScaleLength():
                self.charge(quantization.ScaleLength(), 1)
                scales[place] = quantization.ScaleAsNumpy()
            if quantization is not None and quantization.ZeroPointLength():
                points = quantization.ZeroPointAsNumpy()
                zero_points[points.ctypes.data] = points.nbytes
            if table.Sparsity() is not None:
                positions[place] = self.positions(table.Sparsity())
        return Buffers(
            content=self.content,
            places=buffers,
            metadata=frozenset(item.Buffer() for item in described),
            positions=positions,
            axes=axes,
            scales=scales,
            zero_point_bytes=sum(zero_points.values()),
        )

    def positions(self, sparsity: Any) -> tuple[npt.NDArray[np.uint8], ...]:
        """Where the values of a sparse tensor stand: segments and indices of each compressed dimension, as bytes."""
        found = []
        for dimension in self.tables(sparsity.DimMetadataLength(), sparsity.DimMetadata):
            for kind, union in (
                (dimension.ArraySegmentsType(), dimension.ArraySegments()),
                (dimension.ArrayIndicesType(), dimension.ArrayIndices()),
            ):
                vector = _INDEX_VECTORS.get(kind, _none)()
                if vector is None or union is None:
                    continue
                vector.Init(union.Bytes, union.Pos)
                self.charge(vector.ValuesLength(), 1)
                if vector.ValuesLength():
                    found.append(vector.ValuesAsNumpy().view(np.uint8))
        return tuple(found)

    def charge(self, count: int, each_bytes: int) -> None:
        """Pay for reading `count` things before reading them."""
        self.budget_bytes -= count * each_bytes
        if self.budget_bytes < 0:
            raise _BrokenError(f"it claims {count} entries where its {len(self.content)} bytes have no room for them")

    def tables(self, count: int, table_at: Callable[[int], Any]) -> list[Any]:
        """The tables of a vector."""
        self.charge(count, _TABLE_BYTES)
        return [table_at(index) for index in range(count)]

    def integers(self, count: int, as_numpy: Callable[[], Any], each_bytes: int = 4) -> tuple[int, ...]:
        """A vector of integers; an absent one is empty."""
        self.charge(count, each_bytes)
        return tuple(as_numpy().tolist()) if count else ()

    def name(self, raw: bytes | None) -> str:
        """A string of the file."""
        self.charge(1, len(raw or b""))
        return _printable(raw)

    def kinds(self) -> list[str]:
        """The operator kinds the file uses."""
        return [self.kind(code) for code in self.tables(self.model.OperatorCodesLength(), self.model.OperatorCodes)]

    def kind(self, code: Any) -> str:
        """CONV_2D and so on; a custom operator's own name."""
        # Codes below 127 stand in the old byte-wide field, newer ones in both (schema.fbs, OperatorCode).
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            return self.name(code.CustomCode()) or "CUSTOM"
        return str(_OP_NAMES.get(number, f"BUILTIN_{number}"))

    def ends(self, subgraph: Any, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Inputs and outputs of the first subgraph, which has `count` tensors."""
        inputs = self.integers(subgraph.InputsLength(), subgraph.InputsAsNumpy)
        outputs = self.integers(subgraph.OutputsLength(), subgraph.OutputsAsNumpy)
        _check_indices(inputs, count, "an input of the graph")
        _check_indices(outputs, count, "an output of the graph")
        return inputs, outputs

    def signatures(self, subgraphs: int) -> tuple[Signature, ...]:
        """The named entry points."""
        tables = self.tables(self.model.SignatureDefsLength(), self.model.SignatureDefs)
        _check_indices([table.SubgraphIndex() for table in tables], subgraphs, "a signature")
        return tuple(
            Signature(
                name=self.name(table.SignatureKey()),
                subgraph=table.SubgraphIndex(),
                inputs=tuple(self.name(m.Name()) for m in self.tables(table.InputsLength(), table.Inputs)),
                outputs=tuple(self.name(m.Name()) for m in self.tables(table.OutputsLength(), table.Outputs)),
                input_tensors=tuple(m.TensorIndex() for m in self.tables(table.InputsLength(), table.Inputs)),
                output_tensors=tuple(m.TensorIndex() for m in self.tables(table.OutputsLength(), table.Outputs)),
            )
            for table in tables
        )

    def op(self, table: Any, kinds: list[str], tensors: list[Tensor], start: int, subgraph: int) -> Op:
        """An operator of the subgraph whose tensors begin at `start`."""
        _check_indices([table.OpcodeIndex()], len(kinds), "an operator")
        kind = kinds[table.OpcodeIndex()]
        inputs = self.integers(table.InputsLength(), table.InputsAsNumpy)
        outputs = self.integers(table.OutputsLength(), table.OutputsAsNumpy)
        for indices in (inputs, outputs):
            _check_indices(indices, len(tensors) - start, kind[:_BLAME_CHARS], lowest=-1)
        inputs, outputs = (tuple(i + start if i >= 0 else -1 for i in indices) for indices in (inputs, outputs))
        if kind in _KEEP_SHAPES and inputs and outputs:
            self.complete(tensors, inputs[0], outputs[0])
        shapes = [[tensors[i].shape if i >= 0 else () for i in indices] for indices in (inputs, outputs)]
        try:
            macs = count_macs(kind, shapes[0], shapes[1], adjoint_x=_adjoint_x(kind, table))
        except IndexError as error:
            raise _BrokenError(f"a {kind} lacks an input, or its kernel has too few dimensions") from error
        return Op(kind=kind, inputs=inputs, outputs=outputs, macs=macs, subgraph=subgraph)

    @staticmethod
    def complete(tensors: list[Tensor], given: int, made: int) -> None:
        """The converter leaves the rank of a quantized kernel open (quantization-aware training): it is that of the
        kernel."""
        if given < 0 or made < 0 or tensors[made].shape or tensors[made].constant:
            return
        tensors[made] = replace(tensors[made], shape=tensors[given].shape, elements=tensors[given].elements)

    def tensor(self, table: Any) -> Tensor:
        """A tensor, its constant counted."""
        name = self.name(table.Name())
        shape = self.integers(table.ShapeLength(), table.ShapeAsNumpy)
        if len(shape) > _MAX_RANK or any(size < -1 for size in shape):
            raise _BrokenError(f"tensor {name[:_BLAME_CHARS]!r} has an impossible shape")
        shape = tuple(abs(size) for size in shape)  # -1 marks a free dimension in files of old converters
        number = table.Type()
        dtype = _DTYPES[number] if 0 <= number < len(_DTYPES) else f"type_{number}"
        values = self.buffer(table.Buffer()) if not table.IsVariable() else None
        constant = values is not None and len(values) > 0
        zeros = self.count(table, values, dtype, shape, name) if values is not None and constant else None
        return Tensor(
            name=name,
            shape=shape,
            dtype=dtype,
            constant=constant,
            raw_bytes=len(values) if values is not None else 0,
            elements=math.prod(shape),
            zeros=zeros,
            buffer=table.Buffer() if constant else 0,
        )

    def buffer(self, index: int) -> npt.NDArray[np.uint8]:
        """The bytes of a buffer, uint8 (bytes,); a view, not a copy."""
        if index == 0 and not self.model.BuffersLength():
            return np.empty(0, np.uint8)
        _check_indices([index], self.model.BuffersLength(), "a tensor's buffer")
        buffer = self.model.Buffers(index)
        start, size = buffer.Offset(), buffer.Size()
        if start > 1:  # files above 2 GB keep their buffers after the flatbuffer
            if start + size > len(self.content):
                raise _BrokenError(
                    f"buffer {index} ends at byte {start + size} of {len(self.content)}; it is cut short"
                )
            return np.frombuffer(self.content, np.uint8, size, start)
        count = buffer.DataLength()
        if count > len(self.content):
            raise _BrokenError(f"buffer {index} claims {count} bytes of {len(self.content)}; it is cut short")
        values: npt.NDArray[np.uint8] = buffer.DataAsNumpy() if count else np.empty(0, np.uint8)
        return values

    def count(self, table: Any, raw: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...], name: str) -> int:
        """Zeros of a constant; a shared buffer is counted once for each way it is read."""
        if dtype in ("string", "resource", "variant"):
            self.charge(len(raw), 1)
            return 0
        try:
            element_bits(dtype)
        except KeyError:
            raise Unsupported(
                f"{self.path}: tensor {name[:_BLAME_CHARS]!r} has element {dtype}, which is not known here"
            ) from None
        zero_points, axis = self.zero_points(table)
        sparse = table.Sparsity() is not None
        key = (table.Buffer(), dtype, shape, zero_points, axis, sparse)
        if key not in self.zeros:
            self.charge(len(raw), 1)
            try:
                count = _sparse_zeros if sparse else count_zeros
                self.zeros[key] = count(raw, dtype, shape, zero_points=zero_points, axis=axis) or 0
            except ValueError as error:
                raise _BrokenError(f"tensor {name[:_BLAME_CHARS]!r}: {error}") from error
        return self.zeros[key]

    def zero_points(self, table: Any) -> tuple[tuple[int, ...], int]:
        """Zero points and the axis they run along. Blockwise quantization has none but 0 (schema.fbs)."""
        quantization = table.Quantization()
        if quantization is None or not quantization.ZeroPointLength():
            return (0,), 0
        points = self.integers(quantization.ZeroPointLength(), quantization.ZeroPointAsNumpy, each_bytes=8)
        return points, quantization.QuantizedDimension()


def _adjoint_x(kind: str, table: Any) -> bool:
    if kind != "BATCH_MATMUL" or table.BuiltinOptionsType() != schema.BuiltinOptions.BatchMatMulOptions:
        return False
    options, union = schema.BatchMatMulOptions(), table.BuiltinOptions()
    options.Init(union.Bytes, union.Pos)
    return bool(options.AdjX())


def _sparse_zeros(
    raw: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...], *, zero_points: Sequence[int], axis: int
) -> int:
    """Zeros of the dense tensor behind stored sparse values: those among the values, and all that is not stored."""
    elements, stored = math.prod(shape), len(raw) * 8 // element_bits(dtype)
    if stored > elements:
        raise ValueError(f"{stored} stored values in a sparse tensor of {elements} elements")
    if len(set(zero_points)) > 1:
        raise ValueError("a sparse tensor cannot have several zero points")
    # DENSIFY fills with the number 0, whatever the zero point is.
    filled_are_zeros = dtype.startswith(("float", "bfloat")) or zero_points[0] == 0
    zeros = count_zeros(raw, dtype, (stored,), zero_points=zero_points, axis=axis) or 0
    return zeros + (elements - stored if filled_are_zeros else 0)

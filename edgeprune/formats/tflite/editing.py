"""The first graph of a .tflite file, to be changed operation by operation.

Constants are never changed in place: several tensors may share one buffer, and several operations one tensor. What
nothing reads any more is left out when the file is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import Unsupported
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.formats.tflite.objects import (
    Generated,
    as_objects,
    constant,
    file_bytes,
    operator_code,
    operator_kinds,
    schema_classes,
    tensor_name,
)

__all__ = ["EditedGraph"]

Array = npt.NDArray[np.generic]
_DTYPES: Mapping[str, str] = {"FLOAT32": "<f4", "FLOAT16": "<f2", "INT32": "<i4", "INT8": "|i1"}
_TYPES: Mapping[np.dtype[np.generic], str] = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


class EditedGraph:
    """A file that is being changed; `path` is for messages. Operations and tensors are objects of the schema."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Raises InputError for what is no sound .tflite file, Unsupported for one whose weights lie behind it."""
        parse_tflite(path, content)  # the generated classes check nothing
        self.path, self.model, self.schema = path, as_objects(content), schema_classes()
        if any(getattr(buffer, "offset", 0) > 1 for buffer in self.model.buffers):
            raise Unsupported(f"{path}: its weights lie behind the flatbuffer, as in files above 2 GB; such stay as is")
        self.graph = self.model.subgraphs[0]
        numbers = {number: name for name, number in vars(self.schema.TensorType).items() if name.isupper()}
        self._type_names: Mapping[int, str] = numbers
        self._kinds: list[str] = []

    # --- Reading --------------------------------------------------------------------------------------------------

    @property
    def ops(self) -> list[Generated]:
        """The operations in the order in which they run."""
        found: list[Generated] = self.graph.operators
        return found

    @property
    def inputs(self) -> tuple[int, ...]:
        """Tensors that the caller fills."""
        return tuple(int(index) for index in self.graph.inputs)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Tensors that the caller reads."""
        return tuple(int(index) for index in self.graph.outputs)

    def kind(self, op: Generated) -> str:
        """CONV_2D and so on."""
        if len(self._kinds) != len(self.model.operatorCodes):
            self._kinds = operator_kinds(self.model)
        return self._kinds[int(op.opcodeIndex)]

    def reads(self, op: Generated) -> tuple[int, ...]:
        """The inputs of an operation, -1 for one that is left out."""
        return () if op.inputs is None else tuple(int(index) for index in op.inputs)

    def writes(self, op: Generated) -> tuple[int, ...]:
        """The outputs of an operation."""
        return () if op.outputs is None else tuple(int(index) for index in op.outputs)

    def users(self, index: int) -> list[Generated]:
        """The operations that read a tensor."""
        return [op for op in self.ops if index in self.reads(op)]

    def maker(self, index: int) -> Generated | None:
        """The operation that writes a tensor; None for inputs and constants."""
        return next((op for op in self.ops if index in self.writes(op)), None)

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor; () for a scalar and for one that is left out."""
        shape = self.graph.tensors[index].shape if index >= 0 else None
        return () if shape is None else tuple(int(size) for size in shape)

    def type_name(self, index: int) -> str:
        """FLOAT32 and so on."""
        return self._type_names.get(int(self.graph.tensors[index].type), "")

    def name(self, index: int) -> str:
        """The name of a tensor, without those fused into it."""
        return tensor_name(self.graph.tensors[index]).split(";")[0]

    def layer(self, op: Generated) -> str:
        """What an operation is called in messages: by its first output."""
        written = self.writes(op)
        return self.name(written[0]) if written else ""

    def values(self, index: int) -> Array | None:
        """A constant as it is stored, in the tensor's shape; None for what is none, or is stored sparse."""
        if index < 0:
            return None
        tensor = self.graph.tensors[index]
        dtype = _DTYPES.get(self.type_name(index))
        if dtype is None or tensor.isVariable or tensor.sparsity is not None:
            return None
        return constant(self.model, tensor, dtype)

    def stored(self, index: int) -> Array | None:
        """The values of a constant that is stored sparse, flat; None for what is not stored or of an unknown type."""
        tensor, dtype = self.graph.tensors[index], _DTYPES.get(self.type_name(index))
        data = self.model.buffers[tensor.buffer].data
        if dtype is None or data is None or len(data) % np.dtype(dtype).itemsize:
            return None
        return np.asarray(data, np.uint8).view(dtype)

    def floats(self, index: int) -> npt.NDArray[np.float32] | None:
        """The same of float32 numbers; None for others."""
        found = self.values(index) if index >= 0 and self.type_name(index) == "FLOAT32" else None
        return None if found is None else found.astype(np.float32, copy=False)

    # --- Changing -------------------------------------------------------------------------------------------------

    def add_tensor(self, name: str, shape: Sequence[int], type_name: str) -> int:
        """A tensor that is computed; its number."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), np.array(shape, np.int32), 0
        tensor.type = getattr(self.schema.TensorType, type_name)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_constant(self, name: str, values: Array, shape: Sequence[int] | None = None) -> int:
        """A tensor with these values (float32, float16, int32 or int8); `shape` where it is not theirs."""
        index = self.add_tensor(name, values.shape if shape is None else shape, _TYPES[values.dtype])
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def add_op(
        self,
        kind: str,
        inputs: Sequence[int],
        output: int,
        *,
        before: Generated | None,
        options: Generated | None = None,
        version: int = 1,
    ) -> Generated:
        """An operation before another one, or first of all; `options` is a table of the schema, as BuiltinOptions names
        it with a T behind."""
        op: Generated = self.schema.OperatorT()
        op.opcodeIndex = operator_code(self.model, kind, version)
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(self.schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        place = 0 if before is None else next(n for n, other in enumerate(self.ops) if other is before)
        self.ops.insert(place, op)
        return op

    def set_read(self, op: Generated, position: int, index: int) -> None:
        """Let an operation read another tensor at one place."""
        inputs = list(self.reads(op))
        inputs[position] = index
        op.inputs = np.array(inputs, np.int32)

    def redirect(self, old: int, new: int, ops: Iterable[Generated]) -> None:
        """Let operations read `new` in the place of `old`."""
        for op in ops:
            op.inputs = np.array([new if index == old else index for index in self.reads(op)], np.int32)

    def remove(self, op: Generated) -> None:
        """Take an operation out."""
        self.graph.operators = [other for other in self.ops if other is not op]

    # --- Writing --------------------------------------------------------------------------------------------------

    def content(self) -> bytes:
        """The file, without tensors and buffers that nothing refers to."""
        self._drop_tensors()
        self._drop_buffers()
        return file_bytes(self.model)

    def _drop_tensors(self) -> None:
        used = {*self.inputs, *self.outputs}
        for op in self.ops:
            used.update(self.reads(op), self.writes(op), (int(n) for n in _listed(op.intermediates)))
        for table in _listed(self.model.signatureDefs):
            if table.subgraphIndex == 0:
                used.update(int(end.tensorIndex) for end in (*_listed(table.inputs), *_listed(table.outputs)))
        kept = [index for index in range(len(self.graph.tensors)) if index in used]
        if len(kept) == len(self.graph.tensors):
            return
        places = {-1: -1} | {index: place for place, index in enumerate(kept)}
        self.graph.tensors = [self.graph.tensors[index] for index in kept]
        for table, field in ((self.graph, "inputs"), (self.graph, "outputs")):
            setattr(table, field, _moved(getattr(table, field), places))
        for op in self.ops:
            for field in ("inputs", "outputs", "intermediates"):
                setattr(op, field, _moved(getattr(op, field), places))
        for table in _listed(self.model.signatureDefs):
            for end in (*_listed(table.inputs), *_listed(table.outputs)) if table.subgraphIndex == 0 else ():
                end.tensorIndex = places[int(end.tensorIndex)]

    def _drop_buffers(self) -> None:
        """Buffer 0 stays: it is the empty one (schema.fbs, Model.buffers)."""
        model = self.model
        tables = [*(t for graph in model.subgraphs for t in graph.tensors), *_listed(model.metadata)]
        numbers = [int(number) for number in _listed(model.metadataBuffer)]
        kept = sorted({0, *numbers, *(int(table.buffer) for table in tables)})
        places = {number: place for place, number in enumerate(kept)}
        model.buffers = [model.buffers[number] for number in kept]
        for table in tables:
            table.buffer = places[int(table.buffer)]
        if numbers:
            model.metadataBuffer = np.array([places[number] for number in numbers], np.int32)


def _listed(items: Any) -> list[Any]:
    """A vector of the schema as a list; [] for one that is left out."""
    return [] if items is None else list(items)


def _moved(indices: Any, places: Mapping[int, int]) -> Array | None:
    return None if indices is None else np.array([places[int(n)] for n in _listed(indices)], np.int32)

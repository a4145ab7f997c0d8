"""The float file that an int8 one was made of: its operations, the layers they belong to, and what its tensors hold.

The quantizer keeps the names of tensors, so that an operation of one file is found in the other, whether it computes
in integers there or in float.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeprune.converters.file_checks import MOVES
from edgeprune.converters.quantizer import ranges_of, without_ranges
from edgeprune.converters.session import Exported
from edgeprune.errors import RuntimeFailure
from edgeprune.formats import Graph, Op, read_contents
from edgeprune.formats.tflite.objects import as_objects, file_bytes, tensor_name, with_outputs
from edgeprune.host.scratch import scratch_folder
from edgeprune.runtime.session import Rows, newest_runtime, run_tflite, trace_tflite

__all__ = ["FloatStart", "Operation", "layer_of", "noise_of", "on_disk", "run_content"]

_PART_BYTES = 256_000_000  # of what a trace keeps at once
_JOINT = "CONCATENATION"
_ENDINGS = frozenset({"LOGISTIC", "SOFTMAX"})  # they squeeze differences of what comes in


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation by the name of the tensor that it makes; `layers` are those that are fused into it, the one with the
    weights last."""

    node: str
    kind: str
    layers: tuple[str, ...]
    macs: int

    @property
    def layer(self) -> str:
        """The layer that it is told by; an operation of no layer by its tensor."""
        return self.layers[-1] if self.layers else self.node.split(";")[0]


def layer_of(part: str, known: Collection[str]) -> str | None:
    """The layer in a part of a tensor's name such as "functional_1/conv_1/convolution": Keras numbers the scopes of
    layers that are called again."""
    for piece in reversed(part.split("/")):
        for name in (piece, re.sub(r"_\d+$", "", piece), re.sub(r"\d+$", "", piece)):
            if name in known:
                return name
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatStart:
    """A float file that can be run: `content` with the signature of the int8 file; `operations` in order; `moved` are
    the nodes behind the last arithmetic that join numbers and move them, `joined` the tensors that they join."""

    content: bytes
    operations: tuple[Operation, ...]
    ends: tuple[str, ...]
    moved: tuple[str, ...]
    joined: tuple[str, ...]
    sample_bytes: int
    ranges: Mapping[str, tuple[float, float]] = field(repr=False)

    @classmethod
    def of(cls, made: Exported, layers: Sequence[str]) -> FloatStart:
        """That of an int8 file which was made with `keep_start`, of a model with these layers."""
        content = _signed(without_ranges(made.start), made.path.read_bytes())
        with on_disk(content) as path:
            graph = read_contents(path).graph
        assert graph is not None
        known = frozenset(layers)
        moved = _moved(graph)
        computed = [op for op in graph.ops if op.outputs and not graph.tensors[op.outputs[0]].constant]
        return cls(
            content=content,
            operations=tuple(_operation(graph, op, known) for op in computed),
            ends=_before_endings(graph),
            moved=tuple(graph.tensors[op.outputs[0]].name for op in moved),
            joined=tuple(
                graph.tensors[n].name
                for op in [op for op in moved if op.kind == _JOINT][:1]
                for n in op.inputs
                if not graph.tensors[n].constant
            ),
            sample_bytes=sum(4 * graph.tensors[n].elements for op in graph.ops for n in op.outputs),
            ranges=ranges_of(made.start),
        )

    @property
    def macs(self) -> int:
        """MACs of all operations."""
        return sum(operation.macs for operation in self.operations)

    def share(self, nodes: Collection[str]) -> float:
        """The share of the MACs that these operations make."""
        return sum(op.macs for op in self.operations if op.node in nodes) / max(1, self.macs)

    def traced(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """What a file (this one, or one that was made of it) computes, real numbers by tensor, some samples at a
        time."""
        count = min(len(values) for values in inputs.values())
        step = max(1, _PART_BYTES // max(1, self.sample_bytes))
        with on_disk(content) as path:
            for begin in range(0, count, step):
                some = {name: values[begin : begin + step] for name, values in inputs.items()}
                found = trace_tflite(path, some, runtime=newest_runtime(), threads=2, limit_bytes=_PART_BYTES)
                yield {t.name: t.values for t in found.tensors if t.values is not None}

    def outputs(self, content: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a file computes before the softmax or sigmoid at its end, where differences are not squeezed."""
        return run_content(_tapped(content, self.ends), inputs)

    def noise(self, content: bytes, before: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> float:
        """How far the outputs of a file are from what they were `before` (`noise_of`); all of it is noise where the
        runtime refuses the file."""
        try:
            return noise_of(before, self.outputs(content, inputs))
        except RuntimeFailure:
            return 1.0


def noise_of(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """The mean squared error of the outputs: of each channel in units of its own variance and at most 1, so that large
    numbers do not hide what becomes of small ones beside them."""
    parts = []
    for name, values in before.items():
        rows = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1).astype(np.float64)
        error = np.square(rows - after[name].reshape(rows.shape)).mean(0)
        spread = rows.var(0)
        told = spread > 1e-12 * max(float(np.square(rows).mean()), 1e-30)
        parts.append(float(np.minimum(error[told] / spread[told], 1.0).mean()) if told.any() else 0.0)
    return float(np.mean(parts)) if parts else 0.0


def run_content(content: bytes, inputs: Mapping[str, Rows]) -> dict[str, np.ndarray]:
    """The outputs of a file on the newest runtime."""
    with on_disk(content) as path:
        return run_tflite(path, inputs, runtime=newest_runtime()).outputs


@contextlib.contextmanager
def on_disk(content: bytes) -> Iterator[Path]:
    """The content of a .tflite file as a file, while this is open."""
    with scratch_folder() as folder:
        path = folder / "trial.tflite"
        path.write_bytes(content)
        yield path


def _operation(graph: Graph, op: Op, known: Collection[str]) -> Operation:
    node = graph.tensors[op.outputs[0]].name
    found = (layer_of(part, known) for part in node.split(";"))
    return Operation(node=node, kind=op.kind, layers=tuple(dict.fromkeys(name for name in found if name)), macs=op.macs)


def _signed(start: bytes, integer: bytes) -> bytes:
    """The float file with the signatures of the integer one, whose inputs and outputs have the same order."""
    model, other = as_objects(start), as_objects(integer)
    model.signatureDefs = other.signatureDefs
    own, theirs = model.subgraphs[0], other.subgraphs[0]
    for signature in model.signatureDefs or ():
        for items, ends, before in (
            (signature.inputs, own.inputs, theirs.inputs),
            (signature.outputs, own.outputs, theirs.outputs),
        ):
            place = {int(number): int(end) for number, end in zip(before, ends, strict=True)}
            for item in items:
                item.tensorIndex = place[int(item.tensorIndex)]
    return file_bytes(model)


def _before_endings(graph: Graph) -> tuple[str, ...]:
    """For each output the tensor that stands for it; the outputs themselves where two would be one."""
    maker = {number: op for op in graph.ops for number in op.outputs}
    found = []
    for number in graph.outputs:
        at = number
        while at in maker and maker[at].kind in _ENDINGS:
            at = maker[at].inputs[0]
        found.append(at)
    ends = found if len(set(found)) == len(found) else graph.outputs
    return tuple(graph.tensors[number].name for number in ends)


def _moved(graph: Graph) -> list[Op]:
    """What joins and moves numbers on their way out, from the first joint on and what moves them right before it;
    empty where nothing is joined there."""
    readers: dict[int, list[int]] = {}
    for number, op in enumerate(graph.ops):
        for tensor in op.inputs:
            readers.setdefault(tensor, []).append(number)
    behind: set[int] = set()
    for number in reversed(range(len(graph.ops))):
        op = graph.ops[number]
        if op.kind in MOVES and all(reader in behind for tensor in op.outputs for reader in readers.get(tensor, ())):
            behind.add(number)
    joint = next((number for number in sorted(behind) if graph.ops[number].kind == _JOINT), None)
    if joint is None:
        return []
    feeds = set(graph.ops[joint].inputs)  # the quantizer gives a RESHAPE before the joint the joint's range
    for number in reversed(range(joint)):
        if number in behind and feeds & set(graph.ops[number].outputs):
            feeds |= set(graph.ops[number].inputs)
    return [graph.ops[n] for n in sorted(behind) if n >= joint or feeds & set(graph.ops[n].outputs)]


def _tapped(content: bytes, names: Sequence[str]) -> bytes:
    """The file with these tensors as outputs."""
    model = as_objects(content)
    graph = model.subgraphs[0]
    place = {tensor_name(tensor): number for number, tensor in reversed(list(enumerate(graph.tensors)))}
    if any(name not in place for name in names):
        return content
    before = {int(number): place[name] for number, name in zip(graph.outputs, names, strict=True)}
    return with_outputs(model, before)

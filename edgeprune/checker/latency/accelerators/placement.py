"""Which operations of a .tflite file an accelerator takes, and why the others stay on the CPU: by published rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgeprune.checker.latency.accelerators.placement_records import Maps, OpPlacement, Placement
from edgeprune.checker.latency.accelerators.rules import Accelerator, find_accelerator
from edgeprune.checker.latency.accelerators.sparse_cores import place_weights
from edgeprune.checker.latency.accelerators.sparse_table import SparseTable
from edgeprune.checker.latency.accelerators.view import OpView
from edgeprune.checker.latency.sparsity import Condition
from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents
from edgeprune.formats.graph import Graph
from edgeprune.formats.precision import tflite_precision

__all__ = ["place_operations"]

_UNLISTED = "in the list of operations"


def place_operations(contents: Contents, target: str, table: SparseTable | None = None) -> Placement:
    """Hold each operation of a file against the rules of a target; `table` is what a GPU with sparse tensor cores
    measured.

    Raises UsageError for an unknown target, InputError for a file of a format that the target's rules do not read.
    """
    accelerator = find_accelerator(target)
    if accelerator.pattern:
        return _of_weights(contents, accelerator, table)
    graph = contents.graph
    if graph is None:
        raise InputError(
            f"{contents.path}: {accelerator.title} takes .tflite files; convert the model with --to tflite"
        )
    precision = tflite_precision(graph)
    if precision not in accelerator.precisions:
        wanted = " or ".join(accelerator.precisions)
        return _placement(
            accelerator,
            Maps.NO,
            refused=f"nothing maps, since the file is {precision} and not {wanted}; "
            "edgeprune convert --precision int8 --io-type int8 makes one",
        )
    ops = tuple(_in_parts(graph, accelerator))
    others = len({op.subgraph for op in graph.ops} - {0})
    note = f"{others} other subgraphs of the file are not looked at" if others else ""
    return _placement(accelerator, _together(ops), ops, note=note)


def _together(ops: tuple[OpPlacement, ...]) -> Maps:
    answers = {op.maps for op in ops}
    return Maps.NO if Maps.NO in answers else Maps.UNKNOWN if Maps.UNKNOWN in answers or not ops else Maps.YES


def _of_weights(contents: Contents, accelerator: Accelerator, table: SparseTable | None) -> Placement:
    if not contents.complete:
        raise InputError(f"{contents.path}: {contents.note}; {accelerator.target} needs the weights: export it to ONNX")
    ops, gain = place_weights(contents, accelerator, table)
    note = "" if ops else "nothing in the file multiplies stored weights"
    return replace(_placement(accelerator, _together(ops), ops, note=note), gain=gain)


def _placement(
    accelerator: Accelerator, maps: Maps, ops: tuple[OpPlacement, ...] = (), *, refused: str = "", note: str = ""
) -> Placement:
    return Placement(
        target=accelerator.target,
        title=accelerator.title,
        compiler=accelerator.compiler,
        maps=maps,
        ops=ops,
        sources=accelerator.sources,
        refused=refused,
        note=note,
    )


def _in_parts(graph: Graph, accelerator: Accelerator) -> Iterator[OpPlacement]:
    """The operations in order; where one part is all there is, those behind its end stay on the CPU with it, and those
    behind an operation of which the rules do not tell are no better known."""
    end: OpPlacement | None = None
    for index, op in enumerate(op for op in graph.ops if op.subgraph == 0):
        view = OpView(graph=graph, op=op, index=index)
        found = _conditions(view, accelerator)
        if end is not None and not any(condition.met is False for condition in found):
            found = (_behind(end, accelerator), *found)
        met = {condition.met for condition in found}
        placed = OpPlacement(
            index=index,
            op=op.kind,
            output=next((graph.tensors[i].name for i in op.outputs if i >= 0), ""),
            macs=op.macs,
            maps=Maps.NO if False in met else Maps.UNKNOWN if None in met else Maps.YES,
            conditions=found,
        )
        yield placed
        ends = accelerator.parts == "first" and placed.maps is not Maps.YES and not _passes(view, accelerator)
        if ends and (end is None or (end.maps is Maps.UNKNOWN and placed.maps is Maps.NO)):
            end = placed


def _behind(end: OpPlacement, accelerator: Accelerator) -> Condition:
    """What an operation behind the end of the only part fails, or what is not known of one behind a possible end."""
    ended = end.maps is Maps.NO
    where = f"#{end.index} {end.op:.60}"
    return Condition(
        rule=accelerator.parts_rule,
        met=False if ended else None,
        found=f"it comes after {where}" if ended else f"whether {where} maps is not known",
        source=accelerator.parts_source.address,
    )


def _conditions(view: OpView, accelerator: Accelerator) -> tuple[Condition, ...]:
    """The conditions that are not met, or not known to be."""
    if view.op.kind not in accelerator.operations:
        name = f"{view.op.kind:.60} is not"
        return (Condition(rule=_UNLISTED, met=False, found=name, source=accelerator.listed_in.address),)
    found = [rule.condition(view) for rule in accelerator.rules if rule.applies(view)]
    return tuple(condition for condition in found if condition.met is not True)


def _passes(view: OpView, accelerator: Accelerator) -> bool:
    """Whether it only turns float inputs of the graph into integers, which a compiler leaves on the CPU."""
    inputs = set(view.graph.inputs)
    floats = all(view.graph.tensors[i].dtype.startswith("float") for i in view.op.inputs if i >= 0)
    return view.op.kind in accelerator.passes and set(view.op.inputs) <= inputs and floats

"""What a change of a model breaks without a word: sparse, integer and aligned kernels. Counted for budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeprune.checker.budget import Budget
from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents, printable
from edgeprune.formats.pattern import Pattern
from edgeprune.verdict import Limit, Unknown

__all__ = ["COUNTS", "Counted"]

_NAME_CHARS = 80
_CONVERSIONS = frozenset({"DENSIFY", "DEQUANTIZE", "QUANTIZE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a limit is held against; None, with the reason, where nothing was counted. `layers` are those that break it,
    or keep it from being kept, by name."""

    actual: float | None = None
    layers: tuple[str, ...] = ()
    unknown: Unknown | None = None
    detail: str = ""


def _eligible(contents: Contents, budget: Budget) -> Counted:
    """The share of the MACs that the target takes; its layers the others, the largest first."""
    from edgeprune.checker.latency.accelerators.placement import place_operations
    from edgeprune.checker.latency.accelerators.placement_records import Maps

    assert budget.target is not None
    try:
        found = place_operations(contents, budget.target)
    except InputError as cause:
        return Counted(unknown=Unknown.NOT_COUNTED, detail=str(cause).removeprefix(f"{contents.path}: "))
    if found.refused:
        return Counted(actual=0.0, detail=found.refused)
    share = found.macs_share if found.gain is None else found.gain.kept_share
    if share is None or not any(op.macs for op in found.ops):
        return Counted(unknown=Unknown.NOT_COUNTED, detail="nothing in it multiplies, or the file does not tell MACs")
    left = sorted((op for op in found.ops if op.macs and op.maps is not Maps.YES), key=lambda op: -op.macs)
    return Counted(actual=share, layers=tuple(_named(op.output or op.op) for op in left))


def _fuller(contents: Contents, budget: Budget) -> Counted:
    """Weights with a group that is fuller than the pattern; not judged where there is none to count, or one that cannot
    be counted."""
    from edgeprune.formats.kept_patterns import kept_patterns

    pattern: Pattern | None = budget.pattern
    assert pattern is not None
    found = kept_patterns(contents, pattern)
    broken = [kept for kept in found if kept.kept is False]
    unread = [kept for kept in found if kept.eligible is None]
    if not broken and unread:
        return Counted(unknown=Unknown.NOT_COUNTED, detail=f"{_named(unread[0].layer)}: {unread[0].skipped}")
    if not any(kept.groups for kept in found):
        return Counted(unknown=Unknown.NO_WEIGHTS, detail=f"no weights with inputs in groups of {pattern.m}")
    return Counted(actual=len(broken), layers=tuple(_named(kept.layer) for kept in broken))


def _float_ops(contents: Contents, _: Budget) -> Counted:
    """Operations that compute in floating point; those that only turn numbers into others are none."""
    graph = contents.graph
    if graph is None or not graph.ops:
        return Counted(unknown=Unknown.NOT_COUNTED, detail="operations are counted in .tflite files")
    floats = []
    for op in graph.ops:
        ends = [graph.tensors[index] for index in (*op.inputs, *op.outputs) if index >= 0]
        if op.kind not in _CONVERSIONS and any(
            e.dtype.startswith(("float", "bfloat")) and not e.constant for e in ends
        ):
            name = graph.tensors[op.outputs[0]].name if op.outputs and op.outputs[0] >= 0 else ""
            floats.append(f"{op.kind} {_named(name)}".strip())
    return Counted(actual=len(floats), layers=tuple(floats))


def _off_multiple(contents: Contents, budget: Budget) -> Counted:
    """Layers that read a number of channels off the multiple; the model's own inputs are nobody's choice."""
    from edgeprune.formats.kept_patterns import kept_patterns

    multiple = budget.channel_multiple
    assert multiple is not None
    found = [kept for kept in kept_patterns(contents, Pattern(n=1, m=2)) if kept.inputs and kept.outputs]
    # The first one reads the model's input, and what nothing reads are its outputs.
    graph = contents.graph
    ops = zip(contents.layers, graph.ops, strict=False) if graph is not None else ()
    first = {layer.name for layer, op in ops if graph is not None and not set(op.inputs).isdisjoint(graph.inputs)}
    hidden = [kept for kept in found[1:] if kept.inputs > 1 and kept.layer not in first]
    if not hidden:
        return Counted(unknown=Unknown.NO_WEIGHTS, detail="no layer reads what another one wrote")
    off = [kept for kept in hidden if kept.inputs % multiple]
    return Counted(actual=len(off), layers=tuple(f"{_named(kept.layer)} reads {kept.inputs}" for kept in off))


def _sparse_conditions(contents: Contents, _: Budget) -> Counted:
    """Conditions of XNNPACK's sparse kernels on Arm that the file breaks."""
    from edgeprune.checker.latency.sparsity import sparsity_advice

    if contents.graph is None:
        return Counted(unknown=Unknown.NOT_COUNTED, detail="sparse kernels are XNNPACK's, for .tflite files")
    conditions = sparsity_advice(contents)[0].conditions
    failed = tuple(f"{c.rule}: {c.found}" for c in conditions if c.met is False)
    unknown = [f"{c.rule}: {c.found}" for c in conditions if c.met is None]
    if unknown and not failed:
        return Counted(unknown=Unknown.NOT_COUNTED, detail=unknown[0])
    return Counted(actual=len(failed), layers=failed)


def _named(name: str) -> str:
    return printable(name.split(";")[0], _NAME_CHARS)


COUNTS: Mapping[Limit, Callable[[Contents, Budget], Counted]] = {
    Limit.MIN_ELIGIBLE: _eligible,
    Limit.PATTERN: _fuller,
    Limit.MAX_FLOAT_OPS: _float_ops,
    Limit.CHANNEL_MULTIPLE: _off_multiple,
    Limit.SPARSE_KERNELS: _sparse_conditions,
}

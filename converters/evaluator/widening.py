"""A program of one sample at a time as one of many: the same operations, with the samples along the first axis.

Operations carried out on one sample cost more to begin than to compute. So each operation is asked whether, by its
definition, nothing of it goes along the first axis of the values that hang on an input; where all say so the program
computes of each of many samples what it computes of one. A program with any other operation stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeprune.converters.evaluator import elementwise, windows
from edgeprune.converters.evaluator.arguments import Arguments, UnknownOperationError
from edgeprune.formats.coreml.mil import Block, Constant, Operation, Port
from edgeprune.formats.coreml.storage import is_constant

__all__ = ["RULES", "widened"]

SAMPLES = 64  # at once, at most: more are no faster
LARGEST_BYTES = 1 << 28  # of all values of the samples that go at once
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """A value with a sample along its first axis, which the program declares as 1."""

    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)


Rule = Callable[[Arguments, int], bool]  # gets the rank of what is made


def widened(program: Block, constants: Mapping[str, Any], *, most: int = SAMPLES) -> Block | None:
    """The program of as many samples as are worth it, at most `most`; None for one that cannot be proved to keep them
    apart, and for one of several samples or of open sizes. `constants` are the values of its constants by name."""
    rows: dict[str, Rows] = {}
    if not _note(rows, program.inputs):
        return None
    for operation in program.operations:
        if not is_constant(operation) and not (
            _keeps_apart(operation, constants, rows) and _note(rows, operation.outputs)
        ):
            return None
    if not rows.keys() >= set(program.outputs):
        return None
    one_bytes = 4 * sum(int(np.prod(value.shape)) for value in rows.values())
    count = min(most, LARGEST_BYTES // max(1, one_bytes))
    return _of(program, rows, count) if count > 1 else None


def _note(rows: dict[str, Rows], ports: Collection[Port]) -> bool:
    """Note these values as those of a sample, if they declare one."""
    for port in ports:
        if port.shape[:1] != (1,) or None in port.shape:
            return False
        rows[port.name] = Rows(tuple(size or 0 for size in port.shape))
    return True


def _keeps_apart(operation: Operation, constants: Mapping[str, Any], rows: Mapping[str, Rows]) -> bool:
    """Whether what the operation makes of a sample hangs on nothing of another."""
    if operation.kind not in RULES or not operation.outputs:
        return False

    def bound(binding: str | Constant) -> Any:
        if isinstance(binding, str):
            return rows[binding] if binding in rows else constants[binding]
        return binding.values if binding.dtype in ("string", "list") else binding.array()

    try:
        values = {name: [bound(each) for each in bindings] for name, bindings in operation.inputs.items()}
        given = {name: found[0] if len(found) == 1 else found for name, found in values.items()}
        told = Arguments(kind=operation.kind, values=given, outputs=len(operation.outputs))
        hangs = any(isinstance(value, Rows) for found in values.values() for value in found)
        return hangs and RULES[operation.kind](told, len(operation.outputs[0].shape))
    except (
        UnknownOperationError,
        LookupError,
        ValueError,
        TypeError,
    ):  # what it is will be said when it is carried out
        return False


def _of(program: Block, rows: Mapping[str, Rows], count: int) -> Block:
    """The program with `count` samples in every value of one."""

    def wide(ports: tuple[Port, ...]) -> tuple[Port, ...]:
        return tuple(replace(p, shape=(count, *p.shape[1:])) if p.name in rows else p for p in ports)

    def sized(operation: Operation) -> Operation:
        inputs, outputs = operation.inputs, wide(operation.outputs)
        if operation.kind == "reshape" and outputs[0].name in rows:
            shape = np.array(outputs[0].shape, np.int32)
            inputs = {**inputs, "shape": (Constant(dtype="int32", shape=shape.shape, values=shape),)}
        return replace(operation, inputs=inputs, outputs=outputs)

    return replace(program, inputs=wide(program.inputs), operations=tuple(map(sized, program.operations)))


# --- what is known of each operation --------------------------------------------------------------------------------


def _spreads(a: Arguments, rank: int) -> bool:
    """Element by element; constants are spread over the samples."""
    return all(_fits(value, rank) for value in a.values.values())


def _fits(value: Any, rank: int) -> bool:
    if isinstance(value, Rows):
        return value.rank == rank
    shape = np.shape(value)
    return len(shape) < rank or (len(shape) == rank and shape[0] == 1)


def _rank(a: Arguments, *names: str) -> int:
    """The axes of these values, x if none is named, which are of a sample, and no other is; 0 otherwise."""
    wanted = names or ("x",)
    ranks = {value.rank if isinstance(value, Rows) else 0 for value in (a[name] for name in wanted)}
    others = [value for name, value in a.values.items() if name not in wanted]
    return ranks.pop() if len(ranks) == 1 and not any(isinstance(value, Rows) for value in others) else 0


def _only_x(least: int) -> Rule:
    """Works on x alone, of at least so many axes, and never on its first."""
    return lambda a, _: _rank(a) >= least


def _elsewhere(axes: Collection[int], rank: int) -> bool:
    return rank > 0 and all(axis % rank for axis in axes)


def _axes(name: str, default: int | None = None) -> Rule:
    """Works along the axes that `name` tells, all of them where it tells none."""

    def rule(a: Arguments, _: int) -> bool:
        told = a.get(name) is not None or default is not None
        return told and _elsewhere(a.integers(name, default), _rank(a))

    return rule


def _joins(new: int) -> Rule:
    """Puts values behind each other along an axis, which is a `new` one or not."""

    def rule(a: Arguments, _: int) -> bool:
        values: list[Any] = a.listed("values")
        same = all(isinstance(value, Rows) and value.rank == values[0].rank for value in values)
        return same and _elsewhere([a.integer("axis")], values[0].rank + new)

    return rule


def _product(a: Arguments, rank: int) -> bool:
    x, y = a["x"], a["y"]
    many = all(_fits(value, rank) for value in (x, y))
    if rank >= 3:
        return many
    return (
        rank == 2 and isinstance(x, Rows) and not isinstance(y, Rows) and np.ndim(y) == 2 and not a.flag("transpose_x")
    )


def _attention(a: Arguments, rank: int) -> bool:
    mask = a.get("attn_mask")
    return (
        rank >= 3
        and (mask is None or _fits(mask, rank))
        and all(_fits(a[name], rank) for name in ("query", "key", "value"))
    )


def _pad(a: Arguments, _: int) -> bool:
    """`pad` holds (before, after) of the last axes."""
    amounts = a.integers("pad")
    return len(amounts) < 2 * _rank(a) or (_rank(a) > 0 and not any(amounts[:2]))


def _slice(a: Arguments, _: int) -> bool:
    whole = bool(a.integers("begin_mask", 0)[0] and a.integers("end_mask", 0)[0])
    return _rank(a) > 0 and whole and not a.integers("squeeze_mask", 0)[0] and a.integers("stride", 1)[0] == 1


def _gather(a: Arguments, _: int) -> bool:
    """Out of each sample with the same indexes, or out of a table with those of each sample."""
    if a.integer("batch_dims", 0):
        return False
    x, indices, axis = a["x"], a["indices"], a.integer("axis", 0)
    if isinstance(x, Rows):
        return not isinstance(indices, Rows) and _elsewhere([axis], x.rank)
    return isinstance(indices, Rows) and axis == 0


def _gather_along(a: Arguments, _: int) -> bool:
    return _elsewhere([a.integer("axis", 0)], _rank(a, "x", "indices"))


_SPATIAL = dict.fromkeys(windows.KERNELS, _only_x(3))
_BLOCKS = dict.fromkeys(("depth_to_space", "pixel_shuffle", "pixel_unshuffle", "space_to_depth"), _only_x(4))
_SUMS = ("l1_norm", "l2_norm", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square")
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(elementwise.KERNELS, _spreads),
    **_SPATIAL,
    **_BLOCKS,
    **{f"reduce_{kind}": _axes("axes") for kind in _SUMS},
    "argsort": _axes("axis", -1),
    "band_part": _only_x(3),
    "batch_norm": _only_x(2),
    "concat": _joins(0),
    "crop": _only_x(3),
    "cumsum": _axes("axis", 0),
    "expand_dims": lambda a, rank: _rank(a) > 0 and _elsewhere(a.integers("axes"), rank),
    "flatten2d": lambda a, _: _rank(a) > 0 and a.integer("axis", 1) == 1,
    "gather": _gather,
    "gather_along_axis": _gather_along,
    "instance_norm": _only_x(3),
    "l2_norm": _only_x(4),
    "layer_norm": _axes("axes"),
    "linear": _only_x(2),
    "local_response_norm": _only_x(2),
    "matmul": _product,
    "one_hot": lambda a, rank: _rank(a, "indices") > 0 and _elsewhere([a.integer("axis", -1)], rank),
    "pad": _pad,
    "reduce_argmax": _axes("axis", -1),
    "reduce_argmin": _axes("axis", -1),
    "reshape": lambda a, _: _rank(a) > 0 and a.constant("shape").size > 0,
    "reverse": _axes("axes"),
    "scaled_dot_product_attention": _attention,
    "slice_by_index": _slice,
    "softmax": _axes("axis", -1),
    "split": _axes("axis"),
    "squeeze": _axes("axes"),
    "stack": _joins(1),
    "tile": lambda a, rank: _rank(a) == rank and a.integers("reps")[0] == 1,
    "topk": _axes("axis", -1),
    "transpose": lambda a, rank: _rank(a) > 0 and a.integers("perm")[0] % rank == 0,
}

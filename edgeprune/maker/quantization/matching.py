"""Which nodes of a traced model become tensors and kernels of an int8 file, found by their values.

A tensor of the file is a node's where both hold the same numbers for the same samples, in whatever layout. A kernel of
the file is that of a convolution or product where it equals the model's, times what a batch normalization behind it
multiplies by: the converter folds that in, and so does the training.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeprune.maker.quantization.places import Places, RoundedConstant, RoundedKernel, apart, in_order
from edgeprune.maker.quantization.traced import TracedModel, computed, source_of

__all__ = ["KERNELS", "LAYOUTS", "PADS", "FoundConstant", "FoundKernel", "Match", "Shift", "match_places"]

# Operation -> (the place of its kernel among its inputs, the axes of the kernel that number its output channels, the
# kernel's axes in the orders in which a file may have them). TensorFlow API: HWIO, HWIM, HWOI, IO; TFLite: OHWI,
# 1HW(IM), OI; a convolution of one input channel becomes a depthwise one.
KERNELS: dict[str, tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "Conv2D": (1, (3,), ((3, 0, 1, 2), (2, 0, 1, 3))),
    "DepthwiseConv2dNative": (1, (2, 3), ((0, 1, 2, 3),)),
    "Conv2DBackpropInput": (1, (2,), ((2, 0, 1, 3),)),
    "MatMul": (1, (1,), ((1, 0),)),
    "BatchMatMulV2": (1, (1,), ((1, 0),)),
    "Einsum": (1, (), ()),  # as its equation says
}
_QUOTIENTS = ("Div", "RealDiv")
_PAIRS = ("Add", "AddV2", "Maximum", "Minimum", "Mul", "Sub", *_QUOTIENTS)
_SUMS = ("BiasAdd", "Add", "AddV2", "Sub")
LAYOUTS = ("ExpandDims", "Identity", "Reshape", "Squeeze", "Transpose")
PADS = ("BatchToSpaceND", "MirrorPad", "Pad", "PadV2", "SpaceToBatchND")
_CLOSE = 2e-5  # of the largest number of a kernel: what float32 loses on another way
_ALIKE = 2e-4  # of the largest value of a tensor: the same, behind dozens of layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A node that adds the tensor `added` (or subtracts it) to what a kernel made, `factors` multiplications behind
    it."""

    node: str
    added: str
    factors: int
    subtracted: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundKernel:
    """The kernel that one node reads, the tensors that multiply its output channels behind it, and whether each channel
    has a scale of its own; `name` is the file's, which has `times` the numbers. `shifts` are the sums behind it that
    the file has as one bias, each with the number of factors before it."""

    name: str
    node: str
    kernel: str
    factors: tuple[str, ...]
    shifts: tuple[Shift, ...]
    channels: tuple[int, ...]
    per_channel: bool
    times: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundConstant:
    """What a node adds, multiplies by or divides by; the file has what is left of 1 where it multiplies by that."""

    name: str
    node: str
    constant: str
    inverted: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """For each group of rounded tensors the nodes that compute them; kernels; constants; names of the file that nothing
    was found for."""

    tensors: tuple[tuple[str, ...], ...]
    kernels: tuple[FoundKernel, ...]
    constants: tuple[FoundConstant, ...]
    missing: tuple[str, ...]


def match_places(traced: TracedModel, places: Places, inputs: Sequence[np.ndarray]) -> Match:
    """Find what the file rounds in a traced model; `inputs` are the trial samples."""
    names = list(traced.floats())
    known = dict(zip(names, map(in_order, computed(traced, names, inputs)), strict=True))
    by_size: dict[int, list[str]] = {}
    for name, values in known.items():
        by_size.setdefault(values.size, []).append(name)
    groups, missing, taken, alike = [], [], set[str](), set[str]()
    for group in places.tensors:
        nodes: list[str] = []
        for name, values in zip(group.names, group.values, strict=True):
            wanted = in_order(values)
            same = [node for node in by_size.get(wanted.size, ()) if apart(known[node], wanted) <= _ALIKE]
            alike.update(same)
            fit = _fitting(traced, name, same, constant=bool(wanted.size and wanted[0] == wanted[-1]))
            if not fit:
                missing.append(name)
            nodes += [node for node in fit if node not in taken]
            taken.update(fit)
        groups.append(tuple(node for node in nodes if not _only_laid_out(traced, node, nodes)))
    kernels, unknown = _kernels(traced, places.kernels)
    constants, unread = _constants(traced, places.constants, alike)
    return Match(
        tensors=tuple(groups),
        kernels=tuple(kernels),
        constants=tuple(constants),
        missing=(*missing, *unknown, *unread),
    )


def _fitting(traced: TracedModel, name: str, same: Sequence[str], *, constant: bool) -> list[str]:
    """The nodes, of those with the same numbers, that a tensor of the file is.

    Other tensors may happen to hold the same numbers: where nodes have the tensor's name it is these, and by one number
    alone no tensor is known.
    """
    own = [node for node in same if _has_name(node, name)]
    chosen = own or ([] if constant else same)
    return list(dict.fromkeys(_passed_on(traced, node, same) for node in chosen))


def _has_name(node: str, tensor: str) -> bool:
    """A tensor is called after the operations that are fused in it, and numbered where others are called so."""
    parts = [name for part in tensor.split(";") for name in (part, re.sub(r"\d+$", "", part))]
    return any(part == node or part.endswith(f"/{node}") for part in parts)


def _passed_on(traced: TracedModel, name: str, others: Sequence[str]) -> str:
    """The last node that makes the same numbers here of what this one computes."""
    while _passes_on(traced, name, others):
        name = traced.readers[name][0].name
    return name


def _passes_on(traced: TracedModel, name: str, others: Sequence[str]) -> bool:
    """Whether all that reads the node makes the same numbers of it here, a bias of zeros say: the tensor is what that
    makes."""
    readers = traced.readers.get(name, [])
    return len(readers) == 1 and readers[0].name in others and readers[0].op not in LAYOUTS


def _only_laid_out(traced: TracedModel, name: str, others: Sequence[str]) -> bool:
    """Whether the node only lays out anew what another node of the group computes: that is rounded already."""
    node = traced.nodes[name.split(":")[0]]
    return node.op in LAYOUTS and source_of(node.input[0]) in others


def _kernels(traced: TracedModel, wanted: Sequence[RoundedKernel]) -> tuple[list[FoundKernel], list[str]]:
    """(The kernels that the file rounds, the names of those that no node has)."""
    candidates = [
        (node, factors, shifts)
        for node in traced.definition.node
        if node.op in KERNELS and node.name in traced.of_samples and _by_variables(traced, node)
        for factors, shifts in _behind(traced, node)
    ]
    values = _values(traced, {name for node, factors, _ in candidates for name in (_kernel_of(node), *factors)})
    found: dict[str, list[FoundKernel]] = {}
    for node, factors, shifts in candidates:
        folded = _folded(node, values[_kernel_of(node)], [values[name] for name in factors])
        fits = ((kernel, _ratio(one, kernel.values)) for kernel in wanted for one in folded)
        place, times = next(((kernel, ratio) for kernel, ratio in fits if ratio is not None), (None, 0.0))
        if place is not None and all(known.node != node.name for known in found.get(place.name, ())):
            made = FoundKernel(
                name=place.name,
                node=node.name,
                kernel=_kernel_of(node),
                factors=factors,
                shifts=shifts,
                channels=_channels(node),
                per_channel=place.axis is not None,
                times=times,
            )
            found.setdefault(place.name, []).append(made)
    missing = [kernel.name for kernel in wanted if kernel.name not in found]
    return [kernel for group in found.values() for kernel in group], missing


def _kernel_of(node: Any) -> str:
    return source_of(node.input[KERNELS[node.op][0]])


def _channels(node: Any) -> tuple[int, ...]:
    """The axes of a node's kernel that number its output channels."""
    if node.op == "Einsum":
        given, made = node.attr["equation"].s.decode().split("->")
        return tuple(place for place, letter in enumerate(given.split(",")[1]) if letter in made)
    # Asking a node for an attribute that it has not would give it an empty one.
    turned = any(name in node.attr and node.attr[name].b for name in ("transpose_b", "adj_y"))
    return (0,) if turned else KERNELS[node.op][1]


def _layouts(node: Any, rank: int) -> Sequence[tuple[int, ...]]:
    """The orders in which a file may have the axes of a node's kernel."""
    channels = _channels(node)
    if node.op == "Einsum":
        return [(*channels, *(axis for axis in range(rank) if axis not in channels))]
    orders = [(0, 1)] if channels == (0,) else KERNELS[node.op][2]
    return [axes for axes in orders if len(axes) == rank]


def _by_variables(traced: TracedModel, node: Any) -> bool:
    return _kernel_of(node).split(":")[0] not in traced.of_samples


def _behind(traced: TracedModel, node: Any) -> list[tuple[tuple[str, ...], tuple[Shift, ...]]]:
    """What a converter may have folded into a node's kernel and bias, the most of it first: the tensors that multiply
    its channels one after the other, and what is added to them up to the next multiplication."""
    found: list[tuple[tuple[str, ...], tuple[Shift, ...]]] = [((), ())]
    at = node.name
    while True:
        readers = traced.readers.get(at, [])
        if len(readers) != 1 or at in traced.outputs:
            return found[::-1]
        reader, (factors, shifts) = readers[0], found[-1]
        sides = [source_of(name) for name in reader.input if not name.startswith("^")]
        others = [name for name in sides if name != at]
        fixed = all(name.split(":")[0] not in traced.of_samples for name in others)
        if reader.op == "Mul" and len(others) == 1 and fixed:
            found.append(((*factors, others[0]), shifts))
        elif reader.op in _SUMS and len(others) == 1 and fixed and sides[0] == at:
            shift = Shift(node=reader.name, added=others[0], factors=len(factors), subtracted=reader.op == "Sub")
            found[-1] = factors, (*shifts, shift)
        elif not ((reader.op in _SUMS and fixed) or reader.op in LAYOUTS):
            return found[::-1]
        at = reader.name


def _folded(node: Any, kernel: np.ndarray, factors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The kernel in the layouts that a file may have; none where the factors are not one for each channel."""
    channels = _channels(node)
    if not _layouts(node, kernel.ndim):
        return []
    count = int(np.prod([kernel.shape[axis] for axis in channels]))
    scale = np.ones(count)
    for factor in factors:
        if factor.size not in (1, count):
            return []
        scale = scale * factor.reshape(-1)
    shape = [size if axis in channels else 1 for axis, size in enumerate(kernel.shape)]
    folded = kernel.astype(np.float64) * scale.reshape(shape)
    return [np.transpose(folded, axes) for axes in _layouts(node, kernel.ndim)]


def _ratio(values: np.ndarray, wanted: np.ndarray) -> float | None:
    """What the numbers of one array are multiplied by in the other: what an image is scaled by is folded into the first
    kernel. None for other numbers, or another order."""
    if values.size != wanted.size:
        return None
    one, other = values.reshape(-1), wanted.reshape(-1)
    place = int(np.argmax(np.abs(other)))
    factor = float(other[place] / one[place]) if one[place] else 0.0
    fits = factor > 0 and np.abs(one * factor - other).max() <= _CLOSE * abs(other[place])
    return factor if fits else None


def _is_one(ratio: float | None) -> bool:
    return ratio is not None and abs(ratio - 1) <= _CLOSE


def _constants(
    traced: TracedModel, wanted: Sequence[RoundedConstant], rounded: Collection[str]
) -> tuple[list[FoundConstant], list[str]]:
    """(The constants that the file rounds, the names of those that no node has)."""
    if not wanted:
        return [], []
    candidates = [
        (node, source_of(name))
        for node in traced.definition.node
        if node.op in _PAIRS and node.name in rounded
        for name in node.input[:2]
        if name.split(":")[0] not in traced.of_samples
    ]
    values = _values(traced, {name for _, name in candidates})
    found = []
    for node, name in candidates:
        for inverted in (False, True) if node.op in _QUOTIENTS else (False,):
            own = _inverted(values[name]) if inverted else values[name]
            place = next((one for one in wanted if _is_one(_ratio(own, one.values))), None)
            if place is not None:
                found.append(FoundConstant(name=place.name, node=node.name, constant=name, inverted=inverted))
                break
    known = {one.name for one in found}
    return found, [one.name for one in wanted if one.name not in known]


def _values(traced: TracedModel, names: Collection[str]) -> dict[str, np.ndarray]:
    """The values of tensors that follow from the variables."""
    fetches = sorted(names)
    return dict(zip(fetches, computed(traced, fetches), strict=True))


def _inverted(values: np.ndarray) -> np.ndarray:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)

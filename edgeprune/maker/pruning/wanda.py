"""Norms of what each kernel reads: Wanda scores a weight by its magnitude times the norm of its input over samples.

Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, arXiv:2306.11695.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeprune.maker.keras.models import call_model
from edgeprune.maker.keras.types import Layer, Model
from edgeprune.maker.pruning.channel.observe import sample_batches
from edgeprune.maker.pruning.layouts import Layout
from edgeprune.maker.training.data.samples import Samples

if TYPE_CHECKING:
    from edgeprune.maker.pruning.magnitude import Target

__all__ = ["SAMPLES", "input_norms"]

SAMPLES = 512  # of the training split
Norms = npt.NDArray[np.float64]
Given = tuple[Sequence[Any], dict[str, Any]]  # arguments of a layer's call


def input_norms(model: Model, targets: Sequence[Target], samples: Samples, *, seed: int = 0) -> dict[str, Norms]:
    """By kernel: the norm of each input over samples and positions, [inputs, 1], in a grouped convolution
    [inputs, outputs].

    Where what a kernel reads is not seen (the pointwise kernel inside a separable convolution), it is 1 everywhere.
    Raises Unsupported where Keras is not on TensorFlow.
    """
    squares: dict[str, Norms] = {}

    def seen(target: Target, given: Given) -> None:
        values = _read(target, given)
        if values is not None:
            channels = np.square(values.astype(np.float64)).reshape(-1, values.shape[-1]).sum(0)
            squares[target.key] = squares.get(target.key, 0.0) + channels

    some = samples.some(SAMPLES, np.random.default_rng(seed))
    with _watched([target for target in targets if isinstance(target.layout, Layout)], seen):
        for batch in sample_batches(model, some):
            call_model(model, batch)
    return {t.key: _spread(t, np.sqrt(squares[t.key])) if t.key in squares else np.ones((1, 1)) for t in targets}


@contextlib.contextmanager
def _watched(targets: Sequence[Target], seen: Callable[[Target, Given], None]) -> Iterator[None]:
    """Each call of a layer that owns one of these kernels is seen."""
    owners: dict[int, tuple[Layer, list[Target]]] = {}
    for target in targets:
        owners.setdefault(id(target.owner), (target.owner, []))[1].append(target)
    for layer, own in owners.values():
        vars(layer)["call"] = _seeing(layer.call, own, seen)  # not by Keras's setattr, which would track it
    try:
        yield
    finally:
        for layer, _ in owners.values():
            del vars(layer)["call"]


def _seeing(call: Callable[..., Any], own: Sequence[Target], seen: Callable[[Target, Given], None]) -> Any:
    def watched(*args: Any, **kwargs: Any) -> Any:
        for target in own:
            seen(target, (args, kwargs))
        return call(*args, **kwargs)

    return watched


def _read(target: Target, given: Given) -> npt.NDArray[Any] | None:
    """What a kernel multiplies in a call, its inputs last and in the kernel's order; None where that is not seen."""
    args, kwargs = given
    layer, kind = target.owner, target.kind
    if kind.startswith("Separable"):
        return None
    if target.variable.name == "recurrent_kernel":
        states = args[1] if len(args) > 1 else kwargs["states"]
        return np.asarray(states[0] if isinstance(states, list | tuple) else states)
    values = np.asarray(args[0] if args else next(iter(kwargs.values())))
    if kind == "EinsumDense":
        return _contracted(layer.equation, values)
    first = getattr(layer, "data_format", None) == "channels_first"
    return np.moveaxis(values, 1, -1) if first else values


def _contracted(equation: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The axes that an equation sums over, moved to the end in the kernel's order and flattened."""
    left, made = equation.replace(" ", "").replace("...", "").split("->")
    read, kernel = left.split(",")
    lead = values.ndim - len(read)  # what "..." stands for
    axes = [lead + read.index(letter) for letter in kernel if letter in read and letter not in made]
    moved = np.moveaxis(values, axes, range(values.ndim - len(axes), values.ndim))
    return moved.reshape(*moved.shape[: values.ndim - len(axes)], -1)


def _spread(target: Target, norms: Norms) -> Norms:
    """Norms of channels as [inputs, 1]; each group of a grouped convolution reads channels of its own."""
    groups = getattr(target.owner, "groups", 1)
    if not isinstance(target.layout, Layout) or groups == 1:
        return norms[:, None]
    return np.repeat(norms.reshape(groups, -1).T, target.layout.sizes[2] // groups, axis=1)

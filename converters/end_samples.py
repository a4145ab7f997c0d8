"""Samples for a model whose ends are not those of its data: other names, states, and sizes that may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgeprune.formats.input_sizes import combinations
from edgeprune.maker.keras.ends import EndOptions
from edgeprune.maker.keras.models import input_specs, output_names, predict
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.samples import Samples

__all__ = ["end_trials", "fed", "fed_samples"]

Arrays = Mapping[str, np.ndarray]


def fed_samples(samples: Samples, model: AnyModel, ends: EndOptions) -> Samples:
    """Samples of the data as `model`, which has these ends, takes them. Where they have targets each begins with states
    of zero: a score of states that belong to other samples would say nothing."""
    carried = samples.targets is None
    return replace(samples, inputs=fed(samples.inputs, model, ends, carried=carried))


def fed(inputs: Arrays, model: AnyModel, ends: EndOptions, *, carried: bool = True) -> dict[str, np.ndarray]:
    """Arrays [samples, ...] by the names of `model`. States begin with zeros; with `carried` every second sample goes
    on from the state that the one before it leaves."""
    named = {ends.names.get(name, name): values for name, values in inputs.items()}
    specs = input_specs(model)
    absent = [name for name in specs if name not in named] if ends.explicit_states else []
    if not absent:
        return named
    count = len(next(iter(named.values())))
    for name in absent:
        shape, dtype = specs[name]
        named[name] = np.zeros((count, *(size or 1 for size in shape[1:])), dtype)
    if carried and count > 1:
        left = predict(model, named)
        for name in absent:
            named[name][1::2] = left[f"{name}_out"][:-1:2][: len(named[name][1::2])]
    return named


def end_trials(samples: Samples, model: AnyModel, ends: EndOptions, count: int) -> Iterator[tuple[Samples, str]]:
    """`count` of the samples in the forms that they do not have themselves, and what these are: each further size (cut,
    or repeated from the start) and, of samples with targets, states that are not zero."""
    few = replace(samples.rows(np.arange(min(len(samples), count))), targets=None)
    if ends.explicit_states and samples.targets is not None:
        states = [name for name in few.inputs if f"{name}_out" in output_names(model)]
        data = {name: values for name, values in few.inputs.items() if name not in states}
        yield replace(few, inputs=fed(data, model, replace(ends, names={}))), "later states"
    for shapes in combinations(ends.sizes_of(model)):
        if all(few.inputs[name].shape[1:] == tuple(shape[1:]) for name, shape in shapes.items()):
            continue
        inputs = {name: _sized(values, shapes.get(name, ())) for name, values in few.inputs.items()}
        shown = ", ".join("x".join(map(str, shape[1:])) for shape in shapes.values())
        yield replace(few, inputs=inputs), f"size {shown}"


def _sized(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    for axis, size in enumerate(shape[1:], start=1):
        if values.shape[axis] != size:
            values = values.take(np.arange(size) % values.shape[axis], axis=axis)
    return values

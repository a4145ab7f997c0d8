"""Match the ends of a file that others made with those of a model: their names are rarely the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from edgeprune.converters.parity import sqnr_db
from edgeprune.errors import ConversionError

__all__ = ["pair_inputs", "pair_outputs"]

Shape = Sequence[int | None]


def pair_inputs(model: Mapping[str, Shape], file: Mapping[str, Shape], where: str) -> dict[str, str]:
    """Name in the model -> name in the file. By name, then by a size that only one has, then by position.

    Shapes are with the batch first. Raises ConversionError where the numbers of inputs differ or sizes do not fit.
    """
    if len(model) != len(file):
        raise ConversionError(f"{where} has {len(file)} inputs ({', '.join(file)}), the model {len(model)}")
    if set(model) == set(file):
        return {name: name for name in model}
    plain = {_plain(name): name for name in file}
    if len(plain) == len(file) and {_plain(name) for name in model} == set(plain):
        return {name: plain[_plain(name)] for name in model}
    left, waiting = dict(file), dict(model)
    pairs: dict[str, str] = {}
    while waiting:
        before = len(waiting)
        for name, shape in model.items():
            if name not in waiting:
                continue
            fitting = [other for other, size in left.items() if _fits(shape, size)]
            rivals = [other for other, size in waiting.items() if size == shape]
            if not fitting:
                raise ConversionError(
                    f"{where} has no input for the model's {name!r} of shape {list(shape)[1:]}; where it was made for "
                    "another size, add --input-shape"
                )
            if len(fitting) == 1 or len(fitting) == len(rivals):  # unique, or as many as the model has: by position
                pairs[name] = fitting[0]
                del left[fitting[0]], waiting[name]
        if len(waiting) == before:
            raise ConversionError(f"{where}: its inputs {', '.join(file)} cannot be told apart for {', '.join(model)}")
    return {name: pairs[name] for name in model}


def _plain(name: str) -> str:
    """What TensorFlow's exporters add to a name taken off."""
    return re.sub(r":\d+$", "", re.sub(r"^serving_default_", "", name))


def _fits(model: Shape, file: Shape) -> bool:
    if len(model) == len(file) and all(a in (b, None) or b is None for a, b in zip(model[1:], file[1:], strict=True)):
        return True
    wanted = [size for size in model[1:] if size != 1]
    given = [size for size in file[1:] if size != 1]
    return len(wanted) == len(given) and all(a in (b, None) or b is None for a, b in zip(wanted, given, strict=True))


def pair_outputs(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The file's outputs under the model's names and in its shapes, and model name -> file name.

    By name; else each of the model's outputs takes the closest one of its size. Raises ConversionError where there is
    none left of that size.
    """
    if set(expected) <= set(found):
        pairs = {name: name for name in expected}
    else:
        pairs = {}
        for name, values in expected.items():
            rest = [other for other in found if other not in pairs.values() and found[other].size == values.size]
            if not rest:
                shapes = ", ".join(f"{other} {list(array.shape[1:])}" for other, array in found.items())
                raise ConversionError(
                    f"{where} has no output for the model's {name!r} of shape {list(values.shape[1:])}; it has "
                    f"{shapes} (--outputs says which of the model's it has)"
                )
            pairs[name] = max(rest, key=lambda other: _closeness(values, found[other]))
    for name, other in pairs.items():
        if _plain_shape(found[other]) != _plain_shape(expected[name]):
            raise ConversionError(
                f"{where}: output {other!r} has shape {list(found[other].shape[1:])}, the model's {name!r} "
                f"{list(expected[name].shape[1:])}"
            )
    return {name: found[other].reshape(expected[name].shape) for name, other in pairs.items()}, pairs


def _plain_shape(values: np.ndarray) -> list[int]:
    """Sizes without those of 1."""
    return [size for size in values.shape if size != 1]


def _closeness(model: np.ndarray, file: np.ndarray) -> float:
    if not np.isfinite(file).all():
        return -np.inf
    found = sqnr_db(model.reshape(-1), file.reshape(-1))
    return np.inf if found is None else found

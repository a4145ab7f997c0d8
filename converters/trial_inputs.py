"""Inputs to try a model with when nobody gives samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeprune.converters.first_layers import Expected, expected_inputs
from edgeprune.maker.keras.models import input_specs, leaf_layers
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.samples import Samples
from edgeprune.runtime.trials import trial_count

__all__ = ["OPEN_SIZE", "WIDE", "trial_samples"]

OPEN_SIZE = 16
WIDE = 4.0


def trial_samples(
    model: AnyModel,
    *,
    macs: int | None = None,
    scale: float | Sequence[float] = 1.0,
    bias: Sequence[float] = (0.0,),
    pictures: str | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> Samples:
    """`trial_count` random samples, the same for the same model; `macs` are those of its file, where they are known.

    The numbers are what the first layers expect (`expected_inputs`): around the statistics of a Normalization, pixels
    of 0 to 255 before a Rescaling of them, indexes below the size of a table (the end of the last sample is padding,
    where 0 stands for that). Other floats are normal. The last quarter (at least one) is four times as wide, so that
    what clips large numbers shows. Integers of which no table is known run over their whole type where it has 8 bits
    (pixels), else below the smallest table of the model, or are 0 and 1 when it has none. An open size becomes that of
    `shapes` (by input name, batch first), else OPEN_SIZE. The input named `pictures` gets random pixels p of 0 to 255
    as p * scale + bias, where both have one number or one for each channel.
    """
    rng, count = np.random.default_rng(0), trial_count(macs)
    rows, known = _table_size(model), expected_inputs(model)
    inputs = {}
    for name, (shape, dtype) in input_specs(model).items():
        told = (shapes or {}).get(name, shape)
        size = (count, *(length or other or OPEN_SIZE for length, other in zip(shape[1:], told[1:], strict=True)))
        if name == pictures:
            pixels = rng.integers(0, 256, size).astype(np.float32)
            inputs[name] = (pixels * np.asarray(scale, np.float32) + np.asarray(bias, np.float32)).astype(dtype)
        else:
            inputs[name] = _drawn(rng, size, dtype, known.get(name), rows)
    return Samples(path=Path("random samples"), inputs=inputs, targets=None)


def _drawn(
    rng: np.random.Generator, size: tuple[int, ...], dtype: str, expected: Expected | None, rows: int
) -> np.ndarray:
    """Random numbers for one input; `rows` is the size of the smallest table of the model."""
    told = expected or Expected()
    if dtype.startswith(("float", "bfloat")) and not (told.pixels or told.rows):
        values = rng.normal(size=size)
        values[-size[0] // 4 :] *= WIDE
        return np.asarray(values * told.std + told.mean).astype(dtype)
    low, high = 0, rows
    if dtype == "bool":
        high = 2
    elif told.pixels or told.rows:
        high = told.rows or 256
    elif dtype in ("uint8", "int8"):
        limits = np.iinfo(dtype)
        low, high = limits.min, limits.max + 1
    whole = rng.integers(low, high, size)
    if told.padded and len(size) == 2:
        whole[-1, (size[1] + 1) // 2 :] = 0
    return whole.astype(dtype)


def _table_size(model: AnyModel) -> int:
    """Rows of the smallest embedding in the model; 2 when there is none."""
    leaves = [] if isinstance(model, SavedModel) else leaf_layers(model)
    return min((int(leaf.layer.input_dim) for leaf in leaves if type(leaf.layer).__name__ == "Embedding"), default=2)

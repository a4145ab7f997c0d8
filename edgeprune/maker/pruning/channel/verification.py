"""Does a model after surgery compute what it must? Both models on the same random inputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeprune.errors import EdgepruneError
from edgeprune.maker.keras.models import input_specs, leaf_layers, predict
from edgeprune.maker.keras.types import Model

__all__ = ["checked", "largest_error", "random_inputs", "relative_difference"]

NUDGE = 1e-6  # a relative change of the inputs about as large as float32 rounding through a network
Arrays = dict[str, np.ndarray]
OPEN_SIZES = (32, 100, 400)  # tried in turn for sizes that the model leaves open
COUNT = 3  # samples


def checked(reference: Model, made: Model, tolerance: float, what: str) -> tuple[float | None, str | None]:
    """(Largest relative error of `made` against `reference` on random inputs, None), or (None, why it tells nothing).

    Raises EdgepruneError when the error is above the tolerance and is not rounding that the model itself amplifies.
    """
    reason = ""
    for inputs in random_inputs(reference):
        try:
            expected = predict(reference, inputs)
        except Exception as cause:  # noqa: BLE001  (a picture too small for the strides, a size that must be even ...)
            reason = " ".join(str(cause).split())[:120]
            continue
        return _judged(reference, made, inputs, expected, tolerance, what)
    return None, f"not checked: the model does not run on random inputs ({reason})"


def _judged(
    reference: Model, made: Model, inputs: Arrays, expected: Arrays, tolerance: float, what: str
) -> tuple[float | None, str | None]:
    if not all(np.isfinite(array).all() for array in expected.values()):
        return None, "not checked: the model's outputs on random inputs are NaN or infinite"
    error = relative_difference(expected, predict(made, inputs))
    if error <= tolerance:
        return error, None
    moved = {name: a * np.float32(1 + NUDGE) if a.dtype.kind == "f" else a for name, a in inputs.items()}
    amplified = relative_difference(expected, predict(reference, moved))
    if amplified > tolerance:
        return None, (
            f"not checked: this model amplifies rounding (inputs that differ by {NUDGE:.0e} move its outputs by "
            f"{amplified:.0e} of their range)"
        )
    raise EdgepruneError(
        f"the surgery of model {made.name!r} failed its check: outputs depart by {error:.2g} of their range from "
        f"{what}; please report this model"
    )


def largest_error(old: Model, new: Model, *, seed: int = 0) -> float:
    """Largest difference of any output on random inputs, relative to the largest magnitude of that output for the same
    input; infinite when only the new model's outputs are not finite."""
    inputs = next(random_inputs(old, seed=seed))
    return relative_difference(predict(old, inputs), predict(new, inputs))


def relative_difference(expected: Arrays, got: Arrays) -> float:
    """Largest difference of any output, relative to the largest magnitude of that output for the same sample; infinite
    when only `got` is not finite."""
    worst = 0.0
    for one, other in zip(expected.values(), got.values(), strict=True):
        a, b = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (one, other))
        if not np.isfinite(b).all():
            return float("inf")
        scale = np.maximum(np.abs(a).max(1), 1e-12)
        worst = max(worst, float((np.abs(a - b).max(1) / scale).max()))
    return worst


def random_inputs(model: Model, *, seed: int = 0) -> Iterator[Arrays]:
    """Inputs for a few samples, for each size in OPEN_SIZES if the model leaves any open.

    Images are random pixels of 0..1, -1..1 and 0..255 in turn, other floats are normal, bytes and truth values are
    random, and other integers lie below the smallest vocabulary of the model's embeddings.
    """
    sizes_open = any(size is None for shape, _ in input_specs(model).values() for size in shape[1:])
    words = [leaf.layer.input_dim for leaf in leaf_layers(model) if type(leaf.layer).__name__ == "Embedding"]
    for size in OPEN_SIZES if sizes_open else OPEN_SIZES[:1]:
        rng = np.random.default_rng(seed)
        yield {
            name: _random(rng, (shape[0] or COUNT, *(n or size for n in shape[1:])), dtype, min(words, default=2))
            for name, (shape, dtype) in input_specs(model).items()
        }


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, words: int) -> np.ndarray:
    if dtype == "bool":
        return rng.random(shape) < 0.7
    if not dtype.startswith(("float", "bfloat", "int", "uint")):
        return np.full(shape, "a")
    if "int" in dtype:
        return rng.integers(0, 256 if dtype == "uint8" else max(words, 1), shape).astype(dtype)
    if len(shape) != 4:
        return rng.normal(size=shape).astype(np.float32)
    values = rng.uniform(0, 1, shape)
    values[0::3] *= 255
    values[1::3] = 2 * values[1::3] - 1
    return values.astype(np.float32)

"""Where samples come from: `.npz` files with one array for each model input, and `y` for the targets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.errors import InputError, UsageError
from edgeprune.host.untrusted import check_file
from edgeprune.maker.keras.models import input_specs
from edgeprune.maker.keras.types import AnyModel

__all__ = [
    "InputSpecs",
    "PerChannel",
    "Samples",
    "calibration_set",
    "calibration_split",
    "check_targets",
    "load_samples",
    "load_split",
]

# Calibration samples on which an integer file is judged: at most, and at least where more are left than are used.
HELD_BACK, FEWEST_HELD = 100, 8

# Input name -> (shape with the batch first, None for an open size; dtype).
InputSpecs = Mapping[str, tuple[tuple[int | None, ...], str]]
PerChannel = float | tuple[float, ...]  # one number, or one for each channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples of one split. Inputs [samples, ...] by input name, as stored; targets [samples, ...] or None."""

    path: Path
    inputs: Mapping[str, np.ndarray]
    targets: np.ndarray | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, indices: np.ndarray) -> Samples:
        """The samples at `indices`, in that order."""
        targets = None if self.targets is None else self.targets[indices]
        return Samples(path=self.path, inputs={k: v[indices] for k, v in self.inputs.items()}, targets=targets)

    def scaled(self, scale: float, bias: Sequence[float]) -> Samples:
        """The same with inputs of value * scale + bias, one bias or one for each channel, as float32."""
        shift = np.asarray(bias)
        inputs = {name: (values * scale + shift).astype(np.float32) for name, values in self.inputs.items()}
        return Samples(path=self.path, inputs=inputs, targets=self.targets)

    def some(self, count: int, rng: np.random.Generator) -> Samples:
        """At most `count` samples, drawn without replacement."""
        return self.rows(rng.permutation(len(self))[:count])


def load_split(
    path: Path, model: AnyModel, metric: str | None, *, scale: PerChannel = 1.0, offset: PerChannel = 0.0
) -> Samples:
    """Read a split for a model, see `load_samples`; its targets must suit the metric. Without one none are needed."""
    samples = load_samples(path, input_specs(model), scale=scale, offset=offset, need_targets=metric is not None)
    if metric is not None:
        check_targets(samples, tuple(model.outputs[0].shape), metric)
    return samples


def load_samples(
    path: Path, specs: InputSpecs, *, scale: PerChannel = 1.0, offset: PerChannel = 0.0, need_targets: bool = True
) -> Samples:
    """Read a split and hold it against the model's inputs.

    Float inputs become `value * scale + offset`; integer inputs (indexes) are left as they are. A model with one input
    may also find its samples under "x". Raises InputError for a missing or broken file, missing arrays, wrong shapes,
    no samples, NaN or infinite values.
    """
    arrays = _read_npz(path)
    inputs = {name: _input(path, arrays, name, spec, len(specs), scale, offset) for name, spec in specs.items()}
    targets = arrays.get("y")
    if need_targets and targets is None:
        raise InputError(f"{path}: no array 'y' with the targets; it has: {', '.join(sorted(arrays)) or 'none'}")
    lengths = {name: len(array) for name, array in inputs.items()}
    if targets is not None:
        if targets.dtype.kind not in "fiub" or not targets.ndim or 0 in targets.shape[1:]:
            raise InputError(
                f"{path}: array 'y' of type {targets.dtype} and shape {targets.shape} holds no target for each sample"
            )
        lengths["y"] = len(targets)
        _refuse_nonfinite(path, "y", targets)
    if len(set(lengths.values())) != 1:
        raise InputError(f"{path}: arrays of different length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    if not next(iter(lengths.values())):
        raise InputError(f"{path}: the data set is empty (0 samples)")
    return Samples(path=path, inputs=inputs, targets=targets)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    check_file(path, "an .npz file (numpy.savez_compressed)")
    try:
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path}: not an .npz file; write it with numpy.savez_compressed(path, x=..., y=...)")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    except (ValueError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as cause:
        hint = "it holds Python objects, not numbers" if "pickle" in str(cause) else f"damaged or cut short ({cause})"
        raise InputError(f"{path}: cannot be read: {hint}") from cause


def _input(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    name: str,
    spec: tuple[tuple[int | None, ...], str],
    inputs: int,
    scale: PerChannel,
    offset: PerChannel,
) -> np.ndarray:
    key = "x" if inputs == 1 and name not in arrays else name
    if key not in arrays:
        wanted = f"'{name}' (or 'x')" if inputs == 1 else f"'{name}'"
        raise InputError(
            f"{path}: no array {wanted} for the model's input; it has: {', '.join(sorted(arrays)) or 'none'}"
        )
    array, (shape, dtype) = arrays[key], spec
    _check_shape(path, key, array, tuple(shape[1:]))
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: array '{key}' is of type {array.dtype}, not numbers")
    _refuse_nonfinite(path, key, array)
    if not dtype.startswith("float"):
        return array
    if (scale, offset) == (1.0, 0.0):
        return array
    factor, shift = np.asarray(scale, np.float32), np.asarray(offset, np.float32)
    for numbers in (factor, shift):
        if numbers.size > 1 and array.shape[-1:] != numbers.shape:
            raise InputError(
                f"{path}: array {name!r} has no {numbers.size} channels, for which --mean or --std has numbers"
            )
    return array.astype(np.float32) * factor + shift


def _check_shape(path: Path, key: str, array: np.ndarray, wanted: tuple[int | None, ...]) -> None:
    given = array.shape[1:]
    fits = len(given) == len(wanted) and all(w is None or g == w for g, w in zip(given, wanted, strict=True))
    if fits and array.ndim:
        return
    text = f"({', '.join('any' if w is None else str(w) for w in wanted)}{',' if len(wanted) == 1 else ''})"
    hint = ""
    if given == wanted[:-1] and wanted[-1:] == (1,):
        hint = "; add the channel axis: x[..., None]"
    elif sorted(map(str, given)) == sorted(map(str, wanted)):
        hint = "; the axes are in another order (channels go last)"
    raise InputError(f"{path}: array '{key}' holds samples of shape {given}, the model takes {text}{hint}")


def _refuse_nonfinite(path: Path, key: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InputError(f"{path}: array '{key}' holds NaN or infinite values, first in sample {row}")


def check_targets(samples: Samples, output_shape: tuple[int | None, ...], metric: str) -> None:
    """Raise InputError where the targets cannot be compared with an output of this shape by this metric."""
    targets = samples.targets
    if targets is None:
        raise InputError(f"{samples.path}: no array 'y' with the targets")
    if metric == "accuracy":
        classes = output_shape[-1]
        if classes == 1:
            raise UsageError(
                "the model has a single output, and accuracy compares several: score it with the metric auc, mse or mae"
            )
        flat = targets.reshape(len(targets), -1)
        if flat.shape[1] != 1 or not np.array_equal(flat, flat.astype(np.int64)):
            raise InputError(
                f"{samples.path}: accuracy needs one class index for each sample in 'y', got shape {targets.shape} "
                f"of {targets.dtype}; for one-hot targets store y.argmax(-1)"
            )
        if classes is not None and (flat.min() < 0 or flat.max() >= classes):
            raise InputError(
                f"{samples.path}: class indexes run from {int(flat.min())} to {int(flat.max())}, "
                f"the model has {classes} outputs"
            )
    if metric == "auc" and not np.isin(targets, (0, 1)).all():
        raise InputError(f"{samples.path}: auc needs targets 0 or 1 in 'y'")
    wanted = int(np.prod([s or 1 for s in output_shape[1:]]))
    if metric == "auc" and wanted != 1:
        raise InputError(f"{samples.path}: auc needs a model with one score for each sample; its output has {wanted}")
    if metric != "accuracy" and targets[0].size != wanted:
        raise InputError(f"{samples.path}: targets of {targets[0].size} values, the model's output has {wanted}")


def calibration_set(train: Samples, specs: InputSpecs, count: int, seed: int) -> Mapping[str, np.ndarray]:
    """At most `count` training samples drawn with `seed`, for the ranges of full-integer quantization: arrays
    [count, ...] by input name, in the model's dtypes."""
    return _in_dtypes(train.some(count, np.random.default_rng(seed)), specs)


def calibration_split(
    train: Samples, specs: InputSpecs, count: int, seed: int
) -> tuple[Mapping[str, np.ndarray], Samples]:
    """`calibration_set`, and samples that it does not hold, without targets, on which the file is judged.

    They are at most HELD_BACK of those that were not drawn; where fewer than FEWEST_HELD are left, a fifth of all is
    held back. A single sample is in both.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    used = min(count, len(train) if len(train) - count >= FEWEST_HELD else max(1, len(train) - max(1, len(train) // 5)))
    held = train.rows(order[used : used + HELD_BACK] if len(train) > used else order)
    return _in_dtypes(train.rows(order[:used]), specs), Samples(path=held.path, inputs=held.inputs, targets=None)


def _in_dtypes(samples: Samples, specs: InputSpecs) -> Mapping[str, np.ndarray]:
    return {name: samples.inputs[name].astype(dtype) for name, (_, dtype) in specs.items()}

"""One door for samples, whatever they come from: `.npz`, tables, pictures, TFRecord files, the user's own code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeprune.errors import InputError
from edgeprune.host.untrusted import check_file
from edgeprune.maker.keras.models import input_specs, output_names, output_shapes
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.bad import SKIP_HINT, BadSamples
from edgeprune.maker.training.data.code import read_code
from edgeprune.maker.training.data.columns import Column, in_parts, scaled, taken
from edgeprune.maker.training.data.npz import read_npz
from edgeprune.maker.training.data.pictures import read_pictures
from edgeprune.maker.training.data.records import is_records, read_records
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.data.tables import read_table
from edgeprune.maker.training.data.targets import fitting_targets
from edgeprune.maker.training.data.words import OnBadSample
from edgeprune.maker.training.goal import FIRST
from edgeprune.maker.training.task import Task
from edgeprune.maker.training.user_code import code_of

__all__ = [
    "InputSpecs",
    "PerChannel",
    "calibration_set",
    "calibration_split",
    "check_split",
    "load_samples",
    "load_split",
    "stored_at",
]

FILES = (".npz", ".csv", ".parquet")  # by their ending no folders

# Calibration samples on which an integer file is judged: at most, and at least where more are left than are used.
HELD_BACK, FEWEST_HELD = 100, 8

# Input name -> (shape with the batch first, None for an open size; dtype).
InputSpecs = Mapping[str, tuple[tuple[int | None, ...], str]]
PerChannel = float | tuple[float, ...]  # one number, or one for each channel


def load_split(
    path: Path,
    model: AnyModel,
    task: Task | None,
    *,
    scale: PerChannel = 1.0,
    offset: PerChannel = 0.0,
    trust_code: bool = False,
    on_bad_sample: OnBadSample | str = OnBadSample.ERROR,
    other: Collection[str] = (),
) -> Samples:
    """Read a split for a model, see `load_samples`; its targets must suit the task. Without one none are needed.

    Arrays of outputs that have no part in it, and those named in `other`, are left alone.
    """
    outputs = output_names(model)
    wanted = () if task is None else outputs if task.takes_all else task.outputs
    samples = load_samples(
        path,
        input_specs(model),
        scale=scale,
        offset=offset,
        need_targets=task is not None,
        outputs=sorted(wanted, key=outputs.index),
        other=[*outputs, *other],
        trust_code=trust_code,
        on_bad_sample=on_bad_sample,
    )
    return samples if task is None else fitting_targets(samples, output_shapes(model), task)


def load_samples(
    path: Path,
    specs: InputSpecs,
    *,
    scale: PerChannel = 1.0,
    offset: PerChannel = 0.0,
    need_targets: bool = True,
    outputs: Collection[str] = (),
    other: Collection[str] = (),
    trust_code: bool = False,
    on_bad_sample: OnBadSample | str = OnBadSample.ERROR,
) -> Samples:
    """Read a split and hold it against the model's inputs.

    Float inputs become `value * scale + offset`; integer inputs (indexes) are left as they are. A model with one input
    may also find its samples under "x". "y" holds the targets, or an array for each of `outputs` by name;
    "sample_weight" how much each sample counts; arrays named in `other` are left alone. What is large and not
    compressed stays in the file. Raises InputError for a missing or broken file, missing or unknown arrays, wrong
    shapes, no samples, and for bad samples (damaged, NaN or infinite values) unless `on_bad_sample` is "skip".
    """
    bad = BadSamples(path, on_bad_sample)
    arrays = bad.finite(
        _arrays(path, specs, bad, other=[*outputs, *other], trust_code=trust_code),
        without={*other} - {*specs, *outputs},
    )
    inputs = {name: _input(path, arrays, name, spec, len(specs), scale, offset) for name, spec in specs.items()}
    _refuse_unknown(path, arrays, specs, other)
    told = {
        name: _targets(path, name, arrays[name]) for name in ("y", *outputs) if name in arrays and name not in specs
    }
    weights = _weights(path, arrays.get("sample_weight"))
    if need_targets and not told:
        wanted = "'y'" if len(outputs) < 2 else " or ".join(repr(name) for name in outputs)
        raise InputError(f"{path}: no array {wanted} with the targets; it has: {', '.join(sorted(arrays)) or 'none'}")
    lengths = {name: len(array) for name, array in (*inputs.items(), *told.items())}
    lengths |= {} if weights is None else {"sample_weight": len(weights)}
    if len(set(lengths.values())) != 1:
        raise InputError(f"{path}: arrays of different length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    if not next(iter(lengths.values())):
        raise InputError(f"{path}: the data set is empty (0 samples)")
    targets = {FIRST if name == "y" else name: values for name, values in told.items()}
    return Samples(path=path, inputs=inputs, targets=targets or None, weights=weights, skipped=bad.skipped)


def stored_at(path: Path) -> Path:
    """The file or folder that a split comes from: for "file.py:function" the file."""
    code = code_of(path)
    return path if code is None else code[0]


def check_split(path: Path) -> None:
    """Raise InputError for a split that is not there, before a model is loaded for it."""
    place = stored_at(path)
    if not place.is_dir() or place.suffix in FILES:
        check_file(place, "a file with samples")


def _arrays(
    path: Path, specs: InputSpecs, bad: BadSamples, *, other: Collection[str], trust_code: bool
) -> dict[str, Column]:
    code = code_of(path)
    if code is not None:
        return read_code(*code, trust_code=trust_code)
    kind = path.suffix.lower()
    if kind == ".py":
        raise InputError(f"{path}: which function of it gives the samples? write {path}:FUNCTION")
    if kind in FILES:
        return read_npz(path) if kind == ".npz" else read_table(path, specs, bad, other=other)
    if is_records(path):
        return read_records(path, specs, bad)
    return read_pictures(path, specs, bad) if path.is_dir() else read_npz(path)


def _refuse_unknown(path: Path, arrays: Mapping[str, Column], specs: InputSpecs, other: Collection[str]) -> None:
    unknown = sorted(set(arrays) - {*specs, *other, "x", "y", "sample_weight"})
    if unknown:
        targets = f"targets (y, {', '.join(dict.fromkeys(other))})" if len({*other}) > 1 else "y (targets)"
        raise InputError(
            f"{path}: unknown array {unknown[0]!r}: it is none of the inputs {', '.join(specs)}, nor {targets} or "
            "sample_weight; leave it out, or name it so"
        )


def _targets(path: Path, name: str, column: Column) -> np.ndarray:
    if column.dtype.kind not in "fiub" or not column.shape or 0 in column.shape[1:]:
        raise InputError(
            f"{path}: array {name!r} of type {column.dtype} and shape {column.shape} holds no target for each sample"
        )
    _refuse_nonfinite(path, name, column)
    return np.asarray(column)


def _weights(path: Path, column: Column | None) -> np.ndarray | None:
    if column is None:
        return None
    values = np.asarray(column)
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        raise InputError(f"{path}: array 'sample_weight' of shape {values.shape} holds no number for each sample")
    _refuse_nonfinite(path, "sample_weight", values)
    if (values < 0).any() or not values.any():
        raise InputError(f"{path}: array 'sample_weight' holds negative weights, or only zeros")
    return values.astype(np.float32)


def _input(
    path: Path,
    arrays: Mapping[str, Column],
    name: str,
    spec: tuple[tuple[int | None, ...], str],
    inputs: int,
    scale: PerChannel,
    offset: PerChannel,
) -> Column:
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
    return scaled(array, factor, shift)


def _check_shape(path: Path, key: str, array: Column, wanted: tuple[int | None, ...]) -> None:
    given = array.shape[1:]
    fits = len(given) == len(wanted) and all(w is None or g == w for g, w in zip(given, wanted, strict=True))
    if fits and array.shape:
        return
    text = f"({', '.join('any' if w is None else str(w) for w in wanted)}{',' if len(wanted) == 1 else ''})"
    hint = ""
    if given == wanted[:-1] and wanted[-1:] == (1,):
        hint = "; add the channel axis: x[..., None]"
    elif sorted(map(str, given)) == sorted(map(str, wanted)):
        hint = "; the axes are in another order (channels go last)"
    raise InputError(f"{path}: array '{key}' holds samples of shape {given}, the model takes {text}{hint}")


def _refuse_nonfinite(path: Path, key: str, array: Column) -> None:
    if array.dtype.kind != "f" or not array.shape:
        return
    for part in in_parts(array):
        values = taken(array, part)
        if not np.isfinite(values).all():
            row = part.start + int(np.argwhere(~np.isfinite(values))[0][0])
            raise InputError(f"{path}: array '{key}' holds NaN or infinite values, first in sample {row}; {SKIP_HINT}")


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
    return _in_dtypes(train.rows(order[:used]), specs), replace(held, targets=None, weights=None)


def _in_dtypes(samples: Samples, specs: InputSpecs) -> Mapping[str, np.ndarray]:
    return {name: taken(samples.inputs[name], slice(None), dtype) for name, (_, dtype) in specs.items()}

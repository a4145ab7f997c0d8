"""What an int8 file rounds, told by values: which tensors of the float file become int8, and which kernels.

Converters fold, fuse and rename, so the operations of a Keras model are matched with tensors of the file by what they
compute for the same samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Places", "RoundedConstant", "RoundedKernel", "RoundedTensors", "apart", "in_order"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedTensors:
    """Tensors that share one range, by their names in the float file; `fixed` is one that their operation prescribes.

    `values` are what each of them computes for the trial samples, float32 [samples, ...]."""

    names: tuple[str, ...]
    least: float
    largest: float
    fixed: bool
    values: tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedKernel:
    """A kernel as the float file has it: `values`, with batch normalization folded in, in the file's layout; `axis` is
    that of its channels, None where it has one scale."""

    name: str
    values: np.ndarray
    axis: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedConstant:
    """A constant that is added or multiplied: its `values` in the float file; its range is that of its values."""

    name: str
    values: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """All that one file rounds; `slim` says that scales of kernels have few bits."""

    tensors: tuple[RoundedTensors, ...]
    kernels: tuple[RoundedKernel, ...]
    constants: tuple[RoundedConstant, ...] = ()
    slim: bool = False


def in_order(values: np.ndarray) -> np.ndarray:
    """The numbers of a tensor, float32, in the order of their size: whatever layout it has, they are the same."""
    return np.sort(np.asarray(values, np.float32), axis=None)


def apart(values: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference of as many numbers `in_order`, as a part of the largest of `wanted`."""
    reach = float(max(abs(wanted[0]), abs(wanted[-1]))) if wanted.size else 0.0
    return float(np.abs(values - wanted).max(initial=0.0)) / max(reach, 1e-30)

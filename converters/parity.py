"""The exported file against the Keras model it was made from, output by output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import ConversionError

__all__ = ["LEAST_SQNR_DB", "POOR_SQNR_DB", "OutputParity", "compare_outputs", "refuse_senseless", "sqnr_db"]

# Share of the output range that a file of this precision may be off; beyond it, it computes something else. float16 has
# 11 bits, and a deep model adds up its rounding.
LIMITS = {"float32": 1e-3, "float16": 0.1}
# A quantized file whose error is stronger than its signal says nothing any more; below the second it is poor.
LEAST_SQNR_DB = 0.0
POOR_SQNR_DB = 10.0
# An output varies when its samples differ by more than this share of its range.
VARIES = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """Differences of one output over `samples` samples.

    `range` is the model's largest minus smallest value, `relative_error` is max_error / range (None for a range of 0);
    `agreement` is the share of samples with the same largest element (None for an output of one element). `sqnr_db`:
    10 log10 of the power of the model's output over that of the difference (None where they are equal).
    """

    output: str
    samples: int
    max_error: float
    mean_error: float
    range: float
    relative_error: float | None
    agreement: float | None
    sqnr_db: float | None


def compare_outputs(expected: Mapping[str, np.ndarray], exported: Mapping[str, np.ndarray]) -> tuple[OutputParity, ...]:
    """Parity of every output, matched by name. Raises ConversionError where names or shapes differ."""
    if set(expected) != set(exported):
        raise ConversionError(
            f"the exported file has the outputs {', '.join(sorted(exported))}; "
            f"the model has {', '.join(sorted(expected))}"
        )
    return tuple(_compare(name, expected[name], exported[name]) for name in expected)


def _compare(name: str, expected: np.ndarray, exported: np.ndarray) -> OutputParity:
    if expected.shape != exported.shape:
        raise ConversionError(
            f"output {name!r} has shape {exported.shape} in the file and {expected.shape} in the model"
        )
    difference = np.abs(expected.astype(np.float64) - exported.astype(np.float64))
    spread = float(expected.max() - expected.min())
    flat = expected.reshape(len(expected), -1)
    agreement = None
    if flat.shape[1] > 1:
        agreement = float((flat.argmax(1) == exported.reshape(len(exported), -1).argmax(1)).mean())
    largest = float(difference.max())
    return OutputParity(
        output=name,
        samples=len(expected),
        max_error=largest,
        mean_error=float(difference.mean()),
        range=spread,
        relative_error=largest / spread if spread else None,
        agreement=agreement,
        sqnr_db=sqnr_db(expected, exported),
    )


def sqnr_db(expected: np.ndarray, exported: np.ndarray) -> float | None:
    """Signal to quantization noise ratio, decibels; None where both are equal, and where either is not finite."""
    signal = float(np.square(expected, dtype=np.float64).sum())
    noise = float(np.square(expected.astype(np.float64) - exported.astype(np.float64)).sum())
    if noise == 0 or not np.isfinite(signal + noise):
        return None
    return 10 * math.log10(signal / noise) if signal else -math.inf


def refuse_senseless(
    file: str,
    precision: str,
    expected: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    parity: tuple[OutputParity, ...],
    *,
    tolerance: float | None = None,
) -> None:
    """Raise ConversionError for NaN outputs, for constant outputs of a model whose outputs vary, and for a file that
    does not compute what its model computes.

    `tolerance` is the largest difference allowed, as a share of the output range; without it LIMITS has one for the
    float precisions, and for the others the error must not be stronger than the signal.
    """
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise ConversionError(f"{file}: output {name!r} holds NaN or infinite values")
    limit = LIMITS.get(precision) if tolerance is None else tolerance
    for item in parity:
        values, model = outputs[item.output], expected[item.output]
        # A little variation may fall below the steps of int8, and a model may itself be constant (pruned to death).
        varies = bool(np.ptp(model, axis=0).max() > VARIES * item.range)
        if varies and np.ptp(values, axis=0).max() == 0:
            raise ConversionError(f"{file}: output {item.output!r} is the same for all {len(values)} samples")
        if limit is not None and item.max_error > limit * (item.range or 1.0):
            raise ConversionError(
                f"{file}: output {item.output!r} departs from the Keras model by {item.max_error:.3g}, "
                f"its range is {item.range:.3g}"
            )
        if limit is None and item.sqnr_db is not None and item.sqnr_db < LEAST_SQNR_DB:
            raise ConversionError(
                f"{file}: the error of output {item.output!r} is stronger than its signal (SQNR {item.sqnr_db:.1f} dB)"
            )

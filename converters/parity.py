"""The exported file against the Keras model it was made from, output by output."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeprune.converters.channel_parity import poor_channels
from edgeprune.errors import ConversionError, UsageError
from edgeprune.ledger import OutputParity

__all__ = [
    "LEAST_SQNR_DB",
    "check_tolerance",
    "compare_outputs",
    "refuse_senseless",
    "shows_nothing",
    "spread_sqnr_db",
    "sqnr_db",
]

# Share of the output range that a file of this precision may be off; beyond it, it computes something else. float16 has
# 11 bits, and a deep model adds up its rounding.
LIMITS = {"float32": 1e-3, "float16": 0.1}
# A quantized file whose error is stronger than its signal says nothing any more.
LEAST_SQNR_DB = 0.0
LEAST_SQNR = {"float16": 20.0}
# Of a single channel of a float32 file: share of its own range, and of the largest number in the output.
HIDDEN_SHARE = 0.01
HIDDEN_FLOOR = 1e-5
# An output varies when its samples differ by more than this share of its range.
VARIES = 0.1


def compare_outputs(
    expected: Mapping[str, np.ndarray], exported: Mapping[str, np.ndarray], joined: Mapping[str, int] | None = None
) -> tuple[OutputParity, ...]:
    """Parity of every output, matched by name; `joined` as told by `joined_axes`. Raises ConversionError where names or
    shapes differ."""
    if set(expected) != set(exported):
        raise ConversionError(
            f"the exported file has the outputs {', '.join(sorted(exported))}; "
            f"the model has {', '.join(sorted(expected))}"
        )
    return tuple(_compare(name, expected[name], exported[name], (joined or {}).get(name)) for name in expected)


def _compare(name: str, expected: np.ndarray, exported: np.ndarray, joined: int | None) -> OutputParity:
    if expected.shape != exported.shape:
        raise ConversionError(
            f"output {name!r} has shape {exported.shape} in the file and {expected.shape} in the model"
        )
    with np.errstate(invalid="ignore"):  # infinite minus infinite; `refuse_senseless` says so in words
        difference = np.abs(expected.astype(np.float64) - exported.astype(np.float64))
    spread = float(expected.max() - expected.min())
    agreement = None
    if expected.ndim > 1 and expected.shape[-1] > 1:
        agreement = float((expected.argmax(-1) == exported.argmax(-1)).mean())
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
        channels=poor_channels(expected, exported, joined),
    )


def sqnr_db(expected: np.ndarray, exported: np.ndarray) -> float | None:
    """Signal to quantization noise ratio, decibels; None where both are equal, and where either is not finite."""
    signal = float(np.square(expected, dtype=np.float64).sum())
    with np.errstate(invalid="ignore"):
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
        if not np.isfinite(expected[name]).all():
            raise ConversionError(
                f"{file}: the model's own output {name!r} holds NaN or infinite values on these samples, so nothing "
                "can be compared; give samples that it was made for with --data"
            )
        if not np.isfinite(values).all():
            raise ConversionError(f"{file}: output {name!r} holds NaN or infinite values")
    limit = LIMITS.get(precision) if tolerance is None else tolerance
    least = LEAST_SQNR.get(precision, LEAST_SQNR_DB)
    for item in parity:
        values, model = outputs[item.output], expected[item.output]
        # A little variation may fall below the steps of int8, and a model may itself be constant (pruned to death).
        varies = bool(np.ptp(model, axis=0).max() > VARIES * item.range)
        if varies and np.ptp(values, axis=0).max() == 0:
            raise ConversionError(f"{file}: output {item.output!r} is the same for all {len(values)} samples")
        size = item.range or float(np.abs(model).max())
        if limit is not None and item.max_error > limit * size:
            raise ConversionError(
                f"{file}: output {item.output!r} departs from the Keras model by {item.max_error:.3g}, "
                f"its range is {item.range:.3g}"
            )
        if tolerance is None and precision == "float32":
            _refuse_hidden(file, item.output, model, values)
        if tolerance is None and item.sqnr_db is not None and item.sqnr_db < least:
            what = "is stronger than its signal" if least == LEAST_SQNR_DB else f"is large for {precision}"
            raise ConversionError(f"{file}: the error of output {item.output!r} {what} (SQNR {item.sqnr_db:.1f} dB)")


def check_tolerance(tolerance: float | None) -> None:
    """Raise UsageError for a tolerance that is no share of a range."""
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError(f"--tolerance is a share of the output range between 0 and 1; got {tolerance:g}")


def _refuse_hidden(file: str, name: str, model: np.ndarray, values: np.ndarray) -> None:
    """Raise where one channel (last axis) of a float32 output is wrong by its own measure, behind larger others.

    What single precision itself loses is allowed: HIDDEN_FLOOR of the largest number in the output.
    """
    if model.ndim < 2 or model.dtype.kind != "f":
        return
    axes = tuple(range(model.ndim - 1))
    errors = np.abs(model.astype(np.float64) - values.astype(np.float64)).max(axes)
    allowed = np.maximum(HIDDEN_SHARE * np.ptp(model.astype(np.float64), axis=axes), HIDDEN_FLOOR * np.abs(model).max())
    if (errors > allowed).any():
        worst = int((errors / np.maximum(allowed, 1e-300)).argmax())
        raise ConversionError(
            f"{file}: channel {worst} of output {name!r} departs from the Keras model by {errors[worst]:.3g}, its own "
            f"range is {np.ptp(model[..., worst]):.3g}"
        )


def shows_nothing(expected: Mapping[str, np.ndarray]) -> bool:
    """Whether no output of the model varies from sample to sample, so that a comparison proves nothing."""
    return all(float(np.ptp(values.astype(np.float64), axis=0).max(initial=0)) == 0 for values in expected.values())


def spread_sqnr_db(expected: np.ndarray, exported: np.ndarray) -> float | None:
    """SQNR against what varies from sample to sample alone: a constant offset is no signal."""
    return sqnr_db(expected - expected.mean(0, keepdims=True), exported - expected.mean(0, keepdims=True))

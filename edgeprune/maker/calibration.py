"""The calibration set of full-integer quantization: samples of the training split, never of the test split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeprune.maker.training.datasets import InputSpecs, Samples

__all__ = ["calibration_set"]


def calibration_set(train: Samples, specs: InputSpecs, count: int, seed: int) -> Mapping[str, np.ndarray]:
    """At most `count` samples drawn with `seed`: arrays [count, ...] by input name, in the model's dtypes."""
    drawn = train.some(count, np.random.default_rng(seed))
    return {name: drawn.inputs[name].astype(dtype) for name, (_, dtype) in specs.items()}

"""The models that other benchmarks here run on: not one itself."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZES = (32, 48, 64, 71, 75, 96, 128, 224, 331)
FIXED = {"NASNetLarge": (331,), "NASNetMobile": (224,)}  # weights=None fixes the input size here
# A scale around 1 makes the deepest of these models chaotic with random weights: they amplify rounding.
SPREAD = {"gamma": (0.3, 1.0), "beta": (-0.5, 0.5), "moving_mean": (-0.5, 0.5), "moving_variance": (0.5, 1.5)}


def built(keras: Any, name: str) -> Any:
    """The model at the smallest size that its builder takes, with random statistics and biases."""
    for size in FIXED.get(name, SIZES):
        try:
            model = getattr(keras.applications, name)(
                input_shape=(size, size, 3), weights=None, classifier_activation=None
            )
            break
        except ValueError:
            continue
    else:
        raise SystemExit(f"{name}: no input size found")
    return with_statistics(model)


def with_statistics(model: Any) -> Any:
    """The model itself, its statistics and biases drawn at random."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in SPREAD:
            variable.assign(rng.uniform(*SPREAD[variable.name], variable.shape))
        elif variable.name == "bias":
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model

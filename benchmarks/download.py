"""Download of an 80 % pruned MobileNetV2 1.0 (224 px, 1000 classes), one shot, as float32 and int8 .tflite.

Published weights cannot be shipped here, so the kernels are drawn like trained ones: a Laplace distribution (trained
kernels have heavier tails than a normal one) with a spread between channels, and batch normalisation statistics that
are not the identity. Prints bytes and the ratio to the dense float32 file. Targets: float32 at most 0.29, int8 at most
0.11 of the dense float32 download (deflate).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.artifact import Format, Precision
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import FULL
from edgeprune.converters.session import Converter
from edgeprune.maker.keras.models import clone, keras_module
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import MagnitudeOptions


def trained_like(model: Any, rng: np.random.Generator) -> Any:
    """A copy with Laplace kernels and random, positive and negative, batch normalisation."""
    copy = clone(model)
    for layer in copy.layers:
        made = []
        for variable in layer.weights:
            shape = tuple(variable.shape)
            if len(shape) >= 2:
                fan_in = int(np.prod(shape[:-1]))
                spread = rng.lognormal(0, 0.3, (1,) * (len(shape) - 1) + shape[-1:])
                made.append(rng.laplace(0, 1 / np.sqrt(fan_in), shape) * spread)
            elif variable.name in ("gamma", "moving_variance"):
                made.append(rng.lognormal(0, 0.2, shape))
            else:
                made.append(rng.normal(0, 0.1, shape))
        if made:
            layer.set_weights([array.astype(np.float32) for array in made])
    return copy


def main() -> None:
    keras = keras_module()
    rng = np.random.default_rng(0)
    dense = trained_like(keras.applications.MobileNetV2((224, 224, 3), weights=None), rng)
    pruned = prune_magnitude(dense, MagnitudeOptions(sparsity=0.8)).model
    images = {dense.inputs[0].name: rng.normal(size=(4, 224, 224, 3)).astype(np.float32)}
    base = None
    with tempfile.TemporaryDirectory() as place, Converter() as converter:
        for name, model in (("dense", dense), ("pruned", pruned)):
            for precision in (Precision.FLOAT32, Precision.INT8):
                path = Path(place) / f"{name}.{precision}.tflite"
                converter.export(model, path, Format.TFLITE, precision, calibration=images)
                size = account(path, FULL)
                base = base or size.download_bytes["deflate"]
                codecs = ", ".join(f"{codec} {count:,}" for codec, count in size.download_bytes.items())
                ratio = size.download_bytes["deflate"] / base
                print(
                    f"{name:6s} {precision:7s} raw {size.raw_bytes:,}, {codecs}; {ratio:.3f}x, "
                    f"zeros {size.sparsity:.3f}"
                )


if __name__ == "__main__":
    main()

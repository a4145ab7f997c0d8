"""How often `edgeprune bench` is right, on this machine as busy as it is: the same model, a narrower one, a pruned one.

A small residual network with random weights as float32. Targets: of 50 comparisons of a file with its copy at most 3
verdicts other than `unchanged`; a width of 0.75 is `faster` 20 times of 20; 80 % zeros are `unchanged` 19 times of 20.

    python benchmarks/verdicts.py [NULL [NARROW [PRUNED]]]      how often each is compared (50 20 20)
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.checker.latency.measure import compare_latency


def network(keras: Any, width: float, zeros: float) -> Any:
    """Residual blocks of separable convolutions, with the smallest share `zeros` of each kernel removed."""
    layers = keras.layers
    x = keras.Input((64, 64, 3), name="image")
    y = layers.Conv2D(round(32 * width), 3, strides=2, padding="same", activation="relu")(x)
    for channels in (48, 64, 96):
        y = layers.Conv2D(round(channels * width), 1, activation="relu")(y)
        for _ in range(2):
            z = layers.DepthwiseConv2D(3, padding="same", activation="relu")(y)
            y = layers.Add()([y, layers.Conv2D(round(channels * width), 1)(z)])
        y = layers.MaxPooling2D()(y)
    model = keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(y)))
    for layer in model.layers:
        weights = layer.get_weights()
        if weights and zeros:
            kernel = weights[0]
            kernel[np.abs(kernel) <= np.quantile(np.abs(kernel), zeros)] = 0
            layer.set_weights(weights)
    return model


def files(folder: Path) -> dict[str, Path]:
    from edgeprune.artifact import Format, Precision
    from edgeprune.converters.session import Converter
    from edgeprune.maker.keras.models import keras_module

    keras = keras_module()
    keras.utils.set_random_seed(0)
    dense = network(keras, 1.0, 0.0)
    keras.utils.set_random_seed(0)  # the same weights
    pruned = network(keras, 1.0, 0.8)
    made = {"dense": dense, "narrow": network(keras, 0.75, 0.0), "pruned": pruned}
    with Converter() as converter:
        for name, model in made.items():
            converter.export(model, folder / f"{name}.tflite", Format.TFLITE, Precision.FLOAT32)
    shutil.copyfile(folder / "dense.tflite", folder / "copy.tflite")
    return {name: folder / f"{name}.tflite" for name in (*made, "copy")}


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] + [50, 20, 20][len(sys.argv) - 1 :]
    wanted = (("copy", "unchanged"), ("narrow", "faster"), ("pruned", "unchanged"))
    with tempfile.TemporaryDirectory() as place:
        paths = files(Path(place))
        for (name, right), times in zip(wanted, counts, strict=True):
            told, ratios, begun = Counter(), [], time.perf_counter()
            for seed in range(times):
                found = compare_latency(paths["dense"], paths[name], seed=seed)
                told[str(found.verdict)] += 1
                ratios.append(found.ratio)
            each, load = (time.perf_counter() - begun) / max(times, 1), os.getloadavg()[0]
            print(
                f"{name:7s} {told[right]} of {times} {right}, {dict(told)}; ratio {np.median(ratios):.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f}); {each:.1f} s each, load {load:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What `edgeprune bench --arm` counts for MobileNetV2: dense, 80 % pruned (stored dense), and of width 0.75.

Random weights; needs Keras, TensorFlow and the emulated Arm system (`python -m edgeprune.checker.arm.prepare`), and
says so where that is absent. Targets, on each cpu: pruned / dense is 1.0000 within 1e-4 for float32 and int8, and width
0.75 as float32 on the Cortex-A76 is within 5 % of 0.756, the ratio of TFLite's published latencies on a Pixel 1. Exit
code 1 where one is missed.

    python benchmarks/arm_counts.py [CPU ...]      (default: cortex-a76 cortex-a53)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.checker.arm.cpus import arm_root, find_cpu
from edgeprune.checker.arm.emulation import compare_counts, count_instructions
from edgeprune.errors import Unsupported

PIXEL_RATIO = 0.756


def network(keras: Any, width: float) -> Any:
    """MobileNetV2 for 224 x 224 images, always with the same weights."""
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNetV2(input_shape=(224, 224, 3), alpha=width, weights=None)


def prune(model: Any, zeros: float) -> None:
    """Set the smallest share `zeros` of each kernel to zero."""
    for layer in model.layers:
        weights = layer.get_weights()
        if weights and weights[0].ndim > 1:
            weights[0][np.abs(weights[0]) <= np.quantile(np.abs(weights[0]), zeros)] = 0
            layer.set_weights(weights)


def files(folder: Path) -> dict[str, dict[str, Path]]:
    """Name -> precision -> file."""
    from edgeprune.artifact import Format, Precision
    from edgeprune.converters.session import Converter
    from edgeprune.maker.keras.models import keras_module

    keras = keras_module()
    models = {"dense": network(keras, 1.0), "pruned": network(keras, 1.0), "width 0.75": network(keras, 0.75)}
    prune(models["pruned"], 0.8)
    images = np.random.default_rng(0).uniform(-1, 1, (4, 224, 224, 3)).astype(np.float32)
    made: dict[str, dict[str, Path]] = {}
    with Converter() as converter:
        for name, model in models.items():
            for precision in (Precision.FLOAT32, Precision.INT8):
                path = folder / f"{name.replace(' ', '_')}_{precision}.tflite"
                calibration = {model.layers[0].name: images} if precision is Precision.INT8 else None
                converter.export(model, path, Format.TFLITE, precision, calibration=calibration)
                made.setdefault(name, {})[str(precision)] = path
    return made


def main() -> int:
    try:
        root, missed = arm_root(), 0
    except Unsupported as error:
        print(f"not run: {error}")
        return 0
    cpus = [find_cpu(name) for name in sys.argv[1:] or ("cortex-a76", "cortex-a53")]
    with tempfile.TemporaryDirectory() as place:
        made = files(Path(place))
        for cpu in cpus:
            for precision, path in made["dense"].items():
                dense = count_instructions(path, cpu=cpu, root=root)
                print(
                    f"{cpu.name} {precision}: {dense.instructions / 1e6:.4f} M, spread {dense.spread:.6f}", flush=True
                )
                for name in ("pruned", "width 0.75"):
                    found = compare_counts(dense, count_instructions(made[name][precision], cpu=cpu, root=root))
                    wrong = name == "pruned" and abs(found.ratio - 1) > 1e-4
                    if (name, precision, cpu.name) == ("width 0.75", "float32", "cortex-a76"):
                        wrong = abs(found.ratio / PIXEL_RATIO - 1) > 0.05
                    missed += wrong
                    print(f"  {name}: {found.ratio:.6f} {found.verdict}{' MISSED' if wrong else ''}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

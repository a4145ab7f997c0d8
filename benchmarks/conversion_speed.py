"""TFLite conversion through the frozen batch-1 function against TFLiteConverter.from_keras_model, A B A B, one process.

Prints CPU and wall seconds of both and their ratio (frozen / from_keras_model) for float32 and int8. Target: CPU ratio
at most 0.4. The start of the child process that conversions run in (about 8 CPU seconds, once for all conversions of a
run) is printed apart.

    python benchmarks/conversion_speed.py [MODEL ...]
"""

from __future__ import annotations

import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.converters.frozen import freeze
from edgeprune.converters.tflite import convert_tflite
from edgeprune.maker.keras.models import keras_module

MODELS, PIXELS, ROUNDS, SAMPLES = ("MobileNetV2", "ResNet50"), 224, 2, 8


def ours(model: Any, precision: str, images: np.ndarray, folder: Path) -> int:
    graph = freeze(model, folder / "graph.pb")
    calibration = {graph.inputs[0].name: images} if precision == "int8" else None
    return len(convert_tflite(graph, precision=precision, calibration=calibration))


def theirs(model: Any, precision: str, images: np.ndarray) -> int:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with contextlib.redirect_stdout(io.StringIO()):
        return len(converter.convert())


def compare(name: str, model: Any, precision: str, images: np.ndarray, place: Path) -> None:
    results = []
    for _ in range(ROUNDS):
        pair = []
        for convert in (lambda: ours(model, precision, images, place), lambda: theirs(model, precision, images)):
            cpu, wall = time.process_time(), time.perf_counter()
            size = convert()
            pair.append((time.process_time() - cpu, time.perf_counter() - wall, size))
        results.append(pair)
    texts = []
    for what, index in (("CPU", 0), ("wall", 1)):
        a, b = (statistics.median(r[side][index] for r in results) for side in (0, 1))
        ratio = statistics.median(r[0][index] / r[1][index] for r in results)
        texts.append(f"{what} s {a:6.2f} / {b:6.2f} = {ratio:.3f}")
    sizes = f"bytes {results[0][0][2]:,} / {results[0][1][2]:,}"
    print(f"{name:12s} {precision:8s} {'   '.join(texts)}   {sizes}", flush=True)


def main() -> None:
    keras = keras_module()
    images = np.random.default_rng(0).random((SAMPLES, PIXELS, PIXELS, 3), np.float32)
    print(f"frozen / from_keras_model, {PIXELS} px, median of {ROUNDS} A B pairs")
    with tempfile.TemporaryDirectory() as place:
        for name in sys.argv[1:] or MODELS:
            model = getattr(keras.applications, name)((PIXELS, PIXELS, 3), weights=None)
            ours(model, "float32", images, Path(place))  # the first conversion of a process also loads the converter
            for precision in ("float32", "int8"):
                compare(name, model, precision, images, Path(place))
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", "import tensorflow"], check=True, capture_output=True)
    print(f"start of a child with TensorFlow: {time.perf_counter() - begun:.1f} s wall, once a run")


if __name__ == "__main__":
    main()

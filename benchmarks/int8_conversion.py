"""INT8 conversion through the frozen batch-1 function against TFLiteConverter.from_keras_model, A B A B in one process.

Prints CPU and wall seconds and their ratio (frozen / from_keras_model). Target: CPU ratio at most 0.5. The start of the
child process that conversions run in (about 8 CPU seconds, once for all conversions of a run) is printed apart.
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

import numpy as np

from edgeprune.converters.frozen import freeze
from edgeprune.converters.tflite import convert_tflite
from edgeprune.keras_models import keras_module

ROUNDS, SAMPLES = 3, 16


def ours(model: object, images: np.ndarray, folder: Path) -> int:
    graph = freeze(model, folder / "graph.pb")
    return len(convert_tflite(graph, precision="int8", calibration={graph.inputs[0].name: images}))


def theirs(model: object, images: np.ndarray) -> int:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with contextlib.redirect_stdout(io.StringIO()):
        return len(converter.convert())


def main() -> None:
    keras = keras_module()
    images = np.random.default_rng(0).random((SAMPLES, 96, 96, 3), np.float32)
    model = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=1000)
    results = []
    with tempfile.TemporaryDirectory() as place:
        ours(model, images, Path(place))  # the first conversion of a process also loads the converter
        for _ in range(ROUNDS):
            pair = []
            for convert in (lambda: ours(model, images, Path(place)), lambda: theirs(model, images)):
                cpu, wall = time.process_time(), time.perf_counter()
                size = convert()
                pair.append((time.process_time() - cpu, time.perf_counter() - wall, size))
            results.append(pair)
    for what, index in (("CPU", 0), ("wall", 1)):
        a, b = (statistics.median(r[side][index] for r in results) for side in (0, 1))
        ratio = statistics.median(r[0][index] / r[1][index] for r in results)
        print(
            f"{what:4s} s: frozen {a:.2f}, from_keras_model {b:.2f}, ratio {ratio:.3f} (median of {ROUNDS} A B pairs)"
        )
    print(f"bytes: frozen {results[0][0][2]:,}, from_keras_model {results[0][1][2]:,}")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", "import tensorflow"], check=True, capture_output=True)
    print(f"start of a child with TensorFlow: {time.perf_counter() - begun:.1f} s wall, once a run")


if __name__ == "__main__":
    main()

"""What `edgeprune check` costs beside the codecs it runs, beside `import numpy`, and beside TensorFlow's own analyzer.

Whole processes, CPU seconds of all their threads, A B A B on the same files: MobileNetV2 1.0 as float32 (14 MB) and a
model of 300 kB, with random weights. Targets: all codecs on 14 MB at most 1.15 times the codecs' own CPU time + 0.4 s,
in at most 0.6 of that as wall time on two cores; --fast below 1.5 s; 300 kB within 3 times `import numpy`; 10 times
less CPU than `tf.lite.experimental.Analyzer`.

    python benchmarks/checker.py
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3
CODECS = """
import sys
from edgeprune.checker.size.codecs import CODECS, FULL
import time
content = open(sys.argv[1], "rb").read()
begun = time.process_time()
for name in FULL:
    CODECS[name].compressed_bytes(content)
print(time.process_time() - begun)
"""
ANALYZER = """
import sys
import tensorflow as tf
tf.lite.experimental.Analyzer.analyze(model_path=sys.argv[1])
"""


def models(folder: Path) -> tuple[Path, Path]:
    """MobileNetV2 at widths 1.0 and, without the classifier, small enough for 300 kB."""
    from edgeprune.artifact import Format, Precision
    from edgeprune.converters.session import Converter
    from edgeprune.maker.keras.models import keras_module

    keras = keras_module()
    large = keras.applications.MobileNetV2((224, 224, 3), weights=None)
    x = keras.Input((64, 64, 3))
    y = x
    for width in (16, 32, 64, 96):
        y = keras.layers.Conv2D(width, 3, strides=2, activation="relu")(y)
    small = keras.Model(x, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(y)))
    paths = folder / "large.tflite", folder / "small.tflite"
    with Converter() as converter:
        for model, path in zip((large, small), paths, strict=True):
            converter.export(model, path, Format.TFLITE, Precision.FLOAT32)
    return paths


def process(*command: str) -> tuple[float, float, str]:
    """(CPU seconds, wall seconds, what it printed last) of a whole process."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-P", *command], capture_output=True, text=True, check=True, env=environment)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, (done.stdout.strip().splitlines() or [""])[-1]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        large, small = (str(path) for path in models(Path(place)))
        print(f"{Path(large).stat().st_size:,} and {Path(small).stat().st_size:,} bytes, medians of {ROUNDS} rounds")
        rows: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            cpu, wall, _ = process("-m", "edgeprune", "check", "--show", large)
            codecs = float(process("-c", CODECS, large)[2])
            fast, _, _ = process("-m", "edgeprune", "check", "--show", large, "--fast")
            numpy = process("-c", "import numpy")[0]
            little, _, _ = process("-m", "edgeprune", "check", "--show", small)
            little_fast, _, _ = process("-m", "edgeprune", "check", "--show", small, "--fast")
            look, _, _ = process("-m", "edgeprune", "inspect", small)
            theirs, _, _ = process("-c", ANALYZER, small)
            found = {
                "14 MB, all codecs: CPU s": cpu,
                "    the codecs alone: CPU s": codecs,
                "    (CPU - 0.4 s) / codecs alone (target 1.15)": (cpu - 0.4) / codecs,
                "    wall s": wall,
                "    wall / CPU (target 0.6 on two cores)": wall / cpu,
                "14 MB, --fast: CPU s (target 1.5)": fast,
                "import numpy: CPU s": numpy,
                "300 kB, all codecs: CPU s": little,
                "    / import numpy (target 3)": little / numpy,
                "300 kB, --fast / import numpy": little_fast / numpy,
                "300 kB, inspect: CPU s": look,
                "    Analyzer: CPU s": theirs,
                "    Analyzer / inspect (target 10)": theirs / look,
            }
            for name, value in found.items():
                rows.setdefault(name, []).append(value)
        for name, values in rows.items():
            print(f"{name:50s} {statistics.median(values):8.3f}")


if __name__ == "__main__":
    main()

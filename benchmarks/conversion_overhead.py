"""What `edgeprune convert` costs beyond the converter itself: CPU and wall seconds of whole commands, A B A B.

A: a script that loads a Keras model, calls tf.lite.TFLiteConverter and writes the file, as anybody would do by hand.
B: `edgeprune convert` of the same model, which also runs the file on every installed runtime, compares it with the
model, and weighs it by deflate and zstd. Each is a process of its own, with its children. The models are those of
keras.applications, with random weights. Target: (B - A) / A at most 0.5.

    python benchmarks/conversion_overhead.py [MODEL ...]
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

MODELS = ("InceptionV3", "NASNetMobile")
ROUNDS = 3
MOST = 0.5
MAKE = "import keras, sys; getattr(keras.applications, sys.argv[1])(weights=None).save(sys.argv[2])"
PLAIN = """
import sys, keras, tensorflow as tf
model = keras.saving.load_model(sys.argv[1], compile=False)
content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
open(sys.argv[2], "wb").write(content)
"""
COMMAND = "from edgeprune.commands.cli import main; main()"
DEFLATE = """
import sys, zlib
zlib.compress(open(sys.argv[1], "rb").read(), 9)
"""


def seconds(script: str, *arguments: str | Path) -> tuple[float, float]:
    """CPU seconds, of its children too, and wall seconds of a Python script in a process of its own."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", script, *map(str, arguments)]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, capture_output=True, env=quiet)
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s


def measured(name: str, folder: Path) -> bool:
    """Print the figures of one model; whether its CPU ratio is within the target."""
    model, plain, made = (folder / f"{name}{end}" for end in (".keras", ".plain.tflite", ".tflite"))
    seconds(MAKE, name, model)
    pairs = []
    for _ in range(ROUNDS):
        theirs = seconds(PLAIN, model, plain)
        ours = seconds(COMMAND, "convert", model, "--to", "tflite", "-o", made, "--overwrite", "--quiet")
        pairs.append((ours, theirs))
    ratios = {}
    for what, index in (("CPU", 0), ("wall", 1)):
        ours_s, theirs_s = (statistics.median(pair[side][index] for pair in pairs) for side in (0, 1))
        ratios[what] = statistics.median((b[index] - a[index]) / a[index] for b, a in pairs)
        print(
            f"{name:14s} {made.stat().st_size / 1e6:6.1f} MB {what:4s} s: script {theirs_s:6.2f}, edgeprune "
            f"{ours_s:6.2f}, beyond it {ours_s - theirs_s:6.2f}, ratio {ratios[what]:.2f} (median of {ROUNDS})",
            flush=True,
        )
    print(f"{name:14s} of which deflate 9 of the file alone, as stores do it: {seconds(DEFLATE, made)[0]:.2f} s of CPU")
    return ratios["CPU"] <= MOST


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        fine = [measured(name, Path(place)) for name in sys.argv[1:] or MODELS]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()

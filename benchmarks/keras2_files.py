"""Keras 2 files of every model builder of tf_keras.applications: are weights and outputs those of tf_keras?

tf_keras builds each model with random weights in a process of its own and writes it as .h5 and as .keras with the
outputs for three random images. Here both are loaded: weights must be equal to the bit, and "difference" is the largest
one of the outputs, as a share of their range; the target is 1e-5. Models of over 60 million parameters are left out
unless they are named. Seconds are CPU time of loading.

    python benchmarks/keras2_files.py [MODEL ...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 60e6
SIZES = (32, 48, 71, 75, 96, 224, 331)


def write_all(folder: Path, names: list[str]) -> None:
    """The child: write one model after the other, name it on stdout, and wait for a line before the next."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tf_keras

    known = [n for n in sorted(dir(tf_keras.applications)) if n[0].isupper()]
    for name in names or known:
        tf_keras.backend.clear_session()
        model = built(tf_keras, name)
        if not names and model.count_params() > LARGEST:
            continue
        rng = np.random.default_rng(0)
        fill(model, rng)
        images = rng.normal(size=(3, *model.input_shape[1:])).astype(np.float32)
        np.savez(
            folder / "told.npz", **weights_of(model), images=images, outputs=np.asarray(model(images, training=False))
        )
        for suffix in (".h5", ".keras"):
            model.save(folder / f"model{suffix}")
        print(f"written {name}", flush=True)
        sys.stdin.readline()


def built(tf_keras: Any, name: str) -> Any:
    """The model at the smallest size that its builder takes."""
    for size in SIZES:
        try:
            shape = (size, size, 3)
            return getattr(tf_keras.applications, name)(
                input_shape=shape, weights=None, classes=10, classifier_activation=None
            )
        except ValueError:
            continue
    raise SystemExit(f"{name}: no input size found")


def fill(model: Any, rng: np.random.Generator) -> None:
    """Statistics and biases that tell one order from another."""
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "variance" in variable.name or "gamma" in variable.name:
            variable.assign(rng.uniform(0.5, 1.0, shape))
        elif len(shape) == 1:
            variable.assign(rng.uniform(-0.3, 0.3, shape))


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """Weights by layer and index, under the names of Keras 3."""
    pairs = [(layer.name.replace("/", "_"), layer.get_weights()) for layer in model.layers]
    return {f"{name}:{index}": weight for name, held in pairs for index, weight in enumerate(held)}


def row(file: Path, name: str, told: dict[str, np.ndarray]) -> bool:
    """Print the line of one file; whether it is right."""
    from edgeprune.errors import EdgepruneError
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.keras.models import input_specs, predict

    begun = time.process_time()
    try:
        model = load_model(file)
    except EdgepruneError as error:
        print(f"{name:22s} {file.suffix:7s} {error}", flush=True)
        return False
    seconds = time.process_time() - begun
    held = weights_of(model)
    same = held.keys() == told.keys() - {"images", "outputs"} and all(
        np.array_equal(value, told[key]) for key, value in held.items()
    )
    made = next(iter(predict(model, dict.fromkeys(input_specs(model), told["images"])).values()))
    difference = float(np.abs(made - told["outputs"]).max() / np.ptp(told["outputs"]))
    print(
        f"{name:22s} {file.suffix:7s} {'equal' if same else 'OTHER':8s} {difference:11.1e} {seconds:8.1f}", flush=True
    )
    return same and difference < 1e-5


def main(names: list[str]) -> int:
    """Print a line for each file; 0 when all are right."""
    right = total = 0
    print(f"{'model':22s} {'file':7s} {'weights':8s} {'difference':>11s} {'seconds':>8s}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = [sys.executable, "-P", "-W", "ignore", __file__, "--write", place, *names]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            for line in child.stdout:
                if not line.startswith("written "):
                    continue
                with np.load(folder / "told.npz") as arrays:
                    told = dict(arrays)
                for suffix in (".h5", ".keras"):
                    right += row(folder / f"model{suffix}", line.split()[1], told)
                    total += 1
                child.stdin.write("\n")
                child.stdin.flush()
    print(f"{right} of {total} files have equal weights and outputs")
    return 0 if right == total and child.returncode == 0 else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_all(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(main(sys.argv[1:]))

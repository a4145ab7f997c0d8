"""What equalization and quantization-aware training bring back of int8 with one scale for each kernel.

A MobileNetV1 0.25 whose channels have partly died (its ImageNet weights) is tuned on photos of clothes at 128 pixels:
2,000 train, 400 choose epochs, the others are scored once. Then each recipe of RECIPES runs. Target: where `quantize`
loses 2 points or more, `equalize` and `qat` are within 0.3 of float.

    python benchmarks/int8_training.py FOLDER WEIGHTS.keras PHOTOS.tar

WEIGHTS.keras is the whole classifier of 224 pixels, PHOTOS.tar has a folder for each class.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

SIZE, TRAIN, VALIDATION, EPOCHS, BATCH = 128, 2000, 400, 14, 32
HEAD = """model = "model.keras"
metric = "accuracy"
seed = 1

[data]
train = "train.npz"
validation = "validation.npz"
test = "test.npz"

[latency]
measure = false
"""
EQUALIZE = '[[steps]]\nkind = "equalize"\n'
QUANTIZE = '[[steps]]\nkind = "quantize"\nper_tensor = true\n'
QAT = (
    '[[steps]]\nkind = "qat"\nper_tensor = true\nepochs = 3\nbatch_size = 32\nlearning_rate = 1e-4\ndistill = 0.9\n'
    "flip = true\n"
)
ZEROS = (
    '[[steps]]\nkind = "prune"\nsparsity = 0.5\nepochs = 4\nbatch_size = 32\nlearning_rate = 5e-4\ndistill = 0.9\n'
    "flip = true\n"
)
RECIPES = {
    "quantize": QUANTIZE,
    "qat": QAT,
    "equalize and quantize": EQUALIZE + QUANTIZE,
    "equalize and qat": EQUALIZE + QAT,
    "50 % zeros, equalize and qat": ZEROS + EQUALIZE + QAT,
}


def photos(archive: Path, size: int | None = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [photos, size, size, 3] (None: as they are), and classes, in an order drawn once."""
    import tensorflow as tf

    with tarfile.open(archive) as packed:
        members = [m for m in packed.getmembers() if m.name.endswith(".jpg")]
        classes = sorted({Path(m.name).parent.name for m in members})
        pixels = []
        for member in members:
            content = packed.extractfile(member)
            assert content is not None
            decoded = tf.io.decode_jpeg(content.read(), channels=3)
            if size is not None:
                decoded = tf.round(tf.image.resize(decoded, (size, size), antialias=True))
            pixels.append(tf.cast(decoded, tf.uint8).numpy())
    labels = np.array([classes.index(Path(m.name).parent.name) for m in members], np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    return np.stack(pixels)[order], labels[order]


def tuned(weights: Path, x: np.ndarray, y: np.ndarray) -> Any:
    """The network with a head for these classes, trained on."""
    from edgeprune.maker.keras.models import keras_module

    keras = keras_module()
    keras.utils.set_random_seed(0)
    known = keras.saving.load_model(weights, compile=False).get_weights()
    body = keras.applications.MobileNet(input_shape=x.shape[1:], alpha=0.25, include_top=False, weights=None)
    body.set_weights(known[: len(body.get_weights())])
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    pooled = keras.layers.GlobalAveragePooling2D()(body.output)
    head = keras.layers.Dense(int(y.max()) + 1, activation="softmax")
    model = keras.Model(body.input, head(pooled))
    rate = keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS * len(y) // BATCH)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(1)
    for _ in range(EPOCHS):
        mirrored = np.where((rng.random(len(x)) < 0.5)[:, None, None, None], x[:, :, ::-1], x)
        model.fit(mirrored, y, batch_size=BATCH, epochs=1, verbose=2)
    return model


def prepare(folder: Path, weights: Path, archive: Path, size: int = SIZE) -> None:
    """The model and the three splits, where they are not there yet."""
    if (folder / "model.keras").exists():
        return
    pixels, labels = photos(archive, size)
    x = pixels.astype(np.float32) / 127.5 - 1
    parts = {
        "train": slice(TRAIN),
        "validation": slice(TRAIN, TRAIN + VALIDATION),
        "test": slice(TRAIN + VALIDATION, None),
    }
    for name, part in parts.items():
        np.savez(folder / f"{name}.npz", x=x[part], y=labels[part])
    tuned(weights, x[:TRAIN], labels[:TRAIN]).save(folder / "model.keras")


def prepared_folder(size: int = SIZE) -> Path | None:
    """The folder that the command line names, with model and splits in it; None, which is said, where it names none."""
    if len(sys.argv) < 4:
        print("not run: it needs a FOLDER, WEIGHTS.keras and PHOTOS.tar")
        return None
    folder, weights, archive = map(Path, sys.argv[1:4])
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, weights, archive, size)
    return folder


def main() -> None:
    folder = prepared_folder()
    if folder is None:
        return
    for words, steps in RECIPES.items():
        name = words.replace("%", "percent").replace(",", "").replace(" ", "-")
        recipe, out = folder / f"{name}.toml", folder / name
        recipe.write_text(HEAD + steps)
        if not (out / "ledger.json").exists():
            subprocess.run([sys.executable, "-m", "edgeprune", "run", recipe, "-o", out, "-q"], check=True)
        ledger = json.loads((out / "ledger.json").read_text())
        told = [line for line in ledger["summary"] if line.startswith("accuracy of stage")]
        print(f"{words}: {' '.join(told)}", flush=True)


if __name__ == "__main__":
    main()

"""Train the Fashion-MNIST sample model and write its committed data subset.

    python sample_models/fashion/train.py                 # full training, about 20 minutes on two idle cores
    python sample_models/fashion/train.py --subset-only   # only rewrite the .npz files

The full data set is looked for in the Debian package ``dataset-fashion-mnist``, then in the cache of
``keras.datasets``, then downloaded by ``keras.datasets`` itself; ``--data FOLDER`` names a folder of idx.gz files.

The network is an inverted-residual one (MobileNetV2, arXiv:1801.04381) with squeeze-excite (arXiv:1709.01507) in its
later blocks, so that depthwise convolutions, residual additions and channel gates are all present.
"""

from __future__ import annotations

import argparse
import gzip
import os
import struct
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

HERE = Path(__file__).resolve().parent
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
CLASSES = 10
SUBSET = {"train": 12_000, "validation": 2_000, "test": 5_000}


def read_idx(path: Path) -> np.ndarray:
    """An idx file (format: the MNIST page) as uint8, shape as stored."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def full_data(folder: Path | None) -> dict[str, np.ndarray]:
    """The four arrays of Fashion-MNIST: images uint8 [n, 28, 28, 1], labels uint8 [n]."""
    for candidate in [folder] if folder else [DEBIAN_FOLDER]:
        if candidate and all((candidate / name).is_file() for name in FILES.values()):
            arrays = {key: read_idx(candidate / name) for key, name in FILES.items()}
            break
    else:
        if folder:
            sys.exit(f"{folder}: the idx.gz files of Fashion-MNIST are not there")
        (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    for key in ("x_train", "x_test"):
        arrays[key] = arrays[key].reshape(-1, 28, 28, 1)
    return arrays


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator, pool: np.ndarray) -> np.ndarray:
    """`count` indices out of `pool`, the same number of each class, in shuffled order."""
    per_class = count // CLASSES
    chosen = [rng.permutation(pool[labels[pool] == c])[:per_class] for c in range(CLASSES)]
    return rng.permutation(np.concatenate(chosen))


def split(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Indices of the committed subsets. Validation is held out of the training of the sample model too."""
    rng = np.random.default_rng(20)
    everything = np.arange(len(arrays["y_train"]))
    validation = stratified(arrays["y_train"], SUBSET["validation"], rng, everything)
    rest = np.setdiff1d(everything, validation)
    train = stratified(arrays["y_train"], SUBSET["train"], rng, rest)
    test = stratified(arrays["y_test"], SUBSET["test"], rng, np.arange(len(arrays["y_test"])))
    return {"train": train, "validation": validation, "test": test, "fit": rest}


def write_subset(arrays: dict[str, np.ndarray], indices: dict[str, np.ndarray]) -> None:
    """The three .npz files beside this script: x uint8 [n, 28, 28, 1], y uint8 [n]."""
    for name in SUBSET:
        source = "test" if name == "test" else "train"
        rows = indices[name]
        np.savez_compressed(HERE / f"{name}.npz", x=arrays[f"x_{source}"][rows], y=arrays[f"y_{source}"][rows])


def batch_norm_relu(x, name: str):
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)


def squeeze_excite(x, name: str):
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    gate = layers.Conv2D(channels // 8, 1, activation="relu", name=f"{name}_reduce")(gate)
    gate = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_excite")(gate)
    return layers.Multiply(name=f"{name}_scale")([x, gate])


def inverted_residual(x, name: str, *, expand: int, out: int, stride: int, gate: bool):
    skip, channels = x, x.shape[-1]
    x = layers.Conv2D(channels * expand, 1, use_bias=False, name=f"{name}_expand")(x)
    x = batch_norm_relu(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = batch_norm_relu(x, f"{name}_depthwise")
    if gate:
        x = squeeze_excite(x, f"{name}_se")
    x = layers.Conv2D(out, 1, use_bias=False, name=f"{name}_project")(x)
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_project_bn")(x)
    return layers.Add(name=f"{name}_add")([skip, x]) if stride == 1 and channels == out else x


def build() -> keras.Model:
    """Raw pixels 0..255, float32 [batch, 28, 28, 1] -> class probabilities float32 [batch, 10]."""
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescale")(image)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(x)
    x = batch_norm_relu(x, "stem")
    plan = [  # expand, out, stride, squeeze-excite
        (4, 24, 2, False),
        (3, 24, 1, False),
        (4, 40, 2, True),
        (4, 40, 1, True),
        (4, 40, 1, True),
        (4, 72, 2, True),
        (4, 72, 1, True),
        (4, 72, 1, True),
    ]
    for index, (expand, out, stride, gate) in enumerate(plan, start=1):
        x = inverted_residual(x, f"block{index}", expand=expand, out=out, stride=stride, gate=gate)
    x = layers.Conv2D(256, 1, use_bias=False, name="head")(x)
    x = batch_norm_relu(x, "head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax", name="probs")(x), name="fashion")


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrored at random and shifted by up to two pixels; uint8 in, float32 out, same shape."""
    flipped = np.where(rng.random(len(images))[:, None, None, None] < 0.5, images[:, :, ::-1], images)
    padded = np.pad(flipped, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shift = rng.integers(0, 5, (len(images), 2))
    rows = (shift[:, :1] + np.arange(28))[:, :, None]
    columns = (shift[:, 1:] + np.arange(28))[:, None, :]
    return padded[np.arange(len(images))[:, None, None], rows, columns].astype(np.float32)


def train(arrays: dict[str, np.ndarray], indices: dict[str, np.ndarray], epochs: int, batch: int) -> keras.Model:
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    model = build()
    steps = epochs * (len(indices["fit"]) // batch)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-4, decay_steps=steps - steps // 10, alpha=0.002, warmup_target=3e-3, warmup_steps=steps // 10
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=2e-3)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    labels = arrays["y_train"]
    x_val, y_val = arrays["x_train"][indices["validation"]].astype(np.float32), labels[indices["validation"]]
    for epoch in range(epochs):
        start, order = time.time(), rng.permutation(indices["fit"])
        order = order[: len(order) // batch * batch]
        seen = augmented(arrays["x_train"][order], rng)
        fit = model.fit(seen, labels[order], batch_size=batch, shuffle=False, verbose=0)
        score = model.evaluate(x_val, y_val, batch_size=500, verbose=0)[1]
        print(
            f"epoch {epoch + 1:2d}/{epochs} loss {fit.history['loss'][0]:.4f} train {fit.history['accuracy'][0]:.4f} "
            f"validation {score:.4f} {time.time() - start:.0f} s",
            flush=True,
        )
    return model


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="folder with the four idx.gz files")
    options.add_argument("--epochs", type=int, default=14)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--subset-only", action="store_true", help="write the .npz files and stop")
    choice = options.parse_args()
    arrays = full_data(choice.data)
    indices = split(arrays)
    write_subset(arrays, indices)
    if choice.subset_only:
        return
    model = train(arrays, indices, choice.epochs, choice.batch)
    print(f"parameters {model.count_params()}")
    score = model.evaluate(arrays["x_test"].astype(np.float32), arrays["y_test"], batch_size=500, verbose=0)
    print(f"test accuracy on all {len(arrays['y_test'])} images: {score[1]:.4f}")
    # A fresh copy carries neither optimizer slots nor compile settings into the file.
    plain = build()
    plain.set_weights(model.get_weights())
    plain.save(HERE / "fashion.keras")


if __name__ == "__main__":
    main()

"""Draw the data of the shapes sample, train its model, and write both.

    python sample_models/shapes/train.py               # about five minutes on two idle cores
    python sample_models/shapes/train.py --data-only   # only draw the .npz files

Every picture is made here by arithmetic: one of four shapes of any size, place, turn and brightness on a sloping ground
with lines and noise over it. Nothing was photographed, and nothing is known of how a model does on photographs.

The network has the parts of a mobile detector: inverted residual blocks (MobileNetV2, arXiv:1801.04381), a head that
names the shape, one that frames it, and one that marks its pixels on features of three sizes (as in U-Net,
arXiv:1505.04597).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

HERE = Path(__file__).resolve().parent
SIDE, MASK = 32, 16  # pixels
KINDS = ("circle", "square", "triangle", "cross")
COUNTS = {"train": 2_400, "validation": 400, "test": 1_000}
FIT = 24_000  # pictures that the model was trained on, the committed ones among them
LEVELS = 16  # of brightness, so that the files are small


def inside(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points are in a shape of radius 1 around the origin."""
    if kind == 0:
        return u**2 + v**2 <= 1
    if kind == 1:
        return np.maximum(abs(u), abs(v)) <= 0.8
    if kind == 2:
        return (v <= 0.6) & (v >= 1.9 * abs(u) - 1)
    return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1)


def drawn(kind: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(picture uint8 [32, 32, 1], box float32 [4], mask uint8 [16, 16]) of a shape."""
    radius = rng.uniform(4, 10)
    x, y = rng.uniform(radius, SIDE - radius, 2)
    turn = rng.uniform(-np.pi, np.pi)
    fine = (np.arange(4 * SIDE) + 0.5) / 4
    u, v = (fine[None, :] - x) / radius, (fine[:, None] - y) / radius
    within = inside(kind, u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn))
    cover = within.reshape(SIDE, 4, SIDE, 4).mean((1, 3))
    rows, columns = np.flatnonzero(within.any(1)), np.flatnonzero(within.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32) / (4 * SIDE)
    place = np.arange(SIDE) / SIDE
    ground = rng.uniform(0.2, 0.8) + rng.uniform(-0.3, 0.3) * place[:, None] + rng.uniform(-0.3, 0.3) * place
    for _ in range(rng.integers(0, 3)):  # lines that are no shape
        slope, start = rng.uniform(-1, 1), rng.uniform(0, SIDE)
        away = abs(np.arange(SIDE)[:, None] - start - slope * np.arange(SIDE))
        ground = np.where(away < 0.7, rng.uniform(0, 1), ground)
    light = np.clip(ground.mean() + rng.choice([-1, 1]) * rng.uniform(0.25, 0.5), 0, 1)
    picture = cover * light + (1 - cover) * ground + rng.normal(0, 0.05, cover.shape)
    levels = np.clip(np.round(picture * (LEVELS - 1)), 0, LEVELS - 1)
    mask = within.reshape(MASK, 4 * SIDE // MASK, MASK, 4 * SIDE // MASK).mean((1, 3)) >= 0.5
    return (levels * (255 // (LEVELS - 1))).astype(np.uint8)[..., None], box, mask.astype(np.uint8)


def pictures(count: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays of a split: image, kind, box and mask."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.arange(count, dtype=np.uint8) % len(KINDS))
    image, box, mask = (np.stack(column) for column in zip(*(drawn(int(k), rng) for k in kind), strict=True))
    return {"image": image, "kind": kind, "box": box, "mask": mask}


def norm_relu(x, name: str):
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)


def block(x, name: str, *, out: int, stride: int, expand: int = 4):
    skip, channels = x, x.shape[-1]
    x = norm_relu(layers.Conv2D(channels * expand, 1, use_bias=False, name=f"{name}_expand")(x), f"{name}_expand")
    x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = layers.Conv2D(out, 1, use_bias=False, name=f"{name}_project")(norm_relu(x, f"{name}_depthwise"))
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_project_bn")(x)
    return layers.Add(name=f"{name}_add")([skip, x]) if stride == 1 and channels == out else x


def up(x, skip, name: str):
    """Twice the size, joined with features of that size."""
    x = layers.UpSampling2D(interpolation="bilinear", name=f"{name}_up")(x)
    x = layers.Concatenate(name=f"{name}_join")([x, skip])
    x = layers.SeparableConv2D(24, 3, padding="same", use_bias=False, name=name)(x)
    return norm_relu(x, name)


def build() -> keras.Model:
    """Raw pixels 0..255, float32 [batch, 32, 32, 1] -> kind [batch, 4], box [batch, 4], mask [batch, 16, 16, 2]."""
    image = keras.Input((SIDE, SIDE, 1), name="image")
    x = layers.Rescaling(1 / 255, name="rescale")(image)
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    large = block(norm_relu(x, "stem"), "block1", out=16, stride=1)
    middle = block(block(large, "block2", out=32, stride=2), "block3", out=32, stride=1)
    small = block(block(middle, "block4", out=64, stride=2), "block5", out=64, stride=1)
    features = norm_relu(layers.Conv2D(128, 1, use_bias=False, name="head")(small), "head")
    pooled = layers.GlobalAveragePooling2D(name="pool")(features)
    kind = layers.Dense(len(KINDS), activation="softmax", name="kind")(pooled)
    flat = layers.Flatten(name="places")(layers.Conv2D(16, 1, activation="relu", name="squeeze")(features))
    box = layers.Dense(4, name="box")(layers.Dense(48, activation="relu", name="frame")(flat))
    marks = up(up(small, middle, "up1"), large, "up2")
    mask = layers.Softmax(name="mask")(layers.Conv2D(2, 1, name="marks")(marks))
    model = keras.Model(image, {"kind": kind, "box": box, "mask": mask}, name="shapes")
    model.compile(
        keras.optimizers.Adam(),
        loss={"kind": "sparse_categorical_crossentropy", "box": "huber", "mask": "sparse_categorical_crossentropy"},
        loss_weights={"kind": 1.0, "box": 20.0, "mask": 2.0},
        metrics={"kind": ["accuracy"], "box": ["mae"], "mask": ["accuracy"]},
    )
    return model


def train(data: dict[str, np.ndarray], validation: dict[str, np.ndarray], epochs: int, batch: int) -> keras.Model:
    keras.utils.set_random_seed(7)
    model = build()
    steps = epochs * (len(data["image"]) // batch)
    model.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(
        1e-4, decay_steps=steps - steps // 10, warmup_target=4e-3, warmup_steps=steps // 10
    )
    targets = {name: data[name] for name in ("kind", "box", "mask")}
    held = {name: validation[name] for name in targets}
    for epoch in range(epochs):
        start = time.time()
        model.fit(data["image"], targets, batch_size=batch, verbose=0)
        scores = model.evaluate(validation["image"], held, batch_size=200, verbose=0, return_dict=True)
        told = " ".join(f"{name} {value:.4f}" for name, value in scores.items() if name.endswith(("mae", "accuracy")))
        print(f"epoch {epoch + 1:2d}/{epochs} {told} {time.time() - start:.0f} s", flush=True)
    return model


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--data-only", action="store_true", help="write the .npz files and stop")
    choice = options.parse_args()
    splits = {
        name: pictures(FIT if name == "train" else count, seed) for seed, (name, count) in enumerate(COUNTS.items())
    }
    for name, count in COUNTS.items():
        np.savez_compressed(HERE / f"{name}.npz", **{key: rows[:count] for key, rows in splits[name].items()})
    if choice.data_only:
        return
    model = train(splits["train"], splits["validation"], choice.epochs, choice.batch)
    print(f"parameters {model.count_params()}")
    # A fresh copy says how it is trained, and carries no optimizer slots into the file.
    plain = build()
    plain.set_weights(model.get_weights())
    plain.save(HERE / "shapes.keras")


if __name__ == "__main__":
    main()

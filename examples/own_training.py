"""Pruning in a training of one's own: tf.data, a loss of one's own and three lines of edgeprune. A minute.

Run it from the root of the repository: python examples/own_training.py
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import edgeprune

DATA = Path(__file__).parent.parent / "sample_models" / "fashion"
BATCH, EPOCHS = 64, 5


def dataset(name: str) -> tf.data.Dataset:
    """Images between 0 and 1, and their classes."""
    with np.load(DATA / f"{name}.npz") as file:
        (images,) = (file[key] for key in file.files if key != "y")
        return tf.data.Dataset.from_tensor_slices((images.astype(np.float32) / 255, file["y"])).batch(BATCH)


def network(shape: tuple[int, ...]) -> keras.Model:
    """A small convolutional network."""
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def smoothed(classes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy with a tenth of the label spread over all classes."""
    spread = 0.9 * tf.one_hot(tf.cast(classes, tf.int32), 10) + 0.01
    return tf.nn.softmax_cross_entropy_with_logits(spread, logits)


def main() -> None:
    train, test = dataset("train"), dataset("test")
    steps = len(train) * EPOCHS
    keras.utils.set_random_seed(0)
    model = network(train.element_spec[0].shape[1:])

    optimizer = edgeprune.sparse(keras.optimizers.Adam(2e-3), sparsity=0.8, begin=0, end=int(steps * 0.7))
    model.compile(optimizer, loss=smoothed, metrics=["sparse_categorical_accuracy"])
    logger = edgeprune.SparsityLogger()
    model.fit(train.shuffle(10_000), epochs=EPOCHS, validation_data=test, shuffle=False, callbacks=[logger], verbose=2)
    model = edgeprune.finalize(model)


if __name__ == "__main__":
    main()

"""Write the small .tflite files beside this script: `python tests/files/make_files.py` (needs edgeprune[convert]).

One network, five encodings. Zeros are set by hand, before conversion:

    layer                kernel          elements  zeros
    Conv2D               (3, 3, 2, 8)    144       120, half of them -0.0
    DepthwiseConv2D      (3, 3, 8, 1)    72        0
    Dense                (128, 12)       1536      1350
                                         1752      1470

Biases: 8 of 0.5, 8 of 0.25 and 12 of 0.125 (equal arrays would be merged by the converter).
MACs for the 8x8x2 input: 36*8*18 + 16*8*9 + 128*12 = 7872.

And eligible_sparse.tflite, which XNNPACK runs with sparse kernels: a stem padded by 1, two 1x1 convolutions of
8 * 32 = 256 and 32 * 64 = 2048 weights with 1800 zeros together, a depthwise one of stride 1, a mean over height and
width, and a dense layer of 64 * 4 = 256 weights without zeros; and open_height.tflite, whose input has any height.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent


def sparse_kernel(shape: tuple[int, ...], zeros: int, rng: np.random.Generator) -> np.ndarray:
    """float32 `shape`: `zeros` zeros (every other one negative) at random places, the rest in [0.5, 1)."""
    values = rng.uniform(0.5, 1.0, np.prod(shape)).astype(np.float32)
    places = rng.permutation(values.size)[:zeros]
    values[places[::2]], values[places[1::2]] = 0.0, -0.0
    return values.reshape(shape)


class Net(tf.Module):
    """The network of the module docstring, batch 1."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.conv = tf.constant(sparse_kernel((3, 3, 2, 8), 120, rng))
        self.depthwise = tf.constant(sparse_kernel((3, 3, 8, 1), 0, rng))
        self.dense = tf.constant(sparse_kernel((128, 12), 1350, rng))

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 2), tf.float32, name="image")])
    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.nn.relu(tf.nn.conv2d(image, self.conv, 1, "VALID") + tf.fill([8], 0.5))
        x = tf.nn.relu(tf.nn.depthwise_conv2d(x, self.depthwise, [1, 1, 1, 1], "VALID") + tf.fill([8], 0.25))
        return {"scores": tf.reshape(x, [1, 128]) @ self.dense + tf.fill([12], 0.125)}


class OpenHeight(tf.Module):
    """A convolution on images of any height."""

    def __init__(self) -> None:
        self.kernel = tf.constant(sparse_kernel((3, 3, 2, 4), 0, np.random.default_rng(3)))

    @tf.function(input_signature=[tf.TensorSpec((1, None, 8, 2), tf.float32, name="image")])
    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"map": tf.nn.conv2d(image, self.kernel, 1, "SAME")}


class Eligible(tf.Module):
    """A network that meets every condition of XNNPACK's sparse inference."""

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.stem = tf.constant(sparse_kernel((3, 3, 3, 8), 0, rng))
        self.first = tf.constant(sparse_kernel((1, 1, 8, 32), 0, rng))
        self.depthwise = tf.constant(sparse_kernel((3, 3, 32, 1), 0, rng))
        self.second = tf.constant(sparse_kernel((1, 1, 32, 64), 1800, rng))
        self.dense = tf.constant(sparse_kernel((64, 4), 0, rng))

    @tf.function(input_signature=[tf.TensorSpec((1, 16, 16, 3), tf.float32, name="image")])
    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.nn.conv2d(tf.pad(image, [[0, 0], [1, 1], [1, 1], [0, 0]]), self.stem, 2, "VALID")
        x = tf.nn.relu(tf.nn.conv2d(tf.nn.relu(x), self.first, 1, "VALID"))
        x = tf.nn.relu(tf.nn.depthwise_conv2d(x, self.depthwise, [1, 1, 1, 1], "SAME"))
        x = tf.nn.relu(tf.nn.conv2d(x, self.second, 1, "VALID"))
        return {"scores": tf.reduce_mean(x, [1, 2]) @ self.dense}


def samples() -> Iterator[list[np.ndarray]]:
    """Calibration set: 8 images in [-1, 1)."""
    rng = np.random.default_rng(1)
    for _ in range(8):
        yield [rng.uniform(-1, 1, (1, 8, 8, 2)).astype(np.float32)]


def convert(
    net: Net | Eligible | OpenHeight, *, int8: bool = False, float16: bool = False, sparse: bool = False
) -> bytes:
    """The file's bytes."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([net.__call__.get_concrete_function()], net)
    optimizations = [tf.lite.Optimize.DEFAULT] if int8 or float16 else []
    converter.optimizations = optimizations + ([tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else [])
    if float16:
        converter.target_spec.supported_types = [tf.float16]
    if int8:
        converter.representative_dataset = samples
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    content: bytes = converter.convert()
    return content


if __name__ == "__main__":
    network = Net()
    (FOLDER / "float32.tflite").write_bytes(convert(network))
    (FOLDER / "float16.tflite").write_bytes(convert(network, float16=True))
    (FOLDER / "int8.tflite").write_bytes(convert(network, int8=True))
    (FOLDER / "float32_sparse.tflite").write_bytes(convert(network, sparse=True))
    (FOLDER / "float16_sparse.tflite").write_bytes(convert(network, float16=True, sparse=True))
    (FOLDER / "eligible_sparse.tflite").write_bytes(convert(Eligible(), sparse=True))
    (FOLDER / "open_height.tflite").write_bytes(convert(OpenHeight()))

"""A small network with 80 % zeros in its 1x1 kernels, stored sparse, against the same network stored dense.

Three times: in LiteRT.js with relaxed SIMD, in its build without, and in the interpreter of this host.
The network meets every condition of XNNPACK's sparse kernels (padded by 1, one mean over height and width). Ratios of
CPU time, each with its 95 % interval; target: below 0.75 in WebAssembly. It needs LiteRT.js, which
`python -m edgeprune.checker.wasm.prepare` downloads.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgeprune.checker.latency.measure import compare_latency
from edgeprune.checker.wasm.root import BUILDS, wasm_root
from edgeprune.checker.wasm.timing import timed_in_wasm
from edgeprune.errors import Unsupported

ZEROS = 0.8


def kernel(shape: tuple[int, ...], zeros: float, rng: np.random.Generator) -> np.ndarray:
    """float32 of unit gain, a share of it zero at random places."""
    values = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
    values[rng.random(shape) < zeros] = 0
    return values


def files(folder: Path) -> tuple[Path, Path]:
    """The network stored dense, and stored sparse by TensorFlow."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    stem, depthwise = kernel((3, 3, 3, 32), 0, rng), kernel((3, 3, 128, 1), 0, rng)
    points = [kernel((1, 1, *pair), ZEROS, rng) for pair in ((32, 128), (128, 256), (256, 256))]
    dense = kernel((256, 10), ZEROS, rng)

    @tf.function(input_signature=[tf.TensorSpec((1, 96, 96, 3), tf.float32, name="image")])
    def network(image: tf.Tensor) -> tf.Tensor:
        x = tf.nn.relu(tf.nn.conv2d(tf.pad(image, [[0, 0], [1, 1], [1, 1], [0, 0]]), stem, 2, "VALID"))
        x = tf.nn.relu(tf.nn.conv2d(x, points[0], 1, "VALID"))
        x = tf.nn.relu(tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME"))
        for point in points[1:]:
            x = tf.nn.relu(tf.nn.conv2d(x, point, 1, "VALID"))
        return tf.reduce_mean(x, [1, 2]) @ dense

    made = []
    for name, ways in (("dense", []), ("sparse", [tf.lite.Optimize.EXPERIMENTAL_SPARSITY])):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
        converter.optimizations = ways
        made.append(folder / f"{name}.tflite")
        made[-1].write_bytes(converter.convert())
    return made[0], made[1]


def main() -> None:
    try:
        root = wasm_root()
    except Unsupported as missing:
        print(f"not measured: {missing}")
        return
    with tempfile.TemporaryDirectory() as place:
        dense, sparse = files(Path(place))
        for build in BUILDS:
            times = timed_in_wasm(dense, sparse, root, build, processes=3)
            found, worst = times.compared, max(check.error or 0 for check in times.checks)
            print(
                f"WebAssembly, {build}: {found.ratio:.3f} ({found.low:.3f} to {found.high:.3f}), {found.verdict}; "
                f"outputs within {worst:.1e} of their range"
            )
        host = compare_latency(dense, sparse, processes=3)
        print(f"this host, {host.runtime}: {host.ratio:.3f} ({host.low:.3f} to {host.high:.3f}), {host.verdict}")


if __name__ == "__main__":
    main()

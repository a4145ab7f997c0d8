"""Write the small .mlpackage folders beside this script: `python make_packages.py` (needs edgeprune[convert]).

One Keras network, five encodings. Zeros are set by hand, before conversion:

    layer     kernel          elements  zeros
    Conv2D    (3, 3, 2, 8)    144       108
    Dense     (128, 12)       1536      1344
                              1680      1452

    package            target  weights
    half               iOS16   float16
    palette4           iOS16   tables of 16 values
    sparse_int8        iOS18   a bit mask, and int8 for the rest
    int4               iOS18   int4 in blocks of 32 inputs; the convolution has two and stays int8
    w8a8               iOS17   int8, and int8 activations

Biases: 8 of 0.5 and 12 of 0.125. Values that are not zero are in [0.5, 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
PACKAGES = {
    "half": ("float16", "iOS16"),
    "palette4": ("palette4", "iOS16"),
    "sparse_int8": ("sparse-int8", "iOS18"),
    "int4": ("int4", "iOS18"),
    "w8a8": ("w8a8", "iOS17"),
}


def sparse_kernel(shape: tuple[int, ...], zeros: int, rng: np.random.Generator) -> np.ndarray:
    """float32 `shape`: `zeros` zeros at random places, the rest in [0.5, 1)."""
    values = rng.uniform(0.5, 1.0, np.prod(shape)).astype(np.float32)
    values[rng.permutation(values.size)[:zeros]] = 0.0
    return values.reshape(shape)


def network() -> Any:
    """The network of the module docstring: pictures 6 x 6 of two channels to twelve scores."""
    from edgeprune.maker.keras.models import keras_module

    keras = keras_module()
    image = keras.Input((6, 6, 2), name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    x = keras.layers.Dense(12, name="scores")(keras.layers.Flatten()(x))
    model = keras.Model(image, x, name="tiny")
    rng = np.random.default_rng(0)
    kernels = [sparse_kernel((3, 3, 2, 8), 108, rng), sparse_kernel((128, 12), 1344, rng)]
    model.set_weights([kernels[0], np.full(8, 0.5), kernels[1], np.full(12, 0.125)])
    return model


def main() -> None:
    """Convert and write all five, the sparse one too: so small a model does not gain by it."""
    import math
    import shutil
    import tempfile

    from edgeprune.converters import coreml
    from edgeprune.converters.frozen import freeze
    from edgeprune.converters.packaging import AppOptions

    coreml.LEAST_GAIN = math.inf
    with tempfile.TemporaryDirectory() as scratch:
        pixels = {"image": np.random.default_rng(1).uniform(0.0, 1.0, (8, 6, 6, 2)).astype(np.float32)}
        graph = freeze(network(), Path(scratch) / "graph.pb", unroll=True)
        for name, (precision, target) in PACKAGES.items():
            package = FOLDER / f"{name}.mlpackage"
            shutil.rmtree(package, ignore_errors=True)
            options = AppOptions(target=target, author="edgeprune", license="Apache-2.0", version="1")
            coreml.convert_coreml(graph, package, precision=precision, options=options, calibration=pixels)


if __name__ == "__main__":
    main()

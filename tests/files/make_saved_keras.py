"""Write keras2_saved: a SavedModel folder as `model.save` of Keras 2 leaves it. Needs tf_keras.

python tests/files/make_saved_keras.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOLDER = Path(__file__).parent / "keras2_saved"

if __name__ == "__main__":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import numpy as np
    import tf_keras as keras

    keras.utils.set_random_seed(1)
    image = keras.layers.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(4, 3, use_bias=False, activation="relu", name="conv")(image)
    norm = keras.layers.BatchNormalization(name="norm")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(norm(x))
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax", name="scores")(x), name="images")
    norm.set_weights(list(np.random.default_rng(1).uniform(0.5, 1.5, (4, 4)).astype(np.float32)))
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.save(FOLDER, save_format="tf", include_optimizer=False)
    (FOLDER / "fingerprint.pb").unlink()
    (FOLDER / "assets").rmdir()

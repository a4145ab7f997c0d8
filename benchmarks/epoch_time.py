"""How long an epoch of edgeprune's own training takes beside `model.fit` of the same model, data and batches.

    python benchmarks/epoch_time.py            # the Fashion sample, 1,600 images
    python benchmarks/epoch_time.py --jit      # also model.fit compiled by XLA (minutes to compile)

The ways take turns (A B A B), and the first turn of each, which traces, does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import edgeprune

FASHION = Path(__file__).parent.parent / "sample_models" / "fashion"
SAMPLES, BATCH, TURNS = 1_600, 64, 5


def own_epoch(model, train) -> Callable[[], None]:
    """Batches through the loop of the pipeline."""
    from edgeprune.maker.keras.models import clone, keras_module
    from edgeprune.maker.training.goals import find_task
    from edgeprune.maker.training.loop import batches, compile_model, train_batch

    copy, rng = clone(model), np.random.default_rng(0)
    task = find_task(copy, "accuracy", trains=True)
    compile_model(keras_module(), copy, task, edgeprune.TrainOptions(epochs=1, batch_size=BATCH), SAMPLES // BATCH)

    def epoch() -> None:
        for step, rows in enumerate(batches(len(train), BATCH, rng)):
            train_batch(copy, train, task, rows, step)

    return epoch


def keras_epoch(model, train, *, steps: int, jit: bool) -> Callable[[], None]:
    """`model.fit` on a tf.data pipeline that is shuffled, batched and prefetched."""
    import keras
    import tensorflow as tf

    from edgeprune.maker.keras.models import clone

    copy, (name,), (targets,) = clone(model), train.inputs, train.targets.values()
    loss = keras.losses.SparseCategoricalCrossentropy()
    copy.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=jit, steps_per_execution=steps)
    rows = tf.data.Dataset.from_tensor_slices((np.asarray(train.inputs[name], np.float32), targets))
    batches = rows.shuffle(len(train)).batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return lambda: copy.fit(batches, epochs=1, verbose=0)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jit", action="store_true", help="model.fit compiled by XLA too")
    model = edgeprune.load_model(FASHION / "fashion.keras")
    train = edgeprune.load_samples(FASHION / "train.npz", model, metric="accuracy").rows(np.arange(SAMPLES))
    ways = {"edgeprune": own_epoch(model, train)}
    for steps, jit in ((1, False), (8, False), *(((8, True),) if options.parse_args().jit else ())):
        ways[f"fit, {steps} steps a call{', XLA' if jit else ''}"] = keras_epoch(model, train, steps=steps, jit=jit)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, epoch in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            epoch()
            if turn:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"an epoch of {SAMPLES:,} images in batches of {BATCH}, median of {TURNS} turns")
    for name, times in taken.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [
            statistics.median(own[k] / other[k] for own, other in zip(taken["edgeprune"], times, strict=True))
            for k in (0, 1)
        ]
        told = (
            ""
            if name == "edgeprune"
            else f", edgeprune takes {ratios[0]:.3f} of its wall and {ratios[1]:.3f} of its CPU time"
        )
        print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU{told}")


if __name__ == "__main__":
    main()

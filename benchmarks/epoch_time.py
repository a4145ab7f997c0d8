"""How long an epoch of edgeprune's own training takes beside `model.fit` of the same model, data and batches.

    python benchmarks/epoch_time.py            # the Fashion sample, 1,600 images
    python benchmarks/epoch_time.py --jit      # also model.fit compiled by XLA (minutes to compile)
    python benchmarks/epoch_time.py --distill  # what a channel step trains: half the MACs, taught by the whole model,
                                               # beside a loop written by hand with all that makes one fast, and with
                                               # answers asked once, as for samples that are not varied

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
SAMPLES, BATCH, TURNS, SHARE = 1_600, 64, 5, 0.9


def own_epoch(model, train, teacher=None, *, once=False) -> Callable[[], None]:
    """Batches through the loop of the pipeline, with `teacher` distilled, who is asked `once`."""
    from edgeprune.maker.keras.models import clone, keras_module
    from edgeprune.maker.training.distiller import distilled
    from edgeprune.maker.training.goals import find_task
    from edgeprune.maker.training.loop import batches, compile_model, train_batch
    from edgeprune.maker.training.teacher_answers import TeacherAnswers

    copy, rng = clone(model), np.random.default_rng(0)
    task = find_task(copy, "accuracy", trains=True)
    options = edgeprune.TrainOptions(epochs=1, batch_size=BATCH)
    if teacher is not None:
        copy = distilled(copy, teacher, share=SHARE, temperature=options.temperature, kinds="classes")
    compile_model(keras_module(), copy, task, options, SAMPLES // BATCH)
    known = TeacherAnswers.of(copy, train, BATCH) if once else None

    def epoch() -> None:
        for step, rows in enumerate(batches(len(train), BATCH, rng)):
            train_batch(copy, train, task, rows, step, known=known)

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


def hand_epoch(model, train, teacher) -> Callable[[], None]:
    """One traced step on arrays in memory: fused batch normalization, the teacher's answers within the step, Adam."""
    import keras
    import tensorflow as tf

    from edgeprune.maker.keras.models import clone
    from edgeprune.maker.training.fused_norms import fused_norms

    copy, rng, optimizer = clone(model), np.random.default_rng(0), keras.optimizers.Adam(1e-3)
    optimizer.build(copy.trainable_variables)
    ((name,), (targets,)), warm = (train.inputs, train.targets.values()), edgeprune.TrainOptions(epochs=1).temperature
    images, labels = np.asarray(train.inputs[name], np.float32), np.asarray(targets)

    @tf.function(jit_compile=False)
    def step(x, y):
        answers = tf.nn.softmax(tf.math.log(teacher(x, training=False) + 1e-7) / warm)
        with tf.GradientTape() as tape:
            made = copy(x, training=True)
            logs = tf.nn.log_softmax(tf.math.log(made + 1e-7) / warm)
            taught = -tf.reduce_mean(tf.reduce_sum(answers * logs, -1)) * warm**2
            told = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, made))
            loss = SHARE * taught + (1 - SHARE) * told
        variables = copy.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    def epoch() -> None:
        order = rng.permutation(len(images))
        with fused_norms(keras):
            for start in range(0, len(images) - BATCH + 1, BATCH):
                rows = order[start : start + BATCH]
                float(step(tf.constant(images[rows]), tf.constant(labels[rows])))

    return epoch


def distilled_ways(model, train) -> dict[str, Callable[[], None]]:
    half = edgeprune.prune_channels(model, edgeprune.ChannelOptions(macs=0.5), verify=False).model
    return {
        "edgeprune": own_epoch(half, train, model),
        "by hand": hand_epoch(half, train, model),
        "answers asked once": own_epoch(half, train, model, once=True),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--jit", action="store_true", help="model.fit compiled by XLA too")
    options.add_argument("--distill", action="store_true", help="a channel step beside a loop written by hand")
    asked = options.parse_args()
    model = edgeprune.load_model(FASHION / "fashion.keras")
    train = edgeprune.load_samples(FASHION / "train.npz", model, metric="accuracy").rows(np.arange(SAMPLES))
    ways = distilled_ways(model, train) if asked.distill else {"edgeprune": own_epoch(model, train)}
    for steps, jit in () if asked.distill else ((1, False), (8, False), *(((8, True),) if asked.jit else ())):
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

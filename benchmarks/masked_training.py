"""What holding masks costs a training step: the same model with and without them, A B A B in one process.

Prints CPU time and wall time for each step, and their ratio (with masks / plain). Target: CPU ratio at most 1.05.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from edgeprune.maker.keras.models import clone, keras_module
from edgeprune.maker.pruning.magnitude import apply_masks, masks_for, select_targets
from edgeprune.maker.pruning.masked_training import held
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.training.data.loading import Samples
from edgeprune.maker.training.loop import compile_model, make_deterministic, train_batch
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.options import TrainOptions

ROUNDS, STEPS, BATCH = 6, 12, 16


def measured(model: object, samples: Samples) -> tuple[float, float]:
    """CPU and wall milliseconds a step over STEPS steps."""
    rows = np.arange(BATCH)
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(STEPS):
        train_batch(model, samples, rows, step)
    return (time.process_time() - cpu) * 1e3 / STEPS, (time.perf_counter() - wall) * 1e3 / STEPS


def main() -> None:
    keras = keras_module()
    make_deterministic(keras, 0)
    rng = np.random.default_rng(0)
    plain = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)
    masked = clone(plain)
    (name,) = [t.name for t in plain.inputs]
    samples = Samples(
        path=None,  # type: ignore[arg-type]
        inputs={name: rng.random((BATCH, 96, 96, 3), np.float32)},
        targets=rng.integers(0, 10, BATCH),
    )
    options = TrainOptions(epochs=1, learning_rate=1e-4, decay="constant")
    targets, _ = select_targets(masked, MagnitudeOptions(sparsity=0.8))
    masks = masks_for({t.key: np.asarray(t.variable) for t in targets}, 0.8, "layer")
    apply_masks(targets, masks)
    with held(targets, masks):
        for model in (plain, masked):
            compile_model(keras, model, METRICS["accuracy"], options, 1)
            measured(model, samples)  # traces and warms up
        results = [(measured(plain, samples), measured(masked, samples)) for _ in range(ROUNDS)]
    zeros = [1 - np.count_nonzero(np.asarray(t.variable)) / np.asarray(t.variable).size for t in targets]
    for what, index in (("CPU", 0), ("wall", 1)):
        a = statistics.median(r[0][index] for r in results)
        b = statistics.median(r[1][index] for r in results)
        ratio = statistics.median(r[1][index] / r[0][index] for r in results)
        print(
            f"{what:4s} ms a step: plain {a:.1f}, with masks {b:.1f}, ratio {ratio:.3f} (median of {ROUNDS} A B pairs)"
        )
    print(f"sparsity after training: {min(zeros):.4f} to {max(zeros):.4f}")


if __name__ == "__main__":
    main()

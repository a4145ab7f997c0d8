"""What pruning costs a training step: the same model trained plainly, while zeros are held, and while the masks are
renewed every 10 steps, in turns in one process.

Prints CPU time and wall time for each step, and the ratio to plain training. Target: CPU ratio at most 1.05.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import numpy as np

from edgeprune.maker.keras.models import clone, input_specs, keras_module
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.pruning.schedule import PolynomialDecay
from edgeprune.maker.pruning.sparse_masks import HOLD, SparsePlan
from edgeprune.maker.pruning.sparse_optimizer import make_sparse, masks_of
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.loop import compile_model, make_deterministic, train_batch
from edgeprune.maker.training.options import TrainOptions
from edgeprune.maker.training.task import Task

ROUNDS, STEPS, BATCH = 3, 10, 64  # the usual batch, a renewal in each turn; of 16 samples it costs 1.06


def measured(model: object, samples: Samples, task: Task) -> tuple[float, float]:
    """CPU and wall milliseconds a step over STEPS steps."""
    rows = np.arange(BATCH)
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(STEPS):
        train_batch(model, samples, task, rows, step)
    return (time.process_time() - cpu) * 1e3 / STEPS, (time.perf_counter() - wall) * 1e3 / STEPS


def compared(dense: object, samples: Samples) -> None:
    """Plain training, held zeros and renewed masks in turns."""
    keras = keras_module()
    decay = PolynomialDecay(final_sparsity=0.8, end_step=10_000, frequency=10)
    plans = {"plain": None, "held": HOLD, "renewed": SparsePlan(options=MagnitudeOptions(sparsity=0.8), schedule=decay)}
    models = {name: clone(dense) for name in plans}
    tasks = {name: find_task(model, "accuracy", trains=True) for name, model in models.items()}
    options = TrainOptions(epochs=1, learning_rate=1e-4, decay="constant")
    for name, plan in plans.items():
        model = models[name]
        compile_model(keras, model, tasks[name], options, 1, sparsify=plan and partial(make_sparse, plan=plan))
        measured(model, samples, tasks[name])  # traces and warms up
    rounds = [{name: measured(model, samples, tasks[name]) for name, model in models.items()} for _ in range(ROUNDS)]
    for name in list(plans)[1:]:
        for what, index in (("CPU", 0), ("wall", 1)):
            a, b = (statistics.median(turn[each][index] for turn in rounds) for each in ("plain", name))
            ratio = statistics.median(turn[name][index] / turn["plain"][index] for turn in rounds)
            print(f"{what:4s} ms a step: plain {a:.1f}, {name} {b:.1f}, ratio {ratio:.3f} (median of {ROUNDS} pairs)")
    targets = masks_of(models["renewed"].optimizer).targets
    zeros = [1 - np.count_nonzero(np.asarray(t.variable)) / np.asarray(t.variable).size for t in targets]
    print(f"sparsity after training: {min(zeros):.4f} to {max(zeros):.4f}")


def main() -> None:
    keras = keras_module()
    make_deterministic(keras, 0)
    rng = np.random.default_rng(0)
    dense = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)
    (name,) = input_specs(dense)
    samples = Samples(
        path=None,  # type: ignore[arg-type]
        inputs={name: rng.random((BATCH, 96, 96, 3), np.float32)},
        targets=rng.integers(0, 10, BATCH),
    )
    compared(dense, samples)


if __name__ == "__main__":
    main()

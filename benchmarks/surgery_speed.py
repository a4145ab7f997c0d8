"""CPU time of channel pruning (tracing, planning, surgery) against keras.models.clone_model, A B A B in one process.

Target: a ratio of at most 2 on MobileNetV2 and ResNet50.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.pruning.channel.pruner import prune_channels
from edgeprune.maker.pruning.options import ChannelOptions

ROUNDS = 4


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    keras = keras_module()
    options = ChannelOptions(ratio=0.3, importance="l2")
    for name in ("MobileNetV2", "ResNet50"):
        model = getattr(keras.applications, name)(input_shape=(96, 96, 3), weights=None)
        pairs = []
        for _ in range(ROUNDS + 1):
            ours = seconds(lambda m=model: prune_channels(m, options, verify=False))
            theirs = seconds(lambda m=model: keras.models.clone_model(m))
            pairs.append((ours, theirs))
        pairs = pairs[1:]  # the first call of each also loads code
        for what, index in (("CPU", 0), ("wall", 1)):
            a, b = (statistics.median(p[side][index] for p in pairs) for side in (0, 1))
            ratio = statistics.median(p[0][index] / p[1][index] for p in pairs)
            print(f"{name:12s} {what:4s} s: prune {a:.2f}, clone_model {b:.2f}, ratio {ratio:.2f} (median of {ROUNDS})")


if __name__ == "__main__":
    main()

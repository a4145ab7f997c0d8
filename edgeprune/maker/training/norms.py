"""Statistics of batch normalization estimated again: those of the weights as they are now, over training samples.

Pruning changes what a BatchNormalization reads, and moving averages lag behind a short training. Mean and variance over
all samples follow exactly from those of the batches (Wu and Johnson, Rethinking "Batch" in BatchNorm,
arXiv:2105.07576, section 3: precise statistics).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.maker.keras.backends import conversions, on_tensorflow
from edgeprune.maker.keras.layouts import computed_channels_last
from edgeprune.maker.keras.models import as_called, batch_of, keras_module, leaf_layers
from edgeprune.maker.keras.types import Model
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.frozen import thawed
from edgeprune.maker.training.fused_norms import fused_norms

__all__ = ["NormStatistics"]

Floats = npt.NDArray[np.float64]

SAMPLES, BATCH = 2048, 64  # of the training split


class NormStatistics:
    """Estimates the statistics of one model anew, again and again while its weights change; traced once.

    Layers that are frozen (trainable=False) count too: what they read may have been pruned. A model without batch
    normalization is left alone.
    """

    def __init__(self, model: Model, samples: Samples, *, seed: int) -> None:
        self.model = model
        self.layers = [leaf.layer for leaf in leaf_layers(model) if type(leaf.layer).__name__ == "BatchNormalization"]
        self._samples = samples
        self._order = np.random.default_rng(seed).permutation(len(samples))[:SAMPLES]
        self._step: Any = None

    def renew(self) -> None:
        """Estimate them, in place; everything else that the model keeps stays."""
        batches = max(1, len(self._order) // BATCH)
        if not self.layers:
            return
        sums: list[tuple[Floats, Floats]] = [(np.zeros(()), np.zeros(())) for _ in self.layers]
        before = [np.asarray(weight) for weight in self.model.non_trainable_variables]
        keras = keras_module(any_backend=True)
        layout, fused = computed_channels_last(keras, self.model), fused_norms(keras)
        with thawed(self.model), _last_batch_only(self.layers), layout, fused:
            for number in range(batches):
                self._run(self._order[number * BATCH : (number + 1) * BATCH])
                for place, layer in enumerate(self.layers):
                    mean, variance = (np.asarray(v, np.float64) for v in (layer.moving_mean, layer.moving_variance))
                    sums[place] = (sums[place][0] + mean, sums[place][1] + variance + mean**2)
        for weight, old in zip(self.model.non_trainable_variables, before, strict=True):
            weight.assign(old)
        for layer, (first, second) in zip(self.layers, sums, strict=True):
            mean = first / batches
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(np.maximum(second / batches - mean**2, 0))

    def _run(self, rows: npt.NDArray[np.int64]) -> None:
        constant, _ = conversions()
        if self._step is None:
            self._step = self._made_step()
        self._step(*map(constant, batch_of(self.model, self._samples.inputs, rows)))

    def _made_step(self) -> Any:
        def step(*tensors: Any) -> None:
            self.model(as_called(self.model, tensors), training=True)

        if not on_tensorflow():
            return step
        import tensorflow as tf

        return tf.function(step, autograph=False, reduce_retracing=True)


@contextlib.contextmanager
def _last_batch_only(layers: list[Any]) -> Iterator[None]:
    """While this is open, the statistics that are kept are those of the last batch."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

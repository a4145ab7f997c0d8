"""Distillation: the dense model's answers stand beside the labels as targets (Hinton et al. 2015, arXiv:1503.02531).

At temperature 1 the two losses of the paper are one: cross-entropy against (1 - share) * label + share * answer. For
regression the same mixture is the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeprune.keras_models import call_model, ends_in
from edgeprune.metrics import Metric

__all__ = ["Teacher"]


class Teacher:
    """Answers of a model that is not trained, mixed into the targets of a batch."""

    def __init__(self, model: Any, metric: Metric, share: float) -> None:
        import tensorflow as tf

        self._share = share
        self._classes = model.outputs[0].shape[-1] if metric.loss == "sparse_categorical_crossentropy" else None

        def answer(*tensors: Any) -> Any:
            made = call_model(model, tensors)[0]
            if metric.loss == "sparse_categorical_crossentropy" and not ends_in(model, "softmax"):
                return tf.nn.softmax(made)
            if metric.loss == "binary_crossentropy" and not ends_in(model, "sigmoid"):
                return tf.sigmoid(made)
            return made

        self._answer = tf.function(answer, reduce_retracing=True)

    def __call__(self, inputs: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
        """Targets float32 in the shape of the model's output; class indexes become one row of shares each."""
        answers: np.ndarray = self._answer(*inputs).numpy()
        if self._classes is not None:
            targets = np.eye(self._classes, dtype=np.float32)[targets.reshape(answers.shape[:-1]).astype(np.int64)]
        return ((1 - self._share) * targets.reshape(answers.shape) + self._share * answers).astype(np.float32)

"""Distillation: the dense model's answers stand beside the labels (Hinton et al. 2015, arXiv:1503.02531).

For classes, loss = (1 - share) * H(label, p) + share * T^2 * H(answer at T, p at T), where H is cross-entropy and "at
T" divides the logits by the temperature: a warm answer also tells which wrong classes are nearly right. A single
probability is taken as two classes. For regression the target is (1 - share) * label + share * answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.errors import UsageError
from edgeprune.maker.keras.models import call_model, ends_in
from edgeprune.maker.keras.types import Model, Tensor
from edgeprune.maker.training.task import Task

__all__ = ["Distillation"]

TINY = 1e-7  # what Keras clips probabilities to


class Distillation:
    """A teacher for a model that is trained: `targets` of a batch, and the `loss` to compile the model with."""

    def __init__(self, teacher: Model, student: Model, task: Task, *, share: float, temperature: float) -> None:
        import tensorflow as tf

        self._share, self._temperature = share, temperature
        self._kind = str(getattr(task.losses[0].function, "name", ""))
        self.sorts = self._kind.endswith("crossentropy")
        if len(student.outputs) != 1 or (self._kind == "binary_crossentropy" and student.outputs[0].shape[-1] != 1):
            raise UsageError("distill teaches one output of classes or numbers, not several labels; leave it out")
        self._student_gives_shares = ends_in(student, "softmax") or ends_in(student, "sigmoid")
        gives_shares = ends_in(teacher, "softmax") or ends_in(teacher, "sigmoid")

        def answer(*tensors: Tensor) -> Tensor:
            made = call_model(teacher, tensors)[0]
            return tf.nn.softmax(self._logits(made, gives_shares) / temperature) if self.sorts else made

        self._answer = tf.function(answer, autograph=False, reduce_retracing=True)

    def _logits(self, outputs: Tensor, are_shares: bool) -> Tensor:
        """Outputs [..., classes] or [..., 1] as logits of at least two classes."""
        import tensorflow as tf

        if self._kind == "binary_crossentropy":
            logit = tf.math.log(outputs + TINY) - tf.math.log(1 - outputs + TINY) if are_shares else outputs
            return tf.concat([tf.zeros_like(logit), logit], -1)
        return tf.math.log(outputs + TINY) if are_shares else outputs

    def targets(self, inputs: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
        """float32 [batch, ..., 2 * classes]: the labels as shares, then the warm answers; for regression the mixture
        in the shape of the output."""
        answers: np.ndarray = self._answer(*inputs).numpy()
        if not self.sorts:
            return ((1 - self._share) * labels.reshape(answers.shape) + self._share * answers).astype(np.float32)
        shares = np.eye(answers.shape[-1], dtype=np.float32)[labels.reshape(answers.shape[:-1]).astype(np.int64)]
        return np.concatenate([shares, answers.astype(np.float32)], -1)

    def loss(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """The loss of each sample, for `model.compile`; `targets` as made above. Regression keeps its own loss."""
        import tensorflow as tf

        logits = self._logits(outputs, self._student_gives_shares)
        labels, answers = tf.split(tf.cast(targets, logits.dtype), 2, -1)
        hard = -tf.reduce_sum(labels * tf.nn.log_softmax(logits), -1)
        warm = -tf.reduce_sum(answers * tf.nn.log_softmax(logits / self._temperature), -1)
        return (1 - self._share) * hard + self._share * self._temperature**2 * warm

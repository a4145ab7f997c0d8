"""What a teacher answers to samples that every epoch shows as they are, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeprune.maker.keras.layouts import computed_channels_last
from edgeprune.maker.keras.models import as_called, batch_of, filled_rows, keras_module
from edgeprune.maker.keras.types import Model
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.distiller import Distiller
from edgeprune.maker.training.fused_norms import fused_norms

__all__ = ["TeacherAnswers"]

MOST_BYTES = 256 * 2**20  # of all answers and features: a teacher of large pictures is asked anew in each step


class TeacherAnswers:
    """Outputs and features of a Distiller's teacher for each training sample, float [samples, ...]."""

    def __init__(self, table: Any) -> None:
        self._table = table

    @classmethod
    def of(
        cls, trainee: Model, samples: Samples, batch_size: int, on_batch: Callable[[], None] = lambda: None
    ) -> TeacherAnswers | None:
        """Those of all samples, asked in batches; None where they take more than MOST_BYTES or nobody teaches."""
        if not isinstance(trainee, Distiller):
            return None
        keras, pieces = keras_module(), list[Any]()
        ask, size = _asked(trainee), min(batch_size, len(samples))
        for start in range(0, len(samples), size):
            count = min(size, len(samples) - start)
            rows = filled_rows(start, size, len(samples))  # a trace, and a model, may have one size
            made = ask(as_called(trainee.student, batch_of(trainee.student, samples.inputs, rows)))
            on_batch()
            pieces.append(keras.tree.map_structure(lambda each, count=count: np.asarray(each)[:count], made))
            if start == 0 and _bytes_of(keras, pieces[0]) / count * len(samples) > MOST_BYTES:
                return None
        return cls(keras.tree.map_structure(lambda *parts: np.concatenate(parts), *pieces))

    def rows(self, indices: np.ndarray) -> Any:
        """The answers to some samples, as the teacher gives them."""
        return keras_module().tree.map_structure(lambda each: each[indices], self._table)


def _asked(trainee: Distiller) -> Any:
    """The teacher as one function of a batch, traced once."""
    import tensorflow as tf

    keras, traced = keras_module(), tf.function(trainee.answers, autograph=False, reduce_retracing=True)

    def ask(inputs: Any) -> Any:
        with computed_channels_last(keras, trainee.teacher), fused_norms(keras):
            return traced(keras.tree.map_structure(tf.constant, inputs))

    return ask


def _bytes_of(keras: Any, made: Any) -> int:
    return sum(each.nbytes for each in keras.tree.flatten(made))

"""A smaller dense model that takes the place of the pruned one and learns from it: [student] in a recipe.

Whether a sparse teacher teaches better than the dense one is a question to measure: docs/training.md has figures.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import UsageError
from edgeprune.ledger import StudentReport
from edgeprune.maker.keras.models import (
    count_parameters,
    input_specs,
    keras_module,
    leaf_layers,
    output_shapes,
    refresh,
    unlocked,
)
from edgeprune.maker.keras.types import Layer, Model
from edgeprune.maker.pruning.channel.pruner import ChannelPruner
from edgeprune.maker.pruning.options import ChannelOptions

__all__ = ["StudentSpec", "check_alike", "fresh", "narrower", "student_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSpec:
    """[student]: a smaller dense model. It takes the model's place at the first finetune step that names a teacher, and
    that step trains it; `width` or `model`."""

    width: float | None = None
    """Its channels as a share of the model's, above 0 and at most 1, in widths that are multiples of 8; it starts with
    fresh weights."""
    model: Path | None = None
    """A `.keras` or `.h5` file with the same inputs and outputs; it starts with the weights there."""

    def __post_init__(self) -> None:
        if (self.width is None) == (self.model is None):
            raise UsageError('takes one of width = 0.5 and model = "small.keras"')
        if self.width is not None and not 0 < self.width <= 1:
            raise UsageError(f"width is a share of the channels, above 0 and at most 1; got {self.width:g}")


def narrower(model: Model, width: float, *, seed: int = 0) -> Model:
    """A model of the same topology with this share of the channels and fresh weights; the argument is left alone.

    Channels go by the dependency groups of channel pruning, so any model works whose channels can be removed. Raises
    Unsupported for others.
    """
    options = ChannelOptions(ratio=1 - width, importance="l1", compensate="none", through_norms=True, seed=seed)
    pruner = ChannelPruner(model, options)
    return fresh(pruner.cut(pruner.plan(options)), seed=seed)


def fresh(model: Model, *, seed: int = 0) -> Model:
    """A copy whose weights its layers' initializers draw anew; frozen layers, and those that hold statistics of the
    data (Normalization), keep theirs. Layers whose initializer has a seed of its own draw by that."""
    keras = keras_module()
    keras.utils.set_random_seed(seed)
    with unlocked(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Model = keras.models.clone_model(model)
    if not made.built:
        made.build(model.input_shape)
    for old, new in zip(leaf_layers(model), leaf_layers(made), strict=True):
        if _stays(old.layer):
            new.layer.set_weights(old.layer.get_weights())
    refresh(made)
    return made


def _stays(layer: Layer) -> bool:
    """Whether what a layer holds is not learned by this training."""
    return bool(layer.weights) and (not layer.trainable or hasattr(layer, "adapt"))


def check_alike(model: Model, other: Model, what: str) -> None:
    """Raise UsageError for a model whose inputs or outputs are others than those of the recipe's model."""
    for name, of in (("inputs", input_specs), ("outputs", output_shapes)):
        wanted, got = of(model), of(other)
        if wanted != got:
            raise UsageError(f"{what} has the {name} {got}, and those of the recipe's model are {wanted}")


def student_report(asked: StudentSpec, model: Model, student: Model) -> StudentReport:
    """What was asked of a student, and what it is."""
    return StudentReport(
        width=asked.width,
        model=asked.model.name if asked.model else None,
        parameters_before=count_parameters(model),
        parameters_after=count_parameters(student),
    )

"""What a student is taught by: losses between its outputs, or features, and its teacher's. On any backend of Keras.

Classes and labels are taught at a temperature (Hinton et al. 2015, arXiv:1503.02531): loss = T^2 * H(answer at T, p at
T), where H is cross-entropy and "at T" divides logits by the temperature. Probabilities are turned into logits first;
each label is two classes of its own. Numbers are taught as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.errors import UsageError
from edgeprune.host.toml_values import near
from edgeprune.maker.keras.compiled import leaves
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import Config, Model, Tensor
from edgeprune.maker.training.metrics import Targets

__all__ = [
    "LOSSES",
    "DistillationLoss",
    "FeatureDistillation",
    "Head",
    "LogitsDistillation",
    "by_output",
    "kind_of_loss",
    "logits_of",
]

TINY = 1e-7  # what Keras clips probabilities to
RELATIVE = ("kl_divergence", "kullback_leibler_divergence", "kld")  # cross-entropy less what the teacher itself has
LOSSES = {
    Targets.CLASSES: "categorical_crossentropy",
    Targets.LABELS: "binary_crossentropy",
    Targets.NUMBERS: "mean_squared_error",
}
"""The loss that teaches each kind of output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """An output of teacher and student: what it is, if that is known, and who gives probabilities there."""

    name: str
    kind: Targets | None
    teacher_gives_shares: bool = False
    student_gives_shares: bool = False


class DistillationLoss:
    """What a student is taught by; subclass it and write `compute_loss`.

    With layer names it is given the outputs of these layers, otherwise those of the models.
    """

    teacher_layer_name: str | None = None
    student_layer_name: str | None = None

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **more: Any) -> Tensor:
        """The loss of a batch, one number. `more` has `sample_weight` (None, or as given to `fit`) and `heads`."""
        raise NotImplementedError(f"{type(self).__name__} needs a method compute_loss(teacher_outputs, ...)")

    def validate_model_compatibility(self, teacher: Model, student: Model) -> None:
        """Raise UsageError for models that this loss is not for."""

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """The loss that `get_config` wrote."""
        return cls(**{**config, **({"loss": _loaded(config["loss"])} if "loss" in config else {})})


class LogitsDistillation(DistillationLoss):
    """The student's outputs against the teacher's, at a temperature where they are classes or labels.

    `loss` is one for all outputs, or a list or dict of them; None for an output that is not taught. "kl_divergence"
    takes each output for what its loss and its last layer say; "categorical_crossentropy" says that it is classes,
    "binary_crossentropy" labels, and any other loss of Keras numbers.
    """

    def __init__(self, temperature: float = 3.0, loss: Any = "kl_divergence") -> None:
        if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
            raise UsageError(f"temperature is a number above 0; got {temperature!r}")
        _check_losses(loss)
        self.temperature, self.loss = temperature, loss

    def taught(self, heads: Sequence[Head]) -> list[tuple[Targets, Any] | None]:
        """For each output what it is taken for and its loss; None for one that is not taught. Raises UsageError."""
        losses = by_output(self.loss, [head.name for head in heads], "the loss of LogitsDistillation")
        return [None if loss is None else _chosen(head, loss) for head, loss in zip(heads, losses, strict=True)]

    def compute_loss(
        self,
        teacher_outputs: Any,
        student_outputs: Any,
        *,
        heads: Sequence[Head] = (),
        sample_weight: Any = None,
        **more: Any,  # noqa: ARG002
    ) -> Tensor:
        """The sum over the outputs; without `heads` they are taken for the logits of classes."""
        keras = keras_module(any_backend=True)
        answers, outputs = keras.tree.flatten(teacher_outputs), keras.tree.flatten(student_outputs)
        heads = heads or [Head(name=f"output_{n}", kind=Targets.CLASSES) for n in range(len(outputs))]
        weights = by_output(sample_weight, [head.name for head in heads], "sample_weight")
        total = keras.ops.zeros(())
        for head, taught, answer, output, weight in zip(
            heads, self.taught(heads), answers, outputs, weights, strict=True
        ):
            if taught is not None:
                loss = weighted(keras, self._values(keras, head, *taught))
                total = total + loss(answer, output, sample_weight=weight)
        return total

    def _values(self, keras: ModuleType, head: Head, kind: Targets, loss: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """(answers, outputs) -> the loss of each sample or place."""
        if kind is Targets.NUMBERS:
            return _of_keras(keras, LOSSES[kind] if _name_of(loss) in RELATIVE else loss)
        between = _between_classes if kind is Targets.CLASSES else _between_labels

        def values(answers: Tensor, outputs: Tensor) -> Tensor:
            warm = logits_of(keras, answers, kind, are_shares=head.teacher_gives_shares) / self.temperature
            own = logits_of(keras, outputs, kind, are_shares=head.student_gives_shares) / self.temperature
            made = between(keras, warm, own)
            return self.temperature**2 * (made - between(keras, warm, warm) if _name_of(loss) in RELATIVE else made)

        return values

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        return {"temperature": self.temperature, "loss": _stored(self.loss)}


class FeatureDistillation(DistillationLoss):
    """What a layer of the student makes against what a layer of the teacher makes, of the same shape.

    `loss` is a loss of Keras; without layer names it is for the outputs, one for all or a list or dict of them.
    `teacher_channels` are those of the teacher's last axis that the student still has, int [channels], where channels
    were removed. With `relative` both are divided by the spread of what the teacher makes in a batch.
    """

    def __init__(
        self,
        loss: Any = "mse",
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        *,
        teacher_channels: Sequence[int] | None = None,
        relative: bool = False,
    ) -> None:
        _check_losses(loss)
        if (teacher_layer_name is None) != (student_layer_name is None):
            raise UsageError(
                "FeatureDistillation needs the names of two layers: teacher_layer_name, student_layer_name"
            )
        if teacher_channels is not None and teacher_layer_name is None:
            raise UsageError("teacher_channels are those of a layer: name it with teacher_layer_name")
        self.loss, self.teacher_layer_name, self.student_layer_name = loss, teacher_layer_name, student_layer_name
        self.teacher_channels = None if teacher_channels is None else [int(place) for place in teacher_channels]
        self.relative = relative

    def validate_model_compatibility(self, teacher: Model, student: Model) -> None:
        """Raise UsageError where there is no such layer, or the shapes differ."""
        if self.teacher_layer_name is None or self.student_layer_name is None:
            return
        shapes = [
            _feature_shapes(model, name, whose)
            for model, name, whose in (
                (teacher, self.teacher_layer_name, "teacher"),
                (student, self.student_layer_name, "student"),
            )
        ]
        chosen = shapes[0]
        if self.teacher_channels is not None:
            if any(not 0 <= place < (shape[-1] or 0) for shape in chosen for place in self.teacher_channels):
                raise UsageError(
                    f"layer {self.teacher_layer_name!r} of the teacher makes {shapes[0]}: teacher_channels name others"
                )
            chosen = [(*shape[:-1], len(self.teacher_channels)) for shape in chosen]
        if chosen != shapes[1]:
            raise UsageError(
                f"layer {self.teacher_layer_name!r} of the teacher makes {shapes[0]}, layer "
                f"{self.student_layer_name!r} of the student {shapes[1]}: name layers of equal shapes (say which "
                "channels were left with teacher_channels, or give the student a layer that makes as many)"
            )

    def compute_loss(
        self,
        teacher_outputs: Any,
        student_outputs: Any,
        *,
        heads: Sequence[Head] = (),
        sample_weight: Any = None,
        **more: Any,  # noqa: ARG002
    ) -> Tensor:
        """The sum over the features. Weights of samples that differ from output to output are not for layers."""
        keras = keras_module(any_backend=True)
        answers, outputs = keras.tree.flatten(teacher_outputs), keras.tree.flatten(student_outputs)
        whole = self.teacher_layer_name is None
        names = [head.name for head in heads] if whole and heads else [f"output_{n}" for n in range(len(outputs))]
        if not whole and isinstance(sample_weight, Mapping | list | tuple):
            sample_weight = None
        weights = by_output(sample_weight, names, "sample_weight")
        losses = by_output(self.loss, names, "the loss of FeatureDistillation")
        total = keras.ops.zeros(())
        for loss, answer, output, weight in zip(losses, answers, outputs, weights, strict=True):
            if loss is not None:
                ends = self._compared(keras, answer, output)
                total = total + weighted(keras, _of_keras(keras, loss))(*ends, sample_weight=weight)
        return total

    def _compared(self, keras: ModuleType, answer: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """(The teacher's, the student's), as they are compared."""
        if self.teacher_channels is not None:
            # By a matrix of zeros and ones: picking columns one by one takes five times as long.
            chosen = np.eye(answer.shape[-1] or 0, dtype=np.float32)[:, self.teacher_channels]
            answer = keras.ops.tensordot(answer, keras.ops.cast(chosen, answer.dtype), axes=1)
        if not self.relative:
            return answer, output
        scale = 1 / keras.ops.sqrt(keras.ops.var(answer) + TINY)
        return answer * scale, output * scale

    def get_config(self) -> Config:
        """The arguments of the constructor."""
        names = {"teacher_layer_name": self.teacher_layer_name, "student_layer_name": self.student_layer_name}
        more = {"teacher_channels": self.teacher_channels, "relative": self.relative}
        return {"loss": _stored(self.loss), **names, **more}


def by_output(value: Any, names: Sequence[str], what: str) -> list[Any]:
    """One thing for each output, of one for all, a list (nested as the outputs are), or a dict by their names. Raises
    UsageError."""
    if isinstance(value, Mapping):
        for name in value:
            if name not in names:
                raise UsageError(f"{what} names an output {name!r} that there is not{near(str(name), names)}")
        return [value.get(name) for name in names]
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, Mapping | list | tuple) for item in value)
        value = leaves(value) if nested else value
        if len(value) != len(names):
            raise UsageError(f"{what} is for {len(value)} outputs, the model has {len(names)}: {', '.join(names)}")
        return list(value)
    return [value] * len(names)


def kind_of_loss(loss: Any) -> Targets | None:
    """What an output is that has this loss of Keras; None where the loss does not say."""
    name = _name_of(loss)
    if "binary" in name:
        return Targets.LABELS
    if "categorical" in name or name in RELATIVE:
        return Targets.CLASSES
    known = name.startswith(("mean_", "mse", "mae", "mape", "msle")) or name in ("huber", "log_cosh", "poisson")
    return Targets.NUMBERS if known else None


def _chosen(head: Head, loss: Any) -> tuple[Targets, Any]:
    if _name_of(loss) not in RELATIVE:
        return kind_of_loss(loss) or Targets.NUMBERS, loss
    if head.kind is None:
        raise UsageError(
            f"output {head.name!r} is one number, of a label or a measure? Say which: LogitsDistillation(loss="
            '"binary_crossentropy") or loss="mse"'
        )
    return head.kind, loss


def _name_of(loss: Any) -> str:
    """The name of a loss as Keras spells it: of a class in snake case."""
    if isinstance(loss, str):
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", loss).lower()
    name = getattr(loss, "__name__", None) or type(loss).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("kldivergence", "kl_divergence")


def _check_losses(loss: Any) -> None:
    every = list(loss.values()) if isinstance(loss, Mapping) else loss if isinstance(loss, list | tuple) else [loss]
    if all(one is None for one in every):
        raise UsageError("nothing is taught: give the loss of at least one output")
    keras = keras_module(any_backend=True)
    for one in every:
        if isinstance(one, str):
            try:
                keras.losses.get(one)
            except ValueError as cause:
                raise UsageError(f"Keras has no loss {one!r}") from cause


def _of_keras(keras: ModuleType, loss: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of Keras as a function of (answers, outputs) that gives one number for each sample or place."""
    found = keras.losses.get(loss)
    values: Callable[[Tensor, Tensor], Tensor] = getattr(found, "call", found)
    return values


def weighted(keras: ModuleType, values: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """A loss of Keras around these values: masks, sample weights and the mean are its own, numbers are float32."""

    class Weighted(keras.losses.Loss):  # type: ignore[name-defined, misc]
        def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
            return values(y_true, y_pred)

    return Weighted()


def logits_of(keras: ModuleType, outputs: Tensor, kind: Targets, *, are_shares: bool, least: float = TINY) -> Tensor:
    """The numbers that a softmax or sigmoid was given, up to a constant, where outputs are shares; shares far below
    `least` count as it."""
    if not are_shares:
        return outputs
    logits: Tensor = keras.ops.log(outputs + least)
    return logits if kind is Targets.CLASSES else logits - keras.ops.log(1 - outputs + TINY)


def _between_classes(keras: ModuleType, answers: Tensor, logits: Tensor) -> Tensor:
    crossed: Tensor = keras.ops.sum(keras.ops.softmax(answers) * keras.ops.log_softmax(logits), axis=-1)
    return -crossed


def _between_labels(keras: ModuleType, answers: Tensor, logits: Tensor) -> Tensor:
    """Each label as two classes; the mean of the labels, as in binary cross-entropy."""
    ops = keras.ops
    share = ops.sigmoid(answers)
    crossed: Tensor = ops.mean(share * ops.softplus(-logits) + (1 - share) * ops.softplus(logits), axis=-1)
    return crossed


def _feature_shapes(model: Model, name: str, whose: str) -> list[tuple[int | None, ...]]:
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise UsageError(f"the {whose} has no layer {name!r}{near(name, names)}")
    try:
        outputs: Any = model.get_layer(name).output
    except AttributeError as cause:
        raise UsageError(f"layer {name!r} of the {whose} has no output of its own: it is used several times") from cause
    return [tuple(tensor.shape[1:]) for tensor in keras_module(any_backend=True).tree.flatten(outputs)]


def _stored(loss: Any) -> Any:
    keras = keras_module(any_backend=True)
    return keras.tree.map_structure(
        lambda one: one if one is None or isinstance(one, str) else keras.losses.serialize(one), loss
    )


def _loaded(loss: Any) -> Any:
    """What `_stored` wrote."""
    if isinstance(loss, Mapping) and "class_name" in loss:
        return keras_module(any_backend=True).losses.deserialize(dict(loss))
    if isinstance(loss, Mapping):
        return {name: _loaded(one) for name, one in loss.items()}
    return [_loaded(one) for one in loss] if isinstance(loss, list | tuple) else loss

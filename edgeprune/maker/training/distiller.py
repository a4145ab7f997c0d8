"""Distillation in any training: a model that trains a student by the labels and by a teacher, on any backend of Keras.

The names are those of keras.distillation. What differs: probabilities are not taken for logits, labels and numbers are
taught too, sample weights and masks count, the student is computed once, and the teacher is left as it is.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, NamedTuple

from edgeprune.errors import UsageError
from edgeprune.maker.keras.graphs import functional_of, graph_of
from edgeprune.maker.keras.models import keras_module, output_names, share_end
from edgeprune.maker.keras.types import Config, Model, Tensor, Variable
from edgeprune.maker.training.distillation_losses import (
    LOSSES,
    DistillationLoss,
    FeatureDistillation,
    Head,
    LogitsDistillation,
    by_output,
    kind_of_loss,
)
from edgeprune.maker.training.metrics import Targets

__all__ = ["Answered", "Distiller", "distilled", "trained_model"]

Kinds = Targets | str | Sequence[Targets | str | None] | Mapping[str, Targets | str | None]


class Answered(NamedTuple):
    """A batch whose answers are known: what `Distiller.answers` gave for these inputs."""

    inputs: Any
    answers: Any


class Distiller:
    """A Keras model that trains `student` by its labels and by the answers of `teacher`; the student is what comes out.

    Compile and fit it like the student: loss = student_loss_weight * loss of the labels + (1 - student_loss_weight) *
    the weighted sum of `distillation_losses`. The teacher is asked in inference mode, and nothing of it changes.
    """

    student: Any
    teacher: Any

    def __new__(cls, *arguments: Any, **settings: Any) -> Any:
        """An instance of a class that derives from Keras's Model too: this module does not import Keras."""
        kind: Any = cls
        made: Any = _as_model(kind)
        return keras_module(any_backend=True).Model.__new__(made, *arguments, **settings)

    def __init__(
        self,
        teacher: Model,
        student: Model,
        distillation_losses: DistillationLoss | Sequence[DistillationLoss],
        distillation_loss_weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        name: str = "distiller",
        **settings: Any,
    ) -> None:
        _check_models(teacher, student)
        super().__init__(name=name, **settings)  # type: ignore[call-arg]
        one = not isinstance(distillation_losses, list | tuple)
        losses: list[Any] = [distillation_losses] if one else list(distillation_losses)  # type: ignore[arg-type]
        weights = [1.0] * len(losses) if distillation_loss_weights is None else list(distillation_loss_weights)
        if not losses or len(weights) != len(losses):
            raise UsageError(
                f"{len(losses)} distillation_losses, {len(weights)} distillation_loss_weights: give each one"
            )
        if not 0 <= student_loss_weight <= 1:
            raise UsageError(f"student_loss_weight is the share of the labels, 0 to 1; got {student_loss_weight!r}")
        for loss in losses:
            loss.validate_model_compatibility(teacher, student)
        self.teacher, self.student, self.student_loss_weight = teacher, student, student_loss_weight
        if hasattr(student, "output_names"):
            self.output_names = list(student.output_names)
        self._make_trackers()
        # Set without Keras's tracking of attributes: the views are no layers of their own.
        vars(self).update(
            distillation_losses=losses,
            distillation_loss_weights=weights,
            _views=(_view(teacher, losses, "teacher"), _view(student, losses, "student")),
            _seen=None,
        )
        self.built = True

    def _make_trackers(self) -> None:
        mean = keras_module(any_backend=True).metrics.Mean
        self.student_loss_tracker = mean(name="student_loss")
        self.distillation_loss_tracker = mean(name="distillation_loss")

    # What is trained is the student: the teacher's variables are state, whatever their flags say.

    @property
    def trainable_variables(self) -> list[Variable]:
        """Those of the student."""
        return list(self.student.trainable_variables)

    @property
    def trainable_weights(self) -> list[Variable]:
        """Those of the student."""
        return list(self.student.trainable_weights)

    @property
    def non_trainable_variables(self: Any) -> list[Variable]:
        """The others, all of the teacher's among them."""
        return _without(self.variables, self.student.trainable_variables)

    @property
    def non_trainable_weights(self: Any) -> list[Variable]:
        """The others, all of the teacher's among them."""
        return _without(self.weights, self.student.trainable_weights)

    @property
    def losses(self: Any) -> list[Tensor]:
        """What the student's layers add to its loss (regularizers); that counts whole."""
        return self._losses_override or self.student.losses

    def heads(self: Any) -> list[Head]:
        """What each output is: by the loss that it is compiled with, else by the last layers of both models."""
        names = _names(self.student)
        own = by_output(getattr(self, "loss", None), names, "loss")
        return [_head(self.teacher, self.student, n, name, own[n]) for n, name in enumerate(names)]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's outputs; `inputs` may be Answered."""
        inputs, view = _inputs_of(inputs), vars(self)["_views"][1]
        if view is None:
            return self.student(inputs, training=training)
        made = view(inputs, training=training)
        vars(self)["_seen"] = made
        return made["outputs"]

    def compute_loss(
        self: Any,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of a batch; Keras calls this."""
        ops, share = keras_module(any_backend=True).ops, self.student_loss_weight
        y_pred = self(x, training=training) if y_pred is None else y_pred
        total = sum((ops.sum(ops.cast(loss, "float32")) for loss in self.losses), ops.zeros(()))
        if share and self.loss is not None:
            if y is None:
                raise UsageError(
                    "there are no targets: give them, or student_loss_weight=0 to learn from the teacher alone"
                )
            labels = super().compute_loss(x, y, y_pred, sample_weight, training)  # type: ignore[misc]
            self.student_loss_tracker.update_state(labels)
            total = (1 - share) * total + share * labels
        if share < 1:
            taught = self._taught(x, y_pred, sample_weight, training)
            self.distillation_loss_tracker.update_state(taught)
            total = total + (1 - share) * taught
        return total

    def _taught(self: Any, x: Any, y_pred: Any, sample_weight: Any, training: bool) -> Tensor:
        """The weighted sum of the distillation losses."""
        keras = keras_module(any_backend=True)
        answers = x.answers if isinstance(x, Answered) else self.answers(x)
        outputs = self._outputs(keras, _inputs_of(x), y_pred, training)
        total, heads = keras.ops.zeros(()), self.heads()
        for loss, weight in zip(self.distillation_losses, self.distillation_loss_weights, strict=True):
            ends = [
                made["features"][name] if name else made["outputs"]
                for made, name in ((answers, loss.teacher_layer_name), (outputs, loss.student_layer_name))
            ]
            total = total + weight * loss.compute_loss(*ends, sample_weight=sample_weight, heads=heads)
        return total

    def answers(self: Any, x: Any) -> Any:
        """What the teacher makes of a batch: its "outputs", and "features" by layer where a loss compares any."""
        keras, view = keras_module(any_backend=True), self._views[0]
        with _without_gradients(keras):
            made = {"outputs": self.teacher(x, training=False)} if view is None else view(x, training=False)
        return keras.tree.map_structure(keras.ops.stop_gradient, made)

    def _outputs(self: Any, keras: ModuleType, x: Any, y_pred: Any, training: bool) -> Any:
        """The student's outputs, with the features of the same call; of another one where it was not this batch's."""
        view, seen = self._views[1], self._seen
        vars(self)["_seen"] = None
        if view is None:
            return {"outputs": y_pred}
        flat, own = keras.tree.flatten(y_pred), keras.tree.flatten(seen["outputs"]) if seen else []
        if len(flat) == len(own) and all(a is b for a, b in zip(flat, own, strict=True)):
            return seen
        return view(x, training=training)

    def get_config(self: Any) -> Config:
        """Teacher, student and losses: a Distiller can be saved and loaded like any model."""
        stored = keras_module(any_backend=True).saving.serialize_keras_object
        return {
            "name": self.name,
            "teacher": stored(self.teacher),
            "student": stored(self.student),
            "distillation_losses": [stored(loss) for loss in self.distillation_losses],
            "distillation_loss_weights": self.distillation_loss_weights,
            "student_loss_weight": self.student_loss_weight,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
        """The Distiller that `get_config` wrote."""
        loaded = functools.partial(
            keras_module(any_backend=True).saving.deserialize_keras_object, custom_objects=custom_objects
        )
        made = {name: loaded(config[name]) for name in ("teacher", "student")}
        losses = [loaded(loss) for loss in config["distillation_losses"]]
        return cls(**{**config, **made, "distillation_losses": losses})


def distilled(
    student: Model,
    teacher: Model,
    *,
    share: float,
    temperature: float,
    kinds: Kinds,
    weights: Sequence[float] | None = None,
    features: Sequence[FeatureDistillation] = (),
    feature_weight: float = 0.0,
) -> Model:
    """A Distiller in which the teacher's answers have this share of the loss.

    The mean of the `features` is added to what the answers make with `feature_weight`.
    `kinds` says what the outputs are: one for all, a list, or a dict by their names; None for one that is not taught.
    `weights` are those of the outputs in the loss, 1 each unless given.
    """
    known = by_output(kinds, _names(student), "kinds")
    each = [1.0] * len(known) if weights is None else list(weights)
    losses: list[Any] = []
    for place, kind in enumerate(known):
        if kind is not None:
            own: list[Any] = [None] * len(known)
            own[place] = LOSSES[Targets(kind)]
            losses.append(LogitsDistillation(temperature=temperature, loss=own))
    taught = [weight for weight, kind in zip(each, known, strict=True) if kind is not None]
    losses += features
    taught += [feature_weight / len(features) for _ in features]
    made: Any = Distiller(teacher, student, losses, taught, student_loss_weight=1 - share)
    return made


def trained_model(model: Model) -> Model:
    """The student of a Distiller; any other model itself."""
    return model.student if isinstance(model, Distiller) else model


def _inputs_of(x: Any) -> Any:
    return x.inputs if isinstance(x, Answered) else x


def _check_models(teacher: Any, student: Any) -> None:
    shared = {id(weight) for weight in teacher.weights} & {id(weight) for weight in student.weights}
    if teacher is student or shared:
        raise UsageError("teacher and student share weights: make the student a copy (keras.models.clone_model)")
    for whose, model in (("teacher", teacher), ("student", student)):
        if not model.built:
            raise UsageError(f"the {whose} is not built yet: give it keras.Input, or call it once")
    if graph_of(teacher) is None or graph_of(student) is None:
        return
    made, wanted = ([tuple(t.shape) for t in model.outputs] for model in (student, teacher))
    if made != wanted:
        raise UsageError(f"the teacher's outputs are {wanted}, the student's {made}: they must be the same")


def _names(model: Model) -> list[str]:
    """Names of the outputs; of a subclass of Model it is only known once it is called, so it counts for one."""
    return output_names(model) if graph_of(model) is not None else ["output"]


def _head(teacher: Any, student: Any, index: int, name: str, loss: Any) -> Head:
    ends = [_end(model, index, loss) for model in (teacher, student)]
    kind = kind_of_loss(loss)
    if kind is None and any(ends):
        kind = Targets.CLASSES if "softmax" in ends else Targets.LABELS
    if kind is None and graph_of(student) is not None and student.outputs[index].shape[-1] != 1:
        kind = Targets.CLASSES
    return Head(name=name, kind=kind, teacher_gives_shares=bool(ends[0]), student_gives_shares=bool(ends[1]))


def _end(model: Any, index: int, loss: Any) -> str:
    """ "softmax", "sigmoid", or "" for an output that is no probability. A hidden graph ends as the loss says."""
    if graph_of(model) is not None:
        return share_end(model, index)
    if kind_of_loss(loss) in (None, Targets.NUMBERS) or getattr(loss, "_fn_kwargs", {}).get("from_logits"):
        return ""
    return "sigmoid" if kind_of_loss(loss) is Targets.LABELS else "softmax"


def _view(model: Any, losses: Sequence[Any], whose: str) -> Any:
    """A model of the same layers that gives the features, too, that losses ask for; None where there are none."""
    names = {getattr(loss, f"{whose}_layer_name") for loss in losses} - {None}
    if not names:
        return None
    graph: Any = functional_of(model)
    features = {name: model.get_layer(name).output for name in sorted(names)}
    outputs = {"outputs": graph._outputs_struct, "features": features}
    return keras_module(any_backend=True).Model(graph._inputs_struct, outputs, name=f"{whose}_view")


def _without(variables: Sequence[Variable], others: Sequence[Variable]) -> list[Variable]:
    gone = {id(variable) for variable in others}
    return [variable for variable in variables if id(variable) not in gone]


def _without_gradients(keras: ModuleType) -> AbstractContextManager[object]:
    """A context in which torch remembers nothing for gradients; the other backends need none."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    made: AbstractContextManager[object] = sys.modules["torch"].no_grad()
    return made


@functools.cache
def _as_model(kind: Any) -> type:
    """The class of Distillers of this kind that are models of Keras, registered for .keras files."""
    keras = keras_module(any_backend=True)
    if issubclass(kind, keras.Model):
        made: type = kind
        return made
    made = type(kind.__name__, (kind, keras.Model), {"__module__": kind.__module__})
    if kind is Distiller:
        for known in (made, LogitsDistillation, FeatureDistillation):
            keras.saving.register_keras_serializable(package="edgeprune", name=known.__name__)(known)
    return made


if "keras" in sys.modules:  # a file of one can be loaded once this module is here
    _as_model(Distiller)

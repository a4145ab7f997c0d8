"""The task of a model: out of words, or out of what the model is compiled with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from edgeprune.errors import InputError, UsageError
from edgeprune.host.toml_values import near
from edgeprune.maker.keras.compiled import Compiled, compiled_of, leaves
from edgeprune.maker.keras.models import keras_module, output_names, output_shapes
from edgeprune.maker.keras.types import AnyModel, Model
from edgeprune.maker.training.goal import DEFAULT, FIRST, Goal, Words, goal_of
from edgeprune.maker.training.keras_metrics import loss_metric, stored_metric
from edgeprune.maker.training.losses import as_loss, named_loss, stored_loss
from edgeprune.maker.training.metrics import METRICS, Metric, Targets
from edgeprune.maker.training.task import OutputLoss, Score, Task
from edgeprune.maker.training.user_code import code_of, user_function

__all__ = ["Asked", "find_task", "task_of"]

Asked = Task | Goal | Metric | Words  # how a caller may say what a model is scored by


def find_task(
    model: AnyModel,
    metric: Asked | None = None,
    *,
    loss: str | Mapping[str, str] = "",
    trains: bool = False,
    trust_code: bool = False,
) -> Task:
    """The task of a model out of what a caller names: a task as it is, a metric or the name of one, names by output,
    or None for what the model is compiled with, else accuracy."""
    if isinstance(metric, Task):
        return metric
    if isinstance(metric, Metric):
        found = _Resolver(model, trust_code=False)
        scores = [found.score(0, metric)]
        losses = found.losses(goal_of(loss=loss)) or found.usual_losses(scores) if trains else ()
        return Task(scores=tuple(scores), losses=losses)
    goal = metric if isinstance(metric, Goal) else goal_of(metric or (), loss)
    if not goal.metric and compiled_of(model) is None:
        goal = replace(goal, metric=DEFAULT.metric)
    return task_of(model, goal, trains=trains, trust_code=trust_code)


def task_of(model: AnyModel, goal: Goal, *, trains: bool = True, trust_code: bool = False) -> Task:
    """The task that a goal, and where it is silent the model, tells. Raises UsageError for names that the model does
    not have and where nothing tells the metric or the loss, Unsupported for code without `trust_code`."""
    found = _Resolver(model, trust_code=trust_code)
    # What is named is not asked of the model: its own loss may be code that nobody gave.
    stored = {} if goal.metric and (goal.loss or not trains) else found.stored()
    scores = found.scores(goal) if goal.metric else found.stored_scores(stored)
    if not scores:
        raise UsageError("the model is not compiled, so nothing says how to score it: name a metric")
    if not trains:
        return Task(scores=tuple(scores))
    losses = found.losses(goal) or tuple(stored.values()) or found.usual_losses(scores)
    losses = found.weighted(losses, goal.loss_weights)
    return Task(scores=tuple(scores), losses=losses)


class _Resolver:
    """Words and stored settings against one model."""

    def __init__(self, model: AnyModel, *, trust_code: bool) -> None:
        self.model, self.trust_code = model, trust_code
        self.names, self.shapes = output_names(model), list(output_shapes(model).values())
        self.compiled: Compiled | None = compiled_of(model)

    def place(self, output: str, what: str) -> int:
        """The place of an output among the model's."""
        if output == FIRST:
            return 0
        if output not in self.names:
            raise UsageError(
                f"{what} of output {output!r}: the model has no such output{near(output, self.names)}; it has: "
                f"{', '.join(self.names)}"
            )
        return self.names.index(output)

    def scores(self, goal: Goal) -> list[Score]:
        found = []
        for output, words in goal.metric.items():
            place = self.place(output, "metric")
            for word in words:
                code = code_of(word)
                metric = METRICS[word] if code is None else own_metric(user_function(*code, trust_code=self.trust_code))
                if metric.of_all and output != FIRST:
                    raise UsageError(f"{word} takes several outputs: write it without the name of one, {word}")
                whole = metric.of_all or (code is not None and output == FIRST and len(self.names) > 1)
                found.append(
                    Score(name=metric.name, metric=metric, output=None, place=None)
                    if whole
                    else self.score(place, metric)
                )
        return found

    def score(self, place: int, metric: Metric) -> Score:
        name = metric.name if len(self.names) == 1 else f"{self.names[place]}_{metric.name}"
        return Score(name=name, metric=metric, output=self.names[place], place=place)

    def loss(self, place: int, function: Any, weight: float = 1.0, *, as_stored: bool = False) -> OutputLoss:
        return OutputLoss(
            output=self.names[place],
            place=place,
            shape=tuple(self.shapes[place][1:]),
            function=as_loss(keras_module(any_backend=True), function),
            weight=weight,
            as_stored=as_stored,
        )

    def losses(self, goal: Goal) -> tuple[OutputLoss, ...]:
        if FIRST in goal.loss and len(self.names) > 1:
            raise UsageError(
                f"the model has {len(self.names)} outputs: say of which the loss is, {self.names[0]}="
                f"{goal.loss[FIRST]} (in a recipe: loss = {{ {self.names[0]} = ... }})"
            )
        found = []
        for output, word in goal.loss.items():
            place, code = self.place(output, "loss"), code_of(word)
            if code is None:
                found.append(
                    self.loss(place, named_loss(keras_module(any_backend=True), word, self.keras_model(), place))
                )
            else:
                function = user_function(*code, trust_code=self.trust_code)
                found.append(self.loss(place, function, as_stored=True))
        return tuple(found)

    def keras_model(self) -> Model:
        return cast("Model", self.model)

    def stored(self) -> dict[int, OutputLoss]:
        """The losses that the model is compiled with, by the place of the output."""
        told = self.compiled
        if told is None:
            return {}
        keras, found = keras_module(any_backend=True), {}
        weights = self.by_output(told.loss_weights)
        for place, stored in enumerate(self.by_output(told.loss)):
            if stored is not None:
                made = stored_loss(keras, stored, told.objects, self.keras_model(), place)
                weight = weights[place]
                homes = (str(getattr(of, "__module__", "")) for of in (made, type(made)))
                found[place] = self.loss(
                    place,
                    made,
                    float(weight) if isinstance(weight, int | float) else 1.0,
                    as_stored=not any(home.startswith("keras.") for home in homes),
                )
        return found

    def by_output(self, told: Any) -> list[Any]:
        """What a compile configuration tells of each output, out of the forms that it may have."""
        count = len(self.names)
        if isinstance(told, Mapping) and not {"class_name", "config"} <= set(told):
            named = {str(key).replace("/", "_"): value for key, value in told.items()}
            if set(named) & set(self.names) or count == 1:
                return [named.get(name) for name in self.names] if count > 1 else [*named.values()][:1]
            told = leaves(told)
        if isinstance(told, list | tuple):
            flat = leaves(told)
            return list(flat) if len(flat) == count else [told[0] if len(told) else None] * count
        return [told] * count

    def stored_scores(self, losses: Mapping[int, OutputLoss]) -> list[Score]:
        """The metrics that the model is compiled with; of an output without one what goes with its loss."""
        told = self.compiled
        if told is None:
            return []
        keras, found = keras_module(any_backend=True), []
        for place, several in enumerate(self.metrics_by_output(told.metrics)):
            loss = losses.get(place)
            classes = self.shapes[place][-1]
            made = [stored_metric(keras, one, told.objects, loss and loss.function, classes) for one in several]
            known = {metric.name: metric for metric in made if metric is not None}
            if not known and loss is not None:
                usual = loss_metric(loss.function, loss.shape)
                known = {usual.name: usual}
            found += [self.score(place, metric) for metric in known.values()]
        return found

    def metrics_by_output(self, told: Any) -> list[list[Any]]:
        count = len(self.names)
        if told is None:
            return [[] for _ in self.names]
        if isinstance(told, Mapping) and "class_name" not in told:
            named = {str(key).replace("/", "_"): value for key, value in told.items()}
            return [_several(named.get(name)) for name in self.names]
        listed = _several(told)
        if count == 1:
            return [[one for item in listed for one in _several(item)]]
        if len(listed) == count:
            return [_several(item) for item in listed]
        return [list(listed) for _ in self.names]

    def usual_losses(self, scores: Sequence[Score]) -> tuple[OutputLoss, ...]:
        """The loss that goes with the first metric of each output."""
        first: dict[int, Metric] = {}
        for score in scores:
            if score.place is None or score.metric.targets is Targets.ANY:
                continue
            first.setdefault(score.place, score.metric)
        if not first:
            raise UsageError(
                f"nothing says which loss trains the model for {scores[0].name!r}: name one with --loss (in a recipe: "
                'loss = "...")'
            )
        keras = keras_module(any_backend=True)
        return tuple(
            self.loss(place, named_loss(keras, metric.loss, self.keras_model(), place))
            for place, metric in first.items()
        )

    def weighted(self, losses: tuple[OutputLoss, ...], weights: Mapping[str, float]) -> tuple[OutputLoss, ...]:
        found = {self.place(output, "loss weight"): weight for output, weight in weights.items()}
        unknown = set(found) - {loss.place for loss in losses}
        if unknown:
            raise UsageError(
                f"a loss weight of output {self.names[min(unknown)]!r}, which has no loss: name its loss too"
            )
        return tuple(replace(loss, weight=found.get(loss.place, loss.weight)) for loss in losses)


def own_metric(function: Any) -> Metric:
    """A metric of the user's own: `function(outputs, targets)` gives a number, or one for each sample.

    It may say `function.higher_is_better = False` and `function.is_share = True`.
    """
    name = str(getattr(function, "__name__", type(function).__name__))

    def whole(outputs: Any, targets: Any) -> Any:
        try:
            found = np.asarray(function(outputs, targets), np.float64)
        except Exception as cause:  # it is not our code
            told = " ".join(str(cause).split())[:160]
            raise InputError(f"the metric {name!r} fails: {type(cause).__name__}: {told}") from cause
        rows = outputs if isinstance(outputs, np.ndarray) else next(iter(outputs.values()))
        if found.shape not in ((), (1,), (len(rows),)):
            raise InputError(f"the metric {name!r} gives an array of shape {found.shape}: give a number, or [samples]")
        return found

    return Metric(
        name=name,
        higher_is_better=bool(getattr(function, "higher_is_better", True)),
        is_share=bool(getattr(function, "is_share", False)),
        targets=Targets.ANY,
        whole=whole,
    )


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]

"""Class labels name probabilities: a softmax behind the classifier's output, or a word about its lack."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.trial_inputs import trial_samples
from edgeprune.errors import Unsupported, UsageError
from edgeprune.formats.metadata import labelled_output
from edgeprune.maker.keras.graphs import graph_of
from edgeprune.maker.keras.models import (
    as_called,
    keras_module,
    output_names,
    output_shapes,
    predict,
    share_end,
)
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel, Model
from edgeprune.runtime.trials import FEWEST

__all__ = ["classified"]

_SUM_ERROR = 1e-3


def classified(model: AnyModel, app: AppOptions) -> tuple[AnyModel, tuple[str, ...]]:
    """(The model that the file is made from and held against, what is to be said of it).

    With `softmax` it ends in one at the output that the class labels name (without labels: its only output), which
    keeps its name; all layers are shared. Without, class labels for an output that is no probabilities are told. Raises
    UsageError for an output that ends in a softmax already, Unsupported for a model without layers.
    """
    if app.softmax:
        return _with_softmax(model, _output(model, app)), ()
    if not app.class_labels or _gives_probabilities(model, place := _output(model, app)):
        return model, ()
    return model, (
        f"output {output_names(model)[place]!r} is no probabilities (neither softmax nor sigmoid is at its end), and "
        "the class labels tell apps that it is: add --softmax (in a recipe: softmax = true)",
    )


def _output(model: AnyModel, app: AppOptions) -> int:
    """Its number."""
    shapes = output_shapes(model)
    if app.class_labels:
        return list(shapes).index(labelled_output(shapes, app.class_labels))
    if len(shapes) > 1:
        raise UsageError(f"--softmax: behind which output, {' or '.join(shapes)}? --class-labels tells")
    return 0


def _gives_probabilities(model: AnyModel, place: int) -> bool:
    """By its last layer; where that says nothing (code, a SavedModel) by whether its numbers are shares of one."""
    if not isinstance(model, SavedModel) and share_end(model, place):
        return True
    few = {name: values[:FEWEST] for name, values in trial_samples(model).inputs.items()}
    made = predict(model, few)[output_names(model)[place]].astype(np.float64)
    return bool((made >= 0).all() and np.abs(made.sum(-1) - 1).max(initial=0) <= _SUM_ERROR)


def _with_softmax(model: AnyModel, place: int) -> Model:
    keras, name = keras_module(), output_names(model)[place]
    if isinstance(model, SavedModel) or graph_of(model) is None:
        raise Unsupported("--softmax needs a model whose layers are known; add the softmax in Keras and save it again")
    if end := share_end(model, place):
        raise UsageError(f"output {name!r} ends in a {end} already; leave out --softmax")
    graph: Any = graph_of(model)
    taken = {layer.name for layer in graph.layers}
    free = next(
        each for each in (f"{name}_softmax{'_' * count}" for count in range(len(taken) + 1)) if each not in taken
    )
    ends = list(graph.outputs)
    ends[place] = keras.layers.Softmax(name=free, dtype="float32")(ends[place])
    built: Any = keras.Model(
        as_called(graph, graph.inputs), keras.tree.pack_sequence_as(graph._outputs_struct, ends), name=model.name
    )
    built.output_names = output_names(model)
    return built

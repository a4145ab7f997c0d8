"""Metrics that a model was compiled with: ours where they are the same, else those of Keras over all samples."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.maker.training.losses import keras_object, loss_name, loss_targets, takes_classes, unknown_to_keras
from edgeprune.maker.training.metrics import METRICS, Metric, Targets

__all__ = ["loss_metric", "stored_metric"]

# Names of Keras, in small letters without "_", of what is computed here too.
_SAME = {
    "sparsecategoricalaccuracy": "accuracy",
    "categoricalaccuracy": "accuracy",
    "binaryaccuracy": "binary_accuracy",
    "meansquarederror": "mse",
    "mse": "mse",
    "meanabsoluteerror": "mae",
    "mae": "mae",
    "rootmeansquarederror": "rmse",
    "r2score": "r2",
}
_USUAL = {"threshold": 0.5, "class_aggregation": "uniform_average", "num_regressors": 0}
_ACCURACY = ("accuracy", "acc")  # Keras takes the accuracy that goes with the output
_BATCH = 4096


def stored_metric(
    keras: ModuleType, stored: Any, objects: Mapping[str, Any], loss: Any, classes: int | None
) -> Metric | None:
    """The metric that a compile configuration tells; `loss` is that of its output, which ends in `classes` numbers.

    None for one that only a training can tell. Raises Unsupported for one that neither Keras nor the user's files have.
    """
    stored = _of_keras2(stored)
    name = (
        stored if isinstance(stored, str) else str(stored.get("class_name", "")) if isinstance(stored, Mapping) else ""
    )
    settings = stored.get("config") if isinstance(stored, Mapping) else None
    plain = name.lower().replace("_", "")
    if isinstance(stored, str) and plain in _ACCURACY:
        several = (classes or 1) > 1 and not loss_name(loss).startswith("binary")  # labels are no sort
        return METRICS["accuracy" if takes_classes(loss) or several else "binary_accuracy"]
    told = settings if isinstance(settings, Mapping) else {}
    if plain == "auc" and told.get("curve", "ROC") == "ROC" and (classes == 1 or told.get("multi_label")):
        return METRICS["auc"]
    if plain in _SAME and all(told.get(key, usual) == usual for key, usual in _USUAL.items()):
        return METRICS[_SAME[plain]]
    if isinstance(stored, str):
        made = objects.get(stored) or _by_name(keras, stored)
    else:
        made = keras_object(keras.metrics, stored, objects, "metric") if isinstance(stored, Mapping) else _copy(stored)
    return _of_keras(keras, made)


def _of_keras2(stored: Any) -> Any:
    """What Keras 2 wraps in a MeanMetricWrapper: the name of the function."""
    if not isinstance(stored, Mapping) or stored.get("class_name") != "MeanMetricWrapper":
        return stored
    settings = stored.get("config")
    function = settings.get("fn") if isinstance(settings, Mapping) else None
    return function if isinstance(function, str) else stored


def _by_name(keras: ModuleType, name: str) -> Any:
    try:
        made = keras.metrics.get(name)
    except (ValueError, TypeError) as cause:
        raise unknown_to_keras("metric", name) from cause
    counted = isinstance(made, keras.metrics.Metric)  # Keras counts what has no name: "auc_3"
    return type(made).from_config({**made.get_config(), "name": name.lower()}) if counted else made


def _copy(metric: Any) -> Any:
    return type(metric).from_config(metric.get_config()) if hasattr(metric, "get_config") else metric


def _of_keras(keras: ModuleType, made: Any) -> Metric | None:
    if isinstance(made, type):
        made = made()
    if not isinstance(made, keras.metrics.Metric):
        name = getattr(made, "__name__", type(made).__name__)
        made = keras.metrics.MeanMetricWrapper(made, name=name)

    def whole(outputs: np.ndarray, targets: np.ndarray) -> float:
        made.reset_state()
        for start in range(0, len(outputs), _BATCH):
            made.update_state(targets[start : start + _BATCH], outputs[start : start + _BATCH])
        return float(np.mean(np.asarray(made.result())))

    return Metric(
        name=str(made.name),
        higher_is_better=getattr(made, "_direction", "up") != "down",
        is_share=False,
        targets=Targets.ANY,
        whole=whole,
    )


def loss_metric(loss: Any, shape: tuple[int | None, ...]) -> Metric:
    """A loss as the metric of an output that is compiled without one: the accuracy of a sort, else the loss itself."""
    kind = loss_name(loss)
    if kind.endswith("crossentropy"):
        return METRICS["binary_accuracy" if kind.startswith("binary") else "accuracy"]
    if kind in ("mean_squared_error", "mean_absolute_error"):
        return METRICS["mse" if "squared" in kind else "mae"]
    name = str(getattr(loss, "name", None) or kind)

    def whole(outputs: np.ndarray, targets: np.ndarray) -> float:
        total = 0.0
        for start in range(0, len(outputs), _BATCH):
            some = outputs[start : start + _BATCH]
            told = loss_targets(targets[start : start + _BATCH], shape, loss)
            total += float(np.mean(np.asarray(loss(told, some), np.float64))) * len(some)
        return total / len(outputs)

    return Metric(name=name, higher_is_better=False, is_share=False, targets=Targets.ANY, whole=whole)

"""Losses by name, out of a model's file, or the user's own; and targets in the shape that a loss takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.errors import InputError, Unsupported, UsageError
from edgeprune.host.toml_values import check_choice
from edgeprune.maker.keras.models import share_end
from edgeprune.maker.keras.types import Model

__all__ = [
    "as_loss",
    "keras_losses",
    "keras_object",
    "loss_name",
    "loss_targets",
    "named_loss",
    "stored_loss",
    "takes_classes",
    "takes_rows",
    "unknown_to_keras",
]

_SHORT = {  # as Keras takes them too
    "bce": "binary_crossentropy",
    "kld": "kl_divergence",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "mse": "mean_squared_error",
    "msle": "mean_squared_logarithmic_error",
}


def keras_losses(keras: ModuleType) -> dict[str, Any]:
    """The losses of Keras by the name of their function, "huber"."""
    by_function = {"kl_divergence": "KLDivergence", "ctc": "CTC"}
    functions = [name for name, value in vars(keras.losses).items() if inspect.isfunction(value)]
    found: dict[str, Any] = {}
    for name in functions:
        title = by_function.get(name, "".join(part.title() for part in name.split("_")))
        kind: Any = vars(keras.losses).get(title)
        if inspect.isclass(kind):
            found[name] = kind
    return found


def named_loss(keras: ModuleType, name: str, model: Model, output: int) -> Any:
    """The loss of Keras called so, on logits where the output is not a probability. Raises UsageError."""
    known = keras_losses(keras)
    wanted = _SHORT.get(name.lower(), name)
    by_class = {kind.__name__: key for key, kind in known.items()}
    wanted = by_class.get(wanted, wanted)
    check_choice("loss", wanted, known)
    kind = known[wanted]
    if "from_logits" not in inspect.signature(kind).parameters:
        return kind()
    return kind(from_logits=not share_end(model, output))


def stored_loss(keras: ModuleType, stored: Any, objects: Mapping[str, Any], model: Model, output: int) -> Any:
    """The loss that a compile configuration tells: a name, the settings of a class, or the loss itself.

    Raises Unsupported for one that neither Keras nor the user's files have.
    """
    if isinstance(stored, str):
        if stored in objects:
            return objects[stored]
        try:
            return named_loss(keras, stored, model, output)
        except UsageError as cause:
            raise unknown_to_keras("loss", stored) from cause
    if isinstance(stored, Mapping):
        return keras_object(keras.losses, stored, objects, "loss")
    return stored


def as_loss(keras: ModuleType, function: Any) -> Any:
    """A `keras.losses.Loss` out of one, of the class of one, or of a function (targets, outputs)."""
    made: Any = function
    if inspect.isclass(function):
        made = function()
    if isinstance(made, keras.losses.Loss):
        return made

    name = str(getattr(made, "__name__", type(made).__name__))

    def call(_self: Any, targets: Any, outputs: Any) -> Any:
        try:
            return made(targets, outputs)
        except Exception as cause:  # it is not our code
            told = f"{type(cause).__name__}: {' '.join(str(cause).split())[:160]}"
            raise InputError(f"the loss {name!r} fails: {told}") from cause

    return type("OwnLoss", (keras.losses.Loss,), {"call": call})(name=name)


def keras_object(home: ModuleType, stored: Mapping[str, Any], objects: Mapping[str, Any], what: str) -> Any:
    """What {"class_name", "config"} of a file stands for: a class of `home` with plain settings, or the user's own.

    Nothing but the public classes of `home` and `objects` is made. Raises Unsupported.
    """
    title, config = str(stored.get("class_name", "")), stored.get("config")
    name = title.rpartition(">")[2]
    if name == "function":  # the settings are its name
        name, config = str(config), None
    found = objects.get(name)
    if found is None and not name.startswith("_"):
        found = vars(home).get(name)
        ours = inspect.isclass(found) and issubclass(found, (vars(home).get("Loss", ()), vars(home).get("Metric", ())))
        found = (
            found if ours or (inspect.isfunction(found) and name not in ("get", "deserialize", "serialize")) else None
        )
    if found is None:
        raise unknown_to_keras(what, name)
    if not inspect.isclass(found):
        return found
    settings = {k: v for k, v in config.items() if k not in ("dtype", "fn")} if isinstance(config, Mapping) else {}
    if settings.get("reduction") == "auto":  # of Keras 2, where it meant this
        settings["reduction"] = "sum_over_batch_size"
    if not all(_is_plain(value) for value in settings.values()):
        raise Unsupported(
            f"the {what} {name!r} of the model's file has settings that are no plain values; name another"
        )
    try:
        kind: Any = found
        return kind.from_config(settings) if hasattr(kind, "from_config") else kind(**settings)
    except (TypeError, ValueError) as cause:
        raise Unsupported(f"the {what} {name!r} of the model's file cannot be made: {cause}") from cause


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)


def unknown_to_keras(what: str, name: str) -> Unsupported:
    """The error for a loss or metric of a compile state that neither Keras nor the user's files have."""
    return Unsupported(
        f"the model was compiled with a {what} that is not of Keras, {name!r}: give the file that has it with "
        f"--custom FILE.py, or name another with --{what} (in a recipe: {what})"
    )


def takes_classes(loss: Any) -> bool:
    """Whether a loss takes the index of a class, and not a number for each output."""
    return loss_name(loss).startswith("sparse")


def takes_rows(loss: Any) -> bool:
    """Whether it takes a number for each class."""
    return loss_name(loss).startswith(("categorical", "kl", "dice", "tversky"))


def loss_name(loss: Any) -> str:
    """What Keras calls the function of a loss, whatever name the loss was given."""
    of = getattr(loss, "fn", None) or loss
    return str(getattr(of, "__name__", "") or getattr(of, "name", None) or type(of).__name__).lower()


def loss_targets(targets: np.ndarray, shape: Sequence[int | None], loss: Any) -> np.ndarray:
    """Targets of a batch as a loss takes them; `shape` is that of the output, without the batch.

    They may be stored flat; a class is an index or a row with a 1 at the class, whichever is stored.
    """
    is_rows = targets.shape[1:] == tuple(shape) and shape[-1] != 1
    if takes_classes(loss):
        return _places(targets.argmax(-1) if is_rows else targets, shape)
    if takes_rows(loss) and not is_rows and shape[-1] not in (None, 1):
        indexes = _places(targets, shape) if len(shape) > 1 else targets.reshape(len(targets))
        return np.eye(shape[-1], dtype=np.float32)[indexes.astype(np.int64)]
    return _flat_or_whole(targets, shape)


def _places(targets: np.ndarray, shape: Sequence[int | None]) -> np.ndarray:
    """Indexes of classes in the places of the output."""
    bare = targets.shape[:-1] if targets.shape[-1:] == (1,) and targets.ndim == len(shape) + 1 else targets.shape
    if len(shape) > 1 and len(bare) == len(shape):
        return targets.reshape(bare)
    return _flat_or_whole(targets, shape)


def _flat_or_whole(targets: np.ndarray, shape: Sequence[int | None]) -> np.ndarray:
    sizes = [size for size in shape if size is not None]
    whole = len(sizes) == len(shape) and targets[0].size == math.prod(sizes)
    return targets.reshape(len(targets), *(sizes if whole else (-1,)))

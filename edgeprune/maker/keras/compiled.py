"""What a model was compiled with: the loss, loss weights and metrics that its file keeps, as words and settings.

A file is no code: what is named is resolved later, against Keras's own losses and metrics and the user's files.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Compiled", "compiled_of", "leaves", "remember_compiled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Loss, loss weights and metrics as they were given to `compile`, or as a file tells them; `objects` are those of
    the user's own files, by name."""

    loss: Any = None
    loss_weights: Any = None
    metrics: Any = None
    objects: Mapping[str, Any] = field(default_factory=dict)


_of_files: weakref.WeakKeyDictionary[Any, Compiled] = weakref.WeakKeyDictionary()


def remember_compiled(model: Any, config: Any, objects: Mapping[str, Any]) -> None:
    """Note what the file of a model says of its training: the compile configuration of Keras 3, or the training
    configuration of Keras 2 (also as JSON)."""
    if isinstance(config, str | bytes):
        try:
            config = json.loads(config)
        except (ValueError, RecursionError):
            return
    found = _told(config, objects)
    if found is not None:
        _of_files[model] = found


def compiled_of(model: Any) -> Compiled | None:
    """What a model in memory, or the file that it came from, was compiled with; None where it was not."""
    if getattr(model, "compiled", False):
        given = getattr(getattr(model, "_compile_config", None), "config", None)  # the losses themselves
        return _told(given, {})
    try:
        return _of_files.get(model)
    except TypeError:  # of a class that cannot be held so
        return None


def leaves(told: Any) -> list[Any]:
    """What is told of each output, in the order in which Keras flattens outputs: dicts by key. Settings of a class are
    one leaf."""
    if isinstance(told, Mapping) and "class_name" not in told:
        return [leaf for key in sorted(told, key=str) for leaf in leaves(told[key])]
    if isinstance(told, list | tuple):
        return [leaf for item in told for leaf in leaves(item)]
    return [told]


def _told(config: Any, objects: Mapping[str, Any]) -> Compiled | None:
    if not isinstance(config, Mapping) or not config.get("loss"):
        return None
    return Compiled(
        loss=config["loss"],
        loss_weights=config.get("loss_weights"),
        metrics=config.get("metrics"),
        objects=objects,
    )

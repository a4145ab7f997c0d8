"""Models that compute channels first ([N, C, H, W]), where TensorFlow has no kernel for that: on every CPU."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from edgeprune.maker.keras.resolution import replaced
from edgeprune.maker.keras.types import Model

__all__ = ["computed_channels_last"]


@contextlib.contextmanager
def computed_channels_last(keras: ModuleType, model: Model) -> Iterator[None]:
    """While this is open, convolutions of `model` that are channels first are computed channels last, as Keras does
    it for its pooling; nothing changes for other models."""
    if not any(getattr(layer, "data_format", "") == "channels_first" for layer in model._flatten_layers()):
        yield
        return
    nn = keras.src.backend.nn
    with replaced(nn, "conv", _turned), replaced(nn, "conv_transpose", _turned):
        yield


def _turned(original: Callable[..., Any]) -> Callable[..., Any]:
    """A convolution of Keras's backend that transposes what is channels first, and its result back."""
    from keras import config, ops

    names = list(inspect.signature(original).parameters)

    def computed(*given: Any, **more: Any) -> Any:
        told = dict(zip(names, given, strict=False)) | more
        if (told.get("data_format") or config.image_data_format()) != "channels_first":
            return original(**told)
        axes = range(1, len(told["inputs"].shape) - 1)
        last = ops.transpose(told["inputs"], (0, *(axis + 1 for axis in axes), 1))
        made = original(**told | {"inputs": last, "data_format": "channels_last"})
        return ops.transpose(made, (0, len(axes) + 1, *axes))

    return computed

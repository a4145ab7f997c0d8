"""Recurrent layers written out step by step.

A rolled recurrent layer is a loop in the graph. The TFLite quantizer dies in it (the whole process, SIGSEGV), and
coremltools cannot read it; written out, each step is a handful of plain operations that share the same weights.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import AnyModel, Layer, Tensor

__all__ = ["refuse_states", "rolled_layers", "unrolled"]

Loop = Callable[..., Any]


def rolled_layers(model: AnyModel) -> list[Layer]:
    """Recurrent layers of a model that would be traced as a loop, also those inside wrappers and nested models; none
    for a SavedModel, whose loops are what they are."""
    if not hasattr(model, "_flatten_layers"):
        return []
    rnn = keras_module().layers.RNN  # LSTM, GRU, SimpleRNN and ConvLSTM are kinds of it
    return [layer for layer in model._flatten_layers() if isinstance(layer, rnn) and not layer.unroll]


def refuse_states(model: AnyModel) -> None:
    """Raise Unsupported, naming the layer, for one that remembers its state from one call to the next."""
    for layer in model._flatten_layers() if hasattr(model, "_flatten_layers") else []:
        if getattr(layer, "stateful", False):
            raise Unsupported(
                f"layer {layer.name!r} is stateful, it remembers its state from one call to the next, which no file "
                "can: add --explicit-states (its states become inputs and outputs, which the app hands back), or "
                "build the model with stateful=False"
            )


@contextlib.contextmanager
def unrolled(model: AnyModel) -> Iterator[None]:
    """While this is open, a trace of `model` has every recurrent layer unrolled; afterwards the model is as it was.

    A layer decides this at each call, so no copy is needed, and models that cannot be copied (subclasses, cells of
    one's own) unroll too. Raises Unsupported, naming the layers, where a number of steps is found to be open.
    """
    rolled = rolled_layers(model)
    for layer in rolled:
        setattr(layer, "unroll", True)  # noqa: B010  (a field of recurrent layers only)
        if layer.go_backwards:
            # On the instance, past the bookkeeping of layers: nothing of it stays.
            object.__setattr__(layer, "inner_loop", functools.partial(_backwards, layer, layer.inner_loop))
    try:
        yield
    except InputError as cause:
        if "Cannot unroll" not in str(cause):
            raise
        names = [repr(layer.name) for layer in rolled if _open(layer)] or [repr(layer.name) for layer in rolled]
        raise Unsupported(
            f"layer {', '.join(names)} has an open number of time steps and cannot be unrolled, which this format or "
            "precision needs: give its input a fixed length"
        ) from cause
    finally:
        for layer in rolled:
            setattr(layer, "unroll", False)  # noqa: B010
            if layer.go_backwards:
                object.__delattr__(layer, "inner_loop")


def _backwards(
    layer: Layer, loop: Loop, sequences: Tensor, initial_state: object, mask: Tensor | None, training: bool = False
) -> Any:
    """What a layer that goes backwards computes, from sequence and mask turned around.

    Unrolled and with a mask, Keras 3.15 blanks the outputs by the mask in its forward order (rnn in its TensorFlow
    backend); the loop turns the mask, too.
    """
    if mask is None:
        return loop(sequences, initial_state, mask, training)
    flip = keras_module().ops.flip
    setattr(layer, "go_backwards", False)  # noqa: B010
    try:
        return loop(flip(sequences, axis=1), initial_state, flip(mask, axis=1), training)
    finally:
        setattr(layer, "go_backwards", True)  # noqa: B010


def _open(layer: Layer) -> bool:
    """Whether the layer was built on a time axis without a length."""
    shapes = [tuple(node.input_tensors[0].shape) for node in layer._inbound_nodes if node.input_tensors]
    return any(shape[1] is None for shape in shapes)

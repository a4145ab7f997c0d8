"""Recurrent layers written out step by step.

A rolled recurrent layer is a loop in the graph. The TFLite quantizer dies in it (the whole process, SIGSEGV), and
coremltools cannot read it; written out, each step is a handful of plain operations that share the same weights.
"""

from __future__ import annotations

from typing import Any

from edgeprune.errors import Unsupported
from edgeprune.keras_models import clone, keras_module

__all__ = ["open_time_axis", "rolled_layers", "unrolled"]


def rolled_layers(model: Any) -> list[Any]:
    """Recurrent layers of a model that would be traced as a loop, also those inside wrappers and nested models."""
    rnn = keras_module().layers.RNN  # LSTM, GRU, SimpleRNN and ConvLSTM are kinds of it
    return [layer for layer in model._flatten_layers() if isinstance(layer, rnn) and not layer.unroll]


def unrolled(model: Any) -> Any:
    """The model itself when nothing in it is rolled, else a copy that computes the same with every recurrent layer
    unrolled.

    Raises Unsupported for a model that cannot be copied.
    """
    rolled = rolled_layers(model)
    if not rolled:
        return model
    try:
        copy = clone(model)
    except Unsupported as cause:
        raise Unsupported(
            f"the recurrent layer {rolled[0].name!r} must be unrolled in a copy of the model, and {cause}; "
            f"or build {type(rolled[0]).__name__} with unroll=True"
        ) from cause
    for layer in rolled_layers(copy):
        layer.unroll = True
    return copy


def open_time_axis(model: Any, cause: Exception) -> Unsupported | None:
    """The error to raise when tracing an unrolled model failed because a number of steps is not fixed, else None."""
    if "unroll" not in str(cause):
        return None
    rnn = keras_module().layers.RNN
    names = [repr(layer.name) for layer in model._flatten_layers() if isinstance(layer, rnn) and _steps(layer) is None]
    which = f"layer {', '.join(names)}" if names else f"a recurrent layer of model {model.name!r}"
    return Unsupported(
        f"{which} has an open number of time steps and cannot be unrolled: give its input a fixed length"
    )


def _steps(layer: Any) -> int | None:
    """The length of the time axis that the layer was built on, None where it is open."""
    nodes = layer._inbound_nodes
    shapes = [tuple(node.input_tensors[0].shape) for node in nodes if node.input_tensors]
    return next((shape[1] for shape in shapes if shape[1] is None), 0) if shapes else 0

"""Stateful recurrent layers with their states outside: what a file cannot keep, the app hands back at the next call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeprune.errors import Unsupported
from edgeprune.maker.keras.graphs import functional_of, nodes_of
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import AnyModel, Layer, Model, Tensor

__all__ = ["StatesOutside", "stateful_layers"]


def stateful_layers(model: AnyModel) -> list[Layer]:
    """Recurrent layers that remember their state from one call to the next, outermost ones."""
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    found = [layer for layer in layers if getattr(layer, "stateful", False)]
    inner = {id(part) for layer in found for part in layer._flatten_layers(include_self=False)}
    return [layer for layer in found if id(layer) not in inner]


class StatesOutside:
    """Called for each layer of a graph that is run again: stateful ones are replaced by copies that take their states
    from new inputs and give them to new outputs; `inputs` and `outputs` are these ends, zeros being the first states.

    Raises Unsupported for layers where that cannot be done.
    """

    def __init__(self, model: Model, layers: Sequence[Layer]) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: dict[str, Tensor] = {}
        calls = [node.operation for node in nodes_of(functional_of(model))]
        for layer in layers:
            if not isinstance(layer, keras_module().layers.RNN):
                raise Unsupported(
                    f"layer {layer.name!r} ({type(layer).__name__}) keeps a state that cannot be taken out: build it "
                    "of LSTM, GRU, SimpleRNN, ConvLSTM or RNN layers"
                )
            uses = sum(operation is layer for operation in calls)
            if uses != 1:
                where = "inside another model or wrapper" if not uses else f"used {uses} times"
                raise Unsupported(f"layer {layer.name!r} is stateful and {where}, where its states cannot be taken out")
        self._layers = {id(layer): layer for layer in layers}

    def __call__(self, layer: Layer) -> Any:
        if id(layer) not in self._layers:
            return layer
        return lambda sequence, **options: self._called(layer, sequence, options)

    def _called(self, layer: Any, sequence: Tensor, options: dict[str, Any]) -> Tensor:
        keras = keras_module()
        config = {
            **_without_dropout(layer.get_config()),
            "stateful": False,
            "return_state": True,
            "name": f"{layer.name}_from_states",
        }
        copy: Any = type(layer).from_config(config)
        first = [
            keras.Input(batch_shape=(None, *state.shape[1:]), dtype=state.dtype, name=f"{layer.name}_state_{index}")
            for index, state in enumerate(keras.tree.flatten(layer.states))
        ]
        given = keras.tree.pack_sequence_as(layer.states, first)
        made = keras.tree.flatten(copy(sequence, initial_state=given, **options))
        for mine, known in zip(copy.cell.weights, layer.cell.weights, strict=True):
            mine.assign(known)
        self.inputs += first
        count = len(made) - len(first)
        for index, state in enumerate(made[count:]):
            self.outputs[f"{layer.name}_state_{index}_out"] = state
        return made[0] if count == 1 and not layer.return_state else made


def _without_dropout(config: Any) -> Any:
    """The configuration of a layer that only infers: what draws random numbers would be one more state."""
    if isinstance(config, dict):
        zeros = {"dropout": 0.0, "recurrent_dropout": 0.0}
        return {key: zeros[key] if key in zeros else _without_dropout(value) for key, value in config.items()}
    return [_without_dropout(item) for item in config] if isinstance(config, list) else config

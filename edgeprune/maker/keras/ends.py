"""What goes into and comes out of an exported model: outputs that are wanted, sizes, states, names.

The model is built again from the same layers with other ends; nothing of the caller's model changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeprune.errors import EdgepruneError, InputError, Unsupported, UsageError
from edgeprune.formats.input_sizes import InputSizes, combinations
from edgeprune.maker.keras.explicit_states import StatesOutside, stateful_layers
from edgeprune.maker.keras.graphs import functional_of
from edgeprune.maker.keras.models import as_called, input_specs, keras_module, one_line, output_names, predict
from edgeprune.maker.keras.saved_models import SavedModel
from edgeprune.maker.keras.types import AnyModel, Model, Tensor

__all__ = ["NAME", "EndOptions", "with_ends"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOptions:
    """The ends that a file should have.

    `outputs` are those that stay, by name, in this order (all where it is empty). `sizes` gives inputs, by name ("" for
    the only one), a fixed shape, several, or ranges. With `explicit_states` the states of stateful recurrent layers
    become inputs `LAYER_state_N` and outputs `LAYER_state_N_out`. `names` gives inputs and outputs other names.
    """

    outputs: tuple[str, ...] = ()
    sizes: Mapping[str, InputSizes] = field(default_factory=dict)
    explicit_states: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def of_data(self) -> EndOptions:
        """Without what data files know nothing of: states, and names that only the file has."""
        return replace(self, explicit_states=False, names={})

    @property
    def of_file(self) -> EndOptions:
        """What is left to do on a model that has the ends of the data."""
        return replace(self, outputs=(), sizes={})

    def sizes_of(self, model: AnyModel) -> dict[str, InputSizes]:
        """The sizes by input name of a model with or without these ends. Raises UsageError for inputs that it lacks."""
        known = input_specs(model)
        if "" in self.sizes and len(known) > 1 and not self.explicit_states:
            raise UsageError(
                f"--input-shape needs a name, as in {next(iter(known))}=...: the inputs are {_list(known)}"
            )
        told = {
            name if name in known else self.names.get(name, name) or next(iter(known)): sizes
            for name, sizes in self.sizes.items()
        }
        for name, sizes in told.items():
            if name not in known:
                raise UsageError(f"--input-shape {name}={sizes}: no such input; the model has {_list(known)}")
            if len(sizes.axes) != len(known[name][0]):
                raise UsageError(
                    f"--input-shape {sizes}: input {name!r} has {len(known[name][0])} sizes with the batch, "
                    f"{_shown(known[name][0])}"
                )
        if len({known.axes[0] for known in told.values()}) > 1:
            raise UsageError(f"--input-shape: all inputs have one batch; got {_told(told)}")
        return told


def with_ends(model: AnyModel, options: EndOptions) -> AnyModel:
    """A model of the same layers with these ends; the model itself where nothing changes.

    Raises UsageError for names that there are not, and Unsupported where a layer does not take a size or a state.
    """
    sizes = options.sizes_of(model)
    for name in options.outputs:
        if name not in output_names(model):
            raise UsageError(f"--outputs {name}: no such output; the model has {_list(output_names(model))}")
    if isinstance(model, SavedModel):
        return _cut(model, options, sizes)
    model = _chosen(model, options.outputs)
    if sizes:
        model = _resized(model, sizes)
    if options.explicit_states:
        model = _streaming(model)
    return _renamed(model, options.names) if options.names else model


def _as_told(shape: Sequence[int | None], sizes: InputSizes | None) -> bool:
    return sizes is None or (tuple(shape[1:]) == sizes.signature[1:] and (shape[0] or 1) == sizes.axes[0][0])


def _cut(model: SavedModel, options: EndOptions, sizes: Mapping[str, InputSizes]) -> SavedModel:
    """A SavedModel with fewer outputs, and with sizes where it left them open."""
    if options.explicit_states or options.names:
        told = "--explicit-states" if options.explicit_states else "--name"
        raise Unsupported(
            f"model {model.name!r} is a SavedModel, which has no layers to build again: {told} needs them"
        )
    inputs = []
    for tensor in model.inputs:
        wanted = sizes.get(tensor.name)
        if wanted and not (wanted.takes(tensor.shape) and tensor.shape[0] in (None, wanted.axes[0][0])):
            raise Unsupported(
                f"input {tensor.name!r} of a SavedModel has the shape {_shown(tensor.shape)}, and only what is open in "
                f"it can be chosen; got {wanted}"
            )
        batch = None if wanted is None or wanted.axes[0] == (1,) else wanted.axes[0][0]
        inputs.append(replace(tensor, shape=(batch, *wanted.signature[1:])) if wanted else tensor)
    kept = {tensor.name: tensor for tensor in model.outputs}
    outputs = tuple(kept[name] for name in options.outputs or kept)
    return replace(model, inputs=tuple(inputs), outputs=outputs)


def _chosen(model: Model, names: Sequence[str]) -> Model:
    known = dict(zip(output_names(model), model.outputs, strict=True))
    if not names or list(names) == list(known):
        return model
    return _built(model, model.inputs, {name: known[name] for name in names})


def _built(model: Model, inputs: Sequence[Tensor], outputs: Mapping[str, Tensor]) -> Model:
    """A model with these ends, outputs under their names and in this order."""
    taken = as_called(model, inputs) if len(inputs) == len(model.inputs) else list(inputs)
    built: Any = keras_module().Model(taken, list(outputs.values()), name=model.name)
    built.output_names = list(outputs)
    return built


def _resized(model: Model, sizes: Mapping[str, InputSizes]) -> Model:
    """Its layers called again on inputs of these sizes."""
    for shapes in combinations(sizes) if not all(known.fixed for known in sizes.values()) else ():
        # Each for itself: an open size says nothing of what fits.
        fixed = {name: InputSizes(axes=tuple((size,) for size in shape)) for name, shape in shapes.items()}
        _tried(_called_again(model, _inputs(model, fixed), _told(fixed)), _told(fixed))
    if all(_as_told(shape, sizes.get(name)) for name, (shape, _) in input_specs(model).items()):
        return model
    return _called_again(model, _inputs(model, sizes), _told(sizes))


def _told(sizes: Mapping[str, InputSizes]) -> str:
    return ", ".join(f"{name} {known}" for name, known in sizes.items())


def _tried(model: Model, told: str) -> None:
    """Compute it once. Raises Unsupported where that fails, which Keras does not see from shapes alone."""
    zeros = {
        name: np.zeros([size or 1 for size in shape], dtype) for name, (shape, dtype) in input_specs(model).items()
    }
    try:
        predict(model, zeros)
    except InputError as cause:
        raise Unsupported(f"model {model.name!r} does not take {told}: {cause}") from cause


def _inputs(model: Model, sizes: Mapping[str, InputSizes]) -> list[Tensor]:
    keras = keras_module()
    fed, batch = [], next(iter({known.axes[0][0] for known in sizes.values()}))
    for (name, (shape, dtype)), tensor in zip(input_specs(model).items(), model.inputs, strict=True):
        wanted = sizes.get(name)
        size = shape[1:] if wanted is None else wanted.signature[1:]
        fed.append(
            keras.Input(
                batch_shape=(batch if batch > 1 else None, *size),
                dtype=dtype,
                name=name,
                sparse=getattr(tensor, "sparse", False),
            )
        )
    return fed


def _called_again(model: Model, fed: Sequence[Tensor], told: str, states: StatesOutside | None = None) -> Model:
    graph: Any = functional_of(model)
    try:
        made = graph._run_through_graph(list(fed), operation_fn=states or (lambda layer: layer))
    except EdgepruneError:
        raise
    except Exception as cause:  # a layer that was built for other sizes; Keras raises anything
        raise Unsupported(f"model {model.name!r} does not take {told}: {one_line(cause)[:200]}") from cause
    flat = keras_module().tree.flatten(made)
    outputs = dict(zip(output_names(model), flat, strict=True))
    more = states.outputs if states else {}
    return _built(model, [*fed, *(states.inputs if states else ())], {**outputs, **more})


def _streaming(model: Model) -> Model:
    """The states of its recurrent layers as inputs and outputs."""
    found = stateful_layers(model)
    if not found:
        raise Unsupported(f"model {model.name!r} has no stateful recurrent layer, so --explicit-states changes nothing")
    keras = keras_module()
    fed = [
        keras.Input(batch_shape=(None, *shape[1:]), dtype=dtype, name=name)
        for name, (shape, dtype) in input_specs(model).items()
    ]
    return _called_again(model, fed, "its states from outside", StatesOutside(model, found))


def _renamed(model: Model, names: Mapping[str, str]) -> Model:
    """Other names for its ends."""
    keras = keras_module()
    inputs, outputs = list(input_specs(model)), output_names(model)
    for old, new in names.items():
        if old not in (*inputs, *outputs):
            raise UsageError(f"--name {old}={new}: no such input or output; there are {_list([*inputs, *outputs])}")
        if not NAME.fullmatch(new):
            raise UsageError(f"--name {old}={new}: a name has letters, digits and _, and begins with a letter")
    ends = [names.get(name, name) for name in (*inputs, *outputs)]
    if len({*ends}) != len(ends):
        raise UsageError(f"--name: two ends of one name: {_list(ends)}")
    fed = [
        keras.Input(batch_shape=shape, dtype=dtype, name=names.get(name, name))
        for name, (shape, dtype) in input_specs(model).items()
    ]
    graph: Any = functional_of(model)
    made = keras.tree.flatten(graph._run_through_graph(fed, operation_fn=lambda layer: layer))
    return _built(model, fed, {names.get(name, name): end for name, end in zip(outputs, made, strict=True)})


def _shown(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _list(names: object) -> str:
    return ", ".join(map(str, names))  # type: ignore[call-overload]

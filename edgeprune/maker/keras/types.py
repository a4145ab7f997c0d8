"""What this package uses of the objects of Keras and TensorFlow, which publish no types of their own.

The classes are Protocols: nothing is imported, and a model of Keras is a `Model` as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from edgeprune.maker.keras.saved_models import SavedModel

__all__ = [
    "AnyModel",
    "Arguments",
    "Config",
    "Graph",
    "History",
    "Layer",
    "Model",
    "Node",
    "Optimizer",
    "Shape",
    "Tensor",
    "Variable",
]

Config = dict[str, Any]  # of a layer or model, as Keras writes it: JSON
Shape = tuple[int | None, ...]  # None stands for an open size
AnyModel: TypeAlias = "Model | SavedModel"  # what can be evaluated and converted


class Tensor(Protocol):
    """A tensor: one of a model's graph, or one with values."""

    name: str
    _keras_history: History

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> str: ...
    def numpy(self) -> np.ndarray: ...
    def __array__(self) -> np.ndarray: ...
    def __add__(self, other: object, /) -> Tensor: ...
    def __radd__(self, other: object, /) -> Tensor: ...
    def __sub__(self, other: object, /) -> Tensor: ...
    def __rsub__(self, other: object, /) -> Tensor: ...
    def __mul__(self, other: object, /) -> Tensor: ...
    def __rmul__(self, other: object, /) -> Tensor: ...
    def __truediv__(self, other: object, /) -> Tensor: ...
    def __neg__(self) -> Tensor: ...
    def __getitem__(self, place: object, /) -> Tensor: ...


class Variable(Protocol):
    """A weight: values that training may change."""

    name: str
    path: str
    trainable: bool
    constraint: Callable[[Tensor], Tensor] | None

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def value(self) -> Tensor: ...
    def assign(self, value: object) -> object: ...
    def numpy(self) -> np.ndarray: ...
    def __array__(self) -> np.ndarray: ...


class Layer(Protocol):
    """A layer or an operation. Each class of layer has fields of its own beside these."""

    name: str
    trainable: bool

    @property
    def weights(self) -> Sequence[Variable]: ...
    @property
    def trainable_weights(self) -> Sequence[Variable]: ...
    @property
    def non_trainable_weights(self) -> Sequence[Variable]: ...
    def get_config(self) -> Config: ...
    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any: ...
    def _flatten_layers(self, *, include_self: bool = True, recursive: bool = True) -> Iterable[Layer]: ...
    def __call__(self, *values: Any, **options: Any) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...


class Model(Layer, Protocol):
    """A model: layers, and the graph that ties its inputs to its outputs."""

    built: bool
    compiled: bool

    @property
    def inputs(self) -> Sequence[Tensor]: ...
    @property
    def outputs(self) -> Sequence[Tensor]: ...
    @property
    def layers(self) -> Sequence[Layer]: ...
    @property
    def input_shape(self) -> Shape: ...
    def get_layer(self, name: str) -> Layer: ...
    def get_weights(self) -> list[np.ndarray]: ...
    def set_weights(self, weights: Sequence[np.ndarray]) -> None: ...
    def build(self, input_shape: Shape) -> None: ...
    def compile(
        self, optimizer: object, loss: object, *, loss_weights: object = None, jit_compile: bool = False
    ) -> None: ...
    def train_on_batch(self, x: object, y: object, sample_weight: object = None) -> float: ...
    def save(self, filepath: Path) -> None: ...


class Optimizer(Protocol):
    """An optimizer of Keras. Each class has fields of its own beside these."""

    name: str
    built: bool

    @property
    def variables(self) -> Sequence[Variable]: ...
    def add_variable(self, shape: Shape, **settings: Any) -> Variable: ...
    def __getattr__(self, name: str) -> Any: ...


class History(Protocol):
    """Where a tensor of a graph comes from."""

    operation: Layer
    node_index: int
    tensor_index: int


class Arguments(Protocol):
    """What a call is given."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def fill_in(self, tensor_dict: Mapping[int, Tensor]) -> tuple[Sequence[Any], dict[str, Any]]: ...


class Node(Protocol):
    """One call of a layer or operation in a graph."""

    operation: Layer
    arguments: Arguments
    is_input: bool

    @property
    def input_tensors(self) -> Sequence[Tensor]: ...
    @property
    def outputs(self) -> Sequence[Tensor]: ...


class Graph(Protocol):
    """The functional graph of a model: calls by their distance from the outputs."""

    name: str
    _nodes_by_depth: Mapping[int, Sequence[Node]]
    _inputs_struct: object
    _outputs_struct: object

    @property
    def inputs(self) -> Sequence[Tensor]: ...
    @property
    def outputs(self) -> Sequence[Tensor]: ...

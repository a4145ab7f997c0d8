"""An optimizer that prunes, made from the user's own.

A subclass of the optimizer's class is made for it, so that whatever trains with the optimizer prunes: `fit`, a custom
loop, a step of the model's own, on each backend of Keras. Constraints of variables cannot do this: JAX freezes a mask
into the compiled step. Masks are saved and loaded with the optimizer's state.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from edgeprune.errors import UsageError
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.keras.types import Config, Model, Optimizer, Variable
from edgeprune.maker.pruning.owners import owner_of
from edgeprune.maker.pruning.sparse_masks import Masks, SparsePlan
from edgeprune.maker.training.distiller import trained_model

__all__ = [
    "SparseOptimizer",
    "copy_state",
    "inner_optimizer",
    "make_sparse",
    "masks_of",
    "plain_optimizer",
    "unbuilt",
    "with_loss_scaling",
    "without_masks",
]

NOTE = "made by edgeprune.sparse: call edgeprune.finalize(model) before saving, or edgeprune.sparse before loading"
EXCLUSIONS = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")  # of an optimizer, in no config


class SparseOptimizer:
    """What pruning adds to an optimizer's class; a subclass of both is made for each class of optimizer."""

    plan: SparsePlan
    model: Model | None = None
    masks: Masks | None = None

    def build(self: Any, variables: Sequence[Variable]) -> None:
        """The variables of the optimizer, and the masks."""
        super().build(variables)  # type: ignore[misc]
        with _outside_graphs():
            model = trained_model(self.model or owner_of(variables, self))
            self.masks = Masks(self, self.plan, model)
            self.masks.begin()

    def apply(self: Any, grads: Sequence[object], trainable_variables: Sequence[Variable] | None = None) -> None:
        """The optimizer's update; then the masks that are due, and zeros where they are False."""
        if self.masks is not None:
            self.masks.before_update()
            if self.masks.behind:
                own = self._trainable_variables if trainable_variables is None else trainable_variables
                grads = self.masks.straight_through(grads, own)
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        if len(grads):
            self.masks.after_update()

    def finalize_variable_values(self: Any, var_list: Sequence[Variable]) -> None:
        """Averaged weights take the place of the last ones, with the same zeros."""
        super().finalize_variable_values(var_list)  # type: ignore[misc]
        if self.masks is not None:
            self.masks.write_zeros()

    def trains(self: Any, variable: Variable) -> bool:
        """Whether the optimizer was built for this variable."""
        return self._var_key(variable) in self._trainable_variables_indices

    def _check_variables_are_known(self: Any, variables: Sequence[Variable]) -> None:
        if not all(self.trains(variable) for variable in variables):
            raise UsageError(
                f"optimizer {self.name!r} already prunes another model, or this one before it was built anew: "
                "make an optimizer for each model, edgeprune.sparse(...)"
            )

    def get_config(self: Any) -> Config:
        """The plain optimizer and what it prunes."""
        plain = keras_module(any_backend=True).optimizers.serialize(plain_optimizer(self))
        return {"note": NOTE, "optimizer": plain, "plan": self.plan.as_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Optimizer:
        """The sparse optimizer that `get_config` wrote."""
        keras = keras_module(any_backend=True)
        plain = keras.optimizers.deserialize(dict(config["optimizer"]), custom_objects=custom_objects)
        return make_sparse(plain, SparsePlan.from_config(config["plan"]))


def make_sparse(optimizer: Optimizer, plan: SparsePlan, model: Model | None = None) -> Optimizer:
    """An optimizer of the same kind and settings that prunes; one with loss scaling prunes inside it.

    The argument is left alone. `model` is whose kernels are pruned; None to find it when the optimizer is built.
    """
    keras = keras_module(any_backend=True)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return with_loss_scaling(optimizer, make_sparse(optimizer.inner_optimizer, plan, model))
    made = _remade(optimizer, _sparse_class(type(optimizer)))
    # Set without Keras's and TensorFlow's tracking of attributes: neither the model nor the masks are its parts.
    vars(made).update(plan=plan, model=model, masks=None)
    return made


def with_loss_scaling(scaling: Any, inner: Optimizer) -> Optimizer:
    """An optimizer that scales losses like this one, around another."""
    made: Optimizer = type(scaling)(
        inner, initial_scale=scaling.initial_scale, dynamic_growth_steps=scaling.dynamic_growth_steps
    )
    return made


def unbuilt(optimizer: Optimizer, model: Model) -> Optimizer:
    """An optimizer of the same kind and settings without any state; one that prunes prunes this model."""
    keras = keras_module(any_backend=True)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return with_loss_scaling(optimizer, unbuilt(optimizer.inner_optimizer, model))
    if issubclass(type(optimizer), SparseOptimizer):
        return make_sparse(plain_optimizer(optimizer), optimizer.plan, model)
    return _remade(optimizer, type(optimizer))


def copy_state(before: Any, after: Any) -> Optimizer:
    """Build `after` for the variables of `before` and give it its state, masks aside."""
    after.build(before._trainable_variables)
    for new, old in zip(without_masks(after), without_masks(before), strict=True):
        new.assign(old.value)
    return after


def without_masks(optimizer: Any) -> list[Variable]:
    """The variables of an optimizer that its kind has without pruning."""
    inner = inner_optimizer(optimizer)
    masks = set() if inner is None or inner.masks is None else {id(v) for v in inner.masks.state}
    return [variable for variable in optimizer.variables if id(variable) not in masks]


def plain_optimizer(optimizer: Optimizer) -> Optimizer:
    """An optimizer of the user's own class with the same settings, which prunes nothing; not built."""
    return _remade(optimizer, next(kind for kind in type(optimizer).__mro__ if not issubclass(kind, SparseOptimizer)))


def inner_optimizer(optimizer: object) -> Optimizer | None:
    """The sparse optimizer in this one, which may scale losses around it; None where there is none."""
    inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
    return inner if issubclass(type(inner), SparseOptimizer) else None


def masks_of(optimizer: object) -> Masks:
    """The masks of a sparse optimizer that has trained."""
    inner = inner_optimizer(optimizer)
    assert inner is not None
    assert inner.masks is not None
    return inner.masks


def _remade(optimizer: Any, kind: type) -> Any:
    """An optimizer of this class, the same or one more or less derived, with the settings of this one."""
    parent: Any = super(SparseOptimizer, optimizer) if issubclass(type(optimizer), SparseOptimizer) else optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a learning rate that is a lambda: it is not written to a file here
        config = parent.get_config()
    rate = getattr(optimizer, "_learning_rate", None)
    if callable(rate) and "learning_rate" in config:
        config["learning_rate"] = rate  # a schedule or function: the same object, for not every one has a config
    maker: Any = super(SparseOptimizer, kind) if issubclass(kind, SparseOptimizer) else kind
    made = maker.from_config(config)
    for name in EXCLUSIONS:
        if hasattr(optimizer, name):
            setattr(made, name, getattr(optimizer, name))
    return made


@functools.cache
def _sparse_class(kind: type) -> type:
    """The class of optimizers of this kind that prune, registered for .keras files."""
    made = type("SparseOptimizer", (SparseOptimizer, kind), {"__module__": __name__})
    return _registered(made)


def _registered(kind: type) -> type:
    register = sys.modules["keras"].saving.register_keras_serializable
    return register(package="edgeprune", name="SparseOptimizer")(kind)


def _outside_graphs() -> AbstractContextManager[object]:
    """A context in which values can be read though a TensorFlow function is being traced."""
    if keras_module(any_backend=True).backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


if "keras" in sys.modules:  # a file that was saved while it trained can be loaded once this module is here
    _registered(SparseOptimizer)

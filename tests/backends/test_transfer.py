"""Training that goes on behind a surgery, with the optimizer's state cut as the weights were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.errors import Unsupported, UsageError
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.pruning.channel.rounds import composed
from edgeprune.maker.pruning.channel.surgery import part

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6, 6, 3)).astype(np.float32), RNG.integers(0, 3, 16)
DEAD = [1, 4, 6]


def network(keras: Any) -> Any:
    """A residual network of eight channels; three of them are dead and stay so: no gradient reaches them."""
    keras.utils.set_random_seed(1)

    def convolved(h: Any, name: str) -> Any:
        h = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=name)(h)
        return keras.layers.BatchNormalization(name=f"{name}_norm")(h)

    x = keras.Input((6, 6, 3), name="x")
    h = keras.layers.ReLU()(convolved(x, "first"))
    inner = convolved(keras.layers.ReLU()(convolved(h, "second")), "third")
    h = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(keras.layers.Add()([h, inner])))
    model = keras.Model(x, keras.layers.Dense(3, activation="softmax", name="scores")(h))
    for norm in ("first_norm", "second_norm", "third_norm"):
        for variable, value in ((model.get_layer(norm).gamma, 0), (model.get_layer(norm).beta, -1)):
            values = np.array(variable)
            values[DEAD] = value
            variable.assign(values)
    return model


def trained(model: Any, steps: int, optimizer: Any = None) -> Any:
    """So many steps on one batch; on TensorFlow without a graph, which takes seconds to trace."""
    if optimizer is not None:
        backend = keras_module(any_backend=True).backend.backend()
        settings = {"jit_compile": backend == "jax", "run_eagerly": backend == "tensorflow"}
        model.compile(optimizer, "sparse_categorical_crossentropy", **settings)
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def adam(keras: Any, **settings: Any) -> Any:
    """With an epsilon above the rounding of gradients."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5)
    return keras.optimizers.Adam(rate, epsilon=1e-3, **settings)


def scaled(keras: Any) -> Any:
    """Loss scaling around momentum, with accumulated gradients."""
    inner = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, gradient_accumulation_steps=2)
    return keras.optimizers.LossScaleOptimizer(inner)


def pruning(keras: Any) -> Any:
    """Masks of one step, held afterwards."""
    return edgeprune.sparse(adam(keras), sparsity=0.5, begin=1, end=2, frequency=1, keep_last=True)


def averaged(keras: Any) -> Any:
    """Adam with moving averages of the weights."""
    return adam(keras, use_ema=True, amsgrad=True)


@pytest.mark.parametrize("make", [averaged, scaled, pruning], ids=lambda make: make.__name__)
def test_as_if_nothing_had_been_cut(keras: Any, make: Any) -> None:
    """Three steps, the surgery, three steps: the weights that are left are those of six steps without it."""
    model = trained(network(keras), 3, make(keras))
    result = edgeprune.prune_dead(model)
    assert [row.after for row in result.report.removed] == [5, 5, 5]
    optimizer = edgeprune.transfer_optimizer(model, result)
    trained(model, 3), trained(result.model, 3, optimizer)
    for old, new, places in zip(model.weights, result.model.weights, result.kept, strict=True):
        assert np.array(new) == pytest.approx(part(np.array(old), places), abs=2e-6), new.path
    assert int(optimizer.iterations) == int(model.optimizer.iterations)
    assert float(np.array(optimizer.learning_rate)) == float(np.array(model.optimizer.learning_rate))
    if make is pruning:
        zeros = [(np.array(m.get_layer("second").kernel) == 0)[0, 0] for m in (model, result.model)]
        left = np.setdiff1d(np.arange(8), DEAD)
        assert (zeros[1] == zeros[0][np.ix_(left, left)]).all()
        assert edgeprune.finalize(result.model, quiet=True) is result.model


def test_of_a_student(keras: Any) -> None:
    """A Distiller's optimizer goes on with the student that was cut, in a new Distiller."""
    losses, teacher = edgeprune.LogitsDistillation(), network(keras)
    model = trained(edgeprune.Distiller(teacher, network(keras), losses), 1, adam(keras))
    result = edgeprune.prune_channels(model.student, edgeprune.ChannelOptions(ratio=0.25, round_to=1))
    again = edgeprune.Distiller(teacher, result.model, losses)
    trained(again, 1, edgeprune.transfer_optimizer(model, result))
    assert int(again.optimizer.iterations) == 2


def test_what_cannot_be_transferred(keras: Any) -> None:
    """One line that says what to do."""
    options = edgeprune.ChannelOptions(ratio=0.25, round_to=1)
    model = network(keras)
    result = edgeprune.prune_channels(model, options, verify=False)
    with pytest.raises(UsageError, match="say which optimizer"):
        edgeprune.transfer_optimizer(model, result)
    model.compile("adam", "mse")
    with pytest.raises(UsageError, match="has not made a step"):
        edgeprune.transfer_optimizer(model, result)
    for kind, name in ((keras.optimizers.Adafactor, "Adafactor"), (keras.optimizers.Adam, "")):
        optimizer = kind()
        optimizer.build(model.trainable_variables)
        if name:
            with pytest.raises(UsageError, match=f"{name} keeps .* cannot be cut"):
                edgeprune.transfer_optimizer(model, result, optimizer=optimizer)
    with pytest.raises(UsageError, match="was not cut out of model"):
        edgeprune.transfer_optimizer(result.model, result, optimizer=optimizer)
    with pytest.raises(UsageError, match="takes what prune_channels returned"):
        edgeprune.transfer_optimizer(model, result.model, optimizer=optimizer)
    other = network(keras)
    with pytest.raises(UsageError, match="trained another model"):
        edgeprune.transfer_optimizer(other, result, optimizer=optimizer)


def test_criteria_that_look_at_samples_need_tensorflow(keras: Any) -> None:
    """The others work on every backend."""
    if keras.backend.backend() == "tensorflow":
        pytest.skip("they work there")
    model = network(keras)
    samples = edgeprune.Samples(path=None, inputs={"x": X}, targets=Y)
    options = edgeprune.ChannelOptions(ratio=0.25, importance="taylor")
    with pytest.raises(Unsupported, match="need Keras on TensorFlow: use l1, l2"):
        edgeprune.prune_channels(model, options, samples=samples, metric="accuracy")


def test_rounds_compose() -> None:
    """What two cuts keep, in places of the first model."""
    first, second = ({0: np.array([0, 2, 3, 5])}, {}), ({0: np.array([1, 3]), 1: np.array([0])}, {1: np.array([2])})
    made = composed(composed((), first), second)
    assert [{axis: list(places) for axis, places in kept.items()} for kept in made] == [{0: [2, 5], 1: [0]}, {1: [2]}]

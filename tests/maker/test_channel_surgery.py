"""Channel surgery: the smaller model computes what the old one computes with the removed channels set to zero."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channel_zoo import ZOO, inputs_for, randomised

from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import clone, predict
from edgeprune.maker.pruning.channel.groups import Structure
from edgeprune.maker.pruning.channel.pruner import analyse
from edgeprune.maker.pruning.channel.surgery import cut, zeroed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")
FROM_KERAS: dict[str, dict[str, float]] = {
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {"alpha": 0.75},
    "DenseNet121": {},
    "EfficientNetB0": {},
}


def build(keras: Any, name: str, seed: int = 0) -> Any:
    return randomised(ZOO[name](keras, keras.layers, keras.ops), seed)


def some_units(structure: Structure, ratio: float, seed: int) -> np.ndarray:
    """Random units to keep: about `ratio` of each prunable group goes."""
    rng = np.random.default_rng(seed)
    kept = np.ones(len(structure), bool)
    for group in structure.groups:
        if group.reason is None:
            free = group.units[structure.free[group.units]]
            kept[rng.permutation(free)[: min(int(len(group.units) * ratio), len(group.units) - 1)]] = False
    for guard in structure.guards():
        kept[guard[0]] |= not kept[guard].any()
    return kept


def relative_error(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(expected[n] - got[n]).max() / np.abs(expected[n]).max()) for n in expected)


@pytest.mark.parametrize("name", ZOO)
def test_surgery_is_exact(keras: Any, name: str) -> None:
    """Random weights and statistics, random channels: outputs equal those of the zeroed model to 1e-4."""
    model = build(keras, name)
    structure = analyse(model)
    for seed in range(2):
        kept = some_units(structure, 0.4, seed)
        small, reference = cut(structure, kept), zeroed(structure, kept, clone)
        x = inputs_for(model)
        expected = predict(reference, x)
        assert relative_error(expected, predict(small, x)) <= 1e-4
        if not kept.all():  # the test bites: removing these channels does change the outputs
            assert relative_error(predict(model, x), expected) > 1e-3


@pytest.mark.parametrize("name", ZOO)
def test_what_the_smaller_model_is_made_of(keras: Any, name: str) -> None:
    """Same layers, names, ends and order; parameters as counted before the surgery; the argument untouched."""
    model = build(keras, name)
    before = [np.array(w) for w in model.weights]
    structure = analyse(model)
    kept = some_units(structure, 0.4, 3)
    small = cut(structure, kept)
    assert [(layer.name, type(layer)) for layer in small.layers] == [(la.name, type(la)) for la in model.layers]
    assert small.name == model.name
    assert [t.shape for t in small.inputs] == [t.shape for t in model.inputs]
    assert [t.shape for t in small.outputs] == [t.shape for t in model.outputs]
    assert structure.cost(kept).parameters == small.count_params()
    assert structure.whole().parameters == model.count_params()
    assert all((old == np.array(new)).all() for old, new in zip(before, model.weights, strict=True))
    assert not {id(w) for w in small.weights} & {id(w) for w in model.weights}


@pytest.mark.parametrize(("name", "least"), [("operators", 1), ("attention", 2), ("mixer", 0), ("shuffle_unit", 3)])
def test_how_many_groups_can_be_pruned(keras: Any, name: str, least: int) -> None:
    """Coverage does not shrink unnoticed."""
    groups = analyse(build(keras, name)).groups
    assert sum(group.reason is None for group in groups) == least


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"operators", "attention", "mixer"}))
def test_all_but_the_outputs_can_be_pruned(keras: Any, name: str) -> None:
    """In every other model of the zoo only the groups that make an output stay."""
    for group in analyse(build(keras, name)).groups:
        if group.reason is not None:
            assert group.reason.startswith("an output of the model") or "softmax" in group.reason


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_KERAS)
def test_models_of_keras_applications(keras: Any, name: str) -> None:
    """Published architectures at their smallest size, with classes as logits."""
    build_it = getattr(keras.applications, name)
    shape = (32, 32, 3)
    model = randomised(build_it(input_shape=shape, weights=None, classifier_activation=None, **FROM_KERAS[name]))
    structure = analyse(model)
    kept = some_units(structure, 0.3, 0)
    x = {model.inputs[0]._keras_history.operation.name: np.random.default_rng(0).uniform(0, 255, (2, *shape))}
    expected = predict(zeroed(structure, kept, clone), x)
    assert relative_error(expected, predict(cut(structure, kept), x)) <= 1e-4
    assert structure.cost(kept).macs < 0.8 * structure.whole().macs


def test_a_file_of_the_smaller_model_needs_no_edgeprune(keras: Any, tmp_path: Path) -> None:
    """The saved model loads with Keras alone and gives the same numbers."""
    model = build(keras, "nested")
    structure = analyse(model)
    small = cut(structure, some_units(structure, 0.4, 0))
    small.save(tmp_path / "small.keras")
    x = inputs_for(model)
    (name,) = x
    np.save(tmp_path / "x.npy", x[name])
    script = (
        "import sys, numpy as np, keras\n"
        "made = keras.models.load_model('small.keras')(np.load('x.npy'))\n"
        "np.save('y.npy', np.asarray(made))\n"
        "assert not [m for m in sys.modules if m.startswith('edgeprune')]\n"
    )
    subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    expected = next(iter(predict(small, x).values()))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)


def test_slices_of_a_loaded_model(keras: Any, tmp_path: Path) -> None:
    """A slice reads the same after saving and loading, from the end too; steps along other axes do not matter."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, padding="same", name="a")(x)
    y = L.Concatenate()([y[:, ::2, :, -6:], y[:, 1::2, :, :6]])
    randomised(keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))).save(tmp_path / "m.keras")
    model = load_model(tmp_path / "m.keras")
    structure = analyse(model)
    kept = some_units(structure, 0.4, 0)
    assert not kept.all()
    x = inputs_for(model)
    expected = predict(zeroed(structure, kept, clone), x)
    assert relative_error(expected, predict(cut(structure, kept), x)) <= 1e-4


def test_code_that_was_trusted(keras: Any) -> None:
    """A model with a Lambda is rebuilt with it; the Lambda's channels stay."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8,))
    y = L.Lambda(lambda t: t * 2, name="code")(L.Dense(16, name="b")(L.Dense(16, activation="relu", name="a")(x)))
    structure = analyse(keras.Model(x, L.Dense(2)(y)))
    small = cut(structure, some_units(structure, 0.5, 0))
    assert (small.get_layer("a").units, small.get_layer("b").units) == (8, 16)


def test_channels_first(keras: Any) -> None:
    """Channels on the first axis are found there (kernels and normalisation; the graph cannot run on every CPU)."""
    layers = keras.layers
    x = keras.Input((3, 8, 8))
    y = layers.Conv2D(16, 3, data_format="channels_first", name="a")(x)
    y = layers.ReLU()(layers.BatchNormalization(axis=1)(y))
    y = layers.Conv2D(8, 3, data_format="channels_first", name="b")(y)
    structure = analyse(keras.Model(x, y))
    kept = np.ones(len(structure), bool)
    kept[structure.groups[0].units[:4]] = False
    small = cut(structure, kept)
    assert small.get_layer("a").kernel.shape == (3, 3, 3, 12)
    assert small.get_layer("b").kernel.shape == (3, 3, 12, 8)

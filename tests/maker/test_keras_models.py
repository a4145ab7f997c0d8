"""Loading, copying, saving and walking Keras models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras import models
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import (
    FEW,
    clone,
    count_nonzero_parameters,
    count_parameters,
    input_specs,
    leaf_layers,
    output_names,
    predict,
    predictor,
    save_model,
)


def test_a_clone_is_separate(image_model: Any) -> None:
    """A copy computes the same and shares no variable with its original."""
    copy = clone(image_model)
    x = {"image": np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)}
    assert (predict(copy, x)["scores"] == predict(image_model, x)["scores"]).all()
    assert {id(v) for v in copy.variables} & {id(v) for v in image_model.variables} == set()
    copy.get_layer("conv").kernel.assign(np.zeros((3, 3, 1, 8)))
    assert count_nonzero_parameters(image_model) > count_nonzero_parameters(copy)


def test_a_clone_keeps_frozen_layers_frozen(keras: Any) -> None:
    """trainable = False survives, on a layer and on an inner model."""
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="inner")
    inner.trainable = False
    model = keras.Model(x, keras.layers.Dense(2, trainable=False)(keras.layers.Dense(3)(inner(x))))
    assert len(clone(model).trainable_weights) == 2


def test_a_clone_normalises_alike(tmp_path: Path, keras: Any) -> None:
    """A Normalization that learned its mean computes the same in a copy and after saving."""
    norm = keras.layers.Normalization()
    norm.adapt(np.array([[1.0, 10.0], [3.0, 30.0]], np.float32))
    x = keras.Input((2,), name="x")
    model = keras.Model(x, norm(x))
    save_model(model, tmp_path / "m.keras")
    for made in (model, clone(model), load_model(tmp_path / "m.keras")):
        assert next(iter(predict(made, {"x": np.array([[3.0, 10.0]])}).values())).tolist() == [[1, -1]]


def test_saving_leaves_training_behind(tmp_path: Path, keras: Any, vector_model: Any) -> None:
    """A trained model is written without optimizer slots, and read back with the same outputs."""
    model = clone(vector_model)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(np.ones((4, 6), np.float32), np.zeros(4))
    save_model(model, tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert not loaded.compiled
    x = {"x": np.eye(6, dtype=np.float32)}
    assert (predict(loaded, x)["scores"] == predict(model, x)["scores"]).all()
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


@pytest.mark.filterwarnings("ignore")  # Keras calls HDF5 a legacy format each time it writes one
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_both_formats_are_read(tmp_path: Path, image_model: Any, suffix: str) -> None:
    """A model comes back the same from .keras and from .h5."""
    image_model.save(tmp_path / f"m{suffix}")
    loaded = load_model(tmp_path / f"m{suffix}")
    assert input_specs(loaded) == {"image": ((None, 8, 8, 1), "float32")}
    for here, there in zip(image_model.get_weights(), loaded.get_weights(), strict=True):
        assert (here == there).all()


def test_the_suffix_does_not_decide(tmp_path: Path, image_model: Any) -> None:
    """A file under a wrong name is told by its first bytes, with the name that Keras reads it under."""
    image_model.save(tmp_path / "m.keras")
    (tmp_path / "m.keras").rename(tmp_path / "m.h5")
    with pytest.raises(InputError, match=r"content is that of a .keras file; rename it to m.keras"):
        load_model(tmp_path / "m.h5")


def test_counts(image_model: Any) -> None:
    """Parameters by hand: 72+8, 4*8, 72+8, 96+12, 36+3."""
    assert count_parameters(image_model) == 80 + 32 + 80 + 108 + 39
    assert count_nonzero_parameters(image_model) == 339


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_input_names_are_stable(tmp_path: Path, keras: Any, kind: str, named: bool) -> None:
    """An input has the same name in a model, its copies and its files, also when nobody named it."""
    x = keras.Input((4,), name="pixels" if named else None)
    dense = keras.layers.Dense(2)
    model = keras.Sequential([x, dense]) if kind == "sequential" else keras.Model(x, dense(x))
    names = list(input_specs(model))
    assert names == ["pixels"] or not named
    assert list(input_specs(clone(model))) == list(input_specs(clone(clone(model)))) == names
    save_model(model, tmp_path / "m.keras")
    assert list(input_specs(load_model(tmp_path / "m.keras"))) == names


def test_inputs_in_a_dict(tmp_path: Path, keras: Any) -> None:
    """A model called with a dict gets each array under its own name, also as a copy and from a file."""
    ends = {name: keras.Input((size,), name=name) for name, size in (("zeta", 3), ("alpha", 2))}
    model = keras.Model(
        ends, keras.layers.Dense(2, name="d")(keras.layers.Concatenate()([ends["zeta"], ends["alpha"]]))
    )
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(5, size)).astype(np.float32) for name, size in (("alpha", 2), ("zeta", 3))}
    kernel, bias = model.get_layer("d").get_weights()
    expected = np.concatenate([x["zeta"], x["alpha"]], 1) @ kernel + bias
    save_model(model, tmp_path / "m.keras")
    for made in (model, clone(model), load_model(tmp_path / "m.keras")):
        assert set(input_specs(made)) == {"alpha", "zeta"}
        np.testing.assert_allclose(next(iter(predict(made, x).values())), expected, rtol=1e-5, atol=1e-6)


def test_several_outputs(keras: Any) -> None:
    """Outputs are named after the layers that make them, in the model's order."""
    x = keras.Input((4,), name="x")
    model = keras.Model(x, [keras.layers.Dense(n, name=name)(x) for name, n in (("second", 2), ("first", 3))])
    assert output_names(model) == ["second", "first"]
    outputs = predict(model, {"x": np.ones((2, 4), np.float32)})
    assert {name: array.shape for name, array in outputs.items()} == {"second": (2, 2), "first": (2, 3)}
    assert list(outputs) == ["second", "first"]


def test_prediction_in_batches(image_model: Any) -> None:
    """Samples that do not fill the last batch come out in order."""
    x = {"image": np.random.default_rng(0).integers(0, 255, (7, 8, 8, 1), dtype=np.uint8)}
    whole, parts = predict(image_model, x)["scores"], predict(image_model, x, batch_size=3)["scores"]
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_leaves_in_order(keras: Any) -> None:
    """Inner models are opened where they stand, and a layer used twice is listed once."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")])
    inner.name = "inner"
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="c")(inner(inner(x))))
    paths = [leaf.path for leaf in leaf_layers(model) if leaf.layer.weights]
    assert paths == ["inner/a", "inner/b", "c"]


def test_a_subclassed_model(keras: Any) -> None:
    """A model whose graph is Python code cannot be copied, and says so."""

    class Own(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.d = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.d(x)

    model = Own()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(Unsupported, match="functional API"):
        clone(model)


def test_a_layer_in_two_wrappers(keras: Any) -> None:
    """Keras copies a wrapper with what is in it, so that sharing is lost: refused, and not half copied."""
    each = keras.layers.Dense(4)
    x = keras.Input((3, 4))
    model = keras.Model(x, keras.layers.TimeDistributed(each)(keras.layers.TimeDistributed(each)(x)))
    with pytest.raises(Unsupported, match="share the wrapper"):
        clone(model)


def test_a_lambda_survives_copying(tmp_path: Path, keras: Any) -> None:
    """A model with a Lambda, once loaded with trust, can be copied and saved."""
    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Lambda(lambda v: v * 2, name="twice")(x))
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras", trust_code=True)
    assert predict(clone(loaded), {"x": np.ones((1, 3))})["twice"].tolist() == [[2, 2, 2]]
    with pytest.raises(Unsupported, match="Lambda"):
        load_model(tmp_path / "m.keras")


def test_a_model_that_cannot_be_computed(tmp_path: Path, keras: Any) -> None:
    """What a layer raises when it is called is one line about the model."""

    def fails(values: Any) -> Any:
        raise KeyError("no\nsuch")

    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Lambda(fails, output_shape=(3,), name="code")(x), name="m")
    with pytest.raises(InputError, match=r"model 'm' cannot be computed: .*such") as told:
        predict(model, {"x": np.ones((1, 3))})
    assert "\n" not in str(told.value)


def test_few_samples_are_not_traced(image_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of samples is predicted by calling the model; the outputs are those of the traced one."""
    inputs = {"image": np.random.default_rng(0).normal(size=(FEW, 8, 8, 1)).astype(np.float32)}
    traced = predictor(image_model)(inputs)
    monkeypatch.setattr(models, "_traced", lambda _: pytest.fail("traced"))
    called = predict(image_model, inputs)
    np.testing.assert_allclose(called["scores"], traced["scores"], rtol=0, atol=1e-6)

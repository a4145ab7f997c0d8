"""Magnitude pruning: which weights go, which layers are left alone, and zeros that stay while a model trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgeprune.errors import UsageError
from edgeprune.ledger import PruneReport
from edgeprune.maker.pruning.magnitude import (
    apply_masks,
    keep_largest,
    keep_largest_of,
    masks_for,
    prune_magnitude,
    select_targets,
)
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import find_task
from edgeprune.maker.training.options import TrainOptions

WEIGHTS = arrays(np.float32, array_shapes(max_dims=4, max_side=6), elements=st.floats(-4, 4, width=16))
SPARSITY = st.floats(0, 1, exclude_max=True)


@given(WEIGHTS, SPARSITY)
def test_exactly_so_many_are_kept(weights: np.ndarray, sparsity: float) -> None:
    """round(n * (1 - sparsity)) weights are kept, at least one, whatever ties there are."""
    mask = keep_largest(weights, sparsity)
    assert mask.shape == weights.shape
    assert int(mask.sum()) == max(round(weights.size * (1 - sparsity)), 1)


@given(WEIGHTS, SPARSITY)
def test_nothing_kept_is_smaller_than_something_removed(weights: np.ndarray, sparsity: float) -> None:
    """One threshold separates kept from removed magnitudes."""
    mask, size = keep_largest(weights, sparsity), np.abs(weights)
    if not mask.all():
        assert size[mask].min() >= size[~mask].max()


@given(WEIGHTS, SPARSITY, st.integers(-8, 8), st.booleans())
def test_scale_and_sign_do_not_matter(weights: np.ndarray, sparsity: float, power: int, turned: bool) -> None:
    """Multiplying all weights by one number changes no mask (a power of two, so that nothing is rounded)."""
    factor = np.float32(2.0**power * (-1 if turned else 1))
    assert (keep_largest(weights * factor, sparsity) == keep_largest(weights, sparsity)).all()


@given(WEIGHTS, SPARSITY, SPARSITY)
def test_more_sparsity_keeps_a_part(weights: np.ndarray, one: float, other: float) -> None:
    """The mask of a higher sparsity is contained in that of a lower one."""
    low, high = sorted((one, other))
    assert not (keep_largest(weights, high) & ~keep_largest(weights, low)).any()


@given(st.lists(WEIGHTS, min_size=1, max_size=4), SPARSITY)
def test_global_is_one_threshold(pieces: list[np.ndarray], sparsity: float) -> None:
    """Scope "global" over several kernels equals pruning them laid end to end."""
    kernels = {str(n): piece for n, piece in enumerate(pieces)}
    together = keep_largest(np.concatenate([p.ravel() for p in pieces]), sparsity)
    masks = masks_for(kernels, sparsity, "global")
    assert (np.concatenate([m.ravel() for m in masks.values()]) == together).all()
    assert {key: mask.shape for key, mask in masks.items()} == {key: k.shape for key, k in kernels.items()}


@given(st.lists(WEIGHTS, min_size=1, max_size=4), SPARSITY)
def test_layer_is_each_alone(pieces: list[np.ndarray], sparsity: float) -> None:
    """Scope "layer" gives every kernel the mask that it would get alone."""
    masks = masks_for({str(n): piece for n, piece in enumerate(pieces)}, sparsity, "layer")
    for n, piece in enumerate(pieces):
        assert (masks[str(n)] == keep_largest(piece, sparsity)).all()


def test_by_hand() -> None:
    """Half of four: the two largest magnitudes stay; of equals the later ones; no kernels, no masks."""
    assert keep_largest(np.array([1.0, -3.0, 0.5, 2.0]), 0.5).tolist() == [False, True, False, True]
    assert keep_largest(np.array([1.0, 1.0, 1.0, 1.0]), 0.5).tolist() == [False, False, True, True]
    assert keep_largest(np.array([1.0, 2.0]), 0.99).tolist() == [False, True]
    assert keep_largest_of({}, 0.5) == {}


@pytest.mark.parametrize(("value", "word"), [(80, "did you mean 0.8"), (1.0, "below 1"), (-0.1, "at least 0")])
def test_wrong_sparsity(value: float, word: str) -> None:
    """A percentage is recognised; 1 would leave nothing."""
    with pytest.raises(UsageError, match=word):
        MagnitudeOptions(sparsity=value)


def test_wrong_scope() -> None:
    """An unknown scope names the known ones."""
    with pytest.raises(UsageError, match="layer, global"):
        MagnitudeOptions(sparsity=0.5, scope="model")


def kernels(model: Any) -> dict[str, np.ndarray]:
    return {layer.name: np.asarray(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}


def share(array: np.ndarray) -> float:
    return 1 - np.count_nonzero(array) / array.size


def test_pruning_leaves_its_argument_alone(image_model: Any) -> None:
    """A pruned copy comes back; every weight of the argument is what it was."""
    before = [w.copy() for w in image_model.get_weights()]
    result = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.75))
    for old, new in zip(before, image_model.get_weights(), strict=True):
        assert old.tobytes() == new.tobytes()
    pruned = kernels(result.model)
    assert share(pruned["conv"]) == share(pruned["point"]) == 0.75
    assert share(pruned["scores"]) == 0.75
    assert share(pruned["depthwise"]) == 0
    assert result.model.input_shape == image_model.input_shape


def test_kept_weights_are_untouched_and_zeros_are_positive(image_model: Any) -> None:
    """What is kept keeps its bits; what goes becomes +0.0, never -0.0."""
    result = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.5))
    for name, new in kernels(result.model).items():
        old = kernels(image_model)[name]
        assert (new[new != 0] == old[new != 0]).all()
        assert not np.signbit(new[new == 0]).any()
    untouched = [("norm", "gamma"), ("conv", "bias")]
    for layer, attribute in untouched:
        there, here = (np.asarray(getattr(m.get_layer(layer), attribute)) for m in (image_model, result.model))
        assert (there == here).all()


def test_report_counts_what_is_there(image_model: Any) -> None:
    """Asked and got of each kernel, the total, and a reason for each layer left dense."""
    report = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.7)).report
    assert [(i.layer, i.kind, i.elements, i.asked) for i in report.layers] == [
        ("conv", "Conv2D", 72, 0.7),
        ("point", "Conv2D", 96, 0.7),
        ("scores", "Dense", 36, 0.7),
    ]
    # Kept: round(72 * 0.3) = 22, round(96 * 0.3) = 29, round(36 * 0.3) = 11.
    assert [i.got for i in report.layers] == [50 / 72, 67 / 96, 25 / 36]
    assert report.got == 142 / 204
    assert [(s.layer, s.parameters) for s in report.skipped] == [("norm", 32), ("depthwise", 80)]
    assert "normalisation" in report.skipped[0].reason
    assert "depthwise" in report.skipped[1].reason


def test_global_scope(image_model: Any) -> None:
    """Under scope "global" only the total is asked for, and no kept weight is below the one threshold."""
    result = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.7, scope="global"))
    assert {i.asked for i in result.report.layers} == {None}
    # round(204 * 0.3) = 61 weights are kept.
    assert result.report.got == 143 / 204
    names = ("conv", "point", "scores")
    old = np.concatenate([kernels(image_model)[n].ravel() for n in names])
    new = np.concatenate([kernels(result.model)[n].ravel() for n in names])
    assert np.abs(new[new != 0]).min() >= np.abs(old[new == 0]).max()


@pytest.mark.parametrize(
    ("options", "pruned"),
    [
        ({}, ["conv", "point", "scores"]),
        ({"include": ("conv",)}, ["conv"]),
        ({"include": ("Conv2D",)}, ["conv", "point"]),
        ({"include": ("conv", "sc*")}, ["conv", "scores"]),
        ({"exclude": ("p*",)}, ["conv", "scores"]),
        ({"include": ("Conv2D",), "exclude": ("point",)}, ["conv"]),
        ({"keep_first": True}, ["point", "scores"]),
        ({"keep_last": True}, ["conv", "point"]),
        ({"keep_first": True, "exclude": ("conv",)}, ["scores"]),
        ({"prune_depthwise": True}, ["conv", "depthwise", "point", "scores"]),
        ({"include": ("DepthwiseConv2D",), "prune_depthwise": True}, ["depthwise"]),
    ],
)
def test_choice_of_layers(image_model: Any, options: dict[str, Any], pruned: list[str]) -> None:
    """Patterns match names and classes; first and last are those of the chosen layers, in the model's order."""
    targets, skipped = select_targets(image_model, MagnitudeOptions(sparsity=0.5, **options))
    assert [t.layer for t in targets] == pruned
    with_weights = {"conv", "norm", "depthwise", "point", "scores"}
    assert {s.layer for s in skipped} == with_weights - set(pruned)
    assert all(s.reason for s in skipped)


def test_steps_for_different_layers(image_model: Any) -> None:
    """Convolutions first, the classifier after them: the second step leaves the zeros of the first."""
    first = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.75, include=("Conv2D",), keep_first=True))
    second = prune_magnitude(first.model, MagnitudeOptions(sparsity=0.5, include=("Dense",)))
    made, before = kernels(second.model), kernels(image_model)
    np.testing.assert_array_equal(made["point"], kernels(first.model)["point"])
    np.testing.assert_array_equal(made["conv"], before["conv"])
    assert [(made[name] == 0).mean() for name in ("point", "scores")] == pytest.approx([0.75, 0.5], abs=0.02)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing(image_model: Any, option: str) -> None:
    """A pattern without a layer is a mistake, and the layers are listed."""
    options = MagnitudeOptions(sparsity=0.5, **{option: ("cnov",)})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"{option} pattern 'cnov' matches no layer .* conv, norm, depthwise"):
        prune_magnitude(image_model, options)


def test_nothing_to_prune(image_model: Any) -> None:
    """A model whose layers are all left out is an error."""
    with pytest.raises(UsageError, match="nothing to prune"):
        prune_magnitude(image_model, MagnitudeOptions(sparsity=0.5, exclude=("*",)))


def accounted(model: Any, report: PruneReport) -> int:
    """Parameters of pruned layers (kernels and what else these own) and of skipped ones."""
    from edgeprune.maker.keras.models import leaf_layers, own_weights

    pruned = {i.layer for i in report.layers}
    rest = sum(s.parameters for s in report.skipped)
    return rest + sum(
        int(np.prod(w.shape)) for leaf in leaf_layers(model) if leaf.path in pruned for w in own_weights(leaf.layer)
    )


@pytest.fixture(scope="module")
def wrapped_model(keras: Any) -> Any:
    """Sequences through wrappers, recurrent cells, attention, a separable convolution and a wrapper with weights."""
    layers = keras.layers
    x = keras.Input((6, 4), name="x")
    h = layers.TimeDistributed(layers.Dense(8, name="each"), name="steps")(x)
    h = layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="memory"), name="both")(h)
    h = layers.MultiHeadAttention(2, 4, name="look")(h, h)
    h = layers.SeparableConv1D(8, 3, name="apart")(h)
    h = layers.GRU(6, name="last_memory")(h)
    h = layers.SpectralNormalization(layers.Dense(6, name="bounded"), name="spectral")(h)
    return keras.Model(x, layers.Dense(3, name="scores")(h))


def test_wrappers_are_opened(wrapped_model: Any) -> None:
    """Kernels inside wrappers, cells and attention are found, in order, under the path that leads to them."""
    result = prune_magnitude(wrapped_model, MagnitudeOptions(sparsity=0.5))
    assert [i.key for i in result.report.layers] == [
        "steps/each/kernel",
        "both/forward_memory/lstm_cell/kernel",
        "both/forward_memory/lstm_cell/recurrent_kernel",
        "both/backward_memory/lstm_cell/kernel",
        "both/backward_memory/lstm_cell/recurrent_kernel",
        "look/query/kernel",
        "look/key/kernel",
        "look/value/kernel",
        "look/attention_output/kernel",
        "apart/pointwise_kernel",
        "last_memory/gru_cell/kernel",
        "last_memory/gru_cell/recurrent_kernel",
        "spectral/bounded/kernel",
        "scores/kernel",
    ]
    assert {i.got for i in result.report.layers} == {0.5}
    assert [s.layer for s in result.report.skipped] == ["spectral"]
    assert accounted(result.model, result.report) == result.model.count_params()


@pytest.mark.parametrize(
    ("pattern", "count"), [("both", 4), ("LSTM", 4), ("Bidirectional", 4), ("look", 4), ("look/q*", 1), ("GRUCell", 2)]
)
def test_patterns_reach_into_wrappers(wrapped_model: Any, pattern: str, count: int) -> None:
    """A pattern may name the wrapper, its class, the inner layer's class or the path."""
    targets, _ = select_targets(wrapped_model, MagnitudeOptions(sparsity=0.5, include=(pattern,)))
    assert len(targets) == count


@pytest.fixture(scope="module")
def nested_model(keras: Any) -> Any:
    """Two inner models whose layers have the same names, the second used twice."""

    def block(name: str, size: int, seed: int) -> Any:
        x = keras.Input((6,))
        h = keras.layers.Dense(size, name="first")(x)
        model = keras.Model(x, keras.layers.Dense(6, name="second")(h), name=name)
        rng = np.random.default_rng(seed)
        model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
        return model

    x = keras.Input((6,), name="x")
    left, right = block("left", 8, 1), block("right", 8, 2)
    return keras.Model(x, keras.layers.Dense(3, name="scores")(right(right(left(x)))))


def test_nested_models(nested_model: Any) -> None:
    """Layers of the same name in two inner models get a mask each; a layer used twice is counted once."""
    result = prune_magnitude(nested_model, MagnitudeOptions(sparsity=0.75))
    keys = [f"{m}/{n}/kernel" for m in ("left", "right") for n in ("first", "second")] + ["scores/kernel"]
    assert [i.key for i in result.report.layers] == keys
    for part in ("left", "right"):
        for name in ("first", "second"):
            old, new = (np.asarray(m.get_layer(part).get_layer(name).kernel) for m in (nested_model, result.model))
            assert ((new != 0) == keep_largest(old, 0.75)).all()
    assert accounted(result.model, result.report) == result.model.count_params()


def test_first_and_last_of_nested_models(nested_model: Any) -> None:
    """The first layer is the one that sees the input, also inside an inner model."""
    targets, skipped = select_targets(nested_model, MagnitudeOptions(sparsity=0.5, keep_first=True, keep_last=True))
    assert [t.layer for t in targets] == ["left/second", "right/first", "right/second"]
    assert {s.layer for s in skipped} == {"left/first", "scores"}


@pytest.mark.parametrize(("name", "separable"), [("SeparableConv2D", 2), ("DepthwiseConv2D", 1)])
def test_depthwise_kernels_on_request(keras: Any, name: str, separable: int) -> None:
    """prune_depthwise adds the depthwise kernel of a separable convolution and of a depthwise one."""
    x = keras.Input((6, 6, 2))
    layer = getattr(keras.layers, name)(*((4, 3) if name == "SeparableConv2D" else (3,)))
    model = keras.Model(x, layer(x))
    targets, _ = select_targets(model, MagnitudeOptions(sparsity=0.5, prune_depthwise=True))
    assert len(targets) == separable


SAMPLES = Samples(
    path=Path("made up"),
    inputs={"x": np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)},
    targets=np.random.default_rng(1).integers(0, 3, 64),
)


@pytest.mark.slow
class TestHeld:
    """Zeros while a model trains."""

    @pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
    def test_zeros_stay(self, vector_model: Any, optimizer: str) -> None:
        """Fine-tuning moves every kept weight and no zero, momentum and weight decay notwithstanding."""
        from edgeprune.maker.pruning.masked_training import finetune

        pruned = prune_magnitude(vector_model, MagnitudeOptions(sparsity=0.6))
        options = TrainOptions(epochs=3, batch_size=16, learning_rate=0.05, optimizer=optimizer)
        tuned, _ = finetune(pruned.model, SAMPLES, None, find_task(pruned.model, "accuracy", trains=True), options)
        for name, mask in (("hidden", pruned.masks["hidden/kernel"]), ("scores", pruned.masks["scores/kernel"])):
            before, after = kernels(pruned.model)[name], kernels(tuned)[name]
            assert ((after != 0) == mask).all()
            assert not np.signbit(after[~mask]).any()
            assert (after[mask] != before[mask]).mean() > 0.5
        assert {layer.kernel.constraint for layer in tuned.layers if hasattr(layer, "kernel")} == {None}
        assert (kernels(pruned.model)["hidden"] != 0).sum() == pruned.masks["hidden/kernel"].sum()

    def test_sparsity_follows_the_schedule(self, vector_model: Any) -> None:
        """Pruning while training ends at exactly the asked sparsity and leaves the argument dense."""
        from edgeprune.maker.pruning.masked_training import prune_while_training
        from edgeprune.maker.pruning.schedule import PolynomialDecay

        options = TrainOptions(epochs=3, batch_size=16, learning_rate=0.01)
        schedule = PolynomialDecay(final_sparsity=0.75, end_step=8)
        result, log = prune_while_training(
            vector_model,
            MagnitudeOptions(sparsity=0.75),
            schedule,
            SAMPLES,
            SAMPLES,
            "accuracy",
            options,
            settled_step=8,
        )
        assert log.steps == 12
        assert log.kept_epoch >= 2  # the first epoch ends at step 4, before the sparsity is settled
        assert result.report.got == 0.75
        for name in ("hidden", "scores"):
            assert share(kernels(result.model)[name]) == 0.75
            assert ((kernels(result.model)[name] != 0) == result.masks[f"{name}/kernel"]).all()
            assert share(kernels(vector_model)[name]) == 0

    def test_a_teacher_helps_while_pruning(self, vector_model: Any) -> None:
        """The masks are found though it is not the model itself that is compiled."""
        from edgeprune.maker.pruning.masked_training import prune_while_training
        from edgeprune.maker.pruning.schedule import ConstantSparsity

        options = TrainOptions(epochs=1, batch_size=64, distill=0.5)
        schedule = ConstantSparsity(final_sparsity=0.75, end_step=1)
        asked = (vector_model, MagnitudeOptions(sparsity=0.75), schedule, SAMPLES, None, "accuracy", options)
        result, _ = prune_while_training(*asked, settled_step=0, teacher=vector_model)
        assert share(kernels(result.model)["hidden"]) == result.report.got == 0.75

    def test_own_constraint_still_applies(self, keras: Any) -> None:
        """A kernel_constraint of the model holds beside the mask, and stays the variable's own."""
        from edgeprune.maker.pruning.sparse_masks import HOLD
        from edgeprune.maker.pruning.sparse_optimizer import make_sparse

        x = keras.Input((6,), name="x")
        model = keras.Model(x, keras.layers.Dense(4, kernel_constraint="non_neg", name="d")(x))
        targets, _ = select_targets(model, MagnitudeOptions(sparsity=0.5))
        own = model.get_layer("d").kernel.constraint
        apply_masks(targets, {"d/kernel": np.arange(24).reshape(6, 4) % 2 == 0})
        model.compile(make_sparse(keras.optimizers.SGD(), HOLD), "mse", jit_compile=False)
        model.train_on_batch(np.ones((2, 6)), np.full((2, 4), -50.0))
        kernel = np.asarray(model.get_layer("d").kernel)
        assert kernel.min() == 0
        assert (kernel.ravel()[1::2] == 0).all()
        assert model.get_layer("d").kernel.constraint is own

    def test_recurrent_and_nested_kernels_are_held(self, keras: Any) -> None:
        """Zeros of LSTM cells in a wrapper, and of a layer used twice, stay as well."""
        from edgeprune.maker.pruning.masked_training import finetune

        shared = keras.layers.TimeDistributed(keras.layers.Dense(4, name="each"), name="shared")
        x = keras.Input((3, 4), name="x")
        h = shared(shared(x))
        h = keras.layers.Bidirectional(keras.layers.LSTM(3))(h)
        model = keras.Model(x, keras.layers.Dense(3, activation="softmax")(h))
        pruned = prune_magnitude(model, MagnitudeOptions(sparsity=0.5))
        samples = Samples(path=Path("d"), inputs={"x": np.ones((8, 3, 4), np.float32)}, targets=np.arange(8) % 3)
        tuned, _ = finetune(
            pruned.model,
            samples,
            None,
            find_task(pruned.model, "accuracy", trains=True),
            TrainOptions(epochs=2, batch_size=8),
        )
        targets, _ = select_targets(tuned, MagnitudeOptions(sparsity=0.0))
        for target in targets:
            assert ((np.asarray(target.variable) != 0) == pruned.masks[target.key]).all()

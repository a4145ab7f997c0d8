"""N:M pruning: which weights go in every kind of layer, channels in another order, Wanda, and files that keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import edgeprune
from edgeprune.errors import EdgepruneError, RecipeError, Unsupported, UsageError
from edgeprune.formats.pattern import Pattern
from edgeprune.maker.keras.models import input_specs, keras_module
from edgeprune.maker.pruning.channel.verification import largest_error
from edgeprune.maker.pruning.layouts import Layout, layout_of
from edgeprune.maker.pruning.magnitude import masks_of, prune_magnitude, reorder_channels, select_targets
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.pruning.pattern_masks import pattern_mask, violations_of
from edgeprune.maker.pruning.permutation import best_order, kept_sum
from edgeprune.maker.pruning.wanda import input_norms
from edgeprune.maker.recipe.pattern_check import check_file, pattern_after
from edgeprune.maker.recipe.recipe import ChannelStep, PruneStep, load_recipe
from edgeprune.maker.training.data.samples import Samples

TWO_OF_FOUR = Pattern(n=2, m=4)
PLAIN = Layout(shape=(16, 3), order=(0, 1), sizes=(1, 16, 3))
ROWS = arrays(np.float32, (16, 3), elements=st.floats(-2, 2, width=16))


def pruning(pattern: str = "2:4", **choice: Any) -> MagnitudeOptions:
    """Options that ask for a pattern."""
    return MagnitudeOptions(sparsity=Pattern.parse(pattern), **choice)


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras."""
    return keras_module()


@pytest.fixture(scope="module")
def many_kinds(keras: Any) -> Any:
    """A model with each kind of kernel."""
    layers = keras.layers
    keras.utils.set_random_seed(4)
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 3, padding="same", name="first")(x)
    y = layers.Conv2D(16, 3, padding="same", groups=2, name="grouped")(y)
    y = layers.Conv2DTranspose(12, 2, strides=2, name="transposed")(y)
    y = layers.DepthwiseConv2D(3, name="depthwise")(y)
    y = layers.SeparableConv2D(8, 3, name="separable")(y)
    y = layers.Reshape((-1, 8))(y)
    y = layers.Conv1D(6, 3, name="makes_six")(y)
    y = layers.Conv1D(8, 1, name="six_inputs")(y)
    y = layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    y = layers.Bidirectional(layers.GRU(4, name="gru"), name="bidirectional")(y)
    model = keras.Model(x, layers.Dense(5, name="scores")(y))
    model.optimizer = None
    return model


def naive(values: np.ndarray, pattern: Pattern) -> np.ndarray:
    """The rule written out for a kernel of [inputs, outputs]."""
    kept = np.zeros(values.shape, bool)
    for output in range(values.shape[1]):
        for start in range(0, len(values), pattern.m):
            group = range(start, start + pattern.m)
            for place in sorted(group, key=lambda i: (abs(values[i, output]), i))[pattern.m - pattern.n :]:
                kept[place, output] = True
    return kept


@given(ROWS, st.sampled_from(["1:4", "2:4", "1:2", "4:8", "14:16", "12:16", "8:16"]))
def test_the_largest_of_each_group_stay(weights: np.ndarray, written: str) -> None:
    """Exactly N of M consecutive inputs of each output, of equals the later ones."""
    pattern = Pattern.parse(written)
    mask = pattern_mask(weights, PLAIN, pattern)
    assert (mask == naive(weights, pattern)).all()
    assert violations_of(weights * mask, PLAIN, pattern) == 0


@given(ROWS, st.floats(0, 0.5))
def test_on_the_way_the_smallest_that_the_pattern_removes_go(weights: np.ndarray, sparsity: float) -> None:
    """What the whole pattern keeps is never removed, and so many are as the schedule says."""
    options = pruning()
    target = edgeprune_target(weights)
    mask = masks_of([target], {"k": weights}, options, sparsity)["k"]
    whole = pattern_mask(weights, PLAIN, TWO_OF_FOUR)
    assert mask[whole].all()
    assert int(mask.sum()) == round(weights.size * (1 - sparsity))
    if not mask.all() and (mask & ~whole).any():
        assert np.abs(weights[mask & ~whole]).min() >= np.abs(weights[~mask]).max()


def edgeprune_target(weights: np.ndarray) -> Any:
    """A kernel of PLAIN's layout."""
    from edgeprune.maker.pruning.magnitude import Target

    return Target(layer="k", kind="Dense", key="k", variable=weights, owner=None, layout=PLAIN)  # type: ignore[arg-type]


def test_inputs_of_every_kind_of_layer(many_kinds: Any) -> None:
    """A convolution's groups run along its input channels at one tap, attention's output projection along heads and
    their values; what cannot be is left dense with the reason."""
    result = prune_magnitude(many_kinds, pruning())
    assert result.report.pattern == "2:4"
    assert {row.key: (row.got, row.violations) for row in result.report.layers} == dict.fromkeys(
        [
            "grouped/kernel",
            "transposed/kernel",
            "separable/pointwise_kernel",
            "makes_six/kernel",
            "attention/query/kernel",
            "attention/key/kernel",
            "attention/value/kernel",
            "attention/attention_output/kernel",
            *(
                f"bidirectional/{way}_gru/gru_cell/{name}"
                for way in ("forward", "backward")
                for name in ("kernel", "recurrent_kernel")
            ),
            "scores/kernel",
        ],
        (0.5, 0),
    )
    reasons = {row.layer: row.reason for row in result.report.skipped}
    assert reasons["first"] == "kernel: 3 inputs are no multiple of 4"
    assert reasons["six_inputs"] == "kernel: 6 inputs are no multiple of 4"
    assert "depthwise" in reasons["depthwise"]


def test_layouts_follow_the_axes(many_kinds: Any, keras: Any) -> None:
    """Counted by hand: zeros along the right axis."""
    model = prune_magnitude(many_kinds, pruning()).model
    transposed = np.asarray(model.get_layer("transposed").kernel) != 0  # [2, 2, outputs, inputs]
    assert (transposed.reshape(2, 2, 12, 4, 4).sum(-1) == 2).all()
    grouped = np.asarray(model.get_layer("grouped").kernel) != 0  # [3, 3, inputs of a group, outputs]
    assert (grouped.reshape(3, 3, 1, 4, 16).sum(3) == 2).all()
    out = np.asarray(model.get_layer("attention")._output_dense.kernel) != 0  # [heads, values, outputs]
    assert (out.reshape(2, 4, 8).sum(1) == 2).all()
    einsum = keras.layers.EinsumDense("abc,dbc->ad", output_shape=6)
    einsum.build((None, 4, 2))
    layout = layout_of(einsum, "kernel", einsum.kernel.shape)
    assert isinstance(layout, Layout)
    assert layout.sizes == (1, 8, 6)
    rows = layout.rows(np, np.asarray(einsum.kernel))
    assert (rows[0, 3] == np.asarray(einsum.kernel)[:, 1, 1]).all()
    assert (layout.kernel(np, rows) == np.asarray(einsum.kernel)).all()


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"scope": "global"}, "2:4 is the same in every layer"),
        ({"prune_depthwise": True}, "a depthwise kernel has one input"),
        ({"score": "wander"}, "did you mean 'wanda'"),
    ],
)
def test_what_does_not_go_together(choice: dict[str, Any], told: str) -> None:
    """One line that says what to leave out."""
    with pytest.raises(UsageError, match=told):
        pruning(**choice)


def test_nothing_to_prune_says_why(keras: Any) -> None:
    """The reasons of the layers stand in the line."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="six")])
    with pytest.raises(UsageError, match="nothing to prune to 2:4: six: kernel: 6 inputs are no multiple of 4"):
        prune_magnitude(model, pruning())


# --- Channels in another order --------------------------------------------------------------------------------------


def test_an_order_keeps_more() -> None:
    """Large channels side by side are spread over the groups; the order found keeps what the best can."""
    values = np.repeat(np.array([9, 8, 7, 6, 1, 1, 1, 1], np.float32)[:, None], 5, axis=1)
    order = best_order(values, TWO_OF_FOUR)
    assert sorted(order) == list(range(8))
    assert kept_sum(values, TWO_OF_FOUR) == 5 * (9 + 8 + 1 + 1)
    assert kept_sum(values[order], TWO_OF_FOUR) == 5 * (9 + 8 + 7 + 6)


@given(arrays(np.float32, (12, 7), elements=st.floats(0, 4, width=16)), st.sampled_from(["1:4", "2:4", "3:4", "1:2"]))
def test_no_order_keeps_less(values: np.ndarray, written: str) -> None:
    """The order given is the answer where none is better."""
    pattern = Pattern.parse(written)
    order = best_order(values, pattern)
    assert kept_sum(values[order], pattern) >= kept_sum(values, pattern)
    assert (best_order(values, pattern) == order).all()


def residual(keras: Any) -> Any:
    """Channels that are added, normalised, split, concatenated and flattened."""
    layers = keras.layers
    keras.utils.set_random_seed(2)
    x = keras.Input((6, 6, 4))
    stem = layers.Conv2D(16, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization()(stem))
    y = layers.DepthwiseConv2D(3, padding="same")(layers.Conv2D(24, 1, activation="relu")(y))
    y = layers.Add()([stem, layers.Conv2D(16, 1)(y)])
    y = layers.Concatenate()([layers.LayerNormalization()(y), layers.Conv2D(8, 1, activation="sigmoid")(y)])
    half = layers.Dense(16, activation="tanh")(y)
    y = layers.Concatenate()([half[..., :8] * 2.0, layers.Dense(12)(half[..., 8:])])
    y = layers.Dense(8)(layers.Flatten()(layers.Conv2D(8, 3)(y)))
    model = keras.Model(x, layers.Dense(4)(y))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        spread = np.exp(rng.normal(size=weight.shape[-1:])) if len(weight.shape) > 1 else 1.0
        weight.assign(np.asarray(weight) * spread + (0.1 if len(weight.shape) == 1 else 0.0))
    return model


def test_reordered_channels_compute_the_same(keras: Any) -> None:
    """Through sums, slices, concatenations, normalisations over channels and Flatten; and more is kept."""
    model = residual(keras)
    made, order = reorder_channels(model, "2:4")
    assert order.verified is not None
    assert order.groups >= 5
    assert order.kept_after > order.kept_before * 1.02
    assert largest_error(model, made, seed=3) < 1e-5
    moved = [not np.array_equal(a, b) for a, b in zip(model.get_weights(), made.get_weights(), strict=True)]
    assert any(moved)
    assert all(
        np.array_equal(np.sort(np.ravel(a)), np.sort(np.ravel(b)))
        for a, b in zip(model.get_weights(), made.get_weights(), strict=True)
    )


def test_permuted_before_the_masks(keras: Any) -> None:
    """The report says what reordering gave, and more magnitude is left than without."""
    model = residual(keras)
    plain, permuted = (prune_magnitude(model, pruning(permute=permute)) for permute in (False, True))
    left = [sum(float(np.abs(w).sum()) for w in found.model.get_weights() if w.ndim > 1) for found in (plain, permuted)]
    assert left[1] > left[0] * 1.01
    assert permuted.report.reordering is not None
    assert plain.report.reordering is None


def test_a_subclassed_model_cannot_be_reordered(keras: Any) -> None:
    """The line says to leave permute out."""

    class Own(keras.Model):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 8), np.float32))
    with pytest.raises(Unsupported, match="leave out permute"):
        reorder_channels(model, "2:4")


# --- Wanda ----------------------------------------------------------------------------------------------------------


def seen(model: Any, count: int = 40) -> Samples:
    """Samples whose features differ in scale."""
    shape = (count, *model.inputs[0].shape[1:])
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32) * np.linspace(
        0.1, 3, shape[-1], dtype=np.float32
    )
    return Samples(path=Path("x.npz"), inputs={next(iter(input_specs(model))): x}, targets=None)


def test_norms_are_those_of_what_a_kernel_reads(keras: Any) -> None:
    """Over samples and positions, in the order of the kernel's inputs; inside attention and recurrent layers too."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((5, 8))
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    y = layers.Conv1D(8, 1, groups=2, name="grouped")(y)
    model = keras.Model(x, layers.GRU(4, name="gru")(y))
    samples = seen(model)
    targets, _ = select_targets(model, pruning())
    norms = input_norms(model, targets, samples)
    given = next(iter(samples.inputs.values()))
    np.testing.assert_allclose(norms["attention/query/kernel"][:, 0], np.sqrt((given**2).sum((0, 1))), rtol=1e-5)
    inner = keras.Model(x, model.get_layer("attention").output)
    read = np.asarray(inner(given))
    grouped = np.sqrt((read**2).sum((0, 1))).reshape(2, 4)
    np.testing.assert_allclose(norms["grouped/kernel"], np.repeat(grouped.T, 4, axis=1), rtol=1e-4)
    assert norms["gru/gru_cell/recurrent_kernel"].shape == (4, 1)
    assert (norms["gru/gru_cell/recurrent_kernel"] > 0).all()
    assert "call" not in vars(model.get_layer("grouped"))


def test_wanda_looks_at_what_is_fed(keras: Any) -> None:
    """A large weight on a silent input goes before a small one on a loud input."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[4.0], [3.0], [2.0], [1.0]])
    x = np.array([[0.01, 0.01, 1, 4]] * 8, np.float32)
    samples = Samples(path=Path("x.npz"), inputs={next(iter(input_specs(model))): x}, targets=None)
    kept = [
        np.flatnonzero(prune_magnitude(model, options, samples=samples).model.get_weights()[0][:, 0]).tolist()
        for options in (pruning(), pruning(score="wanda"), MagnitudeOptions(sparsity=0.25, score="wanda"))
    ]
    assert kept == [[0, 1], [2, 3], [0, 2, 3]]
    with pytest.raises(UsageError, match="looks at training samples"):
        prune_magnitude(model, pruning(score="wanda"))


# --- Recipes and files ----------------------------------------------------------------------------------------------


def recipe(folder: Path, step: str) -> Path:
    """A recipe with one pruning step."""
    path = folder / "recipe.toml"
    path.write_text(f'model = "m.keras"\n[data]\ntrain = "x.npz"\ntest = "x.npz"\n[[steps]]\nkind = "prune"\n{step}\n')
    return path


def test_a_recipe_asks_for_a_pattern(tmp_path: Path) -> None:
    """As text; its options are those of the step."""
    read = load_recipe(recipe(tmp_path, 'sparsity = "8:16"\npermute = true\nepochs = 2\nsr_ste = 2e-4')).steps[0]
    assert isinstance(read, PruneStep)
    assert read.options == pruning("8:16", permute=True)
    assert read.sr_ste == 2e-4


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ('sparsity = "2-4"', "a pattern N:M in quotes"),
        ('sparsity = "2:4"\nscope = "global"', "leave out scope"),
        ('sparsity = "2:4"\nepochs = 2\nbackend = "tfmot"', "tfmot backend prunes to fractions only, not to 2:4"),
        ('sparsity = "2:4"\nscore = "wanda"\nepochs = 2', "wanda scores in one shot"),
        ("sparsity = 0.5\npermute = true", "permute puts channels in the order"),
        ("sparsity = 0.5\nepochs = 2\nsr_ste = 1e-4", "sr_ste is for a pattern"),
        ('sparsity = "2:4"\nsr_ste = 1e-4', "sr_ste is for training"),
        (
            'sparsity = "2:4"\n[[steps]]\nkind = "prune"\nname = "cut"\nstyle = "channel"\nratio = 0.5',
            "breaks the 2:4 of step",
        ),
        ('sparsity = "2:4"\nepochs = 2\ninitial_sparsity = 0.6', "is above sparsity 0.5"),
    ],
)
def test_recipes_that_cannot_be(tmp_path: Path, step: str, told: str) -> None:
    """One line, before anything runs."""
    with pytest.raises(RecipeError, match=told):
        load_recipe(recipe(tmp_path, step))


def test_a_file_must_keep_what_its_model_keeps(keras: Any, tmp_path: Path) -> None:
    """A layer that was left dense may break the pattern in the file, no other may."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(4, name="last")])
    held = prune_magnitude(model, pruning(keep_last=True)).model
    path = tmp_path / "held.keras"
    edgeprune.save_model(held, path)
    check_file(path, held, TWO_OF_FOUR)
    whole = prune_magnitude(model, pruning()).model
    with pytest.raises(EdgepruneError, match=r"held.keras does not keep 2:4: 1 of its 2 weight arrays break it"):
        check_file(path, whole, TWO_OF_FOUR)


def test_a_pattern_lasts_until_channels_go() -> None:
    """What a run holds its files to behind each step."""
    step = PruneStep(options=pruning())
    assert pattern_after(step, None) == TWO_OF_FOUR
    assert pattern_after(PruneStep(options=MagnitudeOptions(sparsity=0.8)), TWO_OF_FOUR) == TWO_OF_FOUR
    assert pattern_after(ChannelStep(lossless=True), TWO_OF_FOUR) is None

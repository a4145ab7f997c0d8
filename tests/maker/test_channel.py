"""Channel pruning as a whole: targets, rounding, patterns, compensation, rounds, refusals."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channel_zoo import ZOO, randomised
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import EdgepruneError, Unsupported, UsageError
from edgeprune.maker.keras.models import clone, predict
from edgeprune.maker.pruning.channel.groups import Cost, Group
from edgeprune.maker.pruning.channel.importance import unit_scores
from edgeprune.maker.pruning.channel.plan import plan_channels
from edgeprune.maker.pruning.channel.pruner import analyse, prune_channels
from edgeprune.maker.pruning.channel.rounds import prune_in_rounds, round_options
from edgeprune.maker.pruning.channel.verification import checked, random_inputs
from edgeprune.maker.pruning.channel.widths import rounded
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.training.data.samples import Samples

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")


@pytest.fixture(scope="module")
def wide(keras: Any) -> Any:
    """Two residual blocks, 32 and 48 channels wide, on 8 x 8 x 3 images."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(32, 3, padding="same", name="stem")(x)
    for n in range(2):
        z = L.ReLU()(L.BatchNormalization()(L.Conv2D(48, 3, padding="same", name=f"in{n}")(y)))
        y = L.ReLU()(L.Add()([y, L.Conv2D(32, 3, padding="same", name=f"out{n}")(z)]))
    return randomised(keras.Model(x, L.Dense(4, name="scores")(L.GlobalAveragePooling2D()(y)), name="wide"))


def widths(result: Any) -> dict[str, tuple[int, int]]:
    return {item.layer: (item.before, item.after) for item in result.report.removed}


def test_ratio_per_layer(wide: Any) -> None:
    """0.4 of 32 and 48 channels, in multiples of 8: 19.2 -> 16 and 28.8 -> 32."""
    result = prune_channels(wide, ChannelOptions(ratio=0.4))
    assert widths(result) == {
        "stem": (32, 16), "out0": (32, 16), "out1": (32, 16), "in0": (48, 32), "in1": (48, 32),
    }  # fmt: skip
    assert result.report.asked == "ratio 0.4"
    assert [group.layer for group in result.report.skipped] == ["scores"]
    assert result.report.verified is not None
    assert result.report.verified <= 1e-4


@pytest.mark.parametrize("round_to", [1, 8, 16])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.9])
def test_widths_are_multiples(wide: Any, ratio: float, round_to: int) -> None:
    """Every width that changed is a multiple of round_to, and no layer is left without one."""
    result = prune_channels(wide, ChannelOptions(ratio=ratio, round_to=round_to), verify=False)
    for before, after in widths(result).values():
        assert after % round_to == 0
        assert round_to <= after < before
    if ratio == 0:
        assert widths(result) == {}


@pytest.mark.parametrize("target", ["macs", "parameters"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 1.0])
def test_a_target_is_met_from_below(wide: Any, target: str, share: float) -> None:
    """The share asked for is an upper bound, and not missed by more than a step of widths."""
    report = prune_channels(wide, ChannelOptions(**{target: share}), verify=False).report  # type: ignore[arg-type]
    facts = asdict(report)
    got = facts[f"{target}_after"] / facts[f"{target}_before"]
    assert share - 0.2 < got <= share


def test_a_global_ratio_is_met(wide: Any) -> None:
    """Of 80 + 48 units at least a quarter goes, whatever layer they are in, and no layer goes below a tenth."""
    structure = analyse(wide)
    options = ChannelOptions(ratio=0.25, scope="global", round_to=1)
    kept = plan_channels(structure, options, unit_scores(structure, "l2"))
    total = sum(len(g.units) for g in structure.groups if g.reason is None)
    assert kept[[u for g in structure.groups if g.reason is None for u in g.units]].sum() == pytest.approx(
        0.75 * total, abs=1
    )


def test_the_least_important_go_first(wide: Any) -> None:
    """What stays of a group scores at least as high as what goes."""
    structure = analyse(wide)
    scores = np.random.default_rng(0).uniform(size=len(structure))
    kept = plan_channels(structure, ChannelOptions(ratio=0.5), scores)
    for group in structure.groups:
        if group.reason is None:
            stay, go = group.units[kept[group.units]], group.units[~kept[group.units]]
            assert scores[stay].min() >= scores[go].max()


def test_a_target_out_of_reach_says_the_best(wide: Any) -> None:
    """The refusal names the least share that can be reached."""
    with pytest.raises(UsageError, match=r"macs = 0\.001 cannot be reached: .* the least is 0\.0\d+"):
        prune_channels(wide, ChannelOptions(macs=0.001))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"ratio": 1.0}, "below 1; got 1"),
        ({"ratio": 40.0}, "did you mean 0.4"),
        ({"ratio": -0.1}, "got -0.1"),
        ({"macs": 0.0}, "above 0"),
        ({"parameters": 50.0}, "did you mean 0.5"),
        ({"ratio": float("nan")}, "got nan"),
        ({}, "one of ratio, macs, parameters, download, latency, widths and harmless; got none"),
        ({"ratio": 0.1, "macs": 0.5}, "got ratio, macs"),
        ({"ratio": 0.1, "scope": "model"}, "unknown scope 'model'"),
        ({"ratio": 0.1, "importance": "l0"}, "unknown importance"),
        ({"ratio": 0.1, "round_to": 0}, "at least 1"),
        ({"ratio": 0.1, "compensate": "median"}, "unknown way to compensate"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], part: str) -> None:
    """A wrong option is refused when it is made, with what is allowed."""
    with pytest.raises(UsageError, match=part):
        ChannelOptions(**options)


def test_patterns(wide: Any) -> None:
    """include and exclude match names and types of the layers that make the channels."""
    result = prune_channels(wide, ChannelOptions(ratio=0.4, include=("in*",), exclude=("in1",)))
    assert widths(result) == {"in0": (48, 32)}
    reasons = {group.layer: group.reason for group in result.report.skipped}
    assert reasons["in1"] == "matched by exclude"
    assert reasons["stem"] == "not matched by include"
    with pytest.raises(UsageError, match="exclude pattern 'block9' matches no layer; layers are: "):
        prune_channels(wide, ChannelOptions(ratio=0.4, exclude=("block9",)))


def test_nothing_to_prune(keras: Any) -> None:
    """A model whose only layer makes the output is refused with the reason."""
    x = keras.Input((4,))
    with pytest.raises(UsageError, match=r"nothing to prune: .*an output of the model"):
        prune_channels(keras.Model(x, keras.layers.Dense(3)(x)), ChannelOptions(ratio=0.5))


def test_norms_through_which_was_asked_to_prune(keras: Any) -> None:
    """The report names the normalisations whose statistics change, and is not verified."""
    x = keras.Input((5, 8))
    y = keras.layers.LayerNormalization(name="norm")(keras.layers.Dense(32, name="a")(x))
    model = randomised(keras.Model(x, keras.layers.Dense(2)(y)))
    report = prune_channels(model, ChannelOptions(ratio=0.5, through_norms=True)).report
    assert (report.altered, report.verified) == (("norm",), None)
    assert "norm" in (report.note or "")
    assert [(i.layer, i.after) for i in report.removed] == [("a", 16)]


def test_compensation_is_exact_for_constant_channels(keras: Any) -> None:
    """Channels that always hold the same are made up for by the next bias, or by the mean of the normalisation."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, activation="relu", name="a")(x)
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 1, use_bias=False, name="b")(y)))
    model = randomised(keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y))))
    kernel, bias = (np.array(w) for w in model.get_layer("a").weights)
    kernel[..., :8], bias[:8] = 0, 5.0
    kernel[..., 8:] *= 100  # these score higher
    model.get_layer("a").set_weights([kernel, bias])
    images = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype(np.float32)
    samples = Samples(path=Path("made"), inputs={model.inputs[0]._keras_history.operation.name: images}, targets=None)
    errors = {}
    for way in ("none", "mean"):
        options = ChannelOptions(ratio=0.5, include=("a",), importance="l2", compensate=way)
        small = prune_channels(model, options, samples=samples).model
        (expected,), (got,) = (list(predict(m, samples.inputs).values()) for m in (model, small))
        errors[way] = np.abs(expected - got).max() / np.abs(expected).max()
    assert errors["mean"] < 1e-4 < 1e-2 < errors["none"]
    with pytest.raises(UsageError, match="needs training samples"):
        prune_channels(model, ChannelOptions(ratio=0.5, compensate="mean"))


def test_rounds_end_where_one_cut_would(wide: Any) -> None:
    """Three rounds reach the target of one, train in between, and report the first against the last widths."""
    seen = []

    def train(model: Any, number: int, _: object) -> Any:
        seen.append((number, model.count_params()))
        return model

    result = prune_in_rounds(wide, ChannelOptions(macs=0.3), rounds=3, train=train)
    report = result.report
    assert [number for number, _ in seen] == [1, 2, 3]
    assert wide.count_params() > seen[0][1] > seen[1][1] > seen[2][1] == report.parameters_after
    assert report.parameters_before == wide.count_params()
    assert report.macs_after is not None
    assert report.macs_before is not None
    assert 0.1 < report.macs_after / report.macs_before <= 0.3
    for item in report.removed:
        assert item.before == wide.get_layer(item.layer).filters
        assert item.after == result.model.get_layer(item.layer).filters


@given(st.integers(1, 6), st.floats(0.1, 0.9))
def test_rounds_multiply_up_to_the_target(rounds: int, share: float) -> None:
    """Rounds that hit their part exactly end at the target."""
    base = now = Cost(parameters=1000, macs=10_000_000)
    for number in range(1, rounds + 1):
        part = round_options(ChannelOptions(macs=share), number, rounds, base, now).macs
        assert part is not None
        now = Cost(parameters=1, macs=round(now.macs * part))
    assert now.macs / base.macs == pytest.approx(share, rel=1e-3)
    ratios = [round_options(ChannelOptions(ratio=share), n, rounds, base, now).ratio for n in range(1, rounds + 1)]
    assert ratios == sorted(ratios)
    assert ratios[-1] == pytest.approx(share)


@pytest.fixture
def coarse(keras: Any) -> Any:
    """Two convolutions of 16 and 8 channels: in multiples of 8 the first can become 8, and nothing else can."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(16, 3, name="wide"),
            keras.layers.Conv2D(8, 3, name="narrow"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    "target",
    [{"ratio": 0.5}, {"ratio": 0.25, "scope": "global"}, {"macs": 0.75}, {"parameters": 0.75}],
    ids=["ratio", "global", "macs", "parameters"],
)
def test_rounds_with_coarse_widths(coarse: Any, target: dict[str, Any]) -> None:
    """Small parts of a ratio add up instead of being rounded away, and a target that is reached early is no error."""
    trained = []

    def train(model: Any, number: int, _: object) -> Any:
        trained.append(number)
        return model

    once = prune_channels(coarse, ChannelOptions(**target))
    result = prune_in_rounds(coarse, ChannelOptions(**target), rounds=3, train=train)
    assert trained == [1, 2, 3]
    assert [result.model.get_layer(name).filters for name in ("wide", "narrow")] == [8, 8]
    assert result.report.parameters_after == once.report.parameters_after
    assert result.report.got == pytest.approx(once.report.got)


@given(st.integers(1, 64), st.integers(1, 8), st.floats(0, 64), st.integers(1, 32), st.integers(0, 64))
def test_rounding(units: int, width: int, wanted: float, round_to: int, fixed: int) -> None:
    """Never more than there are, never fewer than are fixed, at least one; a multiple unless all stay."""
    fixed = min(fixed, units)
    group = Group(name="g", units=np.arange(units), width=width, members=(), reason=None)
    kept = rounded(group, wanted, round_to, fixed)
    assert max(1, fixed) <= kept <= units
    assert kept == units or (kept * width) % round_to == 0


def test_same_seed_same_model(wide: Any) -> None:
    """Random importance with a seed gives the same weights twice, and others with another seed."""
    made = [
        prune_channels(wide, ChannelOptions(ratio=0.5, importance="random", seed=seed), verify=False).model
        for seed in (1, 1, 2)
    ]
    kernels = [np.array(m.get_layer("stem").kernel) for m in made]
    assert (kernels[0] == kernels[1]).all()
    assert (kernels[0] != kernels[2]).any()


def test_a_subclassed_model(keras: Any) -> None:
    """It is refused with what to do."""

    class Own(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    with pytest.raises(Unsupported, match="functional API"):
        prune_channels(Own(), ChannelOptions(ratio=0.5))


def test_open_sizes(keras: Any) -> None:
    """A model for images of any size is pruned; its MACs are not known and cannot be a target."""
    L = keras.layers  # noqa: N806
    x = keras.Input((None, None, 3))
    y = L.GlobalAveragePooling2D()(L.Conv2D(32, 3, activation="relu", name="a")(x))
    model = randomised(keras.Model(x, L.Dense(3)(y)))
    report = prune_channels(model, ChannelOptions(ratio=0.5)).report
    assert (report.macs_before, report.macs_after) == (None, None)
    assert report.verified is not None
    with pytest.raises(UsageError, match="leaves sizes open"):
        prune_channels(model, ChannelOptions(macs=0.5))


def test_every_model_of_the_zoo_goes_through(keras: Any) -> None:
    """prune_channels with its defaults on each model that has something to prune at a width of 4."""
    done = 0
    for name, build in ZOO.items():
        model = randomised(build(keras, keras.layers, keras.ops))
        if name != "mixer":
            report = prune_channels(model, ChannelOptions(ratio=0.5, round_to=4)).report
            assert report.parameters_after < report.parameters_before
            done += 1
    assert done == len(ZOO) - 1


class TestVerification:
    """The check of a surgery on random inputs."""

    def test_it_bites(self, wide: Any) -> None:
        """A model whose weights are not those of the reference fails."""
        other = clone(wide)
        kernel = other.get_layer("in0").kernel
        kernel.assign(np.asarray(kernel) * 1.01)
        with pytest.raises(EdgepruneError, match="failed its check: outputs depart by"):
            checked(wide, other, 1e-4, "those of the model")
        assert checked(wide, clone(wide), 1e-4, "those of the model") == (0.0, None)

    def test_indexes_and_truth_values_are_random(self, keras: Any) -> None:
        """Integer inputs reach every row of an embedding, bool inputs hold both values, bytes are pixels."""
        ids, flags = keras.Input((50,), dtype="int32", name="ids"), keras.Input((50,), dtype="bool", name="flags")
        pixels = keras.Input((5, 5, 3), dtype="uint8", name="pixels")
        parts = [keras.layers.Embedding(7, 2)(ids), keras.ops.cast(flags, "float32")]
        model = keras.Model(
            [ids, flags, pixels],
            [keras.layers.Flatten()(parts[0]), parts[1], keras.layers.Rescaling(1.0)(pixels)],
        )
        made = next(random_inputs(model))
        assert set(np.unique(made["ids"])) == set(range(7))
        assert set(np.unique(made["flags"])) == {False, True}
        assert made["pixels"].max() > 200

    def test_open_sizes_grow_until_the_model_runs(self, keras: Any) -> None:
        """A kernel of 80 samples needs more than the first size that is tried."""
        x = keras.Input((None, 1))
        y = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(4, 80)(x))
        model = randomised(keras.Model(x, y))
        assert checked(model, clone(model), 1e-4, "itself") == (0.0, None)

    def test_what_cannot_be_run_is_said(self, keras: Any) -> None:
        """A model that refuses every random input is reported as not checked, with the reason."""
        x = keras.Input((None, None, 1))
        model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Reshape((7, 11))(x)))
        error, note = checked(model, clone(model), 1e-4, "itself")
        assert error is None
        assert (note or "").startswith("not checked: the model does not run on random inputs")

    def test_a_model_that_amplifies_rounding(self, keras: Any) -> None:
        """Where the model itself turns rounding into large differences, nothing can be said of the surgery."""
        x = keras.Input((4,))
        model = keras.Model(x, keras.ops.sin(x * 1e7))
        error, note = checked(model, keras.Model(x, keras.ops.sin(x * 1.0000001e7)), 1e-4, "itself")
        assert error is None
        assert "amplifies rounding" in (note or "")


@pytest.mark.parametrize(("what", "part"), [("quantize", "quantized in Keras"), ("enable_lora", "LoRA")])
def test_weights_of_another_kind(keras: Any, what: str, part: str) -> None:
    """Quantized and LoRA layers are refused before any work."""
    x = keras.Input((8,))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(16, name="a")(x)))
    if what == "quantize":
        model.get_layer("a").quantize("int8")
    else:
        model.get_layer("a").enable_lora(2)
    with pytest.raises(Unsupported, match=part):
        prune_channels(model, ChannelOptions(ratio=0.5))


def test_a_ratio_of_zero_changes_nothing(keras: Any) -> None:
    """Widths that are no multiple of round_to stay, too."""
    x = keras.Input((8,))
    model = randomised(keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(20, name="a")(x))))
    assert widths(prune_channels(model, ChannelOptions(ratio=0.0))) == {}


def test_macs_of_layers_that_are_not_followed(keras: Any) -> None:
    """What a layer without a rule multiplies is not known, and neither is the sum."""
    x = keras.Input((5, 8, 8, 2))
    y = keras.layers.Flatten()(keras.layers.ConvLSTM2D(4, 3)(x))
    model = randomised(keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(16, name="a")(y))))
    assert prune_channels(model, ChannelOptions(ratio=0.5)).report.macs_before is None
    with pytest.raises(UsageError, match="layers that are not followed"):
        prune_channels(model, ChannelOptions(macs=0.5))


@pytest.mark.parametrize("target", ["macs", "parameters"])
def test_both_directions_keep_as_many_units(keras: Any, target: str) -> None:
    """Keras takes what both directions make for twice what the forward one makes, and the next layer with it."""
    L = keras.layers  # noqa: N806
    x = keras.Input((6, 4))
    y = L.Dense(32, name="mid")(L.Bidirectional(L.LSTM(16, return_sequences=True), name="both")(x))
    model = randomised(keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(y))))
    result = prune_channels(model, ChannelOptions(**{target: 0.5}, importance="l2", round_to=1))  # type: ignore[arg-type]
    both = result.model.get_layer("both")
    assert 0 < both.forward_layer.units == both.backward_layer.units < 16
    assert result.report.verified is not None
    assert result.report.verified <= 1e-4


def test_directions_that_differ_are_left_alone(keras: Any) -> None:
    """As an output nothing reads what Keras reckons wrongly, so such a model exists."""
    L = keras.layers  # noqa: N806
    x = keras.Input((6, 4))
    y = L.Dense(16, name="front")(x)
    ways = L.LSTM(8, return_sequences=True), L.LSTM(4, return_sequences=True, go_backwards=True)
    model = keras.Model(x, [L.Bidirectional(ways[0], backward_layer=ways[1], name="both")(y), L.Dense(3)(y)])
    assert analyse(model).trace.fences == [("both", "both: its directions have different numbers of units")]

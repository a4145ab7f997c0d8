"""Dependency groups: which channels live and die together, and why some must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from channel_zoo import ZOO
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import Unsupported
from edgeprune.maker.pruning.channel.channel_ids import Atoms
from edgeprune.maker.pruning.channel.groups import Group, Structure
from edgeprune.maker.pruning.channel.pruner import analyse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")


def structure_of(keras: Any, name: str) -> Structure:
    return analyse(ZOO[name](keras, keras.layers, keras.ops))


def group_of(structure: Structure, layer: str) -> Group:
    """The group in which a layer makes channels."""
    (found,) = [g for g in structure.groups if any(m.layer == layer and m.makes for m in g.members)]
    return found


def makers(group: Group) -> set[str]:
    return {member.layer for member in group.members if member.makes}


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=20))
def test_joined_atoms_are_the_connected_components(pairs: list[tuple[int, int]]) -> None:
    """Union-find agrees with a plain search; a unit joined with 0 is fixed."""
    atoms = Atoms()
    labels = atoms.make(12)
    for a, b in pairs:
        atoms.join(np.array([a]), np.array([b]), "reason")
    near: dict[int, set[int]] = {n: {n} for n in range(13)}
    for a, b in pairs:
        if b:
            whole = near[a] | near[b]
            for member in whole:
                near[member] = whole
    roots = atoms.roots(labels)
    for one in range(1, 13):
        assert set(np.flatnonzero(roots == roots[one - 1]) + 1) == near[one]
        assert (atoms.reason(one) is not None) == any(b == 0 and a in near[one] for a, b in pairs)


def test_residual_layers_share_a_group(keras: Any) -> None:
    """All layers that are added up lose the same channels; what is inside a block has a group of its own."""
    structure = structure_of(keras, "residual")
    assert makers(group_of(structure, "stem")) == {"stem", "out0", "out1"}
    assert makers(group_of(structure, "in0")) == {"in0"}


def test_depthwise_and_squeeze_excite_follow(keras: Any) -> None:
    """A depthwise layer belongs to the group of what it reads; a gate to that of what it gates."""
    structure = structure_of(keras, "inverted_residual")
    assert {"expand", "depthwise", "project"} <= {m.layer for m in group_of(structure, "expand").members}
    assert makers(group_of(structure_of(keras, "squeeze_excite"), "stem")) == {"stem", "gate"}


def test_concatenated_layers_stay_apart(keras: Any) -> None:
    """Layers that are concatenated lose channels of their own; multiplied embeddings do not."""
    structure = structure_of(keras, "dense_block")
    assert [makers(g) for g in structure.groups if g.reason is None] == [{"stem"}, {"grow0"}, {"grow1"}, {"grow2"}]
    assert makers(group_of(structure_of(keras, "ranking"), "users")) == {"users", "items"}


def test_widths_of_grouped_convolutions(keras: Any) -> None:
    """Small groups go whole (4 channels each), wide ones lose the same place in each of the 4 groups."""
    resnext = structure_of(keras, "resnext")
    assert (len(group_of(resnext, "groups").units), group_of(resnext, "groups").width) == (8, 4)
    wide = structure_of(keras, "grouped")
    assert (len(group_of(wide, "stem").units), group_of(wide, "stem").width) == (12, 4)


def test_macs_of_a_convolution(keras: Any) -> None:
    """MACs are output positions times kernel size, parameters count biases; by hand for a tiny model."""
    x = keras.Input((6, 6, 2))
    y = keras.layers.Conv2D(4, 3, name="a")(x)  # 4 x 4 positions x 9 x 2 x 4
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y)))
    structure = analyse(model)
    assert (structure.whole().macs, structure.whole().parameters) == (16 * 72 + 12, 72 + 4 + 12 + 3)
    stake = structure.at_stake(group_of(structure, "a"))
    assert (stake.macs, stake.parameters) == (16 * 72 + 12, 72 + 4 + 12)


def test_layer_normalization_only_when_asked(keras: Any) -> None:
    """Channels that a LayerNormalization reads together stay, unless through_norms says otherwise."""
    layers = keras.layers
    x = keras.Input((5, 8))
    y = layers.LayerNormalization(name="norm")(layers.Dense(16, name="a")(x))
    model = keras.Model(x, layers.Dense(2)(y))
    stuck = group_of(analyse(model), "a")
    assert "norm (LayerNormalization) normalises over the channels" in (stuck.reason or "")
    assert group_of(analyse(model, through_norms=True), "a").reason is None


def test_group_normalization(keras: Any) -> None:
    """Whole groups of 4 channels go, single channels under instance normalisation; the same place of all 8 if asked."""
    build = ZOO["group_norms"]
    plain = analyse(build(keras, keras.layers, keras.ops))
    asked = analyse(build(keras, keras.layers, keras.ops), through_norms=True)
    assert [(len(group_of(s, "a").units), group_of(s, "a").width) for s in (plain, asked)] == [(8, 4), (4, 8)]
    assert (len(group_of(plain, "b").units), group_of(plain, "b").width) == (16, 1)
    assert [name for name, _ in plain.trace.altered] == []
    assert [name for name, _ in asked.trace.altered] == ["eight"]


def test_an_unknown_layer_fences_its_group_off(keras: Any) -> None:
    """A custom layer keeps the channels that reach it, by name, and nothing else."""

    class Odd(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs[..., ::-1]

    layers = keras.layers
    x = keras.Input((8,))
    y = layers.Dense(16, activation="relu", name="before")(x)
    y = layers.Dense(16, name="after")(Odd(name="odd")(layers.Dense(16, name="reached")(y)))
    structure = analyse(keras.Model(x, layers.Dense(2)(y)))
    assert group_of(structure, "reached").reason == "odd (Odd) cannot be followed"
    assert group_of(structure, "before").reason is None
    assert group_of(structure, "after").reason is None


def test_a_custom_layer_can_be_taught(keras: Any) -> None:
    """A layer with an `edgeprune_rule` method says how channels pass through it."""

    class Twice(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return 2 * inputs

        def edgeprune_rule(self, _trace: Any, call: Any) -> Any:
            return [call.flows[0]]

    x = keras.Input((8,))
    y = Twice(name="twice")(keras.layers.Dense(16, name="a")(x))
    structure = analyse(keras.Model(x, keras.layers.Dense(2)(y)))
    assert group_of(structure, "a").reason is None


def test_a_lambda_fences(keras: Any) -> None:
    """Code inside a Lambda is not read."""
    x = keras.Input((8,))
    y = keras.layers.Lambda(lambda t: t * 2, name="code")(keras.layers.Dense(16, name="a")(x))
    structure = analyse(keras.Model(x, keras.layers.Dense(2)(y)))
    assert group_of(structure, "a").reason == "code (Lambda) cannot be followed"


def test_channels_added_to_an_input_stay(keras: Any) -> None:
    """A residual onto the model's input keeps the input's channels."""
    x = keras.Input((8, 8, 16))
    y = keras.layers.Add(name="sum")([x, keras.layers.Conv2D(16, 3, padding="same", name="a")(x)])
    structure = analyse(keras.Model(x, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))))
    assert group_of(structure, "a").reason == "sum joins it with channels that stay"


def test_a_subclassed_model_is_refused(keras: Any) -> None:
    """The graph of a subclassed model is hidden in its call method; the way out is named."""

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self.dense(inputs)

    model = Own()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(Unsupported, match="functional API"):
        analyse(model)

"""Which layer became which: by name, then by kind in order, and nothing twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from made_records import layer

from edgeprune.checker.size.layer_pairs import layer_pairs
from edgeprune.checker.size.records import LayerAccount

LAYERS = st.lists(
    st.builds(
        layer, st.sampled_from("abcd"), kind=st.sampled_from(["CONV", "DENSE"]), group=st.sampled_from(["", "g"])
    ),
    max_size=8,
)


def names(before: list[LayerAccount], after: list[LayerAccount]) -> list[tuple[str | None, str | None]]:
    """Pairs of names."""
    return [(old.name if old else None, new.name if new else None) for old, new in layer_pairs(before, after)]


def test_by_name_whatever_the_order() -> None:
    """In the order of the second file; what the second lacks comes last."""
    before = [layer("a"), layer("b"), layer("c", kind="ADD")]
    assert names(before, [layer("b"), layer("a")]) == [("b", "b"), ("a", "a"), ("c", None)]


def test_renamed_layers_by_kind_in_order() -> None:
    """A converter fused and renamed: convolutions stay convolutions, in their order; another kind is new."""
    before = [layer("c1"), layer("d", kind="DENSE"), layer("c2")]
    after = [layer("x1"), layer("x2"), layer("e", kind="MUL")]
    assert names(before, after) == [("c1", "x1"), ("c2", "x2"), (None, "e"), ("d", None)]


def test_formats_spell_the_same_operation_differently() -> None:
    """A .tflite beside a .mlpackage, a .onnx beside a .keras: convolutions and dense layers find each other."""
    before = [layer("a", kind="CONV_2D"), layer("b", kind="DEPTHWISE_CONV_2D"), layer("c", kind="FULLY_CONNECTED")]
    after = [layer("x", kind="conv"), layer("r", kind="transpose"), layer("y", kind="conv"), layer("z", kind="linear")]
    assert names(before, after) == [("a", "x"), (None, "r"), ("b", "y"), ("c", "z")]
    assert names([layer("a", kind="Gemm"), layer("b", kind="Conv")], [layer("x", kind="Dense")]) == [
        ("a", "x"),
        ("b", None),
    ]


def test_equal_names_in_turn() -> None:
    """The second of a name is the second of that name; the same name in another subgraph is another layer."""
    before = [layer("a", raw_bytes=1), layer("a", raw_bytes=2), layer("a", kind="IF", group="g", raw_bytes=3)]
    after = [layer("a", raw_bytes=5), layer("a", kind="IF", group="g", raw_bytes=6), layer("a", raw_bytes=7)]
    sizes = [(old.raw_bytes, new.raw_bytes) for old, new in layer_pairs(before, after) if old and new]
    assert sizes == [(1, 5), (3, 6), (2, 7)]


@given(before=LAYERS, after=LAYERS)
def test_every_layer_is_in_one_pair(before: list[LayerAccount], after: list[LayerAccount]) -> None:
    """Each of both files once, the second's in their order, and no pair of different kinds but of one name."""
    pairs = layer_pairs(before, after)
    assert [new for _, new in pairs if new] == after
    assert sorted(id(old) for old, _ in pairs if old) == sorted(map(id, before))
    for old, new in pairs:
        assert old is not None or new is not None
        assert old is None or new is None or old.kind == new.kind or (old.group, old.name) == (new.group, new.name)


@given(layers=LAYERS)
def test_a_file_is_like_itself(layers: list[LayerAccount]) -> None:
    """Every layer with itself."""
    assert layer_pairs(layers, layers) == [(item, item) for item in layers]

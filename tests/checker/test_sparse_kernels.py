"""Files made for sparse kernels: what is rewritten and computes the same, how it is stored, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from places import TESTS
from sparse_networks import Network, headed, plain

from edgeprune.artifact import Precision
from edgeprune.checker.latency.sparse_cluster import find_cluster
from edgeprune.checker.sparse_kernels.encoding import as_sparse, dense_values
from edgeprune.checker.sparse_kernels.ineligible import IneligibleError
from edgeprune.checker.sparse_kernels.options import Prefer, SparseOptions
from edgeprune.checker.sparse_kernels.proof import EXACT, ROUNDINGS, Proof, prove_exact, random_inputs
from edgeprune.checker.sparse_kernels.rewrites import make_eligible
from edgeprune.checker.sparse_kernels.sparse_file import float_graph, with_sparse_kernels
from edgeprune.checker.sparse_kernels.storage import store_weights, unpack_weights
from edgeprune.checker.sparse_kernels.windows import AxisWindow, same_padding
from edgeprune.errors import ConversionError, InputError, Unsupported
from edgeprune.formats.precision import tflite_precision
from edgeprune.formats.tflite.editing import EditedGraph
from edgeprune.formats.tflite.flatbuffer import parse_tflite

PATH = Path("network.tflite")
FILES = TESTS / "files"
# Of these the proof is run, which starts two processes; the others are made of the same rewrites.
PROVED = ("5x5", "hard gate", "shifted", "classifier", "pool", "padded behind", "mixed")


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not run."""
    monkeypatch.setattr("edgeprune.checker.sparse_kernels.sparse_file.prove_exact", lambda *_: Proof(difference=0.0))


def with_gate(**more: bool) -> bytes:
    network = plain()
    network.gate(**more)
    return headed(network)


def with_constant(kind: str, *values: float) -> bytes:
    network = plain()
    network.binary(kind, network.x, network.number(*values))
    return headed(network)


def with_classifier() -> bytes:
    """As MobileNetV1: the mean keeps its axes, and a 1x1 convolution reads it."""
    network = plain()
    network.mean(keeps=True)
    network.conv(6, act="NONE")
    network.reshape(1, 6)
    return network.content()


def with_pool() -> bytes:
    network = plain()
    network.pool()
    network.reshape(1, 16)
    network.dense()
    return network.content()


def with_five() -> bytes:
    network = plain(32)
    network.depthwise(5, 2)
    network.depthwise(5)
    return headed(network)


def with_pads(before: int, behind: int, size: int = 16) -> bytes:
    """The stem padded by a PAD."""
    network = Network(size)
    network.pad(before, behind)
    network.conv(8, 3, 2, padding="VALID")
    network.conv(16)
    return headed(network)


MADE: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "even": (lambda: headed(plain(16)), ["rot180", "explicit-padding"]),
    "odd": (lambda: headed(plain(17)), ["explicit-padding"]),  # 17 and 9: SAME pads by 1 on both sides
    "mixed": (lambda: headed(plain(18)), ["rot180", "explicit-padding"]),  # 18 is even, 9 odd
    "5x5": (with_five, ["rot180", "explicit-padding"]),
    "padded behind": (lambda: with_pads(0, 1), ["rot180", "symmetric-padding"]),
    "padded before": (lambda: with_pads(1, 0), ["symmetric-padding"]),
    "padded": (lambda: with_pads(1, 1), []),
    "gate": (with_gate, ["rot180", "explicit-padding"]),
    "reshaped gate": (lambda: with_gate(reshaped=True), ["rot180", "explicit-padding", "mean-keeps-axes"]),
    "hard gate": (lambda: with_gate(hard=True), ["rot180", "explicit-padding", "constant-first"]),
    "scaled": (lambda: with_constant("MUL", 0.5), ["rot180", "explicit-padding", "constant-first"]),
    "shifted": (lambda: with_constant("SUB", *range(16)), ["rot180", "explicit-padding", "constant-first"]),
    "classifier": (with_classifier, ["rot180", "explicit-padding", "mean-drops-axes"]),
    "pool": (with_pool, ["rot180", "explicit-padding", "mean", "mean-drops-axes"]),
}


@pytest.mark.parametrize("name", MADE)
def test_a_network_becomes_eligible(name: str, request: pytest.FixtureRequest) -> None:
    """By these rewrites, which change no output; the checker, which reads the file alone, finds it eligible."""
    build, rewrites = MADE[name]
    if name not in PROVED:
        request.getfixturevalue("unproved")
    content = build()
    before = find_cluster(parse_tflite(PATH, content)[0])
    found = with_sparse_kernels(PATH, content)
    assert [rewrite.name for rewrite in found.report.rewrites] == rewrites
    assert all(rewrite.layers for rewrite in found.report.rewrites)
    cluster = find_cluster(parse_tflite(PATH, found.content)[0])
    assert (cluster.stem, cluster.inside, cluster.integers) == ("", "", "")
    assert cluster.densify >= 1
    assert cluster.pointwise_sparsity == pytest.approx(0.8, abs=0.01)
    assert before.densify == 0
    limit = max(EXACT, ROUNDINGS * (found.report.rounding or 0))
    assert found.report.difference <= limit
    assert found.report.samples == 64


@pytest.mark.usefixtures("unproved")
def test_the_caller_may_turn_the_image() -> None:
    """Then the file has no REVERSE_V2, and computes the same of images turned by 180 degrees."""
    content = headed(plain())
    kinds = []
    for options in (SparseOptions(), SparseOptions(reversed_input=True)):
        found = with_sparse_kernels(PATH, content, options)
        kinds.append({op.kind for op in parse_tflite(PATH, found.content)[0].ops})
        assert found.report.reversed_input is options.reversed_input
    assert [("REVERSE_V2" in found) for found in kinds] == [True, False]
    odd = with_sparse_kernels(PATH, headed(plain(17)), SparseOptions(reversed_input=True))
    assert not odd.report.reversed_input  # nothing is turned


@pytest.mark.usefixtures("unproved")
def test_the_image_is_turned_before_all_else() -> None:
    """Operations that do not depend on it would else take the sign of sparse weights into a partition of their own."""
    network = Network()
    network.binary("MUL", network.x, network.number(1 / 127.5))
    network.binary("SUB", network.x, network.number(1.0))
    network.conv(8, 3, 2)
    network.conv(16)
    made = with_sparse_kernels(PATH, headed(network)).content
    graph, _ = parse_tflite(PATH, made)
    assert [op.kind for op in graph.ops[:4]] == ["REVERSE_V2", "REVERSE_V2", "MUL", "SUB"]


def stem(size: int, kernel: int, stride: int) -> bytes:
    network = Network(size)
    network.conv(8, kernel, stride)
    network.conv(16)
    return headed(network)


def inside(change: Callable[[Network], object], size: int = 16) -> bytes:
    network = plain(size)
    change(network)
    return headed(network)


def map_as_output() -> bytes:
    network = plain()
    network.conv(16)
    return network.content()


def stranger() -> bytes:
    """A second input joins the map."""
    network = plain()
    other = network.made.add_tensor("other", network.made.shape(network.x), "FLOAT32")
    network.binary("ADD", network.x, other)
    network.conv(32)
    network.mean()
    network.dense()
    network.made.graph.inputs = np.array([network.image, other], np.int32)
    return network.content()


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "7x7 stem": (lambda: stem(16, 7, 2), "d", "the first convolution is 7x7 of stride 2 on 3 channels"),
    "stem of stride 1": (lambda: stem(16, 3, 1), "d", "of stride 1"),
    "3x3 inside": (lambda: inside(lambda n: n.conv(16, 3)), "e", "a CONV_2D of 3x3; inside only 1x1 may stand"),
    "1x1 of stride 2": (lambda: inside(lambda n: n.conv(16, 1, 2)), "e", "another stride than 1"),
    "7x7 depthwise": (lambda: inside(lambda n: n.depthwise(7)), "e", "a DEPTHWISE_CONV_2D of 7x7"),
    "softmax": (lambda: inside(lambda n: n.unary("SOFTMAX")), "e", "a SOFTMAX"),
    "map out": (map_as_output, "e", "a map is an output of the model"),
    "padded by 2": (lambda: with_pads(2, 2), "d", "16 padded by (2, 2)"),
    "odd, padded behind": (lambda: with_pads(0, 1, 17), "d", "17 padded by (0, 1)"),
    "not enough zeros": (lambda: headed(plain(sparsity=0.6)), "f", "59.9% zeros in its 1x1 filters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rewrite_cures(name: str) -> None:
    """The error has the condition, the layer and what would help, and exit code 3."""
    build, rule, told = REFUSED[name]
    with pytest.raises(IneligibleError) as caught:
        with_sparse_kernels(PATH, build())
    assert (caught.value.rule, caught.value.exit_code) == (rule, 3)
    assert told in str(caught.value)
    assert caught.value.cure in str(caught.value)


@pytest.mark.parametrize("name", ["int8.tflite"])
def test_integers_are_refused(name: str) -> None:
    """Their graphs never run sparse."""
    with pytest.raises(Unsupported, match="is int8: it computes with integers"):
        with_sparse_kernels(FILES / name, (FILES / name).read_bytes())


@settings(max_examples=200, deadline=None)
@given(st.integers(5, 40), st.sampled_from([3, 5]), st.sampled_from([1, 2]), st.integers(0, 4), st.integers(0, 4))
def test_symmetric_windows_are_the_same_windows(size: int, kernel: int, stride: int, before: int, behind: int) -> None:
    """Where an axis is called symmetric, padding by half the kernel on both sides reaches the same elements."""
    axis = AxisWindow(size=size, kernel=kernel, stride=stride, before=before, behind=behind)
    line = np.arange(1, size + 1)

    def windows(values: np.ndarray, pads: tuple[int, int]) -> list[list[int]]:
        padded = np.pad(values, pads)
        return [padded[at : at + kernel].tolist() for at in range(0, len(padded) - kernel + 1, stride)]

    known = windows(line, (before, behind))
    half = (kernel // 2, kernel // 2)
    assert axis.symmetric(turned=False) == (windows(line, half) == known)
    turned = [window[::-1] for window in windows(line[::-1], half)[::-1]]
    assert axis.symmetric(turned=True) == (turned == known)


def test_same_padding_is_tensorflows() -> None:
    """Even sizes at stride 2 get nothing before and one behind (tf.nn, notes on padding)."""
    assert [same_padding(*case) for case in ((224, 3, 2), (7, 3, 2), (8, 5, 2), (8, 3, 1))] == [
        (0, 1),
        (1, 1),
        (1, 2),
        (1, 1),
    ]


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=6),
        elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]),
    )
)
def test_sparse_storage_keeps_every_number(values: np.ndarray) -> None:
    """What is stored sparse is read back the same."""
    stored = as_sparse(values)
    assert np.array_equal(dense_values(stored.values, stored.table(), stored.shape), values)


def test_sparse_files_of_tensorflow_are_read() -> None:
    """Blocks, and more than one compressed dimension, as TensorFlow's converter stores them."""
    for dense, sparse in (("float32", "float32_sparse"), ("float16", "float16_sparse")):
        kernels = []
        for name in (dense, sparse):
            path = FILES / f"{name}.tflite"
            graph = float_graph(path, path.read_bytes())
            assert {graph.kind(op) for op in graph.ops} & {"DENSIFY", "DEQUANTIZE"} == set()
            found = [
                graph.floats(graph.reads(op)[1]) for op in graph.ops if graph.kind(op) in ("CONV_2D", "FULLY_CONNECTED")
            ]
            assert all(kernel is not None for kernel in found)
            kernels.append(found)
        for first, second in zip(*kernels, strict=True):
            assert np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.usefixtures("unproved")
def test_broken_indices_are_refused() -> None:
    """A forged column leads out of the tensor."""
    content = with_sparse_kernels(PATH, headed(plain())).content
    graph = EditedGraph(PATH, content)
    tensor = next(t for t in graph.graph.tensors if t.sparsity is not None)
    tensor.sparsity.dimMetadata[-1].arrayIndices.values[:] = 255
    with pytest.raises(InputError, match=r"the sparse constant .* is broken"):
        unpack_weights(graph)


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("precision", ["float32", "float16", "int8-weights"])
@pytest.mark.parametrize("prefer", list(Prefer))
def test_storage(precision: str, prefer: Prefer) -> None:
    """Each precision is what the file is then read as; unpacked, the weights are those that were stored."""
    content = headed(plain())
    found = with_sparse_kernels(PATH, content, SparseOptions(precision=Precision(precision), prefer=prefer))
    graph, _ = parse_tflite(PATH, found.content)
    assert tflite_precision(graph) == precision
    assert found.report.stored_sparse >= 1
    again = float_graph(PATH, found.content)
    first = float_graph(PATH, content)
    make_eligible(first)
    steps = {"float32": 0.0, "float16": 2**-10, "int8-weights": 1 / 127}[precision]
    for one, other in zip(first.ops, again.ops, strict=True):
        for index, place in zip(first.reads(one)[1:], again.reads(other)[1:], strict=True):
            known, stored = first.floats(index), again.floats(place)
            if known is not None:
                assert stored is not None
                assert np.abs(known - stored).max() <= steps * np.abs(known).max()


@pytest.mark.usefixtures("unproved")
def test_int8_is_never_stored_sparse_and_its_biases_stay_wide() -> None:
    """LiteRT 2.3.0 unpacks sparse int8 into other numbers, and gives layers with a float16 bias beside an int8 kernel
    no sparse kernel (both measured)."""
    options = SparseOptions(precision=Precision.INT8_WEIGHTS, prefer=Prefer.INSTALL)
    made = with_sparse_kernels(PATH, headed(plain(sparsity=0.95)), options).content
    graph, buffers = parse_tflite(PATH, made)
    assert {graph.tensors[index].dtype for index in buffers.positions} == {"float16"}
    biases = {graph.tensors[op.inputs[2]].dtype for op in graph.ops if op.kind.endswith("CONV_2D")}
    assert biases == {"float32"}
    assert all(graph.tensors[op.inputs[2]].constant for op in graph.ops if op.kind.endswith("CONV_2D"))


def test_the_smaller_storage_is_chosen() -> None:
    """At 99 % zeros sparse storage is smaller raw, at 5 % dense storage is; the hint alone is sparse then."""
    counts = []
    for sparsity in (0.99, 0.05):
        network = plain(sparsity=sparsity)
        graph = float_graph(PATH, headed(network))
        kernels = [graph.reads(op)[1] for op in graph.ops if graph.kind(op) in ("CONV_2D", "FULLY_CONNECTED")]
        hint = kernels[1]
        counts.append(store_weights(graph, Precision.FLOAT32, sparse=True, prefer=Prefer.INSTALL, hint=hint))
    assert counts == [4, 1]


def test_what_nothing_reads_is_left_out() -> None:
    """Rewriting leaves no old constant behind: the file grows by tables alone."""
    content = headed(plain(sparsity=0.0))
    graph = float_graph(PATH, content)
    make_eligible(graph)
    made = graph.content()
    assert len(made) < len(content) + 2000
    tensors, ops = parse_tflite(PATH, made)[0].tensors, parse_tflite(PATH, made)[0].ops
    read = {index for op in ops for index in (*op.inputs, *op.outputs)}
    assert read >= set(range(len(tensors)))


def test_fewer_random_inputs_are_the_first_of_more() -> None:
    """Whatever their number, of a file with several inputs too."""
    known = parse_tflite(PATH, headed(plain()))[0]
    other = next(op.outputs[0] for op in known.ops)
    graph = replace(known, inputs=(*known.inputs, other), signatures=())
    few, more = random_inputs(graph, samples=2), random_inputs(graph, samples=5)
    assert len(few) == 2
    for name, rows in few.items():
        np.testing.assert_array_equal(rows, more[name][:2])
        assert rows.min() < 0 < rows.max() < 1


def test_a_wrong_rewrite_is_caught() -> None:
    """Kernels turned without the image make another network, which the proof refuses."""
    content = headed(plain())
    graph = float_graph(PATH, content)
    make_eligible(graph, reversed_input=True)
    inputs = random_inputs(parse_tflite(PATH, content)[0], samples=4)
    with pytest.raises(ConversionError, match=r"differs by .* of its largest number on 4 samples"):
        prove_exact(PATH, content, graph.content(), inputs)
    turned = {name: rows[:, ::-1, ::-1] for name, rows in inputs.items()}
    assert prove_exact(PATH, content, graph.content(), inputs, turned).difference < 1e-5


@pytest.mark.usefixtures("unproved")
def test_a_value_from_outside_breaks_the_cluster() -> None:
    """XNNPACK drops a cluster that reads what something outside computes; seen by the editor and by the checker."""
    with pytest.raises(IneligibleError, match="from outside"):
        with_sparse_kernels(PATH, stranger())
    hard = with_sparse_kernels(PATH, with_gate(hard=True)).content
    assert find_cluster(parse_tflite(PATH, hard)[0]).inside == ""
    assert "from outside" in str(find_cluster(parse_tflite(PATH, odd_gate())[0]).inside)


def odd_gate() -> bytes:
    """A gate whose constant has no dimensions, in a network that is right otherwise."""
    network = Network(17)
    network.pad(1, 1)
    network.conv(8, 3, 2, padding="VALID")
    network.gate(hard=True)
    return headed(network)

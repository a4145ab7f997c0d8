"""Do zeros pay? Each condition of XNNPACK's rule broken alone, and the rules of the other targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TESTS

from edgeprune.checker.latency.sparse_cluster import Cluster, KeptMean, find_cluster
from edgeprune.checker.latency.sparsity import Pays, load_refusals, runs_sparse_kernels, sparsity_advice
from edgeprune.errors import InputError
from edgeprune.formats import Contents, read_contents, read_graph
from edgeprune.formats.graph import FileOptions, Graph, Op, Tensor, Window

FILES = TESTS / "files"
ELIGIBLE = FILES / "eligible_sparse.tflite"
# Positions of its operations: PAD, stem, 1x1, depthwise, DENSIFY, 1x1, MEAN, dense layer (tests/files/make_files.py).
STEM, FIRST, DEPTHWISE, DENSIFY, SECOND, MEAN, DENSE = range(1, 8)


def eligible() -> tuple[Graph, FileOptions]:
    """A graph that meets every condition, with its options."""
    graph = read_graph(ELIGIBLE)
    return graph, graph.options


def cluster_of(graph: Graph, options: FileOptions) -> Cluster:
    """The cluster of a graph with these options."""
    return find_cluster(dataclasses.replace(graph, options=options))


def holding(graph: Graph, options: FileOptions) -> Contents:
    """A file with this graph."""
    return dataclasses.replace(read_contents(ELIGIBLE), graph=dataclasses.replace(graph, options=options))


def window(options: FileOptions, place: int, **changed: object) -> FileOptions:
    """Options with one convolution moved otherwise."""
    new = dataclasses.replace(options.windows[place], **changed)  # type: ignore[arg-type]
    return dataclasses.replace(options, windows={**options.windows, place: new})


def tensor(graph: Graph, index: int, **changed: object) -> Graph:
    """The graph with one tensor changed."""
    tensors = list(graph.tensors)
    tensors[index] = dataclasses.replace(tensors[index], **changed)  # type: ignore[arg-type]
    return dataclasses.replace(graph, tensors=tuple(tensors))


def kind(graph: Graph, place: int, name: str) -> Graph:
    """The graph with one operation renamed."""
    ops = list(graph.ops)
    ops[place] = dataclasses.replace(ops[place], kind=name)
    return dataclasses.replace(graph, ops=tuple(ops))


def test_an_eligible_file_pays_where_the_processor_allows() -> None:
    """On Arm and in WebAssembly, not on x86 with AVX; 1800 zeros of 256 + 2048 + 256 weights."""
    arm, wasm, x86, ethos, two_of_four = sparsity_advice(read_contents(ELIGIBLE))
    assert (arm.pays, wasm.pays, x86.pays) == (Pays.YES, Pays.YES, Pays.NO)
    assert [condition.letter for condition in arm.conditions] == list("abcdefg")
    assert arm.conditions[5].found == "78.1%, with dense layers 70.3%"
    assert (arm.failed, arm.change) == ((), "")
    assert [condition.letter for condition in x86.failed] == ["a"]
    assert "AVX" in x86.failed[0].found
    assert "--style channel" in x86.change
    assert (ethos.pays, two_of_four.pays) == (Pays.NO, Pays.NO)


def test_the_cluster_of_an_eligible_graph() -> None:
    """Nothing is wrong with it."""
    assert cluster_of(*eligible()) == Cluster(
        densify=1, integers="", stem="", inside="", shaped=True, sparsity=1800 / 2560, pointwise_sparsity=1800 / 2304
    )


def test_the_options_of_a_real_file() -> None:
    """Strides, paddings and sparse storage as the converter wrote them."""
    _, options = eligible()
    assert options.windows[STEM] == Window(stride=(2, 2), dilation=(1, 1), padding="VALID")
    assert options.windows[DEPTHWISE] == Window(stride=(1, 1), dilation=(1, 1), padding="SAME")
    assert options.paddings == {0: ((0, 0), (1, 1), (1, 1), (0, 0))}
    assert len(options.sparse) == 1
    assert options.open_inputs == {}


BREAKS: dict[str, tuple[Callable[[Graph, FileOptions], tuple[Graph, FileOptions]], str, str]] = {
    "b": (lambda g, o: (kind(g, DENSIFY, "DEQUANTIZE"), o), "densify", "0"),
    "c: integers": (lambda g, o: (tensor(g, g.ops[FIRST].outputs[0], dtype="int8"), o), "integers", "CONV_2D works on"),
    "c: integer filter": (
        lambda g, o: (tensor(g, g.ops[FIRST].inputs[1], dtype="int8"), o),
        "integers",
        "CONV_2D works on float32, int8",
    ),
    "d: stride": (lambda g, o: (g, window(o, STEM, stride=(1, 1))), "stem", "3x3 of stride 1 on 3 channels"),
    "d: SAME": (lambda g, o: (g, window(o, STEM, padding="SAME")), "stem", "its padding is SAME"),
    "d: no PAD": (lambda g, o: (kind(g, 0, "IDENTITY"), o), "stem", "not padded by 1"),
    "d: pad of 2": (
        lambda g, o: (g, dataclasses.replace(o, paddings={0: ((0, 0), (2, 2), (1, 1), (0, 0))})),
        "stem",
        "not padded by 1",
    ),
    "d: dilation": (lambda g, o: (g, window(o, STEM, dilation=(2, 2))), "stem", "3x3 of stride 2"),
    "d: no mean": (lambda g, o: (kind(g, MEAN, "RESHAPE"), o), "inside", "a RESHAPE"),
    "d: no end": (lambda g, o: (dataclasses.replace(g, ops=g.ops[:MEAN]), o), "inside", "does not end in a MEAN"),
    "e: 1x1 stride": (lambda g, o: (g, window(o, FIRST, stride=(2, 2))), "inside", "another stride"),
    "e: depthwise SAME stride 2": (
        lambda g, o: (g, window(o, DEPTHWISE, stride=(2, 2))),
        "inside",
        "stride 2 with padding SAME",
    ),
    "e: depthwise VALID": (lambda g, o: (g, window(o, DEPTHWISE, padding="VALID")), "inside", "not padded by 1"),
    "e: multiplier": (lambda g, o: (g, window(o, DEPTHWISE, multiplier=2)), "inside", "multiplier"),
    "e: 7x7": (
        lambda g, o: (tensor(g, g.ops[DEPTHWISE].inputs[1], shape=(1, 7, 7, 32)), o),
        "inside",
        "neither 3x3 nor 5x5",
    ),
    "e: other operation": (lambda g, o: (kind(g, FIRST, "SOFTMAX"), o), "inside", "a SOFTMAX"),
    "f": (lambda g, o: (tensor(g, g.ops[DENSIFY].inputs[0], zeros=1706), o), "sparsity", str(1706 / 2560)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_condition_alone(name: str) -> None:
    """One thing changed in the eligible graph breaks the condition it belongs to, and says what is wrong."""
    change, part, told = BREAKS[name]
    found = getattr(cluster_of(*change(*eligible())), part)
    assert told in str(found)


def test_two_thirds_is_not_enough() -> None:
    """The rule asks for strictly more: 2/3 of 2560 lies between 1706 and 1707 zeros."""
    graph, options = eligible()
    stored = graph.ops[DENSIFY].inputs[0]
    shares = [cluster_of(tensor(graph, stored, zeros=zeros), options).sparsity for zeros in (1706, 1707)]
    assert [share is not None and share > 2 / 3 for share in shares] == [False, True]


@pytest.mark.parametrize(
    ("zeros", "answer"), [(1536, Pays.NO), (1537, Pays.UNKNOWN), (1706, Pays.UNKNOWN), (1707, Pays.YES)]
)
def test_runtimes_that_count_dense_layers_or_do_not(monkeypatch: pytest.MonkeyPatch, zeros: int, answer: Pays) -> None:
    """Between 2/3 of the 2,304 weights of 1x1 filters and 2/3 of the 2,560 with the dense layer, it depends."""
    graph, options = eligible()
    changed = tensor(graph, graph.ops[DENSIFY].inputs[0], zeros=zeros)
    monkeypatch.setattr("edgeprune.checker.latency.sparsity.find_cluster", lambda *_: cluster_of(changed, options))
    arm = sparsity_advice(read_contents(FILES / "eligible_sparse.tflite"))[0]
    assert arm.pays is answer
    assert ("runtimes differ" in arm.conditions[-2].found) is (answer is Pays.UNKNOWN)
    assert ("70 % zeros or more" in arm.change) is (answer is not Pays.YES)


@given(st.integers(0, 2048))
@settings(max_examples=20)
def test_only_zeros_decide_the_last_condition(zeros: int) -> None:
    """Any number of zeros leaves the other conditions as they are."""
    graph, options = eligible()
    found = cluster_of(tensor(graph, graph.ops[DENSIFY].inputs[0], zeros=zeros), options)
    assert (found.stem, found.inside, found.integers, found.densify) == ("", "", "", 1)
    assert found.sparsity == zeros / 2560


def test_a_wider_depthwise_kernel_and_additions_are_eligible() -> None:
    """5x5 depthwise kernels, ADD of four dimensions, and unary operations belong into a cluster."""
    graph, options = eligible()
    wide = tensor(graph, graph.ops[DEPTHWISE].inputs[1], shape=(1, 5, 5, 32))
    assert cluster_of(wide, options).inside == ""
    for name in ("HARD_SWISH", "LOGISTIC"):
        assert cluster_of(kind(graph, FIRST, name), options).inside == ""


def test_a_value_with_a_second_consumer_must_be_eligible_there_too() -> None:
    """A softmax that reads a value of the cluster besides breaks it."""
    graph, options = eligible()
    extra = Tensor(
        name="x", shape=(1, 8, 8, 32), dtype="float32", constant=False, raw_bytes=0, elements=2048, zeros=None
    )
    op = Op(kind="SOFTMAX", inputs=graph.ops[FIRST].outputs, outputs=(len(graph.tensors),), macs=0, subgraph=0)
    branched = dataclasses.replace(graph, tensors=(*graph.tensors, extra), ops=(*graph.ops, op))
    assert cluster_of(branched, options).inside == "a SOFTMAX"


def kept(reader: str) -> tuple[Graph, FileOptions]:
    """The eligible graph with a mean that keeps its dimensions, read by an operation of this kind."""
    graph, options = eligible()
    mean, dense = graph.ops[MEAN], graph.ops[DENSE]
    graph = tensor(graph, mean.outputs[0], shape=(1, 1, 1, graph.tensors[mean.inputs[0]].shape[3]))
    if reader == "CONV_2D":
        rows, columns = graph.tensors[dense.inputs[1]].shape
        graph = tensor(graph, dense.inputs[1], shape=(rows, 1, 1, columns))
        one = Window(stride=(1, 1), dilation=(1, 1), padding="SAME")
        options = dataclasses.replace(options, windows={**options.windows, DENSE: one})
    return kind(graph, DENSE, reader), options


@pytest.mark.parametrize(
    ("reader", "outcome"),
    [
        ("CONV_2D", KeptMean.REFUSED),
        ("FULLY_CONNECTED", KeptMean.REFUSED),
        ("RESHAPE", KeptMean.MISSHAPEN),
        ("LOGISTIC", KeptMean.MISSHAPEN),
    ],
)
def test_a_mean_that_keeps_its_dimensions(reader: str, outcome: KeptMean) -> None:
    """As LiteRT 2.3.0 behaved on emulated Arm: a head that checks its channels is refused, others lose their shape."""
    assert cluster_of(*kept(reader)).kept_mean is outcome


def test_a_kept_mean_as_high_as_it_has_channels() -> None:
    """The wrong shape is then the right one: the file loaded, so it is not called refused."""
    graph, options = kept("CONV_2D")
    map_ = graph.ops[MEAN].inputs[0]
    channels = graph.tensors[map_].shape[3]
    square = tensor(graph, map_, shape=(1, channels, channels, channels))
    assert cluster_of(square, options).kept_mean is KeptMean.MISSHAPEN


def test_a_convolution_that_hands_its_result_on_in_the_cluster() -> None:
    """A 1x1 convolution on the kept mean whose result a LOGISTIC reads ran, with right outputs."""
    graph, options = kept("CONV_2D")
    head = graph.ops[DENSE]
    made = Tensor(name="x", shape=(1, 1, 1, 4), dtype="float32", constant=False, raw_bytes=0, elements=4, zeros=None)
    graph = tensor(graph, head.outputs[0], shape=(1, 1, 1, 4))
    op = Op(kind="LOGISTIC", inputs=head.outputs, outputs=(len(graph.tensors),), macs=0, subgraph=0)
    longer = dataclasses.replace(graph, tensors=(*graph.tensors, made), ops=(*graph.ops, op))
    assert cluster_of(longer, options).kept_mean is KeptMean.HARMLESS


@pytest.mark.parametrize(
    ("reader", "answers", "refused"),
    [("CONV_2D", [Pays.NO, Pays.UNKNOWN, Pays.NO], 1), ("RESHAPE", [Pays.UNKNOWN, Pays.UNKNOWN, Pays.NO], 0)],
)
def test_advice_on_a_kept_mean(reader: str, answers: list[Pays], refused: int) -> None:
    """Refused files get "no" on Arm and a refusal; the rest is unknown, with what to try; never "yes"."""
    contents = holding(*kept(reader))
    advice = sparsity_advice(contents)
    assert [item.pays for item in advice[:3]] == answers
    assert "keepdims=False" in advice[0].change
    assert "bench FILE --arm" in advice[1].change
    assert runs_sparse_kernels(contents)
    found = load_refusals(contents)
    assert len(found) == refused
    assert all("LiteRT 2.3.0 on Arm" in item.runtime and "keepdims=False" in item.change for item in found)


def test_a_graph_without_convolutions() -> None:
    """Nothing to start from, and nothing is claimed about the rest."""
    graph, options = eligible()
    found = cluster_of(dataclasses.replace(graph, ops=graph.ops[DENSE:]), options)
    assert (found.stem, found.inside, found.sparsity) == ("no convolution to start from", None, None)


def test_integer_files_never_pay_on_xnnpack() -> None:
    """The advice is to stay in floating point or to prune channels, and nothing that would not help."""
    arm, _, _, ethos, _ = sparsity_advice(read_contents(FILES / "int8.tflite"))
    assert arm.pays is Pays.NO
    assert arm.change.startswith("integer graphs never use sparse kernels: keep float32 or float16, or prune channels")
    assert ";" not in arm.change
    assert ethos.pays is Pays.UNKNOWN
    assert "Vela" in ethos.change


def test_a_file_with_zeros_stored_like_other_numbers() -> None:
    """84 % zeros and no sparse storage: what failed is named, and what to change."""
    arm = sparsity_advice(read_contents(FILES / "float32.tflite"))[0]
    assert {condition.letter for condition in arm.failed} == {"b", "d"}
    assert arm.failed[0].found == "zeros are stored like other numbers"
    assert "edgeprune variant FILE --sparse-kernels" in arm.change
    assert "begin with a 3x3 convolution of stride 2 on 3 channels" in arm.change


def told(path: Path) -> str:
    """What `estimate` prints about zeros."""
    from edgeprune.report.latency_report import zero_lines

    return "\n".join(zero_lines(sparsity_advice(read_contents(path))))


def test_the_text_needs_no_list_of_letters() -> None:
    """No condition letters, one line on 2:4, and how to store zeros sparse."""
    text = told(FILES / "float32.tflite")
    assert "a filter stored sparse (DENSIFY): zeros are stored like other numbers" in text
    assert " b: " not in text
    assert " d: " not in text
    assert "store the zeros sparse: edgeprune variant FILE --sparse-kernels" in text
    assert [line for line in text.splitlines() if "TensorRT" in line] == [
        "  2:4 sparsity: no; NVIDIA GPUs use it through TensorRT, no runtime of this format does"
    ]


def test_yes_tells_the_zeros_of_the_file_and_the_measured_speed_ups() -> None:
    """1800 of 2560 weights, and 1.5, 1.9 and 2.6 times at 70, 80 and 90 %."""
    text = told(ELIGIBLE)
    assert "70.3% zeros in the 1x1 filters and heads of this file" in text
    assert "1.5 times as fast at 70 % zeros, 1.9 at 80 %, 2.6 at 90 %" in text


def test_the_note_on_zeros_goes_by_how_they_are_stored() -> None:
    """Zeros stored sparse are not called stored like other numbers."""
    from edgeprune.checker.latency.estimate import covered_kernels
    from edgeprune.checker.latency.profiles import find_profile

    profile = find_profile("pixel3-tflite-4t-float32")
    notes = {
        name: covered_kernels(read_contents(FILES / f"{name}.tflite"), profile)[1]
        for name in ("float32", "float32_sparse")
    }
    assert notes["float32"][0].startswith("zeros stored like other numbers")
    assert notes["float32_sparse"][0].startswith("weights are stored sparse")


def test_core_ml() -> None:
    """Sparse storage may gain a little on the Neural Engine, with the published figures; plain storage does not."""
    sparse = sparsity_advice(read_contents(FILES / "sparse_int8.mlpackage"))[0]
    plain = sparsity_advice(read_contents(FILES / "half.mlpackage"))[0]
    assert sparse.pays is Pays.A_LITTLE
    assert "ResNet50 1.52 -> 1.46 -> 1.28" in sparse.rule
    assert sparse.source == "apple/coremltools@e0e2f42b0b7c:docs-guides/source/opt-pruning-perf.md"
    assert plain.pays is Pays.NO
    assert "precision sparse" in plain.change


def test_two_of_four_is_for_other_hardware() -> None:
    """Every file gets the same answer, and where such models belong."""
    for path in (FILES / "float32.tflite", FILES / "half.mlpackage"):
        advice = sparsity_advice(read_contents(path))[-1]
        assert (advice.target, advice.pays) == ("2:4 sparsity", Pays.NO)
        assert "TensorRT" in advice.rule


def test_every_answer_has_a_source_and_a_reason() -> None:
    """Rule, source, conditions; and a change where the answer is no."""
    for path in (*sorted(FILES.glob("*.tflite")), *sorted(FILES.glob("*.mlpackage"))):
        for advice in sparsity_advice(read_contents(path)):
            assert advice.rule
            assert advice.source
            assert advice.conditions
            assert bool(advice.change) == (advice.pays in (Pays.NO, Pays.UNKNOWN))


def test_foreign_and_missing_files(tmp_path: Path) -> None:
    """No advice on what is not there or is no such model."""
    (tmp_path / "m.onnx").write_bytes(b"x")
    for name in ("m.onnx", "none.tflite", "none.keras"):
        with pytest.raises(InputError):
            sparsity_advice(read_contents(tmp_path / name))


# --- files that a runtime refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16", "int8", "float32_sparse", "float16_sparse", "eligible_sparse"])
def test_files_that_load_everywhere(name: str) -> None:
    """Float with and without sparse storage, and dense integers."""
    assert load_refusals(read_contents(FILES / f"{name}.tflite")) == ()


def test_packages_have_no_refusals() -> None:
    """The table is about .tflite files."""
    assert load_refusals(read_contents(FILES / "half.mlpackage")) == ()


@pytest.mark.parametrize(
    ("precision", "sparse", "dense_layer", "runtimes"),
    [
        ("dynamic", False, False, ["tflite-runtime 2.14"]),
        ("dynamic", True, False, ["tflite-runtime 2.14", "LiteRT 1.2 to 2.3 with its default delegate"]),
        ("int8", True, True, ["LiteRT 2.3 with its default delegate"]),
        ("int8", True, False, []),
        ("float32", True, True, []),
    ],
)
def test_the_table_of_refusals(
    monkeypatch: pytest.MonkeyPatch, precision: str, sparse: bool, dense_layer: bool, runtimes: list[str]
) -> None:
    """As measured: which combination of precision and sparse storage which runtime refuses."""
    from edgeprune.checker.latency import sparsity

    graph = read_graph(FILES / "float32.tflite")
    kernel = graph.ops[3].inputs[1]
    stored = frozenset({kernel if dense_layer else 0} if sparse else set())
    monkeypatch.setattr(sparsity, "tflite_precision", lambda _: precision)
    found = load_refusals(holding(graph, FileOptions(sparse=stored)))
    assert [item.runtime for item in found] == runtimes
    assert all(item.change for item in found)

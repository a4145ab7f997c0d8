"""Which operations an accelerator takes: the tables hold to their contract, and each rule bites alone."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

from edgeprune.checker.latency.accelerators.checks import CHECKS
from edgeprune.checker.latency.accelerators.placement import place_operations
from edgeprune.checker.latency.accelerators.placement_records import Maps, Placement
from edgeprune.checker.latency.accelerators.rules import find_accelerator, target_names
from edgeprune.commands.estimate import estimate
from edgeprune.errors import InputError, UsageError
from edgeprune.formats import Contents, read_contents
from edgeprune.formats.graph import FileOptions, Graph, Op, Quantization, Tensor

FILES = TESTS / "files"
TARGETS = target_names()
INT8 = read_contents(FILES / "int8.tflite")


def contents_of(graph: Graph) -> Contents:
    """A file with this graph."""
    return dataclasses.replace(INT8, graph=graph)


def tensor(shape: tuple[int, ...], dtype: str = "int8", *, constant: bool = False, zeros: int = 0) -> Tensor:
    """A tensor of a made-up graph."""
    elements = 1
    for size in shape:
        elements *= size
    return Tensor(
        name="t", shape=shape, dtype=dtype, constant=constant, raw_bytes=elements, elements=elements, zeros=zeros
    )


WEIGHTS = tensor((8, 3, 3, 3), constant=True)
BIAS = tensor((8,), "int32", constant=True)
PICTURE, FEATURES = tensor((1, 6, 6, 3)), tensor((1, 4, 4, 8))
SCALED = Quantization(scale=0.5, zero_point=0)
CONV = {"version": 3, "padding": 1, "stride_w": 1, "stride_h": 1, "activation": 1, "dilation_w": 1, "dilation_h": 1}
POOL = {"version": 2, "padding": 0, "stride_w": 2, "stride_h": 2, "filter_w": 2, "filter_h": 2, "activation": 0}


def one_op(
    kind: str, inputs: tuple[Tensor, ...], output: Tensor, facts: dict[str, int] | None = None, **options: Any
) -> Graph:
    """A graph of one int8 convolution and one more operation, so that the file counts as int8."""
    first = (PICTURE, WEIGHTS, BIAS, FEATURES)
    tensors = (*first, *inputs, output)
    places = tuple(range(len(first), len(tensors) - 1))
    ops = (
        Op(kind="CONV_2D", inputs=(0, 1, 2), outputs=(3,), macs=9, subgraph=0),
        Op(kind=kind, inputs=places, outputs=(len(tensors) - 1,), macs=0, subgraph=0),
    )
    return Graph(
        path=Path("made.tflite"),
        tensors=tensors,
        ops=ops,
        inputs=(0,),
        outputs=(len(tensors) - 1,),
        signatures=(),
        options=FileOptions(
            attributes={0: CONV, 1: {"version": 1} | (facts or {})},
            quantization=dict.fromkeys(range(len(tensors)), SCALED),
            integers={len(first) + place: values for place, values in options.pop("integers", {}).items()},
            **options,
        ),
    )


def placed(graph: Graph, target: str = "edgetpu") -> Placement:
    """Where its operations run."""
    return place_operations(contents_of(graph), target)


def axes(count: int) -> Tensor:
    """Constant axes."""
    return tensor((count,), "int32", constant=True)


CHANGED = [
    ("edgetpu", one_op("MAX_POOL_2D", (FEATURES,), tensor((1, 2, 2, 8)), POOL | {"activation": 1}), "RELU"),
    ("edgetpu", one_op("SOFTMAX", (tensor((1, 2, 8)),), tensor((1, 2, 8))), "1x2x8"),
    ("edgetpu", one_op("SOFTMAX", (tensor((1, 16001)),), tensor((1, 16001))), "16001 elements"),
    ("edgetpu", one_op("ADD", (tensor((2, 1, 4, 4)),) * 2, tensor((2, 1, 4, 4))), "2x1x4x4"),
    ("edgetpu", one_op("ADD", (tensor((1, 4), "float32"),) * 2, tensor((1, 4))), "float32"),
    ("edgetpu", one_op("MEAN", (FEATURES, axes(1)), tensor((4, 4, 8)), integers={1: (0,)}), "along the batch"),
    ("edgetpu", one_op("MEAN", (PICTURE, axes(1)), tensor((1, 6, 6)), integers={1: (-1,)}), "3 channels"),
    ("edgetpu", one_op("PACK", (FEATURES,) * 2, tensor((2, 1, 4, 4, 8)), {"axis": 0}), "along the batch"),
    ("edgetpu", one_op("RELU", (FEATURES,), FEATURES, open_axes={4: (0,)}), "axis 0 of 't'"),
    ("edgetpu", one_op("TFLite_Detection_PostProcess", (FEATURES,), FEATURES), "TFLite_Detection_PostProcess is not"),
    ("ethos-u55", one_op("CONV_2D", (PICTURE, tensor((8, 3, 3, 3)), BIAS), FEATURES, CONV | {"stride_w": 4}), ""),
    ("ethos-u55", one_op("AVERAGE_POOL_2D", (FEATURES,), FEATURES, POOL | {"filter_h": 9}), "filter_h 9"),
    ("ethos-u65", one_op("RESIZE_BILINEAR", (FEATURES, axes(2)), tensor((1, 12, 12, 8)), None), ""),
    ("ethos-u65", one_op("RELU", (FEATURES,), FEATURES, open_axes={4: (1,)}), "axis 1 of 't'"),
    ("hexagon", one_op("CONV_2D", (PICTURE, WEIGHTS, BIAS), FEATURES, CONV | {"dilation_h": 2}), "dilation_h 2"),
    ("hexagon", one_op("CONV_2D", (PICTURE, WEIGHTS, BIAS), FEATURES, CONV | {"version": 5}), "version 5"),
    ("hexagon", one_op("ADD", (FEATURES,), FEATURES, {"activation": 4}), "TANH"),
]


@pytest.mark.parametrize(("target", "graph", "found"), CHANGED, ids=[f"{t}-{g.ops[1].kind}-{f}" for t, g, f in CHANGED])
def test_each_rule_bites(target: str, graph: Graph, found: str) -> None:
    """With what was found; a row without words is of options that the file lacks, or goes on: that is not known."""
    last = placed(graph, target).ops[1]
    assert last.maps is (Maps.NO if found else Maps.UNKNOWN)
    assert found in [condition.found for condition in last.conditions] or not found
    assert all(condition.source.startswith("https://") for condition in last.conditions)


def test_what_is_not_evaluated_never_maps() -> None:
    """Without its options, its axes or its sizes, no operation is said to map where a rule asks for them."""
    bare = one_op("CONV_2D", (PICTURE, WEIGHTS, BIAS), FEATURES)
    bare = dataclasses.replace(bare, options=dataclasses.replace(bare.options, attributes={}))
    for target in TARGETS:
        assert placed(bare, target).of(Maps.YES) == ()
    assert placed(one_op("MEAN", (FEATURES, axes(2)), tensor((1, 8)))).ops[1].maps is Maps.UNKNOWN
    assert placed(one_op("RESHAPE", (FEATURES,), tensor((1, 128)))).maps is Maps.UNKNOWN


@pytest.mark.parametrize("target", TARGETS)
def test_odd_operations_are_told_and_not_a_crash(target: str) -> None:
    """Every operation of the list with no inputs, with scalars, and with more than its kind has."""
    for kind in sorted(find_accelerator(target).operations):
        for inputs in ((), (tensor(()),), (tensor((0,)),) * 5, (tensor((2**31,) * 32),) * 4):
            for facts in (
                {},
                dict.fromkeys([*CONV, *POOL, "axis", "splits", "align_corners", "half_pixel_centers"], -1),
            ):
                assert placed(one_op(kind, inputs, tensor(()), facts), target).ops[1].maps in Maps


def test_only_the_first_part_is_compiled_for_the_edge_tpu() -> None:
    """Behind the first operation that stays on the CPU all stay there; on the others, each stands for itself."""
    made = one_op("GELU", (FEATURES,), FEATURES)
    ops = (*made.ops, Op(kind="RELU", inputs=(5,), outputs=(5,), macs=0, subgraph=0))
    graph = dataclasses.replace(made, ops=ops)
    assert [op.maps for op in placed(graph).ops] == ["yes", "no", "no"]
    assert placed(graph).ops[2].conditions[0].found == "it comes after #1 GELU"
    assert [op.maps for op in placed(graph, "ethos-u55").ops] == ["yes", "yes", "yes"]
    doubtful = dataclasses.replace(graph, ops=(graph.ops[0], dataclasses.replace(graph.ops[1], kind="RESHAPE"), ops[2]))
    assert [op.maps for op in placed(doubtful).ops] == ["yes", "unknown", "unknown"]
    assert placed(doubtful).ops[2].conditions[0].found == "whether #1 RESHAPE maps is not known"


def test_a_file_of_the_converter() -> None:
    """The int8 network with float ends. Of Ethos-U55, Vela 5.2.0 says the same of each operation of this file."""
    answers = {target: [op.maps.value for op in place_operations(INT8, target).ops] for target in TARGETS}
    assert answers["edgetpu"] == ["no", "yes", "yes", "unknown", "unknown", "no"]
    assert answers["ethos-u55"] == answers["ethos-u65"] == ["no", "yes", "yes", "yes", "yes", "no"]
    assert answers["hexagon"] == ["no", "yes", "yes", "yes", "no", "no"]


@pytest.mark.parametrize("target", TARGETS)
def test_every_rule_has_a_source(target: str) -> None:
    """An address and what is known of its date; a check that there is, on operations that are listed."""
    accelerator = find_accelerator(target)
    for source in accelerator.sources:
        assert source.address.startswith("https://")
        assert source.dated
    for rule in accelerator.rules:
        assert rule.check in CHECKS
        assert rule.source in accelerator.sources
        assert {*rule.ops, *rule.excepted} - {"*"} <= accelerator.operations, rule
        assert rule.otherwise in ("no", "unknown")
    help_text = next(option.help for option in estimate.params if option.name == "target")  # type: ignore[attr-defined]
    assert target in re.findall(r"[\w-]+", help_text)


def test_no_check_is_without_a_rule() -> None:
    """What no table asks for is not there."""
    used = {rule.check for target in TARGETS for rule in find_accelerator(target).rules}
    assert used == set(CHECKS)


def test_what_has_no_rules() -> None:
    """An unknown target is told with the nearest; a package is no .tflite file."""
    with pytest.raises(UsageError, match="did you mean 'edgetpu'"):
        place_operations(INT8, "edge-tpu")
    with pytest.raises(InputError, match=r"takes \.tflite files"):
        place_operations(read_contents(FILES / "half.mlpackage"), "hexagon")


def test_as_a_user_types_it(call: Any) -> None:
    """Text with the reason and its source; a float file in one line; JSON that says what it is not."""
    told = call("estimate", FILES / "int8.tflite", "--target", "edgetpu")
    assert told.code == 0
    assert "does not map fully; 2 of 6 operations map" in told.out
    assert re.search(
        r"^5  DEQUANTIZE +no +in the list of operations: DEQUANTIZE is not +\[2\]$", told.out, re.MULTILINE
    )
    assert "not by edgetpu_compiler: nothing was compiled, nothing measured" in told.out
    assert "[1] https://coral.ai/docs/edgetpu/models-intro/#model-requirements" in told.out
    plain = call("estimate", FILES / "float32.tflite", "--target", "ethos-u55").out
    assert plain.count("\n") == 1
    assert "nothing maps, since the file is float32 and not int8 or int16x8" in plain
    body = json.loads(call("estimate", FILES / "int8.tflite", "--target", "hexagon", "--json").out)["placement"]
    assert (body["maps"], body["measured"]) == ("no", False)
    nothing = call("estimate", FILES / "int8.tflite")
    assert (nothing.code, nothing.err.count("\n")) == (2, 1)

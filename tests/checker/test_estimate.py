"""Estimates: the mathematics of the latency model, files of every kind, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT, TESTS
from written_tflite import GraphSpec, OpSpec, TensorSpec, dense_graph, write

from edgeprune.checker.latency.coreml_kernels import coreml_kernels
from edgeprune.checker.latency.estimate import basis_of, breakdown_of, estimate_latency, how_of, latency_breakdown
from edgeprune.checker.latency.kernels import KINDS_BY_OP, Kernel, Kind, kernels_of
from edgeprune.checker.latency.profiles import Profile, find_profile
from edgeprune.checker.latency.roofline import Coefficients, Work, kernel_ms
from edgeprune.checker.latency.sparse_speed import speed_up_of
from edgeprune.commands.estimate import estimate
from edgeprune.errors import InputError, Unsupported, UsageError
from edgeprune.formats import read_contents, read_graph

FILES = TESTS / "files"
SHARED = ROOT.parent / "shared" / "data"
PIXEL3 = "pixel3-tflite-4t-float32"
# 1 GMAC/s dense, 0.5 GMAC/s depthwise, 1 GB/s: 1e6 dense MACs take 1 ms, and so do 250,000 floats moved.
SIMPLE = Coefficients(dense_gmacs_per_s=1.0, depthwise_gmacs_per_s=0.5, memory_gb_per_s=1.0)


def kernel(kind: Kind = Kind.POINTWISE, **changed: int) -> Kernel:
    """A kernel that does nothing but what `changed` says."""
    counts = {"macs": 0, "read": 0, "written": 0, "weights": 0, "gathered": 0, **changed}
    return Kernel(op=kind.value.upper(), kind=kind, **counts)


def total(*kernels: Kernel, coefficients: Coefficients = SIMPLE, gathers: bool = False) -> float:
    """Milliseconds of a network of these kernels in float32."""
    return float(Work([kernels], element_bytes=4, gathers=gathers).totals_ms(coefficients)[0])


def suiting(base: Profile, **changed: Any) -> Profile:
    """The profile for any operation mix and any size."""
    tiny = dataclasses.replace(base.truth[0], latency_ms=1e-9)
    suits = {"largest_share": {kind.value: 1.0 for kind in Kind}, "truth": (tiny, *base.truth[1:])}
    return dataclasses.replace(base, **{**suits, **changed})


def open_profile(**changed: Any) -> Profile:
    """A profile that anything suits."""
    return suiting(find_profile(PIXEL3), **changed)


@pytest.mark.parametrize(
    ("kind", "changed", "ms", "bound"),
    [
        (Kind.POINTWISE, {"macs": 1_000_000}, 1.0, "compute"),
        (Kind.FULLY_CONNECTED, {"macs": 1_000_000}, 1.0, "compute"),
        (Kind.DEPTHWISE, {"macs": 1_000_000}, 2.0, "compute"),
        (Kind.ELEMENTWISE, {"read": 125_000, "written": 125_000}, 1.0, "memory"),
        (Kind.POINTWISE, {"macs": 1_000_000, "weights": 500_000}, 2.0, "memory"),
        (Kind.FREE, {"macs": 1_000_000, "read": 9}, 0.0, "free"),
    ],
)
def test_one_kernel_takes_the_longer_of_work_and_traffic(
    kind: Kind, changed: dict[str, int], ms: float, bound: str
) -> None:
    """Rates worked out by hand: 1 GMAC/s, half of it depthwise, 1 GB/s and four bytes an element."""
    assert kernel_ms(kernel(kind, **changed), SIMPLE, element_bytes=4, gathers=False) == pytest.approx((ms, bound))


def test_overhead_weight_stream_and_fixed_cost_add_up() -> None:
    """2 kernels of 10 us overhead, 100,000 weights at 0.4 GB/s (1 ms), and 3 ms a call, beside 1 ms of work each."""
    coefficients = dataclasses.replace(SIMPLE, op_overhead_us=10.0, weight_gb_per_s=0.4, fixed_ms=3.0)
    work = kernel(macs=1_000_000, weights=100_000)
    assert total(work, kernel(macs=1_000_000), coefficients=coefficients) == pytest.approx(1 + 1 + 1 + 0.02 + 3)
    assert kernel_ms(kernel(weights=100_000), coefficients, element_bytes=4, gathers=False)[1] == "weights"
    assert kernel_ms(kernel(), coefficients, element_bytes=4, gathers=False)[1] == "overhead"


def test_a_network_takes_the_longer_of_both_for_each_kernel() -> None:
    """2 ms of work over 1 ms of traffic, then 1 ms of work over 3 ms of traffic: 5 ms, not 4 and not 7."""
    busy = kernel(macs=2_000_000, read=250_000)
    idle = kernel(macs=1_000_000, read=750_000)
    assert total(busy, idle) == pytest.approx(5.0)


def test_patches_count_only_where_the_runtime_unrolls_them() -> None:
    """A 3x3 convolution whose input is read nine times by im2col."""
    work = kernel(Kind.SPATIAL, read=250_000, gathered=2_250_000)
    assert (total(work), total(work, gathers=True)) == pytest.approx((1.0, 9.0))


COUNTS = st.integers(0, 10**7)
KERNELS = st.builds(
    lambda kind, macs, read, written, weights: kernel(
        kind, macs=macs, read=read, written=written, weights=weights, gathered=read
    ),
    st.sampled_from([kind for kind in Kind if kind is not Kind.FREE]),
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
)
RATES = st.floats(0.1, 100)
COEFFICIENTS = st.builds(
    Coefficients,
    dense_gmacs_per_s=RATES,
    depthwise_gmacs_per_s=RATES,
    memory_gb_per_s=RATES,
    spatial_gmacs_per_s=st.none() | RATES,
    weight_gb_per_s=st.none() | RATES,
    op_overhead_us=st.floats(0, 50),
    fixed_ms=st.floats(0, 5),
)


@given(KERNELS, COEFFICIENTS, st.sampled_from(["macs", "read", "written", "weights"]), st.integers(1, 10**6))
def test_more_work_never_takes_less_time(one: Kernel, coefficients: Coefficients, part: str, more: int) -> None:
    """The estimate is monotone in MACs, in elements read and written, and in weights."""
    grown = dataclasses.replace(one, **{part: getattr(one, part) + more})
    assert total(grown, coefficients=coefficients) >= total(one, coefficients=coefficients)


@given(st.lists(KERNELS, min_size=1, max_size=6), COEFFICIENTS, st.floats(0.05, 20))
def test_a_device_twice_as_slow_takes_twice_as_long(
    network: list[Kernel], coefficients: Coefficients, slower: float
) -> None:
    """Scaling all coefficients scales the whole estimate."""
    scaled = total(*network, coefficients=coefficients.scaled(slower))
    assert scaled == pytest.approx(slower * total(*network, coefficients=coefficients), rel=1e-9)


@given(st.lists(KERNELS, min_size=1, max_size=5), st.lists(KERNELS, min_size=1, max_size=5), COEFFICIENTS)
def test_networks_are_timed_each_on_its_own(first: list[Kernel], second: list[Kernel], some: Coefficients) -> None:
    """Several networks at once give what each gives alone, and a network is the sum of its parts and one fixed cost."""
    both = Work([first, second], element_bytes=4, gathers=False).totals_ms(some)
    alone = [total(*first, coefficients=some), total(*second, coefficients=some)]
    assert both == pytest.approx(alone)
    assert total(*first, *second, coefficients=some) == pytest.approx(sum(alone) - some.fixed_ms)


def test_zeros_stored_densely_change_nothing(tmp_path: Path) -> None:
    """The same shapes with other values, nine of ten of them zero, give the very same estimate."""
    estimates = []
    for zeros in (0, 108):
        values = np.ones(120, np.float32)
        values[:zeros] = 0
        made = GraphSpec(
            tensors=(TensorSpec(shape=(1, 40)), TensorSpec(shape=(3, 40), buffer=1), TensorSpec(shape=(1, 3))),
            ops=(OpSpec(kind=tflite.BuiltinOperator.FULLY_CONNECTED, inputs=(0, 1), outputs=(2,)),),
            outputs=(2,),
        )
        path = write(tmp_path / f"{zeros}.tflite", made, buffers=(b"", values.tobytes()))
        estimates.append(latency_breakdown(read_contents(path), open_profile()))
    dense, pruned = estimates
    assert dense.estimate.total_ms == pruned.estimate.total_ms
    assert dense.ops == pruned.ops
    assert dense.estimate.notes == dense.estimate.notes[-1:]  # an extrapolation
    assert "the estimate reads shapes, not values" in pruned.estimate.notes[0]


def test_the_kernels_of_a_file() -> None:
    """Counts by hand for tests/files/float32.tflite, as make_files.py describes the network."""
    convolution, depthwise, reshape, dense = kernels_of(read_graph(FILES / "float32.tflite"))
    assert isinstance(convolution, Kernel)
    assert isinstance(depthwise, Kernel)
    assert isinstance(reshape, Kernel)
    assert isinstance(dense, Kernel)
    assert [k.kind for k in (convolution, depthwise, reshape, dense)] == [
        Kind.SPATIAL,
        Kind.DEPTHWISE,
        Kind.FREE,
        Kind.FULLY_CONNECTED,
    ]
    assert [k.macs for k in (convolution, depthwise, dense)] == [36 * 8 * 18, 16 * 8 * 9, 128 * 12]
    assert (convolution.read, convolution.written, convolution.weights) == (128, 288, 144 + 8)
    assert (convolution.gathered, depthwise.gathered) == (36 * 18, 288)
    assert (dense.read, dense.written, dense.weights) == (128, 12, 1536 + 12)


def test_unpacking_weights_costs_nothing_at_each_call() -> None:
    """DEQUANTIZE and DENSIFY of constants run once at load: the encodings of one network have one estimate."""
    known = [
        estimate_latency(read_contents(FILES / f"{name}.tflite"), open_profile()).total_ms
        for name in ("float32", "float16", "float32_sparse", "float16_sparse")
    ]
    assert known[0] is not None
    assert known == [known[0]] * 4


def test_the_kernels_of_a_core_ml_program() -> None:
    """Convolution and dense layer of tests/files/half.mlpackage, and the activation behind them, which is fused."""
    from edgeprune.formats.coreml.mil_reader import read_coreml

    found = coreml_kernels(read_coreml(FILES / "half.mlpackage"))
    known = {item.op: item for item in found if isinstance(item, Kernel)}
    assert len(found) == len([item for item in found if isinstance(item, Kernel)])
    assert known["linear"].kind is Kind.FULLY_CONNECTED
    assert known["linear"].macs == known["linear"].read * known["linear"].written
    assert known["conv"].kind is Kind.SPATIAL
    assert known["conv"].macs % known["conv"].written == 0


def test_core_ml_packages_are_ranked() -> None:
    """Every way of storing weights gives one rank and no milliseconds; a TFLite profile does not cover a package."""
    profile = find_profile("iphone12-coreml-float16")
    ranks = [
        estimate_latency(read_contents(FILES / f"{name}.mlpackage"), profile)
        for name in ("half", "palette4", "sparse_int8")
    ]
    assert len({found.relative for found in ranks}) == 1
    assert ranks[0].relative is not None
    assert [(found.total_ms, found.given) for found in ranks] == [(None, True)] * 3
    assert {op.ms for op in latency_breakdown(read_contents(FILES / "half.mlpackage"), profile).ops} == {None}
    with pytest.raises(Unsupported, match="is w8a8; profile iphone12-coreml-float16 covers float16"):
        latency_breakdown(read_contents(FILES / "w8a8.mlpackage"), profile)
    with pytest.raises(Unsupported, match="does not run this format"):
        latency_breakdown(read_contents(FILES / "half.mlpackage"), find_profile(PIXEL3))
    with pytest.raises(Unsupported, match="does not run this format"):
        latency_breakdown(read_contents(FILES / "float32.tflite"), profile)


def test_a_real_file_is_near_its_published_latency() -> None:
    """MobileNetV1 0.25 at 224 pixels on a Pixel 3: 3.3 ms in float, 2.3 ms in integers (TensorFlow, hosted models)."""
    folder = SHARED / "imagenet_models"
    if not folder.is_dir():
        pytest.skip("the models are not here")
    for pattern, profile, truth in (
        ("*default_1.tflite", PIXEL3, 3.3),
        ("*quant.tflite", "pixel3-tflite-4t-int8", 2.3),
    ):
        found = estimate_latency(read_contents(next(folder.glob(pattern))), find_profile(profile))
        assert found.low_ms is not None
        assert found.high_ms is not None
        assert found.low_ms < truth < found.high_ms
        assert found.total_ms == pytest.approx(truth, rel=0.1)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_precision_that_the_profile_does_not_cover() -> None:
    """The message names profiles that do."""
    with pytest.raises(Unsupported, match=r"is int8; profile pixel3-tflite-4t-float32 covers .*pixel3-tflite-4t-int8"):
        latency_breakdown(read_contents(FILES / "int8.tflite"), find_profile(PIXEL3))


@pytest.mark.parametrize("multiplier", [1, 8])
def test_a_multiplied_depthwise_in_int8(tmp_path: Path, multiplier: int) -> None:
    """More outputs than inputs may run slower on the int8 kernels of TFLite's own, and is said; float32 has no such."""
    for dtype, told in ((tflite.TensorType.INT8, multiplier > 1), (tflite.TensorType.FLOAT32, False)):
        outputs = 3 * multiplier
        made = GraphSpec(
            tensors=(
                TensorSpec(shape=(1, 8, 8, 3), dtype=dtype),
                TensorSpec(shape=(1, 3, 3, outputs), buffer=1, dtype=dtype),
                TensorSpec(shape=(1, 8, 8, outputs), dtype=dtype),
            ),
            ops=(OpSpec(kind=tflite.BuiltinOperator.DEPTHWISE_CONV_2D, inputs=(0, 1), outputs=(2,)),),
            outputs=(2,),
        )
        size = 9 * outputs * (1 if dtype == tflite.TensorType.INT8 else 4)
        path = write(tmp_path / "m.tflite", made, buffers=(b"", bytes(size)))
        base = find_profile("pixel3-tflite-4t-int8") if dtype == tflite.TensorType.INT8 else find_profile(PIXEL3)
        found = estimate_latency(read_contents(path), suiting(base))
        assert found.total_ms is not None
        assert any("Inception V2" in note for note in found.notes) is told


def test_an_operation_without_a_rule(tmp_path: Path) -> None:
    """A custom operation is listed; no total, and no times that could be taken for one."""
    made = GraphSpec(
        tensors=(TensorSpec(shape=(1, 4)), TensorSpec(shape=(1, 4)), TensorSpec(shape=(1, 4))),
        ops=(
            OpSpec(kind="Mystery", inputs=(0,), outputs=(1,)),
            OpSpec(kind=tflite.BuiltinOperator.RELU, inputs=(1,), outputs=(2,)),
        ),
        outputs=(2,),
    )
    found = latency_breakdown(read_contents(write(tmp_path / "m.tflite", made)), open_profile())
    told = found.estimate
    assert (told.total_ms, told.low_ms, told.high_ms, told.relative, told.given) == (None, None, None, None, False)
    assert found.unsupported == ("Mystery",)
    assert "Mystery" in (told.refused or "")
    assert [op.bound for op in found.ops] == ["unsupported", "memory"]
    assert {(op.ms, op.share) for op in found.ops} == {(None, None)}


def test_a_mix_of_operations_that_the_profile_has_not_seen(tmp_path: Path) -> None:
    """A perceptron on a profile of convolutional networks."""
    path = write(
        tmp_path / "m.tflite",
        dense_graph(TensorSpec(shape=(3, 4), buffer=1)),
        buffers=(b"", np.ones(12, np.float32).tobytes()),
    )
    found = estimate_latency(read_contents(path), find_profile(PIXEL3))
    assert found.total_ms is None
    assert found.refused is not None
    assert "fully connected operations would take 100%" in found.refused
    assert "at most 18%" in found.refused


def test_a_refusal_is_an_estimate_without_numbers(tmp_path: Path) -> None:
    """The path is left out of the reason, so that a ledger is the same wherever it was made; a broken file raises."""
    profile = find_profile(PIXEL3)
    found = estimate_latency(read_contents(FILES / "int8.tflite"), profile)
    assert (found.device, found.total_ms, found.relative, found.given) == (PIXEL3, None, None, False)
    assert found.refused is not None
    assert found.refused.startswith("int8.tflite is int8; profile")
    assert (found.how, found.basis) == (how_of(profile), basis_of(profile))
    with pytest.raises(InputError):
        estimate_latency(read_contents(tmp_path / "none.tflite"), profile)
    with pytest.raises(ValueError, match="half there"):
        dataclasses.replace(found, total_ms=1.0)


def test_sparse_kernels_are_not_estimated_as_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file that XNNPACK runs with sparse kernels its profiles give a speed-up in place of milliseconds; others are
    not concerned."""
    profile = dataclasses.replace(open_profile(), runtime="XNNPACK")
    contents = read_contents(FILES / "eligible_sparse.tflite")
    found = latency_breakdown(contents, profile)
    assert (found.estimate.total_ms, found.estimate.given) == (None, False)
    assert "sparse kernels" in (found.estimate.refused or "")
    assert found.speed_up is not None
    assert "not measured on this device" in found.speed_up.how
    assert 0 < found.speed_up.low < found.speed_up.high
    dense = latency_breakdown(contents, open_profile())
    assert (dense.speed_up, dense.estimate.given) == (None, True)
    monkeypatch.setattr("edgeprune.checker.latency.sparse_speed.runs_sparse_kernels", lambda _: False)
    assert latency_breakdown(contents, profile).estimate.given


def test_the_law_of_sparse_kernels() -> None:
    """MobileNetV2 in WebAssembly: its 1x1 convolutions take 73 % of the time; 1.9 times as fast at 80 % zeros, 2.6 at
    90 %. At a break-even sparsity nothing is gained."""
    for sparsity, measured in ((0.8, 1.91), (0.9, 2.60)):
        found = speed_up_of(0.73, sparsity)
        assert found.low * 0.97 <= measured <= found.high * 1.03
    assert speed_up_of(0.5, 0.43).low == pytest.approx(1)
    assert speed_up_of(0.5, 0.28).high == pytest.approx(1)
    assert speed_up_of(0.0, 0.9).high == 1


@pytest.mark.parametrize("name", ["none.tflite", "none.mlpackage", "none.keras", "none"])
def test_missing_and_foreign_files(tmp_path: Path, name: str) -> None:
    """A path without a file, and a file of another kind."""
    with pytest.raises(InputError):
        latency_breakdown(read_contents(tmp_path / name), find_profile(PIXEL3))
    (tmp_path / "other.bin").write_bytes(b"something")
    with pytest.raises(Unsupported, match="convert the model first"):
        latency_breakdown(read_contents(tmp_path / "other.bin"), find_profile(PIXEL3))
    (tmp_path / "text.tflite").write_bytes(b"version https://git-lfs")
    with pytest.raises(InputError, match="is a git-lfs pointer"):
        latency_breakdown(read_contents(tmp_path / "text.tflite"), find_profile(PIXEL3))


def test_open_sizes_are_asked_for() -> None:
    """A file whose input has no fixed height is not estimated at height 1."""
    with pytest.raises(Unsupported, match=r"image.*' has open sizes \[1, -1, 8, 2\]; convert it with a fixed"):
        latency_breakdown(read_contents(FILES / "open_height.tflite"), open_profile())


def test_truncated_files_are_refused_in_one_line(tmp_path: Path) -> None:
    """Options lie anywhere in the file: cut at every 97th byte, it is read or refused, and nothing else happens."""
    content = (FILES / "eligible_sparse.tflite").read_bytes()
    for length in range(8, len(content), 97):
        path = tmp_path / "cut.tflite"
        path.write_bytes(content[:length])
        with contextlib.suppress(InputError, Unsupported):
            estimate_latency(read_contents(path), open_profile())


def test_an_unknown_device_gets_the_nearest_names() -> None:
    """A slip of the pen and a guess."""
    with pytest.raises(UsageError, match="did you mean pixel3-tflite-4t-float32"):
        find_profile("pixel3-tflite-4t-float23")
    with pytest.raises(UsageError, match="edgeprune devices"):
        find_profile("abacus")


def test_far_below_all_that_was_measured() -> None:
    """Half the fastest network of the truth is an extrapolation and said to be; a fiftieth of it is no estimate."""
    profile = open_profile(truth=find_profile(PIXEL3).truth, coefficients=SIMPLE)
    fastest = profile.fastest_truth_ms
    for share, told, made in ((0.6, False, True), (0.4, True, True), (0.021, True, True), (0.019, False, False)):
        found = breakdown_of([kernel(macs=round(share * fastest * 1e6))], profile).estimate
        assert (found.total_ms is not None) is made
        assert any("extrapolation" in note for note in found.notes) is told
        assert ("a fiftieth" in (found.refused or "")) is not made
    nothing = breakdown_of([kernel(Kind.FREE)], profile).estimate
    assert (nothing.total_ms, nothing.relative) == (None, None)


def test_a_kind_that_no_fit_had() -> None:
    """A rate that nothing was fitted on is trusted with a twentieth of the time."""
    shares = {kind.value: 1.0 for kind in Kind if kind is not Kind.MATMUL}
    profile = open_profile(coefficients=SIMPLE, largest_share=shares)
    for share, made in ((0.04, True), (0.06, False)):
        ops = [kernel(macs=round(1e8 * (1 - share))), kernel(Kind.MATMUL, macs=round(1e8 * share))]
        assert (breakdown_of(ops, profile).estimate.total_ms is not None) is made


def test_the_fixed_cost_has_a_row(covered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows add up to the total also where every inference costs something by itself."""
    path = tmp_path / "fixed.toml"
    path.write_text(covered.read_text().replace("fixed_ms = 0.0", "fixed_ms = 2.0"))
    assert (
        estimate.callback(
            FILES / "float32.tflite", device=str(path), target=None, measured=None, every=True, as_json=True
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["fixed_ms"] == 2.0
    assert sum(op["ms"] for op in told["ops"]) + 2.0 == pytest.approx(told["total_ms"])
    assert (
        estimate.callback(
            FILES / "float32.tflite", device=str(path), target=None, measured=None, every=True, as_json=False
        )
        == 0
    )
    assert "(each inference)" in capsys.readouterr().out


# --- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_as_json(covered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys that others read, and every number with how it was obtained."""
    code = estimate.callback(
        FILES / "eligible_sparse.tflite", device=str(covered), target=None, measured=None, every=False, as_json=True
    )
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {"device", "how", "total_ms", "low_ms", "high_ms", "ops", "sparsity"} <= set(told)
    assert told["device"] == PIXEL3
    assert told["low_ms"] < told["total_ms"] < told["high_ms"]
    assert told["how"].startswith("estimated from profile pixel3-tflite-4t-float32 (Pixel 3, TFLite CPU")
    assert "±12 %: 27 of 28 rows of families left out of the fit were within it" in told["how"]
    assert sum(op["ms"] for op in told["ops"]) == pytest.approx(told["total_ms"])
    assert sum(op["share"] for op in told["ops"]) == pytest.approx(1.0)


def test_the_verb_as_text(covered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The total with its band, the operations with what binds them, and whether zeros pay."""
    assert (
        estimate.callback(
            FILES / "eligible_sparse.tflite", device=str(covered), target=None, measured=None, every=True, as_json=False
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "DEPTHWISE_CONV_2D" in text
    assert "bound by" in text
    assert "XNNPACK on Arm, XNNPACK in WebAssembly SIMD: yes" in text
    assert "edgeprune prune --style channel" in text


def test_the_verb_ends_with_3_without_a_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reason is told, and the table of what is known."""
    path = write(
        tmp_path / "m.tflite",
        dense_graph(TensorSpec(shape=(3, 4), buffer=1)),
        buffers=(b"", np.ones(12, np.float32).tobytes()),
    )
    assert estimate.callback(path, device=PIXEL3, target=None, measured=None, every=False, as_json=False) == 3
    assert "not estimated: fully connected" in capsys.readouterr().out


def test_estimating_is_light() -> None:
    """The verb's modules load neither TensorFlow nor an interpreter."""
    import subprocess

    code = "import sys, edgeprune.commands.estimate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "coremltools", "ai_edge_litert", "h5py"} & set(done.stdout.split())


def test_every_kind_of_the_table_is_known() -> None:
    """No operation is listed under two kinds, and convolutions are told apart by their kernels."""
    assert not {"CONV_2D", "TRANSPOSE_CONV"} & set(KINDS_BY_OP)
    assert KINDS_BY_OP["ADD"] is Kind.ELEMENTWISE
    assert KINDS_BY_OP["CONCATENATION"] is Kind.MOVEMENT


def matmul_package(transposed: bool) -> Any:
    """A program of one product: x (3, 4), or (4, 3) transposed, times y (4, 5)."""
    from edgeprune.formats.coreml.mil import Block, Constant, Operation, Package, Port

    told = Constant(dtype="bool", shape=(), values=np.array(transposed))
    x, y = (
        Port(name="x", dtype="float16", shape=(4, 3) if transposed else (3, 4)),
        Port(name="y", dtype="float16", shape=(4, 5)),
    )
    flag = Operation(
        kind="const", inputs={}, outputs=(Port(name="flip", dtype="bool", shape=()),), attributes={"val": told}
    )
    product = Operation(
        kind="matmul",
        inputs={"x": ("x",), "y": ("y",), "transpose_x": ("flip",)},
        outputs=(Port(name="z", dtype="float16", shape=(3, 5)),),
        attributes={},
    )
    return Package(
        path=Path("m"),
        specification=7,
        what="an ML program",
        inputs=(),
        outputs=(),
        program=Block(inputs=(x, y), outputs=("z",), operations=(flag, product)),
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_activations_in_core_ml(transposed: bool) -> None:
    """3 x 4 times 4 x 5 are 60 MACs, however the first operand lies; both are read, none is a weight."""
    (found,) = coreml_kernels(matmul_package(transposed))
    assert isinstance(found, Kernel)
    assert (found.kind, found.macs, found.read, found.written, found.weights) == (Kind.MATMUL, 60, 32, 15, 0)


def test_open_sizes_of_a_core_ml_program() -> None:
    """The input that is open is named."""
    package = matmul_package(transposed=False)
    inputs = (dataclasses.replace(package.program.inputs[0], shape=(None, 4)), package.program.inputs[1])
    opened = dataclasses.replace(package, program=dataclasses.replace(package.program, inputs=inputs))
    with pytest.raises(Unsupported, match="input 'x' has an open size"):
        coreml_kernels(opened)
    with pytest.raises(Unsupported, match="not an ML program"):
        coreml_kernels(dataclasses.replace(package, program=None, what="a neural network"))

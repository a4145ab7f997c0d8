"""int8 weights as coarse as a download asks for, without samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sparse_networks import Network

from edgeprune.artifact import Precision
from edgeprune.checker.size.codecs import BASE_CODEC, CODECS
from edgeprune.checker.sparse_kernels.sparse_file import float_graph
from edgeprune.checker.sparse_kernels.storage import int8_levels, unpack_weights
from edgeprune.converters.variants import VariantOptions, check_variant, variant
from edgeprune.converters.weight_grids import small_enough
from edgeprune.errors import UsageError
from edgeprune.formats.tflite.scales import are_slim


@pytest.fixture(scope="module")
def dense() -> bytes:
    """A float32 file of 60,000 weights, whose layers are of different sizes."""
    network = Network(32, seed=1, sparsity=0.0)
    network.conv(16, 3, 2)
    network.conv(192)
    network.depthwise(3, 2)
    network.conv(128, act="NONE")
    network.conv(256)
    network.mean()
    network.dense()
    return network.content()


def weights(content: bytes) -> list[np.ndarray]:
    """The kernels of a file as float32."""
    graph = float_graph(Path("x.tflite"), content)
    unpack_weights(graph)
    found = [graph.floats(graph.reads(op)[1]) for op in graph.ops if graph.kind(op) in ("CONV_2D", "FULLY_CONNECTED")]
    return [values for values in found if values is not None]


def error(content: bytes, dense: bytes) -> float:
    pairs = zip(weights(content), weights(dense), strict=True)
    return float(np.mean([np.square(new - old).sum() / np.square(old).sum() for new, old in pairs]))


def coarse(dense: bytes, share: float) -> tuple[bytes, int, list[str]]:
    target = int(share * CODECS[BASE_CODEC].compressed_bytes(dense))
    content, said = small_enough(Path("x.tflite"), dense, dense, target, on_progress=lambda *_: None)
    return content, target, said


def test_a_smaller_download_costs_more_error_and_is_reached(dense: bytes) -> None:
    errors = []
    for share in (0.28, 0.22, 0.17):
        content, target, said = coarse(dense, share)
        assert 0.93 * target < CODECS[BASE_CODEC].compressed_bytes(content) <= target
        assert len(said) == 1
        assert "not measured" in said[0]
        errors.append(error(content, dense))
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1] < 0.05


def test_it_beats_one_grid_for_all_layers(dense: bytes) -> None:
    """At the same download the error is below that of floors that all kernels share."""
    from edgeprune.checker.sparse_kernels.sparse_file import stored_as
    from edgeprune.checker.sparse_kernels.storage import int8_kernels

    graph = float_graph(Path("x.tflite"), dense)
    same = stored_as(graph, dense, Precision.INT8_WEIGHTS, dict.fromkeys(int8_kernels(graph), 4.0))
    target = CODECS[BASE_CODEC].compressed_bytes(same)
    chosen, _ = small_enough(Path("x.tflite"), dense, dense, target, on_progress=lambda *_: None)
    assert CODECS[BASE_CODEC].compressed_bytes(chosen) <= target
    assert error(chosen, dense) < error(same, dense)


def test_a_download_that_no_grid_reaches_is_said(dense: bytes) -> None:
    _, _, said = coarse(dense, 0.01)
    assert "is not reached" in said[-1]


def test_a_file_without_kernels_worth_it_says_so() -> None:
    """No share of nothing: it was "nan %"."""
    network = Network(8, seed=1, sparsity=0.0)
    network.conv(2, 1, 1)
    network.mean()
    content, _, said = coarse(network.content(), 0.2)
    assert said[0] == "no kernel is large enough to be stored as int8"
    assert len(content) <= len(network.content())


def test_levels_are_within_half_a_step_and_scales_are_slim() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(6, 3, 3, 5)) * rng.uniform(0.1, 9, (6, 1, 1, 1))).astype(np.float32)
    values[2] = 0
    for floor in (0.0, 0.5, 4.0):
        stored, scales = int8_levels(values, floor)
        assert are_slim(scales)
        assert np.abs(stored).max() <= 127
        assert not stored[2].any()
        steps = scales.reshape(-1, 1, 1, 1)
        assert (np.abs(stored * steps - values) <= 0.5 * steps * (1 + 1e-6)).all()


def test_the_variant_runs_and_tells_what_is_not_known(dense: bytes, tmp_path: Path) -> None:
    options = VariantOptions(precision=Precision.INT8_WEIGHTS, download_target="0.25x")
    (tmp_path / "dense.tflite").write_bytes(dense)
    entry = variant(tmp_path / "dense.tflite", tmp_path / "small.tflite", options)
    whole = CODECS[BASE_CODEC].compressed_bytes(dense)
    assert entry.download_bytes[BASE_CODEC] <= 0.25 * whole
    assert any("not measured" in line for line in entry.warnings)
    assert entry.parity is not None


@pytest.mark.parametrize("precision", [None, Precision.FLOAT16, Precision.FLOAT32])
def test_a_target_is_for_int8_weights(precision: Precision | None) -> None:
    with pytest.raises(UsageError, match="--precision int8-weights"):
        check_variant(VariantOptions(precision=precision, sparsity=0.5, download_target="0.2x"))

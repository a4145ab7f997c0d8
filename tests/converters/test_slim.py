"""Slim scales and coarser grids of integer files: facts on real conversions, and on numbers alone."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from edgeprune.artifact import Format, Precision, Rounding, Scales
from edgeprune.converters.coarse_kernels import FLOORS, CoarseKernels, floored
from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.grids import Grid, moves
from edgeprune.converters.kernels import Kernel, Kernels, float_constants, kernels_of
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.slim_options import SlimOptions, check_slim
from edgeprune.converters.slim_scales import CANDIDATES, fitted, levels, with_slim_scales, without_names
from edgeprune.converters.spending import _trend
from edgeprune.errors import UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.tflite.metadata import read_metadata
from edgeprune.formats.tflite.objects import as_objects, file_bytes, scales_of
from edgeprune.formats.tflite.scales import MANTISSA_BITS, are_slim, round_up
from edgeprune.maker.keras.models import input_specs
from edgeprune.maker.training.data.samples import Samples
from edgeprune.runtime.session import installed_runtimes, run_tflite

RUNTIMES = list(installed_runtimes())
FLOATS = st.floats(2.0**-100, 2.0**100, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=20), st.integers(1, 8))
def test_scales_round_up_and_never_far(values: list[float], bits: int) -> None:
    """A rounded scale is not below its own, less than 2^-bits above, has few bits and stays when rounded again."""
    scales = np.array(values, np.float32)
    rounded = round_up(scales, bits)
    assert rounded.dtype == np.float32
    assert (rounded >= scales).all()
    assert (rounded.astype(np.float64) <= scales.astype(np.float64) * (1 + 2.0**-bits)).all()
    assert not (rounded.view(np.uint32) & ((1 << (23 - bits)) - 1)).any()
    assert np.array_equal(round_up(rounded, bits), rounded)


def a_kernel(values: np.ndarray, largest: float = np.inf) -> Kernel:
    """A kernel of one row a channel, on the grids that TensorFlow gives it."""
    scales = np.maximum(np.abs(values).max(1), 1e-12).astype(np.float32) / np.float32(127)
    stored = np.rint(values / scales[:, None]).astype(np.int8)
    return Kernel(
        name="k",
        kind="FULLY_CONNECTED",
        buffer=1,
        tensors=(1,),
        axis=0,
        stored=stored,
        scales=scales,
        values=values.astype(np.float64),
        exact=True,
        largest=largest,
        biases=(),
    )


@given(st.integers(0, 2**32 - 1), st.sampled_from(FLOORS), st.floats(1e-3, 1e3))
def test_no_grid_clips_and_zeros_stay(seed: int, floor: float, spread: float) -> None:
    """On every grid each weight is within half a step of its own number, and zeros are zeros."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(5, 12)) * spread ** rng.random((5, 1)) * (rng.random((5, 12)) > 0.5)
    kernel = a_kernel(values)
    scales = floored(kernel, floor)
    stored = levels(kernel, scales)
    assert are_slim(scales)
    assert (np.abs(stored * scales[:, None].astype(np.float64) - values) <= 0.5001 * scales[:, None]).all()
    assert not stored[values == 0].any()


@given(st.integers(0, 2**32 - 1))
def test_a_channel_takes_the_scale_that_fits_it(seed: int) -> None:
    """Of the next few slim scales: never below its own, at most a quarter above, and no worse than the next one."""
    values = np.random.default_rng(seed).laplace(size=(6, 9))
    kernel = a_kernel(values)

    def off(scales: np.ndarray) -> np.ndarray:
        by_channel = kernel.by_channel(scales)
        return np.asarray(np.square(values - levels(kernel, scales) * by_channel).sum(1))

    scales = fitted(kernel)
    assert are_slim(scales)
    assert (scales >= kernel.scales).all()
    assert (scales <= kernel.scales.astype(np.float64) * (1 + CANDIDATES * 2.0**-MANTISSA_BITS)).all()
    assert (off(scales) <= off(round_up(kernel.scales)) + 1e-15).all()


def test_a_grid_never_needs_what_runtimes_refuse() -> None:
    """A floor ends below the scale from which XNNPACK refuses a file."""
    kernel = a_kernel(np.array([[1.0, -0.5], [0.25, 0.125]]), largest=0.02)
    assert float(floored(kernel, 16.0).max()) <= 0.02


def test_moves_go_from_the_cheapest_byte_to_the_dearest() -> None:
    """Prices grow, each kernel's grids grow coarser, and a grid that saves nothing is none."""
    grids = [
        [
            Grid(choice=f, stream_bytes=b, error=e)
            for f, b, e in [(0, 100, 0.0), (1, 80, 1.0), (2, 81, 3.0), (4, 50, 9.0)]
        ],
        [Grid(choice=f, stream_bytes=b, error=e) for f, b, e in [(0, 100, 0.0), (1, 90, 0.1)]],
    ]
    path = moves(grids, [1.0, 1.0])
    assert [(move.layer, move.choice) for move in path] == [(1, 1), (0, 1), (0, 4)]
    assert [round(move.distortion, 6) for move in path] == [0.1, 1.0, 8.0]
    assert [move.price for move in path] == sorted(move.price for move in path)


@pytest.mark.parametrize(
    "bad",
    [
        {"spend": "lots"},
        {"spend": "120 %"},
        {"download_target": "1.2x"},
        {"download_target": "small"},
        {"scales": "round"},
        {"rounding": "up"},
        {"scales": Scales.FLOAT32, "spend": "1 %"},
    ],
)
def test_bad_options(bad: dict[str, Any]) -> None:
    """What cannot be done is one line."""
    with pytest.raises(UsageError):
        SlimOptions(**bad)


def test_options_are_for_integer_files() -> None:
    """A float file has no scales."""
    assert SlimOptions(download_target="0.25x").target_bytes(1000) == 250
    assert SlimOptions(download_target="2 kB").target_bytes(1000) == 2000
    check_slim(Format.TFLITE, Precision.FLOAT32, SlimOptions())
    with pytest.raises(UsageError, match="for tflite int8"):
        check_slim(Format.TFLITE, Precision.DYNAMIC, SlimOptions(drop_names=True))
    check_slim(Format.COREML, Precision.PALETTE6, SlimOptions(spend="1 %"))
    with pytest.raises(UsageError, match="for tflite int8 and int16x8 and coreml palette2"):
        check_slim(Format.COREML, Precision.INT8, SlimOptions(spend="1 %"))
    with pytest.raises(UsageError, match="--rounding are for tflite int8"):
        check_slim(Format.COREML, Precision.PALETTE6, SlimOptions(rounding=Rounding.NEAREST))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A model, its plain and its slim int8 file, and Fashion-MNIST pictures for it."""

    model: Any
    plain: Exported
    slim: Exported
    pictures: np.ndarray


def pruned(keras: Any) -> Any:
    """Convolutions, a depthwise and a transposed one and a Dense; half of the weights are zero, two of four in a row in
    the Dense."""
    layers = keras.layers
    x = keras.Input((28, 28, 1), name="image")
    y = layers.Conv2D(8, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255)(x))
    y = layers.DepthwiseConv2D(3, activation="relu")(y)
    y = layers.Conv2DTranspose(6, 3, strides=2, activation="relu")(y)
    y = layers.Conv2D(32, 3, strides=3, activation="relu")(y)
    y = layers.Dense(10, name="scores")(layers.Flatten()(layers.MaxPooling2D(4)(y)))
    model = keras.Model(x, y)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        for weight in layer.weights:
            if len(weight.shape) > 1:
                keep = rng.random(weight.shape) > 0.5
                keep = np.arange(weight.shape[0])[:, None] % 4 < 2 if len(weight.shape) == 2 else keep
                weight.assign(
                    rng.normal(size=weight.shape) * keep * (2.0 * weight.shape[-1] / math.prod(weight.shape)) ** 0.5
                )
    return model


@pytest.fixture(scope="module")
def pair(converter: Converter, keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder, model = tmp_path_factory.mktemp("slim"), pruned(keras)
    with np.load(ROOT / "sample_models" / "fashion" / "validation.npz") as file:
        pictures = file["x"][:300].astype(np.float32)
    plain, slim = (
        converter.export(
            model,
            folder / f"{options.scales}.tflite",
            Format.TFLITE,
            Precision.INT8,
            calibration={"image": pictures[200:]},
            slim=options,
        )
        for options in (SlimOptions(scales=Scales.FLOAT32), SlimOptions(spend="1 %"))
    )
    return Pair(model=model, plain=plain, slim=slim, pictures=pictures[:200])


def known(made: Exported, start: bytes) -> Kernels:
    return kernels_of(as_objects(made.path.read_bytes()), float_constants(start))


@pytest.mark.slow
def test_every_kernel_has_slim_scales(pair: Pair) -> None:
    """Of all four kinds, with the exact float32 product as unit of the bias; the float weights are known."""
    slim = known(pair.slim, pair.slim.start)
    assert {kernel.kind for kernel in slim.known} == {
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "TRANSPOSE_CONV",
    }
    assert slim.left == pair.slim.left == ()
    model = as_objects(pair.slim.path.read_bytes())
    for kernel in slim.known:
        assert kernel.exact
        assert are_slim(kernel.scales)
        for bias in kernel.biases:
            unit = scales_of(model.subgraphs[0].tensors[bias.tensor])
            assert np.array_equal(unit, np.float32(bias.unit) * kernel.scales)
    assert all(not are_slim(kernel.scales) for kernel in known(pair.plain, pair.slim.start).known)


def _off(kernel: Kernel) -> float:
    """Squared error of the weights, and a little."""
    return float(np.square(kernel.values - kernel.stored * kernel.by_channel(kernel.scales)).sum()) + 1e-12


@pytest.mark.slow
def test_slim_files_are_smaller_and_no_weight_is_worse(pair: Pair) -> None:
    """A stored weight is within half a step of the float one; zeros, also two of four, are where they were."""
    bare, slim = (known(made, pair.slim.start).known for made in (pair.plain, pair.slim))
    for before, after in zip(bare, slim, strict=True):
        scales = after.by_channel(after.scales)
        assert (np.abs(after.stored * scales - after.values) <= 0.5001 * scales).all()
        plain = before.by_channel(before.scales)
        assert (scales >= plain).all()
        assert (scales <= plain * (1 + CANDIDATES * 2.0**-MANTISSA_BITS)).all()
        assert _off(after) <= 1.6 * _off(before)
        assert not after.stored[after.values == 0].any()
    dense = next(kernel for kernel in slim if kernel.kind == "FULLY_CONNECTED")
    assert np.count_nonzero(dense.stored.reshape(10, -1, 4), axis=-1).max() <= 2
    assert len(zlib.compress(pair.slim.path.read_bytes())) < 0.97 * len(zlib.compress(pair.plain.path.read_bytes()))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_slim_files_compute_the_same(pair: Pair, runtime: str) -> None:
    """On real pictures the slim file departs from the model no more than the plain one, and names stay."""
    from edgeprune.maker.keras.models import predict

    expected = predict(pair.model, {"image": pair.pictures})["scores"]
    far = {}
    for made in (pair.plain, pair.slim):
        found = run_tflite(made.path, {"image": pair.pictures}, runtime=runtime).outputs["scores"]
        far[made.path.name] = float(np.abs(found - expected).mean() / np.ptp(expected))
    assert far["slim.tflite"] < 1.25 * far["float32.tflite"] + 0.002


@pytest.mark.slow
def test_names_that_nobody_reads(pair: Pair, tmp_path: Path) -> None:
    """Inputs, outputs and signatures keep their names, inner tensors lose them, and the outputs are the same."""
    path = tmp_path / "bare.tflite"
    path.write_bytes(without_names(pair.slim.path.read_bytes()))
    before, after = (read_contents(p).graph for p in (pair.slim.path, path))
    assert before is not None
    assert after is not None
    assert after.signatures == before.signatures
    assert {t.name for t in after.tensors if t.name} <= {t.name for t in before.tensors}
    assert sum(not t.name for t in after.tensors) > len(after.tensors) // 2
    run = [
        run_tflite(p, {"image": pair.pictures}, runtime=RUNTIMES[-1]).outputs["scores"] for p in (pair.slim.path, path)
    ]
    assert np.array_equal(*run)


@pytest.mark.slow
def test_what_is_not_proved_is_left(pair: Pair) -> None:
    """Without the float weights, or with others, nothing changes, and it is said."""
    content = pair.plain.path.read_bytes()
    same, found = with_slim_scales(content, {})
    assert found.known == ()
    assert len(found.left) == 5
    assert all("float weights are not known" in line for line in found.left)
    assert same == file_bytes(as_objects(content))
    others = {name: values * 1.5 for name, values in float_constants(pair.slim.start).items()}
    assert with_slim_scales(content, others)[1].known == ()


@pytest.mark.slow
def test_a_kernel_that_another_operation_reads_is_left(pair: Pair) -> None:
    """A bias of two readers, or a constant of two meanings, is not touched."""
    model = as_objects(pair.plain.path.read_bytes())
    graph, floats = model.subgraphs[0], float_constants(pair.slim.start)
    kernel = kernels_of(model, floats).known[0]
    twin = next(op for op in graph.operators if kernel.biases[0].tensor in op.inputs)
    graph.outputs = np.append(graph.outputs, kernel.tensors[0]).astype(np.int32)
    assert len(kernels_of(model, floats).left) == 1
    graph.outputs = graph.outputs[:-1]
    graph.operators[-1].inputs = np.append(graph.operators[-1].inputs, twin.inputs[2]).astype(np.int32)
    assert "bias" in kernels_of(model, floats).left[0]


@pytest.mark.slow
def test_coarse_weights_that_keep_outputs(pair: Pair, tmp_path: Path) -> None:
    """On a coarse grid, on pictures that it has not seen, the file whose weights are reconstructed is nearer to the
    model by far, in as many bytes; the same again is the same file, and zeros are where they were."""
    from edgeprune.maker.keras.models import predict

    expected = predict(pair.model, {"image": pair.pictures})["scores"]
    with np.load(ROOT / "sample_models" / "fashion" / "train.npz") as file:
        calibration = {"image": file["x"][:100].astype(np.float32)}
    off, sizes = [], []
    for rounding in (Rounding.NEAREST, Rounding.AUTO, Rounding.AUTO):
        kernels = CoarseKernels(pair.slim, SlimOptions(spend="1 %", rounding=rounding), calibration)
        content = kernels.content(dict.fromkeys(range(len(kernels.kernels)), 8.0))
        (tmp_path / f"{len(off)}.tflite").write_bytes(content)
        for kernel, found in zip(kernels.kernels, _stored(content), strict=True):
            assert not found[kernel.values == 0].any()
        found = run_tflite(tmp_path / f"{len(off)}.tflite", {"image": pair.pictures}, runtime=RUNTIMES[-1]).outputs
        off.append(float(np.square(found["scores"] - expected).mean()))
        sizes.append(len(zlib.compress(content, 9)))
    assert len(kernels.rounded) > len(kernels.kernels) == 5
    assert off[1] < 0.6 * off[0]
    assert sizes[1] < 1.05 * sizes[0]
    assert (tmp_path / "1.tflite").read_bytes() == (tmp_path / "2.tflite").read_bytes()


def _stored(content: bytes) -> list[np.ndarray]:
    """The numbers of the kernels of a file."""
    return [kernel.stored for kernel in kernels_of(as_objects(content), {}).known]


@pytest.mark.slow
def test_weights_that_keep_outputs_on_their_own_grid(pair: Pair, converter: Converter, tmp_path: Path) -> None:
    """`rounding` alone: other numbers on the same scales, no farther from the model."""
    from edgeprune.maker.keras.models import predict

    entry = convert(
        pair.model,
        tmp_path / "kept.tflite",
        precision="int8",
        calibration={"image": pair.pictures},
        options=ConvertOptions(slim=SlimOptions(rounding=Rounding.RECONSTRUCTED), calibration_samples=100),
        converter=converter,
    )
    assert entry.parity is not None
    plain, kept = (kernels_of(as_objects(p.read_bytes()), {}).known for p in (pair.slim.path, tmp_path / "kept.tflite"))
    assert all(np.array_equal(a.scales, b.scales) for a, b in zip(plain, kept, strict=True))
    assert any(not np.array_equal(a.stored, b.stored) for a, b in zip(plain, kept, strict=True))
    expected = predict(pair.model, {"image": pair.pictures})["scores"]
    off = [
        np.square(run_tflite(p, {"image": pair.pictures}, runtime=RUNTIMES[-1]).outputs["scores"] - expected).mean()
        for p in (pair.slim.path, tmp_path / "kept.tflite")
    ]
    assert off[1] < 1.1 * off[0]


@pytest.mark.slow
def test_coarser_weights_spend_what_they_may(pair: Pair, converter: Converter, tmp_path: Path) -> None:
    """Against answers of its own a file gets coarser within the allowance; what it tells the app stays; a target that
    is out of reach is said."""
    pictures = pair.pictures
    answers = run_tflite(pair.plain.path, {"image": pictures}, runtime=RUNTIMES[-1]).outputs["scores"]
    held = Samples(path=Path("held.npz"), inputs={"image": pictures}, targets=answers)
    options = ConvertOptions(
        slim=SlimOptions(spend="10 %", download_target="1 kB", drop_names=True), app=AppOptions(description="told")
    )
    entry = convert(
        pair.model,
        tmp_path / "coarse.tflite",
        precision="int8",
        calibration={"image": pictures},
        validation=held,
        metric="r2",
        options=options,
        converter=converter,
    )
    assert entry.download_bytes["deflate"] < len(zlib.compress(pair.slim.path.read_bytes(), 9))
    assert "download target of 1.00 kB is not reached" in entry.warnings[0]
    tables = read_metadata(tmp_path / "coarse.tflite").tables
    assert tables is not None
    assert tables["description"] == "told"
    found = run_tflite(tmp_path / "coarse.tflite", {"image": pictures}, runtime=RUNTIMES[-1]).outputs["scores"]
    assert np.square(found - answers).sum() <= 0.1 * np.square(answers - answers.mean(0)).sum() * 1.5
    assert list(input_specs(pair.model)) == ["image"]


def test_the_trend_of_what_is_lost() -> None:
    """Luck of the first file is told apart from the price of distortion, and noise makes the price higher."""
    distortion = np.array([0.0, 0.01, 0.02, 0.04, 0.08, 0.16])
    lucky = 0.5 * distortion + 0.002 * (distortion > 0)
    luck, price = _trend(distortion[1:], lucky[1:])
    assert (luck, price) == (pytest.approx(0.002), pytest.approx(0.5))
    luck, price = _trend(distortion, lucky)
    assert 0.0005 < luck < 0.002
    assert price > 0.5

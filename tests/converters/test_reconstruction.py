"""Weights that keep the outputs of their layer: facts on numbers alone, and against what takes them literally."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.converters.kernels import Kernel
from edgeprune.converters.layer_inputs import _spread_out, patches
from edgeprune.converters.reconstruction import (
    DAMPING,
    Moments,
    _damped,
    _taken_over,
    output_error,
    reconstructed,
)
from edgeprune.converters.slim_scales import LARGEST, Rounded, levels

SEEDS = st.integers(0, 2**32 - 1)


def a_kernel(values: np.ndarray, scales: np.ndarray, kind: str = "FULLY_CONNECTED") -> Kernel:
    """A kernel with these numbers behind it."""
    return Kernel(
        name="k",
        kind=kind,
        buffer=1,
        tensors=(1,),
        axis=3 if kind == "DEPTHWISE_CONV_2D" else 0,
        stored=np.zeros(values.shape, np.int8),
        scales=scales,
        values=values.astype(np.float64),
        exact=True,
        largest=np.inf,
        biases=(),
    )


def moments(rows: np.ndarray, centred: bool = True) -> Moments:
    """Those of data [groups, rows, inputs]."""
    mean = rows.mean(1, keepdims=True) * centred
    spread = np.swapaxes(rows - mean, 1, 2) @ (rows - mean) / rows.shape[1]
    return Moments(spread=spread, mean=mean[:, 0])


def data(rng: np.random.Generator, groups: int, inputs: int, rows: int = 200) -> np.ndarray:
    """Inputs that go together, as those of a layer do, some of which are always 0."""
    mixed = np.maximum(rng.normal(size=(groups, rows, inputs)) @ rng.normal(size=(inputs, inputs)) + 0.3, 0)
    return np.asarray(mixed * (rng.random(inputs) > 0.1))


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"]), st.floats(0.02, 1.0), st.booleans())
def test_no_output_is_worse_than_with_the_nearest_numbers(seed: int, kind: str, step: float, centred: bool) -> None:
    """On any grid: the error of each channel on the samples, computed from them, is at most the nearest one's with the
    best bias; zeros stay zeros, numbers are int8, and the same again is the same."""
    rng = np.random.default_rng(seed)
    shape = {"FULLY_CONNECTED": (5, 12), "CONV_2D": (6, 2, 3, 2), "DEPTHWISE_CONV_2D": (1, 3, 2, 4)}[kind]
    values = rng.normal(size=shape) * (rng.random(shape) > 0.4)
    channels = shape[3] if kind == "DEPTHWISE_CONV_2D" else shape[0]
    scales = (step * rng.uniform(0.5, 1.0, channels)).astype(np.float32)
    groups = {"FULLY_CONNECTED": 1, "CONV_2D": 2, "DEPTHWISE_CONV_2D": 4}[kind]
    inputs = values.size // channels
    rows = data(rng, groups, inputs)
    kernel, known = a_kernel(values, scales, kind), moments(rows, centred)
    found = reconstructed(kernel, scales, known)
    assert found.stored.dtype == np.int8
    assert np.abs(found.stored.astype(int)).max() <= LARGEST
    assert not found.stored[values == 0].any()
    nearest = levels(kernel, scales)

    def off(stored: np.ndarray, shift: np.ndarray) -> np.ndarray:
        lost = stored * kernel.by_channel(scales) - values
        by_output = lost.reshape(-1, channels).T if kind == "DEPTHWISE_CONV_2D" else lost.reshape(channels, -1)
        data_of = np.repeat(rows, channels // groups, axis=0)
        return np.asarray(np.square(np.einsum("cri,ci->cr", data_of, by_output) - shift[:, None]).mean(1))

    best = np.einsum("gi,gri->gr", rows.mean(1) * centred, _lost(kernel, nearest, scales, groups)).reshape(-1)
    assert (off(found.stored, found.shift) <= off(nearest, best) * (1 + 1e-6) + 1e-9).all()
    assert np.allclose(off(found.stored, found.shift), output_error(kernel, found, scales, known), atol=1e-9)
    assert np.array_equal(reconstructed(kernel, scales, known).stored, found.stored)


def _lost(kernel: Kernel, stored: np.ndarray, scales: np.ndarray, groups: int) -> np.ndarray:
    lost = stored * kernel.by_channel(scales) - kernel.values
    if kernel.kind == "DEPTHWISE_CONV_2D":
        return np.asarray(lost.reshape(-1, lost.shape[-1]).T[:, None])
    return np.asarray(lost.reshape(groups, len(lost) // groups, -1))


@pytest.mark.parametrize("seed", range(3))
def test_tiny_kernels_come_near_to_the_best_there_is(seed: int) -> None:
    """Of all numbers on the grid, tried one by one, the best is rarely far better; over several it is near."""
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(6):
        values = rng.normal(size=(1, 4))
        scales = np.array([0.7], np.float32)
        kernel, known = a_kernel(values, scales), moments(data(rng, 1, 4) + rng.normal(size=(1, 200, 4)) * 0.1)
        grid = np.array(list(itertools.product(range(-5, 6), repeat=4))) * float(scales[0]) - values
        best = float(((grid @ known.spread[0]) * grid).sum(1).min())
        found = output_error(kernel, reconstructed(kernel, scales, known), scales, known)[0]
        nearest = Rounded(stored=levels(kernel, scales), shift=np.zeros(1))
        first = output_error(kernel, nearest, scales, known)[0]
        assert best <= found * (1 + 1e-9) + 1e-12
        ratios.append((found - best) / max(first - best, 1e-12) if first > best * 1.01 else 0.0)
    assert np.mean(ratios) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_one_pass_is_that_of_the_paper(seed: int) -> None:
    """The pass in blocks over a factor of the inverse is the optimal brain quantizer's, column by column, with the
    inverse of what is left taken anew each time (Frantar et al. 2022, arXiv:2208.11580)."""
    rng = np.random.default_rng(seed)
    values, step = rng.normal(size=(3, 70)), 0.4
    spread = _damped(moments(data(rng, 1, 70)).spread)
    left, expected = values.copy(), np.zeros_like(values)
    for at in range(70):
        expected[:, at] = np.rint(left[:, at] / step)
        inverse = np.linalg.inv(spread[0, at:, at:])
        left[:, at:] -= ((left[:, at] - expected[:, at] * step) / inverse[0, 0])[:, None] * inverse[0]
    found = _taken_over(values[None], np.full((1, 3, 1), step), spread)[0]
    assert (found == expected).mean() > 0.99
    assert DAMPING > 0


def test_patches_are_what_a_convolution_sees() -> None:
    """Padded, dilated and with strides: each place sees the numbers that the window covers there, and 0 outside."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 8, 3)).astype(np.float32)
    for stride, dilation, padding in [((2, 1), (1, 1), "SAME"), ((1, 1), (2, 2), "SAME"), ((2, 2), (1, 1), "VALID")]:
        told = SimpleNamespace(
            strideH=stride[0],
            strideW=stride[1],
            dilationHFactor=dilation[0],
            dilationWFactor=dilation[1],
            padding=0 if padding == "SAME" else 1,
        )
        seen = patches(x, (3, 2), told, 10**6, rng)
        reach = (2 * dilation[0] + 1, dilation[1] + 1)
        sizes = [
            -(-n // s) if padding == "SAME" else (n - r) // s + 1 for n, s, r in zip((9, 8), stride, reach, strict=True)
        ]
        begin = [
            max(0, (e - 1) * s + r - n) // 2 * (padding == "SAME")
            for e, s, r, n in zip(sizes, stride, reach, (9, 8), strict=True)
        ]
        assert len(seen) == 2 * sizes[0] * sizes[1]
        for place, (sample, row, column) in enumerate(itertools.product(range(2), range(sizes[0]), range(sizes[1]))):
            for a, b in itertools.product(range(3), range(2)):
                at = (row * stride[0] + a * dilation[0] - begin[0], column * stride[1] + b * dilation[1] - begin[1])
                inside = 0 <= at[0] < 9 and 0 <= at[1] < 8
                assert np.array_equal(seen[place, a, b], x[sample, at[0], at[1]] if inside else np.zeros(3))
        few = patches(x, (3, 2), told, 5, rng)
        assert len(few) == 5


def test_a_transposed_convolution_sees_data_with_zeros_between_them() -> None:
    """What it sees times its kernel is what its data, put down one by one, add up to."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 3, 4, 2)), rng.normal(size=(5, 3, 2, 2))  # outputs, height, width, inputs
    whole = np.zeros((2 * 2 + 3, 3 * 1 + 2, 5))
    for i, j, a, b in itertools.product(range(3), range(4), range(3), range(2)):
        whole[2 * i + a, j + b] += kernel[:, a, b] @ x[0, i, j]
    seen = _spread_out(x, (3, 2), SimpleNamespace(strideH=2, strideW=1), 10**6, rng)
    assert np.allclose(seen[0] @ kernel.reshape(5, -1).T, whole.reshape(-1, 5), atol=1e-5)

"""The fused kernel of batch normalization against Keras's own computation."""

import contextlib

import numpy as np
import pytest

from edgeprune.maker.training import fused_norms as norms
from edgeprune.maker.training.fused_norms import fused_norms

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

SETTINGS = {
    "as Keras makes it": {},
    "without scale": {"scale": False},
    "without offset": {"center": False},
    "a slow average": {"momentum": 0.5, "epsilon": 1e-2},
}
NOT_FUSED = {
    "a tiny epsilon": {"epsilon": 1e-6},
    "over another axis": {"axis": 1},
    "renormalized": {"renorm": True},
}


WIDTHS = (4, 24, 32, 40)  # of which oneDNN takes some its slow way, other ones with AVX2 than with AVX-512


def computed(settings: dict, pictures: np.ndarray, *, fused: bool) -> list[np.ndarray]:
    """Outputs, gradients and statistics of one training batch, traced."""
    keras.utils.set_random_seed(3)
    layer = keras.layers.BatchNormalization(**settings)
    layer.build(pictures.shape)
    for weight in layer.trainable_variables:
        weight.assign(np.random.default_rng(4).uniform(0.5, 1.5, weight.shape))

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(outputs**3)
        return [outputs, *tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)])]

    inputs = tf.constant(pictures)
    if fused:
        with fused_norms(keras):
            found = step(inputs)
            used = [op.type for op in step.get_concrete_function(inputs).graph.get_operations()]
        assert ("FusedBatchNormGradV3" in used) == (settings not in NOT_FUSED.values())
        if not norms._is_slow(inputs):
            assert ("FusedBatchNormV3" in used) == (settings not in NOT_FUSED.values())
    else:
        found = step(inputs)
    return [np.asarray(value) for value in [*found, *layer.non_trainable_variables]]


def _on_x86(monkeypatch, *, avx512: bool) -> None:
    monkeypatch.setattr(norms, "is_x86", lambda: True)
    monkeypatch.setattr(norms, "has_avx512", lambda: avx512)


@pytest.mark.parametrize("settings", [*SETTINGS.values(), *NOT_FUSED.values()], ids=[*SETTINGS, *NOT_FUSED])
@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("channels", WIDTHS)
def test_outputs_gradients_and_statistics_are_those_of_keras(settings, channels, avx512, monkeypatch):
    _on_x86(monkeypatch, avx512=avx512)
    pictures = np.random.default_rng(1).normal(2, 3, (8, 5, 6, channels)).astype(np.float32)
    plain, fused = (computed(settings, pictures, fused=fused) for fused in (False, True))
    for one, other in zip(plain, fused, strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("shape", [(16, 4), (4, 6, 4)])
def test_what_is_no_picture_is_left_to_keras(shape):
    rows = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    layer = keras.layers.BatchNormalization()
    with fused_norms(keras):
        made = layer(rows, training=True)
    np.testing.assert_allclose(np.mean(made, axis=tuple(range(len(shape) - 1))), 0, atol=1e-4)


@pytest.mark.parametrize("channels", WIDTHS)
def test_a_frozen_layer_and_inference_use_the_statistics_it_has(channels):
    pictures = np.random.default_rng(1).normal(2, 3, (8, 5, 6, channels)).astype(np.float32)
    layer = keras.layers.BatchNormalization()
    with fused_norms(keras):
        inferred = layer(pictures, training=False)
        layer.trainable = False
        frozen = layer(pictures, training=True)
    np.testing.assert_array_equal(inferred, frozen)
    np.testing.assert_allclose(inferred, layer(pictures, training=False), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inferred, pictures / np.sqrt(1 + layer.epsilon), rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "avx512", "slow"),
    [(8, False, False), (12, False, False), (16, False, True), (24, False, True), (16, True, False), (24, True, True)],
)
def test_channels_that_the_kernel_takes_slowly(channels, avx512, slow, monkeypatch):
    """Then the kernel does the gradient alone; behind a convolution in inference it is part of that."""
    _on_x86(monkeypatch, avx512=avx512)
    pictures = tf.constant(np.random.default_rng(1).normal(size=(4, 3, 3, channels)).astype(np.float32))
    layer, convolution = keras.layers.BatchNormalization(), keras.layers.Conv2D(channels, 1, use_bias=False)

    def used(function) -> list[str]:
        with fused_norms(keras):
            return [op.type for op in tf.function(function).get_concrete_function(pictures).graph.get_operations()]

    assert ("FusedBatchNormV3" in used(lambda x: layer(x, training=True))) is not slow
    assert ("FusedBatchNormV3" in used(lambda x: layer(x, training=False))) is not slow
    assert "FusedBatchNormV3" in used(lambda x: layer(convolution(x), training=False))


def test_gradients_go_through_a_frozen_layer():
    pictures = tf.constant(np.random.default_rng(1).normal(2, 3, (4, 3, 3, 2)).astype(np.float32))
    layer = keras.layers.BatchNormalization()
    layer.build(pictures.shape)
    layer.moving_mean.assign([1.0, -1.0])
    layer.moving_variance.assign([0.5, 4.0])
    layer.trainable = False
    found = []
    for context in (contextlib.nullcontext(), fused_norms(keras)):
        with context, tf.GradientTape() as tape:
            tape.watch(pictures)
            loss = tf.reduce_sum(layer(pictures, training=True) ** 2)
        found.append(tape.gradient(loss, pictures))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)

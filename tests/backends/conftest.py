"""Keras on the backend of KERAS_BACKEND."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from edgeprune.maker.keras.models import keras_module


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras on the backend that is chosen."""
    return keras_module(any_backend=True)


@pytest.fixture(scope="module", autouse=True)
def any_kernels(keras: Any) -> Iterator[None]:
    """XLA is to be had: Keras refuses it where an earlier test asked TensorFlow for repeatable kernels."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.python.framework import config

    before = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    yield
    if before:
        config.enable_op_determinism()

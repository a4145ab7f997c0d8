"""Keras files that declare more than they store: refused before anything of that size is made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hostile_keras import FORMS, call_of, model_config, named, tensor, write_keras

from edgeprune.errors import InputError
from edgeprune.maker.keras.model_files import load_model

HUGE = 1_000_000_000


def chain(*layers: dict[str, Any]) -> dict[str, Any]:
    """Layers one after the other, as one layer of a model."""
    start = named("keras.layers", "InputLayer", {"batch_shape": [None, 4], "dtype": "float32", "name": "in"})
    made = named("keras", "Sequential", {"name": "middle", "trainable": True, "layers": [start, *layers]})
    return {**made, "inbound_nodes": call_of(tensor("d1", 4))}


def one(kind: str, **settings: object) -> dict[str, Any]:
    """A layer."""
    return named("keras.layers", kind, {"name": f"the_{kind.lower()}", **settings})


LARGE: dict[str, dict[str, Any]] = {
    "units": one("Dense", units=HUGE),
    "words": one("Embedding", input_dim=HUGE, output_dim=16),
    "an equation": one("EinsumDense", equation="ab,bc->ac", output_shape=HUGE),
    "an orthogonal kernel": one("Dense", units=HUGE, kernel_initializer="orthogonal"),
    "cells": chain(one("Reshape", target_shape=[2, 2]), one("LSTM", units=HUGE)),
    "filters": chain(one("Reshape", target_shape=[2, 2]), one("Conv1D", filters=HUGE, kernel_size=1)),
    "heads": chain(one("Reshape", target_shape=[2, 2]), one("TimeDistributed", layer=one("Dense", units=HUGE))),
    "steps": chain(one("RepeatVector", n=HUGE), one("PReLU")),
    "a mean": chain(one("RepeatVector", n=HUGE), one("Normalization", axis=[1, 2], mean=0.0, variance=1.0)),
}


@pytest.mark.parametrize("kind", LARGE)
def test_more_than_the_file_stores(tmp_path: Path, keras: Any, kind: str) -> None:
    """The layer and its size are told, and no time is spent on it."""
    path = write_keras(tmp_path / "m.keras", model_config(LARGE[kind]))
    before = time.process_time()
    with pytest.raises(
        InputError, match=r"refused, layer '.*the_.*' declares [\d,]{11,} numbers .* the file stores 204"
    ):
        load_model(path)
    assert time.process_time() - before < 10


@pytest.mark.parametrize("form", FORMS)
def test_in_every_kind_of_file(tmp_path: Path, form: str) -> None:
    """Whatever wrote the file."""
    path = FORMS[form](tmp_path, model_config(None, units=HUGE))
    with pytest.raises(InputError, match=r"layer '.*d1' declares 8,000,000,000 numbers \(kernel\)"):
        load_model(path)


def test_many_that_are_large_together(tmp_path: Path) -> None:
    """What counts is the sum."""
    layers = [named("keras.layers", "Dense", {"name": f"the_{i}", "units": 300}) for i in range(100)]
    with pytest.raises(InputError, match="refused, layer"):
        load_model(write_keras(tmp_path / "m.keras", model_config(chain(*layers))))


def test_with_trust_too(tmp_path: Path) -> None:
    """Trust in the code of a file is not trust in its sizes."""
    with pytest.raises(InputError, match="refused, layer 'd1'"):
        load_model(write_keras(tmp_path / "m.keras", model_config(None, units=HUGE)), trust_code=True)


def test_an_output_that_fits_no_memory(tmp_path: Path) -> None:
    """A layer without weights can be too large as well."""
    padding = one("ZeroPadding1D", padding=HUGE)
    large = chain(one("Reshape", target_shape=[1, 4]), padding, one("GlobalMaxPooling1D"))
    path = write_keras(tmp_path / "m.keras", model_config(large))
    with pytest.raises(InputError, match="layer 'the_zeropadding1d' makes"):
        load_model(path)


def test_models_in_models(tmp_path: Path) -> None:
    """Each model calls the one inside it twice: thirty of them are a billion calls in a small file."""
    inner: dict[str, Any] = one("Dropout", rate=0.5)
    for depth in range(30):
        start = named("keras.layers", "InputLayer", {"batch_shape": [None, 4], "dtype": "float32", "name": "in"})
        calls = [*call_of(tensor("in", 4)), *call_of(tensor("inner", 4))]
        layers = [{**start, "name": "in", "inbound_nodes": []}, {**inner, "name": "inner", "inbound_nodes": calls}]
        ends = {"input_layers": ["in", 0, 0], "output_layers": ["inner", 1 + bool(depth), 0]}
        settings = {"name": "middle", "trainable": True, "layers": layers, **ends}
        inner = named("keras.src.models.functional", "Functional", settings)
    with pytest.raises(InputError, match="so often that"):
        load_model(write_keras(tmp_path / "m.keras", model_config(inner)))


def test_an_input_without_samples(tmp_path: Path) -> None:
    """A batch of nothing is no input."""
    config = model_config()
    config["config"]["layers"][0]["config"]["batch_shape"] = [0, 8]
    with pytest.raises(InputError, match="which no sample has"):
        load_model(write_keras(tmp_path / "m.keras", config))

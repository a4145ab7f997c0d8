"""Keras files with whatever is wanted between two Dense layers, written by hand: Keras makes none of them."""

from __future__ import annotations

import base64
import io
import json
import marshal
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = [
    "FORMS",
    "call_of",
    "dense",
    "function",
    "marshalled",
    "model_config",
    "named",
    "tensor",
    "write_h5",
    "write_keras",
    "write_keras2",
]

Config = dict[str, Any]
WEIGHTS = {"d1": (8, 4), "d2": (4, 3)}


def named(module: str | None, kind: str, config: object, **more: object) -> Config:
    """A serialised object."""
    return {"module": module, "class_name": kind, "config": config, "registered_name": None, **more}


def function(module: str | None, name: str) -> Config:
    """A function as Keras writes one."""
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def tensor(layer: str, size: int) -> Config:
    """The output of a layer, as an argument of a call."""
    told = {"shape": [None, size], "dtype": "float32", "keras_history": [layer, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": told}


def call_of(*arguments: object, **keywords: object) -> list[Config]:
    """The calls of a layer that is called once."""
    return [{"args": list(arguments), "kwargs": keywords}]


def dense(name: str, units: int, source: str, size: int, settings: Config) -> Config:
    """A Dense layer; its settings stand before its own."""
    return named(
        "keras.layers",
        "Dense",
        {"name": name, "trainable": True, "dtype": "float32", "units": units} | settings,
        name=name,
        inbound_nodes=call_of(tensor(source, size)),
    )


def model_config(middle: Config | None = None, **first: object) -> Config:
    """8 inputs, Dense d1 (with the settings `first`), `middle` on its 4 outputs, Dense d2.

    `middle` is the object of a layer; it is called with the output of d1 unless it tells how it is called.
    """
    layers = [
        named(
            "keras.layers",
            "InputLayer",
            {"batch_shape": [None, 8], "dtype": "float32", "name": "x"},
            name="x",
            inbound_nodes=[],
        ),
        dense("d1", 4, "x", 8, first),
    ]
    source = "d1"
    if middle is not None:
        layers.append({"name": "middle", "inbound_nodes": call_of(tensor("d1", 4)), **middle})
        source = layers[-1]["name"]
    layers.append(dense("d2", 3, source, 4, {}))
    inner = {
        "name": "m",
        "trainable": True,
        "layers": layers,
        "input_layers": ["x", 0, 0],
        "output_layers": ["d2", 0, 0],
    }
    return named("keras.src.models.functional", "Functional", inner)


def write_keras(path: Path, config: object, assets: Mapping[str, str] | None = None) -> Path:
    """A `.keras` archive of Keras 3 with the weights of the two Dense layers."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for place, (name, shape) in zip(("dense", "dense_1"), WEIGHTS.items(), strict=True):
            group = file.create_group(f"layers/{place}/vars")
            group.attrs["name"] = name
            group["0"], group["1"] = np.ones(shape, np.float32), np.zeros(shape[1:], np.float32)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
        for name, text in (assets or {}).items():
            archive.writestr(name, text)
    return path


def write_h5(path: Path, config: Any) -> Path:
    """An `.h5` file of Keras 3: its layers carry no module."""
    told = json.loads(json.dumps(config))
    for item in [told, *told["config"]["layers"]]:
        if item.get("module") in ("keras.layers", "keras.src.models.functional"):
            del item["module"], item["registered_name"]
    return _legacy(path, told, "3.15.1")


def write_keras2(path: Path, config: Any) -> Path:
    """An `.h5` file of Keras 2 with the same layers."""
    layers = []
    for item in config["config"]["layers"]:
        settings = dict(item["config"])
        if "batch_shape" in settings:
            settings["batch_input_shape"] = settings.pop("batch_shape")
        calls = [
            [[*value["config"]["keras_history"], node["kwargs"]] for value in node["args"]]
            for node in item["inbound_nodes"]
        ]
        layers.append(
            {"class_name": item["class_name"], "config": settings, "name": item["name"], "inbound_nodes": calls}
        )
    told = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["d2", 0, 0]]}
    return _legacy(path, {"class_name": "Functional", "config": told}, "2.15.0")


def _legacy(path: Path, config: object, version: str) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = version, json.dumps(config)
        group = file.create_group("model_weights")
        names = [item["name"] for item in config["config"]["layers"]]  # type: ignore[index]
        group.attrs["layer_names"] = np.array([str(name).encode() for name in names])
        for name in map(str, names):
            layer = group.require_group(name)
            shape = WEIGHTS.get(name)
            layer.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"] if shape else []
            if shape:
                layer[f"{name}/kernel:0"] = np.ones(shape, np.float32)
                layer[f"{name}/bias:0"] = np.zeros(shape[1:], np.float32)
    return path


def marshalled(source: str) -> str:
    """The code of a function of x with this expression as Keras stores it."""
    made = eval(f"lambda x: {source}")
    return base64.b64encode(marshal.dumps(made.__code__)).decode()


FORMS: Mapping[str, Callable[[Path, Config], Path]] = {
    "keras": lambda folder, config: write_keras(folder / "m.keras", config),
    "h5": lambda folder, config: write_h5(folder / "m.h5", config),
    "keras2": lambda folder, config: write_keras2(folder / "m2.h5", config),
}

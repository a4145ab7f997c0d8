"""Which names of Keras a file may use: the reviewed list against the installed Keras, and every callable against it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hostile_keras import call_of, function, model_config, named, tensor, write_keras

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.admission import admit
from edgeprune.maker.keras.known_names import ALLOWED, REFUSED
from edgeprune.maker.keras.known_objects import find, known_objects
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.resolution import only_known

WITH_FUNCTIONS = ("keras.activations", "keras.losses", "keras.metrics", "keras.quantizers")
PUBLIC = ("keras.constraints", "keras.initializers", "keras.layers", "keras.regularizers", *WITH_FUNCTIONS)
OF_SOURCE = ("core", "einops", "image", "linalg", "math", "nn", "numpy")
LOOKUPS = {"deserialize", "get", "serialize"}


@pytest.fixture(scope="module")
def exported(keras: Any) -> dict[str, set[str]]:
    """Module -> the names that Keras itself gives its public objects there."""
    from keras.src.api_export import REGISTERED_NAMES_TO_OBJS

    found: dict[str, set[str]] = {}
    for full, value in REGISTERED_NAMES_TO_OBJS.items():
        module, _, name = full.rpartition(".")
        if inspect.isclass(value) or module in WITH_FUNCTIONS:
            found.setdefault(module, set()).add(name)
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_was_looked_at(exported: dict[str, set[str]], module: str) -> None:
    """What a new Keras brings is allowed or refused by somebody who read its code: put it into one of the lists."""
    allowed, refused = set(ALLOWED[module]), set(REFUSED.get(module, ()))
    assert allowed & refused == set()
    assert exported[module] - allowed - refused - LOOKUPS == set()
    assert allowed - exported[module] == set()


@pytest.mark.parametrize("module", OF_SOURCE)
def test_every_operation_was_looked_at(keras: Any, module: str) -> None:
    """The same for the operations of a graph, which Keras writes under the names of its source."""
    title = f"keras.src.ops.{module}"
    members = vars(importlib.import_module(title)).values()
    made = {
        value.__name__
        for value in members
        if inspect.isclass(value) and issubclass(value, keras.Operation) and value.__module__ == title
    }
    assert made == set(ALLOWED[title]) | set(REFUSED.get(title, ()))


def test_the_list_is_in_keras(keras: Any) -> None:
    """Every listed name exists, and an object has one listed name only."""
    listed = [f"{module}.{name}" for names in (ALLOWED, REFUSED) for module in names for name in names[module]]
    assert [name for name in listed if name not in known_objects()] == []
    assert len({id(known_objects()[name].value) for name in listed}) == len(listed)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.src.layers.core.dense", "Dense"),
        ("keras.src.layers", "Dense"),
        ("keras.layers", "Convolution2D"),
        ("keras.models", "Sequential"),
        ("keras.src.activations.activations", "relu"),
        ("keras.initializers", "glorot_uniform"),
        (None, "Dense"),
    ],
)
def test_other_names_of_the_same(keras: Any, module: str | None, name: str) -> None:
    """An object is known under the names that other versions wrote."""
    known = find(module, name)
    assert known is not None
    assert known.refused == ""


@cache
def callables() -> list[tuple[str, str, Any]]:
    """(module, name, object) for every callable of Keras that has a public name."""
    import keras

    def found() -> Iterator[tuple[str, str, Any]]:
        for title, module in sorted(sys.modules.items()):
            if title.partition(".")[0] == "keras" and not title.startswith("keras.src") and module is not None:
                for name, value in vars(module).items():
                    if callable(value) and not name.startswith("_"):
                        yield title, name, value

    assert keras
    return list(found())


def placed(module: str, name: str) -> dict[str, dict[str, Any]]:
    """A model that names this callable, by the place where it does."""
    ways = {
        "layer": {**named(module, name, {"name": "middle"}), "inbound_nodes": call_of(tensor("d1", 4))},
        "dotted": {**named("keras", f"{module}.{name}"[6:], {"name": "middle"}), "inbound_nodes": []},
        "function": named("keras.layers", "Activation", {"name": "middle", "activation": function(module, name)}),
        "argument": {
            **named("keras.layers", "Identity", {"name": "middle"}),
            "inbound_nodes": call_of(tensor("d1", 4), training=function(module, name)),
        },
    }
    models = {way: model_config(middle) for way, middle in ways.items()}
    for setting in ("kernel_initializer", "dtype"):
        models[setting] = model_config(None, **{setting: named(module, name, {})})
    return models


def admitted(config: dict[str, Any]) -> bool:
    """Whether a model is let through; a refusal is of one of two classes."""
    try:
        admit(config, custom={})
    except (InputError, Unsupported):
        return False
    return True


def test_every_callable_in_every_place(keras: Any) -> None:
    """Of all that Keras makes public only what is listed comes through, and no callable in a call, none with a dot."""
    allowed = {id(known.value) for known in known_objects().values() if not known.refused}
    assert len(callables()) > 1500
    for module, name, value in callables():
        listed = id(value) in allowed
        for place, config in placed(module, name).items():
            if place in ("argument", "dotted") or (place == "function" and inspect.isclass(value)):
                wanted = place == "dotted" and listed and "." not in f"{module}.{name}"[6:]
            else:
                wanted = listed
            assert admitted(config) == wanted, (module, name, place)


def test_keras_resolves_nothing_by_itself(keras: Any) -> None:
    """What would come past the first look finds a Keras that knows the list only."""
    allowed = {id(known.value) for known in known_objects().values() if not known.refused}
    others = [(module, name) for module, name, value in callables() if id(value) not in allowed]
    with only_known(keras, {}):
        for module, name in others:
            for item in (named(module, name, {}), function(module, name)):
                with pytest.raises(Unsupported):
                    keras.saving.deserialize_keras_object(item)
        with pytest.raises(Unsupported):
            keras.src.legacy.saving.serialization.deserialize_keras_object({"class_name": "Dense", "config": {}})
    assert keras.saving.deserialize_keras_object(named("keras.layers", "Dense", {"units": 1})).units == 1


@pytest.mark.parametrize("part", range(6))
def test_a_sample_of_whole_files(tmp_path: Path, keras: Any, part: int) -> None:
    """Whole files that name what is not listed are refused as their configurations are."""
    allowed = {id(known.value) for known in known_objects().values()}
    others = [(module, name) for module, name, value in callables() if id(value) not in allowed]
    module, name = others[part * len(others) // 6]
    place = ("layer", "function", "argument", "kernel_initializer", "dotted", "dtype")[part]
    with pytest.raises((Unsupported, InputError)) as told:
        load_model(write_keras(tmp_path / "m.keras", placed(module, name)[place]))
    assert "cannot be loaded" not in str(told.value)

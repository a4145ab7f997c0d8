"""What the features of TFRecord files are: a TOML file beside them, or the features.json of TensorFlow Datasets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import InputError, RecipeError
from edgeprune.host.toml_values import check_word, known_keys, read_toml, typed
from edgeprune.host.untrusted import read_text
from edgeprune.maker.training.data.pictures import PictureSize, picture_size
from edgeprune.maker.training.data.tables import TARGETS

__all__ = ["Feature", "description"]

PICTURE = "image"
TYPES = (PICTURE, *(np.dtype(kind).name for kind in "bhilBHILefd"), "bool")
NAMED = "features"  # of the description of a folder

Specs = Mapping[str, tuple[tuple[int | None, ...], str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Where an array of the samples comes from: a feature of the records, what it holds, and its sizes."""

    key: str
    kind: str
    shape: tuple[int, ...]
    size: PictureSize | None


def description(path: Path, stem: Path, specs: Specs) -> dict[str, Feature] | None:
    """What each array is, None where nothing says it.

    It stands in STEM.toml or features.toml: a table for each input ("x" will do for a single one), for "y" and
    "sample_weight". Else in the features.json that TensorFlow Datasets writes, of which features called as inputs, and
    those that its dataset_info.json trains on, are taken. Raises RecipeError for one that is wrong.
    """
    for place in (stem.with_name(f"{stem.name}.toml"), stem.with_name(f"{NAMED}.toml")):
        if place.is_file():
            return {name: _feature(place, name, table, specs) for name, table in read_toml(place)[1].items()}
    place = stem.with_name(f"{NAMED}.json")
    return _of_tfds(path, place, specs) if place.is_file() else None


def _feature(place: Path, name: str, raw: object, specs: Specs) -> Feature:
    table = known_keys(place, name, raw, ("feature", "type", "shape"))
    if "type" not in table:
        raise RecipeError(f'{place}: [{name}] lacks \'type\', as in type = "float32" or "image"')
    kind = check_word(place, name, "type", table["type"], TYPES)
    sizes = table.get("shape", [])
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise RecipeError(f"{place}: [{name}] shape is a list of sizes such as [28, 28, 1], got {sizes!r}")
    key = typed(place, f"{name}.feature", table.get("feature", name), str)
    return Feature(key=key, kind=kind, shape=tuple(sizes), size=_size(place, name, kind, specs))


def _size(place: Path, name: str, kind: str, specs: Specs) -> PictureSize | None:
    """The size of the input that pictures are for, None for what are none."""
    if kind != PICTURE:
        return None
    key = next(iter(specs)) if name == "x" and len(specs) == 1 else name
    if key not in specs:
        raise RecipeError(f"{place}: [{name}] is no input of the model, so there is no size for its pictures")
    return picture_size(place, {key: specs[key]})


def _of_tfds(path: Path, place: Path, specs: Specs) -> dict[str, Feature]:
    """Features of numbers and pictures that are inputs or targets; others are left out."""
    told = _json(place)
    known = _at(told, "featuresDict", "features")
    beside = place.with_name("dataset_info.json")
    items = _at(_json(beside), "supervisedKeys", "tuple", "items") if beside.is_file() else None
    trained = [item.get("featureKey") for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    found: dict[str, Feature] = {}
    for key, raw in known.items() if isinstance(known, Mapping) else ():
        name = key if key in specs else "x" if [key] == trained[:1] and len(specs) == 1 else None
        name = "y" if name is None and (key in trained[1:2] or (not trained and key in TARGETS)) else name
        kind, shape = _kind_of(raw)
        if name is not None and kind in TYPES and min(shape, default=1) > 0:
            found[name] = Feature(key=key, kind=kind, shape=shape, size=_size(place, name, kind, specs))
    if set(found) <= {"y"}:
        raise InputError(
            f"{path}: {place.name} tells of no feature that is an input ({', '.join(specs)}); say which is in "
            f"{place.with_suffix('.toml')}"
        )
    return found


def _kind_of(raw: object) -> tuple[str, tuple[int, ...]]:
    """(type, shape) of a feature of TensorFlow Datasets; the type of one that cannot be taken is ""."""
    if _at(raw, "image") is not None:
        return PICTURE, ()
    if _at(raw, "classLabel") is not None:
        return "int64", ()
    sizes = _at(raw, "tensor", "shape", "dimensions") or []
    plain = _at(raw, "tensor", "encoding") in (None, "none") and isinstance(sizes, list)
    if not plain or not all(str(size).lstrip("-").isdecimal() for size in sizes):
        return "", ()
    return str(_at(raw, "tensor", "dtype") or ""), tuple(int(size) for size in sizes)


def _json(place: Path) -> object:
    try:
        return json.loads(read_text(place, "a JSON file"))
    except (ValueError, RecursionError) as cause:
        raise InputError(f"{place}: not valid JSON: {cause}") from cause


def _at(value: Any, *keys: str) -> Any:
    """What stands below these keys of nested tables, None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value

"""Every door for a path that people name: the same fault is the same sentence, and exit code 4."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.errors import InputError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


def _contents(path: Path) -> object:
    from edgeprune.formats import read_contents

    return read_contents(path)


def _profile(path: Path) -> object:
    from edgeprune.checker.latency.profiles import load_profile

    return load_profile(path)


def _measurements(path: Path) -> object:
    from edgeprune.checker.latency.measurements import read_measurements

    return read_measurements(path, None)


def _toml(path: Path) -> object:
    from edgeprune.host.toml_values import read_toml

    return read_toml(path)


def _recipe(path: Path) -> object:
    from edgeprune.maker.recipe.recipe import load_recipe

    return load_recipe(path)


def _baseline(path: Path) -> object:
    from edgeprune.checker.size.baseline import load_baseline

    return load_baseline(path, ["m.tflite"])


def _bundle(path: Path) -> object:
    from edgeprune.formats.bundles.bundle import read_bundle

    return read_bundle(path)


def _download(path: Path) -> object:
    from edgeprune.checker.size.download import measure_download

    return measure_download(path, ("deflate",))


def _keras_model(path: Path) -> object:
    from edgeprune.maker.keras.model_files import load_model

    return load_model(path)


def _samples(path: Path) -> object:
    from edgeprune.maker.training.data.loading import load_samples

    return load_samples(path, {})


def _labels(path: Path) -> object:
    from edgeprune.converters.packaging import read_labels

    return read_labels(path)


def _layers(path: Path) -> object:
    from edgeprune.maker.keras.custom_layers import custom_objects
    from edgeprune.maker.keras.models import keras_module

    return custom_objects([path], keras_module())


def _emulated(path: Path) -> object:
    from edgeprune.checker.arm.cpus import CPUS
    from edgeprune.checker.arm.emulation import count_instructions

    return count_instructions(path, cpu=next(iter(CPUS.values())), root=None)  # type: ignore[arg-type]


# Door -> (reads a path, the suffix of its files).
DOORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "tflite": (_contents, ".tflite"),
    "mlmodel": (_contents, ".mlmodel"),
    "onnx": (_contents, ".onnx"),
    "h5": (_contents, ".h5"),
    "keras": (_contents, ".keras"),
    "another format": (_contents, ".pt"),
    "bundle": (_bundle, ".apk"),
    "download": (_download, ".pt"),
    "profile": (_profile, ".toml"),
    "measurements": (_measurements, ".csv"),
    "benchmark log": (_measurements, ".txt"),
    "configuration": (_toml, ".toml"),
    "recipe": (_recipe, ".toml"),
    "baseline": (_baseline, ".json"),
    "Keras model": (_keras_model, ".keras"),
    "samples": (_samples, ".npz"),
    "class labels": (_labels, ".txt"),
    "custom layers": (_layers, ".py"),
    "emulation": (_emulated, ".tflite"),
}
TAKE_FOLDERS = ("another format", "download")
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path, "does not exist; check the path"),
    "empty": (lambda path: path.touch(), "is empty (0 bytes); copy or make it again"),
    "pipe": (os.mkfifo, "is neither a file nor a folder; copy what it gives to a file"),
    "pointer": (
        lambda path: path.write_bytes(POINTER),
        "is a git-lfs pointer, not the file itself; run: git lfs pull",
    ),
    "folder": (Path.mkdir, "is a folder; name a"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", DOORS)
def test_one_sentence_for_each_fault(tmp_path: Path, door: str, fault: str) -> None:
    """Whatever is read: what is wrong with a path is said in the same words."""
    read, suffix = DOORS[door]
    spoil, words = FAULTS[fault]
    if fault == "folder" and door in TAKE_FOLDERS:
        pytest.skip("reads folders")
    path = tmp_path / f"m{suffix}"
    spoil(path)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} {words}")
    assert fault == "folder" or str(caught.value) == f"{path} {words}"
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_no_file_can_have(tmp_path: Path, door: str) -> None:
    """A zero byte in a name is no crash."""
    read, suffix = DOORS[door]
    path = tmp_path / f"m\0{suffix}"
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize("door", ["profile", "measurements"])
def test_too_large(tmp_path: Path, door: str) -> None:
    """What is always small is not read when it is large."""
    read, suffix = DOORS[door]
    path = tmp_path / f"m{suffix}"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match=r"is too large \(1073741824 bytes, at most \d+\); name "):
        read(path)


@pytest.mark.parametrize("door", ["profile", "measurements", "configuration", "recipe", "class labels"])
def test_text_that_is_none(tmp_path: Path, door: str) -> None:
    """Where a text is wanted, other bytes are told by their place."""
    read, suffix = DOORS[door]
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"file,latency_ms\n\xff\xfa")
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path} is not a text file: byte 16 is not UTF-8; save it as UTF-8"

"""A command opens a file once to read it, parses it once, and opens it once more where it compresses it."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.formats.coreml import mil_reader
from edgeprune.formats.tflite import contents as tflite_contents

FILES = TESTS / "files"
DEVICES = ("pixel3-tflite-4t-float32", "pixel-xnnpack-1t-float32", "iphone12-coreml-float16")
_watched: list[tuple[Path, Counter[str]]] = []
_hooked: list[bool] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str | bytes | Path):
        root, counts = _watched[-1]
        place = Path(arguments[0] if not isinstance(arguments[0], bytes) else arguments[0].decode())
        if place.is_absolute() and place.is_relative_to(root):
            counts[place.relative_to(root).as_posix()] += 1


@pytest.fixture
def opens(tmp_path: Path) -> Iterator[Counter[str]]:
    """How often each file below `tmp_path` was opened; an audit hook stays for good, so there is one for all tests."""
    if not _hooked:
        sys.addaudithook(_note)
        _hooked.append(True)
    counts: Counter[str] = Counter()
    _watched.append((tmp_path, counts))
    yield counts
    _watched.pop()


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a flatbuffer or a Core ML model was parsed."""
    counts: Counter[str] = Counter()

    def counted(name: str, parse: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return parse(*arguments)

        return call

    monkeypatch.setattr(tflite_contents, "parse_tflite", counted("tflite", tflite_contents.parse_tflite))
    monkeypatch.setattr(mil_reader, "parse_package", counted("coreml", mil_reader.parse_package))
    monkeypatch.setattr(mil_reader, "parse", counted("message", mil_reader.parse))
    return counts


def test_estimate_opens_and_parses_a_file_once(
    call: Any, tmp_path: Path, opens: Counter[str], parses: Counter[str], covered: Path
) -> None:
    """The latency, the advice on zeros and the refusals all come from one reading."""
    path = shutil.copy(FILES / "eligible_sparse.tflite", tmp_path / "m.tflite")
    opens.clear()
    assert call("estimate", path, "--device", covered).code == 0
    assert opens["m.tflite"] == 1
    assert parses == {"tflite": 1}


def test_estimate_opens_the_files_of_a_package_once(
    call: Any, tmp_path: Path, opens: Counter[str], parses: Counter[str]
) -> None:
    """Manifest, model and weights."""
    path = shutil.copytree(FILES / "half.mlpackage", tmp_path / "m.mlpackage")
    opens.clear()
    assert call("estimate", path, "--device", "iphone12-coreml-float16").code == 0
    assert set(opens.values()) == {1}
    assert len([name for name in opens if name.startswith("m.mlpackage/")]) == 3
    assert parses == {"coreml": 1, "message": 1}


def test_check_with_three_devices(call: Any, tmp_path: Path, opens: Counter[str], parses: Counter[str]) -> None:
    """Once for reading, whatever is estimated, and once for compressing."""
    path = shutil.copy(FILES / "float32.tflite", tmp_path / "m.tflite")
    devices = [word for device in DEVICES for word in ("--device", device)]
    opens.clear()
    done = call("check", path, "--download", "1 MB", *devices)
    assert done.code == 0, done.err
    assert opens["m.tflite"] == 2
    assert parses == {"tflite": 1}


def test_compare_reads_each_file_once(
    call: Any,
    tmp_path: Path,
    opens: Counter[str],
    parses: Counter[str],
    covered: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also for estimates and for a measurement, which runs the files in processes of its own."""
    from edgeprune.checker.latency import measure

    files = [shutil.copy(FILES / name, tmp_path / name) for name in ("float32.tflite", "int8.tflite")]
    columns = np.ones((30, 3))
    times = [measure.ProcessTimes(cpu_ms=columns, wall_ms=columns)] * 5
    found = measure.judge(times, runtime="litert", runtime_version="2.3.0", seed=0)
    monkeypatch.setattr(measure, "compare_latency", lambda *_, **__: found)
    opens.clear()
    done = call("compare", *files, "--device", covered, "--measure", "--quiet")
    assert done.code == 0, done.err
    assert (opens["float32.tflite"], opens["int8.tflite"]) == (2, 2)
    assert parses == {"tflite": 2}

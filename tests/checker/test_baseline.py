"""What a check is compared with: files, folders, JSON reports, ledgers; and JSON that lies."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_ledgers import entry, stage
from made_ledgers import ledger as made_ledger
from made_records import record
from places import TESTS

from edgeprune.checker.size.account import account
from edgeprune.checker.size.baseline import Baseline, load_baseline
from edgeprune.errors import InputError, UsageError

FILES = TESTS / "files"


def report(path: Path, *records: Any) -> Path:
    """A JSON report of these records (or of plain values)."""
    files = [item if isinstance(item, dict | list | str) else item.to_json() for item in records]
    path.write_text(json.dumps({"schema_version": 2, "files": files}))
    return path


def test_one_file_stands_for_the_one_that_is_checked() -> None:
    """Whatever their names; for two it is refused."""
    found = load_baseline(FILES / "float32.tflite", ["build/new.tflite"])
    earlier = found.find("build/new.tflite")
    assert earlier is not None
    assert earlier.raw_bytes == (FILES / "float32.tflite").stat().st_size
    with pytest.raises(UsageError, match="no baseline for 2"):
        load_baseline(FILES / "float32.tflite", ["a.tflite", "b.tflite"])
    assert load_baseline(FILES / "half.mlpackage", ["x.mlpackage"]).find("x.mlpackage") is not None


def test_a_folder_by_path_and_by_name(tmp_path: Path) -> None:
    """old/models/m.tflite for models/m.tflite, old/m.tflite for other/m.tflite; what is not there is new."""
    (tmp_path / "old/models").mkdir(parents=True)
    shutil.copy(FILES / "int8.tflite", tmp_path / "old/models/m.tflite")
    shutil.copy(FILES / "float32.tflite", tmp_path / "old/n.tflite")
    names = ["models/m.tflite", "../other/n.tflite", "models/new.tflite"]
    found = load_baseline(tmp_path / "old", names, ["deflate"])
    sizes = [(earlier := found.find(name)) and earlier.raw_bytes for name in names]
    assert sizes == [(FILES / "int8.tflite").stat().st_size, (FILES / "float32.tflite").stat().st_size, None]


def test_a_report_gives_back_its_records(tmp_path: Path) -> None:
    """Layers included."""
    made = account(FILES / "int8.tflite")
    assert load_baseline(report(tmp_path / "main.json", made), ["x"]).records == (made,)


@pytest.mark.parametrize(
    ("known", "wanted", "found"),
    [
        (["models/a.tflite", "models/b.tflite"], "models/a.tflite", "models/a.tflite"),
        (["ci/build/models/a.tflite", "x/a.tflite"], "/home/me/models/a.tflite", "ci/build/models/a.tflite"),
        (["one/a.tflite", "two/a.tflite"], "a.tflite", None),  # either
        (["models/a.tflite"], "models/b.tflite", None),
        (["models\\a.tflite"], "models/a.tflite", "models\\a.tflite"),
        (["old.apk!assets/a.tflite", "old.apk!b.tflite"], "new.apk!assets/a.tflite", "old.apk!assets/a.tflite"),
        (["old.apk!a.tflite", "old.apk!assets/a.tflite"], "new.apk!a.tflite", None),
        (["A.tflite"], "a.tflite", None),
    ],
)
def test_paths_are_matched_from_their_end(known: list[str], wanted: str, found: str | None) -> None:
    """The longest common end wins, at least the name, and never a guess between two."""
    earlier = Baseline(Path("main.json"), [record(path) for path in known]).find(wanted)
    assert (earlier.path if earlier else None) == found


def bundle(path: Path, **models: str) -> Path:
    """An .apk with files of tests/files by their place in it."""
    with zipfile.ZipFile(path, "w") as archive:
        for place, name in models.items():
            archive.write(FILES / name, f"assets/{place}.tflite")
    return path


def test_models_in_an_app_bundle_by_their_place_in_it(tmp_path: Path) -> None:
    """An older .apk as baseline is taken apart as well: its models are compared, not the archive; likewise one of the
    same name in a folder."""
    old = bundle(tmp_path / "old.apk", a="float32.tflite", b="int8.tflite")
    for baseline, name in ((old, "new.apk"), (tmp_path, "build/old.apk")):
        found = load_baseline(baseline, [f"{name}!assets/{place}.tflite" for place in "ab"], ("deflate",))
        sizes = [(e := found.find(f"{name}!assets/{place}.tflite")) and e.raw_bytes for place in "ab"]
        assert sizes == [9084, 5160]
        assert found.find(f"{name}!assets/c.tflite") is None


def ledger(path: Path, **changes: Any) -> Path:
    """A ledger with one stage file and one exported file, which has these values in the JSON."""
    facts = {"download_bytes": {"deflate": 4000}, "raw_bytes": 1500, "macs": 64_000, "parameters": 900}
    shipped = entry("m.int8.tflite", exported=True, **facts)
    made = replace(
        made_ledger(),
        stages=(stage("dense", "dense", (entry("stages/m.tflite"),)), stage("int8", "quantize", (shipped,))),
    )
    body = json.loads(json.dumps(made.to_json()))
    body["stages"][1]["artifacts"][0] |= changes
    path.write_text(json.dumps(body))
    return path


def test_a_ledger_gives_what_it_exported(tmp_path: Path) -> None:
    """Sizes and counts without layers; the stages' files only where nothing was exported."""
    path = ledger(tmp_path / "ledger.json")
    baseline = load_baseline(path, ["out/m.int8.tflite"])
    found = baseline.find("out/m.int8.tflite")
    assert found is not None
    assert baseline.records == (found,)
    assert (found.raw_bytes, found.parameters, found.macs, found.layers) == (1500, 900, 64_000, ())
    ledger(path, exported=False)
    assert len(load_baseline(path, ["x"]).records) == 2


def test_a_ledger_gives_its_estimates(tmp_path: Path) -> None:
    """So that the growth of a latency can be judged against a run."""
    path = ledger(tmp_path / "ledger.json", estimates=[ESTIMATE])
    (found,) = load_baseline(path, ["out/m.int8.tflite"]).records
    estimate = found.estimate("phone", "1")
    assert estimate is not None
    assert (estimate.total_ms, found.estimate("other", "1")) == (5.0, None)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        "3",
        "null",
        '"stages"',
        '{"stages": 3}',
        '{"files": 3}',
        '{"files": [3]}',
        '{"files": [[]]}',
        '{"files": {"a": 1}}',
        "[" * 100_000,
        '{"files": [' + "9" * 5000 + "]}",
    ],
)
def test_what_is_no_report(tmp_path: Path, content: str) -> None:
    """One line with what to do, exit code 4."""
    (tmp_path / "main.json").write_text(content)
    with pytest.raises(InputError, match=r"main\.json") as caught:
        load_baseline(tmp_path / "main.json", ["m.tflite"])
    assert "\n" not in str(caught.value)


ESTIMATE = {
    "device": "phone",
    "how": "estimated",
    "basis": "1",
    "total_ms": 5.0,
    "low_ms": 4.0,
    "high_ms": 6.0,
    "relative": 0.5,
    "refused": None,
    "notes": [],
}
LIES: list[tuple[str, Any]] = [
    ("raw_bytes", "5"),
    ("raw_bytes", -1),
    ("raw_bytes", True),
    ("raw_bytes", 10**400),
    ("raw_bytes", float("nan")),
    ("download_bytes", {"deflate": "1"}),
    ("download_bytes", [1]),
    ("path", 7),
    ("sparsity", float("inf")),
    ("macs", 1.5),
    ("parameters", "many"),
    ("layers", 3),
    ("layers", [{}]),
    ("layers", [None]),
    ("sections", None),
    ("in_archive", {"archive": "a"}),
    ("in_archive", {"archive": "a", "method": "stored", "compressed_bytes": 3, "notes": [3]}),
    ("complete", "yes"),
    ("estimates", None),
    ("estimates", [3]),
    *(
        ("estimates", [{**ESTIMATE, **change}])
        for change in (
            {"total_ms": -1},
            {"total_ms": 10**400},
            {"total_ms": float("nan")},
            {"low_ms": None},
            {"device": 3},
            {"basis": None},
            {"notes": "x"},
            {"relative": -1},
        )
    ),
]


@pytest.mark.parametrize(("key", "value"), LIES)
def test_a_report_that_lies(tmp_path: Path, key: str, value: Any) -> None:
    """Each value is held against its type before it can break a table."""
    path = report(tmp_path / "main.json", {**record().to_json(), key: value})
    with pytest.raises(InputError, match="make it again") as caught:
        load_baseline(path, ["m.tflite"])
    assert "$.files[0]" in str(caught.value) or "not JSON" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "raw_bytes", "shape", "zeros", "macs", "precision"])
def test_a_layer_that_lies(tmp_path: Path, key: str) -> None:
    """The same for every field of a layer, absent or of a wrong type."""
    made = record().to_json()
    for layer in ({**made["layers"][0], key: [[]]}, {k: v for k, v in made["layers"][0].items() if k != key}):
        path = report(tmp_path / "main.json", {**made, "layers": [layer]})
        with pytest.raises(InputError, match="make it again"):
            load_baseline(path, ["m.tflite"])


@pytest.mark.parametrize("value", [float("inf"), "5", None, -3])
def test_a_ledger_that_lies(tmp_path: Path, value: Any) -> None:
    """A size that is none: one line that says what to do."""
    path = ledger(tmp_path / "ledger.json", raw_bytes=value)
    with pytest.raises(InputError, match=r"run the recipe again|make it again"):
        load_baseline(path, ["m.tflite"])


@pytest.mark.parametrize(
    "make", [lambda path: path.parent, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff\xfe\x00")]
)
def test_what_cannot_be_read(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """No file, a folder of that name, no text."""
    make(tmp_path / "main.json")
    with pytest.raises(InputError, match=r"main\.json"):
        load_baseline(tmp_path / "main.json", ["m.tflite"])
    with pytest.raises(InputError, match="does not exist"):
        load_baseline(tmp_path / "old.tflite", ["m.tflite"])

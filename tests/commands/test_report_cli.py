"""`edgeprune report` and `--html`: what is written, from which files, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_pages import blame, full_ledger, search_report, sensitivity
from places import ROOT, TESTS

import edgeprune
from edgeprune.artifact import sha256_of
from edgeprune.ledger import Ledger

FILES = TESTS / "files"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What a run leaves: a ledger, the file that ships, and that of the dense model."""
    folder = tmp_path / "out"
    (folder / "stages").mkdir(parents=True)
    made = full_ledger()
    dense, last = made.stages[0], made.stages[-1]
    files = [
        replace(dense.artifacts[0], sha256=sha256_of(FILES / "float32.tflite")),
        replace(last.artifacts[0], sha256=sha256_of(FILES / "int8.tflite")),
    ]
    shutil.copy(FILES / "float32.tflite", folder / files[0].path)
    shutil.copy(FILES / "int8.tflite", folder / files[1].path)
    dense = replace(dense, artifacts=(files[0], dense.artifacts[1]))
    made = replace(made, stages=(dense, *made.stages[1:-1], replace(last, artifacts=(files[1],))), blame=None)
    (folder / "ledger.json").write_text(json.dumps(made.to_json()))
    return folder


def test_a_run_becomes_a_page(call: Any, out: Path, tmp_path: Path) -> None:
    """From the ledger or its folder; the files of the run are read where they lie, and again gives the same bytes."""
    page = tmp_path / "report.html"
    outcome = call("report", out / "ledger.json", "-o", page, "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"Written: {page}\n", "")
    first = page.read_text()
    assert "m.int8.tflite: where the bytes are, against stages/m.dense.float32.tflite" in first
    assert 'data-brotli="' in first
    assert call("report", out, "-o", page, "--overwrite", "-q").code == 0
    assert page.read_text() == first == edgeprune.report_page(out / "ledger.json")


def test_pictures_and_node_data(call: Any, out: Path, tmp_path: Path) -> None:
    """Each picture as XML of its own, and the bytes of every operation of the file that ships."""
    pictures, data = tmp_path / "pictures", tmp_path / "nodes.json"
    outcome = call("report", out, "--svg", pictures, "--model-explorer", data, "-q")
    assert outcome.out.splitlines() == [f"Written: 9 pictures in {pictures}/", f"Written: {data}"]
    names = {file.name for file in pictures.iterdir()}
    assert {"waterfall.svg", "treemap.svg", "classes-probs.svg"} < names
    for file in pictures.iterdir():
        assert ElementTree.parse(file).getroot().tag.endswith("}svg")
    results = json.loads(data.read_text())["main"]["results"]
    assert list(results) == ["0", "1", "2", "3", "4", "5"]  # as in the file: the first quantizes, the second convolves
    assert results["0"]["value"] == 0 < results["1"]["value"]


def test_results_of_other_verbs(call: Any, out: Path, tmp_path: Path) -> None:
    """A search beside the ledger, a sensitivity and a blame that are named."""
    (out / "search.json").write_text(json.dumps(search_report().to_json()))
    asked = [tmp_path / "s.json", tmp_path / "b.json"]
    asked[0].write_text(json.dumps({"schema_version": 1, **asdict(sensitivity("conv"))}))
    asked[1].write_text(json.dumps({"schema_version": 1, **asdict(blame("pruned"))}))
    assert call("report", out, *asked, "--svg", tmp_path / "p", "-q").code == 0
    names = {file.stem for file in (tmp_path / "p").iterdir()}
    assert {"pareto", "sensitivity", "sensitivity-metric", "blame-steps", "blame-layers"} < names


def test_files_that_are_not_there_any_more(call: Any, out: Path, tmp_path: Path) -> None:
    """The page says so; another file under the name is not taken for it, nor one outside of the folder."""
    (out / "m.int8.tflite").write_bytes(b"other")
    (out / "stages" / "m.dense.float32.tflite").unlink()
    page = tmp_path / "report.html"
    assert call("report", out, "-o", page, "-q").code == 0
    assert "m.int8.tflite is not the file of the run any more" in page.read_text()
    assert "stages/m.dense.float32.tflite is not beside the ledger" in page.read_text()
    made = Ledger.from_json((out / "ledger.json").read_text())
    last = made.stages[-1]
    stray = replace(last, artifacts=(replace(last.artifacts[0], path="../secret.tflite"),))
    (out / "ledger.json").write_text(json.dumps(replace(made, stages=(*made.stages[:-1], stray)).to_json()))
    assert call("report", out, "-o", page, "--overwrite", "-q").code == 0
    assert "../secret.tflite does not lie beside the ledger" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((), 2, ["name the page to write"]),
        (("-o", "page.txt"), 2, ["ends in .html"]),
        (("-o", "taken.html"), 2, ["exists already"]),
        (("none.json", "-o", "p.html"), 4, ["none.json"]),
        (("other.json", "-o", "p.html"), 4, ["other.json is not the JSON of shrink, sensitivity or blame"]),
        (("a.tflite", "b.tflite", "c.tflite", "-o", "p.html"), 2, ["c.tflite", "name fewer"]),
        (("none.tflite", "-o", "p.html"), 4, ["none.tflite"]),
        (("m.keras", "--model-explorer", "n.json"), 4, ["m.keras"]),
    ],
)
def test_what_is_refused(
    call: Any, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, code: int, parts: list[str]
) -> None:
    """In one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("taken.html").touch()
    Path("other.json").write_text('{"x": 1}')
    call("report", out, *arguments, "-q").error(code, *parts)
    assert not Path("p.html").exists()
    assert not Path("n.json").exists()


def test_a_ledger_that_is_none(call: Any, tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / "ledger.json").write_text("{}")
    call("report", tmp_path, "-o", tmp_path / "p.html", "-q").error(4, "is not the ledger of a run")


def test_pages_of_files(call: Any, tmp_path: Path) -> None:
    """Beside what the verbs print, which stays as it is."""
    files = [FILES / "float32.tflite", FILES / "int8.tflite"]
    plain = call("inspect", files[1]).out
    assert call("inspect", files[1], "--html", tmp_path / "i.html").out == plain
    assert call("compare", *files, "--html", tmp_path / "c.html").code == 0
    assert call("check", files[1], "--download", "1 kB", "--html", tmp_path / "k.html").code == 1
    pages = {name: (tmp_path / f"{name}.html").read_text() for name in "ick"}
    assert all(page.count("<figure") == 1 for page in pages.values())
    assert "All operations" in pages["i"]
    assert 'class="treemap by-change"' in pages["c"].replace("picture ", "")
    assert '<span class="mark bad">over</span>' in pages["k"]


@pytest.mark.parametrize("verb", ["inspect", "check"])
def test_a_page_never_replaces_what_is_read(call: Any, tmp_path: Path, verb: str) -> None:
    """Nor is it written under a name of something else."""
    model = tmp_path / "m.html"
    shutil.copy(FILES / "int8.tflite", model)
    more = ["--show"] if verb == "check" else []
    call(verb, model, *more, "--html", model).error(2, "would replace")
    call(verb, FILES / "int8.tflite", *more, "--html", tmp_path / "m.txt").error(2, "a page ends in .html")


def test_a_run_does_not_hang_on_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of training are there when the page cannot be drawn."""

    def broken(*_: object) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr("edgeprune.maker.recipe.prepare.prepare", lambda *_, **__: None)
    monkeypatch.setattr("edgeprune.maker.recipe.plan_words.plan_lines", lambda *_: [])
    monkeypatch.setattr("edgeprune.maker.recipe.pipeline.run_recipe", lambda *_, **__: full_ledger())
    monkeypatch.setattr("edgeprune.commands.pages.page_of_folder", broken)
    with pytest.raises(ValueError, match="no picture"):
        edgeprune.run(ROOT / "sample_models" / "fashion" / "recipe.toml", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ledger.json", "report.md"}

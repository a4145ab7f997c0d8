"""`edgeprune demo`: the sample is whole in the package, and the run is that of its recipe."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_ledgers import ledger as made_ledger
from places import ROOT

from edgeprune.commands.demo import SAMPLE, sample_folder
from edgeprune.errors import InputError

needs_maker = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow here")


def test_the_sample_is_in_the_wheel() -> None:
    """The files that the recipe names, its licence and the recipe itself match a pattern of the package's data."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = setuptools["package-data"][f"edgeprune.sample_models.{SAMPLE}"]
    folder = ROOT / setuptools["package-dir"][f"edgeprune.sample_models.{SAMPLE}"]
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    shipped = {path.name for pattern in patterns for path in folder.glob(pattern)}
    assert {"recipe.toml", "README.md", recipe["model"], *recipe["data"].values()} <= shipped
    assert "Licence" in (folder / "README.md").read_text()
    assert sum((folder / name).stat().st_size for name in shipped) < 3_000_000


def test_the_sample_that_is_used_is_the_committed_one() -> None:
    """Byte by byte, wherever it lies: in the installed package, or in the checkout."""
    for file in (ROOT / "sample_models" / SAMPLE).glob("*.*"):
        assert (sample_folder() / file.name).read_bytes() == file.read_bytes()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Recipes that were run, each in no time."""
    from edgeprune.commands import calls

    recipes: list[Any] = []

    def run(recipe: Any, folder: Path, **_: Any) -> Any:
        recipes.append(recipe)
        folder.mkdir()
        for name in ("ledger.json", "report.md", "shapes.int8.tflite"):
            (folder / name).touch()
        return replace(made_ledger(), summary=("It got smaller.",))

    monkeypatch.setattr(calls, "run", run)
    return recipes


@needs_maker
def test_demo(call: Any, ran: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the sample's recipe into ./edgeprune-demo, leaves the sample to play with, and says what to look at."""
    monkeypatch.chdir(tmp_path)
    outcome = call("demo")
    assert outcome.code == 0
    assert outcome.err.startswith("the whole job on a sample model, into edgeprune-demo/: about ")
    assert ran[0].path == sample_folder() / "recipe.toml"
    _, _, told = outcome.out.partition("Look next:\n")
    assert "edgeprune-demo/report.md" in told
    assert "edgeprune inspect edgeprune-demo/shapes.int8.tflite --why" in told
    copied = tmp_path / "edgeprune-demo" / "sample"
    assert (copied / "recipe.toml").read_bytes() == ran[0].path.read_bytes()
    assert {path.name for path in copied.iterdir()} >= {"shapes.keras", "train.npz", "README.md"}
    assert json.loads(call("demo", "-o", tmp_path / "b", "--json", "-q").out)["stages"]


@needs_maker
def test_it_never_replaces_unasked(call: Any, tmp_path: Path) -> None:
    """A folder that is there is an error before any work."""
    (tmp_path / "there").mkdir()
    call("demo", "-o", tmp_path / "there", "-q").error(2, "exists already", "--overwrite")


def test_what_is_missing_is_named_at_once(call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without TensorFlow: one line with all that must be installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    line = call("demo", "-o", tmp_path / "out").error(3, "the demo needs tensorflow")
    assert line.endswith("pip install 'edgeprune[convert,litert]'")


def test_an_installation_without_the_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Says so, with the folder where it should be."""
    from edgeprune.commands import demo

    monkeypatch.setattr(demo, "__file__", str(tmp_path / "edgeprune" / "commands" / "demo.py"))
    with pytest.raises(InputError, match="the sample model is missing from this installation"):
        sample_folder()

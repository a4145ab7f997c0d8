"""A space of recipes: what may be open and how it is told; a sweep over one, after a kill too, here and on workers."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import image_arrays, lend

from edgeprune.errors import EdgepruneError
from edgeprune.maker.search.space import Choice, Range, Space, load_space

SPACE = """
model = "model.keras"
metric = "accuracy"
seed = 5

[data]
train = "train.npz"
validation = "validation.npz"
test = "test.npz"

[[steps]]
kind = "prune"
style = "channel"
macs = { from = 0.3, to = 0.8 }
importance = { one_of = ["l1", "lamp"] }
exclude = ["scores"]
round_to = 1

[[steps]]
kind = "quantize"

[[exports]]
format = "tflite"
precision = { one_of = ["int8", "float16"] }

[latency]
measure = false
"""
SWEEP = '\n[sweep]\ntrials = 3\nbatch = 2\ndownload = "0.8x"\nmax_drop = "90 %"\n'
needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna is not installed (extra sweep)"
)


class KilledError(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture
def space(tmp_path: Path) -> Callable[..., Path]:
    """Write a space, with replacements in its text."""

    def write(**replaced: str) -> Path:
        text = SPACE + SWEEP
        for old, new in replaced.items():
            text = "\n".join(new if line.startswith(f"{old} =") else line for line in text.splitlines())
        path = tmp_path / "space.toml"
        path.write_text(text)
        return path

    return write


def test_open_keys(space: Callable[..., Path]) -> None:
    """Lists and ranges are told from other values, and what stands in a recipe is one of them."""
    found = load_space(space())
    assert found.open == {
        "steps.1.macs": Range(low=0.3, high=0.8),
        "steps.1.importance": Choice(options=("l1", "lamp")),
        "exports.1.precision": Choice(options=("int8", "float16")),
    }
    values = {"steps.1.macs": 0.5, "steps.1.importance": "lamp", "exports.1.precision": "int8"}
    recipe = found.recipe(values)
    assert recipe.steps[0].options.macs == 0.5  # type: ignore[union-attr]
    assert recipe.steps[0].options.exclude == ("scores",)  # type: ignore[union-attr]
    assert found.words(values) == "macs 0.5, importance lamp, precision int8"


def test_the_recipe_elsewhere_names_the_same_files(space: Callable[..., Path], tmp_path: Path) -> None:
    """What a recipe names lies where it lay, seen from the folder of the output; words that are no files stay."""
    (tmp_path / "model.keras").touch()
    (tmp_path / "train.npz").touch()
    found = load_space(space())
    text = found.text(found.first(), tmp_path / "out" / "pareto" / "t.toml")
    raw = tomllib.loads(text)
    assert raw["model"] == "../../model.keras"
    assert raw["data"]["train"] == "../../train.npz"
    assert raw["metric"] == "accuracy"
    assert raw["latency"] == {"measure": False}


def test_what_decides_the_search(space: Callable[..., Path]) -> None:
    """More trials, and other limits of one, go on with the same search; another space does not."""
    first = load_space(space())
    assert load_space(space(trials="trials = 9\nretries = 1")).sha256 == first.sha256
    assert load_space(space(batch="batch = 3")).sha256 != first.sha256
    assert load_space(space(macs="macs = { from = 0.3, to = 0.7 }")).sha256 != first.sha256


@pytest.mark.parametrize(
    ("replaced", "parts"),
    [
        ({"macs": "macs = 0.5", "importance": "", "precision": 'precision = "int8"'}, ["no key is open"]),
        ({"macs": "macs = { from = 0.8, to = 0.3 }"}, ["steps.1.macs", "to = LARGER"]),
        ({"macs": "macs = { from = 0.8 }"}, ["steps.1.macs", "to = LARGER"]),
        ({"macs": "macs = { from = 0.3, to = 1.5 }"}, ["steps.1.macs 1.5"]),
        ({"macs": "macs = { from = 0.3, to = 0.8, by = 2 }"}, ["unknown key 'by'"]),
        ({"macs": "macs = { from = 0.3, to = 0.8, log = true, step = 0.1 }"}, ["log takes no step"]),
        ({"importance": 'importance = { one_of = ["l1"] }'}, ["two values or more"]),
        ({"importance": 'importance = { one_of = ["l1", "best"] }'}, ["steps.1.importance best"]),
        ({"seed": "seed = { from = 1, to = 3 }"}, ["'seed' is the same for all trials"]),
        ({"train": "train = { one_of = [1, 2] }"}, ["'data' is the same for all trials"]),
        ({"format": 'format = "coreml"'}, ["judges the first tflite export"]),
        ({"validation": ""}, ["validation"]),
        ({"trials": "trials = 0"}, ["trials are 1 to"]),
        ({"trials": 'sampler = "best"'}, ["unknown sampler", "tpe, nsga2"]),
        ({"trials": 'objectives = ["speed"]'}, ["unknown objective 'speed'"]),
        ({"trials": 'device = "pixel3-tflite-4t-int8"'}, ["add \"latency\""]),
    ],
)  # fmt: skip
def test_what_is_no_space(space: Callable[..., Path], replaced: dict[str, str], parts: list[str]) -> None:
    """Each with one line that names file and key."""
    with pytest.raises(EdgepruneError) as raised:
        load_space(space(**replaced))
    assert "space.toml" in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


@needs_optuna
def test_the_study_goes_on_as_if_it_had_never_stopped(space: Callable[..., Path], tmp_path: Path) -> None:
    """What is chosen hangs on seed and results only: the same after the study was read back, also where a choice was
    cut short."""
    from edgeprune.maker.search.sampling import study_of

    def chosen(found: Space, folder: Path, *, stops: bool) -> list[object]:
        folder.mkdir(exist_ok=True)
        values = []
        for first in range(0, 24, 4):
            with study_of(found, folder) as study:
                known = {each.place: each for each in study.asked()}
                batch = [known.get(place) or study.ask(place) for place in range(first, first + 2)]
            if stops:
                with study_of(found, folder) as study:
                    study._study.ask()  # a choice that nobody finished
            with study_of(found, folder) as study:
                known = {each.place: each for each in study.asked()}
                assert [known[each.place].values for each in batch] == [each.values for each in batch]
                batch += [study.ask(place) for place in range(first + 2, first + 4)]
                for each in batch:
                    share = each.values["steps.1.macs"]
                    study.tell(each, None if share > 0.75 else [1 - share, share])
                values += [each.values for each in batch]
        return values

    for sampler in ("tpe", "nsga2"):
        found = load_space(space(trials=f'sampler = "{sampler}"'))
        plain = chosen(found, tmp_path / f"{sampler}1", stops=False)
        assert plain == chosen(found, tmp_path / f"{sampler}2", stops=sampler == "tpe")
        assert len({json.dumps(each) for each in plain}) > 12


@needs_optuna
def test_two_sweeps_of_one_space(space: Callable[..., Path], tmp_path: Path) -> None:
    """The second one is told."""
    from edgeprune.maker.search.sampling import study_of

    found = load_space(space())
    with (
        study_of(found, tmp_path),
        pytest.raises(EdgepruneError, match="another sweep of this space runs"),
        study_of(found, tmp_path),
    ):
        pass


def test_the_dry_run(call: Any, space: Callable[..., Path]) -> None:
    """The open keys and what is looked for, without model, data and Optuna; without an output folder nothing else."""
    done = call("sweep", space(), "--dry-run")
    assert done.code == 0, done.err
    assert "steps.1.macs: 0.3 to 0.8" in done.out
    assert "exports.1.precision: one of int8, float16" in done.out
    assert "3 trials by tpe" in done.out
    call("sweep", space()).error(2, "name the output folder")


@needs_optuna
@pytest.mark.slow(minutes=1)
def test_the_whole_sweep(
    call: Any, space: Callable[..., Path], tmp_path: Path, image_model: Any, converter: Any, monkeypatch: Any
) -> None:
    """Killed in its second batch it goes on, tries nothing twice, and ends with the files that a sweep which was never
    killed ends with; the recipe of the best, and those that no other beats, are written down."""
    from edgeprune.maker.search import recipe_trials, sweep

    lend(converter, monkeypatch, sweep)
    image_model.save(tmp_path / "model.keras")
    for name, count, seed in (("train", 96, 1), ("validation", 60, 2), ("test", 60, 3)):
        np.savez_compressed(tmp_path / f"{name}.npz", **image_arrays(count, seed))
    judged: list[str] = []
    files = recipe_trials.RecipeTrials.files

    def counted(self: Any, prepared: Any = None) -> Any:
        if prepared is not None:
            judged.append(repr(prepared.recipe.steps) + repr(prepared.recipe.exports))
            if len(judged) == 3 and not (tmp_path / "killed").exists():
                (tmp_path / "killed").touch()
                judged.pop()
                raise KilledError
        return files(self, prepared)

    monkeypatch.setattr(recipe_trials.RecipeTrials, "files", counted)
    path = space()
    asked = ("sweep", path, "-q", "--cache", tmp_path / "cache")
    with pytest.raises(KilledError):
        call(*asked, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = call(*asked, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert len(judged) == len(set(judged)) <= 3, "a recipe was tried twice"
    report = json.loads((tmp_path / "out" / "search.json").read_text())
    assert [point["stage"] for point in report["points"]] == [f"trial {n}" for n in range(1, 4)]
    best = report["points"][report["winner"]]
    assert best["pareto"]
    assert report["reached"] == {"drop": True, "download": True, "drop on test": True}
    pareto = {point["stage"].replace(" ", "-") for point in report["points"] if point["pareto"]}
    assert {file.stem for file in (tmp_path / "out" / "pareto").iterdir()} == pareto
    assert best["candidate"] in done.out
    assert tomllib.loads((tmp_path / "out" / "recipe.toml").read_text())["model"] == "../model.keras"
    from_start = call("sweep", path, "-q", "--cache", tmp_path / "other", "-o", tmp_path / "again")
    assert from_start.code == 0, from_start.err
    same = ("candidate", "download_bytes", "metric", "pareto")
    again = json.loads((tmp_path / "again" / "search.json").read_text())
    assert [[p[key] for key in same] for p in again["points"]] == [[p[key] for key in same] for p in report["points"]]
    (one,), (two,) = (list((tmp_path / name).glob("*.tflite")) for name in ("out", "again"))
    assert one.read_bytes() == two.read_bytes()

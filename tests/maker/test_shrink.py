"""`edgeprune shrink` from end to end on a tiny model: what comes out, after a kill too, and what cannot be reached."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import image_arrays, lend

import edgeprune
from edgeprune.artifact import Precision, sha256_of
from edgeprune.checker.latency.kernels import Kernel, kernels_of
from edgeprune.errors import RecipeError, RuledOut, UsageError
from edgeprune.formats import read_contents
from edgeprune.maker.recipe import model_steps
from edgeprune.maker.recipe.recipe import recipe_of_text
from edgeprune.maker.recipe.recipe_toml import RecipeFiles, recipe_toml
from edgeprune.maker.search import fitting, halving, recipe_trials, shrink, trials
from edgeprune.maker.search.asked import ShrinkOptions
from edgeprune.maker.search.candidates import TARGETS, Candidate
from edgeprune.maker.search.outcome import nearest
from edgeprune.points import Aims, Point

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")
KEYS = {
    "schema_version", "tool", "model", "metric", "is_share", "dense_bytes", "dense_metric", "device", "aims", "asked",
    "points", "winner", "nearest", "reached", "test_drop", "seconds", "cpu_s", "ended", "said",
}  # fmt: skip
POINT = {
    "candidate", "stage", "precision", "epochs", "parameters", "macs", "download_bytes", "download_ratio", "latency",
    "how", "metric", "lost", "seconds", "cpu_s", "pareto",
}  # fmt: skip
ASKED = ("--download", "0.5x", "--max-drop", "2 %", "--time", "1h", "--seed", 3)


class KilledError(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, keras: Any) -> Path:
    """A trained model of 32 and 48 channels, and samples that it knows."""
    folder = tmp_path_factory.mktemp("shrink")
    keras.utils.set_random_seed(4)
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 1), name="image")
    y = L.Conv2D(32, 3, activation="relu", name="wide")(x)
    y = L.Conv2D(48, 3, activation="relu", name="wider")(y)
    y = L.Dense(3, activation="softmax", name="scores")(L.GlobalAveragePooling2D(name="pool")(y))
    model = keras.Model(x, y, name="images")
    arrays = image_arrays(480, 1)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(arrays["x"], arrays["y"], epochs=40, verbose=0)
    model.save(folder / "model.keras")
    for name, count, seed in (("train", 240, 1), ("validation", 120, 2), ("test", 120, 3)):
        np.savez_compressed(folder / f"{name}.npz", **image_arrays(count, seed))
    return folder


@pytest.fixture(autouse=True)
def small(converter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few candidates, little training, and one converter for all."""
    lend(converter, monkeypatch, shrink)
    monkeypatch.setattr(halving, "MOST_CANDIDATES", 2)
    monkeypatch.setattr(halving, "MOST_RECOVERED", 2)
    monkeypatch.setattr(fitting, "TRIES", 2)
    monkeypatch.setattr(trials, "ROUND_STEPS", 3)
    monkeypatch.setattr(recipe_trials.RecipeTrials, "dense_lost", lambda *_: 1.0)  # so that float16 is tried too


@pytest.fixture
def search(call: Any, files: Path, tmp_path: Path) -> Callable[..., Any]:
    """Call `edgeprune shrink` with splits of `files` and results under `tmp_path`."""

    def run(out: str, *asked: object, test: bool = True) -> Any:
        splits = ["--train", files / "train.npz", "--validation", files / "validation.npz"]
        splits += ["--test", files / "test.npz"] if test else []
        return call(
            "shrink", files / "model.keras", *splits, *(asked or ASKED), "-o", tmp_path / out, "-q",
            "--cache", tmp_path / "cache",
        )  # fmt: skip

    return run


def told(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "search.json").read_text())
    assert isinstance(found, dict)
    return found


def shipped(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.tflite"))}


def _killed_once(patch: pytest.MonkeyPatch, search: Any) -> None:
    """A search that is killed while its second candidate is trained."""
    made, left = trials.Trials.made, [3]  # the first is asked for by who carries it out and by the search

    def killed(self: Any, *arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KilledError
        return made(self, *arguments, **more)

    patch.setattr(trials.Trials, "made", killed)
    with pytest.raises(KilledError):
        search("out")


@pytest.mark.slow(minutes=1)
def test_the_whole_loop(call: Any, search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, a search goes on where it was and carries out no step twice. Targets reached: files, ledger, points, and
    a recipe that `run`, which knows nothing of the search, repeats to the same file."""
    steps: list[str] = []
    run = model_steps.ModelSteps._run

    def counted(self: Any, model: Any, step: Any) -> Any:
        steps.append(repr(self.asked))
        return run(self, model, step)

    monkeypatch.setattr(model_steps.ModelSteps, "_run", counted)
    with monkeypatch.context() as patch:
        _killed_once(patch, search)
    assert not (tmp_path / "out").exists()
    assert steps
    done = search("out")
    assert done.code == 0, done.err
    assert len(steps) == len(set(steps)), "a step was carried out twice"
    _check(tmp_path / "out", done.out)
    assert not list((tmp_path / "cache").iterdir()), "results are kept for a search that is not over"
    again = call("run", tmp_path / "out" / "recipe.toml", "-o", tmp_path / "again", "-q")
    assert again.code == 0, again.err
    assert shipped(tmp_path / "again") == shipped(tmp_path / "out")


def _check(out: Path, text: str) -> None:
    report = told(out)
    assert set(report) == KEYS
    assert all(set(point) == POINT for point in report["points"])
    winner = report["points"][report["winner"]]
    assert winner["download_bytes"] <= report["aims"]["download_bytes"] == int(0.5 * report["dense_bytes"])
    assert winner["lost"] <= 0.02
    assert winner["pareto"]
    assert report["reached"] == {"drop": True, "download": True, "drop on test": True}
    assert (report["nearest"], report["ended"]) == ({}, "done")
    assert "all targets are reached" in text
    assert "looked at once" in text
    assert (out / "report.md").read_text().startswith("#")
    assert "files that the search tried" in (out / "report.html").read_text()
    assert winner["candidate"] in (out / "search.md").read_text()
    assert len(shipped(out)) == 1
    assert tomllib.loads((out / "recipe.toml").read_text())["steps"][-1]["kind"] in ("quantize", "finetune")


@pytest.mark.slow(minutes=1)
def test_what_is_not_reached(search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every file loses half of the metric: exit code 1, the nearest files are there; Ctrl-C behind the first file
    ends with that one, and a part of the training samples is the test split."""
    asked = [False]
    judged = trials.Trials.judged

    def once(self: Any, *arguments: Any, **more: Any) -> Any:
        found = judged(self, *arguments, **more)
        asked[0] = True
        return found

    @contextlib.contextmanager
    def asking(_: str) -> Iterator[Callable[[], bool]]:
        yield lambda: asked[0]

    monkeypatch.setattr(trials.Trials, "judged", once)
    monkeypatch.setattr(recipe_trials.Judge, "lost", lambda *_: 0.5)
    monkeypatch.setattr("edgeprune.host.interrupts.asking", asking)
    done = search("out", "--download", "0.3x", "--max-drop", "1 %", test=False)
    assert done.code == 1, done.err
    report = told(tmp_path / "out")
    assert len(report["points"]) == 1
    assert report["ended"] == "interrupted"
    assert report["reached"]["drop"] is False
    assert set(report["nearest"]) == {"drop", "download"}
    assert {path.suffix for path in (tmp_path / "out" / "nearest").iterdir()} == {".tflite"}
    assert "NOT reached" in done.out
    assert "interrupted" in done.out
    assert "set aside" in done.out
    assert tomllib.loads((tmp_path / "out" / "recipe.toml").read_text())["data"]["set_aside"] == 0.1


def test_ruled_out(search: Any, files: Path, tmp_path: Path) -> None:
    """A size below what the graph alone takes is refused before any training, with the nearest that is not; in Python
    too."""
    done = search("out", "--download", "500 B")
    done.error(3, "a download of 500 B is ruled out", "ask for more")
    splits = {name: files / f"{name}.npz" for name in ("train", "validation", "test")}
    wanted = edgeprune.ShrinkOptions(download="500 B")
    with pytest.raises(RuledOut, match="a download of 500 B is ruled out"):
        edgeprune.shrink(files / "model.keras", tmp_path / "out", wanted, **splits, cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_a_precision_that_is_ruled_out_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor with int8 instructions the least int8 file of a small network takes most of the dense one's time:
    nothing is looked for there, and the others are. Without any left the nearest is told."""
    least = {Precision.INT8: (10.0, 0.6), Precision.FLOAT16: (20.0, 0.3)}
    monkeypatch.setattr(fitting, "_least", lambda _, precision, **__: least[precision])
    notes: list[str] = []
    known: Any = SimpleNamespace(
        dense_bytes=100, asked=SimpleNamespace(device=None), progress=SimpleNamespace(note=notes.append)
    )

    def able(download: int | None, latency: float | None) -> list[Precision]:
        aims = Aims(download_bytes=download, latency=latency, max_drop=0.01)
        return fitting.able_precisions(known, aims, tuple(least), idle=False)

    assert able(30, 0.5) == [Precision.FLOAT16]
    assert notes == ["int8 is ruled out: its least file takes 0.600x of the latency"]
    assert able(None, 0.7) == able(30, None) == list(least)
    assert able(15, 0.7) == [Precision.INT8]
    with pytest.raises(RuledOut, match=r"10 B \(0.100x\)"):
        able(5, 0.7)
    with pytest.raises(RuledOut, match=r"take 0.600x \(measured here\)"):
        able(15, 0.5)


def test_a_model_without_channels(call: Any, tmp_path: Path, keras: Any) -> None:
    """One line that names no file that nobody wrote."""
    x = keras.Input((4,), name="x")
    keras.Model(x, keras.layers.Dense(2, activation="softmax")(x)).save(tmp_path / "m.keras")
    np.savez(tmp_path / "t.npz", x=np.zeros((40, 4), np.float32), y=np.zeros(40, np.int64))
    done = call("shrink", tmp_path / "m.keras", "--train", tmp_path / "t.npz", "--download", "0.5x", "-q",
                "-o", tmp_path / "out", "--cache", tmp_path / "cache")  # fmt: skip
    assert "recipe.toml" not in done.error(2, "nothing to prune")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({}, "name a target"),
        ({"download": "0.1"}, "download_target is such as"),
        ({"download": "2x"}, "download_target is such as"),
        ({"latency": "50 %"}, "such as 0.5x"),
        ({"download": "0.1x", "max_drop": "1"}, "not a percentage"),
        ({"download": "0.1x", "device": "pixel3-tflite-4t-int8"}, "add a latency"),
        ({"latency": "0.5x", "device": "galaxy-s24-hexagon-int8"}, "ranks files"),
        ({"download": "0.1x", "time": "10"}, "not a time"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, str], part: str) -> None:
    """Each with a line that says what to write."""
    with pytest.raises(UsageError, match=part):
        ShrinkOptions(**given)  # type: ignore[arg-type]


def _point(download_bytes: int, lost: float, latency: float) -> Point:
    return Point(
        candidate="c", stage="s", precision="int8", epochs=1, parameters=1, macs=1, download_bytes=download_bytes,
        download_ratio=0.1, latency=latency, how="measured", metric=0.9, lost=lost, seconds=1.0, cpu_s=1.0,
    )  # fmt: skip


def test_the_nearest_to_each_aim() -> None:
    """Of each aim the point that comes nearest among those that reach the others."""
    points = [_point(90, 0.05, 0.5), _point(120, 0.0, 0.5), _point(90, 0.02, 0.7), _point(90, 0.03, 0.5)]
    aims = Aims(download_bytes=100, latency=0.5, max_drop=0.01)
    assert nearest(points, aims) == {"drop": 3, "download": 1, "latency": 1}


@pytest.mark.parametrize(("samples", "epochs"), [(30, 150), (300, 38), (12_000, 1), (10**6, 1)])
def test_few_samples_are_seen_more_often(samples: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of training is about as many steps whatever the number of samples."""
    monkeypatch.setattr(trials, "ROUND_STEPS", 150)
    searched = trials.Trials.__new__(trials.Trials)
    searched.prepared = SimpleNamespace(train=range(samples))  # type: ignore[assignment]
    searched._teaches = False
    searched.asked = ShrinkOptions(download="0.5x", batch_size=64)
    candidate = Candidate(cost="macs", share=0.5, importance="l1", precision=Precision.INT8, idle=False)
    steps = searched.steps(trials.Attempt(candidate=candidate, tuned=(1, 2), recovered=5))
    assert [step.get("epochs") for step in steps] == [epochs, epochs, 2 * epochs, 5, None]


def test_a_small_model_trains_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TensorFlow has begun with its threads, and for large models, nothing is said; what is said stands in the
    recipe."""
    small = tmp_path / "small.keras"
    small.write_bytes(b"0" * 1000)
    monkeypatch.setattr(shrink, "threads_are_free", lambda: False)
    assert shrink.training_threads(small) is None
    monkeypatch.setattr(shrink, "threads_are_free", lambda: True)
    assert shrink.training_threads(small) == 1
    with small.open("r+b") as file:
        file.truncate(shrink.SMALL_BYTES)
    assert shrink.training_threads(small) is None
    files = RecipeFiles(model=small, splits={"train": tmp_path / "t.npz", "test": tmp_path / "t.npz"}, threads=1)
    text = recipe_toml(files, tmp_path / "recipe.toml", head="x", steps=[], exports=[("tflite", "float32")], latency={})
    assert recipe_of_text(tmp_path / "recipe.toml", text).threads == 1
    with pytest.raises(RecipeError, match="from 1 to 1024"):
        recipe_of_text(tmp_path / "recipe.toml", text.replace("threads = 1", "threads = 0"))


@pytest.mark.parametrize(("lost", "precisions"), [(0.001, {"int8"}), (0.02, {"int8", "float16"})])
def test_float16_is_tried_where_int8_costs_accuracy(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: float, precisions: set[str]
) -> None:
    """Where int8 costs the dense model hardly anything a file of twice the bytes cannot win."""
    monkeypatch.setattr(recipe_trials.RecipeTrials, "dense_lost", lambda *_: lost)
    seen = []

    def stopped(self: halving.Halving, candidates: list[Candidate]) -> None:
        seen.extend(candidates)
        raise RuledOut("enough")

    monkeypatch.setattr(halving.Halving, "_halved", stopped)
    options = ShrinkOptions(download="0.5x", max_drop="2 %", time="1h", seed=3)
    with pytest.raises(RuledOut, match="enough"):
        edgeprune.shrink(
            files / "model.keras",
            tmp_path / "out",
            options,
            train=files / "train.npz",
            validation=files / "validation.npz",
            test=files / "test.npz",
            cache=tmp_path / "cache",
        )
    assert {str(candidate.precision) for candidate in seen} == precisions


def _slow_by_kernels(_: object, dense: Path, file: Path, *__: object) -> float:
    """A machine whose first convolution takes ten times what its multiplications say, with a part that stays."""

    def took(path: Path) -> float:
        first, *others = [k for k in kernels_of(read_contents(path).graph) if isinstance(k, Kernel) and k.macs]
        return 2e4 + 10 * first.macs + sum(kernel.macs + 5 * kernel.written for kernel in others)

    return took(file) / took(dense)


def test_widths_by_what_they_cost_on_a_machine(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of random widths are timed once; then both limits hold for the widths that are planned, and the layer of
    which a step is a large part of the latency is tried a step narrower. The recipe of a candidate names its widths."""
    timed, seen = [], list[Candidate]()
    trend = recipe_trials.RecipeTrials.trend

    def counted(self: Any, chosen: list[Path], precision: Precision) -> Any:
        timed.append(len(chosen))
        return trend(self, chosen, precision)

    def many(dense: Path, chosen: list[Path], **_: object) -> Any:
        return np.array([_slow_by_kernels(None, dense, file) for file in chosen])

    def stopped(self: halving.Halving, candidates: list[Candidate]) -> None:
        shapes = [self.trials.shape(each) for each in candidates]
        seen.extend(candidates)
        for shape in shapes:
            assert shape.latency is not None
            assert shape.latency <= 0.5
            assert shape.download_bytes <= 1.15 * self.aims.download_bytes  # type: ignore[operator]
        assert shapes[0].latency > 0.35  # type: ignore[operator]
        step = self.trials.steps(trials.Attempt(candidate=candidates[0], tuned=()))[0]
        assert step["widths"] == dict(candidates[0].widths)
        raise RuledOut("enough")

    monkeypatch.setattr(recipe_trials.RecipeTrials, "trend", counted)
    monkeypatch.setattr(recipe_trials, "latency_shares", many)
    monkeypatch.setattr(recipe_trials.RecipeTrials, "_measured", _slow_by_kernels)
    monkeypatch.setattr(recipe_trials.RecipeTrials, "dense_lost", lambda *_: 0.0)
    monkeypatch.setattr(halving.Halving, "_halved", stopped)
    monkeypatch.setattr(trials.Trials, "idle", lambda _: False)
    monkeypatch.setattr(halving, "MOST_CANDIDATES", 4)
    monkeypatch.setattr(fitting, "TRIES", 4)
    monkeypatch.setattr(trials, "SAMPLED", 10)
    monkeypatch.setattr(trials, "SAMPLED_SHARE", 1.0)
    options = ShrinkOptions(download="0.3x", latency="0.5x", max_drop="2 %", time="1h", seed=3)
    splits = {name: files / f"{name}.npz" for name in ("train", "validation", "test")}
    for _ in range(2):  # the second finds what the first one timed
        with pytest.raises(RuledOut, match="enough"):
            edgeprune.shrink(files / "model.keras", tmp_path / "out", options, **splits, cache=tmp_path / "cache")
    assert timed == [10, 10]  # of int8 and of float16
    assert {each.cost for each in seen} == {TARGETS}
    plain, varied = seen[0], next(each for each in seen if each.most)
    assert varied.most[0][0] == "wide"
    assert dict(varied.widths)["wide"] < dict(plain.widths)["wide"]
    assert "wide at" in varied.name


def test_no_files_of_random_widths_where_one_takes_too_long(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then widths are a share of the MACs."""
    seen = list[Candidate]()

    def stopped(_: halving.Halving, candidates: list[Candidate]) -> None:
        seen.extend(candidates)
        raise RuledOut("enough")

    monkeypatch.setattr(recipe_trials.RecipeTrials, "_measured", _slow_by_kernels)
    monkeypatch.setattr(halving.Halving, "_halved", stopped)
    monkeypatch.setattr(trials, "SAMPLED_SHARE", 0.0)
    options = ShrinkOptions(download="0.5x", latency="0.7x", max_drop="2 %", time="1h", seed=3)
    splits = {name: files / f"{name}.npz" for name in ("train", "validation", "test")}
    with pytest.raises(RuledOut, match="enough"):
        edgeprune.shrink(files / "model.keras", tmp_path / "out", options, **splits, cache=tmp_path / "cache")
    assert {each.cost for each in seen} == {"macs"}


@pytest.mark.parametrize(
    ("size", "latency", "by_size"),
    [(950, 0.3, True), (950, None, True), (950, 0.48, False), (800, 0.3, False), (800, 0.48, False)],
)
def test_what_keeps_a_candidate_from_being_wider(size: int, latency: float | None, by_size: bool) -> None:
    """Only where it is the download alone are channels weighed by their parameters too."""
    candidate = Candidate(cost="macs", share=0.3, importance="fisher", precision=Precision.INT8)
    shape = SimpleNamespace(download_bytes=size, latency=latency)
    aims = Aims(download_bytes=1000, latency=None if latency is None else 0.5, max_drop=0.01)
    known: Any = SimpleNamespace(aims=aims, trials=SimpleNamespace(shape=lambda _: shape))
    assert halving.Halving._by_size(known, candidate) is by_size


def test_a_kind_that_would_be_hardly_narrower_is_left_out() -> None:
    """A file that is a little too large comes down by coarser grids; the same kind that needs none is not tried too."""
    first = Candidate(cost="macs", share=0.3, importance="fisher", precision=Precision.INT8)
    aims = Aims(download_bytes=1000, latency=0.5, max_drop=0.01)

    def near(size: int, kind: Candidate, able: float) -> bool:
        shape = SimpleNamespace(download_bytes=size)
        known: Any = SimpleNamespace(aims=aims, trials=SimpleNamespace(shape=lambda _: shape))
        return halving.Halving._near(known, first, kind, able)

    assert near(1080, first.of(1.0), 1.0)
    assert not near(1090, first.of(1.0), 1.0)
    assert not near(1000, first.of(1.0), fitting.SQUEEZE)
    assert not near(1000, replace(first, importance="lamp"), 1.0)
    assert not near(1000, replace(first, precision=Precision.FLOAT16), 1.0)


@pytest.mark.parametrize(
    ("share", "lost", "nothing"), [(0.2, 0.0, True), (None, 0.0, True), (0.5, 0.0, False), (0.2, 0.009, False)]
)
def test_another_precision_is_tried_where_it_may_be_wider(share: float | None, lost: float, nothing: bool) -> None:
    """A table model of which int8 takes a fixed part of the time has room for more channels as float16."""
    first = Candidate(cost="macs", share=0.3, importance="fisher", precision=Precision.INT8)
    other = None if share is None else replace(first, share=share, precision=Precision.FLOAT16)
    known: Any = SimpleNamespace(
        aims=Aims(download_bytes=1, latency=0.5, max_drop=0.01),
        trials=SimpleNamespace(dense_lost=lambda _: lost, worth=lambda candidate: candidate.share),
    )
    assert halving.Halving._gains_nothing(known, first, other) is nothing


@pytest.mark.parametrize(
    ("first", "second", "rounds", "winner"),
    [
        ([0.010, 0.0105], [0.009, 0.006], 2, 1),  # told apart by a second round
        ([0.010, 0.0105], [0.006, 0.006], 2, 0),  # and no third one
        ([0.010, 0.0200], [0.006, 0.001], 1, 0),
        ([0.0300, 0.010, 0.0102, 0.0400], [0.008, 0.0081, 0.001], 3, 1),
    ],
)
def test_candidates_that_are_close_are_trained_once_more(
    first: list[float], second: list[float], rounds: int, winner: int
) -> None:
    """Two that are equally far after an epoch get another one before one of them gets all the time that is left."""
    shares = [0.1 * (number + 1) for number in range(len(first))]
    asked = list[tuple[int, ...]]()

    class Known(halving.Halving):
        def _late(self, _: float) -> bool:
            return False

        def _trained(self, candidates: Any, tuned: tuple[int, ...], *_: Any) -> Any:
            asked.append(tuned)
            lost = first if not tuned else second
            return sorted(zip(candidates, lost, strict=False), key=lambda each: each[1])

    none: Any = None
    search = Known(trials=none, executor=none, aims=none, note=lambda _: None)
    whole = Candidate(cost="macs", share=1.0, importance="l1", precision=Precision.INT8)
    found = search._halved([replace(whole, share=share) for share in shares])
    assert found[0][0].share == shares[winner]
    assert found[0][1] == asked[-1]
    assert asked == [(), (1,), (1, 2)][:rounds]


@pytest.mark.parametrize("fixed", [0.0, 0.2, 0.4])
def test_widths_for_a_latency_that_has_a_fixed_part(fixed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the latency is found whatever share of it no width takes away, in four files, and never exceeded."""
    monkeypatch.setattr(fitting, "TRIES", 4)
    shares = []

    def shape(candidate: Candidate) -> trials.Shape:
        shares.append(candidate.share)
        latency = fixed + (1 - fixed) * round(candidate.share * 32) / 32
        return trials.Shape(download_bytes=1000, parameters=1, macs=1, latency=latency)

    kind = Candidate(cost="macs", share=1.0, importance="l1", precision=Precision.INT8)
    aims = Aims(download_bytes=None, latency=0.5, max_drop=0.01)
    found = fitting.fitted(SimpleNamespace(shape=shape), kind, aims, 1.0, 0.425)  # type: ignore[arg-type]
    assert found is not None
    assert len(shares) <= 4
    assert 0.44 <= shape(found).latency <= 0.5  # type: ignore[operator]


def test_more_files_where_none_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that falls in one step only, far below the first guesses."""
    monkeypatch.setattr(fitting, "TRIES", 4)
    sizes = iter([3.0, 2.9, 2.8, 2.7, 2.6, 0.9])

    def shape(_: Candidate) -> trials.Shape:
        return trials.Shape(download_bytes=round(1000 * next(sizes)), parameters=1, macs=1, latency=None)

    kind = Candidate(cost="macs", share=1.0, importance="l1", precision=Precision.INT8)
    aims = Aims(download_bytes=1000, latency=None, max_drop=0.01)
    assert fitting.fitted(SimpleNamespace(shape=shape), kind, aims, 1.0, 0.9) is not None  # type: ignore[arg-type]


def test_a_drop_that_is_just_allowed() -> None:
    """Of 5,000 samples 40 fewer: exactly 0.8 points, whatever floats make of it."""
    lost = 4668 / 5000 - 4628 / 5000
    assert lost > 0.008
    aims = Aims(download_bytes=None, latency=None, max_drop=0.008)
    assert aims.allows(lost)
    assert aims.excess(1, None, lost) == {"drop": 0.0}
    assert not aims.allows(0.00801)
    assert aims.excess(1, None, 0.01)["drop"] == pytest.approx(0.002)

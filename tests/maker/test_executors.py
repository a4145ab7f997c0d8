"""Who carries out trials: each executor of the table does the same with the same jobs, also when workers die."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import light_work
import pytest
from places import TESTS

from edgeprune.errors import EdgepruneError, Unsupported, UsageError
from edgeprune.host.progress import Progress
from edgeprune.maker.search.executors import (
    EXECUTORS,
    Executor,
    Job,
    Means,
    Setting,
    Spread,
    TrialLimits,
    executor_of,
    scheduled,
)

SPREADS = {"here": Spread(), "processes": Spread(workers=2), "ray": Spread(ray="local")}
Open = Callable[..., contextlib.AbstractContextManager[tuple[Executor, Means]]]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open an executor of a kind with light work; its store begins with a result, and there is a file to read."""
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "first.bin").write_text("an earlier result")
    (tmp_path / "model.txt").write_text("a model")

    @contextlib.contextmanager
    def enter(kind: str, *, base: str = "base", retries: int = 2) -> Iterator[tuple[Executor, Means]]:
        # The marks that tell who began what lie in the store, the one place where a confined process may write.
        folder = tmp_path / "store"
        marks = folder if kind == "processes" else tmp_path
        setting = Setting(
            recipe="", place=str(marks), folder=str(folder), store_base=base, custom=(), opens="light_work:opened"
        )
        means = Means(
            setting=setting,
            spread=replace(SPREADS[kind], limits=TrialLimits(retries=retries)),
            work=light_work.opened(setting, lambda _: None) if base == "base" else None,  # type: ignore[arg-type]
            progress=Progress(quiet=True),
            needs=lambda _: ["first.bin"],
            inputs={"model": tmp_path / "model.txt"},
        )
        with contextlib.closing(executor_of(means)) as executor:
            yield executor, means

    return enter


def jobs(*words: str) -> list[Job]:
    return [Job(number=number, recipe=word, precision="int8") for number, word in enumerate(words)]


def outcomes(executor: Executor, *words: str) -> dict[str, EdgepruneError | None]:
    return {job.recipe: failure for job, failure in executor.carry_out(iter(jobs(*words)))}


def known(means: Means, *words: str) -> dict[str, Any]:
    return {word: means.work.store.known("word", word) for word in words}


def test_the_table_is_tested() -> None:
    """Every executor is opened below."""
    assert set(EXECUTORS) == set(SPREADS) == {spread.kind for spread in SPREADS.values()}


@pytest.mark.parametrize("kind", ["here", "processes"])
def test_each_does_the_same(kind: str, opened: Open) -> None:
    """All jobs are done, one that cannot be says why, and what a dead worker had begun is begun again: nothing is lost,
    and nothing else is begun twice. The results lie in the store, whole."""
    words = ["a", "b", "fail", "c", "d"] + ([] if kind == "here" else ["die once"])
    with opened(kind) as (executor, means):
        found = outcomes(executor, *words)
        again = outcomes(executor, "e", "f")
    assert {word: str(failure) for word, failure in found.items() if failure} == {"fail": "this one cannot be done"}
    assert set(found) == set(words)
    assert set(again.values()) == {None}
    check(means, [word for word in [*words, "e", "f"] if word != "fail"], kind)


def check(means: Means, words: list[str], kind: str) -> None:
    """Hold what lies in the store, and who began what, against what was asked."""
    for word, record in known(means, *words).items():
        assert record is not None, word
        assert (record["word"], record["begun"]) == (word, "an earlier result")
        assert means.work.store.path(record["key"], ".bin").read_text() == word
        assert record["read"] == ({"model": "a model"} if kind == "ray" else {})
    by = [path.name.split(" by ") for path in Path(means.setting.place).glob("* by *")]
    assert len({pid for _, pid in by}) <= {"here": 1, "processes": 3, "ray": 4}[kind]
    assert sum(number == "5" for number, _ in by) == (0 if kind == "here" else 2)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra ray)")
@pytest.mark.parametrize(("where", "last"), [("on_ray", "die once"), ("on_nodes", "lose the node")])
def test_a_ray_cluster_does_the_same(opened: Open, tmp_path: Path, where: str, last: str) -> None:
    """A cluster of this machine, one of whose workers dies in the middle, and one of three nodes, one of which does:
    the same results, nothing lost. What trials read and begin with comes out of its object store. In a process of its
    own, for Ray leaves some behind."""
    words = ["a", "b", "fail", "c", "d", last]
    script = f"import sys, light_work; light_work.{where}(sys.argv[1], sys.argv[2:])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, tmp_path, *words], capture_output=True, text=True, timeout=240
    )
    if "no cluster there" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])  # none can be started here
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {word: "this one cannot be done" if word == "fail" else None for word in words}
    with opened("here") as (_, means):
        check(means, [word for word in words if word != "fail"], "ray")


def test_a_trial_that_always_dies(opened: Open) -> None:
    """It is given up after its retries, with how its process ended; the others are done."""
    with opened("processes", retries=1) as (executor, means):
        found = outcomes(executor, "a", "die", "b")
    assert "died of SIGKILL" in str(found["die"])
    assert "2 times" in str(found["die"])
    assert found["a"] is found["b"] is None
    assert all(known(means, "a", "b").values())


def test_a_setting_that_nobody_can_open(opened: Open) -> None:
    """The reason, once, and no search that goes on without workers."""
    with (
        opened("processes", base="refused") as (executor, _),
        pytest.raises(Unsupported, match="nothing can be opened"),
    ):
        outcomes(executor, "a", "b")


def test_jobs_are_drawn_when_there_is_room(opened: Open) -> None:
    """Nothing is drawn ahead, and what runs is ended when nobody wants more."""
    drawn: list[int] = []

    def words() -> Iterator[Job]:
        for job in jobs(*"abcdefgh"):
            drawn.append(job.number)
            yield job

    with opened("processes") as (executor, _):
        running = executor.carry_out(words())
        next(running)
        assert len(drawn) <= 3
        running.close()  # type: ignore[attr-defined]
        assert len(drawn) <= 3
        assert outcomes(executor, "z") == {"z": None}


def test_the_clock_of_several_workers() -> None:
    """Each job begins on the worker that is free first; one that runs keeps its worker."""
    assert scheduled([3, 1, 1, 1], 1) == (6, 6)
    assert scheduled([3, 1, 1, 1], 2) == (3, 3)
    assert scheduled([3, None, 1], 2)[0] == 4
    assert scheduled([], 4) == (0, 0)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"workers": 0}, "from 1 to 1024"),
        ({"workers": 2, "ray": "auto"}, "give one of them"),
        ({"limits": {"cpus": 0}}, "cpus at least 1"),
        ({"limits": {"memory": "much"}}, "much"),
    ],
)
def test_what_cannot_be_spread(given: dict[str, Any], part: str) -> None:
    """Each with a line that says what to write."""
    with pytest.raises(UsageError, match=part):
        Spread(**{**given, **({"limits": TrialLimits(**given["limits"])} if "limits" in given else {})})


def test_no_cluster(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray the extra is named."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EdgepruneError, match=r"edgeprune\[ray\]"), opened("ray"):
        pass

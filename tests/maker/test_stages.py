"""Results that are kept: what they took is counted once, and what one worker makes another waits for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from edgeprune.maker.recipe import stages
from edgeprune.maker.recipe.stages import Store


def store_in(folder: Path) -> Store:
    return Store(folder, "base", lambda _: None)  # type: ignore[arg-type,return-value]


def test_what_a_result_asked_for_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a search that goes on counts what the results within a result took as well, each once."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])

    def takes(seconds: float) -> dict[str, Any]:
        now[0] += seconds
        return {}

    def outer(store: Store) -> dict[str, Any]:
        store.once("inner", 1, lambda _: takes(2))
        store.once("inner", 2, lambda _: takes(3))
        return takes(5)

    first = store_in(tmp_path)
    record = first.once("outer", 1, lambda _: outer(first))
    assert (record["seconds"], first.spent_s) == (5, 10)
    again = store_in(tmp_path)
    again.once("inner", 2, lambda _: pytest.fail("made twice"))
    assert again.spent_s == 3
    again.once("outer", 1, lambda _: pytest.fail("made twice"))
    assert again.spent_s == 10


def test_two_at_a_time(tmp_path: Path) -> None:
    """The second one waits, makes nothing, and gets what the first one made."""
    begun, goes_on, made = threading.Event(), threading.Event(), list[str]()

    def make(_: str) -> dict[str, Any]:
        begun.set()
        assert goes_on.wait(30)
        return {"by": "the first"}

    first = threading.Thread(target=lambda: store_in(tmp_path).once("result", 1, make))
    second = threading.Thread(
        target=lambda: made.append(store_in(tmp_path).once("result", 1, lambda _: {"by": "the second"})["by"])
    )
    first.start()
    assert begun.wait(30)
    second.start()
    second.join(0.2)
    assert not made
    goes_on.set()
    for each in (first, second):
        each.join(30)
    assert made == ["the first"]


def test_a_file_that_lies_elsewhere(tmp_path: Path) -> None:
    """It is fetched when it is asked for, and what was half written is made again."""
    store = Store(
        tmp_path,
        "base",
        lambda _: None,  # type: ignore[arg-type,return-value]
        elsewhere=lambda name: b"sent" if name == "a.bin" else None,
    )
    assert store.path("a", ".bin").read_bytes() == b"sent"
    assert not store.path("b", ".bin").exists()
    (tmp_path / f"{store.key('result', 1)}.json").write_text('{"half')
    assert store.known("result", 1) is None
    assert store.once("result", 1, lambda _: {"whole": True})["whole"]

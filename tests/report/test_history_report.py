"""Histories in words and pictures: what made each step, names that stay names, lines that end where values do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_ledgers import estimate
from made_records import NASTY, layer, record

from edgeprune.checker.history.records import CommitRecord, Damaged, History
from edgeprune.checker.history.trends import layer_trends, trends
from edgeprune.host.git import GitCommit
from edgeprune.report.history_report import HISTORY_FORMATS, HistoryView, sparkline
from edgeprune.report.html.history_page import _stairs, history_page
from edgeprune.report.html.page import page_html


def at(day: int, *files: Any, tags: tuple[str, ...] = (), tool: str = "0.1.0") -> CommitRecord:
    """The record of a commit of that day."""
    made = GitCommit(name=f"{day:040x}", date=f"2026-01-{day:02d}T12:00:00Z", tags=tags)
    return CommitRecord(commit=made, tool=tool, files=files)


def model(name: str = "m.tflite", dense: int = 4000, download: int = 1600, **more: Any) -> Any:
    """A file of two layers, the second of so many bytes."""
    layers = (layer("stem"), layer(more.pop("named", "dense"), raw_bytes=dense))
    return record(name, raw_bytes=1000 + dense, download_bytes={"deflate": download}, layers=layers, **more)


def told(*records: CommitRecord, every: bool = False, damaged: tuple[Damaged, ...] = ()) -> HistoryView:
    """A history of these commits."""
    history = History(path=Path("sizes.jsonl"), commits=records, damaged=damaged)
    return HistoryView(history=history, trends=trends(history), every=every)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([5], "▁"),
        ([1, 1, 1], "▁▁▁"),
        ([0, 7], "▁█"),
        ([0, None, 7], "▁ █"),
        ([7, None], "▁"),
        (list(range(400)), None),
    ],
)
def test_a_sparkline(values: list[float | None], line: str | None) -> None:
    """From the lowest value to the highest, blank where nothing is known, never wider than asked."""
    drawn = sparkline(values)
    assert len(drawn) <= 40
    if line is not None:
        assert drawn == line
    assert sparkline(values, plain=True).isascii()


def test_the_words() -> None:
    """Who changed what; how each number was obtained; commits that changed nothing are left out but for the ends."""
    made = told(
        at(1, model()),
        at(2, model()),
        at(3, model(dense=4400, download=1700), tags=("v1",)),
        at(4, model(dense=4400, download=1700)),
        damaged=(Damaged(line=3, reason="it is no line"),),
    )
    text = HISTORY_FORMATS["text"](made)
    assert text.startswith("m.tflite: 4 commits, 2026-01-01 to 2026-01-04, 1 changed it\n")
    rows = [line for line in text.splitlines() if line.startswith("00000")]
    assert [re.findall(r"2026-01-0(\d)", row)[0] for row in rows] == ["1", "3", "4"]
    assert rows[1].endswith("+100 B (+6.2 %)  dense +400 B (+10.0 %)")
    assert "measured on the file" in text
    assert "line 3 is damaged" in text
    every = HISTORY_FORMATS["text"](told(*made.history.commits, every=True))
    assert sum(line.startswith("00000") for line in every.splitlines()) == 4


def test_estimates_of_another_basis_are_not_compared() -> None:
    """Only those of the state of the profile that made the last one are in the trend."""
    old, new = estimate(device="phone", basis="1", total_ms=9.0), estimate(device="phone", basis="2")
    made = told(at(1, model(estimates=(old,))), at(2, model(estimates=(new,))))
    (series,) = [item for item in made.trends[0].series if item.name.startswith("latency")]
    assert series.values[0] is None
    assert "estimated from a profile" in HISTORY_FORMATS["text"](made)


def test_another_version_of_the_tool_is_named() -> None:
    """It may have counted otherwise."""
    made = told(at(1, model(download=1600)), at(2, model(download=1601), tool="0.2.0"))
    assert "edgeprune 0.1.0 -> 0.2.0" in HISTORY_FORMATS["markdown"](made).replace("\\", "").replace("&#62;", ">")


@pytest.mark.parametrize("kind", HISTORY_FORMATS)
def test_any_name_fits(kind: str) -> None:
    """Of a file, a layer and a tag."""
    made = told(at(1, model(NASTY, named=NASTY)), at(2, model(NASTY, dense=9, named=NASTY), tags=("a|b`c<x>",)))
    text = HISTORY_FORMATS[kind](made)
    if kind == "json":
        assert json.loads(text)["trends"][0]["steps"][0]["layers"][0]["name"] == NASTY
    else:
        assert not any(line.startswith("::") for line in text.splitlines())
        assert "\x1b" not in text


def test_the_page_shows_the_steps() -> None:
    """With a picture and its table; a name out of a file is text."""
    evil = "<script>alert(1)</script>"
    made = told(at(1, model(named=evil)), at(2, model(dense=9000, download=2600, named=evil), tags=("v1",)))
    page = history_page(made)
    html = page_html(page)
    (picture,) = page.pictures
    assert "<svg" in picture.wide
    assert len(picture.table.rows) == 2
    assert evil not in html
    assert "&lt;script&gt;" in html
    assert ">v1<" in html
    assert html.count(">1<") >= 2  # the number of the step, in both plots


def test_the_page_of_a_layer_and_of_nothing_new() -> None:
    """A trend without a step says so; one commit is a page, too."""
    made = told(at(1, model()))
    assert "No commit changed it." in page_html(history_page(made))
    history = made.history
    of_layer = HistoryView(history=history, trends=layer_trends(history, "dense"))
    assert "layer dense" in page_html(history_page(of_layer))


def test_lines_stop_where_nothing_is_known() -> None:
    """And hold a value until a commit changes it."""
    pieces = list(_stairs([1, 1, 2, None, 3], float, float))
    assert pieces == [[(0, 1), (2, 1), (2, 2)], [(4, 3)]]

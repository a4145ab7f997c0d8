"""What progress tells of its own pace."""

from __future__ import annotations

import io

import pytest

from edgeprune.host import progress


def test_the_pace_leaves_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first quarter also traces and loads: what a unit takes is counted from there, quiet or not."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress(quiet=True, stream=io.StringIO())
    shown.begin("train")
    assert shown.unit_s is None
    for done in range(1, 9):
        now[0] += 50.0 if done <= 2 else 0.5
        shown.advance(done, 8)
    assert shown.unit_s == 0.5

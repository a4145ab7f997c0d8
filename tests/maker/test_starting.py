"""Threads of TensorFlow: asked for in time, or said to come too late."""

from __future__ import annotations

import os

import pytest

from edgeprune.maker.keras import starting


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before TensorFlow computes its number of threads is set; after that nothing changes, and another number than the
    one that was set is said to come too late."""
    for name in starting._THREADS:
        monkeypatch.setenv(name, "3")
    monkeypatch.setattr(starting, "threads_are_free", lambda: True)
    assert starting.too_late(5) is None
    starting.take_threads(None)
    assert os.environ[starting._THREADS[0]] == "3"
    starting.take_threads(2)
    monkeypatch.setattr(starting, "threads_are_free", lambda: False)
    starting.take_threads(5)
    assert {os.environ[name] for name in starting._THREADS} == {"2"}
    assert starting.too_late(2) is None
    assert starting.too_late(None) is None
    assert "threads = 5 comes too late" in str(starting.too_late(5))

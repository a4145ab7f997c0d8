"""Files that are written to do harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.formats.contents import Contents
from edgeprune.maker.keras import model_files

_read: dict[str, Contents] = {}


@pytest.fixture(autouse=True)
def weights_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files here have the same weights and differ in their configuration: a child process looks at them once."""
    read: Callable[[Path], Contents] = model_files.read_keras

    def looked_at(path: Path) -> Contents:
        if path.suffix not in _read:
            _read[path.suffix] = read(path)
        return _read[path.suffix]

    monkeypatch.setattr(model_files, "read_keras", looked_at)

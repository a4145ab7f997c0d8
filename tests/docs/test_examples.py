"""The example scripts do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from places import ROOT


@pytest.mark.slow
def test_training_of_ones_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One epoch of the example ends at the sparsity that it asks for."""
    spec = importlib.util.spec_from_file_location("own_training", ROOT / "examples" / "own_training.py")
    assert spec is not None
    assert spec.loader is not None
    example: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "EPOCHS", 1)
    example.main()
    assert "asked 80.00%, got 80.00% of the weights of 4 kernels" in capsys.readouterr().out


@pytest.mark.slow(minutes=1)
@pytest.mark.parametrize("recipe", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes(call: Any, recipe: Path) -> None:
    """Every recipe beside the scripts is one that `run` takes, with its model and its data."""
    planned = call("run", recipe, "--dry-run")
    assert planned.code == 0, planned.err
    assert "export  " in planned.out

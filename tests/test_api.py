"""`import edgeprune` alone: what the command line can, through public names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.mark.parametrize("line", ["from edgeprune import converters", "import edgeprune; edgeprune.Converter"])
def test_a_plain_checkout_says_how_to_install(tmp_path: Path, line: str) -> None:
    """Where the converters cannot be imported, the error says what to type."""
    shutil.copytree(
        ROOT / "edgeprune", tmp_path / "edgeprune", ignore=shutil.ignore_patterns("__pycache__", "converters")
    )
    done = subprocess.run(
        [sys.executable, "-c", line],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ImportError: " in done.stderr.splitlines()[-1]
    assert "install the checkout with pip install -e ." in done.stderr.splitlines()[-1]

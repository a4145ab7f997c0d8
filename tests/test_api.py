"""`import edgeprune` alone: what the command line can, through public names."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import edgeprune
from edgeprune.maker.training.metrics import find_metric
from edgeprune.runtime.session import installed_runtimes


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


def test_each_public_name_is_told() -> None:
    """The names, their docstrings and the page of the guide agree; no name is anyone's helper."""
    assert edgeprune.__all__ == list(edgeprune._HOMES)
    page = (ROOT / "docs" / "python-api.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert told == edgeprune.__all__
    for name in edgeprune.__all__:
        thing = getattr(edgeprune, name)
        assert (thing.__doc__ or "").strip(), name
        assert thing.__name__ == name


def test_a_name_that_is_not_there() -> None:
    """An unknown name is told with those that are known."""
    with pytest.raises(AttributeError, match="public names: Agreement, "):
        edgeprune.nonsense  # noqa: B018


def test_a_metric_may_be_its_name() -> None:
    """Every public call that takes a metric takes its name, and an unknown one is told with the nearest."""
    for name in edgeprune.__all__:
        thing = getattr(edgeprune, name)
        if inspect.isfunction(thing) and "metric" in inspect.signature(thing).parameters:
            kind = str(inspect.signature(thing).parameters["metric"].annotation)
            assert "Asked" in kind or "Words" in kind, name  # a search writes it into a recipe, so it takes words only
    with pytest.raises(edgeprune.EdgepruneError, match="did you mean 'accuracy'"):
        find_metric("acuracy")


def test_what_checks_nothing_is_refused() -> None:
    """A budget without a limit and a codec that is not there are errors, not an empty answer."""
    file = ROOT / "tests" / "files" / "int8.tflite"
    with pytest.raises(edgeprune.EdgepruneError, match="sets no limit"):
        edgeprune.check(file, edgeprune.Budget())
    with pytest.raises(edgeprune.EdgepruneError, match="did you mean 'brotli'"):
        edgeprune.account(file, codecs=["brotly"])
    with pytest.raises(edgeprune.EdgepruneError, match="a list of names"):
        edgeprune.compare(file, file, codecs="brotli")


JOB = Path(__file__).parent / "zoo" / "fashion_job.py"


def test_the_job_uses_public_names_only() -> None:
    """The job below imports `edgeprune` and nothing else, and no name of it begins with an underscore."""
    tree = ast.parse(JOB.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["from __future__ import annotations", "import edgeprune"]
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {name for name in used if name.startswith("_")}


@pytest.mark.slow(minutes=2)
@pytest.mark.skipif(not installed_runtimes(), reason="no TFLite runtime is installed")
def test_the_whole_job(tmp_path: Path) -> None:
    """Load, prune, fine-tune, convert to int8 and float32, verify, account, check, compare, estimate."""
    import fashion_job

    found = fashion_job.job(str(ROOT / "sample_models" / "fashion"), str(tmp_path))
    assert 0.45 < found["sparsity"] < 0.55
    assert found["agrees"] is True
    assert found["int8_bytes"] < 0.5 * found["float_bytes"]
    assert found["passed"] == [True, False]
    assert found["download_ratio"] < 0.5
    assert found["estimated"] is True
    assert found["drop"] < 0.15

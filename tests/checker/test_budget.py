"""Budgets as people write them, each limit at its edge, and what is wrong with a configuration in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_ledgers import entry, score, stage
from made_ledgers import ledger as made_ledger
from made_records import record

from edgeprune.artifact import sha256_of
from edgeprune.checker.budget import Budget
from edgeprune.checker.config import Config, find_config, load_config, matches
from edgeprune.checker.judge import budget_verdicts
from edgeprune.errors import InputError, RecipeError
from edgeprune.report.verdicts import reason
from edgeprune.units import parse_growth, parse_share
from edgeprune.verdict import Limit, Unit, Unknown, Verdict


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Config]:
    """Write edgeprune.toml (or another name) and load it."""

    def write(text: str, name: str = "edgeprune.toml") -> Config:
        (tmp_path / name).write_text(text)
        return load_config(tmp_path / name)

    return write


FULL = """
[[budget]]
path = "models/*.tflite"
download = "350 kB"
install = "1.2 MiB"
growth = "2 %"
parameters = 500_000
min_sparsity = "50 %"
max_metric_drop = "1 %"
ledger = "out/ledger.json"
codec = "brotli"

[[budget]]
path = "*.onnx"
growth = "50 kB"
min_sparsity = 0.8
"""


def test_every_key(configured: Callable[..., Config], tmp_path: Path) -> None:
    """kB are thousands and MiB are powers of two; the ledger counts from the folder of the file."""
    first, second = configured(FULL).budgets
    assert (first.path, first.codec, first.download_bytes, first.install_bytes) == (
        "models/*.tflite",
        "brotli",
        350_000,
        1_258_291,
    )
    assert (first.growth_bytes, first.growth_share, first.parameters) == (None, 0.02, 500_000)
    assert (first.min_sparsity, first.max_metric_drop, first.ledger) == (0.5, 0.01, tmp_path / "out/ledger.json")
    assert (second.growth_bytes, second.growth_share, second.min_sparsity, second.codec) == (
        50_000,
        None,
        0.8,
        "deflate",
    )
    assert first.limits_growth
    assert second.limits_growth


def test_in_pyproject(configured: Callable[..., Config]) -> None:
    """The same tables under tool.edgeprune, other tools beside them."""
    text = '[tool.ruff]\nline-length = 99\n[[tool.edgeprune.budget]]\npath = "m.tflite"\ninstall = "1 MB"\n'
    (budget,) = configured(text, "pyproject.toml").budgets
    assert (budget.install_bytes, budget.where) == (1_000_000, "tool.edgeprune.budget 1")


B = '[[budget]]\npath = "m.tflite"\n'


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("# later\n", "no budget in it"),
        ('[budget]\npath = "a"\n', "[[budget]]"),
        ("budget = 3", "no budget in it"),
        ("budget = [3]", "is a table"),
        ('[[budgets]]\npath = "a"', "did you mean 'budget'?"),
        (B, "sets no limit"),
        ('[[budget]]\ndownload = "1 kB"', "names no file"),
        (B + 'downlaod = "1 kB"', "did you mean 'download'?"),
        (B + "download = 350000", "must be a text in quotes"),
        (B + 'download = "350"', "write a number and a unit"),
        (B + 'download = "350 KBit"', "write a number and a unit"),
        (B + 'download = "-1 kB"', "write a number and a unit"),
        (B + f'download = "{"9" * 400} kB"', "more than any file"),
        (B + f'growth = "{"9" * 400} %"', "no percentage that anything reaches"),
        (B + 'growth = "2"', "write a number and a unit"),
        (B + 'growth = "two %"', "write a number and the sign"),
        (B + "parameters = -1", "at least 0"),
        (B + "parameters = 1.5", "must be a whole number"),
        (B + "parameters = true", "must be a whole number"),
        (B + "min_sparsity = 50", "0 to 1"),
        (B + "min_sparsity = nan", "0 to 1"),
        (B + 'min_sparsity = "150 %"', "0 to 1"),
        (B + 'max_metric_drop = inf\nledger = "l.json"', "finite"),
        (B + 'max_metric_drop = nan\nledger = "l.json"', "finite"),
        (B + "max_metric_drop = 0.1", 'add ledger = "out/ledger.json"'),
        (B + 'install = "1 kB"\nledger = "l.json"', "add max_metric_drop"),
        (B + 'install = "1 kB"\ncodec = "zip"', "unknown codec 'zip'"),
        (B + 'install = "1 kB"\ncodec = "broti"', "did you mean 'brotli'?"),
        ('[[budget]]\npath = "/abs"\ninstall = "1 kB"', "in the folder of this file"),
        ('[[budget]]\npath = "../m"\ninstall = "1 kB"', "in the folder of this file"),
        ('[[budget]]\npath = ""\ninstall = "1 kB"', "in the folder of this file"),
        ('[[budget]]\npath = "**.tflite"\ninstall = "1 kB"', "is no glob"),
        ('[[budget]]\npath = "."\ninstall = "1 kB"', "is no glob"),
        ('[[budget]]\npath = "./"\ninstall = "1 kB"', "is no glob"),
        ("[[budget]", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(configured: Callable[..., Config], text: str, word: str) -> None:
    """With the file, the table and a suggestion; exit code 2."""
    with pytest.raises(RecipeError) as caught:
        configured(text)
    assert word in str(caught.value)
    assert "edgeprune.toml" in str(caught.value)
    assert "\n" not in str(caught.value).rstrip()


@pytest.mark.parametrize("text", ["tool = 3", 'tool = "edgeprune"', "[tool]\nruff = 1", "[project]\nname = 'x'"])
def test_a_pyproject_of_others(configured: Callable[..., Config], tmp_path: Path, text: str) -> None:
    """It is passed over when looked for, and told when named."""
    with pytest.raises(RecipeError, match=r"no \[tool\.edgeprune\]"):
        configured(text, "pyproject.toml")
    (tmp_path / ".git").mkdir()
    assert find_config(tmp_path) is None


def test_a_pyproject_with_nonsense_in_our_table(configured: Callable[..., Config]) -> None:
    """A number where a table should be."""
    with pytest.raises(RecipeError, match="is a table"):
        configured("[tool]\nedgeprune = 3", "pyproject.toml")


def test_the_nearest_configuration_is_found(tmp_path: Path) -> None:
    """Upwards, edgeprune.toml before pyproject.toml, and not beyond the repository."""
    inner = tmp_path / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "edgeprune.toml").write_text(B)
    assert find_config(inner) == tmp_path / "edgeprune.toml"
    (tmp_path / "repo" / ".git").mkdir()
    assert find_config(inner) is None
    (tmp_path / "repo" / "pyproject.toml").write_text("[tool.edgeprune]\n")
    assert find_config(inner) == tmp_path / "repo" / "pyproject.toml"
    (tmp_path / "repo" / "edgeprune.toml").write_text(B)
    assert find_config(inner) == tmp_path / "repo" / "edgeprune.toml"


def test_globs_count_from_the_configuration(configured: Callable[..., Config], tmp_path: Path) -> None:
    """Sorted; files and packages alike; a glob without a match is an error, never a pass."""
    for name in ("b.tflite", "a.tflite", "c.onnx"):
        (tmp_path / name).touch()
    config = configured('[[budget]]\npath = "*.tflite"\ninstall = "1 kB"\n')
    assert [path.name for path in matches(config, config.budgets[0])] == ["a.tflite", "b.tflite"]
    config = configured('[[budget]]\npath = "models/*.tflite"\ninstall = "1 kB"\n')
    with pytest.raises(RecipeError, match=r"budget 1.*'models/\*\.tflite' matches no file"):
        matches(config, config.budgets[0])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2 %", (None, 0.02)), ("0.5%", (None, 0.005)), ("50 kB", (50_000, None)), ("1 KiB", (1024, None))],
)
def test_growth_as_written(text: str, wanted: tuple[int | None, float | None]) -> None:
    """A share or a size."""
    assert parse_growth(text) == wanted
    assert parse_share("12.5 %") == 0.125


# --- verdicts -------------------------------------------------------------------------------------------------------


def judged(before: Any = None, file: Path | None = None, made: Any = None, **limits: Any) -> list[Verdict]:
    """Verdicts on the made-up file: 5,000 bytes, 1,600 deflated, 1,500 with brotli, 1,000 parameters, 80 % zeros."""
    budget = Budget(path="*", where="budget 1", **limits)
    return budget_verdicts(made or record(), [budget], before, file=file)


@pytest.mark.parametrize(
    ("limits", "kind", "actual", "passed"),
    [
        ({"download_bytes": 1600}, Limit.DOWNLOAD, 1600, True),
        ({"download_bytes": 1599}, Limit.DOWNLOAD, 1600, False),
        ({"download_bytes": 1500, "codec": "brotli"}, Limit.DOWNLOAD, 1500, True),
        ({"install_bytes": 5000}, Limit.INSTALL, 5000, True),
        ({"install_bytes": 4999}, Limit.INSTALL, 5000, False),
        ({"parameters": 1000}, Limit.PARAMETERS, 1000, True),
        ({"parameters": 999}, Limit.PARAMETERS, 1000, False),
        ({"min_sparsity": 0.8}, Limit.MIN_SPARSITY, 0.8, True),
        ({"min_sparsity": 0.8001}, Limit.MIN_SPARSITY, 0.8, False),
    ],
)
def test_each_limit_at_its_edge(limits: dict[str, Any], kind: Limit, actual: float, passed: bool) -> None:
    """As much as the limit passes, a little more does not."""
    (verdict,) = judged(**limits)
    assert (verdict.kind, verdict.path, verdict.actual, verdict.passed) == (kind, "m.tflite", actual, passed)
    assert verdict.codec == (limits.get("codec", "deflate") if kind is Limit.DOWNLOAD else None)


@pytest.mark.parametrize(
    ("limits", "before", "actual", "passed"),
    [
        ({"growth_bytes": 100}, 1500, 100, True),
        ({"growth_bytes": 99}, 1500, 100, False),
        ({"growth_share": 0.0}, 1600, 0, True),
        ({"growth_share": 0.0}, 1700, -100 / 1700, True),
        ({"growth_share": 0.25}, 1280, 0.25, True),
        ({"growth_share": 0.24}, 1280, 0.25, False),
    ],
)
def test_growth_against_a_baseline(limits: dict[str, Any], before: int, actual: float, passed: bool) -> None:
    """Of the download; shrinking always passes."""
    (verdict,) = judged(record(download_bytes={"deflate": before}), **limits)
    assert (verdict.kind, verdict.codec, verdict.actual, verdict.passed) == (Limit.GROWTH, "deflate", actual, passed)


def test_what_cannot_be_judged_is_no_pass() -> None:
    """Growth without a baseline counts only where it is the one limit; a codec or count that is not known: None."""
    assert [item.kind for item in judged(growth_share=0.1, install_bytes=9000)] == [Limit.INSTALL]
    (verdict,) = judged(growth_share=0.1)
    assert (verdict.kind, verdict.passed, verdict.unknown) == (Limit.GROWTH, None, Unknown.NO_BASELINE)
    (verdict,) = judged(record(download_bytes={"zstd": 5}), growth_share=0.1)
    assert (verdict.passed, verdict.unknown, reason(verdict)) == (
        None,
        Unknown.NOT_IN_BASELINE,
        "the baseline has no deflate size",
    )
    sized = record(complete=False, note="sized only", parameters=None, weights=None, zeros=None, sparsity=None)
    for limits in ({"parameters": 5}, {"min_sparsity": 0.1}):
        (verdict,) = judged(made=sized, **limits)
        assert (verdict.passed, verdict.actual, reason(verdict)) == (None, None, "sized only")
    (verdict,) = judged(made=record(download_bytes={"zstd": 5}), download_bytes=9)
    assert verdict.passed is None


@pytest.fixture
def ledger(tmp_path: Path) -> Callable[..., Path]:
    """A ledger whose exported file scored 0.90 after 0.92 on the same samples, beside that file."""

    def write(*, higher_is_better: bool = True, scored: bool = True, name: str = "m.tflite", **changes: Any) -> Path:
        (tmp_path / "m.tflite").write_bytes(b"model")
        after = {"value": 0.90, **changes.pop("after", {})}
        metric = replace(score(0.90, "m.tflite"), **after) if scored else None
        dense = entry("stages/m.dense.tflite", metric=score(0.92, "stages/m.dense.tflite"))
        shipped = entry(name, **{"sha256": sha256_of(tmp_path / "m.tflite"), "metric": metric, **changes})
        made = made_ledger()
        made = replace(
            made,
            metric=replace(made.metric, higher_is_better=higher_is_better),
            stages=(stage("dense", "dense", (dense,)), stage("pruned", "prune", (shipped,))),
        )
        path = tmp_path / "ledger.json"
        path.write_text(json.dumps(made.to_json()))
        return path

    return write


def drop(ledger: Path, limit: float = 0.05) -> Verdict:
    """The verdict on the drop of the file beside the ledger."""
    (verdict,) = judged(file=ledger.parent / "m.tflite", max_metric_drop=limit, ledger=ledger)
    return verdict


def test_the_metric_drop_is_read_from_the_ledger(ledger: Callable[..., Path]) -> None:
    """0.92 to 0.90 is a drop of 0.02."""
    verdict = drop(ledger(), 0.021)
    assert (verdict.kind, verdict.unit, verdict.metric) == (Limit.MAX_METRIC_DROP, Unit.METRIC, "accuracy")
    assert verdict.passed is True
    assert verdict.actual == pytest.approx(0.02)
    assert drop(ledger(), 0.019).passed is False


def test_an_error_drops_when_it_grows(ledger: Callable[..., Path]) -> None:
    """Of a metric where less is better, more is the loss."""
    assert drop(ledger(after={"value": 0.97}, higher_is_better=False)).actual == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"sha256": "0" * 64}, "another file of this name"),
        ({"name": "other.tflite"}, "no file of this name"),
        ({"scored": False}, "not measured on all samples"),
        ({"after": {"samples": 10}}, "not measured on all samples"),
    ],
)
def test_a_ledger_that_says_nothing_of_this_file(
    ledger: Callable[..., Path], changes: dict[str, Any], note: str
) -> None:
    """Another file, none, no score, a score on fewer samples: cannot be checked."""
    verdict = drop(ledger(**changes))
    assert (verdict.passed, verdict.actual) == (None, None)
    assert note in reason(verdict)


NAN = json.dumps(made_ledger().to_json()).replace("0.9231", "NaN")


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "3", '"x"', '{"metric": 3}', '{"schema_version": 2, "metric": {}, "stages": []}', "[" * 99999, NAN],
)
def test_a_ledger_that_is_none(ledger: Callable[..., Path], content: str) -> None:
    """Exit code 4 with what to do; so for one that is missing."""
    path = ledger()
    path.write_text(content)
    with pytest.raises(InputError, match="run the recipe"):
        drop(path)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        drop(path)

"""One budget, one judge: each limit, whichever of the three places it is written in, gives the same verdict."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_ledgers import entry, estimate, ledger, score, stage
from places import ROOT, TESTS

from edgeprune.artifact import sha256_of
from edgeprune.checker.budget import Budget, given_budget, read_budget
from edgeprune.checker.config import load_config
from edgeprune.checker.history.lines import append_record
from edgeprune.checker.history.records import CommitRecord
from edgeprune.checker.judge import budget_verdicts, run_verdicts
from edgeprune.checker.latency.estimate import basis_of
from edgeprune.checker.latency.profiles import find_profile
from edgeprune.checker.size.baseline import Baseline, entry_record
from edgeprune.checker.written import LIMITS
from edgeprune.errors import RecipeError, UsageError
from edgeprune.formats import read_contents
from edgeprune.host.git import GitCommit
from edgeprune.host.toml_values import read_toml
from edgeprune.ledger import Ledger
from edgeprune.maker.recipe.entries import run_baseline
from edgeprune.maker.recipe.recipe import load_recipe
from edgeprune.verdict import Limit, Unit, Unknown, Verdict

FILES = TESTS / "files"
DEVICE = "pixel3-tflite-4t-float32"
# Of each limit: one that the file below keeps and one that it does not, as people write them.
WRITTEN: dict[Limit, tuple[str, str]] = {
    Limit.DOWNLOAD: ('"100 kB"', '"99 kB"'),
    Limit.INSTALL: ('"260 kB"', '"250 KiB"'),
    Limit.GROWTH: ('"25 %"', '"19.9 kB"'),
    Limit.PARAMETERS: ("249000", "248999"),
    Limit.MIN_SPARSITY: ('"75 %"', "0.81"),
    Limit.MAX_METRIC_DROP: ("0.03", '"1 %"'),
    Limit.MAX_LATENCY_MS: ("5.5", "5"),
    Limit.MAX_LATENCY_GROWTH: ("0.11", '"9 %"'),
    Limit.MIN_ELIGIBLE: ('"50 %"', "1.0"),
    Limit.PATTERN: ('"127:128"', '"1:2"'),
    Limit.MAX_FLOAT_OPS: ("1", "0"),
    Limit.CHANNEL_MULTIPLE: ("128", "256"),
    Limit.SPARSE_KERNELS: ("true", "true"),
}
# Limits that are of the file itself: one that keeps them and one that does not.
HELD: dict[Limit, tuple[str, str]] = {
    Limit.MIN_ELIGIBLE: ("int8", "int8"),
    Limit.PATTERN: ("int8", "int8"),
    Limit.CHANNEL_MULTIPLE: ("int8", "int8"),
    Limit.MAX_FLOAT_OPS: ("int8", "float32"),
    Limit.SPARSE_KERNELS: ("eligible_sparse", "float32_sparse"),
}


@pytest.fixture
def run(tmp_path: Path) -> tuple[Ledger, Baseline, Path]:
    """A ledger with one exported file, which lies beside it, and what it grew from."""
    basis = basis_of(find_profile(DEVICE))
    now, before = estimate(device=DEVICE, basis=basis), estimate(device=DEVICE, basis=basis, total_ms=5.0)
    file = tmp_path / "m.tflite"
    file.write_bytes(b"model")
    shipped = entry(
        "m.tflite",
        sha256=sha256_of(file),
        raw_bytes=260_000,
        download_bytes={"deflate": 100_000},
        sparsity=0.8,
        metric=score(0.90, "m.tflite"),
        exported=True,
        estimates=(now,),
    )
    dense = entry("stages/m.dense.tflite", metric=score(0.92, "stages/m.dense.tflite"))
    made = replace(ledger(), stages=(stage("dense", "dense", (dense,)), stage("p", "prune", (shipped,))))
    (tmp_path / "ledger.json").write_text(json.dumps(made.to_json()))
    old = replace(entry_record(shipped), download_bytes={"deflate": 80_000}, estimates=(before,))
    return made, Baseline(Path("main.json"), [old]), tmp_path


def table(limit: Limit, text: str) -> str:
    """The lines of a table with the limit."""
    of_device = limit in (Limit.MAX_LATENCY_MS, Limit.MAX_LATENCY_GROWTH)
    more = f'device = "{DEVICE}"\n' if of_device else 'target = "edgetpu"\n' if limit is Limit.MIN_ELIGIBLE else ""
    return f"{limit} = {text}\n{more}"


def in_recipe(folder: Path, limit: Limit, text: str) -> Budget:
    """Written under [budget] of a recipe."""
    path = folder / "recipe.toml"
    path.write_text(
        'model = "m.keras"\nmetric = "accuracy"\n[data]\ntest = "t.npz"\n'
        f'[[exports]]\nformat = "tflite"\nprecision = "float32"\n[budget]\n{table(limit, text)}'
    )
    budget = load_recipe(path).budget
    assert budget is not None
    return budget


def in_configuration(folder: Path, limit: Limit, text: str) -> Budget:
    """Written in edgeprune.toml."""
    path = folder / "edgeprune.toml"
    more = 'ledger = "ledger.json"\n' if limit is Limit.MAX_METRIC_DROP else ""
    path.write_text(f'[[budget]]\npath = "*.tflite"\n{table(limit, text)}{more}')
    (budget,) = load_config(path).budgets
    return budget


def on_command_line(folder: Path, limit: Limit, text: str) -> Budget:
    """Written as an option."""
    of_device = limit in (Limit.MAX_LATENCY_MS, Limit.MAX_LATENCY_GROWTH)
    budget = given_budget(
        {limit: text.strip('"')},
        devices=(DEVICE,) if of_device else (),
        ledger=folder / "ledger.json" if limit is Limit.MAX_METRIC_DROP else None,
        target="edgetpu" if limit is Limit.MIN_ELIGIBLE else None,
    )
    assert budget is not None
    return budget


def judged(run: tuple[Ledger, Baseline, Path], budget: Budget, *, of_run: bool) -> Verdict:
    """The one verdict on the file: of the run itself, or of a check with its ledger."""
    made, baseline, folder = run
    if of_run:
        (verdict,) = run_verdicts(made, budget, baseline, folder)
    else:
        (shipped,) = made.stages[-1].artifacts
        (verdict,) = budget_verdicts(
            entry_record(shipped),
            [budget],
            baseline.find("m.tflite"),
            file=folder / "m.tflite",
            contents=read_contents(folder / "m.tflite") if budget.limits_structure else None,
        )
    return verdict


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kept", [True, False])
def test_each_limit_from_each_place(run: tuple[Ledger, Baseline, Path], limit: Limit, kept: bool) -> None:
    """Kept and broken alike, with the same number on both sides."""
    folder, text = run[2], WRITTEN[limit][not kept]
    if limit in HELD:
        shutil.copy(FILES / f"{HELD[limit][not kept]}.tflite", folder / "m.tflite")
    verdicts = [
        judged(run, in_recipe(folder, limit, text), of_run=True),
        judged(run, in_configuration(folder, limit, text), of_run=False),
        judged(run, on_command_line(folder, limit, text), of_run=False),
    ]
    assert {(verdict.kind, verdict.passed, verdict.unknown) for verdict in verdicts} == {(limit, kept, None)}
    assert len(set(verdicts)) == 1


@pytest.mark.parametrize("key", ["path", "ledger"])
def test_a_recipe_has_no_files_to_choose(tmp_path: Path, key: str) -> None:
    """Its budget is for what it exports, and its ledger is its own."""
    with pytest.raises(RecipeError, match=f"unknown key '{key}' in \\[budget\\]"):
        read_budget(tmp_path / "r.toml", "budget", {"install": "1 kB", key: "x"}, of_run=True)


@pytest.mark.parametrize("limit", LIMITS)
def test_nonsense_is_refused_alike(tmp_path: Path, limit: Limit) -> None:
    """No limit takes any text, and the message names it or what to write."""
    with pytest.raises(UsageError):
        on_command_line(tmp_path, limit, "nonsense")
    for place in (in_recipe, in_configuration):
        with pytest.raises(RecipeError):
            place(tmp_path, limit, '"nonsense"')


# Of each limit: the field of a Budget, and numbers that no file can be held against.
BEYOND: dict[Limit, tuple[str, tuple[float, ...]]] = {
    Limit.DOWNLOAD: ("download_bytes", (-1, 1.5)),
    Limit.INSTALL: ("install_bytes", (-1, 1.5)),
    Limit.GROWTH: ("growth_share", (-0.1, math.inf)),
    Limit.PARAMETERS: ("parameters", (-1, 1.5)),
    Limit.MIN_SPARSITY: ("min_sparsity", (-0.1, 1.1, math.nan)),
    Limit.MAX_METRIC_DROP: ("max_metric_drop", (-0.1, math.inf)),
    Limit.MAX_LATENCY_MS: ("max_latency_ms", (-1, 0, math.inf)),
    Limit.MAX_LATENCY_GROWTH: ("max_latency_growth", (-0.1, math.nan)),
    Limit.MIN_ELIGIBLE: ("min_eligible", (-0.1, 1.1, math.nan)),
    Limit.MAX_FLOAT_OPS: ("max_float_ops", (-1, 1.5)),
    Limit.CHANNEL_MULTIPLE: ("channel_multiple", (-8, 1, 8.5)),
}


@pytest.mark.parametrize("limit", BEYOND)
def test_bounds_are_the_same_everywhere(tmp_path: Path, limit: Limit) -> None:
    """What a Budget made in Python refuses, no recipe, configuration or option brings in."""
    field, values = BEYOND[limit]
    for value in values:
        fields: dict[str, Any] = {field: value}
        with pytest.raises(UsageError, match=f"^{limit} is a "):
            Budget(**fields)
        for place in (in_recipe, in_configuration, on_command_line):
            with pytest.raises(UsageError):
                place(tmp_path, limit, str(value))


def test_a_device_of_the_recipe_stands_in(tmp_path: Path) -> None:
    """A limit on latency without a device is for all those of [latency]."""
    path = tmp_path / "recipe.toml"
    path.write_text(
        'model = "m.keras"\nmetric = "accuracy"\n[data]\ntest = "t.npz"\n[[exports]]\nformat = "tflite"\n'
        f'precision = "float32"\n[latency]\ndevices = ["{DEVICE}"]\n[budget]\nmax_latency_ms = 5\n'
    )
    budget = load_recipe(path).budget
    assert budget is not None
    assert budget.devices == (DEVICE,)


def test_the_schemas_know_every_word() -> None:
    """Kinds, units and reasons of a verdict are listed in both published schemas."""
    for name in ("check", "ledger"):
        schema = json.loads((ROOT / "edgeprune" / "schemas" / f"{name}.schema.json").read_text())
        words = schema["properties"]["verdicts"]["items"]["properties"]
        assert words["kind"]["enum"] == list(Limit)
        assert words["unit"]["enum"] == list(Unit)
        assert words["unknown"]["enum"] == [*Unknown, None]


def test_the_guide_is_a_configuration() -> None:
    """Every key of the example in the help of `check` is one that is read."""
    from edgeprune.commands.check import check

    assert check.help is not None
    for limit in LIMITS:
        assert f"  {limit} = " in check.help
        assert f"--{limit.replace('_', '-')}" in {option for item in check.params for option in item.opts}
    assert read_toml(ROOT / "sample_models" / "fashion" / "recipe.toml")[1]["budget"]


def test_a_run_takes_the_baselines_of_a_check(tmp_path: Path) -> None:
    """A ledger, a file, a folder: growth of what the recipe exports is judged against them; without growth it is
    refused, since nothing would come of it."""
    budget = in_recipe(tmp_path, Limit.GROWTH, '"2 %"')
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.budget == budget
    shutil.copy(FILES / "float32.tflite", tmp_path / "m.float32.tflite")
    for place in (tmp_path, tmp_path / "m.float32.tflite"):
        found = run_baseline(recipe, place).find("m.float32.tflite")
        assert found is not None
        assert found.raw_bytes == (FILES / "float32.tflite").stat().st_size
        assert set(found.download_bytes) >= {"deflate"}
    in_recipe(tmp_path, Limit.INSTALL, '"2 MB"')
    with pytest.raises(UsageError, match="add growth"):
        run_baseline(load_recipe(tmp_path / "recipe.toml"), tmp_path)


def test_a_run_is_held_against_a_history(run: tuple[Ledger, Baseline, Path]) -> None:
    """As a check is: over commits, and since a tag."""
    made, _, folder = run
    earlier = replace(
        entry_record(made.stages[-1].artifacts[0]), path="m.float32.tflite", download_bytes={"deflate": 80}
    )
    old = GitCommit(name="a", date="2026-01-01T12:00:00Z", tags=("v1",))
    append_record(folder / "sizes.jsonl", CommitRecord(commit=old, tool="0.1.0", files=(earlier,)))
    for text in ("2 % over the last 10 commits", "2 % since tag v1"):
        in_recipe(folder, Limit.GROWTH, f'"{text}"')
        recipe = load_recipe(folder / "recipe.toml")
        (shipped,) = made.stages[-1].artifacts
        exported = replace(made, stages=(stage("p", "prune", (replace(shipped, path="m.float32.tflite"),)),))
        (verdict,) = run_verdicts(exported, recipe.budget, run_baseline(recipe, folder / "sizes.jsonl"), folder)
        assert (verdict.passed, verdict.since) == (False, "a")
        assert verdict.asked == text.removeprefix("2 % ").replace("tag ", "")


@pytest.mark.parametrize("budget", [Budget(max_metric_drop=0.1), Budget(max_latency_ms=5)])
def test_a_budget_made_in_python_that_lacks_something(run: tuple[Ledger, Baseline, Path], budget: Budget) -> None:
    """A limit that is read from what is not there is an error, not a pass."""
    with pytest.raises(UsageError, match="the budget's"):
        judged(run, budget, of_run=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_sparsity": 75},
        {"min_sparsity": "75 %"},
        {"download_bytes": "350 kB"},
        {"download_bytes": -5},
        {"max_latency_ms": math.inf},
        {"codec": "zstd12", "download_bytes": 5},
        {"devices": "pixel3", "max_latency_ms": 5},
    ],
)
def test_a_budget_made_in_python_holds_to_its_units(wrong: dict[str, Any]) -> None:
    """What a table could not say is refused when the record is made, in one line."""
    with pytest.raises(UsageError):
        Budget(**wrong)

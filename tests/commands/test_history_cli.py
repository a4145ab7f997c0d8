"""`edgeprune check --history` and `edgeprune history` in a git repository, as a CI job calls them."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from branches import branches
from made_ledgers import entry, ledger, score, stage
from places import TESTS
from repositories import commit, git, repository

from edgeprune.artifact import sha256_of
from edgeprune.checker.arm import cpus, emulation


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with m.tflite, which is the current folder."""
    folder = repository(tmp_path / "repo")
    branches(folder / "m.tflite", [40, 40, 40])
    commit(folder)
    monkeypatch.chdir(folder)
    return folder


def grow(folder: Path, units: int, day: int, tag: str = "") -> str:
    """Commit m.tflite with so many units in its second layer."""
    branches(folder / "m.tflite", [40, units, 40])
    return commit(folder, day=day, tag=tag)


def check(call: Any, *more: str) -> Any:
    """A quick check that records."""
    return call("check", "m.tflite", "--fast", "--history", "../sizes.jsonl", *more)


TEN = ("--growth", "5 % over the last 10 commits")


def test_slow_creep_from_commit_to_commit(call: Any, repo: Path) -> None:
    """Each commit alone is within its limit; over ten they are not, and the layer is named."""
    assert check(call, *TEN).code == 0
    codes = []
    for step in range(1, 5):
        grow(repo, 40 + 2 * step, day=1 + step)
        assert check(call, "--growth", "5 %", "--install", "1 MB").code == 0
        outcome = check(call, *TEN)
        codes.append(outcome.code)
        assert "is there already" in outcome.err
    assert codes == [0, 0, 0, 1]
    assert "most in branch_1" in outcome.out
    assert len((repo.parent / "sizes.jsonl").read_text().splitlines()) == 5


def test_growth_since_a_tag(call: Any, repo: Path) -> None:
    """Before the tag is there it cannot be judged; at the tag it is 0; later it counts from it."""
    tagged = ("--growth", "5 % since tag v1")
    assert check(call, *tagged).code == 3
    git(repo, "tag", "v1")
    assert check(call, *tagged).code == 0
    grow(repo, 41, day=2)
    assert check(call, *tagged).code == 0
    grow(repo, 60, day=3)
    outcome = check(call, *tagged, "--json")
    (verdict,) = json.loads(outcome.out)["verdicts"]
    assert (outcome.code, verdict["asked"], verdict["passed"]) == (1, "since v1", False)
    assert verdict["since"] == git(repo, "rev-parse", "v1")


def test_a_baseline_reads_and_adds_nothing(call: Any, repo: Path) -> None:
    """For a pull request: the history of the main branch as it is."""
    check(call, *TEN)
    before = (repo.parent / "sizes.jsonl").read_bytes()
    grow(repo, 60, day=2)
    outcome = call("check", "m.tflite", "--fast", "--baseline", "../sizes.jsonl", *TEN)
    assert outcome.code == 1
    assert (repo.parent / "sizes.jsonl").read_bytes() == before


def test_a_line_is_what_a_check_tells(call: Any, repo: Path) -> None:
    """Of each file the same record, which has a published schema."""
    whole = json.loads((importlib.resources.files("edgeprune") / "schemas" / "check.schema.json").read_text())
    told = json.loads(call("check", "m.tflite", "--show", "--history", "h.jsonl", "--json").out)
    line = json.loads((repo / "h.jsonl").read_text())
    assert line["files"] == told["files"]
    jsonschema.validate(line["files"], {**whole["properties"]["files"], "$defs": whole.get("$defs", {})})


def test_a_name_by_hand(call: Any, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a repository there is no other, and the message says so."""
    monkeypatch.chdir(repo.parent)
    shutil.move(repo / "m.tflite", repo.parent / "m.tflite")
    arguments = ("check", "m.tflite", "--fast", "--show", "--history", "h.jsonl")
    call(*arguments).error(2, "no git repository", "--commit NAME")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert call(*arguments, "--commit", "build 7").code == 0
    line = json.loads((repo.parent / "h.jsonl").read_text())
    assert (line["commit"], line["date"]) == ("build 7", "1970-01-01T00:00:00Z")
    call(*arguments, "--commit", "a\nb").error(2, "no name of a commit")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--show", "--commit", "x"), "give --history"),
        (("--show", "--arm", "cortex-a76"), "give --history"),
        (("--show", "--history", "h.json"), "name it h.jsonl"),
        (("--growth", "2 % over the last 3 commits"), "add --history"),
        (("--growth", "2 % over 3 commits", "--history", "h.jsonl"), "over the last 10 commits"),
        (("--show", "--history", "h.jsonl", "-o", "h.jsonl"), "would replace a file"),
    ],
)
def test_wrong_use(call: Any, repo: Path, arguments: tuple[str, ...], told: str) -> None:
    """Told before any work, with nothing recorded."""
    call("check", "m.tflite", *arguments).error(2, told)
    assert not (repo / "h.jsonl").exists()


def test_a_broken_file_is_not_recorded(call: Any, repo: Path) -> None:
    """A commit whose files could not all be read has no line."""
    (repo / "n.tflite").write_bytes(b"nothing")
    outcome = call("check", "m.tflite", "n.tflite", "--show", "--fast", "--history", "h.jsonl")
    assert outcome.code == 4
    assert not (repo / "h.jsonl").exists()


def test_a_damaged_line_is_a_note(call: Any, repo: Path) -> None:
    """In the check and in the history, which go on."""
    check(call, *TEN)
    with (repo.parent / "sizes.jsonl").open("a") as file:
        file.write("{half a li\n")
    grow(repo, 41, day=2)
    assert "line 2 is damaged and passed over" in check(call, *TEN).out
    outcome = call("history", "../sizes.jsonl")
    assert outcome.code == 0
    assert "line 2 is damaged and passed over" in outcome.out
    assert "2 commits" in outcome.out


def test_a_history_of_nothing(call: Any, tmp_path: Path) -> None:
    """A file without a line of ours is no history."""
    (tmp_path / "h.jsonl").write_text("hello\n")
    call("history", tmp_path / "h.jsonl").error(4, "no line of a history", "line 1")
    call("history", tmp_path / "none.jsonl").error(4, "does not exist")


def test_the_trend(call: Any, repo: Path) -> None:
    """As text, JSON and Markdown: what changed, at which commit, by which layer."""
    check(call, *TEN)
    commit(repo, day=2)  # changes nothing
    check(call, *TEN)
    third = grow(repo, 60, day=3, tag="v2")
    check(call, *TEN)
    text = call("history", "../sizes.jsonl").out
    assert "m.tflite: 3 commits, 2026-01-01 to 2026-01-03, 1 changed it" in text
    (row,) = [line for line in text.splitlines() if line.startswith(third[:10])]
    assert "branch_1 +1.28 kB" in row
    assert "v2" in row
    (trend,) = json.loads(call("history", "../sizes.jsonl", "--json").out)["trends"]
    (step,) = trend["steps"]
    assert (step["commit"], [item["name"] for item in step["layers"]]) == (third, ["branch_1"])
    (install,) = [item for item in trend["measures"] if item["name"] == "install"]
    assert install["values"][0] == install["values"][1] < install["values"][2]
    layer = call("history", "../sizes.jsonl", "--layer", "branch_1", "--all", "--format", "markdown")
    assert layer.out.startswith("### m.tflite, layer branch")
    assert layer.out.count("| `") >= 3
    call("history", "../sizes.jsonl", "--layer", "branch").error(2, "did you mean 'branch_")


def test_metrics_and_counts_go_into_the_line(call: Any, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the very file that the ledger knows, and of the cpu that is asked for."""
    shipped = entry("m.tflite", sha256=sha256_of(repo / "m.tflite"), metric=score(0.9, "m.tflite"), exported=True)
    other = entry("n.tflite", sha256="0" * 64, metric=score(0.8, "n.tflite"), exported=True)
    made = replace(ledger(), stages=(stage("dense", "dense", (shipped, other)),))
    (repo / "ledger.json").write_text(json.dumps(made.to_json()))
    counts = emulation.InstructionCounts(instructions=1234, by_class={}, spread=0)
    monkeypatch.setattr(cpus, "arm_root", lambda: None)
    monkeypatch.setattr(emulation, "count_instructions", lambda *_, **__: counts)
    shutil.copy(TESTS / "files" / "int8.tflite", repo / "n.tflite")
    more = ("--show", "--fast", "--ledger", "ledger.json", "--arm", "cortex-a76")
    assert call("check", "m.tflite", "n.tflite", "--history", "h.jsonl", *more).code == 0
    line = json.loads((repo / "h.jsonl").read_text())
    assert line["metrics"] == {"m.tflite": {made.metric.name: 0.9}}
    assert line["instructions"] == {name: {"cortex-a76": 1234} for name in ("m.tflite", "n.tflite")}
    assert "counted in emulation" in call("history", "h.jsonl").out

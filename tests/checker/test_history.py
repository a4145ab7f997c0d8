"""A history: lines that nobody loses, damage that costs one line, and which commit a growth is counted from."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from branches import branches
from made_records import layer, record
from repositories import commit, git, repository

from edgeprune.checker.budget import Budget
from edgeprune.checker.history.lines import append_record, line_of, read_history
from edgeprune.checker.history.past import Past, load_past
from edgeprune.checker.history.records import CommitRecord, Damaged, History
from edgeprune.checker.history.since import Since, split_since
from edgeprune.checker.history.trends import layer_trends, trends
from edgeprune.checker.judge import budget_verdicts
from edgeprune.checker.size.account import account
from edgeprune.checker.size.records import FileAccount
from edgeprune.errors import InputError, OutputError, UsageError
from edgeprune.host.git import GitCommit, this_commit
from edgeprune.verdict import Unknown


def at(name: str, *files: FileAccount, day: int = 1, tags: tuple[str, ...] = (), tool: str = "0.1.0") -> CommitRecord:
    """The record of a commit of that day."""
    made = GitCommit(name=name, date=f"2026-01-{day:02d}T12:00:00Z", tags=tags)
    return CommitRecord(commit=made, tool=tool, files=files or (record(),))


def sized(download_bytes: int, **more: Any) -> FileAccount:
    """The file m.tflite with that download."""
    return record("m.tflite", download_bytes={"deflate": download_bytes}, **more)


def history(*records: CommitRecord) -> History:
    """As it would be read."""
    return History(path=Path("sizes.jsonl"), commits=records)


# --- the file -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Layers, metrics and counts of instructions included; by date, whatever the order of the lines."""
    first = replace(at("a", tags=("v1",)), metrics={"m.tflite": {"accuracy": 0.9}})
    second = replace(at("b", day=2), instructions={"m.tflite": {"cortex-a76": 12}})
    for item in (second, first):
        assert append_record(tmp_path / "h.jsonl", item)
    assert read_history(tmp_path / "h.jsonl").commits == (first, second)


def test_a_line_is_there_once(tmp_path: Path) -> None:
    """A CI job that runs again adds nothing; another job of the commit adds its own files, and a later line counts."""
    path = tmp_path / "h.jsonl"
    assert append_record(path, at("a", sized(10)))
    assert not append_record(path, at("a", sized(10)))
    append_record(path, at("a", record("n.tflite")))
    append_record(path, at("a", sized(20)))
    (merged,) = read_history(path).commits
    assert {item.path: item.download_bytes["deflate"] for item in merged.files} == {"m.tflite": 20, "n.tflite": 1600}


def _job(path: Path, name: str) -> None:
    for number in range(25):
        append_record(path, at(f"{name}{number}", record(layers=tuple(layer(f"{n}") for n in range(40)))))


def test_jobs_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four processes, 25 long lines each."""
    path, spawn = tmp_path / "h.jsonl", multiprocessing.get_context("fork")
    jobs = [spawn.Process(target=_job, args=(path, name)) for name in "abcd"]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    read = read_history(path)
    assert read.damaged == ()
    assert {item.commit.name for item in read.commits} == {f"{name}{n}" for name in "abcd" for n in range(25)}


DAMAGED = {
    "not JSON": b"{x",
    "cut off": b'{"schema_version":1,"commit":"b","da',
    "no object": b"[1]",
    "another version": b'{"schema_version":9,"commit":"b","date":"2026-01-01T12:00:00Z"}',
    "no version": b"{}",
    "no commit": b'{"schema_version":1,"date":"2026-01-01T12:00:00Z","tool":"1","files":[]}',
    "no date": b'{"schema_version":1,"commit":"b","date":"yesterday","tool":"1","files":[]}',
    "two lines": b'{"schema_version":1,"commit":"b\\nc","date":"2026-01-01T12:00:00Z","tool":"1","files":[]}',
    "files of another kind": b'{"schema_version":1,"commit":"b","date":"2026-01-01T12:00:00Z","tool":"1","files":[{}]}',
    "no text": b"\xff\xfe\x00",
    "deep": b'{"schema_version":' + b"[" * 5000,
    "a conflict that git left": b"<<<<<<< HEAD",
    "a metric beyond bounds": b'{"schema_version":1,"commit":"b","date":"2026-01-01T12:00:00Z","tool":"1","files":[],'
    b'"metrics":{"m":{"a":1e300}}}',
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_costs_only_itself(tmp_path: Path, line: bytes) -> None:
    """It is named by its number, and what stands around it is read."""
    path = tmp_path / "h.jsonl"
    append_record(path, at("a"))
    path.write_bytes(path.read_bytes() + line + b"\n\n")
    append_record(path, at("c", day=3))
    read = read_history(path)
    assert [item.commit.name for item in read.commits] == ["a", "c"]
    assert [item.line for item in read.damaged] == [2]
    assert "\n" not in read.damaged[0].reason


def test_a_writer_that_was_killed(tmp_path: Path) -> None:
    """Half of its line is left; the next begins on a line of its own."""
    path = tmp_path / "h.jsonl"
    append_record(path, at("a"))
    path.write_bytes(path.read_bytes()[:-40])
    append_record(path, at("b"))
    assert [item.commit.name for item in read_history(path).commits] == ["b"]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told in one line."""
    path = tmp_path / "h.jsonl"
    append_record(path, at("a"))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"h\.jsonl: cannot be written: No space left"):
        append_record(path, at("b"))
    assert path.read_bytes() == before


def test_places_that_are_no_history(tmp_path: Path) -> None:
    """A folder and a missing file, to write and to read."""
    with pytest.raises(OutputError, match="directory"):
        append_record(tmp_path, at("a"))
    for place in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError):
            read_history(place)


# --- since when -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "since"),
    [
        ("2 %", "2 %", None),
        ("2 % over the last 10 commits", "2 %", Since(commits=10)),
        ("50 kB over the last 1 commit", "50 kB", Since(commits=1)),
        ("5 % since tag v1", "5 %", Since(tag="v1")),
        ("5%  since release/1.2 ", "5%", Since(tag="release/1.2")),
    ],
)
def test_growth_as_people_write_it(text: str, limit: str, since: Since | None) -> None:
    """A limit, and from which commit it counts."""
    assert split_since(text) == (limit, since)


@pytest.mark.parametrize("text", ["2 % over the last commits", "2 % over 10 commits", "2 % since", "2 % since tag a b"])
def test_growth_that_nobody_understands(text: str) -> None:
    """The message shows what to write."""
    with pytest.raises(UsageError, match="over the last 10 commits"):
        split_since(text)


def test_growth_since_nothing() -> None:
    """No commits, or both ways at once, are nothing to count from."""
    for wrong in ({}, {"commits": 0}, {"commits": 2, "tag": "v1"}):
        with pytest.raises(UsageError):
            Since(**wrong)
    with pytest.raises(UsageError, match="no limit"):
        Budget(growth_since=Since(commits=2), install_bytes=5)


def past(*downloads: int, **more: Any) -> Past:
    """Commits with these downloads, the nearest first."""
    records = [at(f"c{n}", sized(size), day=20 - n) for n, size in enumerate(downloads)]
    return Past(path=Path("sizes.jsonl"), commits=tuple(records), **more)


def grown(now: int, before: Past, since: Since | None, share: float = 0.02) -> Any:
    """The verdict on the growth to that download."""
    budget = Budget(growth_share=share, growth_since=since)
    (verdict,) = budget_verdicts(sized(now), [budget], past=before)
    return verdict


def test_slow_creep_is_caught() -> None:
    """1 % a commit passes each time against the commit before, and not over ten."""
    sizes = [round(1000 * 1.01**n) for n in range(12)]
    before = past(*reversed(sizes[:-1]))
    assert grown(sizes[-1], before, None).passed is True
    over = grown(sizes[-1], before, Since(commits=10))
    assert (over.passed, over.since, over.asked) == (False, "c9", "over the last 10 commits")
    assert over.actual == pytest.approx(sizes[-1] / sizes[1] - 1)


def test_a_short_history_counts_from_its_first_line() -> None:
    """Fewer commits than asked for: what there is."""
    assert grown(1030, past(1020, 1000), Since(commits=10)).since == "c1"


def test_the_first_line_of_all() -> None:
    """There growth is 0, said so; not where lines were damaged, which may have had it."""
    first = grown(1000, past(is_new=True), Since(commits=10))
    assert (first.passed, first.actual, first.since) == (True, 0, None)
    assert "no line" in first.detail
    damaged = (Damaged(line=1, reason="is not JSON"),)
    lost = grown(1000, past(damaged=damaged), Since(commits=10))
    assert (lost.passed, lost.unknown) == (None, Unknown.NOT_IN_HISTORY)
    new = Past(path=Path("sizes.jsonl"), commits=(at("a", record("n.tflite")),), damaged=damaged)
    assert grown(1000, new, Since(commits=10)).passed is True


def test_since_a_tag() -> None:
    """From the commit of the tag, or the nearest before it with this file; without one it cannot be judged."""
    before = past(1000, tagged={"v1": (at("t2", record("n.tflite")), at("t1", sized(900)))})
    assert grown(1000, before, Since(tag="v1"), 0.2).since == "t1"
    missing = grown(1000, before, Since(tag="v2"))
    assert (missing.passed, missing.unknown) == (None, Unknown.NOT_IN_HISTORY)
    here = replace(before, tags_here=("v1",))
    assert grown(1000, here, Since(tag="v1")).passed is True


# --- what git tells -------------------------------------------------------------------------------------------------


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, which is the current folder."""
    monkeypatch.chdir(repository(tmp_path / "repo"))
    return tmp_path / "repo"


def note(folder: Path, path: Path, download_bytes: int) -> None:
    """Add the line of the commit that is checked out."""
    found = this_commit(folder)
    append_record(path, CommitRecord(commit=found, tool="0.1.0", files=(sized(download_bytes),)))


def test_a_branch_counts_its_own_commits(repo: Path, tmp_path: Path) -> None:
    """Of two branches in one history each sees its own line; a commit that is not recorded is passed over."""
    path = tmp_path / "sizes.jsonl"
    names = {}
    for day, size in enumerate((100, 110), start=1):
        names[size] = commit(repo, day=day, tag="v1" if size == 100 else "")
        note(repo, path, size)
    git(repo, "checkout", "--quiet", "-b", "side")
    names[200] = commit(repo, day=3)
    note(repo, path, 200)
    git(repo, "checkout", "--quiet", "main")
    commit(repo, day=4)  # not recorded
    commit(repo, day=5)
    found = load_past(path, this_commit(repo), ["v1", "side", "nowhere", "--all"])
    assert [item.commit.name for item in found.commits] == [names[110], names[100]]
    assert found.by_git
    assert {tag: [item.commit.name for item in line] for tag, line in found.tagged.items()} == {
        "v1": [names[100]],
        "side": [names[200], names[110], names[100]],
        "nowhere": [],
        "--all": [],
    }
    git(repo, "checkout", "--quiet", "side")
    assert [item.commit.name for item in load_past(path, this_commit(repo)).commits] == [names[110], names[100]]


def test_a_shallow_clone_counts_by_date(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so; tags are those of the lines."""
    path = tmp_path / "sizes.jsonl"
    for day, size in enumerate((100, 110, 120), start=1):
        commit(repo, day=day, tag="v1" if size == 100 else "")
        note(repo, path, size)
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repo}", "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    found = load_past(path, this_commit(tmp_path / "shallow"), ["v1"])
    assert [item.files[0].download_bytes["deflate"] for item in found.commits] == [110, 100]
    assert [item.files[0].download_bytes["deflate"] for item in found.tagged["v1"]] == [100]
    assert any("shallow clone" in note for note in found.notes())


def test_tags_of_a_commit(repo: Path) -> None:
    """Several, with commas in their names; the date is in UTC."""
    commit(repo, tag="v1,x")
    git(repo, "tag", "latest")
    found = this_commit(repo)
    assert (found.tags, found.date) == (("latest", "v1,x"), "2026-01-01T12:00:00Z")


def test_no_commit_here(tmp_path: Path) -> None:
    """No repository, and one without a commit: what is wrong and what to type."""
    for folder, told in ((tmp_path, "no git repository"), (repository(tmp_path / "new"), "no commit yet")):
        with pytest.raises(UsageError, match=f"{told}.*--commit NAME"):
            this_commit(folder)


def test_a_repository_starts_no_program(repo: Path, tmp_path: Path) -> None:
    """What its configuration names is not run when it is only looked at."""
    commit(repo)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "gpg.program", "pager.log", "diff.external"):
        git(repo, "config", key, str(program))
    git(repo, "config", "log.showSignature", "true")
    this_commit(repo)
    assert not (tmp_path / "ran").exists()


# --- steps ----------------------------------------------------------------------------------------------------------


def test_a_hundred_runs_without_a_change(tmp_path: Path) -> None:
    """No step, and no alarm over any number of commits."""
    file, path = branches(tmp_path / "m.tflite", [40] * 6), tmp_path / "h.jsonl"
    for number in range(100):
        append_record(path, at(f"c{number}", account(file)))
    (trend,) = trends(read_history(path))
    assert (len(trend.points), trend.steps) == (100, ())
    limits = [Budget(growth_bytes=0, growth_since=Since(commits=n)) for n in (1, 10, 99)]
    before = Past(path=path, commits=read_history(path).commits)
    assert {item.passed for item in budget_verdicts(account(file), limits, past=before)} == {True}


def test_a_layer_that_grew_by_a_percent_is_named(tmp_path: Path) -> None:
    """In 100 of 100, whichever layer it is: by the step and by the limit that it breaks."""
    rng, named, told = np.random.default_rng(0), 0, 0
    for seed in range(100):
        units = [100] * 8
        before = account(branches(tmp_path / "m.tflite", units, seed))
        grew = int(rng.integers(8))
        units[grew] += 1
        after = account(branches(tmp_path / "m.tflite", units, seed))
        (trend,) = trends(history(at("a", before), at("b", after, day=2)))
        ((old, new),) = trend.steps[0].layers
        named += bool(old and new and new.name == f"branch_{grew}" and new.raw_bytes == 1.01 * old.raw_bytes)
        budget = Budget(growth_bytes=0, growth_since=Since(commits=10))
        (verdict,) = budget_verdicts(after, [budget], past=Past(path=Path("h"), commits=(at("a", before),)))
        told += verdict.passed is False and verdict.layers[:1] == (f"branch_{grew}",)
    assert (named, told) == (100, 100)


def test_what_made_a_step() -> None:
    """A layer in the file, else its part of the download, else nothing but another version of the tool."""
    stem, head = layer("stem"), layer("head")
    wider = layer("head", raw_bytes=4040, deflate_bytes=1111)
    moved = layer("stem", deflate_bytes=1103)
    (trend,) = trends(
        history(
            at("a", sized(100, layers=(stem, head))),
            at("b", sized(101, layers=(moved, wider)), day=2),
            at("c", sized(102, layers=(stem, wider)), day=3),
            at("d", sized(103, layers=(stem, wider)), day=4, tool="0.2.0"),
            at("e", sized(103, layers=(stem, wider)), day=5, tool="0.3.0"),
        )
    )
    assert [step.after.record.commit.name for step in trend.steps] == ["b", "c", "d"]
    names = [[new.name for _, new in step.layers if new] for step in trend.steps]
    assert names == [["head"], ["stem"], []]
    assert [step.new_tool for step in trend.steps] == [False, False, True]


@pytest.mark.parametrize("deflate_bytes", [1100, None])
def test_what_made_a_step_of_the_download(deflate_bytes: int | None) -> None:
    """The layer whose content changed, not the one behind it whose part moved with it; after a quick look, too, which
    counts no parts."""
    before = (layer("stem", deflate_bytes=deflate_bytes), layer("head", deflate_bytes=deflate_bytes))
    grown, moved = deflate_bytes and deflate_bytes + 200, deflate_bytes and deflate_bytes + 9
    after = (layer("stem", deflate_bytes=grown, bound_bytes=1300), layer("head", deflate_bytes=moved))
    first, second = at("a", sized(100, layers=before)), at("b", sized(300, layers=after), day=2)
    (trend,) = trends(history(first, second))
    assert [new.name for _, new in trend.steps[0].layers if new] == ["stem"]
    budget = Budget(growth_share=0.01)
    (verdict,) = budget_verdicts(second.files[0], [budget], past=Past(path=Path("h"), commits=(first,)))
    assert verdict.layers == ("stem",)


def test_the_trend_of_a_layer() -> None:
    """Where it is, with its own steps; a name that is almost right is told."""
    first = at("a", sized(100, layers=(layer("stem"),)))
    second = at("b", sized(100, layers=(layer("stem"), layer("head"))), day=2)
    third = at("c", sized(100, layers=(layer("stem"), layer("head", raw_bytes=4400))), day=3)
    (trend,) = layer_trends(history(first, second, third), "head")
    assert [point.install_bytes for point in trend.points] == [4000, 4400]
    assert [step.after.record.commit.name for step in trend.steps] == ["c"]
    with pytest.raises(UsageError, match="did you mean 'head'"):
        layer_trends(history(first, second), "haed")


def test_a_file_that_came_and_went() -> None:
    """Those of the last commit come first."""
    found = trends(history(at("a", record("old.tflite")), at("b", record("new.tflite"), day=2)))
    assert [trend.path for trend in found] == ["new.tflite", "old.tflite"]


def test_a_long_history_is_read_in_a_moment(tmp_path: Path) -> None:
    """What did not change is read once: 1,000 commits of 60 layers are 60 layers and the changed ones."""
    layers, lines = [layer(f"l{n}") for n in range(60)], []
    for number in range(1000):
        layers[number % 60] = layer(f"l{number % 60}", deflate_bytes=1100 + number)
        lines.append(line_of(at(f"c{number}", record(layers=tuple(layers)))))
    (tmp_path / "h.jsonl").write_bytes(b"\n".join(lines))
    read = read_history(tmp_path / "h.jsonl")
    kept = {id(item) for entry in read.commits for account in entry.files for item in account.layers}
    assert (len(read.commits), len(kept)) == (1000, 59 + 1000)

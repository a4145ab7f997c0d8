"""Every command and every Python block of README.md, CONTRIBUTING.md and docs/ is run, page by page, on small files.

A page is one session in one folder: what a command writes, the next one finds. Files that a page only names are those
of STAND_INS and the tiny model of conftest.py. A block that shows a file (```toml title="edgeprune.toml") is written
first. A block that cannot run here says why in a comment above it (<!-- no-run: reason -->), and is listed in NOT_RUN.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, image_arrays
from doc_blocks import PAGES, Block, Command, blocks_of, commands_in
from places import ROOT, TESTS

from edgeprune.checker.latency import measure, profiles

FILES = TESTS / "files"
# Name in a page -> what stands for it here.
STAND_INS = {
    "dense.tflite": "float32.tflite",
    "models/dense.tflite": "float32.tflite",
    "narrow.tflite": "int8.tflite",
    "mobile.tflite": "eligible_sparse.tflite",
    "model.tflite": "float32_sparse.tflite",
    "pruned.tflite": "float32_sparse.tflite",
    "models/photo.tflite": "float32_sparse.tflite",
    "Model.mlpackage": "sparse_int8.mlpackage",
    "base/models/photo.tflite": "float32.tflite",
}
MAKERS = {"run", "init", "prune", "groups", "finetune", "convert", "verify"}
PROFILE = "pixel3-tflite-4t-float32"
RUN = ("shell", "console", "python")
# Every block that does not run here: where, and why.
NOT_RUN = {
    ("README.md", "pip install"),
    ("README.md", "searches for minutes"),
    ("CONTRIBUTING.md", "sets up an environment"),
    ("CONTRIBUTING.md", "writes into the repository"),
    ("blame.md", "makes a file of each layer"),
    ("channel-pruning.md", "exports a network up to nine times"),
    ("ci.md", "pip install"),
    ("ci.md", "needs a git repository"),
    ("convert-and-verify.md", "makes two files of each layer"),
    ("convert-and-verify.md", "scores a dozen files"),
    ("core-ml.md", "scores a dozen packages"),
    ("first-five-minutes.md", "pip install"),
    ("first-five-minutes.md", "trains for minutes"),
    ("first-five-minutes.md", "writes into the home folder"),
    ("getting-started.md", "pip install"),
    ("latency.md", "needs an NVIDIA GPU"),
    ("latency.md", "needs an emulated Arm system"),
    ("latency.md", "needs LiteRT.js and node"),
    ("latency.md", "needs Vela"),
    ("report.md", "needs a finished run"),
    ("shrink.md", "makes up to five packages"),
    ("shrink.md", "searches for minutes"),
    ("sparse-kernels.md", "a network that is not here"),
    ("sparse-kernels.md", "converts a mobile network"),
    ("sparse-kernels.md", "needs a phone"),
    ("sparse-kernels.md", "needs node and LiteRT.js"),
    ("sparse-kernels.md", "needs an emulated Arm system"),
    ("sweep.md", "trains for minutes"),
    ("which-pruning.md", "makes a dozen files"),
    ("which-pruning.md", "trains for minutes"),
    ("which-pruning.md", "trains, and times files for minutes"),
}


def slow(page: Path) -> bool:
    """Whether a page makes models, for which TensorFlow is loaded."""
    run = [block for block in blocks_of(page) if not block.reason]
    commands = [c for block in run if block.language in ("shell", "console") for c in commands_in(block)]
    return any(b.language == "python" for b in run) or any(set(c.words[1:2]) & MAKERS for c in commands)


def runnable(page: Path) -> bool:
    """Whether a page has something to run."""
    return any(block.language in RUN and not block.reason for block in blocks_of(page))


@pytest.fixture
def made_up_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed: the candidate takes half as long as the baseline and its copy."""

    def times(*_: Any) -> measure.ProcessTimes:
        columns = np.array([1.0, 1.0, 0.5]) * np.random.default_rng(0).normal(1, 0.001, (30, 3))
        return measure.ProcessTimes(cpu_ms=columns, wall_ms=columns)

    monkeypatch.setattr(measure, "_time_process", times)


@pytest.fixture
def small_phone(covered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile that the pages name covers tiny networks too."""
    known = {**profiles.profile_paths(), PROFILE: covered}
    monkeypatch.setattr(profiles, "profile_paths", lambda: known)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_phone: None, made_up_times: None) -> Path:
    """A folder with the files that pages name, which is the current one."""
    place = tmp_path / "session"
    for name, source in STAND_INS.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (FILES / source).is_dir() else shutil.copy)(FILES / source, place / name)
    with zipfile.ZipFile(place / "app-release.apk", "w") as bundle:
        bundle.write(FILES / "int8.tflite", "assets/model.tflite")
    (place / "sample_models").symlink_to(ROOT / "sample_models")
    (place / "pixel9.csv").write_text("file,latency_ms\ndense.tflite,0.02\n")
    (place / "labels.txt").write_text("shirt\nshoe\nbag\n")
    monkeypatch.chdir(place)
    return place


def add_model(folder: Path, model: Any) -> None:
    """The tiny model and its samples."""
    model.save(folder / "model.keras")
    for split, (count, seed) in {"train": (96, 3), "validation": (48, 5), "test": (48, 4)}.items():
        np.savez_compressed(folder / f"{split}.npz", **image_arrays(count, seed))


def check(block: Block, command: Command, call: Callable[..., Outcome]) -> None:
    """Run one command and hold its exit code, and its output where the page shows one, against the page."""
    assert command.words[0] == "edgeprune", f"{block.place}: {command.words[0]} is not run here; say why: no-run"
    outcome = call(*command.words[1:])
    assert outcome.code == command.code, f"{block.place}: {' '.join(command.words)}\n{outcome.out}{outcome.err}"
    if block.language == "console":
        told = "\n".join(line.rstrip() for line in (outcome.out + outcome.err).strip("\n").splitlines())
        assert told == command.shown, f"{block.place}: {' '.join(command.words)}\n{told}"


def run(block: Block, call: Callable[..., Outcome], names: dict[str, Any]) -> None:
    """Do what a reader of this block would do."""
    if block.reason:
        return
    if block.title:
        Path(block.title).parent.mkdir(parents=True, exist_ok=True)
        Path(block.title).write_text(block.body, encoding="utf-8")
    elif block.language == "python":
        exec(compile("\n" * block.line + block.body, block.page, "exec"), names)
    elif block.language in ("shell", "console"):
        for command in commands_in(block):
            check(block, command, call)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if slow(page) else [])
        for page in PAGES
        if runnable(page)
    ],
)
def test_commands(page: Path, folder: Path, call: Callable[..., Outcome], request: pytest.FixtureRequest) -> None:
    """What a page says can be typed can be typed, and ends as the page says."""
    if slow(page):
        add_model(folder, request.getfixturevalue("image_model"))
        request.getfixturevalue("one_converter")
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        run(block, call, names)


def test_blocks_that_do_not_run() -> None:
    """They are these and no others."""
    found = {(b.page.name, b.reason) for page in PAGES for b in blocks_of(page) if b.reason}
    assert found == NOT_RUN


def test_every_block_names_its_language() -> None:
    """A block without a language, or with another spelling of shell, would be passed over."""
    known = {*RUN, "toml", "yaml", "text", "json", "diff", "mermaid", "ruby", "kotlin"}
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert [block.place for block in blocks if block.language not in known] == []
    assert sum(page.read_text().count("\n```") for page in PAGES) == 2 * len(blocks)

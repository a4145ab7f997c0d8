"""The command line when all is well: what it prints, what it writes, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.runtime.session import installed_runtimes

FILES = TESTS / "files"
needs_runtime = pytest.mark.skipif(not installed_runtimes(), reason="no TFLite runtime is installed")


def test_version(call: Any) -> None:
    """--version prints the name and the version, nothing else."""
    from importlib.metadata import version

    outcome = call("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"edgeprune {version('edgeprune')}\n", "")


def test_version_with_what_confines_children(call: Any) -> None:
    """--verbose adds what binds child processes here; without --version it is an error."""
    from edgeprune.host.children import confinement_here

    outcome = call("--version", "--verbose")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[1:] == [f"sandbox of child processes: {confinement_here()}"]
    assert call("--verbose", "--version").out == outcome.out
    assert call("--verbose", "devices").code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("streams", "said"),
    [
        (">/dev/full", "edgeprune: standard output: No space left on device\n"),
        (
            ">&-",
            "edgeprune: standard output is closed, so nothing could be told; send it to /dev/null if nobody reads it\n",
        ),
        (">&- 2>/dev/full", ""),
    ],
)
def test_a_stdout_that_takes_nothing(streams: str, said: str, unbuffered: str) -> None:
    """What could not be told is exit code 3, never 0, and one line on stderr."""
    command = ["sh", "-c", f'"$0" -P -m edgeprune --version {streams}', sys.executable]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}
    )
    assert (done.returncode, done.stderr) == (3, said)


def test_check_of_real_files(call: Any) -> None:
    """A look at a file, without a limit; the sparse file's zeros are seen."""
    outcome = call("check", FILES / "float32_sparse.tflite", "--json", "--show")
    (facts,) = json.loads(outcome.out)["files"]
    assert (outcome.code, facts["format"]) == (0, "tflite")
    assert facts["zeros"] > 0
    assert facts["raw_bytes"] == (FILES / "float32_sparse.tflite").stat().st_size


@pytest.mark.slow
class TestPrune:
    """`edgeprune prune`."""

    def test_text(self, call: Any, work: Path) -> None:
        """Asked and got, what stayed dense and why, the score before and after, and where the file is."""
        target = work / "out.keras"
        outcome = call("prune", work / "model.keras", "--sparsity", 0.75, "-o", target, "--data", work / "test.npz")
        assert (outcome.code, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert lines[0] == "sparsity: asked 75.00%, got 75.00% of the weights of 3 kernels"
        assert lines[1].endswith("): norm")
        assert lines[2].endswith("): depthwise")
        assert lines[3].startswith("accuracy: 0.")
        assert lines[3].endswith("on 48 samples (the Keras model)")
        assert lines[4] == f"Written: {target}"

    def test_json(self, call: Any, work: Path) -> None:
        """The same for programs: counts by hand, hashes of both files, null where nothing was measured."""
        from edgeprune.artifact import sha256_of

        outcome = call("prune", work / "model.keras", "--sparsity", 0.75, "-o", work / "out.keras", "--json")
        facts = json.loads(outcome.out)
        assert (outcome.code, outcome.err) == (0, "")
        assert (facts["asked"], facts["got"]) == (0.75, 0.75)
        assert (facts["parameters"], facts["nonzero_parameters"]) == (339, 339 - 153)
        assert (facts["metric"], facts["metrics"]) == (None, [])
        assert facts["output"]["sha256"] == sha256_of(work / "out.keras")
        assert [layer["layer"] for layer in facts["skipped"]] == ["norm", "depthwise"]

    def test_overwrite(self, call: Any, work: Path) -> None:
        """With --overwrite the new file replaces the old one; the input may be its own output."""
        options = ("--sparsity", 0.5, "-o", work / "model.keras", "--overwrite", "-v")
        outcome = call("prune", work / "model.keras", *options)
        assert (outcome.code, outcome.err) == (0, "")
        assert "conv" in outcome.out
        assert sorted(p.name for p in work.iterdir()) == ["model.keras", "test.npz", "train.npz"]


@pytest.mark.slow
def test_finetune(call: Any, work: Path) -> None:
    """`edgeprune finetune` keeps zeros, says which epoch it kept, and gives the same bytes of weights again."""
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.keras.models import count_nonzero_parameters

    call("prune", work / "model.keras", "--sparsity", 0.75, "-o", work / "pruned.keras")
    options = ("--train", work / "train.npz", "--validation", work / "test.npz", "--epochs", 3, "--batch-size", 16)
    first = call("finetune", work / "pruned.keras", "-o", work / "a.keras", *options, "-q")
    again = call("finetune", work / "pruned.keras", "-o", work / "b.keras", *options, "--json", "-q")
    assert (first.code, first.err, again.code, again.err) == (0, "", 0, "")
    lines = first.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3", "Written"]
    assert sum("<- kept" in line for line in lines) == 1
    assert len(json.loads(again.out)["epochs"]) == 3
    one, two = load_model(work / "a.keras"), load_model(work / "b.keras")
    assert [w.tobytes() for w in one.get_weights()] == [w.tobytes() for w in two.get_weights()]
    assert count_nonzero_parameters(one) <= 339 - 153


@pytest.mark.slow
@needs_runtime
@pytest.mark.usefixtures("one_converter")
class TestConvert:
    """`edgeprune convert`."""

    def test_float(self, call: Any, work: Path) -> None:
        """Without data: sizes, zeros, the difference to the model on random samples, and what runs the file."""
        target = work / "out.tflite"
        outcome = call("convert", work / "model.keras", "--to", "tflite", "-o", target, "-q")
        assert (outcome.code, outcome.err) == (0, "")
        for part in ("install ", "zeros in the file's weights: 0.00%", "8 random samples", "runs on: ", "not measured"):
            assert part in outcome.out
        assert outcome.out.endswith(f"Written: {target}\n")

    def test_int8_with_data(self, call: Any, work: Path) -> None:
        """With data the exported file itself is scored; the JSON names the file where it lies."""
        target = work / "out.tflite"
        options = ("--precision", "int8", "--calibration", work / "train.npz", "--data", work / "test.npz")
        options += ("--codecs", "brotli")
        outcome = call("convert", work / "model.keras", "--to", "tflite", "-o", target, *options, "--json", "-q")
        assert (outcome.code, outcome.err) == (0, "")
        facts = json.loads(outcome.out)["output"]
        assert (facts["path"], facts["precision"], facts["metric"]["samples"]) == (str(target), "int8", 48)
        assert facts["parity_on"] == "samples of test.npz"
        assert list(facts["download_bytes"]) == ["deflate", "brotli", "zstd12"]
        assert all(run["ran"] for run in facts["runtimes"])
        first, number = next(iter(installed_runtimes().items()))
        assert (facts["oldest_runtime"], facts["float_ops"]) == (f"{first} {number}", [])

    def test_floats_in_an_integer_file(self, call: Any, keras: Any, tmp_path: Path) -> None:
        """Without --float-fallback an operation that stays in float is an error that offers it; with it, it is told."""
        x = keras.Input((4,), name="x")
        keras.Model(x, keras.layers.Dense(3)(keras.layers.ELU()(keras.layers.Dense(5)(x)))).save(tmp_path / "m.keras")
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "train.npz", x=rng.normal(size=(20, 4)).astype(np.float32), y=np.zeros(20, np.int64))
        options = ("--to", "tflite", "--precision", "int8", "--calibration", tmp_path / "train.npz", "-q")
        target = tmp_path / "m.tflite"
        call("convert", tmp_path / "m.keras", "-o", target, *options).error(3, "ELU", "--float-fallback")
        assert not target.exists()
        outcome = call("convert", tmp_path / "m.keras", "-o", target, *options, "--float-fallback")
        assert (outcome.code, outcome.err) == (0, "")
        assert "\ncomputes in float: ELU '" in outcome.out
        assert "\noldest runtime that ran it: " in outcome.out

    def test_indexes_only(self, call: Any, keras: Any, tmp_path: Path) -> None:
        """A model that takes only indexes is converted without data too: its random samples are all alike."""
        x = keras.Input((2,), dtype="int32", name="index")
        h = keras.layers.Flatten()(keras.layers.Embedding(10, 4)(x))
        keras.Model(x, keras.layers.Dense(3)(h)).save(tmp_path / "m.keras")
        outcome = call("convert", tmp_path / "m.keras", "--to", "tflite", "-o", tmp_path / "m.tflite", "-q")
        assert (outcome.code, outcome.err) == (0, "")

    def test_core_ml_twice(self, call: Any, work: Path) -> None:
        """A package is written, and replaced whole with --overwrite."""
        pytest.importorskip("coremltools")
        target = work / "out.mlpackage"
        for precision in ("float16", "int8"):
            options = ("--to", "coreml", "--precision", precision, "-o", target, "--overwrite", "--json", "-q")
            outcome = call("convert", work / "model.keras", *options)
            assert (outcome.code, outcome.err) == (0, "")
            facts = json.loads(outcome.out)["output"]
            assert (facts["precision"], facts["metric"], facts["sparsity"]) == (precision, None, 0.0)
        assert sorted(p.name for p in work.iterdir()) == ["model.keras", "out.mlpackage", "test.npz", "train.npz"]

    def test_trusted_code(self, call: Any, keras: Any, tmp_path: Path) -> None:
        """A Lambda that is trusted is converted like any layer."""
        x = keras.Input((3,), name="x")
        keras.Model(x, keras.layers.Dense(2)(keras.layers.Lambda(lambda v: v * 2)(x))).save(tmp_path / "m.keras")
        options = ("--to", "tflite", "-o", tmp_path / "m.tflite", "--trust-code", "-q")
        outcome = call("convert", tmp_path / "m.keras", *options)
        assert (outcome.code, outcome.err) == (0, "")


STEPS = """
[[steps]]
kind = "prune"
sparsity = 0.75
epochs = 2
batch_size = 16
frequency = 1

[[steps]]
kind = "finetune"
epochs = 1
batch_size = 16

[[steps]]
kind = "quantize"
samples = 40

[[exports]]
format = "tflite"
precision = "int8"

[[exports]]
format = "tflite"
precision = "float16"

[budget]
download = "%s"
codec = "xz"
min_sparsity = 0.5
"""


@pytest.mark.slow
@needs_runtime
@pytest.mark.usefixtures("one_converter")
class TestRun:
    """`edgeprune run` on the tiny model."""

    def test_run(self, call: Any, work: Path, recipe: Any) -> None:
        """The folder holds what the ledger lists, hash by hash, and all is within the budget."""
        from edgeprune.artifact import sha256_of

        outcome = call("run", recipe(STEPS % "1 MB"), "-o", work / "out", "-q")
        assert (outcome.code, outcome.err) == (0, "")
        ledger = json.loads((work / "out" / "ledger.json").read_text())
        files = [a for stage in ledger["stages"] for a in stage["artifacts"]]
        assert [stage["kind"] for stage in ledger["stages"]] == ["dense", "prune", "finetune", "quantize"]
        assert {a["path"] for a in files if a["exported"]} == {"model.int8.tflite", "model.float16.tflite"}
        assert {tuple(sorted(a["download_bytes"])) for a in files} == {("deflate", "xz", "zstd12")}
        for artifact in files:
            assert sha256_of(work / "out" / artifact["path"]) == artifact["sha256"]
        written = {p.relative_to(work / "out").as_posix() for p in (work / "out").rglob("*") if p.is_file()}
        assert written == {a["path"] for a in files} | {"ledger.json", "report.md", "report.html", "model.keras"}
        assert ledger["stages"][1]["pruning"]["got"] == 0.75
        assert {verdict["kind"] for verdict in ledger["verdicts"]} == {"download", "min_sparsity"}
        assert all(verdict["passed"] for verdict in ledger["verdicts"])
        assert sorted(p.name for p in work.iterdir()) == ["model.keras", "out", "recipe.toml", "test.npz", "train.npz"]
        report = (work / "out" / "report.md").read_text()
        assert report.startswith("# model.keras: ")
        page = (work / "out" / "report.html").read_text()
        assert ": where the bytes are, against stages/model.dense.float32.tflite" in page
        assert "Which classes pay" in page
        told = [change for a in files if a["path"] == "model.int8.tflite" for change in a["answers"]]
        assert [change["answers"] for change in told] == [48]

    def test_over_budget(self, call: Any, work: Path, recipe: Any) -> None:
        """A limit that is not met is exit code 1, its verdict alone says so, and every file is there all the same, but
        for the page where the recipe wants none."""
        steps = '[[exports]]\nformat = "tflite"\nprecision = "float32"\n'
        limits = '[budget]\ndownload = "1 kB"\ncodec = "xz"\nmin_sparsity = 0.0\n'
        path = recipe(steps + limits)
        path.write_text("html = false\n" + path.read_text())
        outcome = call("run", path, "-o", work / "out", "-q")
        assert (outcome.code, outcome.err) == (1, "")
        assert outcome.out.endswith("(models, ledger.json, report.md)\n")
        ledger = json.loads((work / "out" / "ledger.json").read_text())
        assert {verdict["kind"]: verdict["passed"] for verdict in ledger["verdicts"]} == {
            "download": False,
            "min_sparsity": True,
        }
        written = {p.relative_to(work / "out").as_posix() for p in (work / "out").rglob("*") if p.is_file()}
        files = {a["path"] for stage in ledger["stages"] for a in stage["artifacts"]}
        assert written == files | {"ledger.json", "report.md", "model.keras"}

    def test_dry_run(self, call: Any, work: Path, recipe: Any) -> None:
        """--dry-run prints the plan and writes nothing."""
        outcome = call("run", recipe(STEPS % "1 MB"), "--dry-run")
        assert (outcome.code, outcome.err) == (0, "")
        for part in ("(339 parameters)", "train 96, validation 48, test 48", "prune", "fine-tune", "int8", "float16"):
            assert part in outcome.out
        assert sorted(p.name for p in work.iterdir()) == ["model.keras", "recipe.toml", "test.npz", "train.npz"]

    def test_json_and_progress(self, call: Any, work: Path, recipe: Any) -> None:
        """--json puts the ledger on stdout; progress goes to stderr, in plain lines off a terminal."""
        path = recipe('[[exports]]\nformat = "tflite"\nprecision = "float32"\n')
        outcome = call("run", path, "-o", work / "out", "--json")
        assert outcome.code == 0
        assert json.loads(outcome.out) == json.loads((work / "out" / "ledger.json").read_text())
        assert outcome.err.startswith("check recipe, model and data ...\n")
        assert "\r" not in outcome.err

    def test_growth_against_an_earlier_run(self, call: Any, work: Path, recipe: Any) -> None:
        """Without a baseline the only limit cannot be checked; against the ledger of the run before nothing grew."""
        path = recipe('[[exports]]\nformat = "tflite"\nprecision = "float32"\n[budget]\ngrowth = "0 %"\n')
        outcome = call("run", path, "-o", work / "out", "-q")
        assert (outcome.code, outcome.err) == (3, "")
        assert "growth was not judged: add --baseline FILE to the run" in outcome.out
        outcome = call("run", path, "-o", work / "again", "-q", "--baseline", work / "out" / "ledger.json")
        assert (outcome.code, outcome.err) == (0, "")
        assert "model.float32.tflite: growth of download (deflate) 0.00 %, limit 0.00 %: ok" in outcome.out
        call("run", path, "-o", work / "more", "-q", "--baseline", work / "none.json").error(4, "none.json")

    def test_overwrite(self, call: Any, work: Path, recipe: Any) -> None:
        """A second run with --overwrite replaces the first; its ledger says the same but for the times."""
        path = recipe('[[steps]]\nkind = "prune"\nsparsity = 0.5\n')
        ledgers = []
        for _ in range(2):
            assert call("run", path, "-o", work / "out", "-q", "--overwrite").code == 0
            ledger = json.loads((work / "out" / "ledger.json").read_text())
            for made in ledger["stages"]:
                del made["seconds"]
            ledgers.append(ledger)
        assert ledgers[0] == ledgers[1]


def test_scores_of_the_sample_images(work: Path) -> None:
    """The made-up images hold every class, so that no score here is a constant."""
    with np.load(work / "test.npz") as arrays:
        assert set(arrays["y"].tolist()) == {0, 1, 2}

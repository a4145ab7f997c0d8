"""The command line when all is well: what it prints, what it writes, and the exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.ledger import ArtifactEntry, Estimate, Ledger, MetricValue, RuntimeRun, Stage, Verdict, oldest_runtime
from edgeprune.maker.recipe.recipe import Budget
from edgeprune.maker.recipe.summary import budget_verdicts, summary_sentences
from edgeprune.report.ledger_report import ledger_markdown, ledger_text
from edgeprune.runtime import installed_runtimes

GOLDEN = TESTS / "golden"
FILES = TESTS / "files"
needs_runtime = pytest.mark.skipif(not installed_runtimes(), reason="no TFLite runtime is installed")


def golden(name: str, text: str) -> None:
    """Hold a whole output against the file that somebody has read and found right."""
    assert text.rstrip("\n") == (GOLDEN / name).read_text().rstrip("\n")


def test_version(call: Any) -> None:
    """--version prints the name and the version, nothing else."""
    from importlib.metadata import version

    outcome = call("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"edgeprune {version('edgeprune')}\n", "")


@pytest.mark.parametrize(
    "verb",
    [
        *("run", "prune", "finetune", "convert", "verify", "groups"),
        *("check", "inspect", "compare", "estimate", "devices", "calibrate", "bench"),
    ],
)
def test_help(call: Any, verb: str) -> None:
    """Every verb has a help that names its options, on stdout."""
    outcome = call(verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: edgeprune {verb} ")
    assert "Options:" in outcome.out


def test_check_of_real_files(call: Any) -> None:
    """A look at a file, without a limit; the sparse file's zeros are seen."""
    outcome = call("check", FILES / "float32_sparse.tflite", "--json", "--show")
    (facts,) = json.loads(outcome.out)["files"]
    assert (outcome.code, facts["format"]) == (0, "tflite")
    assert facts["zeros"] > 0
    assert facts["raw_bytes"] == (FILES / "float32_sparse.tflite").stat().st_size


def entry(path: str, **more: Any) -> ArtifactEntry:
    facts: dict[str, Any] = {
        "format": "tflite",
        "precision": "float32",
        "sha256": "0" * 64,
        "raw_bytes": 1_000_000,
        "download_bytes": {"deflate": 900_000, "brotli": 880_000, "zstd": 890_000},
        "sparsity": 0.0,
        "macs": 5_123_456,
        "metric": None,
        "metric_note": None,
        "parity": None,
        "runtimes": [RuntimeRun(name="litert", version="2.3.0", ran=True, value=0.92)],
        "exported": False,
    }
    return ArtifactEntry(path=path, **{**facts, **more})


def stage(name: str, kind: str, artifacts: list[ArtifactEntry], **more: Any) -> Stage:
    facts: dict[str, Any] = {
        "parameters": 250_000,
        "nonzero_parameters": 250_000,
        "macs": 5_123_456,
        "metric": artifacts[0].metric,
        "latency": None,
        "pruning": None,
        "training": None,
        "seconds": 1.5,
    }
    return Stage(name=name, kind=kind, artifacts=artifacts, **{**facts, **more})


def score(value: float, file: str) -> MetricValue:
    return MetricValue(name="accuracy", value=value, samples=10_000, file=file, runtime="litert 2.3.0")


def latency(ratio: float, verdict: str) -> dict[str, Any]:
    interval = {"ratio": ratio, "low": ratio - 0.012, "high": ratio + 0.015, "tolerance": 0.03}
    return {**interval, "verdict": verdict, "how": "5 processes x 30 pairs on this host"}


@pytest.fixture
def ledger() -> Ledger:
    """A run that pruned to 80 %, fine-tuned, quantized and exported two files; every number is made up."""
    reason = "depthwise kernel: few weights"
    pruning = {
        "asked": 0.8,
        "got": 0.8004,
        "layers": [
            {"layer": "conv", "kind": "Conv2D", "key": "conv/kernel", "elements": 1440, "asked": 0.8, "got": 0.8},
            {"layer": "d|2", "kind": "Dense", "key": "d|2/kernel", "elements": 5000, "asked": None, "got": 0.81},
        ],
        "skipped": [{"layer": "dw", "kind": "DepthwiseConv2D", "parameters": 320, "reason": reason}],
    }
    small = {"deflate": 250_000, "brotli": 240_000, "zstd": 245_000}
    tiny = {"deflate": 100_000, "brotli": 95_000, "zstd": 98_000}
    dense = [
        entry("stages/m.dense.float32.tflite", metric=score(0.9231, "stages/m.dense.float32.tflite")),
        entry(
            "stages/m.dense.int8.tflite",
            precision="int8",
            raw_bytes=260_000,
            download_bytes={"deflate": 230_000, "brotli": 225_000, "zstd": 228_000},
            metric=score(0.92, "stages/m.dense.int8.tflite"),
        ),
    ]
    pruned = entry(
        "stages/m.pruned.float32.tflite",
        download_bytes=small,
        sparsity=0.79,
        metric=score(0.9102, "stages/m.pruned.float32.tflite"),
    )
    tuned = entry(
        "stages/m.fine-tuned.float32.tflite",
        download_bytes=small,
        sparsity=0.79,
        metric=score(0.9231, "stages/m.fine-tuned.float32.tflite"),
    )
    package = entry(
        "m.sparse.mlpackage",
        format="coreml",
        precision="sparse",
        raw_bytes=180_000,
        download_bytes={"deflate": 150_000, "brotli": 140_000, "zstd": 145_000},
        sparsity=None,
        macs=None,
        metric_note="not verified: op fft is not known to the evaluator",
        runtimes=[],
        exported=True,
    )
    old = RuntimeRun(name="tflite-runtime", version="2.14.0", ran=False, reason="too new")
    quantized = entry(
        "m.int8.tflite",
        precision="int8",
        raw_bytes=260_000,
        download_bytes=tiny,
        sparsity=0.8012,
        metric=score(0.9198, "m.int8.tflite"),
        runtimes=[old, RuntimeRun(name="litert", version="2.3.0", ran=True, value=0.9198)],
        exported=True,
        oldest_runtime="litert 2.3.0",
    )
    made = Ledger(
        tool_version="1.2.3",
        recipe={"path": "recipe.toml", "sha256": "1" * 64, "asked": {}},
        input={"path": "m.keras", "sha256": "2" * 64, "raw_bytes": 3_000_000},
        data={},
        metric={"name": "accuracy", "higher_is_better": True, "is_share": True},
        host={"machine": "x86_64", "system": "Linux", "runtimes": {"tflite-runtime": "2.14.0", "litert": "2.3.0"}},
        seed=0,
        stages=[
            stage("dense", "dense", dense, seconds=4.04),
            stage(
                "pruned",
                "prune",
                [pruned],
                nonzero_parameters=52_000,
                latency=latency(1.003, "unchanged"),
                pruning=pruning,
                seconds=64.2,
            ),
            stage(
                "fine-tuned",
                "finetune",
                [tuned, package],
                nonzero_parameters=52_000,
                latency=latency(0.97, "inconclusive"),
                seconds=600.0,
            ),
            stage("int8", "quantize", [quantized], nonzero_parameters=52_000, latency=latency(0.91, "faster")),
        ],
    )
    budget = Budget(download_bytes=100_000, install_bytes=200_000, max_metric_drop=0.005, min_sparsity=0.8012)
    verdicts = budget_verdicts(made, budget)
    made = replace(made, verdicts=verdicts)
    return replace(made, summary=summary_sentences(made))


def test_estimates_in_the_ledger(ledger: Ledger) -> None:
    """A sentence and a verdict for each device; without an estimate the verdict is open and the sentence says why."""
    known = Estimate(
        device="phone",
        how="estimated from profile phone, ±12 %",
        basis="1",
        total_ms=5.5,
        low_ms=5.0,
        high_ms=6.0,
        relative=None,
        refused=None,
        notes=(),
    )
    nothing = {"total_ms": None, "low_ms": None, "high_ms": None}
    none = replace(known, device="other", how="", refused="it is int8", **nothing)
    last = ledger.stages[-1]
    found = replace(ledger, stages=[replace(last, artifacts=[replace(last.artifacts[0], estimates=(known, none))])])
    verdicts = budget_verdicts(found, Budget(max_latency_ms=5.2))
    assert [(v.check, v.actual, v.passed) for v in verdicts] == [
        ("latency estimate, phone", 5.5, False),
        ("latency estimate, other", None, None),
    ]
    sentences = summary_sentences(replace(ledger, stages=[*ledger.stages[:-1], *found.stages]))
    assert "Latency of m.int8.tflite on a device: 5.5 ms (5 to 6 ms), estimated from profile phone, ±12 %." in sentences
    assert "Latency of m.int8.tflite on a device: not estimated from profile other: it is int8." in sentences


def test_verdicts(ledger: Ledger) -> None:
    """Every limit against every exported file; what cannot be known here is None and not held against the file."""
    assert [(v.check, v.path, v.passed) for v in ledger.verdicts] == [
        ("download (deflate)", "m.sparse.mlpackage", False),
        ("install", "m.sparse.mlpackage", True),
        ("sparsity at least", "m.sparse.mlpackage", None),
        ("download (deflate)", "m.int8.tflite", True),
        ("install", "m.int8.tflite", False),
        ("metric drop", "m.int8.tflite", True),
        ("sparsity at least", "m.int8.tflite", True),
    ]
    assert isinstance(ledger.verdicts[0], Verdict)
    assert budget_verdicts(ledger, None) == []


@pytest.mark.parametrize(
    ("ran", "found"),
    [
        ({"old": True, "new": True}, "old 1"),
        ({"old": False, "new": True}, "new 1"),
        ({"old": False, "new": False}, None),
        ({"new": True}, None),
        ({}, None),
    ],
)
def test_oldest_runtime(ran: dict[str, bool], found: str | None) -> None:
    """The oldest installed runtime that ran a file; unknown where an older one was not tried."""
    runs = [RuntimeRun(name=name, version="1", ran=did) for name, did in reversed(ran.items())]
    assert oldest_runtime(runs, ["old", "new"]) == found


def test_ledger_text(ledger: Ledger) -> None:
    """The report of a run, for a log."""
    golden("ledger.txt", ledger_text(ledger))


def test_ledger_markdown(ledger: Ledger) -> None:
    """The report of a run, as a page."""
    golden("ledger.md", ledger_markdown(ledger))


def test_a_latency_target_in_the_report(ledger: Ledger) -> None:
    """The estimates before and after stand in a table and a sentence of their own, apart from what was measured."""
    how = "estimated from profile phone (Phone, TFLite, 4 threads, float32), ±12 %: 9 of 10 networks were within it"
    estimate = {"device": "phone", "how": how, "refused": None}
    channels = {
        "asked": "latency 0.6 on phone",
        "got": 0.37,
        "parameters_before": 250_000,
        "parameters_after": 101_000,
        "macs_before": 5_123_456,
        "macs_after": 2_049_382,
        "removed": [{"layer": "conv", "kind": "Conv2D", "before": 32, "asked": None, "after": 16}],
        "skipped": [],
        "altered": [],
        "verified": 3e-6,
        "note": None,
        "estimated_latency": {
            "asked": 0.6,
            "before": {**estimate, "total_ms": 12.5, "low_ms": 11.16, "high_ms": 14.0},
            "after": {**estimate, "total_ms": 7.4, "low_ms": 6.607, "high_ms": 8.288},
            "ratio": 0.592,
        },
    }
    narrow = replace(ledger.stages[1], name="narrow", pruning=None, channels=channels, latency=latency(0.7, "faster"))
    narrow = replace(narrow, parameters=101_000, nonzero_parameters=101_000, macs=2_049_382)
    found = replace(ledger, stages=[ledger.dense, narrow], verdicts=[])
    golden("ledger_latency.md", ledger_markdown(replace(found, summary=summary_sentences(found))))


@pytest.mark.parametrize("width", [60, 100, 200])
def test_ledger_on_a_terminal(ledger: Ledger, width: int) -> None:
    """On a terminal no line of a table is wider than it, and nothing is coloured."""
    text = ledger_text(ledger, width=width)
    tables = text.split("* ")[0]
    assert max(len(line) for line in tables.splitlines()) <= width
    assert "\x1b" not in text


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
        assert facts["metric"] == {"name": "accuracy", "before": None, "after": None, "samples": None}
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
        outcome = call("convert", work / "model.keras", "--to", "tflite", "-o", target, *options, "--json", "-q")
        assert (outcome.code, outcome.err) == (0, "")
        facts = json.loads(outcome.out)["output"]
        assert (facts["path"], facts["precision"], facts["metric"]["samples"]) == (str(target), "int8", 48)
        assert facts["parity_on"] == "samples of test.npz"
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
min_sparsity = 0.5
"""


@pytest.mark.slow
@needs_runtime
@pytest.mark.usefixtures("one_converter")
class TestRun:
    """`edgeprune run` on the tiny model."""

    @pytest.mark.parametrize(("limit", "code"), [("1 MB", 0), ("1 kB", 1)])
    def test_run(self, call: Any, work: Path, recipe: Any, limit: str, code: int) -> None:
        """The folder holds what the ledger lists, hash by hash; the budget decides the exit code."""
        from edgeprune.artifact import sha256_of

        outcome = call("run", recipe(STEPS % limit), "-o", work / "out", "-q")
        assert (outcome.code, outcome.err) == (code, "")
        ledger = json.loads((work / "out" / "ledger.json").read_text())
        files = [a for stage in ledger["stages"] for a in stage["artifacts"]]
        assert [stage["kind"] for stage in ledger["stages"]] == ["dense", "prune", "finetune", "quantize"]
        assert {a["path"] for a in files if a["exported"]} == {"model.int8.tflite", "model.float16.tflite"}
        for artifact in files:
            assert sha256_of(work / "out" / artifact["path"]) == artifact["sha256"]
        written = {p.relative_to(work / "out").as_posix() for p in (work / "out").rglob("*") if p.is_file()}
        assert written == {a["path"] for a in files} | {"ledger.json", "report.md", "model.keras"}
        assert ledger["stages"][1]["pruning"]["got"] == 0.75
        for verdict in ledger["verdicts"]:
            assert verdict["passed"] is (code == 0 or not verdict["check"].startswith("download"))
        assert sorted(p.name for p in work.iterdir()) == ["model.keras", "out", "recipe.toml", "test.npz", "train.npz"]
        report = (work / "out" / "report.md").read_text()
        assert report.startswith("# model.keras: ")

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

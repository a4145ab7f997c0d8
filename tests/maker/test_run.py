"""The main job, end to end, on the committed sample models."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import lend
from places import ROOT

from edgeprune.artifact import sha256_of
from edgeprune.commands.cli import main
from edgeprune.formats import read_graph
from edgeprune.ledger import Ledger, schema_path
from edgeprune.runtime.session import installed_runtimes

pytestmark = pytest.mark.slow(minutes=6)

SAMPLES = ROOT / "sample_models"
# Of the images: half of the test split takes half as long with each of seven files.
ROWS = {"validation": 500, "test": 2500}
NO_LATENCY = '\n[latency]\nmeasure = false\ndevices = ["pixel3-tflite-4t-int8"]\n'


def run(recipe: Path, folder: Path, converter: Any) -> int:
    """`edgeprune run` in this process, with this converter where there is one; its exit code."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        if converter:
            lend(converter, patch)
        warnings.simplefilter("ignore")  # what Keras and TensorFlow deprecate is theirs
        with pytest.raises(SystemExit) as ended:
            main(["run", str(recipe), "-o", str(folder), "--quiet"])
    return int(ended.value.code or 0)


def without_latency(sample: str, folder: Path) -> Path:
    """A copy of a sample's recipe and files that leaves the clock out and trains for one epoch a step."""
    copied = folder / sample
    shutil.copytree(SAMPLES / sample, copied, ignore=shutil.ignore_patterns("*.py", "*.md"))
    recipe = copied / "recipe.toml"
    recipe.write_text(re.sub(r"epochs = \d", "epochs = 1", recipe.read_text()) + NO_LATENCY)
    return recipe


def shorten(folder: Path, kept: Mapping[str, int] = ROWS) -> None:
    """Keep the first rows of the splits of images, by default of those that are only scored."""
    for split, rows in kept.items():
        with np.load(folder / f"{split}.npz") as arrays:
            first = {name: arrays[name][:rows] for name in arrays.files}
        np.savez_compressed(folder / f"{split}.npz", **first)


def stages(ledger: Mapping[str, Any]) -> dict[str, Any]:
    return {stage["name"]: stage for stage in ledger["stages"]}


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory, converter: Any) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("fashion")
    recipe = without_latency("fashion", folder)
    shorten(recipe.parent)
    assert run(recipe, folder / "out", converter) == 0
    return folder / "out", json.loads((folder / "out" / "ledger.json").read_text())


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory, converter: Any) -> list[tuple[Path, dict[str, Any]]]:
    """The same run twice, each with a converter process of its own."""
    folder = tmp_path_factory.mktemp("flights")
    recipe = without_latency("flights", folder)
    found = []
    for name, lent in (("first", None), ("second", converter)):
        assert run(recipe, folder / name, lent) == 0
        found.append((folder / name, json.loads((folder / name / "ledger.json").read_text())))
    return found


def test_estimates_of_what_ships(fashion: tuple[Path, dict[str, Any]]) -> None:
    """Every exported file has a latency from the profile, or the reason why there is none; other files have neither."""
    _, ledger = fashion
    entries = [entry for stage in ledger["stages"] for entry in stage["artifacts"]]
    assert all(bool(entry["estimates"]) is entry["exported"] for entry in entries)
    told = {entry["path"]: entry["estimates"][0] for entry in entries if entry["exported"]}
    assert all((item["total_ms"] is None) is (item["refused"] is not None) for item in told.values())
    assert all(item["device"] == "pixel3-tflite-4t-int8" for item in told.values())
    packages = [item["refused"] for path, item in told.items() if path.endswith(".mlpackage")]
    assert packages
    assert all("does not run this format" in reason for reason in packages)
    assert sum(
        sentence.startswith("Latency of ") and " on a device: " in sentence for sentence in ledger["summary"]
    ) == len(told)


def test_fashion_keeps_its_accuracy(fashion: tuple[Path, dict[str, Any]]) -> None:
    """80 % pruned and fine-tuned stays near dense (1 point with all its epochs), int8 within 0.5 point of that.

    Sums are taken in another order on another processor, which moves the tuned accuracy by some tenths of a point.
    """
    found = stages(fashion[1])

    dense, tuned, int8 = (found[name]["metric"]["value"] for name in ("dense", "fine-tuned", "int8"))
    assert dense >= 0.915
    assert tuned >= dense - 0.015
    assert int8 >= tuned - 0.005
    assert {found[name]["metric"]["samples"] for name in found} == {ROWS["test"]}


def test_fashion_download_shrinks_as_promised(fashion: tuple[Path, dict[str, Any]]) -> None:
    """Pruned float32 costs at most 0.40 of the dense download, pruned int8 at most 0.19."""
    found = stages(fashion[1])

    def download(stage: str, precision: str) -> int:
        (entry,) = [e for e in found[stage]["artifacts"] if (e["format"], e["precision"]) == ("tflite", precision)]
        return int(entry["download_bytes"]["deflate"])

    dense = download("dense", "float32")
    assert download("fine-tuned", "float32") <= 0.40 * dense
    assert download("int8", "int8") <= 0.19 * dense


def test_asked_sparsity_is_got_and_survives_quantization(fashion: tuple[Path, dict[str, Any]]) -> None:
    """Kernels reach 80 %, and the zeros are still there in the int8 file, counted by another reader."""
    folder, ledger = fashion
    found = stages(ledger)

    assert found["pruned"]["pruning"]["got"] == pytest.approx(0.8, abs=1e-3)
    tuned = next(e for e in found["fine-tuned"]["artifacts"] if e["precision"] == "float32")
    int8 = next(e for e in found["int8"]["artifacts"] if e["format"] == "tflite")
    assert int8["sparsity"] >= tuned["sparsity"] > 0.7
    assert read_graph(folder / int8["path"]).sparsity == int8["sparsity"]


def test_ledger_follows_the_published_schema(
    fashion: tuple[Path, dict[str, Any]], flights: list[tuple[Path, dict[str, Any]]]
) -> None:
    """Both ledgers validate against the JSON Schema in the package, and read themselves back."""
    import jsonschema

    schema = json.loads(schema_path().read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for folder, ledger in [fashion, *flights]:
        jsonschema.validate(ledger, schema, jsonschema.Draft202012Validator)
        read = Ledger.from_json((folder / "ledger.json").read_bytes())
        assert json.loads(json.dumps(read.to_json())) == ledger
        assert Ledger.from_json(read.to_json()) == read


def test_every_file_in_the_ledger_is_there_with_its_hash(fashion: tuple[Path, dict[str, Any]]) -> None:
    """Paths are relative to the ledger, and sizes and hashes are those on disk."""
    folder, ledger = fashion
    entries = [entry for stage in ledger["stages"] for entry in stage["artifacts"]]

    assert sum(entry["exported"] for entry in entries) == 4
    for entry in entries:
        path = folder / entry["path"]
        assert not Path(entry["path"]).is_absolute()
        assert sha256_of(path) == entry["sha256"]
        files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
        assert sum(f.stat().st_size for f in files) == entry["raw_bytes"]


def test_unmeasured_is_null_and_never_zero(fashion: tuple[Path, dict[str, Any]]) -> None:
    """The latency that was switched off is null; Core ML packages are scored by the evaluator, and both are said."""
    folder, ledger = fashion
    found = stages(ledger)

    for stage in ledger["stages"]:
        assert stage["latency"] is None
        for entry in stage["artifacts"]:
            if entry["format"] == "coreml":
                assert entry["metric"]["runtime"].startswith("edgeprune evaluator")
                assert entry["metric"]["samples"] == ROWS["test"]
                assert abs(entry["metric"]["value"] - found["fine-tuned"]["metric"]["value"]) <= 0.01
                assert entry["parity"][0]["agreement"] >= 0.97
    report = (folder / "report.md").read_text()
    assert "not measured" in report
    (said,) = [line for line in report.splitlines() if "Not measured: latency of" in line]
    assert all(f"fashion.{precision}.mlpackage" in said for precision in ("sparse", "int8"))


def test_exported_tflite_files_ran_on_every_runtime(fashion: tuple[Path, dict[str, Any]]) -> None:
    """LiteRT 2.3 scores every .tflite file that ships on all samples; tflite-runtime 2.14, which newer Pythons have
    not, on the first thousand."""
    samples = {"tflite-runtime": 1000, "litert": ROWS["test"]}
    shipped = [e for s in fashion[1]["stages"] for e in s["artifacts"] if e["exported"] and e["format"] == "tflite"]

    assert len(shipped) == 2
    for entry in shipped:
        assert {run["name"]: run["ran"] for run in entry["runtimes"]} == dict.fromkeys(installed_runtimes(), True)
        values = [run["value"] for run in entry["runtimes"]]
        assert max(values) - min(values) <= 0.02
        assert all(run["samples"] == samples[run["name"]] for run in entry["runtimes"])


def test_same_seed_same_ledger(flights: list[tuple[Path, dict[str, Any]]]) -> None:
    """Two runs of one recipe agree in every byte, score and count; only seconds differ."""

    def facts(ledger: dict[str, Any]) -> dict[str, Any]:
        for stage in ledger["stages"]:
            stage["seconds"] = 0
        return ledger

    first, second = (facts(ledger) for _, ledger in flights)
    assert first == second


def test_ranking_model_keeps_its_auc(flights: list[tuple[Path, dict[str, Any]]]) -> None:
    """Integer inputs, several inputs and a metric that is not accuracy go through the same pipeline."""
    found = stages(flights[0][1])

    assert found["dense"]["metric"]["name"] == "auc"
    assert found["dense"]["metric"]["value"] > 0.70
    assert found["int8"]["metric"]["value"] >= found["dense"]["metric"]["value"] - 0.01
    skipped = {item["layer"]: item["reason"] for item in found["pruned"]["pruning"]["skipped"]}
    assert any(reason == "matched by exclude" for reason in skipped.values())


def test_three_outputs(tmp_path: Path, converter: Any) -> None:
    """Outputs of classes, numbers and pixels: trained, taught, scored and budgeted by each, in both formats; ledger and
    report tell every metric with its interval."""
    recipe = without_latency("shapes", tmp_path)
    shorten(recipe.parent, {"train": 160, "validation": 40, "test": 60})
    assert run(recipe, tmp_path / "out", converter) in (0, 1)  # an epoch of five steps may cost more than the budget
    ledger = Ledger.from_json((tmp_path / "out" / "ledger.json").read_bytes())
    names = ["kind_accuracy", "box_mae", "mask_iou"]
    assert [kind.name for kind in ledger.metrics] == names
    assert (ledger.metric.name, ledger.recipe.asked["budget"]) == (
        "kind_accuracy",
        {
            "download": 130_000,
            "max_metric_drop": {"kind_accuracy": 0.03, "box_mae": 0.02, "mask_iou": 0.02},
            "codec": "deflate",
        },
    )
    dense = {name: ledger.dense.scored(name) for name in names}
    for entry in (entry for stage in ledger.stages for entry in stage.artifacts):
        assert [metric.name for metric in entry.metrics] == names
        assert entry.metric == entry.metrics[0]
        if entry.path == ledger.stages[0].artifacts[0].path:
            continue
        for metric in entry.metrics:
            before = dense[metric.name]
            assert before is not None
            assert metric.change is not None
            assert metric.change.low is not None
            assert metric.change.high is not None
            assert metric.change.low <= metric.change.difference <= metric.change.high
            assert metric.change.before == pytest.approx(before.value, rel=1e-4)
            assert metric.value - before.value == pytest.approx(metric.change.difference, abs=1e-4)
    held = {(v.path, v.metric): v for v in ledger.verdicts if v.metric}
    assert set(held) == {(f"shapes.{end}", name) for end in ("int8.tflite", "float16.mlpackage") for name in names}
    assert all(v.actual is not None and v.passed is (v.actual <= v.limit) for v in held.values())
    pruned = ledger.stages[1]
    assert pruned.training is not None
    assert list(pruned.training.epochs[0].scores) == names
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(f"{name} of stage int8" in report and f"{name} of shapes.float16.mlpackage" in report for name in names)

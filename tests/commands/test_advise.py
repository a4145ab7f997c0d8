"""`edgeprune advise` as a user types it: a model before any training, and a run that is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_what_is_refused_before_any_work(call: Any, tmp_path: Path) -> None:
    """A recipe without samples, a place that is taken, an unknown target, a share that is none."""
    (tmp_path / "there.toml").write_text("")
    model = tmp_path / "model.keras"
    call("advise", model, "-o", tmp_path / "r.toml").error(2, "add --data TEST")
    call("advise", model, "--data", tmp_path / "t.npz", "-o", tmp_path / "there.toml").error(2, "--overwrite")
    call("advise", model, "--target", "pixel4-tflite-4t-float23").error(2, "pixel4-tflite-4t-float32")
    call("advise", model, "--target", "ethos-u85").error(2, "edgeprune estimate FILE --target ethos-u85")
    call("advise", tmp_path / "ledger.json").error(4, "ledger.json")


def test_a_run_that_is_done(call: Any, tmp_path: Path) -> None:
    """What stands in a ledger of a run is not asked again; options about a model to come are refused."""
    (tmp_path / "ledger.json").write_text("{}")
    call("advise", tmp_path).error(4, "is not the ledger of a run")
    call("advise", tmp_path, "--ratio", "0.4").error(2, "--ratio is about one to come")


@pytest.mark.slow(minutes=2)
def test_a_small_model(call: Any, work: Path, covered: Path) -> None:
    """Every way is made, counted and tried; zeros are told to bring no latency; the recipe is one that `run` takes."""
    recipe = work / "sub" / "recipe.toml"
    recipe.parent.mkdir()
    splits = ("--data", work / "test.npz", "--train", work / "train.npz")
    asked = ("--metric", "accuracy", "--sparsity", "0.85", "--target", covered)
    asked += ("--target", "edgetpu", "--target", "tensorrt-sparse-ampere")
    outcome = call("advise", work / "model.keras", *splits, *asked, "-o", recipe, "--json", "-q")
    assert outcome.code == 0, outcome.err
    body = json.loads(outcome.out)
    ways = {one["kind"]: one for one in body["ways"]}
    assert [one["kind"] for one in body["ways"] if one["refused"]] == ["N:M"]  # its layers are too small for it
    assert ways["magnitude"]["download_bytes"] < ways["float32"]["download_bytes"]
    assert ways["magnitude"]["install_bytes"] == ways["float32"]["install_bytes"]
    assert ways["magnitude"]["sparsity"] > 0.6  # depthwise kernels stay dense
    assert ways["channels"]["macs"] < ways["float32"]["macs"] == ways["magnitude"]["macs"]
    assert ways["int8"]["trial"]["samples"] == 48
    assert "in one shot, no training" in ways["int8"]["trial"]["how"]
    device = body["targets"][0]
    assert body["latency_ratios"]["magnitude"][device] == pytest.approx(1)
    assert body["latency_ratios"]["channels"][device] < 1
    assert body["mismatches"][0].startswith(f"85 % sparsity asked, {device} runs dense kernels: latency unchanged")
    assert ways["int8"]["accelerators"][0]["target"] == "edgetpu"
    assert 'io_type = "int8" leaves it out' in ways["int8"]["accelerators"][0]["failed"]
    planned = call("run", recipe, "--dry-run")
    assert planned.code == 0, planned.err
    assert "export  tflite" in planned.out

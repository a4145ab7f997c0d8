"""Blame: the one bad layer that was planted is found, for zeros and for int8."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from conftest import CLASSES

from edgeprune.converters import float_start
from edgeprune.host.progress import Progress
from edgeprune.ledger import Blame, schema_path
from edgeprune.maker.keras.models import clone
from edgeprune.maker.recipe.blame import blamed
from edgeprune.maker.recipe.prepare import Prepared, prepare
from edgeprune.maker.recipe.recipe import load_recipe
from edgeprune.report.blame_report import blame_markdown, blame_text
from edgeprune.runtime.session import RunResult

WIDTH, SAMPLES = 24, 120
NAMES = [f"layer{n}" for n in range(3)]


def chain(keras: Any, seed: int) -> Any:
    """Rotations, ReLU between them, to classes: each layer matters alike, and no weight is small by chance."""
    rng = np.random.default_rng(seed)
    h = x = keras.Input((WIDTH,), name="x")
    for name in NAMES:
        h = keras.layers.Dense(WIDTH, activation="relu", name=name)(h)
    model = keras.Model(x, keras.layers.Dense(CLASSES, name="scores")(h))
    for name in NAMES:
        turned = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0] * 1.3
        model.get_layer(name).set_weights([turned, rng.uniform(0.0, 0.2, WIDTH)])
    model.get_layer("scores").set_weights([rng.normal(size=(WIDTH, CLASSES)), np.zeros(CLASSES)])
    return model


def written(keras: Any, folder: Path, seed: int, steps: str) -> tuple[Path, Any]:
    """A recipe whose samples have the answers of the model itself, so that the dense model is always right."""
    model = chain(keras, seed)
    x = np.random.default_rng(seed + 100).normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    scores = np.asarray(model(x))
    scores = scores - scores.mean(0)
    bias = -np.asarray(model(x)).mean(0)
    model.get_layer("scores").bias.assign(bias)
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=x, y=scores.argmax(-1))
    text = 'model = "model.keras"\nmetric = "accuracy"\n[data]\ntrain = "data.npz"\nvalidation = "data.npz"\n'
    (folder / "recipe.toml").write_text(text + 'test = "data.npz"\n[latency]\nmeasure = false\n' + steps)
    return folder / "recipe.toml", model


def spoilt(model: Any, bad: str) -> Any:
    """A few zeros in each layer, and nearly nothing left of one."""
    made = clone(model)
    for name in NAMES:
        kernel = made.get_layer(name).kernel
        values = np.array(kernel)
        share = 0.95 if name == bad else 0.3
        values[np.abs(values) <= np.quantile(np.abs(values), share)] = 0
        kernel.assign(values)
    return made


PRUNE = '[[steps]]\nkind = "prune"\nsparsity = 0.3\n'


@pytest.mark.parametrize("seed", range(10))
def test_the_badly_pruned_layer_is_named_first(keras: Any, tmp_path: Path, seed: int) -> None:
    path, model = written(keras, tmp_path, seed, PRUNE)
    bad = NAMES[seed % len(NAMES)]
    prepared = prepare(load_recipe(path))
    found = blame_of(prepared, {"dense": prepared.model, "pruned": spoilt(model, bad)}, None)
    assert found.layers[0].layer == bad
    first = found.layers[0].change
    assert first is not None
    assert first.low is not None
    assert first.low > 0
    # All of the loss is the step's, and undoing it brings the dense model back.
    (step,) = found.steps
    assert step.change is not None
    assert step.change.difference == pytest.approx(-found.stack.difference)
    assert (found.rest, found.compounding) == (pytest.approx(0), pytest.approx(0))


def blame_of(prepared: Prepared, models: dict[str, Any], converter: Any) -> Blame:
    assert prepared.validation is not None
    return blamed(prepared, models, converter, Progress(quiet=True), prepared.validation)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are run in this process: a child for each of the two hundred would cost minutes."""
    from ai_edge_litert.interpreter import Interpreter

    def run(path: Path, inputs: Any, **_: Any) -> RunResult:
        (name, rows), interpreter = next(iter(inputs.items())), Interpreter(model_path=str(path))
        (entry,), ends = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(entry["index"], (len(rows), *entry["shape"][1:]))
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], np.asarray(rows, np.float32))
        interpreter.invoke()
        signature = interpreter.get_signature_list()
        names = dict.fromkeys(signature["serving_default"]["outputs"]) if len(ends) == 1 and signature else None
        made = {(next(iter(names)) if names else end["name"]): interpreter.get_tensor(end["index"]) for end in ends}
        return RunResult(
            outputs=made, runtime="litert", version="", samples=len(rows), input_dtypes={name: ""}, output_dtypes={}
        )

    monkeypatch.setattr(float_start, "run_tflite", run)


@pytest.mark.slow(minutes=0.1)
def test_the_badly_quantized_layer_is_named_first(keras: Any, tmp_path: Path, converter: Any, here: None) -> None:
    """A layer a weight of which takes the whole grid of int8, where one scale is for all of them: two of the ten
    seeds that the page on blame tells of: each makes a dozen files."""
    for seed in (0, 2):
        path, model = written(keras, tmp_path, seed, '[[steps]]\nkind = "quantize"\nper_tensor = true\n')
        bad = NAMES[seed % len(NAMES)]
        kernel = model.get_layer(bad).kernel
        values = np.array(kernel)
        values[:, 0] = 60.0  # of a unit that is never on
        kernel.assign(values)
        bias = np.array(model.get_layer(bad).bias)
        bias[0] = -1e4
        model.get_layer(bad).bias.assign(bias)
        prepared = prepare(load_recipe(path))
        answers = np.asarray(model(np.asarray(prepared.test.inputs["x"]))).argmax(-1)
        samples = replace(prepared.test, targets=dict.fromkeys(prepared.test.told, answers))
        prepared = replace(prepared, model=model, validation=samples, test=samples)
        found = blame_of(prepared, {"dense": model, "int8": model}, converter)
        assert found.layers[0].layer is not None
        assert found.layers[0].layer.startswith(bad), [(row.layer, row.change) for row in found.layers]
        assert found.layers[0].what == "float"


STACK = """
[[steps]]
kind = "prune"
name = "cut"
style = "channel"
ratio = 0.25
round_to = 4

[[steps]]
kind = "prune"
sparsity = 0.7

[[steps]]
kind = "finetune"
epochs = 1

[[steps]]
kind = "prune"
name = "again"
sparsity = 0.3
epochs = 1

[[steps]]
kind = "quantize"
"""


@pytest.mark.slow(minutes=0.3)
def test_blame_of_a_finished_run(
    keras: Any, call: Callable[..., Any], one_converter: None, here: None, tmp_path: Path
) -> None:
    """In the run and from its folder: the same numbers, in the ledger by its schema."""
    (path, _), out = written(keras, tmp_path, 1, STACK), tmp_path / "out"
    path.write_text("keep_stages = true\nblame = true\n" + path.read_text())
    assert call("run", path, "-o", out, "--quiet").code == 0
    ledger = json.loads((out / "ledger.json").read_text())
    jsonschema.validate(ledger, json.loads(schema_path().read_text()))
    found = call("blame", out, "--json", "--quiet")
    assert found.code == 0, found.err
    body = json.loads(found.out)
    assert {name: body[name] for name in ledger["blame"]} == ledger["blame"]
    steps = {row["step"]: row for row in body["steps"]}
    assert list(steps) == ["cut", "pruned", "fine-tuned", "again", "int8"]
    assert all(row["change"] is not None for row in steps.values())
    alone = sum(row["alone"] for row in steps.values() if row["alone"] is not None)
    assert body["compounding"] == pytest.approx(-body["stack"]["difference"] - body["rest"] - alone)
    assert {row["what"] for row in body["layers"]} == {"dense", "float"}
    assert "Who did the damage" in (out / "report.md").read_text()
    check_kept(ledger["stages"], (out / "report.md").read_text())
    shutil.rmtree(out / "stages")
    call("blame", out).error(2, "keep_stages = true", "recipe.toml")
    path.write_text(path.read_text() + "\n# changed\n")
    call("blame", out).error(4, "--recipe")
    call("blame", out, "--recipe", path).error(2, "is not the recipe of the run")


def check_kept(stages: list[dict[str, Any]], report: str) -> None:
    """Every stage tells what it keeps of those before, and all of it is there."""
    kept = [{(row["of"], row["what"]) for row in stage["kept"]} for stage in stages]
    widths, zeros = ("cut", "widths"), ("pruned", "zeros")
    assert kept[:4] == [set(), set(), {widths}, {widths, zeros}]
    assert kept[4] == {widths, zeros}
    assert kept[5] == {widths, zeros, ("again", "zeros"), ("again", "zeros in the file")}
    assert all(row["asked"] == row["got"] > 0 for stage in stages for row in stage["kept"])
    assert "What later stages keep" in report


def test_what_cannot_be_undone_says_why(keras: Any, tmp_path: Path) -> None:
    text = "[student]\nwidth = 1.0\n" + PRUNE
    text += '[[steps]]\nkind = "finetune"\nteacher = "pruned"\ndistill = 0.5\nepochs = 1\n'
    path, model = written(keras, tmp_path, 1, text)
    prepared = prepare(load_recipe(path))
    found = blame_of(prepared, {"dense": prepared.model, "pruned": model, "fine-tuned": model}, None)
    assert [row.change for row in found.steps] == [None, None]
    assert (found.rest, found.compounding) == (None, None)
    assert "student" in blame_text(found)
    assert "not measured" in "\n".join(blame_markdown(found))

"""Channel pruning from the command line and in a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channel_zoo import ZOO, randomised

from edgeprune.ledger import schema_path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")

CHANNEL = '[[steps]]\nkind = "prune"\nstyle = "channel"\n'


def prune(call: Any, folder: Path, *extra: object) -> Any:
    return call("prune", folder / "model.keras", "--style", "channel", "-o", folder / "out.keras", *extra)


@pytest.fixture
def block(keras: Any, tmp_path: Path) -> Path:
    """A folder with an inverted residual block as model.keras."""
    randomised(ZOO["inverted_residual"](keras, keras.layers, keras.ops)).save(tmp_path / "model.keras")
    return tmp_path


def test_json(call: Any, block: Path, keras: Any) -> None:
    """What was asked and got, what was removed and skipped with reasons, and the check of the surgery."""
    done = prune(call, block, "--ratio", 0.5, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["asked"] == "ratio 0.5"
    assert [(i["layer"], i["before"], i["after"]) for i in told["removed"]] == [
        ("stem", 16, 8), ("expand", 32, 16), ("project", 16, 8),
    ]  # fmt: skip
    assert told["skipped"][0]["reason"].startswith("an output of the model")
    assert told["verified"] <= 1e-4
    assert told["parameters_after"] < told["parameters_before"]
    assert told["macs_after"] < told["macs_before"]
    small = keras.models.load_model(block / "out.keras")
    assert small.count_params() == told["parameters_after"]
    assert small.get_layer("depthwise").kernel.shape == (3, 3, 16, 1)


def test_text(call: Any, block: Path) -> None:
    """The same for a reader: shares, layers with --verbose, the accuracy that was not measured."""
    done = prune(call, block, "--macs", 0.6, "-v")
    assert done.code == 0, done.err
    for part in ("asked macs 0.6", "MACs 112 k -> ", "stem", "all channels kept (an output", "surgery checked",
                 "quality: not measured", "Written: "):  # fmt: skip
        assert part in done.out


def test_groups(call: Any, block: Path) -> None:
    """`edgeprune groups` lists who makes and reads the channels, what is at stake, and why a group must stay."""
    done = call("groups", block / "model.keras")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split("  ")[0] == "made by"
    assert any(line.startswith("stem, project") and line.rstrip().endswith("yes") for line in lines)
    assert any("no: an output of the model" in line for line in lines)
    assert "2 of 3 groups can lose channels" in lines[-1]
    told = json.loads(call("groups", block / "model.keras", "--json").out)
    assert [group["prunable"] for group in told["groups"]] == [True, True, False]
    assert {"name", "channels", "channels_per_unit", "members", "parameters", "macs", "prunable", "reason"} == set(
        told["groups"][0]
    )


def test_lossless(call: Any, block: Path, keras: Any) -> None:
    """--lossless removes a channel that was switched off by hand, and nothing else."""
    model = keras.models.load_model(block / "model.keras")
    norm = next(layer for layer in model.layers if type(layer).__name__ == "BatchNormalization")
    gamma = np.array(norm.gamma)
    gamma[:2] = 0
    norm.gamma.assign(gamma)
    beta = np.array(norm.beta)
    beta[:2] = -1
    norm.beta.assign(beta)
    model.save(block / "model.keras")
    done = prune(call, block, "--lossless", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["asked"] == "dead channels"
    removed = {i["layer"]: i["before"] - i["after"] for i in told["removed"]}
    assert removed["expand"] >= 2
    assert told["verified"] < 1e-4


@pytest.mark.parametrize(
    ("extra", "code", "part"),
    [
        ((), 2, "takes one of ratio, macs, parameters, download, latency, widths and harmless; got none"),
        (("--ratio", 1.4), 2, "at least 0 and below 1; got 1.4"),
        (("--ratio", 40), 2, "did you mean 0.4?"),
        (("--ratio", 0.4, "--macs", 0.5), 2, "got ratio, macs"),
        (("--macs", 0.001), 2, "cannot be reached"),
        (("--ratio", 0.4, "--include", "conv9"), 2, "include pattern 'conv9' matches no layer"),
        (("--sparsity", 0.8), 2, "--sparsity does not belong to --style channel"),
        (("--lossless", "--ratio", 0.4), 2, "--lossless removes dead channels only"),
        (("--harmless", 1e-4), 2, "--harmless looks at training samples: add --train"),
        (("--harmless", 1e-4, "--importance", "l1"), 2, "--harmless goes by what channels do"),
        (("--ratio", 0.4, "--importance", "taylor"), 2, "looks at training samples"),
        (("--ratio", 0.4, "--compensate", "mean"), 2, "--compensate mean looks at training samples"),
        (("--ratio", 0.4, "--round-to", 64), 2, "nothing to prune"),
        (("--width", "stem"), 2, "stem=8; got 'stem'"),
        (("--width", "stem=0"), 2, "at least 1"),
        (("--width", "stem=8", "--width", "stem=16"), 2, "names stem twice: 8 and 16"),
        (("--width", "stm=8"), 2, "'stm' names no group"),
        (("--width", "stem=8", "--macs", 0.5), 2, "got macs, widths"),
    ],
)
def test_bad_options(call: Any, block: Path, extra: tuple[object, ...], code: int, part: str) -> None:
    """One line, exit code 2, no output."""
    done = prune(call, block, *extra)
    last = [line for line in done.err.splitlines() if line.startswith("edgeprune: ")]
    assert (done.code, len(last)) == (code, 1)
    assert part in last[0]
    assert not (block / "out.keras").exists()


def test_samples_without_targets(call: Any, block: Path, keras: Any) -> None:
    """They will do for what looks at inputs alone; a criterion that looks at a loss says what is missing."""
    shape = keras.saving.load_model(block / "model.keras", compile=False).input_shape
    np.savez(block / "inputs.npz", x=np.random.default_rng(0).normal(size=(9, *shape[1:])).astype(np.float32))
    asked = ("-q", "--ratio", 0.4, "--round-to", 1, "--train", block / "inputs.npz", "--overwrite", "--importance")
    for importance in ("fisher", "activation"):
        assert prune(call, block, *asked, importance).code == 0
    prune(call, block, *asked, "taylor").error(4, "no array 'y' with the targets")


def test_widths(call: Any, block: Path, keras: Any) -> None:
    """Channels of single layers by name, as often as one likes."""
    done = prune(call, block, "--width", "stem=8", "--width", "expand=20", "--json")
    told = json.loads(done.out)
    assert done.code == 0, done.err
    assert told["asked"] == "the widths of 2 groups"
    assert {i["layer"]: i["after"] for i in told["removed"]} == {"stem": 8, "project": 8, "expand": 20}


def test_options_of_the_other_style(call: Any, block: Path) -> None:
    """An option of channel pruning without --style channel says what to add."""
    done = call("prune", block / "model.keras", "--ratio", 0.4, "-o", block / "out.keras")
    done.error(2, "--ratio does not belong to --style magnitude", "add --style channel")
    call("prune", block / "model.keras", "-o", block / "out.keras").error(2, "--sparsity")


@pytest.mark.parametrize(
    ("step", "part"),
    [
        ("ratio = 40\n", "did you mean 0.4"),
        ("", "one of ratio, macs, parameters, download, latency, widths, harmless and lossless"),
        ("ratio = 0.4\nsparsity = 0.5\n", "unknown key 'sparsity'"),
        ("ratio = 0.4\nrounds = 3\n", "set epochs"),
        ("ratio = 0.4\nimportance = 'lmap'\n", "unknown importance criterion 'lmap'"),
        ("ratio = 0.4\nexclude = ['nothing*']\n", "exclude pattern 'nothing*' matches no layer"),
        ("ratio = 0.4\nround_to = 64\n", "nothing to prune"),
        ("widths = 8\n", "widths' is a table such as { stem = 8, head = 128 }, got 8"),
        ("widths = { stem = 'wide' }\n", "widths.stem"),
        ("widths = { stem = 8 }\nepochs = 1\nrounds = 2\n", "rounds are for training in between"),
    ],
)
def test_bad_recipes(call: Any, recipe: Callable[..., Path], step: str, part: str) -> None:
    """A wrong step is one line before any work."""
    path = recipe(CHANNEL + step)
    call("run", path, "-o", path.parent / "out", "--quiet").error(2, part)


def test_an_unknown_style(call: Any, recipe: Callable[..., Path]) -> None:
    """The known styles are listed, with a suggestion."""
    path = recipe('[[steps]]\nkind = "prune"\nstyle = "chanel"\nratio = 0.4\n')
    call("run", path, "--dry-run").error(2, "unknown style 'chanel'; did you mean 'channel'?")


def test_dry_run(call: Any, recipe: Callable[..., Path]) -> None:
    """The plan names target, groups and criterion."""
    done = call("run", recipe(CHANNEL + "ratio = 0.5\nround_to = 4\nepochs = 2\nrounds = 3\n"), "--dry-run")
    assert done.code == 0, done.err
    assert "channel pruning to ratio 0.5 in 2 of 3 groups by lamp" in done.out
    assert "after each of 3 rounds" in done.out


def test_a_model_is_analysed_once(recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The check, the plan in words and the first cut share one trace; the model of the second round gets its own."""
    from edgeprune.converters.session import Converter
    from edgeprune.host.progress import Progress
    from edgeprune.maker.pruning.channel import pruner
    from edgeprune.maker.recipe.model_steps import ModelSteps
    from edgeprune.maker.recipe.plan_words import plan_lines
    from edgeprune.maker.recipe.prepare import prepare
    from edgeprune.maker.recipe.recipe import ChannelStep, load_recipe

    traced: list[str] = []

    class Counted(pruner.Trace):
        def __init__(self, model: Any, *rest: Any, **more: Any) -> None:
            traced.append(model.name)
            super().__init__(model, *rest, **more)

    monkeypatch.setattr(pruner, "Trace", Counted)
    steps = CHANNEL + "ratio = 0.5\nround_to = 4\nrounds = 2\nepochs = 1\nbatch_size = 16\n"
    prepared = prepare(load_recipe(recipe(steps)))
    assert "channel pruning to ratio 0.5" in "\n".join(plan_lines(prepared))
    assert len(traced) == 1
    (step,) = prepared.recipe.steps
    assert isinstance(step, ChannelStep)
    ModelSteps(prepared, Progress(quiet=True), Converter()).run(prepared.model, step)
    assert len(traced) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
def test_run(call: Any, recipe: Callable[..., Path], work: Path) -> None:
    """Prune in rounds, train, quantize, export: the ledger has the channels, fewer MACs, and files that run."""
    import jsonschema

    steps = (
        CHANNEL + "macs = 0.7\nround_to = 2\nimportance = 'taylor'\ncompensate = 'mean'\nrounds = 2\n"
        "epochs = 2\nbatch_size = 8\n"
        '[[steps]]\nkind = "quantize"\n'
        '[[exports]]\nformat = "tflite"\nprecision = "int8"\n[[exports]]\nformat = "coreml"\nprecision = "float16"\n'
    )
    done = call("run", recipe(steps), "-o", work / "out", "--quiet")
    assert done.code == 0, done.err
    ledger = json.loads((work / "out" / "ledger.json").read_text())
    jsonschema.validate(ledger, json.loads(schema_path().read_text()), jsonschema.Draft202012Validator)
    dense, pruned, int8 = ledger["stages"]
    assert dense["channels"] is None
    assert pruned["channels"]["asked"] == "macs 0.7"
    assert pruned["channels"]["removed"]
    assert pruned["channels"]["verified"] <= 1e-4
    assert pruned["parameters"] == pruned["channels"]["parameters_after"] < dense["parameters"]
    assert pruned["macs"] < dense["macs"]
    assert int8["metric"]["samples"] == 48
    report = (work / "out" / "report.md").read_text()
    assert "## Channels of stage pruned" in report
    assert "Channels of stage pruned: asked macs 0.7" in done.out


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
def test_a_latency_as_target(call: Any, block: Path, covered: Path) -> None:
    """The widest model whose exported file is estimated within the share; the report says so, with the estimates."""
    done = prune(call, block, "--latency", 0.7, "--device", covered, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["asked"] == "latency 0.7 on pixel3-tflite-4t-float32"
    found = told["estimated_latency"]
    assert found["asked"] == 0.7
    assert found["ratio"] == found["after"]["total_ms"] / found["before"]["total_ms"]
    assert 0.4 < found["ratio"] <= 0.7
    assert told["verified"] <= 1e-4
    again = prune(call, block, "--latency", 0.7, "--device", covered, "--overwrite")
    assert f"({found['ratio']:.3f}x), estimated from profile pixel3-tflite-4t-float32 (" in again.out


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
def test_a_latency_out_of_reach(call: Any, block: Path, covered: Path) -> None:
    """What can be reached is told, and nothing is written."""
    done = prune(call, block, "--latency", 0.01, "--device", covered)
    assert (done.code, done.out) == (2, "")
    last = done.err.splitlines()[-1]
    assert "latency = 0.01 cannot be reached" in last
    assert "the least that was found is 0.4" in last
    assert not (block / "out.keras").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--latency", 0.5), "--latency and --device go together"),
        (("--device", "pixel3-tflite-4t-float32", "--ratio", 0.5), "--latency and --device go together"),
        (("--latency", 0.5, "--device", "pixel3-tflite-4t-float32", "--macs", 0.5), "got macs, latency"),
        (("--latency", 60, "--device", "pixel3-tflite-4t-float32"), "did you mean 0.6?"),
        (("--latency", 0.5, "--device", "pixel3-tflite-4t-int8"), "is not for float32"),
        (("--latency", 0.5, "--device", "pixel3-gpu-float32"), "gives no milliseconds"),
        (("--latency", 0.5, "--device", "pixel33"), "no device profile"),
    ],
)
def test_wrong_latency_targets(call: Any, block: Path, arguments: tuple[object, ...], told: str) -> None:
    """One line, before anything is cut."""
    prune(call, block, *arguments).error(2, told)

"""Recipes as they are read (what is refused is tested through the command line in test_cli_bad_input)."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from edgeprune.artifact import DeploymentTarget, Format, Precision
from edgeprune.checker.budget import Budget
from edgeprune.converters.packaging import PackageOptions
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.errors import RecipeError
from edgeprune.maker.pruning.options import ChannelOptions, MagnitudeOptions
from edgeprune.maker.recipe import tables
from edgeprune.maker.recipe.recipe import (
    DataSpec,
    ExportSpec,
    FinetuneStep,
    LatencySpec,
    PruneStep,
    QatStep,
    QuantizeStep,
    load_recipe,
)
from edgeprune.maker.recipe.steps import STEPS, ChannelStep
from edgeprune.maker.training.options import QatOptions, TrainOptions

SMALLEST = """
model = "m.keras"
metric = "auc"
[data]
test = "t.npz"
[[steps]]
kind = "prune"
sparsity = 0.5
"""


def never(device: str, format_: str, precision: str) -> str:
    """Tables after a step: an export, and a limit on its latency on a device."""
    return (
        f'sparsity = 0.5\n[latency]\ndevices = ["{device}"]\n[budget]\nmax_latency_ms = 5\n'
        f'[[exports]]\nformat = "{format_}"\nprecision = "{precision}"\n'
    )


LARGEST = """
model = "models/m.h5"
metric = "mse"
seed = 7

[data]
train = "a.npz"
validation = "b.npz"
test = "/data/c.npz"
scale = 1
offset = -0.5

[[steps]]
kind = "prune"
name = "sparse"
sparsity = 0.8
scope = "global"
include = ["block*", "Dense"]
exclude = "head"
prune_depthwise = true
keep_first = true
keep_last = true
schedule = "constant"
power = 2
frequency = 5
ramp = 1
epochs = 3
batch_size = 8
learning_rate = 0.01
decay = "constant"
optimizer = "sgd"

[[steps]]
kind = "finetune"
epochs = 2
patience = 1

[[steps]]
kind = "quantize"
samples = 50
io_type = "int8"

[[exports]]
format = "tflite"
precision = "int8"

[[exports]]
format = "coreml"
precision = "sparse"
deployment_target = "iOS17"

[latency]
measure = false
processes = 7
pairs = 40

[budget]
download = "350 kB"
codec = "zstd"
install = "1 MiB"
max_metric_drop = 0.02
min_sparsity = 0.7
"""


def test_the_smallest_recipe(tmp_path: Path) -> None:
    """Everything but model, metric, test data and one step has a default; paths start at the recipe."""
    path = tmp_path / "r.toml"
    path.write_text(SMALLEST)
    recipe = load_recipe(path)
    assert (recipe.model, recipe.data.test) == (tmp_path / "m.keras", tmp_path / "t.npz")
    assert (recipe.data.train, recipe.data.scale, recipe.seed, recipe.goal.metric) == (None, 1.0, 0, {"": ("auc",)})
    assert recipe.steps == (PruneStep(options=MagnitudeOptions(sparsity=0.5)),)
    assert (recipe.exports, recipe.latency, recipe.budget) == ((), LatencySpec(), None)
    assert recipe.sha256 == hashlib.sha256(SMALLEST.encode()).hexdigest()


def test_the_largest_recipe(tmp_path: Path) -> None:
    """Every key arrives with its type: whole numbers may stand for floats, one pattern for a list."""
    path = tmp_path / "r.toml"
    path.write_text(LARGEST)
    recipe = load_recipe(path)
    prune = PruneStep(
        name="sparse",
        options=MagnitudeOptions(
            sparsity=0.8,
            scope="global",
            include=("block*", "Dense"),
            exclude=("head",),
            prune_depthwise=True,
            keep_first=True,
            keep_last=True,
        ),
        schedule="constant",
        power=2.0,
        frequency=5,
        ramp=1.0,
        training=TrainOptions(epochs=3, batch_size=8, learning_rate=0.01, decay="constant", optimizer="sgd", seed=7),
    )
    tune = FinetuneStep(training=TrainOptions(epochs=2, patience=1, seed=7))
    assert recipe.steps == (prune, tune, QuantizeStep(samples=50, io_type="int8"))
    assert recipe.exports == (
        ExportSpec(format=Format.TFLITE, precision=Precision.INT8),
        ExportSpec(
            format=Format.COREML,
            precision=Precision.SPARSE,
            package=PackageOptions(deployment_target=DeploymentTarget.IOS17),
        ),
    )
    assert recipe.latency == LatencySpec(measure=False, processes=7, pairs=40)
    assert recipe.budget == Budget(
        where="budget",
        download_bytes=350_000,
        codec="zstd",
        install_bytes=1_048_576,
        max_metric_drop=0.02,
        min_sparsity=0.7,
    )
    assert recipe.data.test == Path("/data/c.npz")
    assert (recipe.data.scale, recipe.data.offset) == (1.0, -0.5)
    assert isinstance(recipe.data.scale, float)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('metric = "auc"', "metric = 3", "'metric' must be a text in quotes, got 3"),
        ('metric = "auc"', 'metric = "auc"\nbudgett = 1', "unknown key 'budgett'; did you mean 'budget'?"),
        ('test = "t.npz"', 'tset = "t.npz"', "unknown key 'tset' in [data]; did you mean 'test'?"),
        ('test = "t.npz"', 'train = "t.npz"', "[data] lacks 'test'"),
        ('test = "t.npz"', "set_aside = 0.1", "set_aside in [data] is a share of the samples in train"),
        ('test = "t.npz"', 'train = "t.npz"\nset_aside = 0.5', "above 0 and at most 0.4"),
        ("sparsity = 0.5", "sparsity = true", "'steps 1.sparsity' must be a number, got True"),
        ("sparsity = 0.5", 'sparsity = 0.5\nscope = "gobal"', "did you mean 'global'?"),
        ("sparsity = 0.5", "sparsity = 0.5\ninitial_sparsity = 0.6", "initial_sparsity 0.6 is above sparsity 0.5"),
        ("sparsity = 0.5", "sparsity = 0.5\ninclude = 3", "is a list of patterns"),
        ("sparsity = 0.5", 'sparsity = 0.5\nbackend = "tfmot"', "tfmot backend prunes while training"),
        ("sparsity = 0.5", "sparsity = 0.5\nflip = true", "[steps 1] lacks 'epochs'"),
        ("sparsity = 0.5", "sparsity = 0.5\nseed = 1", "unknown key 'seed' in [steps 1]"),
        ("sparsity = 0.5", "options = {sparsity = 0.5}", "unknown key 'options' in [steps 1]"),
        ("sparsity = 0.5", 'style = "channel"\nratio = 0.5\nimportance = "lam"', "did you mean 'lamp'?"),
        ("sparsity = 0.5", 'style = "channel"\nlossless = true\nexclude = "a"', "only: leave out 'exclude'"),
        ("sparsity = 0.5", 'sparsity = 0.5\nname = "dense"', "two stages are called 'dense'"),
        ("sparsity = 0.5", 'sparsity = 0.5\nname = ".."', "cannot be part of a file name"),
        ("[[steps]]", "[steps]", "write [[steps]]"),
        ("sparsity = 0.5", "sparsity = 0.5\n[latency]\nprocesses = 1", "3 to 50 processes"),
        ("sparsity = 0.5", 'sparsity = 0.5\n[latency]\ndevices = ["pixel33"]', "no device profile 'pixel33'"),
        ("sparsity = 0.5", 'sparsity = 0.5\n[latency]\ndevices = ["own.toml"]', "own.toml"),
        ("sparsity = 0.5", never("pixel3-tflite-4t-int8", "tflite", "float32"), "that profile covers int8"),
        ("sparsity = 0.5", never("pixel3-tflite-4t-float32", "coreml", "float16"), "does not run coreml files"),
        ("sparsity = 0.5", never("pixel3-gpu-float32", "tflite", "float32"), "ranks files and gives no milliseconds"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    """The message names the file, the place and the likely intent."""
    path = tmp_path / "r.toml"
    path.write_text(SMALLEST.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_step_to_int16x8(tmp_path: Path) -> None:
    """A quantize step takes int16x8 and floats where no kernel is, and is named after its precision."""
    path = tmp_path / "recipe.toml"
    path.write_text(
        'model = "m.keras"\nmetric = "mse"\n[data]\ntest = "t.npz"\ntrain = "t.npz"\n'
        '[[steps]]\nkind = "quantize"\nprecision = "int16x8"\nio_type = "int16"\nfloat_fallback = true\n'
        '[[exports]]\nformat = "tflite"\nprecision = "int16x8"\n'
    )
    (step,) = load_recipe(path).steps
    assert step == QuantizeStep(name="int16x8", precision="int16x8", io_type="int16", float_fallback=True)


def test_coarser_weights_are_measured_on_validation_samples(tmp_path: Path) -> None:
    """A quantize step contains how the bytes are stored; without a validation split nothing can be spent."""
    path = tmp_path / "recipe.toml"
    text = (
        'model = "m.keras"\nmetric = "mse"\n[data]\ntest = "t.npz"\ntrain = "t.npz"\n'
        '[[steps]]\nkind = "quantize"\nspend = "1 %"\ndrop_names = true\n'
    )
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"set validation in \[data\]"):
        load_recipe(path)
    path.write_text(text.replace("[data]", '[data]\nvalidation = "v.npz"'))
    (step,) = load_recipe(path).steps
    assert step == QuantizeStep(slim=SlimOptions(spend="1 %", drop_names=True))


QAT = (
    'model = "m.keras"\nmetric = "mse"\n[data]\ntest = "t.npz"\ntrain = "t.npz"\n'
    '[[steps]]\nkind = "qat"\nepochs = 2\nper_tensor = true\n'
)


def test_a_step_of_quantization_aware_training(tmp_path: Path) -> None:
    """It has the keys of a quantize step and of training, with gentler defaults."""
    path = tmp_path / "recipe.toml"
    path.write_text(QAT)
    (step,) = load_recipe(path).steps
    assert step == QatStep(per_tensor=True, training=QatOptions(epochs=2))
    assert (step.name, step.training.distill, step.training.learning_rate) == ("qat", 0.5, 1e-5)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("per_tensor = true", 'precision = "int16x8"', "quantization-aware training is for int8"),
        ("per_tensor = true", "renew_norms = true", "folds batch normalization"),
        ("epochs = 2", "", "lacks 'epochs'"),
        ('train = "t.npz"', "", "the step 'qat' needs training data"),
        ("per_tensor = true", '[[steps]]\nkind = "quantize"', "comes once and last"),
    ],
)
def test_wrong_quantization_aware_training(tmp_path: Path, old: str, new: str, told: str) -> None:
    """One line says what is wrong."""
    path = tmp_path / "recipe.toml"
    path.write_text(QAT.replace(old, new))
    with pytest.raises(RecipeError, match=told):
        load_recipe(path)


def test_a_channel_step_contains_its_options(tmp_path: Path) -> None:
    """The keys of the algorithm and of training stand flat in the table, the recipe's seed goes into both; a profile of
    the project's own counts from the recipe."""
    path = tmp_path / "recipe.toml"
    path.write_text(
        SMALLEST.replace("sparsity = 0.5", 'style = "channel"\nratio = 0.4\nround_to = 4\nepochs = 2\npatience = 1')
        .replace('metric = "auc"', 'metric = "auc"\nseed = 5')
        .replace("[data]", '[data]\ntrain = "t.npz"')
    )
    (step,) = load_recipe(path).steps
    assert step == ChannelStep(
        options=ChannelOptions(ratio=0.4, round_to=4, seed=5), training=TrainOptions(epochs=2, patience=1, seed=5)
    )


def types_of(kind: type) -> Iterator[tuple[str, type]]:
    """(Key, type) of a table, contained records opened."""
    for name, (plain, _) in tables._types(kind).items():
        yield from types_of(plain) if is_dataclass(plain) else [(name, plain)]


@pytest.mark.parametrize("kind", [*STEPS.values(), ChannelStep, DataSpec, ExportSpec, LatencySpec])
def test_every_key_has_a_reader(kind: type) -> None:
    """Each field's type can be read from TOML, and no two records of a step have a key of the same name."""
    types = [(name, plain) for name, plain in types_of(kind) if name != "seed"]
    assert all(plain in tables.READERS or issubclass(plain, enum.Enum) for _, plain in types)
    assert [name for name, _ in types] == list(tables.keys_of(kind, without=("seed",)))
    assert len(dict(types)) == len(types)


def test_a_ledger_tells_a_step_as_the_recipe_did() -> None:
    """Contained options lie flat beside the step's own keys."""
    told = tables.flat(PruneStep(options=MagnitudeOptions(sparsity=0.5), training=TrainOptions(epochs=2)))
    assert (told["sparsity"], told["epochs"], told["schedule"]) == (0.5, 2, "polynomial")
    assert not {"options", "training"} & told.keys()

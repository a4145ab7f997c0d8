"""A latency on a device as the target of channel pruning: wrong inputs, the search in rounds, the ledger of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from edgeprune.artifact import Format, Precision
from edgeprune.checker.latency.latency_targets import target_profile
from edgeprune.checker.latency.profiles import load_profile
from edgeprune.errors import InputError, OutOfReach, RecipeError, UsageError
from edgeprune.formats import read_contents
from edgeprune.ledger import schema_path
from edgeprune.maker.recipe.recipe import ChannelStep, load_recipe
from edgeprune.units import format_ms

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")

PIXEL3 = "pixel3-tflite-4t-float32"
CHANNEL = '[[steps]]\nkind = "prune"\nstyle = "channel"\n'
NARROW = CHANNEL + f'latency = 0.6\ndevice = "{PIXEL3}"\n'
FLOAT = '[[exports]]\nformat = "tflite"\nprecision = "float32"\n'


@pytest.mark.parametrize(
    ("share", "device", "told"),
    [
        (0.0, PIXEL3, "above 0 and below 1; got 0"),
        (1.0, PIXEL3, "above 0 and below 1; got 1"),
        (float("nan"), PIXEL3, "got nan"),
        (60, PIXEL3, "did you mean 0.6?"),
        (0.6, "pixel3-tflite-4t-flaot32", f"did you mean {PIXEL3}"),
        (0.6, "pixel3-tflite-4t-int8", "is not for float32 .tflite files"),
        (0.6, "iphone12-coreml-float16", "is not for float32 .tflite files"),
        (0.6, "pixel3-gpu-float32", "gives no milliseconds"),
    ],
)
def test_what_can_be_no_target(share: float, device: str, told: str) -> None:
    """A share that is no fraction, and a profile that gives no milliseconds for float32 .tflite files."""
    with pytest.raises(UsageError, match=r"^[^\n]+$") as caught:
        target_profile(share, device)
    assert told in str(caught.value)


def test_what_can_be_a_target(covered: Path) -> None:
    """The profile of a name, and one in a file of the project's own; a missing file is an error of the file."""
    assert target_profile(0.6, PIXEL3).name == PIXEL3
    assert target_profile(0.6, str(covered)).name == PIXEL3
    with pytest.raises(InputError, match="does not exist"):
        target_profile(0.6, str(covered.with_name("other.toml")))


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("latency = 0.6\n", "add device = \"NAME\" ('edgeprune devices' lists them)"),
        (f'device = "{PIXEL3}"\n', "add latency = 0.6 (the share to keep), or leave it out"),
        (f'device = "{PIXEL3}"\nmacs = 0.5\n', "add latency = 0.6 (the share to keep), or leave it out"),
        (
            f'latency = 0.6\nmacs = 0.5\ndevice = "{PIXEL3}"\n',
            "one of ratio, macs, parameters, download, latency, widths and harmless; got macs, l",
        ),
        (f'latency = 0.6\nlossless = true\ndevice = "{PIXEL3}"\n', "dead channels only: leave out 'latency'"),
        (f'latency = 60\ndevice = "{PIXEL3}"\n', "did you mean 0.6?"),
        (f'latency = "fast"\ndevice = "{PIXEL3}"\n', "'steps 1.latency' must be a number"),
        ("latency = 0.6\ndevice = 3\n", "'steps 1.device' must be a text in quotes"),
        ('latency = 0.6\ndevice = "pixel33"\n', "no device profile 'pixel33'; did you mean pixel"),
        ('latency = 0.6\ndevice = "pixel3-tflite-4t-int8"\n', "is not for float32 .tflite files"),
        ('latency = 0.6\ndevice = "pixel3-gpu-float32"\n', "gives no milliseconds"),
        (f'latency = 0.6\ndevice = "{PIXEL3}"\nrounds = 2\n', "set epochs, and a ratio, macs, parameters or latency"),
    ],
)
def test_a_mistake_in_the_step_is_named(recipe: Callable[..., Path], step: str, told: str) -> None:
    """One line with the recipe and the step, before the model is read."""
    path = recipe(CHANNEL + step, model='model = "there-is-none.keras"')
    with pytest.raises(RecipeError, match=r"^[^\n]+$") as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


def test_a_profile_counts_from_the_recipe(recipe: Callable[..., Path], covered: Path) -> None:
    """A .toml lies beside the recipe, whatever folder the command runs in; a name stays a name."""
    (own,) = load_recipe(recipe(CHANNEL + f'latency = 0.6\ndevice = "{covered.name}"\n')).steps
    assert isinstance(own, ChannelStep)
    assert own.device == str(covered)
    (named,) = load_recipe(recipe(NARROW)).steps
    assert isinstance(named, ChannelStep)
    assert named.options is not None
    assert (named.options.latency, named.device) == (0.6, PIXEL3)
    path = recipe(CHANNEL + 'latency = 0.6\ndevice = "none.toml"\n')
    with pytest.raises(RecipeError, match=r"none\.toml does not exist"):
        load_recipe(path)


@pytest.mark.parametrize("more", ["importance = 'taylor'\n", "compensate = 'mean'\n", "epochs = 1\n"])
def test_what_looks_at_data_needs_some(recipe: Callable[..., Path], more: str) -> None:
    """Without a training split the step is refused like any other."""
    path = recipe(NARROW + more, train="")
    with pytest.raises(RecipeError, match="needs training data; set train in"):
        load_recipe(path)


def test_the_plan_in_words(call: Any, recipe: Callable[..., Path]) -> None:
    """--dry-run names the target, the groups and the rounds."""
    done = call("run", recipe(NARROW + "round_to = 4\nepochs = 2\nrounds = 3\n"), "--dry-run")
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("step 1")]
    assert f"channel pruning to latency 0.6 on {PIXEL3} (estimated) in 2 of 3 groups by lamp" in line
    assert "after each of 3 rounds" in line


def test_a_model_whose_macs_are_not_known(call: Any, recipe: Callable[..., Path], work: Path, keras: Any) -> None:
    """The search goes by MACs: a model that leaves a size open is refused before any work."""
    x = keras.Input((None, None, 1), name="image")
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 3, name="conv")(x))
    keras.Model(x, keras.layers.Dense(3, activation="softmax")(y)).save(work / "model.keras")
    call("run", recipe(NARROW), "--dry-run").error(2, "step 'pruned': latency cannot be a target", "ask for ratio")


@pytest.mark.slow
class TestSearch:
    """`prune_to_latency` with a real converter."""

    @pytest.fixture
    def narrow(self, image_model: Any, covered: Path, converter: Any) -> Callable[..., Any]:
        """Prune the image model to a share, in widths of any number unless told otherwise."""
        from edgeprune.maker.pruning.options import ChannelOptions
        from edgeprune.maker.recipe.latency_search import prune_to_latency

        def run(share: float, *, round_to: int = 1, **more: Any) -> Any:
            options = ChannelOptions(latency=share, round_to=round_to)
            return prune_to_latency(image_model, options, load_profile(covered), converter=converter, **more)

        return run

    @pytest.fixture
    def estimate(self, converter: Any, covered: Path, tmp_path: Path) -> Callable[[Any], float]:
        """Milliseconds of a model's float32 file on the profile."""
        from edgeprune.checker.latency.estimate import estimate_latency

        def run(model: Any) -> float:
            path = tmp_path / "estimated.tflite"
            converter.export(model, path, Format.TFLITE, Precision.FLOAT32)
            total = estimate_latency(read_contents(path), load_profile(covered)).total_ms
            assert total is not None
            return total

        return run

    def test_one_cut(self, narrow: Any, estimate: Any, image_model: Any) -> None:
        """The estimates told are those of the two models' files, and one more channel would be too slow."""
        result = narrow(0.6)
        found = result.report.estimated_latency
        assert found.asked == 0.6
        assert found.before.total_ms == estimate(image_model)
        assert found.after.total_ms == estimate(result.model)
        assert found.ratio == found.after.total_ms / found.before.total_ms
        assert 0.55 < found.ratio <= 0.6
        assert found.before.how.startswith(f"estimated from profile {PIXEL3} (")
        assert result.report.asked == f"latency 0.6 on {PIXEL3}"
        assert result.report.verified <= 1e-4

    def test_rounds(self, narrow: Any, estimate: Any, image_model: Any) -> None:
        """Each of two rounds keeps the same share, the last ends at the target, and the model is trained after each."""
        seen: list[tuple[int, float]] = []
        trials: list[tuple[int, int, str]] = []

        def train(model: Any, number: int, _: object) -> Any:
            seen.append((number, estimate(model)))
            return model

        result = narrow(0.49, rounds=2, train=train, on_trial=lambda *told: trials.append(told))
        dense = estimate(image_model)
        assert [number for number, _ in seen] == [1, 2]
        assert 0.6 * dense < seen[0][1] <= 0.7 * dense
        assert 0.43 * dense < seen[1][1] <= 0.49 * dense
        found = result.report.estimated_latency
        assert (found.before.total_ms, found.after.total_ms) == (dense, seen[1][1])
        widths = {item.layer: (item.before, item.after) for item in result.report.removed}
        assert widths["conv"] == (8, result.model.get_layer("conv").filters)
        assert widths["point"] == (12, result.model.get_layer("point").filters)
        assert trials[0] == (0, 9, "exports tried in round 1 of 2")
        assert {text for _, _, text in trials} == {f"exports tried in round {n} of 2" for n in (1, 2)}

    def test_a_round_with_nothing_left_to_cut(self, narrow: Any) -> None:
        """Where rounded widths went past a later round's part, that round keeps all channels and only trains."""
        sizes = []

        def train(model: Any, *_: object) -> Any:
            sizes.append(model.count_params())
            return model

        report = narrow(0.85, round_to=4, rounds=3, train=train).report
        assert sizes == [291, 243, 243]
        assert 0.8 < report.estimated_latency.ratio <= 0.85
        assert [(item.layer, item.before, item.after) for item in report.removed] == [("point", 12, 4)]
        assert report.parameters_after == 243

    def test_out_of_reach_is_known_before_any_training(self, narrow: Any) -> None:
        """In rounds the fewest channels that may stay are estimated first: two groups of four are too many here."""

        def train(model: Any, *_: object) -> Any:
            raise AssertionError("nothing is to be trained")

        with pytest.raises(OutOfReach, match=r"latency = 0\.2 cannot be reached on .*fewest channels that may stay"):
            narrow(0.2, round_to=4, rounds=2, train=train)
        with pytest.raises(OutOfReach, match=r"latency = 0\.2 cannot be reached on .*the least that was found is 0\.5"):
            narrow(0.2, round_to=4)

    def test_trials_leave_nothing_behind(self, narrow: Any, converter: Any) -> None:
        """The converter keeps no model and no graph of the candidates."""
        known = len(converter._frozen), len(list(converter._folder.glob("graph*.pb")))
        narrow(0.6)
        assert (len(converter._frozen), len(list(converter._folder.glob("graph*.pb")))) <= known

    def test_data_are_looked_at_once(self, image_model: Any, covered: Path, converter: Any, work: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
        """Importance by taylor and the means for the compensation are computed once, not for each trial."""
        from edgeprune.maker.keras.models import input_specs
        from edgeprune.maker.pruning.channel import pruner as channel
        from edgeprune.maker.pruning.options import ChannelOptions
        from edgeprune.maker.recipe.latency_search import prune_to_latency
        from edgeprune.maker.training.data.loading import load_samples
        from edgeprune.maker.training.goals import find_task

        calls = {"unit_scores": 0, "channel_means": 0}

        def counted(name: str, real: Any) -> Any:
            def run(*given: Any, **more: Any) -> Any:
                calls[name] += 1
                return real(*given, **more)

            return run

        for name in calls:
            monkeypatch.setattr(channel, name, counted(name, getattr(channel, name)))
        options = ChannelOptions(latency=0.6, round_to=1, importance="taylor", compensate="mean")
        result = prune_to_latency(
            image_model,
            options,
            load_profile(covered),
            converter=converter,
            samples=load_samples(work / "train.npz", input_specs(image_model)),
            task=find_task(image_model, "accuracy", trains=True),
        )
        assert calls == {"unit_scores": 1, "channel_means": 1}
        assert result.report.estimated_latency is not None
        assert result.report.estimated_latency.ratio <= 0.6


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
class TestRun:
    """`edgeprune run` with a latency as target."""

    def test_the_ledger(
        self, call: Any, recipe: Callable[..., Path], work: Path, covered: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In rounds, with data: the estimates are those of the files on disk; the same seed gives the same again."""
        import jsonschema

        from edgeprune.checker.latency.estimate import estimate_latency

        monkeypatch.setattr("edgeprune.host.progress.LINE_EVERY_S", 0.0)
        step = (
            CHANNEL + f'latency = 0.64\ndevice = "{covered.name}"\nround_to = 1\nimportance = "taylor"\n'
            'compensate = "mean"\nrounds = 2\nepochs = 1\nbatch_size = 8\n'
        )
        path = recipe(step + FLOAT)
        ledgers = []
        for name in ("first", "second"):
            done = call("run", path, "-o", work / name)
            assert done.code == 0, done.err
            ledgers.append(json.loads((work / name / "ledger.json").read_text()))
        ledger = ledgers[0]
        jsonschema.validate(ledger, json.loads(schema_path().read_text()), jsonschema.Draft202012Validator)
        dense, pruned = ledger["stages"]
        assert dense["channels"] is None
        assert pruned["latency"] is None
        assert pruned["channels"]["asked"] == f"latency 0.64 on {PIXEL3}"
        found = pruned["channels"]["estimated_latency"]
        profile = load_profile(covered)

        def told(path: Path) -> dict[str, Any]:
            made = asdict(estimate_latency(read_contents(path), profile))
            return {**made, "notes": list(made["notes"])}

        assert found["before"] == told(work / "first" / dense["artifacts"][0]["path"])
        assert found["after"] == told(work / "first" / pruned["artifacts"][0]["path"])
        assert found["asked"] == 0.64
        assert 0.55 < found["ratio"] <= 0.64
        assert found["ratio"] == found["after"]["total_ms"] / found["before"]["total_ms"]
        assert ledger["recipe"]["asked"]["steps"][0]["device"] == covered.name
        assert str(work) not in json.dumps(ledger)
        before = format_ms(found["before"]["total_ms"])
        sentence = f"Latency of stage pruned on a device, the target of its cut: {before} -> "
        assert sentence in done.out
        report = (work / "first" / "report.md").read_text()
        assert f"| {PIXEL3} | 0.64 | {found['ratio']:.3f} |" in report
        assert "pruned: prune: 0/9 exports tried in round 1 of 2" in done.err
        assert "pruned: prune, round 2 of 2: 0/9 exports tried in round 2 of 2" in done.err
        assert f"removed, {found['ratio']:.3f} of the latency estimated for {PIXEL3}" in done.err
        for one in ledgers:
            for stage in one["stages"]:
                stage["seconds"] = 0
        assert ledgers[0] == ledgers[1]

    def test_a_model_that_is_not_covered(
        self, call: Any, recipe: Callable[..., Path], work: Path, covered: Path
    ) -> None:
        """The dense file tells that the profile does not cover it, before the step in front is trained."""
        head, shares, rest = covered.read_text().partition("[largest_share]\n")
        covered.write_text(head + shares + rest.replace(" = 1.0\n", " = 0.0\n", 7))
        path = recipe(
            '[[steps]]\nkind = "finetune"\nepochs = 1\n'
            + CHANNEL
            + f'latency = 0.6\ndevice = "{covered.name}"\nround_to = 4\n'
        )
        done = call("run", path, "-o", work / "out")
        assert (done.code, done.out) == (3, "")
        last = done.err.splitlines()[-1]
        assert last.startswith("edgeprune: step 'pruned': latency cannot be a target: ")
        assert "calibrate it with files like this one" in last
        assert "fine-tuned: fine-tune ..." not in done.err
        assert not (work / "out").exists()

    def test_out_of_reach(self, call: Any, recipe: Callable[..., Path], work: Path, covered: Path) -> None:
        """What can be reached is told, with exit code 2, and nothing is left."""
        step = CHANNEL + f'latency = 0.2\ndevice = "{covered.name}"\nround_to = 4\n'
        done = call("run", recipe(step), "-o", work / "out", "--quiet")
        done.error(2, "latency = 0.2 cannot be reached", "the least that was found is 0.5")
        assert not (work / "out").exists()

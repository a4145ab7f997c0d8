"""An advice as a whole: the files made, the way chosen, and that way as a recipe that `run` takes."""

from __future__ import annotations

from pathlib import Path

from edgeprune.checker.latency.accelerators.rules import find_accelerator
from edgeprune.checker.ways import Advice, Aim, Kind, Way, chosen_way
from edgeprune.converters.session import Converter
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.types import Model
from edgeprune.maker.recipe.candidates import Candidates, Wanted
from edgeprune.maker.recipe.recipe_toml import RecipeFiles, recipe_toml
from edgeprune.verdict import Estimate

__all__ = ["TRAIN", "TUNE", "advised", "recipe_text"]

# What a first recipe trains: enough to see what pruning costs, not to win it all back.
TRAIN = {"epochs": 2, "learning_rate": 1e-3}
TUNE = {"epochs": 4, "learning_rate": 1e-3}


def advised(
    model: Model,
    name: str,
    wanted: Wanted,
    *,
    aim: Aim,
    trains: bool,
    asked_sparsity: bool,
    asked_ratio: bool,
    progress: Progress,
) -> Advice:
    """Make the files and choose among them.

    `trains` is whether there are samples to train on; `asked_sparsity` and `asked_ratio` whether those of `wanted` are
    what somebody has in mind. Raises what the export of the model raises.
    """
    with Converter() as converter:
        converter.start()
        made = Candidates(model=model, wanted=wanted, converter=converter, progress=progress).made()
    accelerators = [find_accelerator(target) for target in wanted.accelerators]
    int8 = any("int8" in profile.accepts for profile in wanted.profiles) or any(not a.pattern for a in accelerators)
    gains = [one.gain for way in made.ways if way.kind is Kind.DENSE for one in way.accelerators]
    pays = bool(gains) and not wanted.profiles and all(gain is not None and gain.pays for gain in gains)
    return Advice(
        model=name,
        layers=len(made.dense.layers),
        parameters=made.dense.parameters or 0,
        macs=made.dense.macs,
        bound_bytes=made.dense.bound_bytes,
        targets=(*(profile.name for profile in wanted.profiles), *wanted.accelerators),
        ways=made.ways,
        sparse=made.sparse,
        sparsity=wanted.sparsity,
        ratio=wanted.ratio,
        asked_sparsity=asked_sparsity,
        asked_ratio=asked_ratio,
        aim=aim,
        chosen=chosen_way(made.ways, aim, trains=trains, int8_target=int8, pattern_pays=pays),
        trains=trains,
        unknown=tuple(_unknown(wanted, trains)),
    )


def _unknown(wanted: Wanted, trains: bool) -> list[str]:
    """What cannot be known without samples."""
    told = []
    if wanted.tests is None or wanted.task is None:
        told.append("what each way costs in quality: add --data TEST (samples with targets)")
    if wanted.looked_at is None:
        told.append(
            "what int8 computes: its ranges are made up here, so that its size counts and its outputs do not; add "
            "--train TRAIN, or --data"
        )
    if not trains:
        told.append("what training brings back: add --train TRAIN (samples with targets), and the recipe fine-tunes")
    return told


def recipe_text(advice: Advice, files: RecipeFiles, place: Path) -> str:
    """The recommended way as TOML, with paths beside `place`, where the recipe will stand."""
    chosen = next(way for way in advice.ways if way.kind is advice.chosen)
    precision = "int8" if _quantizes(chosen, "train" in files.splits) else "float16"
    form = "onnx" if chosen.pattern else "tflite"
    devices = [found.device for found in _estimated(chosen, precision)]
    return recipe_toml(
        files,
        place,
        head="Recommended by edgeprune advise, before any training; what it was chosen by stands in that report.",
        steps=_steps(advice, chosen, can_calibrate="train" in files.splits),
        exports=[(form, precision), *_coreml_exports(advice, chosen)],
        latency={"devices": devices} if devices else {},
    )


def _quantizes(way: Way, can_calibrate: bool) -> bool:
    return way.kind.is_int8 and can_calibrate


def _steps(advice: Advice, way: Way, *, can_calibrate: bool) -> list[dict[str, object]]:
    steps: list[dict[str, object]] = []
    if way.kind.has_zeros:
        steps.append({"kind": "prune", "sparsity": way.pattern or advice.sparsity, **(TRAIN if advice.trains else {})})
    if way.kind.narrower:
        steps.append({"kind": "prune", "style": "channel", "ratio": advice.ratio})
    if steps and advice.trains:
        steps.append({"kind": "finetune", **TUNE})
    if _quantizes(way, can_calibrate):
        steps.append({"kind": "quantize"})
    return steps


def _coreml_exports(advice: Advice, way: Way) -> list[tuple[str, str]]:
    """A package beside it where a target runs those: sparse where weights are zero, int8 otherwise."""
    if not any(other.kind.is_coreml and other.made for other in advice.ways):
        return []
    return [("coreml", "sparse" if way.kind.has_zeros else "int8" if way.kind.is_int8 else "float16")]


def _estimated(way: Way, precision: str) -> list[Estimate]:
    """Estimates of the way that a profile gave, where the file that the recipe exports is of its precision."""
    if way.kind.is_int8 is not (precision == "int8"):
        return []
    return [found for found in way.estimates if found.given]

"""What each layer loses when only it is compressed, and what is won when only it is not.

Quantized: int8 files of one calibration, in which the operations of one layer are integers and all others floats, and
the other way round. Pruned: the Keras model with zeros in the kernels of one layer, or in all others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeprune.artifact import Format, Precision
from edgeprune.converters.float_start import FloatStart, noise_of
from edgeprune.converters.ladder import COMPARED, grouped
from edgeprune.converters.searched import layer_names
from edgeprune.converters.session import Converter
from edgeprune.converters.spending import Judge
from edgeprune.errors import RuntimeFailure, UsageError
from edgeprune.host.progress import Progress
from edgeprune.ledger import MetricChange
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.magnitude import NOTHING_TO_PRUNE, prune_magnitude, select_targets
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.training.bootstrap import compared
from edgeprune.maker.training.data.loading import calibration_set
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.goals import Asked, find_task
from edgeprune.points import LayerCost, Sensitivity

__all__ = ["cost_of_pruning", "cost_of_quantizing", "sensitivity"]

Advance = Callable[[int, int], None]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A model with some layers compressed."""

    noise: float
    metric: float | None
    made: Arrays | None = None


def sensitivity(
    model: Model,
    samples: Samples,
    *,
    calibration: Samples | None = None,
    metric: Asked | None = None,
    sparsity: float | None = None,
    calibration_samples: int = 200,
    seed: int = 0,
    converter: Converter | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """What int8, or zeros of a `sparsity`, cost in each layer of a Keras model: decibels, and the metric where
    `samples` have targets. `calibration` are training samples; without them `samples` set the ranges too."""
    shown = progress or Progress(quiet=True)
    judge = Judge.of(model, samples, find_task(model, metric).main).against(model)
    shown.begin("layers one by one")
    if sparsity is not None:
        found = cost_of_pruning(model, sparsity, judge, shown.advance)
    else:
        judge.check_runtime("quantizing layers one by one")
        arrays = calibration_set(calibration or samples, input_specs(model), calibration_samples, seed)
        with contextlib.nullcontext(converter) if converter else Converter() as working:
            found = cost_of_quantizing(model, working, arrays, judge, shown.advance)
    shown.end()
    return found


def cost_of_quantizing(
    model: Model,
    converter: Converter,
    calibration: Arrays,
    judge: Judge,
    on_progress: Advance,
    *,
    per_tensor: bool = False,
) -> Sensitivity:
    """What int8 costs, layer by layer; `calibration` sets the ranges, and the first samples of it the decibels."""
    path = converter.scratch("sensitivity.tflite")
    how: Any = {"float_fallback": True, "per_tensor": per_tensor}
    first = converter.export(
        model, path, Format.TFLITE, Precision.INT8, calibration=calibration, keep_start=True, **how
    )
    start = FloatStart.of(first, layer_names(model))
    groups = grouped(start.operations)
    every = frozenset(op.node for op in start.operations)
    few = {name: np.asarray(values)[:COMPARED] for name, values in calibration.items()}
    before = start.outputs(start.content, few)

    def tried(in_float: frozenset[str]) -> _Tried:
        converter.export(model, path, Format.TFLITE, Precision.INT8, start=first.start, float_nodes=in_float, **how)
        content = path.read_bytes()
        made = None
        with contextlib.suppress(RuntimeFailure):
            made = judge.made(content) if judge.samples.told else None
        return _tried(start.noise(content, before, few), made, judge)

    return _costs(
        "int8",
        {name: start.share(nodes) for name, nodes in groups.items()},
        lambda names: tried(every - {node for name in names for node in groups[name]}),
        judge,
        on_progress,
    )


def cost_of_pruning(model: Model, sparsity: float, judge: Judge, on_progress: Advance) -> Sensitivity:
    """What zeros cost, layer by layer: the smallest weights of a layer, this share of them."""
    options = MagnitudeOptions(sparsity=sparsity)
    layers = dict.fromkeys(target.layer for target in select_targets(model, options)[0])
    if not layers:
        raise UsageError(NOTHING_TO_PRUNE)

    def tried(names: Sequence[str]) -> _Tried:
        pruned = prune_magnitude(model, replace(options, include=tuple(map(_literal, names)))).model
        made = predict(pruned, judge.samples.inputs)
        return _tried(noise_of(judge.floats, made), made if judge.samples.told else None, judge)

    return _costs(f"sparsity {sparsity:g}", dict.fromkeys(layers), tried, judge, on_progress)


def _tried(noise: float, made: Arrays | None, judge: Judge) -> _Tried:
    score = None if made is None else judge.main.of(made, judge.samples.told)
    return _Tried(noise=noise, metric=score, made=made)


def _literal(name: str) -> str:
    """A pattern that fits this name only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _costs(
    how: str,
    shares: Mapping[str, float | None],
    tried: Callable[[Sequence[str]], _Tried],
    judge: Judge,
    on_progress: Advance,
) -> Sensitivity:
    """`tried` compresses the layers of these names and no others."""
    names, told = list(shares), bool(judge.samples.told)
    before = judge.main.of(judge.floats, judge.samples.told) if told else None
    whole = tried(names)

    def change(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else judge.lost(a, b)

    found: list[tuple[float, LayerCost]] = []
    for number, name in enumerate(names, start=1):
        alone = tried([name])
        without = (
            tried([other for other in names if other != name])
            if len(names) > 1
            else _Tried(noise=0.0, metric=before, made=judge.floats if told else None)
        )
        cost = LayerCost(
            layer=name,
            macs=shares[name],
            sqnr_db=_decibels(alone.noise),
            metric=alone.metric,
            lost=change(before, alone.metric),
            without_db=_decibels(without.noise),
            without_metric=without.metric,
            gained=change(without.metric, whole.metric),
            gain=_gain(judge, whole, without),
        )
        found.append((alone.noise, cost))
        on_progress(number, len(names))
    return Sensitivity(
        how=how,
        metric=judge.main.name if told else None,
        samples=len(judge.samples) if told else 0,
        before=before,
        after=whole.metric,
        after_db=_decibels(whole.noise),
        layers=tuple(cost for _, cost in sorted(found, key=lambda pair: -pair[0])),
    )


def _gain(judge: Judge, whole: _Tried, without: _Tried) -> MetricChange | None:
    if whole.made is None or without.made is None:
        return None
    return compared(judge.main, whole.made, without.made, judge.samples.told)[1]


def _decibels(noise: float) -> float | None:
    return round(max(0.0, float(-10 * np.log10(noise))), 3) if noise > 0 else None

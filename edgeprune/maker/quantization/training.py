"""Quantization-aware training: train a model as it will compute in int8, and hand over the ranges that it learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import Unsupported
from edgeprune.ledger import TrainLog
from edgeprune.maker.keras.graphs import graph_of
from edgeprune.maker.keras.models import Predictor, clone, input_specs, predictor
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.sparse_masks import HOLD
from edgeprune.maker.pruning.sparse_optimizer import make_sparse
from edgeprune.maker.quantization.matching import match_places
from edgeprune.maker.quantization.places import Places
from edgeprune.maker.quantization.simulation import Simulation
from edgeprune.maker.quantization.traced import Preparation, trace_model
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.loop import OnProgress, steps_per_epoch, train
from edgeprune.maker.training.options import QatOptions
from edgeprune.maker.training.task import Task

__all__ = ["Quantized", "train_quantized"]

SETTLED = 2 / 3  # of the training: ranges stay from then on, so that the weights learn the grid that ships


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantized:
    """A trained model, in float, with the range of each tensor of its float file; `simulated` is what it computes with
    everything rounded that the file rounds, but for `left`, which keeps its calibrated ranges."""

    model: Model
    ranges: Mapping[str, tuple[float, float]]
    simulated: Predictor
    left: tuple[str, ...]
    log: TrainLog


def train_quantized(
    model: Model,
    places: Places,
    trial: Mapping[str, np.ndarray],
    samples: Samples,
    validation: Samples | None,
    task: Task,
    options: QatOptions,
    *,
    teacher: Model | None = None,
    preparation: Preparation | None = None,
    on_progress: OnProgress | None = None,
) -> Quantized:
    """A copy of the model that was trained as its int8 file computes; zeros of kernels stay zeros.

    `places` is what that file rounds, found with the samples `trial`; `preparation` is what its converter does to a
    model. With `options.distill` the `teacher` gives that share of the loss. Where no epoch is better on
    `validation` than the beginning, that is kept (epoch 0). Raises Unsupported for a model that is no graph of
    layers.
    """
    if graph_of(model) is None:
        raise Unsupported(f"{model.name}: quantization-aware training needs a Functional or Sequential model")
    tuned = clone(model)
    traced = trace_model(tuned, preparation)
    inputs = [np.asarray(trial[name], dtype) for name, (_, dtype) in input_specs(tuned).items()]
    match = match_places(traced, places, inputs)
    steps = options.epochs * steps_per_epoch(len(samples), options.batch_size)
    simulation = Simulation(traced, places, match, settle_step=max(1, round(SETTLED * steps)))
    log = train(
        simulation.rounded,
        samples,
        validation,
        task,
        options,
        teacher=teacher,
        sparsify=lambda optimizer: make_sparse(optimizer, HOLD, tuned),
        may_keep_start=True,
        on_progress=on_progress,
    )
    return Quantized(
        model=tuned,
        ranges=simulation.ranges(),
        simulated=predictor(simulation.rounded),
        left=match.missing,
        log=log,
    )

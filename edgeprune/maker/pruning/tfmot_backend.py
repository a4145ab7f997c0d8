"""Pruning with tensorflow-model-optimization (tfmot) 0.8.1, for Keras 3 models that tf_keras can rebuild.

tfmot knows only Keras 2 and switches its whole process to that (it sets TF_USE_LEGACY_KERAS), so it runs in a child.
The child gets a neutral description of the layers, rebuilds the model, proves that it computes the same outputs, trains
it inside tfmot's own wrappers and sends the weights back. This process imports neither tfmot nor tf_keras.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgeprune.errors import EdgepruneError, MissingExtra, OutputError, Unsupported, UsageError
from edgeprune.host.children import child_process, how_it_ended
from edgeprune.host.scratch import scratch_folder
from edgeprune.ledger import EpochLog, TrainLog
from edgeprune.maker.keras.models import clone, input_specs, output_names, predict
from edgeprune.maker.keras.types import Layer, Model
from edgeprune.maker.pruning.magnitude import (
    NOTHING_TO_PRUNE,
    PruneResult,
    Target,
    apply_masks,
    report_sparsity,
    select_targets,
)
from edgeprune.maker.pruning.options import MagnitudeOptions
from edgeprune.maker.pruning.schedule import ConstantSparsity, PolynomialDecay
from edgeprune.maker.pruning.tfmot_description import NATIVE, Json, describe, refuse_shared
from edgeprune.maker.training.data.class_weights import weighted
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.loop import OnProgress, steps_per_epoch
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.options import TrainOptions
from edgeprune.maker.training.task import Task

__all__ = ["check_task", "prune_with_tfmot", "schedule_arguments"]

Array = npt.NDArray[Any]
SILENCE_S = 900.0  # the child reports each step; importing TensorFlow and tracing a large model take minutes at worst
PROOF_SAMPLES = 8
ERRORS: dict[str, type[EdgepruneError]] = {c.__name__: c for c in (EdgepruneError, Unsupported, UsageError)}


def prune_with_tfmot(
    model: Model,
    pruning: MagnitudeOptions,
    schedule: ConstantSparsity | PolynomialDecay,
    samples: Samples,
    validation: Samples | None,
    task: Task,
    options: TrainOptions,
    *,
    settled_step: int,
    on_progress: OnProgress | None = None,
) -> tuple[PruneResult, TrainLog]:
    """A copy pruned by tfmot's `prune_low_magnitude` while it trains; the argument is left alone.

    The same batches in the same order, loss, optimizer, learning rate and choice of the best epoch as
    `prune_while_training`; tfmot decides the masks. A GPU is used only where CUDA_VISIBLE_DEVICES is set, for this
    process may hold all of its memory. Raises MissingExtra, UsageError (options tfmot does not have), Unsupported (a
    layer that cannot be rebuilt, or a rebuilt model with other outputs) and EdgepruneError (the child failed, or the
    asked sparsity was not reached).
    """
    _require_tfmot()
    samples = weighted(samples, options.class_weight, task)
    if options.thaw:
        raise UsageError('thaw is an option of the native backend; with backend = "tfmot" save the model thawed')
    steps = steps_per_epoch(len(samples), options.batch_size) * options.epochs
    _check_request(pruning, schedule, steps)
    check_task(model, task)
    pruned = clone(model)
    targets, skipped = select_targets(pruned, pruning)
    if not targets:
        raise UsageError(NOTHING_TO_PRUNE)
    graph = describe(pruned)
    refuse_shared(graph, {target.layer for target in targets})
    before = {target.key: np.asarray(target.variable) for target in targets}
    job = {
        "graph": graph,
        "targets": sorted({target.layer for target in targets}),
        "schedule": schedule_arguments(schedule),
        "metric": task.main.metric.name,
        "options": {name: getattr(options, name) for name in TrainOptions.__slots__},
        "settled_step": settled_step,
    }
    arrays = _arrays(pruned, graph, samples, validation, task)
    reply, weights = _run_child(job, arrays, on_progress)
    _bring_back(pruned, graph, weights)
    masks = {target.key: np.asarray(target.variable) != 0 for target in targets}
    apply_masks(targets, masks)  # tfmot multiplies its masks in, which leaves -0.0
    _check_reached(targets, before, pruning.fraction)
    report = report_sparsity(targets, skipped, pruning)
    name = task.main.name
    epochs = tuple(
        EpochLog(loss=loss, validation=value, scores={} if value is None else {name: value})
        for loss, value in reply["epochs"]
    )
    log = TrainLog(
        epochs=epochs, kept_epoch=reply["kept_epoch"], stopped_early=len(epochs) < options.epochs, steps=reply["steps"]
    )
    return PruneResult(model=pruned, masks=masks, report=report), log


def _require_tfmot() -> None:
    for package in ("tensorflow_model_optimization", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("tensorflow-model-optimization and tf-keras", "tfmot", 'backend = "tfmot"')


def _check_request(pruning: MagnitudeOptions, schedule: ConstantSparsity | PolynomialDecay, steps: int) -> None:
    if pruning.prune_depthwise:
        raise UsageError(f"tfmot does not prune depthwise kernels: set prune_depthwise = false or {NATIVE}")
    if pruning.pattern is not None:
        raise UsageError(f"tfmot prunes to fractions here, not to {pruning.pattern}: {NATIVE}")
    if pruning.scope != "layer":
        raise UsageError(f'tfmot prunes each kernel by itself: set scope = "layer" or {NATIVE}')
    last = schedule.end_step if isinstance(schedule, PolynomialDecay) else schedule.begin_step
    if last > steps:
        raise UsageError(f"the schedule reaches its final sparsity at step {last}, training has only {steps} steps")


def check_task(model: Model, task: Task) -> None:
    """Raise UsageError where tfmot cannot train: its process makes the only loss out of the metric's name."""
    if len(model.outputs) != 1:
        raise UsageError(f"tfmot trains models with one output, this one has {len(model.outputs)}: {NATIVE}")
    metric = task.main.metric
    losses = [getattr(loss.function, "name", "") for loss in task.losses]
    if metric.name not in METRICS or losses != [metric.loss]:
        raise UsageError(f"tfmot trains by the loss that goes with the metric: leave out loss, or {NATIVE}")


def schedule_arguments(schedule: ConstantSparsity | PolynomialDecay) -> Json:
    """Name and keyword arguments of tfmot's schedule that does the same.

    tfmot's counter is 1 at the first batch and its masks are renewed before batch n, ours after it; step 0 does not
    exist there. So begin_step is at least 1, and everything else keeps its number: a sparsity that holds here after n
    steps holds there too. tfmot renews only at multiples of `frequency`, so the end of a decay is moved down to one.
    """
    begin = max(schedule.begin_step, 1)
    end = max(schedule.end_step, begin)
    frequency = schedule.frequency
    if isinstance(schedule, PolynomialDecay) and end > begin:
        frequency = min(frequency, end - begin)
        return {
            "name": "PolynomialDecay",
            "initial_sparsity": schedule.initial_sparsity,
            "final_sparsity": schedule.final_sparsity,
            "begin_step": begin,
            "end_step": end - (end - begin) % frequency,
            "power": schedule.power,
            "frequency": frequency,
        }
    return {
        "name": "ConstantSparsity",
        "target_sparsity": schedule.final_sparsity,
        "begin_step": begin,
        "end_step": end,
        "frequency": frequency,
    }


def _carrying(model: Model, graph: Mapping[str, Any]) -> Iterator[tuple[int, Layer]]:
    """The layers whose weights travel, with their index in the description. (Those of Normalization are options.)"""
    for index, layer in enumerate(graph["layers"]):
        if layer["kind"] not in ("InputLayer", "Normalization"):
            yield index, model.get_layer(layer["name"])


def _arrays(
    model: Model, graph: Mapping[str, Any], samples: Samples, validation: Samples | None, task: Task
) -> dict[str, Array]:
    """What the child needs, by name: weights, both splits, and the outputs that it must reproduce."""
    arrays = {
        f"weights.{index}.{n}": np.asarray(weight)
        for index, layer in _carrying(model, graph)
        for n, weight in enumerate(layer.weights)
    }
    for split, data in (("train", samples), ("validation", validation)):
        if data is not None:
            if data.weights is not None:
                raise UsageError(f'{data.path}: backend = "tfmot" takes no sample_weight; use the native one')
            arrays[f"{split}.y"] = task.losses[0].targets(data.told)
            arrays |= {f"{split}.{n}": data.inputs[name] for n, name in enumerate(input_specs(model))}
    first = samples.rows(np.arange(min(PROOF_SAMPLES, len(samples))))
    arrays["proof"] = predict(model, first.inputs)[output_names(model)[0]]
    return arrays


def _bring_back(model: Model, graph: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
    for index, layer in _carrying(model, graph):
        if layer.weights:
            layer.set_weights([weights[f"weights.{index}.{n}"] for n in range(len(layer.weights))])


def _check_reached(targets: Sequence[Target], before: Mapping[str, Array], sparsity: float) -> None:
    """Raise when a kernel's zeros are not those asked for.

    One element more or less is float32 rounding. Fewer zeros are allowed where magnitudes of the dense kernel tie at
    the threshold (tfmot keeps them all), more where kept weights were zero before.
    """
    for target in targets:
        weights, old = np.asarray(target.variable), np.abs(before[target.key]).ravel()
        zeros, keep = int(weights.size - np.count_nonzero(weights)), max(round(weights.size * (1 - sparsity)), 1)
        asked = weights.size - keep
        threshold = np.partition(old, asked)[asked]
        ties = int((old == threshold).sum()) - 1 if threshold > 0 else 0
        if asked - zeros > 1 + ties or zeros - asked > 1 + int((old == 0).sum()):
            hint = "; the kernel was sparser before" if threshold == 0 and asked else ""
            raise EdgepruneError(
                f"tfmot left {zeros} zeros in {target.key}, {asked} of {weights.size} were asked for{hint}; {NATIVE}"
            )


def _run_child(
    job: Mapping[str, Any], arrays: Mapping[str, Array], on_progress: OnProgress | None
) -> tuple[Json, dict[str, Array]]:
    """The child's last message and the weights it wrote. Nothing is left on disk and no process behind."""
    with scratch_folder("tfmot") as folder:
        try:
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            np.savez(folder / "arrays.npz", **dict(arrays))
        except OSError as cause:
            raise OutputError(f"{folder}: cannot be written: {cause.strerror or cause}") from cause
        reply = _converse(folder, on_progress)
        with np.load(folder / "weights.npz", allow_pickle=False) as kept:
            return reply, {key: kept[key] for key in kept.files}


def _converse(folder: Path, on_progress: Callable[[int, int, str], None] | None) -> Json:
    with (folder / "log.txt").open("w+b") as log:
        command = ["-m", "edgeprune.maker.pruning.tfmot_worker", str(folder)]
        settings = {"TF_USE_LEGACY_KERAS": "1"}
        with child_process(command, writable=[folder], stderr=log, settings=settings) as child:
            for message in _messages(child):
                if message["kind"] == "done":
                    return message
                if message["kind"] == "error":
                    raise ERRORS.get(message["class"], EdgepruneError)(message["reason"])
                if on_progress:
                    on_progress(message["step"], message["total"], message["text"])
            raise _crash(child, log)


def _messages(child: subprocess.Popen[bytes]) -> Iterator[Json]:
    """Its messages until it closes its output. Raises EdgepruneError after `SILENCE_S` without one."""
    assert child.stdout is not None
    pending = b""
    until = time.monotonic() + SILENCE_S
    while True:
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise EdgepruneError(f"tfmot: its process said nothing for {SILENCE_S:g} s and was ended; {NATIVE}")
        block = os.read(child.stdout.fileno(), 1 << 16)
        if not block:
            return
        *lines, pending = (pending + block).split(b"\n")
        for line in lines:
            yield json.loads(line)
            until = time.monotonic() + SILENCE_S


def _crash(child: subprocess.Popen[bytes], log: BinaryIO) -> EdgepruneError:
    code = child.wait()
    log.seek(0)
    lines = [line.strip() for line in log.read()[-4000:].decode(errors="replace").splitlines() if line.strip()]
    return EdgepruneError(f"tfmot: its process {how_it_ended(code)}{': ' + lines[-1][:200] if lines else ''}; {NATIVE}")

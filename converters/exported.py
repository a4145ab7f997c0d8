"""The one record of a file that was made: its size, zeros, MACs, and whether it computes what its model computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeprune.artifact import Format, Precision
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import with_quick
from edgeprune.checker.size.records import FileAccount
from edgeprune.converters.channel_parity import joined_axes
from edgeprune.converters.evaluation import Evaluated, evaluate_file
from edgeprune.converters.exports import INTEGER
from edgeprune.converters.file_checks import float_nodes, float_ops, is_sparse, refuse_lost_sparsity
from edgeprune.converters.session import Exported
from edgeprune.errors import ConversionError
from edgeprune.formats.coreml.storage import storage_of
from edgeprune.formats.metadata import ImageInput
from edgeprune.ledger import ArtifactEntry, oldest_runtime
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task
from edgeprune.runtime.session import installed_runtimes

__all__ = ["artifact_entry", "entry_at", "measure_export", "refuse_departure", "said_of"]


def measure_export(
    made: Exported,
    model: AnyModel,
    samples: Samples,
    task: Task | None,
    *,
    name: str,
    samples_are: str,
    exported: bool,
    codecs: Sequence[str] = (),
    every_runtime: bool = True,
    expected: Mapping[str, np.ndarray] | None = None,
    dense: Mapping[str, np.ndarray] | None = None,
    image: ImageInput | None = None,
    tolerance: float | None = None,
    may_depart: bool = False,
    where: Callable[[], str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ArtifactEntry:
    """The record of a file, called `name` in it, that was made from `model`: run over `samples`, scored by `task`
    where there is one, compared with the model, and weighed.

    It is compressed by the quick codecs and by `codecs`. `expected` are the model's outputs for the samples, where they
    are known, `dense` those of the dense model; `where` adds to the reason of a file that departs from its model.
    Raises ConversionError for a file that departs, unless it may, or has lost the zeros of its model.
    """
    known = predict(model, samples.inputs) if expected is None else expected
    try:
        found = evaluate_file(
            made,
            samples,
            input_specs(model),
            known,
            task,
            every_runtime=every_runtime,
            image=image,
            tolerance=tolerance,
            joined=joined_axes(model),
            dense=dense,
            may_depart=may_depart,
            on_progress=on_progress,
        )
    except ConversionError as error:
        raise ConversionError(f"{error}; {where()}" if where else str(error)) from error
    weighed = account(made.contents, with_quick(codecs), shares=False, bounds=False)
    entry = artifact_entry(made, weighed, found, name, samples_are if found.parity else None, exported)
    refuse_lost_sparsity(made, weighed, model)
    return replace(entry, warnings=(found.departs,)) if found.departs else entry


def said_of(made: Exported, model: AnyModel) -> tuple[str, ...]:
    """What is to be said of a file of this kind beside its numbers."""
    if made.format is not Format.ONNX or made.precision is not Precision.INT8 or not is_sparse(model):
        return ()
    return (
        "TensorRT has no sparse tactics for a graph with Q/DQ pairs (NVIDIA/TensorRT #4694): N:M zeros make this file "
        "no faster there; for those export float16",
    )


def entry_at(entry: ArtifactEntry, path: str, **more: Any) -> ArtifactEntry:
    """The record of a file that has another path now."""
    metrics = tuple(replace(metric, file=path) for metric in entry.metrics)
    return replace(entry, path=path, metrics=metrics, metric=metrics[0] if metrics else None, **more)


def refuse_departure(
    made: Exported, model: AnyModel, samples: Samples, what: str, *, image: ImageInput | None, tolerance: float | None
) -> None:
    """Raise ConversionError for a file that departs from its model on these samples too, `what` saying which."""
    try:
        evaluate_file(
            made,
            samples,
            input_specs(model),
            predict(model, samples.inputs),
            None,
            every_runtime=False,
            image=image,
            tolerance=tolerance,
            joined=joined_axes(model),
        )
    except ConversionError as error:
        raise ConversionError(f"{error} (with {what})") from error


def artifact_entry(
    made: Exported,
    weighed: FileAccount,
    found: Evaluated,
    name: str,
    samples_are: str | None,
    exported: bool,
) -> ArtifactEntry:
    """The entry of a file in a ledger: its account, and what came of running it."""
    package = made.contents.package
    storage = storage_of(package) if package else None
    metrics = tuple(replace(metric, file=name) for metric in found.metrics)
    return ArtifactEntry(
        path=name,
        format=str(made.format),
        precision=str(made.precision),
        sha256=made.sha256,
        raw_bytes=weighed.raw_bytes,
        download_bytes=weighed.download_bytes,
        sparsity=weighed.sparsity,
        macs=weighed.macs,
        metric=metrics[0] if metrics else None,
        metrics=metrics,
        metric_note=found.note,
        parity=found.parity or None,
        parity_on=samples_are,
        runtimes=found.runs,
        exported=exported,
        oldest_runtime=oldest_runtime(found.runs, installed_runtimes(made.format)),
        float_ops=_float_ops(made),
        weights=storage.encodings if storage else None,
        parameters=weighed.parameters,
        answers=found.answers,
    )


def _float_ops(made: Exported) -> tuple[str, ...]:
    """The operations of an integer file that compute in float."""
    if made.contents.graph is not None:
        return float_ops(made.contents.graph) if made.precision in INTEGER else ()
    return float_nodes(made.contents) if made.format is Format.ONNX and made.precision is Precision.INT8 else ()

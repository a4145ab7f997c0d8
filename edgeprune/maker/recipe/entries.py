"""Entries of a ledger out of what was found: a file, what a recipe asked for, where model and data came from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeprune.artifact import Artifact, Format, sha256_of
from edgeprune.checker.size.accounting import SizeReport
from edgeprune.converters.evaluation import Evaluated
from edgeprune.converters.file_checks import INTEGER, float_ops
from edgeprune.ledger import ArtifactEntry, MetricValue, oldest_runtime
from edgeprune.maker.recipe.recipe import ChannelStep, ExportSpec, Recipe, Step
from edgeprune.maker.training.datasets import Samples
from edgeprune.maker.training.metrics import Metric
from edgeprune.runtime.session import installed_runtimes

__all__ = ["artifact_entry", "asked_of", "data_facts", "input_facts"]


def artifact_entry(
    name: str, artifact: Artifact, size: SizeReport, found: Evaluated, metric: Metric, *, exported: bool
) -> ArtifactEntry:
    """A file of the run, called `name` in the ledger."""
    value = None
    if found.value is not None:
        value = MetricValue(
            name=metric.name, value=found.value, samples=found.samples, file=name, runtime=found.runtime
        )
    return ArtifactEntry(
        path=name,
        format=str(artifact.format),
        precision=str(artifact.precision),
        sha256=artifact.sha256,
        raw_bytes=size.raw_bytes,
        download_bytes=size.download_bytes,
        sparsity=size.graph.sparsity if size.graph else None,
        macs=size.graph.macs if size.graph else None,
        metric=value,
        metric_note=found.note,
        parity=found.parity or None,
        runtimes=list(found.runs),
        exported=exported,
        oldest_runtime=oldest_runtime(found.runs, installed_runtimes()),
        float_ops=list(float_ops(size.graph)) if size.graph and artifact.precision in INTEGER else [],
    )


def asked_of(recipe: Recipe) -> dict[str, Any]:
    """What a recipe asked for, as plain values without paths of this machine."""
    return {
        "steps": [_asked_step(step) for step in recipe.steps],
        "exports": [_asked_export(export) for export in recipe.exports],
        "budget": asdict(recipe.budget) if recipe.budget else None,
    }


def _asked_step(step: Step) -> dict[str, Any]:
    """Of a profile of the project's own its file's name."""
    asked = asdict(step)
    if isinstance(step, ChannelStep) and step.device is not None and step.device.endswith(".toml"):
        return {**asked, "device": Path(step.device).name}
    return asked


def _asked_export(export: ExportSpec) -> dict[str, Any]:
    """What follows the precision means something to Core ML only."""
    asked = asdict(export)
    if export.format is Format.COREML:
        return {**asked, "class_labels": export.class_labels.name if export.class_labels else None}
    return {"format": asked["format"], "precision": asked["precision"], "deployment_target": None}


def input_facts(path: Path) -> dict[str, Any]:
    """The model that went in."""
    return {"path": path.name, "sha256": sha256_of(path), "raw_bytes": path.stat().st_size}


def data_facts(samples: Samples) -> dict[str, Any]:
    """A split of the data."""
    return {"path": samples.path.name, "sha256": sha256_of(samples.path), "samples": len(samples)}

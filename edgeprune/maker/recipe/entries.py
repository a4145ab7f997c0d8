"""Entries of a ledger out of what was found: what a recipe asked for, where model and data came from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeprune.artifact import Format, sha256_of
from edgeprune.maker.recipe.recipe import ChannelStep, ExportSpec, Recipe, Step
from edgeprune.maker.training.datasets import Samples

__all__ = ["asked_of", "data_facts", "input_facts"]


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

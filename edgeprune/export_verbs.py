"""The verb that holds an exported file against its model: verify."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeprune.artifact import sha256_of
from edgeprune.errors import ConversionError, UsageError
from edgeprune.progress import Progress

__all__ = ["verify_verb"]


def verify_verb(
    path: Path,
    *,
    against: Path,
    data: Path | None,
    metric: str | None,
    scale: float,
    offset: float,
    tolerance: float | None,
    bisect: bool,
    as_json: bool,
    quiet: bool,
    trust_code: bool,
) -> int:
    """`edgeprune verify`: 0 when the file computes what the model computes; otherwise the error says how far it is."""
    if metric is not None and data is None:
        raise UsageError("--metric needs --data TEST.npz with the targets in y")
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError(f"--tolerance is a share of the output range between 0 and 1; got {tolerance:g}")
    if scale == 0:
        raise UsageError("--scale 0 makes every input the same; give another number")
    from edgeprune.converters.evaluator.arguments import UnknownOperationError
    from edgeprune.converters.trial_inputs import trial_samples
    from edgeprune.converters.verification import open_exported, verify_file
    from edgeprune.datasets import check_targets, load_samples
    from edgeprune.keras_models import input_specs
    from edgeprune.metrics import METRICS

    exported = open_exported(path)
    progress = Progress(quiet=quiet)
    progress.begin(f"load {against.name}")
    model = _model(against, trust_code)
    specs = input_specs(model)
    if data is None:
        only = next(iter(specs)) if len(specs) == 1 and exported.pictures else None
        samples = trial_samples(model, scale=scale, offset=offset, pictures=only)
    else:
        samples = load_samples(data, specs, scale=scale, offset=offset, need_targets=metric is not None)
    if metric is not None:
        check_targets(samples, tuple(model.outputs[0].shape), metric)
    progress.end()
    progress.begin(f"run {path.name} and the model")
    try:
        found = verify_file(
            exported,
            model,
            samples,
            METRICS[metric] if metric else None,
            scale=scale,
            offset=offset,
            tolerance=tolerance,
            bisect=bisect,
            on_progress=progress.advance,
        )
    except UnknownOperationError as cause:
        raise ConversionError(
            f"{path}: not verified: op {cause} is not known to the evaluator; run edgeprune verify on a Mac, "
            "where Core ML itself runs the package"
        ) from cause
    progress.end()
    on = "random samples" if data is None else f"samples of {data.name}"
    if as_json:
        click.echo(json.dumps(_json(exported, against, found, on, metric), indent=2, default=str))
    else:
        click.echo(_text(exported, against, found, on, metric))
    if found.failure is not None:
        raise found.failure
    return 0


def _model(path: Path, trust_code: bool) -> Any:
    from edgeprune.keras_models import load_model

    return load_model(path, trust_code=trust_code)


def _json(exported: Any, against: Path, found: Any, on: str, metric: str | None) -> dict[str, Any]:
    departure = found.departure
    return {
        "schema_version": 1,
        "file": {
            "path": str(exported.path),
            "sha256": sha256_of(exported.path),
            "format": str(exported.format),
            "precision": exported.precision,
        },
        "against": {"path": str(against), "sha256": sha256_of(against)},
        "agrees": found.failure is None,
        "reason": None if found.failure is None else str(found.failure),
        "samples": found.samples,
        "samples_are": on,
        "parity": [{**asdict(item), "file_output": found.pairs[item.output]} for item in found.parity],
        "runtimes": [asdict(run) for run in found.runs],
        "metric": None if metric is None else {"name": metric, "file": found.value, "model": found.model_value},
        "departure": None
        if departure is None
        else {
            "first": None if departure.first is None else asdict(departure.first),
            "last_sound": departure.last_sound,
            "layers": [asdict(match) for match in departure.layers],
        },
    }


def parity_line(item: Any, on: str, other: str | None = None) -> str:
    """One output's differences in words."""
    named = f"{item.output!r}" + (f" (in the file {other!r})" if other and other != item.output else "")
    share = "" if item.relative_error is None else f" ({item.relative_error:.2g} of it)"
    agreement = "" if item.agreement is None else f", same top class for {item.agreement:.2%}"
    noise = "equal" if item.sqnr_db is None else f"SQNR {item.sqnr_db:.1f} dB"
    return (
        f"output {named} against the Keras model on {item.samples:,} {on}: largest difference {item.max_error:.3g}, "
        f"mean {item.mean_error:.3g}, range {item.range:.3g}{share}, {noise}{agreement}"
    )


def _text(exported: Any, against: Path, found: Any, on: str, metric: str | None) -> str:
    ran = [f"{run.name} {run.version}" for run in found.runs if run.ran]
    lines = [f"{exported.path.name} ({exported.format}, {exported.precision}) against {against.name}, run by {ran[-1]}"]
    lines += [f"also runs on {name}" for name in ran[:-1]]
    lines += [f"does not run on {r.name} {r.version}: {r.reason}" for r in found.runs if not r.ran]
    lines += [parity_line(item, on, found.pairs[item.output]) for item in found.parity]
    if metric is not None:
        lines.append(f"{metric}: model {found.model_value:.4f}, file {found.value:.4f} on {found.samples:,} {on}")
    lines += _departure_lines(found.departure)
    lines.append("agrees" if found.failure is None else "does not agree")
    return "\n".join(lines)


def _departure_lines(departure: Any) -> list[str]:
    if departure is None:
        return []
    if departure.first is None:
        return [f"all {len(departure.layers)} layers agree, or are fused into layers that do"]
    first = departure.first
    sound = f"the last that agrees before it is {departure.last_sound!r}" if departure.last_sound else "none before it"
    noise = (
        "" if first.sqnr_db in (None, float("-inf")) else f" (closest tensor of the file: SQNR {first.sqnr_db:.1f} dB)"
    )
    return [f"first layer that departs: {first.layer!r} ({first.kind}){noise}; {sound}"]

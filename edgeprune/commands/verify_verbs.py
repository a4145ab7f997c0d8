"""The verb `verify`: a file of anyone's against its model, and how differences are put into words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeprune.artifact import sha256_of
from edgeprune.errors import ConversionError, UsageError
from edgeprune.host.progress import Progress

__all__ = ["bias_of", "check_tolerance", "departure_lines", "parity_line", "verify_verb"]


def verify_verb(
    path: Path,
    *,
    against: Path,
    data: Path | None,
    metric: str | None,
    scale: float,
    offset: float,
    image_bias: str | None,
    tolerance: float | None,
    bisect: bool,
    as_json: bool,
    quiet: bool,
    trust_code: bool,
    custom: tuple[Path, ...],
) -> int:
    """`edgeprune verify`: 0 when the file computes what the model computes; otherwise the error says how far it is."""
    if metric is not None and data is None:
        raise UsageError("--metric needs --data TEST.npz with the targets in y")
    check_tolerance(tolerance)
    if scale == 0:
        raise UsageError("--scale 0 makes every input the same; give another number")
    from edgeprune.converters.evaluator.arguments import UnknownOperationError
    from edgeprune.converters.trial_inputs import trial_samples
    from edgeprune.converters.verification import open_exported, verify_file
    from edgeprune.maker.keras.model_files import load_convertible
    from edgeprune.maker.keras.models import input_specs
    from edgeprune.maker.training.datasets import check_targets, load_samples
    from edgeprune.maker.training.metrics import METRICS

    bias = (offset,) if image_bias is None else bias_of(image_bias)
    exported = open_exported(path)
    if image_bias is not None and not (exported.pictures and len(exported.inputs) == 1):
        raise UsageError(f"--image-bias is for a package whose only input takes pictures; {path} has no such input")
    progress = Progress(quiet=quiet)
    progress.begin(f"load {against.name}")
    model = load_convertible(against, trust_code=trust_code, custom=custom)
    specs = input_specs(model)
    if data is None:
        only = next(iter(specs)) if len(specs) == 1 and exported.pictures else None
        samples = trial_samples(model, scale=scale, bias=bias, pictures=only)
    elif image_bias is not None:
        raw = load_samples(data, specs, need_targets=metric is not None)
        values = {name: (pixels * scale + np.asarray(bias)).astype(np.float32) for name, pixels in raw.inputs.items()}
        samples = replace(raw, inputs=values)
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
            bias=bias,
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
        body = _without_infinities(_json(exported, against, found, on, metric))
        click.echo(json.dumps(body, indent=2, allow_nan=False, default=str))
    else:
        click.echo(_text(exported, against, found, on, metric))
    if found.failure is not None:
        where = "" if bisect else "; add --bisect to learn from which layer on"
        if exported.pictures and scale == 1 and bias == (0.0,):
            where += "; its image input takes pixels: give the scaling of the model's input with --scale and --offset"
        raise ConversionError(f"{found.failure}{where}")
    return 0


def _without_infinities(value: Any) -> Any:
    """Numbers that JSON has no word for become null: the ratio for a layer without a tensor, the error of a NaN."""
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


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
        "outputs_reordered": found.reordered,
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
        f"output {named} against the model on {item.samples:,} {on}: largest difference {item.max_error:.3g}, "
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
    if found.reordered:
        lines.append("its outputs stand in another order than the model's: an app that goes by position gets others")
    lines += [f"image input {name!r}: {how}" for name, how in exported.pictures.items()]
    lines += [f"not bisected: {found.bisect_note}"] if found.bisect_note else []
    lines += departure_lines(found.departure, agrees=found.failure is None)
    lines.append("agrees" if found.failure is None else "does not agree")
    return "\n".join(lines)


def departure_lines(departure: Any, *, agrees: bool) -> list[str]:
    """What a bisection found, in words; nothing where there was none."""
    if departure is None:
        return []
    if departure.first is None:
        return [f"all {len(departure.layers)} layers agree, or are fused into layers that do"]
    first = departure.first
    sound = f"the last that agrees before it is {departure.last_sound!r}" if departure.last_sound else "none before it"
    noise = (
        "" if first.sqnr_db in (None, float("-inf")) else f" (closest tensor of the file: SQNR {first.sqnr_db:.1f} dB)"
    )
    what = "first layer that is not close to the model" if agrees else "first layer that departs"
    return [f"{what}: {first.layer!r} ({first.kind}){noise}; {sound}"]


def check_tolerance(tolerance: float | None) -> None:
    """Raise UsageError for a tolerance that is no share of a range."""
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError(f"--tolerance is a share of the output range between 0 and 1; got {tolerance:g}")


def bias_of(text: str) -> tuple[float, ...]:
    """The numbers of an option --image-bias. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as cause:
        raise UsageError(f"--image-bias is one number, or one for each channel with commas; got {text!r}") from cause

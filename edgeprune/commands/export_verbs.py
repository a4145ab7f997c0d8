"""The verb `convert`: make a file and hold it against its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from edgeprune.artifact import Artifact, Format, Precision, sha256_of
from edgeprune.commands.verify_verbs import bias_of, check_tolerance, departure_lines, parity_line
from edgeprune.errors import ConversionError, UsageError
from edgeprune.host.interrupts import scratch_folder
from edgeprune.host.outputs import check_output_file, put_in_place
from edgeprune.host.progress import Progress
from edgeprune.units import format_bytes

__all__ = ["convert_verb"]


def convert_verb(
    path: Path,
    output: Path,
    *,
    to: str,
    precision: str | None,
    calibration: Path | None,
    samples: int,
    io_type: str,
    float_fallback: bool,
    data: Path | None,
    metric: str,
    scale: float,
    offset: float,
    tolerance: float | None,
    bisect: bool,
    codecs: Sequence[str],
    seed: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    trust_code: bool,
    custom: tuple[Path, ...],
    **package: Any,
) -> int:
    """`edgeprune convert`; `package` holds the options of Core ML packages."""
    from edgeprune.converters.file_checks import INTEGER
    from edgeprune.converters.packaging import check_ends
    from edgeprune.converters.session import SUFFIXES, Converter, check_export, check_io_type

    model_format = Format(to)
    chosen = Precision(precision or ("float32" if model_format is Format.TFLITE else "float16"))
    check_export(model_format, chosen, package["deployment_target"])
    check_io_type(model_format, chosen, io_type)
    check_tolerance(tolerance)
    coreml = _package_options(model_format, scale, offset, **package)
    check_output_file(output, overwrite=overwrite, suffix=SUFFIXES[model_format])
    needs_calibration = model_format is Format.TFLITE and chosen in INTEGER
    if needs_calibration and calibration is None:
        raise UsageError(
            f"{chosen} needs samples to learn the ranges of the activations: add --calibration TRAIN.npz, "
            "or use --precision dynamic, which needs no data"
        )
    if samples < 1:
        raise UsageError(f"--samples is at least 1; got {samples}")
    from edgeprune.converters.trial_inputs import trial_samples
    from edgeprune.maker.keras.model_files import load_convertible
    from edgeprune.maker.keras.models import input_specs, refuse_half_precision
    from edgeprune.maker.training.datasets import calibration_set, check_targets, load_samples

    progress = Progress(quiet=quiet)
    progress.begin(f"load {path.name}")
    model = load_convertible(path, trust_code=trust_code, custom=custom)
    if model_format is Format.TFLITE:
        refuse_half_precision(model)
    specs = input_specs(model)
    check_ends(specs, [tuple(t.shape) for t in model.outputs], coreml)
    ranges = None
    if needs_calibration and calibration is not None:
        pool = load_samples(calibration, specs, scale=scale, offset=offset, need_targets=False)
        ranges = calibration_set(pool, specs, samples, seed)
    picture = coreml.image.name if coreml.image else None
    tests = load_samples(data, specs, scale=scale, offset=offset) if data else None
    if tests is not None:
        check_targets(tests, tuple(model.outputs[0].shape), metric)
    progress.end()
    progress.begin(f"convert to {to} {chosen}")
    with Converter() as converter, scratch_folder(".edgeprune.", output.absolute().parent) as place:
        made = place / output.name
        artifact = converter.export(
            model,
            made,
            model_format,
            chosen,
            io_type=io_type,
            calibration=ranges,
            coreml=coreml,
            float_fallback=float_fallback,
        )
        progress.end()
        trial = tests or trial_samples(
            model, scale=scale, bias=coreml.image.bias if coreml.image else (0.0,), pictures=picture
        )
        facts = _judge(artifact, model, trial, metric if tests else None, progress, coreml, tolerance, bisect, codecs)
        put_in_place(made, output, place / "old")
    facts["path"] = str(output)
    if as_json:
        body = {"schema_version": 1, "input": {"path": str(path), "sha256": sha256_of(path)}, "output": facts}
        click.echo(json.dumps(body, indent=2, allow_nan=False, default=str))
    else:
        click.echo(_convert_text(facts, metric))
    return 0


COREML_FLAGS = ("image_input", "image_bias", "color", "class_labels", "author", "license", "description", "version")


def _package_options(
    model_format: Format,
    scale: float,
    offset: float,
    *,
    deployment_target: str,
    image_input: str | None,
    image_bias: str | None,
    color: str | None,
    class_labels: Path | None,
    author: str | None,
    license: str | None,  # noqa: A002  (the option's name)
    description: str | None,
    version: str | None,
) -> Any:
    from edgeprune.converters.packaging import CoreMlOptions, ImageInput, read_labels

    given = (image_input, image_bias, color, class_labels, author, license, description, version)
    if model_format is not Format.COREML:
        for flag, value in zip(COREML_FLAGS, given, strict=True):
            if value is not None:
                raise UsageError(f"--{flag.replace('_', '-')} is for --to coreml; a .tflite file has no place for it")
    if image_input is None and (image_bias is not None or color is not None):
        raise UsageError("--image-bias and --color belong to --image-input NAME; add it")
    image = None
    if image_input is not None:
        if scale == 0:
            raise UsageError("--scale 0 makes every picture the same; give another number")
        bias = (offset,) if image_bias is None else bias_of(image_bias)
        image = ImageInput(name=image_input, scale=scale, bias=bias, color=color or "RGB")
    return CoreMlOptions(
        target=deployment_target,
        image=image,
        class_labels=read_labels(class_labels) if class_labels else (),
        author=author or "",
        license=license or "",
        description=description or "",
        version=version or "",
    )


def _judge(
    artifact: Artifact,
    model: Any,
    samples: Any,
    metric: str | None,
    progress: Progress,
    coreml: Any,
    tolerance: float | None,
    bisect: bool,
    codecs: Sequence[str],
) -> dict[str, Any]:
    """Size, zeros, parity and score of the new file. Raises ConversionError where it is not what was asked for."""
    from edgeprune.checker.size.accounting import measure_size
    from edgeprune.checker.size.codecs import with_quick
    from edgeprune.converters.evaluation import evaluate_file
    from edgeprune.converters.file_checks import INTEGER, float_ops, refuse_lost_sparsity
    from edgeprune.formats.coreml.storage import storage_of
    from edgeprune.ledger import oldest_runtime
    from edgeprune.maker.keras.models import input_specs, predict
    from edgeprune.maker.training.metrics import METRICS
    from edgeprune.runtime import installed_runtimes

    size = measure_size(artifact.path, with_quick(codecs))
    progress.begin("run the file")
    try:
        found = evaluate_file(
            artifact,
            samples,
            input_specs(model),
            predict(model, samples.inputs),
            METRICS[metric] if metric else None,
            every_runtime=True,
            image=coreml.image,
            tolerance=tolerance,
            on_progress=progress.advance,
        )
    except ConversionError as error:
        where = _where(artifact, model, samples, coreml) if bisect else "add --bisect to learn from which layer on"
        raise ConversionError(f"{error}; {where}") from error
    progress.end()
    storage = storage_of(artifact.path) if artifact.format is Format.COREML else None
    sparsity = storage.sparsity if storage else size.graph.sparsity if size.graph else None
    refuse_lost_sparsity(artifact, sparsity, model)
    return {
        "format": str(artifact.format),
        "precision": str(artifact.precision),
        "sha256": artifact.sha256,
        "raw_bytes": size.raw_bytes,
        "download_bytes": size.download_bytes,
        "sparsity": sparsity,
        "macs": size.graph.macs if size.graph else None,
        "metric": {"name": metric, "value": found.value, "samples": found.samples, "runtime": found.runtime}
        if found.value is not None
        else None,
        "metric_note": found.note,
        "parity": [asdict(p) for p in found.parity] or None,
        "parity_on": "samples of --data" if metric else "random samples" if found.parity else None,
        "runtimes": [asdict(run) for run in found.runs],
        "oldest_runtime": oldest_runtime(found.runs, installed_runtimes()),
        "float_ops": list(float_ops(size.graph)) if size.graph and artifact.precision in INTEGER else [],
        "weights": storage.encodings if storage else None,
    }


def _where(artifact: Artifact, model: Any, samples: Any, coreml: Any) -> str:
    """The first layer that departs, in words."""
    from edgeprune.converters.verification import BISECTED, bisect_file, open_exported
    from edgeprune.maker.keras.models import input_specs

    few = {n: samples.inputs[n][:BISECTED].astype(dtype) for n, (_, dtype) in input_specs(model).items()}
    departure = bisect_file(open_exported(artifact.path), model, few, image=coreml.image)
    return "; ".join(departure_lines(departure, agrees=False))


def _convert_text(facts: dict[str, Any], metric: str) -> str:
    from edgeprune.converters.parity import POOR_SQNR_DB

    codecs = ", ".join(f"{name} {format_bytes(count)}" for name, count in facts["download_bytes"].items())
    lines = [f"install {format_bytes(facts['raw_bytes'])}; download: {codecs}"]
    if facts["sparsity"] is not None:
        lines.append(f"zeros in the file's weights: {facts['sparsity']:.2%}")
    if facts["weights"]:
        told = ", ".join(f"{count} as {encoding}" for encoding, count in facts["weights"].items())
        lines.append(f"weight tensors: {told}")
    for item in facts["parity"] or []:
        lines.append(parity_line(SimpleNamespace(**item), facts["parity_on"]))
    if any(item["sqnr_db"] is not None and item["sqnr_db"] < POOR_SQNR_DB for item in facts["parity"] or []):
        lines.append(
            f"the error is large (SQNR below {POOR_SQNR_DB:g} dB): measure with --data, or choose a finer precision"
        )
    ran = [f"{r['name']} {r['version']}" for r in facts["runtimes"] if r["ran"]]
    lines += [f"runs on: {', '.join(ran)}"] if ran else []
    lines += [f"does not run on {r['name']} {r['version']}: {r['reason']}" for r in facts["runtimes"] if not r["ran"]]
    lines += [f"oldest runtime that ran it: {facts['oldest_runtime']}"] if facts["oldest_runtime"] else []
    lines += [f"computes in float: {', '.join(facts['float_ops'])}"] if facts["float_ops"] else []
    if facts["metric"]:
        lines.append(
            f"{metric} of the exported file: {facts['metric']['value']:.4f} on {facts['metric']['samples']:,} samples, "
            f"by {facts['metric']['runtime']}"
        )
    else:
        lines.append(f"{metric} {facts['metric_note'].replace('no targets', 'add --data TEST.npz with targets in y')}")
    return "\n".join([*lines, f"Written: {facts['path']}"])

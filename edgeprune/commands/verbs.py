"""The maker's verbs behind the command line: run, prune, finetune."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeprune.artifact import sha256_of
from edgeprune.errors import UsageError
from edgeprune.host.interrupts import note_output
from edgeprune.host.outputs import check_output_file, output_folder, write_file
from edgeprune.host.progress import Progress

__all__ = ["finetune_verb", "prune_verb", "run_verb"]


def _echo_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False, default=str))


def run_verb(
    path: Path,
    output: Path | None,
    *,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    trust_code: bool,
    custom: tuple[Path, ...],
) -> int:
    """`edgeprune run`: 0, or 1 over budget, or 3 when a limit could not be checked."""
    from edgeprune.maker.recipe.recipe import load_recipe

    recipe = load_recipe(path)
    if output is None and not dry_run:
        raise UsageError("name the output folder: -o FOLDER (or look first: --dry-run)")
    progress = Progress(quiet=quiet)
    if dry_run or output is None:
        from edgeprune.maker.recipe.prepare import plan_lines, prepare

        click.echo("\n".join(plan_lines(prepare(recipe, trust_code=trust_code, custom=custom))))
        return 0
    with output_folder(output, overwrite=overwrite) as folder:
        progress.begin("check recipe, model and data")
        from edgeprune.maker.recipe.pipeline import run_recipe
        from edgeprune.maker.recipe.prepare import plan_lines, prepare

        prepared = prepare(recipe, trust_code=trust_code, custom=custom)
        progress.end()
        for line in plan_lines(prepared):
            progress.note("  " + line)
        ledger = run_recipe(prepared, folder, progress)
        from edgeprune.report.ledger_report import ledger_markdown, ledger_text

        body = json.dumps(ledger.to_json(), indent=2, allow_nan=False, default=str)
        write_file(folder / "ledger.json", body.encode() + b"\n")
        write_file(folder / "report.md", ledger_markdown(ledger).encode())
    if as_json:
        click.echo(body)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(ledger_text(ledger, width=width))
        click.echo(f"\nWritten: {output}/ (models, ledger.json, report.md)")
    outcomes = [verdict.passed for verdict in ledger.verdicts]
    return 1 if False in outcomes else 3 if None in outcomes else 0


def _scores(model: Any, data: Path | None, metric: str, scale: float, offset: float) -> tuple[float, int] | None:
    if data is None:
        return None
    from edgeprune.maker.keras.models import input_specs
    from edgeprune.maker.training.datasets import check_targets, load_samples
    from edgeprune.maker.training.loop import evaluate
    from edgeprune.maker.training.metrics import METRICS

    samples = load_samples(data, input_specs(model), scale=scale, offset=offset)
    check_targets(samples, tuple(model.outputs[0].shape), metric)
    return evaluate(model, samples, METRICS[metric]), len(samples)


def prune_verb(
    path: Path,
    output: Path,
    *,
    sparsity: float,
    scope: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    prune_depthwise: bool,
    keep_first: bool,
    keep_last: bool,
    verbose: bool,
    data: Path | None,
    metric: str,
    scale: float,
    offset: float,
    overwrite: bool,
    as_json: bool,
    trust_code: bool,
    custom: tuple[Path, ...],
) -> int:
    """`edgeprune prune`."""
    from edgeprune.maker.pruning.schedule import check_sparsity

    check_sparsity(sparsity, "--sparsity")
    check_output_file(output, overwrite=overwrite, suffix=".keras")
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.keras.models import count_nonzero_parameters, count_parameters, save_model
    from edgeprune.maker.pruning.magnitude import MagnitudeOptions, prune_magnitude

    options = MagnitudeOptions(
        sparsity=sparsity,
        scope=scope,
        include=include or ("*",),
        exclude=exclude,
        prune_depthwise=prune_depthwise,
        prune_first=not keep_first,
        prune_last=not keep_last,
    )
    model = load_model(path, trust_code=trust_code, custom=custom)
    before = _scores(model, data, metric, scale, offset)
    result = prune_magnitude(model, options)
    after = _scores(result.model, data, metric, scale, offset)
    save_model(result.model, output)
    note_output(output)
    report = result.report
    if as_json:
        _echo_json(
            {
                "schema_version": 1,
                "input": {"path": str(path), "sha256": sha256_of(path)},
                "output": {"path": str(output), "sha256": sha256_of(output)},
                "asked": report.asked,
                "got": report.got,
                "parameters": count_parameters(result.model),
                "nonzero_parameters": count_nonzero_parameters(result.model),
                "metric": {
                    "name": metric,
                    "before": before[0] if before else None,
                    "after": after[0] if after else None,
                    "samples": after[1] if after else None,
                },
                "layers": [asdict(layer) for layer in report.layers],
                "skipped": [asdict(layer) for layer in report.skipped],
            }
        )
        return 0
    click.echo(_prune_text(report, verbose))
    if before and after:
        click.echo(f"{metric}: {before[0]:.4f} -> {after[0]:.4f} on {after[1]:,} samples (the Keras model)")
    else:
        click.echo(
            f"{metric}: not measured (add --data TEST.npz); one-shot pruning can cost a lot, fine-tune to recover"
        )
    click.echo(f"Written: {output}")
    return 0


def _prune_text(report: Any, verbose: bool) -> str:
    from edgeprune.report.table import Table, reason_lines, to_text

    lines = [f"sparsity: asked {report.asked:.2%}, got {report.got:.2%} of the weights of {len(report.layers)} kernels"]
    if verbose:
        rows = tuple(
            (i.layer, i.kind, f"{i.elements:,}", "global" if i.asked is None else f"{i.asked:.2%}", f"{i.got:.2%}")
            for i in report.layers
        )
        heads = ("layer", "type", "weights", "asked", "got")
        lines.append(to_text(Table(heads=heads, rows=rows, left=frozenset({0, 1}))))
    lines += reason_lines("left dense", ((item.layer, item.reason) for item in report.skipped), every=verbose)
    return "\n".join(lines)


def _ends(model: Any) -> Any:
    """What two models must share for one to teach the other."""
    from edgeprune.maker.keras.models import input_specs

    return input_specs(model), [tuple(tensor.shape) for tensor in model.outputs]


def finetune_verb(
    path: Path,
    output: Path,
    *,
    train: Path,
    validation: Path | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    flip: bool,
    shift: int,
    teacher: Path | None,
    distill: float,
    temperature: float,
    patience: int | None,
    metric: str,
    scale: float,
    offset: float,
    seed: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    trust_code: bool,
    custom: tuple[Path, ...],
) -> int:
    """`edgeprune finetune`."""
    check_output_file(output, overwrite=overwrite, suffix=".keras")
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.keras.models import input_specs, save_model
    from edgeprune.maker.pruning.masked_training import finetune
    from edgeprune.maker.training.datasets import check_targets, load_samples
    from edgeprune.maker.training.loop import TrainOptions
    from edgeprune.maker.training.metrics import METRICS

    options = TrainOptions(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        flip=flip,
        shift=shift,
        distill=distill if teacher else 0.0,
        temperature=temperature,
        seed=seed,
    )
    if patience is not None and validation is None:
        raise UsageError("--patience needs --validation: without it no epoch is better than another")
    model = load_model(path, trust_code=trust_code, custom=custom)
    taught_by = load_model(teacher, trust_code=trust_code, custom=custom) if teacher else None
    if taught_by is not None and _ends(taught_by) != _ends(model):
        raise UsageError(f"{teacher}: the teacher's inputs and outputs differ from those of {path}")
    splits = []
    for split in (train, validation):
        samples = load_samples(split, input_specs(model), scale=scale, offset=offset) if split else None
        if samples is not None:
            check_targets(samples, tuple(model.outputs[0].shape), metric)
        splits.append(samples)
    assert splits[0] is not None
    progress = Progress(quiet=quiet)
    progress.begin(f"fine-tune {path.name}")
    tuned, log = finetune(
        model, splits[0], splits[1], METRICS[metric], options, teacher=taught_by, on_progress=progress.advance
    )
    progress.end()
    save_model(tuned, output)
    note_output(output)
    if as_json:
        _echo_json({"schema_version": 1, "output": {"path": str(output), "sha256": sha256_of(output)}, **asdict(log)})
        return 0
    for number, epoch in enumerate(log.epochs, start=1):
        value = "not measured" if epoch.validation is None else f"{epoch.validation:.4f}"
        kept = "  <- kept" if number == log.kept_epoch else ""
        click.echo(f"epoch {number}: loss {epoch.loss:.4f}, validation {metric} {value}{kept}")
    click.echo(f"Written: {output}")
    return 0

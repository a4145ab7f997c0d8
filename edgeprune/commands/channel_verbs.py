"""The verbs of channel pruning behind the command line: prune --style channel, groups."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeprune.artifact import sha256_of
from edgeprune.errors import InputError, UsageError
from edgeprune.host.interrupts import note_output
from edgeprune.host.outputs import check_output_file
from edgeprune.host.progress import Progress
from edgeprune.report.table import Table, reason_lines, to_text
from edgeprune.units import format_count

__all__ = ["channel_verb", "groups_verb"]

UNKNOWN = "a number of MACs that is not known (a size is open, or a layer is not followed)"


def channel_verb(
    path: Path,
    output: Path,
    *,
    lossless: bool,
    latency: float | None,
    device: str | None,
    verify: bool,
    train: Path | None,
    data: Path | None,
    metric: str,
    scale: float,
    offset: float,
    verbose: bool,
    overwrite: bool,
    as_json: bool,
    trust_code: bool,
    custom: tuple[Path, ...],
    **asked: Any,
) -> int:
    """`edgeprune prune --style channel`; `asked` are the fields of ChannelOptions."""
    profile = _latency_profile(latency, device, lossless, asked)
    options = _asked_options(lossless=lossless, train=train, **asked)
    check_output_file(output, overwrite=overwrite, suffix=".keras")
    for file in (train, data):
        if file is not None and not file.exists():
            raise InputError(f"{file}: no such file")
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.keras.models import input_specs, save_model
    from edgeprune.maker.pruning.channel.lossless import prune_dead
    from edgeprune.maker.pruning.channel.pruner import prune_channels
    from edgeprune.maker.training.datasets import check_targets, load_samples
    from edgeprune.maker.training.metrics import METRICS

    progress = Progress(quiet=as_json)
    progress.begin(f"load {path.name}")
    model = load_model(path, trust_code=trust_code, custom=custom)
    specs, shape = input_specs(model), tuple(model.outputs[0].shape)

    def split(file: Path | None) -> Any:
        if file is None:
            return None
        samples = load_samples(file, specs, scale=scale, offset=offset)
        check_targets(samples, shape, metric)
        return samples

    samples, tests = split(train), split(data)
    progress.end()
    progress.begin("remove channels")
    if options is None:
        result = prune_dead(model)
    elif latency is not None and profile is not None:
        from edgeprune.converters.session import Converter
        from edgeprune.maker.recipe.latency_search import prune_to_latency

        with Converter() as converter:
            result = prune_to_latency(
                model,
                latency,
                profile,
                options,
                converter=converter,
                samples=samples,
                metric=METRICS[metric],
                verify=verify,
                on_trial=progress.advance,
            )
    else:
        result = prune_channels(model, options, samples=samples, metric=METRICS[metric], verify=verify)
    progress.end()
    scores = None
    if tests is not None:
        from edgeprune.maker.training.loop import evaluate

        scores = [evaluate(m, tests, METRICS[metric]) for m in (model, result.model)]
    save_model(result.model, output)
    note_output(output)
    report = result.report
    if as_json:
        body = {
            "schema_version": 1,
            "input": {"path": str(path), "sha256": sha256_of(path)},
            "output": {"path": str(output), "sha256": sha256_of(output)},
            **asdict(report),
            "metric": {
                "name": metric,
                "before": scores[0] if scores else None,
                "after": scores[1] if scores else None,
                "samples": len(tests) if tests is not None else None,
            },
        }
        click.echo(json.dumps(body, indent=2, allow_nan=False))
        return 0
    click.echo(_text(report, verbose))
    if scores:
        click.echo(f"{metric}: {scores[0]:.4f} -> {scores[1]:.4f} on {len(tests):,} samples (the Keras model)")
    else:
        click.echo(f"{metric}: not measured (add --data TEST.npz); to recover accuracy: edgeprune finetune")
    click.echo(f"Written: {output}")
    return 0


def _latency_profile(latency: float | None, device: str | None, lossless: bool, asked: dict[str, Any]) -> Any:
    """The profile of a target of latency, None without one. Refuses what does not go with it; the search for it goes by
    MACs."""
    if latency is None and device is None:
        return None
    if latency is None or device is None:
        raise UsageError("--latency and --device go together: the share to keep, and the profile it is estimated from")
    given = [name for name in ("ratio", "macs", "parameters") if asked[name] is not None]
    if given or lossless:
        raise UsageError(f"--latency is a target of its own; leave out --{given[0] if given else 'lossless'}")
    from edgeprune.checker.latency.latency_targets import target_profile

    asked["macs"] = latency
    return target_profile(latency, device)


def _asked_options(*, lossless: bool, train: Path | None, include: tuple[str, ...], **asked: Any) -> Any:
    """ChannelOptions, or None for the lossless mode; what needs samples is refused without them."""
    from edgeprune.maker.pruning.channel.importance import CRITERIA
    from edgeprune.maker.pruning.channel.plan import ChannelOptions

    if lossless:
        given = [name for name in ("ratio", "macs", "parameters") if asked[name] is not None]
        if given:
            raise UsageError(f"--lossless removes dead channels only; leave out --{given[0]}")
        return None
    options = ChannelOptions(include=include or ("*",), **asked)
    if CRITERIA[options.importance].needs_data and train is None:
        raise UsageError(f"--importance {options.importance} looks at training samples: add --train TRAIN.npz")
    if options.compensate != "none" and train is None:
        raise UsageError("--compensate mean needs training samples: add --train TRAIN.npz")
    return options


def _share(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "not known (a size is open, or a layer is not followed)"
    return f"{format_count(before)} -> {format_count(after)} ({after / before:.3f}x)" if before else "0"


def _text(report: Any, verbose: bool) -> str:
    lines = [
        f"asked {report.asked}; {report.got:.1%} of all channels removed",
        f"parameters {_share(report.parameters_before, report.parameters_after)}, "
        f"MACs {_share(report.macs_before, report.macs_after)}",
    ]
    if report.estimated_latency is not None:
        reached = report.estimated_latency
        before, after = reached.before.total_ms, reached.after.total_ms
        lines.append(f"latency {before:.3g} -> {after:.3g} ms ({reached.ratio:.3f}x), {reached.after.how}")
    if verbose and report.removed:
        rows = tuple(
            (i.layer, i.kind, f"{i.before:,}", "ranked" if i.asked is None else f"{i.asked:g}", f"{i.after:,}")
            for i in report.removed
        )
        heads = ("layer", "type", "channels", "asked to stay", "left")
        lines.append(to_text(Table(heads=heads, rows=rows, left=frozenset({0, 1}))))
    lines += reason_lines("all channels kept", ((g.layer, g.reason) for g in report.skipped), every=verbose)
    if report.altered:
        lines.append(f"statistics changed with the channels, as asked for: {', '.join(report.altered)}")
    if report.verified is None:
        lines.append(f"surgery: {report.note}")
    else:
        lines.append(f"surgery checked on random inputs: largest relative error {report.verified:.1e}")
    return "\n".join(lines)


def groups_verb(path: Path, *, through_norms: bool, as_json: bool, trust_code: bool, custom: tuple[Path, ...]) -> int:
    """`edgeprune groups`."""
    from edgeprune.maker.keras.model_files import load_model
    from edgeprune.maker.pruning.channel.plan import macs_unknown
    from edgeprune.maker.pruning.channel.pruner import analyse

    structure = analyse(load_model(path, trust_code=trust_code, custom=custom), through_norms=through_norms)
    known = not macs_unknown(structure)
    stakes = [structure.at_stake(group) for group in structure.groups]
    if as_json:
        groups = [
            {
                "name": group.name,
                "channels": group.channels,
                "channels_per_unit": group.width,
                "members": [asdict(member) for member in group.members],
                "parameters": stake.parameters,
                "macs": stake.macs if known else None,
                "prunable": group.reason is None,
                "reason": group.reason,
            }
            for group, stake in zip(structure.groups, stakes, strict=True)
        ]
        body = {
            "schema_version": 1,
            "input": {"path": str(path), "sha256": sha256_of(path)},
            "groups": groups,
            "not_followed": [{"layer": name, "reason": reason} for name, reason in structure.trace.fences],
        }
        click.echo(json.dumps(body, indent=2))
        return 0
    rows = tuple(
        (
            ", ".join(m.layer for m in group.members if m.makes) or group.name,
            str(sum(not m.makes for m in group.members)),
            f"{group.channels:,}" + (f" ({group.width} at once)" if group.width > 1 else ""),
            format_count(stake.parameters),
            format_count(stake.macs) if known else "not known",
            "yes" if group.reason is None else f"no: {group.reason}",
        )
        for group, stake in zip(structure.groups, stakes, strict=True)
    )
    heads = ("made by", "read by", "channels", "parameters", "MACs", "prunable")
    click.echo(to_text(Table(heads=heads, rows=rows, left=frozenset({0, 5}))))
    for name, reason in dict(structure.trace.fences).items():
        click.echo(f"not followed: {reason}" + ("" if name in reason else f" ({name})"))
    whole = structure.whole()
    click.echo(
        f"\n{sum(group.reason is None for group in structure.groups)} of {len(structure.groups)} groups can lose "
        f"channels. Parameters and MACs are those of all that touches the group's channels; the model has "
        f"{format_count(whole.parameters)} parameters and {format_count(whole.macs) + ' MACs' if known else UNKNOWN}."
    )
    return 0

"""The verbs of estimated latency: estimate, devices, calibrate. Light imports only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeprune.artifact import sha256_of
from edgeprune.checker.latency.estimate import Breakdown, OpEstimate, how_of, latency_breakdown
from edgeprune.checker.latency.measure import compare_latency
from edgeprune.checker.latency.profiles import Profile, find_profile, shipped_profiles
from edgeprune.checker.latency.sparsity import TWO_OF_FOUR, Condition, SparsityAdvice, load_refusals, sparsity_advice
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.formats import read_contents
from edgeprune.ledger import LatencyComparison
from edgeprune.report.table import Table, to_text
from edgeprune.report.verdicts import latency_text
from edgeprune.units import format_count, format_ms, format_percent

__all__ = ["bench_verb", "calibrate_verb", "devices_verb", "estimate_verb"]

_SUFFIXES = {"tflite": "tflite", "coreml": "mlpackage"}
SHOWN = 12  # operations, the slowest first


def estimate_verb(path: Path, *, device: str, every: bool, as_json: bool) -> int:
    """`edgeprune estimate`: 0, or 3 when the profile does not cover the file."""
    profile = find_profile(device)
    contents = read_contents(path)
    found = latency_breakdown(contents, profile)
    advice, refusals = sparsity_advice(contents), load_refusals(contents)
    if as_json:
        body = {
            "schema_version": 1,
            "path": str(path),
            **_estimate_facts(found),
            "sparsity": [{**asdict(item), "failed": [c.rule for c in item.failed]} for item in advice],
            "load_refusals": [asdict(item) for item in refusals],
        }
        click.echo(json.dumps(body, indent=2, allow_nan=False))
    else:
        lines = _estimate_lines(path, found, every)
        lines += ["", "Do zeros make it faster?", *_zero_lines(advice)]
        lines += [f"Refused by {item.runtime}: {item.reason}; {item.change}" for item in refusals]
        click.echo("\n".join(lines))
    return 0 if found.estimate.given else 3


def _zero_lines(advice: Sequence[SparsityAdvice]) -> list[str]:
    """Targets with the same answer together: the answer, what failed, what to change."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    lines = []
    for item in advice:
        open_ = [condition for condition in item.conditions if condition.met is None] if item.pays == "unknown" else []
        failed = "; ".join(_condition(condition) for condition in (*item.failed, *open_)) or item.rule
        if item.target != TWO_OF_FOUR:
            groups.setdefault((item.pays.value, failed, item.change), []).append(item.target)
    for (answer, why, change), targets in groups.items():
        lines += [
            f"  {', '.join(targets)}: {answer}",
            f"    why: {why}",
            *([f"    change: {change}"] if change else []),
        ]
    return [*lines, f"  {TWO_OF_FOUR}: no; NVIDIA GPUs use it through TensorRT, no runtime of this format does"]


def _condition(condition: Condition) -> str:
    return f"{condition.rule}: {condition.found}"


def _estimate_facts(found: Breakdown) -> dict[str, Any]:
    facts = asdict(found)
    return {**facts.pop("estimate"), **facts}


def _estimate_lines(path: Path, found: Breakdown, every: bool) -> list[str]:
    told = found.estimate
    lines = []
    if told.total_ms is not None:
        lines.append(f"{path}: {latency_text(told)}, {format_count(found.macs)} MACs")
    elif told.relative is not None:
        lines.append(f"{path}: {told.relative:.3g} times MobileNetV2 1.0 224, {format_count(found.macs)} MACs")
    else:
        lines.append(f"{path}: not estimated: {told.refused}")
    lines += [*([told.how] if told.given else []), *told.notes, ""]
    ops = sorted(found.ops, key=lambda op: (op.bound != "unsupported", -(op.share or 0), -op.macs))
    shown = found.ops if every else ops[:SHOWN]
    lines.append(to_text(_operations(found, shown)))
    if len(shown) < len(found.ops):
        order = "faster ones" if told.given else "with fewer MACs"
        lines.append(f"... and {len(found.ops) - len(shown)} {order}; --verbose shows all {len(found.ops)}")
    return lines


def _operations(found: Breakdown, shown: Sequence[OpEstimate]) -> Table:
    """A row for each operation, with the columns that there is something to say in."""
    columns: list[tuple[str, Callable[[OpEstimate], str]]] = [
        ("#", lambda op: str(op.index)),
        ("operation", lambda op: op.op),
        ("MACs", lambda op: format_count(op.macs) if op.macs else "-"),
    ]
    total_ms = found.estimate.total_ms
    if total_ms is not None:
        columns.append(("estimated", lambda op: format_ms(op.ms) if op.ms is not None else "not known"))
    if found.estimate.given:
        columns.append(("share", lambda op: format_percent(op.share) if op.share is not None else "not known"))
    columns.append(("bound by", lambda op: op.bound))
    rows = tuple(tuple(cell(op) for _, cell in columns) for op in shown)
    if found.fixed_ms and total_ms:  # what is left of the total once the operations are added up
        fixed = (
            "-",
            "(each inference)",
            "-",
            format_ms(found.fixed_ms),
            format_percent(found.fixed_ms / total_ms),
        )
        rows = ((*fixed, "fixed cost"), *rows)
    return Table(heads=tuple(head for head, _ in columns), rows=rows, left=frozenset({1, len(columns) - 1}))


def devices_verb(*, as_json: bool) -> int:
    """`edgeprune devices`: the profiles of the tool with their errors."""
    profiles = shipped_profiles()
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "devices": [_profile_facts(item) for item in profiles]}, indent=2))
        return 0
    heads = ("--device", "device", "runtime", "for files", "kind", "error", "band", "MACs alone", "rows in families")
    click.echo(
        to_text(Table(heads=heads, rows=tuple(_profile_row(item) for item in profiles), left=frozenset(range(5))))
    )
    click.echo(
        "\nerror: median for rows whose family (or network) was left out of the fit; MACs alone: the same for latency "
        "proportional to MACs.\nA profile of your own: edgeprune calibrate MEASURED.csv --device NAME -o mine.toml"
    )
    return 0


def _profile_row(profile: Profile) -> tuple[str, ...]:
    accuracy = profile.accuracy
    threads = f", {profile.threads} thread{'s' if profile.threads != 1 else ''}" if profile.threads else ""
    return (
        profile.name,
        profile.device,
        profile.runtime + threads,
        f"{', '.join(f'.{_SUFFIXES[name]}' for name in profile.formats)} {', '.join(profile.accepts)}",
        profile.kind,
        format_percent(accuracy.median) if accuracy.median is not None else "not known",
        f"±{100 * (accuracy.band_factor - 1):.0f} %",
        format_percent(accuracy.flops_median) if accuracy.flops_median is not None else "not known",
        f"{accuracy.rows} in {accuracy.families}",
    )


def _profile_facts(profile: Profile) -> dict[str, Any]:
    facts = asdict(profile)
    facts["truth"] = len(profile.truth)
    facts["sources"] = sorted({row.source for row in profile.truth})
    facts["how"] = how_of(profile)
    return facts


def calibrate_verb(
    measured: Path,
    *,
    device: str,
    output: Path,
    label: str,
    models: Path | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """`edgeprune calibrate`: write a profile made from measurements."""
    from edgeprune.checker.latency.calibrate import calibrate, settings_notes
    from edgeprune.checker.latency.measurements import read_measurements
    from edgeprune.checker.latency.profiles import dump_profile
    from edgeprune.host.outputs import check_output_file, write_file

    if label and not label.isprintable():
        raise UsageError("--label is one line of text, without tabs or control characters")
    check_output_file(output, overwrite=overwrite, suffix=".toml")
    base = find_profile(device)
    found = read_measurements(measured, models)
    if not output.stem.strip():
        raise UsageError(f"{output}: the file name is the name of the profile; give it one")
    origin = f"{measured.name} (sha256 {sha256_of(measured)[:16]})"
    try:
        made = calibrate(base, found, name=output.stem, device=label.strip(), origin=origin)
    except EdgepruneError as error:
        raise type(error)(f"{measured}: {error}") from error
    for note in settings_notes(base, found):
        click.echo(f"note: {note}", err=True)
    write_file(output, dump_profile(made).encode())
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "output": str(output), **_profile_facts(made)}, indent=2))
        return 0
    did = "coefficients refitted" if made.kind == "fitted" else "speed set"
    files = f" of {len(made.truth)} file{'s' if len(made.truth) != 1 else ''}" if len(made.truth) < len(found) else ""
    click.echo(f"{did} from {len(found)} measurement{'s' if len(found) != 1 else ''}{files}, based on {base.name}")
    click.echo(how_of(made))
    click.echo(f"Written: {output} (use it: --device {output if '/' in str(output) else f'./{output}'})")
    return 0


def bench_verb(
    path: Path,
    *,
    against: Path | None,
    runtime: str | None,
    processes: int,
    pairs: int,
    timeout_s: float,
    as_json: bool,
    quiet: bool,
) -> int:
    """`edgeprune bench`: 0, or 3 when the host is too busy for a verdict."""
    from edgeprune.formats import read_graph
    from edgeprune.formats.precision import tflite_precision
    from edgeprune.host.progress import Progress

    for file in (path, *([against] if against else [])):
        if file.suffix.lower() in (".mlpackage", ".mlmodel", ".mlmodelc"):
            raise UsageError(
                f"{file}: bench times .tflite files; Core ML runs on macOS and iOS only; for an estimate: "
                f"edgeprune estimate {file} --device iphone12-coreml-float16"
            )
    baseline = against or path
    precisions = [tflite_precision(read_graph(file)) for file in (baseline, path)]
    progress = Progress(quiet=quiet)
    progress.begin(f"time {path.name}" + (f" against {against.name}" if against else ""))
    found = compare_latency(
        baseline,
        path,
        runtime=runtime,
        processes=processes,
        pairs=pairs,
        timeout_s=timeout_s,
        on_progress=progress.advance,
    )
    progress.end()
    verdict = str(found.verdict) if against is not None and precisions[0] == precisions[1] else None
    if as_json:
        body = {**asdict(found), "verdict": verdict, "precisions": precisions, "path": str(path)}
        body |= {"schema_version": 1, "against": str(against) if against else None}
        click.echo(json.dumps(body, indent=2))
    else:
        click.echo("\n".join(_bench_lines(path, against, found, precisions, verdict)))
    return 3 if verdict == "inconclusive" else 0


def _bench_lines(
    path: Path, against: Path | None, found: LatencyComparison, precisions: Sequence[str], verdict: str | None
) -> list[str]:
    heads = ("file", "precision", "median CPU", "p90 CPU", "median wall")
    times = [(path, precisions[1], found.candidate_ms, found.candidate_p90_ms, found.candidate_wall_ms)]
    if against is not None:
        times.append((against, precisions[0], found.baseline_ms, found.baseline_p90_ms, found.baseline_wall_ms))
    rows = tuple((str(file), precision, *map(format_ms, values)) for file, precision, *values in times)
    lines = [to_text(Table(heads=heads, rows=rows, left=frozenset({0, 1})))]
    if against is not None and verdict is not None:
        lines.append(
            f"{verdict}: {found.ratio:.3f} of {against} (95 % {found.low:.3f} to {found.high:.3f}; unchanged means "
            f"within {1 - found.tolerance:.3f} to {1 + found.tolerance:.3f})"
        )
    elif against is not None:
        lines.append(
            f"no verdict: {precisions[1]} and {precisions[0]} are not ranked here, because how precisions compare on "
            "this host does not carry to phones (int8 is often slower than float32 on x86 and faster on Arm)"
        )
    if against is None:
        once = found.how.partition(":")[0]
        lines.append(f"measured: {once}; {2 * found.pairs} runs in {found.processes} processes (two files: --against)")
        return lines
    return [*lines, f"measured: {found.how}"]

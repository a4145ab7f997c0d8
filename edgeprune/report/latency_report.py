"""What estimate, devices, calibrate and bench print: estimates with their band, profiles with their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeprune.artifact import SUFFIXES, Format
from edgeprune.checker.latency.estimate import Breakdown, OpEstimate, how_of
from edgeprune.checker.latency.percentiles import Percentile, Percentiles
from edgeprune.checker.latency.profiles import Profile
from edgeprune.checker.latency.sparsity import TWO_OF_FOUR, Condition, Refusal, SparsityAdvice
from edgeprune.checker.wasm.timing import HostCheck
from edgeprune.ledger import LatencyComparison
from edgeprune.report.table import Table, to_text
from edgeprune.report.verdicts import latency_text
from edgeprune.units import format_count, format_ms, format_percent

__all__ = [
    "Bench",
    "bench_json",
    "bench_text",
    "calibrated_text",
    "devices_text",
    "estimate_json",
    "estimate_text",
    "profile_json",
    "zero_lines",
]

SHOWN = 12  # operations, the slowest first


def estimate_json(
    path: Path, found: Breakdown, advice: Sequence[SparsityAdvice], refusals: Sequence[Refusal]
) -> dict[str, object]:
    """An estimate for programs, operation by operation, and whether zeros pay."""
    facts = asdict(found)
    return {
        "schema_version": 1,
        "path": str(path),
        **facts.pop("estimate"),
        **facts,
        "sparsity": [{**asdict(item), "failed": [c.rule for c in item.failed]} for item in advice],
        "load_refusals": [asdict(item) for item in refusals],
    }


def estimate_text(
    path: Path, found: Breakdown, advice: Sequence[SparsityAdvice], refusals: Sequence[Refusal], *, every: bool
) -> str:
    """An estimate with its slowest operations (or `every` one), and whether zeros pay."""
    lines = [*_estimate_lines(path, found, every), "", "Do zeros make it faster?", *zero_lines(advice)]
    return "\n".join([*lines, *(f"Refused by {item.runtime}: {item.reason}; {item.change}" for item in refusals)])


def zero_lines(advice: Sequence[SparsityAdvice]) -> list[str]:
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


def _estimate_lines(path: Path, found: Breakdown, every: bool) -> list[str]:
    told = found.estimate
    lines = []
    if told.total_ms is not None:
        lines.append(f"{path}: {latency_text(told)}, {format_count(found.macs)} MACs")
    elif told.relative is not None:
        lines.append(f"{path}: {told.relative:.3g} times MobileNetV2 1.0 224, {format_count(found.macs)} MACs")
    else:
        lines.append(f"{path}: not estimated: {told.refused}")
    if found.speed_up is not None:
        gain = found.speed_up
        lines.append(f"{gain.low:.1f} to {gain.high:.1f} times as fast as the same weights stored dense: {gain.how}")
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


def devices_text(profiles: Sequence[Profile]) -> str:
    """The profiles of the tool with their errors."""
    heads = ("--device", "device", "runtime", "for files", "kind", "error", "band", "MACs alone", "rows in families")
    rows = tuple(_profile_row(profile) for profile in profiles)
    return (
        f"{to_text(Table(heads=heads, rows=rows, left=frozenset(range(5))))}\n\n"
        "error: median for rows whose family (or network) was left out of the fit; MACs alone: the same for latency "
        "proportional to MACs.\nA profile of your own: edgeprune calibrate MEASURED.csv --device NAME -o mine.toml"
    )


def _profile_row(profile: Profile) -> tuple[str, ...]:
    accuracy = profile.accuracy
    threads = f", {profile.threads} thread{'s' if profile.threads != 1 else ''}" if profile.threads else ""
    return (
        profile.name,
        profile.device,
        profile.runtime + threads,
        f"{', '.join(SUFFIXES[Format(name)] for name in profile.formats)} {', '.join(profile.accepts)}",
        profile.kind,
        format_percent(accuracy.median) if accuracy.median is not None else "not known",
        f"±{100 * (accuracy.band_factor - 1):.0f} %",
        format_percent(accuracy.flops_median) if accuracy.flops_median is not None else "not known",
        f"{accuracy.rows} in {accuracy.families}",
    )


def profile_json(profile: Profile) -> dict[str, object]:
    """A profile for programs; of what it was fitted on, the number of rows and their sources."""
    facts = asdict(profile)
    facts["truth"] = len(profile.truth)
    facts["sources"] = sorted({row.source for row in profile.truth})
    facts["how"] = how_of(profile)
    return facts


def calibrated_text(made: Profile, base: Profile, measurements: int, output: Path) -> str:
    """What was made of measurements, and how to use it."""
    did = "coefficients refitted" if made.kind == "fitted" else "speed set"
    files = f" of {_counted(len(made.truth), 'file')}" if len(made.truth) < measurements else ""
    use = output if "/" in str(output) else f"./{output}"
    return (
        f"{did} from {_counted(measurements, 'measurement')}{files}, based on {base.name}\n{how_of(made)}\n"
        f"Written: {output} (use it: --device {use})"
    )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count != 1 else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What timing two files (or one, against itself) in one batch gave; `verdict` is
    None where the two are not ranked. Percentiles are empty where no call was timed alone, `checks` of outputs against
    this host where the files were timed on it."""

    compared: LatencyComparison
    batch: int
    verdict: str | None
    candidate: tuple[Percentiles, ...] = ()
    baseline: tuple[Percentiles, ...] = ()
    checks: tuple[HostCheck, ...] = ()


def bench_json(path: Path, against: Path | None, precisions: Sequence[str], found: Bench) -> dict[str, object]:
    """Times on this host for programs; see `bench_text`."""
    body = {**asdict(found.compared), "verdict": found.verdict, "precisions": list(precisions), "path": str(path)}
    body |= {"schema_version": 1, "against": str(against) if against else None, "batch": found.batch}
    body |= {"outputs_against_host": [asdict(check) for check in found.checks]} if found.checks else {}
    told = {"path": found.candidate, "against": found.baseline}
    return body | {"percentiles": {name: [asdict(one) for one in values] for name, values in told.items() if values}}


def bench_text(path: Path, against: Path | None, precisions: Sequence[str], bench: Bench) -> str:
    """Times on this host, with the verdict of a comparison. `precisions` are those of `against` and `path`."""
    found, verdict = bench.compared, bench.verdict
    heads = ("file", "precision", "median CPU", "p90 CPU", "median wall")
    times = [(path, precisions[1], found.candidate_ms, found.candidate_p90_ms, found.candidate_wall_ms)]
    if against is not None:
        times.append((against, precisions[0], found.baseline_ms, found.baseline_p90_ms, found.baseline_wall_ms))
    rows = tuple((str(file), precision, *map(format_ms, values)) for file, precision, *values in times)
    lines = [f"batches of {bench.batch}"] if bench.batch != 1 else []
    lines.append(to_text(Table(heads=heads, rows=rows, left=frozenset({0, 1}))))
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
    lines += _percentile_lines(path, against, bench)
    lines += [_check_line(check) for check in bench.checks]
    if against is None:
        once = found.how.partition(":")[0]
        lines.append(f"measured: {once}; {2 * found.pairs} runs in {found.processes} processes (two files: --against)")
        return "\n".join(lines)
    return "\n".join([*lines, f"measured: {found.how}"])


def _check_line(check: HostCheck) -> str:
    if check.error is None:
        return f"{check.path}: outputs are not checked against this host: {check.reason}"
    return (
        f"{check.path}: outputs for one random input are off by at most {100 * check.error:.2g} % of their range from "
        f"{check.runtime} on this host"
    )


def _percentile_lines(path: Path, against: Path | None, bench: Bench) -> list[str]:
    """Single calls, and how many of them; nothing where none were timed."""
    files = [(path, bench.candidate), *([(against, bench.baseline)] if against is not None else [])]
    rows = [(str(file), one.clock, *map(_percentile, one.values)) for file, told in files for one in told]
    if not rows:
        return []
    one = bench.candidate[0]
    heads = ("single calls of", "clock", *(f"P{100 * value.share:.0f}" for value in one.values))
    few = min(value.beyond for _, told in files for clock in told for value in clock.values)
    return [
        to_text(Table(heads=heads, rows=tuple(rows), left=frozenset({0, 1}))),
        f"{one.calls:,} calls of each file one by one in {one.processes} processes, with 95 % bootstrap intervals; "
        f"{few} of them lie beyond P99; wall time is lengthened by what else runs here",
    ]


def _percentile(found: Percentile) -> str:
    return f"{format_ms(found.ms)} ({format_ms(found.low_ms)} to {format_ms(found.high_ms)})"

"""What `estimate --target` prints: which operations an accelerator takes, why not the others, and who says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from edgeprune.checker.latency.accelerators.placement_records import Gain, Maps, OpPlacement, Placement
from edgeprune.checker.latency.accelerators.vela import VelaEstimate
from edgeprune.report.cells import shown
from edgeprune.report.table import Table, to_text
from edgeprune.units import format_bytes, format_ms, format_percent

__all__ = ["gain_sentence", "placement_json", "placement_text", "vela_json", "vela_text"]


def placement_json(found: Placement) -> dict[str, object]:
    """A placement for programs; conditions are those that fail (false) or could not be evaluated (null)."""
    return asdict(found) | {"measured": False, "macs_share": found.macs_share}


def vela_json(found: VelaEstimate) -> dict[str, object]:
    """Vela's estimate for programs."""
    return asdict(found) | {"measured": False, "estimated_by": f"Vela {found.version}"}


def vela_text(path: Path, found: VelaEstimate) -> str:
    """Vela's estimate, called Vela's."""
    share = found.encoded_weight_bytes / found.original_weights if found.original_weights else 0
    return (
        f"{shown(str(path))} on {found.target} ({shown(found.accelerator)}): Vela {shown(found.version)} estimates "
        f"{format_ms(found.total_ms)} for one inference, {found.cycles:,} cycles\n"
        f"{found.npu_cycles:,} of the cycles are multiplications (2:4 halves those of dense weights); {found.kept} of "
        f"{found.eligible} weights with inputs in groups of 4 keep it\n"
        f"with Vela's defaults for the system ({shown(found.system_config)}, {shown(found.memory_mode)}); operations "
        "on the CPU are not in it\n"
        f"{found.original_weights:,} weights take {format_bytes(found.encoded_weight_bytes)} as Vela encodes them "
        f"({share:.2f} bytes each)\n"
        "an estimate of Arm's compiler: nothing was measured"
    )


def placement_text(path: Path, found: Placement, *, every: bool) -> str:
    """The answer, the operations that stay on the CPU or may (or `every` one), and the documents."""
    answer = _answer(found) if found.gain is None else gain_sentence(found.gain)
    heading = f"{shown(str(path))} on {found.target} ({found.title}): {answer}"
    if found.refused:
        return f"{heading} (by published rules; nothing measured)"
    wanted = [op for op in found.ops if every or op.maps is not Maps.YES]
    cited = {condition.source for op in wanted for condition in op.conditions}
    sources = [source for source in found.sources if source.address in cited or not cited]
    numbers = {source.address: str(number) for number, source in enumerate(sources, start=1)}
    table = Table(
        heads=("#", "operation", "maps", "why", "source"),
        rows=tuple(_rows(wanted, numbers)),
        left=frozenset(range(1, 5)),
    )
    lines = [heading, *([found.note] if found.note else []), *(_gain_lines(found.gain) if found.gain else ()), ""]
    if wanted:
        lines += [to_text(table), ""]
    if found.gain is not None:
        lines += [*_measuring(found.gain), ""]
    lines.append(f"by published rules, not by {found.compiler}: nothing was compiled, nothing measured")
    lines += [f"[{numbers[source.address]}] {source.address} ({source.dated})" for source in sources]
    return "\n".join(lines)


def gain_sentence(gain: Gain) -> str:
    """Does N:M pay there: no, or worth measuring, and the share that it can be about."""
    if gain.pays is None or gain.wide_share is None:
        return "not known: the file does not tell its MACs; export it to ONNX with all shapes, or to .tflite"
    share = f"{format_percent(gain.wide_share, 0)} of its MACs are eligible"
    if not gain.pays:
        return f"no, {share}: at most {gain.most:.2f} times as fast"
    kept = "" if gain.weights_kept == gain.weights else f", once pruned ({gain.weights_kept} of {gain.weights} are)"
    return f"worth measuring{kept}: {share}"


def _gain_lines(gain: Gain) -> Iterator[str]:
    """The shares behind the answer, and Amdahl's range with the factor that it is computed with."""
    if gain.wide_share is None or gain.aligned_share is None or gain.eligible_share is None:
        return
    yield (
        f"of the MACs, {format_percent(gain.eligible_share)} are eligible by shape, "
        f"{format_percent(gain.aligned_share)} in widths that NVIDIA's own pruning asks for, "
        f"{format_percent(gain.wide_share)} in operations of at least 256 channels"
    )
    if gain.weights:
        yield f"weights of these large operations that keep the pattern: {gain.weights_kept} of {gain.weights}"
    if gain.most is not None and gain.weights:
        yield (
            f"the whole model then: {gain.low:.2f} to {gain.high:.2f} times as fast, at most {gain.most:.2f}; an "
            "estimate from documents and no GPU's time: S = 1 / ((1 - f) + f / k), f the share of the MACs for that of "
            f"the time, k = {gain.k_low:g} to {gain.k_high:g}, at most {gain.k_most:g}"
        )
    if gain.table is not None:
        yield f"k is measured for {gain.measured} of the {gain.weights} large operations, in {shown(gain.table)}"


def _measuring(gain: Gain) -> list[str]:
    """How to find out."""
    if not gain.commands:
        return ["to measure it, convert the model to ONNX with its zeros in place, and ask for this target again"]
    return ["to measure it, on the GPU, pruned weights against the same file run densely:", *map(shown, gain.commands)]


def _answer(found: Placement) -> str:
    if found.refused:
        return found.refused
    count = len(found.ops)
    yes, unknown = len(found.of(Maps.YES)), len(found.of(Maps.UNKNOWN))
    share = f" ({format_percent(found.macs_share)} of the MACs)" if found.macs_share is not None else ""
    words = {Maps.YES: "maps fully", Maps.NO: "does not map fully", Maps.UNKNOWN: "not known whether it maps fully"}
    answer = f"{words[found.maps]}; {yes} of {count} operations map{share}"
    return answer + (f", {unknown} unknown" if unknown else "")


def _rows(ops: list[OpPlacement], numbers: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """A row for each operation; several in a row with the same single reason share one."""
    for same, group in groupby(ops, key=_shared):
        some = list(group)
        if same and len(some) > 1:
            name = f"{some[0].index}-{some[-1].index}"
            yield (name, f"{len(some)} operations", some[0].maps.value, *_why(some[0], numbers))
            continue
        for op in some:
            yield (str(op.index), shown(op.op), op.maps.value, *_why(op, numbers))


def _shared(op: OpPlacement) -> tuple[str, str] | None:
    return (op.conditions[0].rule, op.conditions[0].found) if len(op.conditions) == 1 else None


def _why(op: OpPlacement, numbers: Mapping[str, str]) -> tuple[str, str]:
    """What fails, where anything does; otherwise what is not known."""
    told = [condition for condition in op.conditions if condition.met is False] or list(op.conditions)
    words = "; ".join(f"{condition.rule}: {shown(condition.found)}" for condition in told)
    return words, ", ".join(f"[{number}]" for number in dict.fromkeys(numbers[item.source] for item in told))

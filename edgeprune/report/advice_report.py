"""What `advise` prints: each way with what it brings on each target, where what was asked does not fit, and the choice.

Every number says how it was obtained: counted in a file that was made, estimated from a profile, or measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from edgeprune.checker.ways import UNCHANGED, Advice, Aim, Kind, OnAccelerator, Trial, Way
from edgeprune.report.cells import shown
from edgeprune.report.latency_report import zero_lines
from edgeprune.report.placement_report import gain_sentence
from edgeprune.report.table import Table, to_text
from edgeprune.units import format_bytes, format_count, format_ms, format_percent
from edgeprune.verdict import Estimate

__all__ = ["advice_json", "advice_text", "mismatches"]

_REASONS = 160  # characters of a refusal in a line


def advice_json(advice: Advice, recipe: str | None) -> dict[str, object]:
    """An advice for programs; `recipe` is the file that was written."""
    body = asdict(advice) | {"schema_version": 1, "recipe": recipe, "mismatches": mismatches(advice)}
    body["sparse"] = [{**asdict(item), "failed": [c.rule for c in item.failed]} for item in advice.sparse]
    ratios = {
        str(way.kind): {name: advice.latency_ratio(way.kind, name) for name in advice.targets}
        for way in advice.ways
        if way.made
    }
    return body | {"latency_ratios": ratios}


def advice_text(advice: Advice, recipe: str | None) -> str:
    """An advice for people."""
    parts = [
        [_model_line(advice)],
        [to_text(_ways_table(advice)), *_how_lines(advice)],
        _latency_lines(advice),
        _accelerator_lines(advice),
        _titled("Do zeros make it faster (the pruned float32 .tflite)?", zero_lines(advice.sparse)),
        _titled("What was asked, and where it does not fit:", [f"  {line}" for line in mismatches(advice)]),
        _recommended(advice, recipe),
        _titled("Not known:", [f"  {line}" for line in advice.unknown]),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _titled(title: str, lines: list[str]) -> list[str]:
    return [title, *lines] if lines else []


def _model_line(advice: Advice) -> str:
    macs = format_count(advice.macs) if advice.macs else "an unknown number of"
    bound = f", {format_bytes(advice.bound_bytes)} by its order-0 entropy" if advice.bound_bytes else ""
    return (
        f"{shown(advice.model)}: {advice.layers} layers, {advice.parameters:,} parameters, {macs} MACs for one "
        f"inference{bound}; counted in its float32 .tflite file"
    )


def _ways_table(advice: Advice) -> Table:
    base = advice.way(Kind.DENSE)
    heads = ("way", "what", "download", "of dense", "install", "MACs", "metric in one shot")
    rows = tuple(_row(way, base) for way in advice.ways if way.made)
    return Table(heads=heads, rows=rows, left=frozenset({0, 1, 6}))


def _row(way: Way, base: Way | None) -> tuple[str, ...]:
    share = way.download_bytes / base.download_bytes if base and base.download_bytes and way.download_bytes else None
    return (
        str(way.kind),
        way.asked,
        format_bytes(way.download_bytes or 0),
        f"{share:.2f}" if share is not None else "-",
        format_bytes(way.install_bytes or 0),
        format_count(way.macs) if way.macs else "not counted",
        _trial(way.trial) if way.trial else "-" if way.kind is Kind.DENSE else "not measured",
    )


def _trial(trial: Trial) -> str:
    return f"{trial.metric} {trial.before:.4f} -> {trial.after:.4f}"


def _how_lines(advice: Advice) -> list[str]:
    """How the numbers of the table were obtained, and what is missing in it."""
    lines = ["download: zipped (deflate-9), install: on disk; both counted in files made for this advice"]
    trials = [way.trial for way in advice.ways if way.trial is not None and way.kind is not Kind.DENSE]
    if trials:
        hows = ", ".join(dict.fromkeys(trial.how.partition(",")[0].removeprefix("measured here ") for trial in trials))
        count = trials[0].samples
        lines.append(
            f"metric: measured here {hows}; in one shot, no training, on {count:,} samples (one is "
            f"{100 / count:.2g} %): a risk and no result, since fine-tuning brings much of it back"
        )
    lines += [f"not made: {way.kind}: {shown(way.refused)[:_REASONS]}" for way in advice.ways if not way.made]
    untried = {way.untried: way.kind for way in advice.ways if way.made and way.untried and way.kind is not Kind.DENSE}
    return [*lines, *(f"{kind}: metric {why}" for why, kind in untried.items())]


def _latency_lines(advice: Advice) -> list[str]:
    """Estimates of each way, a column for each profile that gave one."""
    devices = [name for name in advice.targets if any(way.estimate(name) for way in advice.ways)]
    given = [name for name in devices if any(_given(way.estimate(name)) for way in advice.ways)]
    lines = []
    if given:
        rows = tuple(
            (str(way.kind), *(_latency(advice, way, name) for name in given))
            for way in advice.ways
            if way.made and any(way.estimate(name) for name in given)
        )
        lines.append(to_text(Table(heads=("latency estimated for", *given), rows=rows, left=frozenset({0}))))
        lines.append("x: of the dense file of the same precision, from the same profile; -: the profile is of others")
    hows = [found.how for name in given for way in advice.ways if _given(found := way.estimate(name)) and found]
    lines += dict.fromkeys(hows)
    lines += dict.fromkeys(
        f"{name}: {note}" for name in given for way in advice.ways if (one := way.estimate(name)) for note in one.notes
    )
    refused: dict[tuple[str, str], list[str]] = {}
    for name in devices:
        for way in advice.ways:
            if (found := way.estimate(name)) and not found.given:
                refused.setdefault((name, str(found.refused)), []).append(str(way.kind))
    told = (f"{name}: {', '.join(kinds)} not estimated: {reason}" for (name, reason), kinds in refused.items())
    return [*lines, *sorted(line[: 2 * _REASONS] for line in told)]


def _given(found: Estimate | None) -> bool:
    return found is not None and found.given


def _latency(advice: Advice, way: Way, device: str) -> str:
    found, ratio = way.estimate(device), advice.latency_ratio(way.kind, device)
    if found is None or not found.given:
        return "-" if found is None else "not estimated"
    value = _amount(found)
    return value if ratio is None or way.kind.dense_twin is way.kind else f"{value} ({ratio:.2f} x)"


def _amount(found: Estimate) -> str:
    if found.total_ms is not None:
        return format_ms(found.total_ms)
    return f"{found.relative:.3g} MobileNetV2s" if found.relative is not None else "not estimated"


def _accelerator_lines(advice: Advice) -> list[str]:
    lines = []
    for way in advice.ways:
        for found in way.accelerators:
            lines.append(f"  {found.target}, {way.kind}: {_placed(found)}")
    return _titled("By published rules, nothing compiled and nothing measured:", lines)


def _placed(found: OnAccelerator) -> str:
    if found.gain is not None:
        return f"does 2:4 pay? {gain_sentence(found.gain)}"
    share = f", {format_percent(found.macs_share, 0)} of the MACs map" if found.macs_share is not None else ""
    failed = f"; first that fails: {shown(found.failed)[:_REASONS]}" if found.failed else ""
    return f"maps: {found.maps}{share}{failed}"


def mismatches(advice: Advice) -> list[str]:
    """Where what was asked brings nothing on a target, and what would."""
    return [*_zeros_asked(advice), *_channels_asked(advice)]


def _zeros_asked(advice: Advice) -> Iterator[str]:
    """Zeros where kernels are dense."""
    if not advice.asked_sparsity:
        return
    asked = f"{format_percent(advice.sparsity, 0)} sparsity asked"
    for device in advice.targets:
        zeros = _estimated(advice, device, (Kind.MAGNITUDE, Kind.MAGNITUDE_INT8, Kind.SPARSE))
        ratio = advice.latency_ratio(zeros.kind, device) if zeros else None
        found = zeros.estimate(device) if zeros else None
        if zeros and found and ratio is not None and abs(ratio - 1) <= UNCHANGED:
            yield (
                f"{asked}, {device} runs dense kernels: latency unchanged ({_amount(found)}, {_band(found)})"
                f"{_zeros_download(advice)}; {_channels_would(advice, device)}"
            )
        elif zeros and ratio is None:
            yield (
                f"{asked}, {device}: latency not estimated; the MACs stay {_macs(advice, Kind.MAGNITUDE)}, and dense "
                f"kernels multiply zeros too{_zeros_download(advice)}; {_channels_would(advice, device)}"
            )
    for target, gain in _of_patterns(advice):
        yield f"{asked}, {target} skips 2 of 4 zeros in a row of inputs and no others: {gain}"


def _of_patterns(advice: Advice) -> Iterator[tuple[str, str]]:
    for way in advice.ways:
        for found in way.accelerators if way.kind is Kind.DENSE else ():
            if found.gain is not None:
                yield found.target, f"would 2:4 pay? {gain_sentence(found.gain)}"


def _estimated(advice: Advice, device: str, kinds: tuple[Kind, ...]) -> Way | None:
    """The first of these ways that the device's profile is of."""
    ways = (advice.way(kind) for kind in kinds)
    return next((way for way in ways if way and way.estimate(device)), None)


def _band(found: Estimate) -> str:
    """How an estimate was obtained, in some words: its profile is named before it."""
    return f"estimated from its profile, {found.how.partition(': ')[0].rpartition(', ')[2]}"


def _zeros_download(advice: Advice) -> str:
    dense, zeros = advice.way(Kind.DENSE), advice.way(Kind.MAGNITUDE)
    if not dense or not zeros or not dense.download_bytes or not zeros.download_bytes:
        return ""
    fall = f"{format_bytes(dense.download_bytes)} to {format_bytes(zeros.download_bytes)}"
    return f", the float32 download falls from {fall} zipped (counted)"


def _channels_would(advice: Advice, device: str) -> str:
    """What fewer channels would give on a device."""
    narrow = _estimated(advice, device, (Kind.CHANNELS, Kind.CHANNELS_INT8))
    asked = f"fewer channels ({format_percent(advice.ratio, 0)} gone)"
    ratio = advice.latency_ratio(narrow.kind, device) if narrow else None
    found = narrow.estimate(device) if narrow else None
    if narrow and found and ratio is not None:
        return f"{asked} would give {_amount(found)}, {ratio:.2f} times that"
    if advice.way(Kind.CHANNELS) is not None:
        return f"{asked} would leave {_macs(advice, Kind.CHANNELS)} MACs (counted)"
    return "fewer channels are not to be had in this model (see above)"


def _macs(advice: Advice, kind: Kind) -> str:
    way = advice.way(kind)
    return format_count(way.macs) if way and way.macs else "as they are"


def _channels_asked(advice: Advice) -> Iterator[str]:
    """Fewer channels where only the download counts."""
    if not advice.asked_ratio or advice.aim is not Aim.DOWNLOAD:
        return
    narrow, zeros = advice.way(Kind.CHANNELS_INT8), advice.way(Kind.MAGNITUDE_INT8)
    if not narrow or not zeros or narrow.download_bytes is None or zeros.download_bytes is None:
        return
    if zeros.download_bytes < narrow.download_bytes:
        yield (
            f"{format_percent(advice.ratio, 0)} of the channels asked, and the goal is the download: "
            f"{format_bytes(narrow.download_bytes)} zipped in int8, where {format_percent(advice.sparsity, 0)} zeros "
            f"give {format_bytes(zeros.download_bytes)} (counted); fewer channels pay where latency counts "
            "(--goal latency)"
        )


def _recommended(advice: Advice, recipe: str | None) -> list[str]:
    way = next(way for way in advice.ways if way.kind is advice.chosen)
    reasons = [f"{format_bytes(way.download_bytes)} to download (counted)"] if way.download_bytes else []
    reasons += [
        f"{ratio:.2f} of the latency on {name} (estimated)"
        for name in advice.targets
        if (ratio := advice.latency_ratio(way.kind, name)) is not None and way.kind.dense_twin is not way.kind
    ]
    if way.trial is not None:
        reasons.append(f"{_trial(way.trial)} in one shot (measured)")
    lines = [f"Recommended for {advice.aim}: {way.kind} ({way.asked}): {'; '.join(reasons)}"]
    if recipe is not None:
        lines.append(f"Written: {recipe} (edgeprune run {recipe} -o output; to look first: --dry-run)")
    return lines

"""A file that was made, and one held against its model, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeprune.checker.agreement import Agreement, Departure
from edgeprune.ledger import POOR_SQNR_DB, ArtifactEntry, OutputParity, SparseKernels
from edgeprune.report.ladder_report import ladder_text
from edgeprune.units import format_bytes

__all__ = ["agreement_text", "channel_lines", "departure_lines", "export_text", "sparse_lines"]

# Runs of channels that a line names.
_RUNS = 6
CURE = "give them an output of their own, or bring all channels to one range inside the model"


def export_text(entry: ArtifactEntry, against: str = "the model") -> str:
    """What `convert` and `variant` tell of their file; `against` is what it was held against."""
    lines = [*_size_lines(entry), *sparse_lines(entry.sparse_kernels), *_parity_lines(entry, against)]
    lines += _runtime_lines(entry)
    lines += [
        f"{found.name} of the exported file: {found.value:.4f} on {found.samples:,} samples, by {found.runtime}"
        for found in entry.metrics
    ]
    lines += [ladder_text(entry.ladder)] if entry.ladder is not None else []
    if not entry.metrics:
        note = entry.metric_note or "not measured"
        if against == "the model":
            lines.append(f"quality {note.replace('no targets', 'add --data TEST.npz with targets in y')}")
    return "\n".join([*lines, f"Written: {entry.path}"])


def _size_lines(entry: ArtifactEntry) -> list[str]:
    codecs = ", ".join(f"{name} {format_bytes(count)}" for name, count in entry.download_bytes.items())
    lines = [f"install {format_bytes(entry.raw_bytes)}; download: {codecs}"]
    if entry.sparsity is not None:
        lines.append(f"zeros in the file's weights: {entry.sparsity:.2%}")
    if entry.weights:
        lines.append("weight tensors: " + ", ".join(f"{count} as {how}" for how, count in entry.weights.items()))
    return lines


def sparse_lines(found: SparseKernels | None) -> list[str]:
    """What was done for sparse kernels, and how it was proved; nothing where nothing was asked for."""
    if found is None:
        return []
    lines = [f"rewritten, {item.name} in {_layers(item.layers)}: {item.what}" for item in found.rewrites]
    if found.rewrites:
        rounding = f"; plain kernels differ by {found.rounding:.2g} on the file before" if found.rounding else ""
        lines.append(
            f"rewrites change outputs by at most {found.difference:.2g} of their largest number on {found.samples} "
            f"samples{rounding}"
        )
    lines.append(
        f"sparse kernels: {found.sparsity:.1%} zeros in the 1x1 filters, {found.stored_sparse} weights stored sparse; "
        "on Arm and in WebAssembly (x86 with AVX runs it dense: measure with edgeprune bench FILE --arm cortex-a76)"
    )
    return lines + (["feed it images turned by 180 degrees"] if found.reversed_input else [])


def _layers(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{len(layers)} layers from {layers[0]} to {layers[-1]}"


def _parity_lines(entry: ArtifactEntry, against: str) -> list[str]:
    parity = entry.parity or ()
    lines = [_parity_line(item, entry.parity_on or "samples", against=against) for item in parity]
    if any(item.is_poor for item in parity):
        lines.append(
            f"the error is large (SQNR below {POOR_SQNR_DB:g} dB): measure with --data, or choose a finer precision"
        )
    return [*lines, *(f"WARNING: {line}" for line in channel_lines(parity))]


def channel_lines(parity: Sequence[OutputParity]) -> list[str]:
    """The channels that an output hides, what was measured, and the cure; a line for each axis of an output."""
    lines = []
    for item in parity:
        for axis in dict.fromkeys(channel.axis for channel in item.channels):
            poor = [channel for channel in item.channels if channel.axis == axis]
            worst = min(poor, key=lambda channel: channel.sqnr_db)
            numbers = spans([channel.channel for channel in poor])
            where = "" if axis == -1 else f" on axis {axis}"
            whole = "" if item.sqnr_db is None else f", that of the whole output {item.sqnr_db:.1f} dB"
            lines.append(
                f"channel{'s' if len(poor) > 1 else ''} {numbers}{where} of output {item.output!r} "
                f"{'are' if len(poor) > 1 else 'is'} far from the model's: SQNR {worst.sqnr_db:.1f} dB against "
                f"{'their' if len(poor) > 1 else 'its'} own variance (channel {worst.channel}: off by "
                f"{worst.max_error:.3g}, its range is {worst.range:.3g}){whole}; {CURE}"
            )
    return lines


def spans(numbers: Sequence[int]) -> str:
    """ "4 to 6, 9": at most a few runs of numbers in words."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{a}" if a == b else f"{a} to {b}" for a, b in runs[:_RUNS]]
    left = sum(b - a + 1 for a, b in runs[_RUNS:])
    return ", ".join(shown) + (f" and {left} more" if left else "")


def _runtime_lines(entry: ArtifactEntry) -> list[str]:
    ran = [f"{run.name} {run.version}" for run in entry.runtimes if run.ran]
    lines = [f"runs on: {', '.join(ran)}"] if ran else []
    lines += [f"does not run on {run.name} {run.version}: {run.reason}" for run in entry.runtimes if not run.ran]
    lines += [f"oldest runtime that ran it: {entry.oldest_runtime}"] if entry.oldest_runtime else []
    return lines + ([f"computes in float: {', '.join(entry.float_ops)}"] if entry.float_ops else [])


def _parity_line(item: OutputParity, on: str, other: str | None = None, *, against: str = "the model") -> str:
    """One output's differences in words."""
    named = f"{item.output!r}" + (f" (in the file {other!r})" if other and other != item.output else "")
    share = "" if item.relative_error is None else f" ({item.relative_error:.2g} of it)"
    agreement = "" if item.agreement is None else f", same top class for {item.agreement:.2%}"
    noise = "equal" if item.sqnr_db is None else f"SQNR {item.sqnr_db:.1f} dB"
    return (
        f"output {named} against {against} on {item.samples:,} {on}: largest difference {item.max_error:.3g}, "
        f"mean {item.mean_error:.3g}, range {item.range:.3g}{share}, {noise}{agreement}"
    )


def agreement_text(found: Agreement, file: str, model: str) -> str:
    """What `verify` tells of the file called `file` against the model called `model`."""
    ran = [f"{run.name} {run.version}" for run in found.runtimes if run.ran]
    lines = [f"{file} ({found.format}, {found.precision}) against {model}, run by {ran[-1]}"]
    lines += [f"also runs on {name}" for name in ran[:-1]]
    lines += [f"does not run on {run.name} {run.version}: {run.reason}" for run in found.runtimes if not run.ran]
    lines += [_parity_line(item, found.samples_are, found.pairs[item.output]) for item in found.parity]
    lines += [
        f"{pair.name}: model {pair.model:.4f}, file {pair.file:.4f} on {found.samples:,} {found.samples_are}"
        for pair in found.scores
    ]
    if found.agrees:  # of float files; for others it is the reason not to agree
        lines += [f"WARNING: {line}" for line in channel_lines(found.parity)]
    if found.reordered:
        lines.append("its outputs stand in another order than the model's: an app that goes by position gets others")
    lines += [f"image input {name!r}: {how}" for name, how in found.pictures.items()]
    lines += [f"not bisected: {found.bisect_note}"] if found.bisect_note else []
    lines += departure_lines(found.departure, agrees=found.agrees)
    return "\n".join([*lines, "agrees" if found.agrees else "does not agree"])


def departure_lines(departure: Departure | None, *, agrees: bool) -> list[str]:
    """What a bisection found; nothing where there was none."""
    if departure is None:
        return []
    if departure.first is None:
        return [f"all {len(departure.layers)} layers agree, or are fused into layers that do"]
    first = departure.first
    sound = f"the last that agrees before it is {departure.last_sound!r}" if departure.last_sound else "none before it"
    known = first.sqnr_db is not None and math.isfinite(first.sqnr_db)
    noise = f" (closest tensor of the file: SQNR {first.sqnr_db:.1f} dB)" if known else ""
    what = "first layer that is not close to the model" if agrees else "first layer that departs"
    return [f"{what}: {first.layer!r} ({first.kind}){noise}; {sound}"]

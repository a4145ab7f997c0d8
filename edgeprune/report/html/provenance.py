"""Where the numbers of a run come from: recipe, data, versions, hashes, methods, and what was not measured."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgeprune.artifact import Format
from edgeprune.ledger import ArtifactEntry, Ledger
from edgeprune.report.html.markup import Markup, element, plain
from edgeprune.report.html.page import Section, folded, folded_table, sentences, table_html
from edgeprune.report.ledger_report import methods
from edgeprune.report.table import Table
from edgeprune.units import format_bytes, format_seconds

__all__ = ["not_measured", "provenance"]


def provenance(ledger: Ledger, notes: Sequence[str]) -> list[Section]:
    """What was not measured, and how everything else was; `notes` are of the files that were read for the page."""
    lacks = [*not_measured(ledger), *notes]
    recipe = json.dumps(ledger.recipe.asked, indent=1, ensure_ascii=False, default=str)
    body = [
        sentences(methods(ledger)),
        table_html(_origins(ledger)),
        folded_table("SHA-256 of every file", _hashes(ledger)),
        folded("The recipe as it was understood", element("pre", _lines(recipe))),
    ]
    found = [Section(title="What was not measured", body=(sentences(lacks),))] if lacks else []
    return [*found, Section(title="How the numbers were obtained", body=tuple(body))]


def _lines(content: str) -> Markup:
    """Text that keeps its lines."""
    return Markup("\n".join(plain(line) for line in content.splitlines()))


def _origins(ledger: Ledger) -> Table:
    """Model, data, machine and versions."""
    rows = [
        ("edgeprune", ledger.tool_version),
        ("recipe", ledger.recipe.path),
        ("model", f"{ledger.input.path}, {format_bytes(ledger.input.raw_bytes)}"),
        ("seed", str(ledger.seed)),
        ("machine", f"{ledger.host.system} {ledger.host.machine}"),
        *((f"runtime {name}", version) for name, version in ledger.host.runtimes.items()),
        *(
            (
                f"{name} samples",
                f"{split.samples:,} of {split.path}" + (f", {split.skipped:,} left out" if split.skipped else ""),
            )
            for name, split in ledger.data.items()
        ),
        ("all steps took", format_seconds(sum(stage.seconds for stage in ledger.stages))),
    ]
    return Table(heads=("what", "which"), rows=tuple(rows), left=frozenset({0, 1}))


def _hashes(ledger: Ledger) -> Table:
    rows = [(ledger.recipe.path, "recipe", ledger.recipe.sha256), (ledger.input.path, "model", ledger.input.sha256)]
    rows += [(split.path, f"{name} samples", split.sha256) for name, split in ledger.data.items()]
    rows += [
        (entry.path, "ships" if entry.exported else f"stage {stage.name}", entry.sha256)
        for stage in ledger.stages
        for entry in stage.artifacts
    ]
    return Table(heads=("file", "what", "SHA-256"), rows=tuple(rows), left=frozenset({0, 1, 2}))


def not_measured(ledger: Ledger) -> list[str]:
    """What the page could show and the ledger does not hold, in sentences: nothing of it is drawn as 0."""
    entries = [entry for stage in ledger.stages for entry in stage.artifacts]
    shipped = [entry for entry in entries if entry.exported]
    lines = [f"{ledger.metric.name} of {entry.path}: {_reason(entry)}." for entry in shipped if entry.metric is None]
    untimed = [entry.path for entry in shipped if entry.format == Format.TFLITE and not _is_timed(ledger, entry)]
    untimed += [entry.path for entry in shipped if entry.format != Format.TFLITE]
    if untimed:
        lines.append(f"Latency on this host: not measured for {', '.join(untimed)}.")
    if shipped and not any(entry.estimates for entry in shipped):
        lines.append("Latency on devices: not estimated; name them in [latency] devices of the recipe.")
    if ledger.metrics and shipped and not any(entry.answers for entry in shipped):
        lines.append("Which answers changed: not measured; a run of this version of edgeprune records it.")
    if ledger.blame is None:
        lines.append("Which step and which layer cost what: not measured; blame = true in the recipe does.")
    return lines


def _reason(entry: ArtifactEntry) -> str:
    return (entry.metric_note or "not measured").removesuffix(".")


def _is_timed(ledger: Ledger, entry: ArtifactEntry) -> bool:
    return entry.latency is not None or any(stage.main is entry and stage.latency for stage in ledger.stages)

"""The page of a run: its sentences and verdicts, the one picture of all stages, and what lies behind each number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.artifact import Format
from edgeprune.checker.size.records import FileAccount
from edgeprune.ledger import ArtifactEntry, Blame, Ledger
from edgeprune.points import SearchReport, Sensitivity
from edgeprune.report.html.curves import curves
from edgeprune.report.html.damage import blame_pictures, sensitivity_pictures
from edgeprune.report.html.devices import devices
from edgeprune.report.html.layers import channels, sparsity
from edgeprune.report.html.markup import Markup, element
from edgeprune.report.html.page import Page, Picture, Section, cards, folded_table, sentences, table_html
from edgeprune.report.html.provenance import provenance
from edgeprune.report.html.search import pareto
from edgeprune.report.html.treemap import treemap
from edgeprune.report.html.turned import answer_pictures
from edgeprune.report.html.waterfall import waterfall
from edgeprune.report.ledger_report import files_table, kept_table, metric_text, stages_table
from edgeprune.report.search_report import search_lines
from edgeprune.report.summary import change_text, difference_text
from edgeprune.report.verdicts import verdict_line
from edgeprune.units import format_bytes
from edgeprune.verdict import Verdict

__all__ = ["RunFiles", "run_page", "shipped", "verdict_list"]

Part = Markup | Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """What the page of a run shows beside the ledger: the account of a file that ships, of the one it is held against,
    results of other verbs, and in `notes` what could not be read."""

    after: FileAccount | None = None
    before: FileAccount | None = None
    search: SearchReport | None = None
    sensitivity: Sensitivity | None = None
    blame: Blame | None = None
    notes: tuple[str, ...] = ()


def shipped(ledger: Ledger) -> ArtifactEntry | None:
    """The file that stands for what ships: of those that the dense model has a file to compare with, the smallest
    download."""
    entries = [entry for stage in ledger.stages for entry in stage.artifacts if entry.exported]
    same = [entry for entry in entries if entry.format == Format.TFLITE]
    return min(same or entries, key=lambda entry: entry.download_bytes["deflate"], default=None)


def run_page(ledger: Ledger, files: RunFiles) -> Page:
    """Everything that is known of a run, what is asked for first at the top."""
    best = shipped(ledger)
    top: list[Part] = [cards(_cards(ledger, best))] if best is not None else []
    top.append(waterfall(ledger))
    sections = [
        Section(title="In words", body=(sentences(ledger.summary),)),
        *_section("Budget", [verdict_list(ledger.verdicts)] if ledger.verdicts else []),
        Section(title="Files", body=tuple(_tables(ledger))),
        *_section("Where the bytes are", _bytes(files)),
        *_section("Which answers changed", _answers(best)),
        *_section("Who did the damage", _damage(ledger, files)),
        *_section("Layers", _layers(ledger)),
        *_section("Latency on devices", _devices(ledger)),
        *_section("The search", _search(files)),
        *_section("Training", [found] if (found := curves(ledger)) else []),
        *provenance(ledger, files.notes),
    ]
    lead = f"edgeprune {ledger.tool_version}, recipe {ledger.recipe.path}, seed {ledger.seed}"
    return Page(title=f"{ledger.input.path}, made smaller", lead=lead, top=tuple(top), sections=tuple(sections))


def _section(title: str, body: Sequence[Part]) -> list[Section]:
    return [Section(title=title, body=tuple(body))] if body else []


def _cards(ledger: Ledger, best: ArtifactEntry) -> list[tuple[str, str, str]]:
    """Download, install, metric and latency of the file that stands for what ships."""
    base, kind = ledger.dense.main, ledger.metric
    found: list[tuple[str, str, str]] = []
    if base is not None:
        sizes = ("Download", base.download_bytes["deflate"], best.download_bytes["deflate"])
        for what, before, after in (sizes, ("Install", base.raw_bytes, best.raw_bytes)):
            found.append((what, change_text(before, after), f"{format_bytes(before)} to {format_bytes(after)}"))
    if best.metric is not None:
        change = best.metric.change
        against = difference_text(kind, change.difference) if change else "not compared"
        noise = ", no more than noise" if change and change.is_noise else ""
        found.append((kind.name, metric_text(best.metric, kind.is_share), f"{against}{noise}"))
    stage = next((stage for stage in ledger.stages if best in stage.artifacts), None)
    timed = stage.latency if stage and stage.main is best else None
    if timed is not None:
        found.append(("Latency on this host", f"{timed.ratio:.2f}x", f"{timed.verdict}, {best.precision} both"))
    return [
        (what, much, f"{against} ({best.path})" if not n else against) for n, (what, much, against) in enumerate(found)
    ]


def verdict_list(verdicts: Sequence[Verdict]) -> Markup:
    """Each limit with how it fared, told by a word and not only by a colour."""
    marks = {True: ("kept", "good"), False: ("over", "bad"), None: ("unknown", "soft")}
    rows = []
    for verdict in verdicts:
        word, class_ = marks[verdict.passed]
        rows.append(
            element("li", element("span", word, class_=f"mark {class_}"), element("span", verdict_line(verdict)))
        )
    return element("ul", *rows, class_="verdicts")


def _tables(ledger: Ledger) -> list[Part]:
    found: list[Part] = [table_html(files_table(ledger))]
    found.append(folded_table("All numbers of the stages", stages_table(ledger)))
    kept = kept_table(ledger)
    return [*found, folded_table("What later stages keep of earlier ones", kept)] if kept.rows else found


def _bytes(files: RunFiles) -> list[Part]:
    return [treemap(files.after, files.before)] if files.after is not None and files.after.layers else []


def _answers(best: ArtifactEntry | None) -> list[Part]:
    found = best.answers if best else ()
    return [picture for change in found for picture in answer_pictures(change, best.path if best else "")]


def _damage(ledger: Ledger, files: RunFiles) -> list[Part]:
    blame = files.blame or ledger.blame
    found: list[Part] = list(blame_pictures(blame)) if blame else []
    return [*found, *(sensitivity_pictures(files.sensitivity) if files.sensitivity else [])]


def _layers(ledger: Ledger) -> list[Part]:
    found: list[Part] = []
    for stage in ledger.stages:
        found += [channels(stage, stage.channels)] if stage.channels and stage.channels.removed else []
        found += [sparsity(stage, stage.pruning)] if stage.pruning and stage.pruning.layers else []
    return found


def _devices(ledger: Ledger) -> list[Part]:
    entries = [entry for stage in ledger.stages for entry in stage.artifacts if entry.exported]
    found = [(entry.path, estimate) for entry in entries for estimate in entry.estimates]
    return [devices(found)] if found else []


def _search(files: RunFiles) -> list[Part]:
    return [sentences(search_lines(files.search)), pareto(files.search)] if files.search else []

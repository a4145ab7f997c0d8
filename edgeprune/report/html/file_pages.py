"""Pages of model files: what one holds, what became of it, and how files fare against their budgets."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.checker.check import Check
from edgeprune.checker.comparison import Comparison
from edgeprune.checker.size.records import FileAccount
from edgeprune.report.cells import shown
from edgeprune.report.check_report import difference_table, file_table, legend
from edgeprune.report.compare_report import headline, totals_table
from edgeprune.report.html.devices import devices
from edgeprune.report.html.markup import Markup
from edgeprune.report.html.page import Page, Picture, Section, folded_table, note, paragraph, sentences, table_html
from edgeprune.report.html.run_page import verdict_list
from edgeprune.report.html.treemap import treemap
from edgeprune.report.inspect_report import layers_table

__all__ = ["check_page", "compare_page", "inspect_page"]

Part = Markup | Picture
_LEAD = "Read from the files byte for byte; every number is counted or measured here unless it says estimated."


def inspect_page(records: Sequence[FileAccount], said: Sequence[str] = ()) -> Page:
    """The layers of files; `said` are sentences about their bytes."""
    sections = [
        Section(
            title=shown(record.path),
            body=(*_tiles(record, None, n), folded_table("All operations", layers_table(record))),
        )
        for n, record in enumerate(records)
    ]
    if said:
        sections.append(Section(title="Where the bytes go", body=(sentences(said),)))
    names = ", ".join(shown(record.path) for record in records)
    return Page(title=f"{names}: what is in it", lead=_LEAD, sections=tuple(sections))


def compare_page(found: Comparison) -> Page:
    """What one file became."""
    old, new = found.before, found.after
    body: list[Part] = [paragraph(headline(found)), table_html(totals_table(old, new)), *_tiles(new, old, 0)]
    estimates = (
        [] if found.estimates is None else [(old.path, found.estimates.before), (new.path, found.estimates.after)]
    )
    body += [devices([(shown(path), estimate) for path, estimate in estimates])] if estimates else []
    title = f"{shown(old.path)} and what became of it: {shown(new.path)}"
    return Page(title=title, lead=_LEAD, sections=(Section(title="What changed", body=tuple(body)),))


def check_page(check: Check) -> Page:
    """Files against their budgets, with the baseline where there is one."""
    words = {True: "within budget", False: "over budget", None: "cannot be checked"}
    body: list[Part] = [verdict_list(check.verdicts)] if check.verdicts else [note("No limit was checked.")]
    body += [table_html(file_table(check, shown)), paragraph(legend(check))] if check.files else []
    if check.baseline is not None and check.files:
        body.append(folded_table(f"Against {shown(check.baseline)}", difference_table(check, shown)))
    sections = [Section(title="Budgets", body=tuple(body))]
    for n, record in enumerate(check.files):
        parts = [*_tiles(record, check.before.get(record.path), n), *_why(check, record)]
        sections.append(Section(title=shown(record.path), body=tuple(parts)))
    estimates = [(shown(record.path), found) for record in check.files for found in record.estimates]
    sections += [Section(title="Latency on devices", body=(devices(estimates),))] if estimates else []
    sections += [Section(title="Notes", body=(sentences(check.notes),))] if check.notes else []
    title = words[check.passed] if check.verdicts else "model sizes (no limit was checked)"
    return Page(title=f"edgeprune: {title}", lead=_LEAD, sections=tuple(sections))


def _tiles(record: FileAccount, before: FileAccount | None, number: int) -> list[Part]:
    notes: list[Part] = [note(shown(record.note))] if record.note else []
    if not record.layers:
        return [*notes, note("Its layers are not known, so there is no picture of them.")]
    earlier = before if before is not None and before.layers else None
    return [treemap(record, earlier, name=f"treemap-{number + 1}" if number else "treemap"), *notes]


def _why(check: Check, record: FileAccount) -> list[Part]:
    said = check.why.get(record.path)
    return [sentences(said)] if said else []

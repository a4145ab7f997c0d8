"""A check as text, JSON, Markdown, JUnit XML or GitHub annotations. Names out of files never break a format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from edgeprune.checker.check import Check
from edgeprune.checker.size.codecs import CODECS, Codec
from edgeprune.checker.size.layer_pairs import Pair, changed_pairs, layer_pairs, layer_weight
from edgeprune.checker.size.records import FileAccount, LayerAccount
from edgeprune.report.cells import difference, layer_name, markdown_cell, markdown_text, shown
from edgeprune.report.estimates import earlier_ms, estimate_notes, estimate_table
from edgeprune.report.exporters import benchmark_action, bmf, sarif
from edgeprune.report.table import Table, to_markdown, to_text
from edgeprune.report.verdicts import amount, limit_name, outcome_word, verdict_line
from edgeprune.units import format_bytes, format_count, format_percent
from edgeprune.verdict import Limit, Unit, Verdict

__all__ = ["FORMATS", "difference_table", "file_table", "legend"]

SCHEMA_VERSION = 3
_OF_SIZE = (Limit.DOWNLOAD, Limit.INSTALL, Limit.GROWTH)
_MOST_LAYERS = 8  # in a pull-request comment


def _unread(record: FileAccount) -> str:
    return "not read" if not record.complete else "unknown"


def _row(record: FileAccount, codecs: Sequence[str], cell: Callable[[str], str]) -> tuple[str, ...]:
    return (
        cell(record.path),
        format_bytes(record.raw_bytes),
        *(format_bytes(record.download_bytes[name]) if name in record.download_bytes else "-" for name in codecs),
        f"{record.parameters:,}" if record.parameters is not None else _unread(record),
        format_percent(record.sparsity)
        if record.sparsity is not None
        else ("no weights" if record.weights == 0 else _unread(record)),
        format_count(record.macs) if record.macs is not None else _unread(record),
    )


def _measured(check: Check) -> list[Codec]:
    return [codec for codec in CODECS.values() if any(codec.name in record.download_bytes for record in check.files)]


def file_table(check: Check, cell: Callable[[str], str]) -> Table:
    """A row for each file; `cell` writes a name."""
    names = [codec.name for codec in _measured(check)]
    heads = ("file", "install", *names, "parameters", "zeros", "MACs")
    return Table(heads=heads, rows=tuple(_row(record, names, cell) for record in check.files))


def _text(check: Check) -> str:
    lines = [to_text(file_table(check, shown)), legend(check)] if check.files else ["no file could be read"]
    for record in check.files:
        lines += _archive_lines(record)
    estimates = estimate_table(check.files, shown)
    if estimates is not None:
        lines += ["", to_text(estimates), *map(shown, estimate_notes(check.files))]
    if check.baseline is not None and check.files:
        lines += ["", to_text(difference_table(check, shown))]
        lines += ["\n" + to_text(table) for table in _grown_tables(check, shown)]
    if check.verdicts:
        lines += ["", *(verdict_line(verdict) for verdict in check.verdicts)]
    if not check.why and any(verdict.passed is False and verdict.kind in _OF_SIZE for verdict in check.verdicts):
        lines.append("add --why: where the bytes are, and what would make them fewer")
    for path, sentences in check.why.items():
        lines += ["", f"why, {shown(path)}:", *(f"- {shown(sentence)}" for sentence in sentences)]
    notes = [*(f"{record.path}: {record.note}" for record in check.files if record.note), *check.notes]
    lines += [f"note: {shown(note)}" for note in notes]
    return "\n".join(lines) + "\n"


def legend(check: Check) -> str:
    """What the size of each codec stands for."""
    names = {codec.name: f"-{codec.level}" if codec.name.isalpha() else "" for codec in _measured(check)}
    told = "; ".join(f"{name}{level}: {CODECS[name].stands_for}" for name, level in names.items())
    return f"install: the file itself; {told}"


def _archive_lines(record: FileAccount) -> list[str]:
    found = record.in_archive
    if found is None:
        return []
    lines = [f"{shown(record.path)}: {found.method} in the archive, {format_bytes(found.compressed_bytes)} there"]
    return lines + [f"  {shown(note)}" for note in found.notes]


def difference_table(check: Check, cell: Callable[[str], str]) -> Table:
    """A row for each file's download and install and for each limit: before, after, difference, limit, verdict."""
    rows = [
        (cell(record.path), *row)
        for record in check.files
        for row in _difference_rows(record, check.before.get(record.path), check)
    ]
    heads = ("file", "what", "before", "after", "difference", "limit", "verdict")
    return Table(heads=heads, rows=tuple(rows), left=frozenset({0, 1, 6}))


def _difference_rows(record: FileAccount, before: FileAccount | None, check: Check) -> Iterator[tuple[str, ...]]:
    own = [verdict for verdict in check.verdicts if verdict.path == record.path]
    limited = {verdict.codec for verdict in own if verdict.codec is not None}
    for name in [name for name in record.download_bytes if name in limited] or [check.codec]:
        sizes = before.download_bytes.get(name) if before else None, record.download_bytes.get(name)
        held = [verdict for verdict in own if verdict.kind is Limit.DOWNLOAD and verdict.codec == name]
        yield from _size_rows(f"download ({name})", *sizes, held)
    held = [verdict for verdict in own if verdict.kind is Limit.INSTALL]
    yield from _size_rows("install", before.raw_bytes if before else None, record.raw_bytes, held)
    for verdict in own:
        if verdict.kind not in (Limit.DOWNLOAD, Limit.INSTALL):
            yield _limit_row(verdict, _earlier(verdict, record, before))


def _limit_row(verdict: Verdict, old: float | None) -> tuple[str, ...]:
    slower = verdict.actual / old - 1 if verdict.unit is Unit.MS and verdict.actual and old else None
    return (
        limit_name(verdict),
        amount(old, verdict.unit) if old is not None else "-",
        amount(verdict.actual, verdict.unit),
        f"{100 * slower:+.1f} %" if slower is not None else "-",
        amount(verdict.limit, verdict.unit),
        outcome_word(verdict),
    )


def _size_rows(what: str, before: int | None, after: int | None, held: Sequence[Verdict]) -> Iterator[tuple[str, ...]]:
    old = format_bytes(before) if before is not None else "-"
    new = format_bytes(after) if after is not None else "unknown"
    change = difference(before, after) if before is not None and after is not None else "-"
    for verdict in held:
        yield what, old, new, change, format_bytes(round(verdict.limit)), outcome_word(verdict)
    if not held:
        yield what, old, new, change, "none", "-"


def _earlier(verdict: Verdict, record: FileAccount, before: FileAccount | None) -> float | None:
    """The baseline's number beside that of the file."""
    if before is None:
        return None
    if verdict.kind is Limit.MAX_LATENCY_MS and verdict.device is not None:
        return earlier_ms(verdict.device, record, before)
    return {Limit.PARAMETERS: before.parameters, Limit.MIN_SPARSITY: before.sparsity}.get(verdict.kind)


def _grown_tables(check: Check, cell: Callable[[str], str]) -> list[Table]:
    """For each file with layers in both, those that grew most; where none grew, those that shrank most."""
    tables = []
    for record in check.files:
        before = check.before.get(record.path)
        if before is None or not before.layers or not record.layers:
            continue
        pairs = changed_pairs(layer_pairs(before.layers, record.layers))
        grown = [pair for pair in pairs if layer_weight(pair[1]) > layer_weight(pair[0])]
        told = sorted(grown or pairs, key=_shrunk, reverse=not grown)[:_MOST_LAYERS]
        rows = tuple(_grown_row(old, new, cell) for old, new in told)
        more = f" ({len(pairs) - len(told)} more changed)" if len(pairs) > len(told) else ""
        if rows:
            heads = (
                f"layers of {cell(record.path)} that {'grew' if grown else 'shrank'} most{more}",
                "install before",
                "after",
                "difference",
            )
            tables.append(Table(heads=(*heads, "download share before", "after"), rows=rows))
    return tables


def _grown_row(old: LayerAccount | None, new: LayerAccount | None, cell: Callable[[str], str]) -> tuple[str, ...]:
    known = new or old
    assert known is not None
    shares = [
        ("unknown" if layer.deflate_bytes is None else format_bytes(layer.deflate_bytes)) if layer else "-"
        for layer in (old, new)
    ]
    return (
        cell(layer_name(known)),
        format_bytes(old.raw_bytes) if old else "new",
        format_bytes(new.raw_bytes) if new else "removed",
        difference(old.raw_bytes if old else 0, new.raw_bytes if new else 0),
        *shares,
    )


def _shrunk(pair: Pair) -> tuple[int, ...]:
    return tuple(before - after for before, after in zip(*map(layer_weight, pair), strict=True))


def _json(check: Check) -> str:
    from importlib.metadata import version

    body: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "edgeprune", "version": version("edgeprune")},
        "config": check.config,
        "baseline": check.baseline,
        "codecs": {codec.name: {"level": codec.level, "stands_for": codec.stands_for} for codec in _measured(check)},
        "files": [record.to_json() for record in check.files],
        "before": {path: _bare(record) for path, record in check.before.items()},
        "verdicts": [asdict(verdict) for verdict in check.verdicts],
        "passed": check.passed if check.verdicts else None,
        "why": {path: list(sentences) for path, sentences in check.why.items()},
        "notes": list(check.notes),
    }
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _bare(record: FileAccount) -> dict[str, object]:
    return {"raw_bytes": record.raw_bytes, "download_bytes": dict(record.download_bytes)}


def _markdown(check: Check) -> str:
    verdict = {True: "within budget", False: "OVER BUDGET", None: "cannot be checked"}[check.passed]
    title = f"edgeprune: {verdict}" if check.verdicts else "edgeprune: model sizes (no limit was checked)"
    title += ", no size changed" if check.unchanged else ""
    lines = [f"### {title}", ""]
    if not check.files:
        lines += ["No file could be read.", ""]
    elif check.baseline is not None or check.verdicts:
        lines += [to_markdown(difference_table(check, markdown_cell)), ""]
    else:
        lines += [to_markdown(file_table(check, markdown_cell)), ""]
    estimates = estimate_table(check.files, markdown_cell)
    if estimates is not None:
        lines += [to_markdown(estimates), "", *(f"- {markdown_text(text)}" for text in estimate_notes(check.files)), ""]
    failed = [item for item in check.verdicts if not item.passed]
    lines += [f"- {markdown_text(verdict_line(item))}" for item in failed] + ([""] if failed else [])
    for table in _grown_tables(check, markdown_cell):
        lines += [to_markdown(table), ""]
    for path, sentences in check.why.items():
        lines += [f"Why, {markdown_cell(path)}:", "", *(f"- {markdown_text(text)}" for text in sentences), ""]
    lines += [f"- {markdown_text(note)}" for note in check.notes] + ([""] if check.notes else [])
    if check.files:
        lines.append(markdown_text(legend(check)))
    return "\n".join(lines).rstrip() + "\n"


def _junit(check: Check) -> str:
    import xml.etree.ElementTree as ElementTree

    failures = sum(verdict.passed is False for verdict in check.verdicts)
    errors = sum(verdict.passed is None for verdict in check.verdicts)
    counts = {"tests": str(len(check.verdicts)), "failures": str(failures), "errors": str(errors)}
    root = ElementTree.Element("testsuites", {"name": "edgeprune", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "edgeprune check", **counts})
    for verdict in check.verdicts:
        names = {"classname": shown(verdict.path), "name": limit_name(verdict)}
        case = ElementTree.SubElement(suite, "testcase", names)
        if verdict.passed:
            continue
        kind = "failure" if verdict.passed is False else "error"
        ElementTree.SubElement(case, kind, {"message": verdict_line(verdict)})
    if check.notes:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(map(shown, check.notes))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _github(check: Check) -> str:
    """Workflow commands: docs.github.com, "Workflow commands for GitHub Actions", setting an error message."""
    lines = []
    for verdict in check.verdicts:
        if verdict.passed:
            continue
        title = "model over budget" if verdict.passed is False else "model budget cannot be checked"
        lines.append(
            f"::error file={_property(verdict.path)},title={_property(title)}::{_message(verdict_line(verdict))}"
        )
    lines += [f"::notice title=edgeprune::{_message(note)}" for note in check.notes]
    kept = sum(verdict.passed is True for verdict in check.verdicts)
    told = f"{kept} of {len(check.verdicts)} model budgets kept" if check.verdicts else "no model budget was checked"
    lines.append(f"::notice title=edgeprune::{_message(told)}")
    return "\n".join(lines) + "\n"


def _message(text: str) -> str:
    return shown(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


FORMATS: Mapping[str, Callable[[Check], str]] = {
    "text": _text,
    "json": _json,
    "markdown": _markdown,
    "junit": _junit,
    "github": _github,
    "sarif": sarif,
    "benchmark-action": benchmark_action,
    "bmf": bmf,
}

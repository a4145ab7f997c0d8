"""A check for other tools: github-action-benchmark, Bencher and code scanning.

What is the same at each run of the same file (bytes, counts) is a number that such a tool may raise an alarm about; an
estimated latency is there to be read only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import quote

from edgeprune.checker.check import Check
from edgeprune.checker.size.records import FileAccount
from edgeprune.formats.bundles import BUNDLES
from edgeprune.report.cells import shown
from edgeprune.report.verdicts import latency_text, limit_name, verdict_line
from edgeprune.verdict import Limit, Verdict

__all__ = ["benchmark_action", "bmf", "sarif"]

# Of the Bencher Metric Format: the longest name of a benchmark, and the end of a name that raises no alarm.
_MOST_NAME, _NO_ALARM = 1024, "-bencher-ignore"
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# What breaks a limit, for the list of rules in a SARIF log.
_RULES = {
    Limit.DOWNLOAD: "The compressed file is larger than its budget.",
    Limit.INSTALL: "The file is larger on a device than its budget.",
    Limit.GROWTH: "The download grew more than its budget lets it.",
    Limit.PARAMETERS: "The model has more parameters than its budget.",
    Limit.MIN_SPARSITY: "Fewer of the weights are zero than its budget asks for.",
    Limit.MAX_METRIC_DROP: "The file lost more of its metric than its budget lets it.",
    Limit.MAX_LATENCY_MS: "The estimated latency is above its budget.",
    Limit.MAX_LATENCY_GROWTH: "The estimated latency grew more than its budget lets it.",
    Limit.MIN_ELIGIBLE: "The accelerator takes less of the model than its budget asks for.",
    Limit.PATTERN: "A layer is fuller than the pattern that its budget asks for.",
    Limit.MAX_FLOAT_OPS: "More operations compute in floating point than its budget lets.",
    Limit.CHANNEL_MULTIPLE: "The channels of a layer are no multiple of what its budget asks for.",
    Limit.SPARSE_KERNELS: "Sparse kernels would not run.",
}


def _measures(record: FileAccount) -> Iterator[tuple[str, str, int]]:
    """(measure, unit, value) of what is the same at each run; of all of them less is better."""
    yield "install", "bytes", record.raw_bytes
    yield from ((f"download {codec}", "bytes", size) for codec, size in record.download_bytes.items())
    if record.parameters is not None:
        yield "parameters", "parameters", record.parameters
    if record.macs is not None:
        yield "macs", "MACs", record.macs


def benchmark_action(check: Check) -> str:
    """The tool `customSmallerIsBetter` of github-action-benchmark: a list of name, unit and value.

    It raises an alarm about any value, so that estimates of latency stand in the text of a file's first entry only.
    """
    entries = []
    for record in check.files:
        known = [item for item in record.estimates if item.total_ms is not None]
        times = "\n".join(f"{shown(item.device)}: {latency_text(item)}, estimated" for item in known)
        for number, (measure, unit, value) in enumerate(_measures(record)):
            entry = {"name": f"{shown(record.path)}: {measure}", "unit": unit, "value": value}
            entries.append({**entry, "extra": times} if times and not number else entry)
    return json.dumps(entries, indent=1) + "\n"


def bmf(check: Check) -> str:
    """The Bencher Metric Format: benchmark, measure, value. Estimates of latency, with their band, are a benchmark of
    their own, whose name tells Bencher to raise no alarm."""
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    for record in check.files:
        name = shown(record.path)[-_MOST_NAME + 100 :]
        benchmarks[name] = {_slug(measure): {"value": value} for measure, _, value in _measures(record)}
        for item in record.estimates:
            if item.total_ms is not None and item.low_ms is not None and item.high_ms is not None:
                told = {"value": item.total_ms, "lower_value": item.low_ms, "upper_value": item.high_ms}
                on = f"{name} on {shown(item.device)[:60]}{_NO_ALARM}"
                benchmarks[on] = {"latency-estimate-ms": told}
    return json.dumps(benchmarks, indent=1) + "\n"


def _slug(measure: str) -> str:
    """As Bencher writes the names of measures: "download-deflate-bytes"."""
    of_size = measure.startswith(("install", "download"))
    return measure.replace(" ", "-") + ("-bytes" if of_size else "")


def sarif(check: Check) -> str:
    """A log of SARIF 2.1.0 (OASIS): a result for each limit that is exceeded or cannot be checked. Of the optional
    properties it has those that GitHub's code scanning reads."""
    from importlib.metadata import version

    failed = [verdict for verdict in check.verdicts if not verdict.passed]
    kinds = sorted({verdict.kind for verdict in failed}, key=list(Limit).index)
    rules = [
        {"id": str(kind), "shortDescription": {"text": _RULES[kind]}, "help": {"text": _RULES[kind]}} for kind in kinds
    ]
    notes = [{"level": "note", "message": {"text": shown(note)}} for note in check.notes]
    run = {
        "tool": {"driver": {"name": "edgeprune", "version": version("edgeprune"), "rules": rules}},
        "invocations": [{"executionSuccessful": check.broken is None, "toolExecutionNotifications": notes}],
        "results": [_result(verdict, kinds.index(verdict.kind)) for verdict in failed],
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _result(verdict: Verdict, rule: int) -> dict[str, object]:
    """A limit that was not kept. The fingerprint stays the same while the number changes."""
    identity = f"{verdict.path}\0{limit_name(verdict)}"
    outer, inner = _split(verdict.path)
    location: dict[str, object] = {
        "physicalLocation": {"artifactLocation": _place(outer), "region": {"startLine": 1}},
    }
    if inner:
        location["logicalLocations"] = [{"fullyQualifiedName": shown(inner), "kind": "resource"}]
    return {
        "ruleId": str(verdict.kind),
        "ruleIndex": rule,
        "level": "error" if verdict.passed is False else "warning",
        "message": {"text": verdict_line(verdict)},
        "locations": [location],
        "partialFingerprints": {
            "edgepruneLimit/v1": hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()
        },
    }


def _split(path: str) -> tuple[str, str]:
    """The file on the disk, and the model in it where that is an app bundle."""
    found = re.match(rf"(.*?(?:{'|'.join(map(re.escape, BUNDLES))}))!(.*)", path, re.IGNORECASE | re.DOTALL)
    return (found[1], found[2]) if found else (path, "")


def _place(path: str) -> dict[str, object]:
    """A path as a URI: from the root of the sources where it is below the folder of the check."""
    plain = quote(os.fsencode(path) if path.isascii() else path.encode(errors="replace"))
    if PurePosixPath(path).is_absolute():
        return {"uri": f"file://{plain}"}
    return {"uri": plain, "uriBaseId": "%SRCROOT%"}

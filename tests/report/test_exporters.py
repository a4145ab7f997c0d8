"""A check for other tools: what their published formats ask for, and names that must break none of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from made_ledgers import estimate
from made_records import NASTY, record

from edgeprune.checker.check import Check
from edgeprune.report.check_report import FORMATS
from edgeprune.report.exporters import _RULES
from edgeprune.verdict import Limit, Unit, Unknown, Verdict

# https://bencher.dev/docs/reference/bencher-metric-format
BMF = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z0-9-]{1,64}$"},
        "additionalProperties": {
            "type": "object",
            "properties": {name: {"type": "number"} for name in ("value", "lower_value", "upper_value")},
            "required": ["value"],
            "additionalProperties": False,
        },
    },
    "propertyNames": {"maxLength": 1024},
}
# github.com/benchmark-action/github-action-benchmark, README: customSmallerIsBetter
ACTION = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
    },
}
TEXT = {"type": "object", "properties": {"text": {"type": "string", "minLength": 1}}, "required": ["text"]}
# SARIF 2.1.0 (OASIS), the parts that are used: 3.13 log, 3.14 run, 3.19 toolComponent, 3.27 result, 3.29 location
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "$schema": {"type": "string", "pattern": "^https://"},
        "runs": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/run"}},
    },
    "additionalProperties": False,
    "$defs": {
        "run": {
            "type": "object",
            "required": ["tool", "results"],
            "properties": {
                "tool": {
                    "type": "object",
                    "required": ["driver"],
                    "properties": {
                        "driver": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"type": "string"},
                                "version": {"type": "string"},
                                "rules": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/rule"}},
                            },
                            "additionalProperties": False,
                        }
                    },
                    "additionalProperties": False,
                },
                "invocations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["executionSuccessful"],
                        "properties": {
                            "executionSuccessful": {"type": "boolean"},
                            "toolExecutionNotifications": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["message"],
                                    "properties": {"level": {"enum": ["none", "note"]}, "message": TEXT},
                                    "additionalProperties": False,
                                },
                            },
                        },
                        "additionalProperties": False,
                    },
                },
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
            },
            "additionalProperties": False,
        },
        "rule": {
            "type": "object",
            "required": ["id"],
            "properties": {"id": {"type": "string"}, "shortDescription": TEXT, "help": TEXT},
            "additionalProperties": False,
        },
        "result": {
            "type": "object",
            "required": ["message", "ruleId", "locations", "partialFingerprints"],
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": 0},
                "level": {"enum": ["none", "note", "warning", "error"]},
                "message": TEXT,
                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
                "locations": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/location"}},
            },
            "additionalProperties": False,
        },
        "location": {
            "type": "object",
            "properties": {
                "physicalLocation": {
                    "type": "object",
                    "required": ["artifactLocation", "region"],
                    "properties": {
                        "artifactLocation": {
                            "type": "object",
                            "properties": {
                                # RFC 3986: no blank, no control character, nothing but ASCII, % as the start of a code
                                "uri": {
                                    "type": "string",
                                    "pattern": r"^([A-Za-z0-9._~:/?#@!$&'()*+,;=-]|%[0-9A-F]{2})+$",
                                },
                                "uriBaseId": {"const": "%SRCROOT%"},
                            },
                            "additionalProperties": False,
                        },
                        "region": {
                            "type": "object",
                            "properties": {"startLine": {"type": "integer", "minimum": 1}},
                            "additionalProperties": False,
                        },
                    },
                    "additionalProperties": False,
                },
                "logicalLocations": {"type": "array"},
            },
            "additionalProperties": False,
        },
    },
}
SCHEMAS = {"bmf": BMF, "benchmark-action": ACTION, "sarif": SARIF}


def verdict(path: str = "models/a.tflite", **more: Any) -> Verdict:
    """A download that is over its limit."""
    facts: dict[str, Any] = {"kind": Limit.DOWNLOAD, "actual": 1600, "limit": 1500, "unit": Unit.BYTES, "passed": False}
    return Verdict(path=path, **{**facts, "codec": "deflate", **more})


def check(*paths: str, verdicts: tuple[Verdict, ...] = (), notes: tuple[str, ...] = ()) -> Check:
    """A check of these files, each with an estimate for a phone and one that was refused."""
    refused = replace(
        estimate(device="other"), total_ms=None, low_ms=None, high_ms=None, relative=None, refused="not covered"
    )
    files = tuple(record(path, estimates=(estimate(device="phone"), refused)) for path in paths)
    return Check(
        files=files, verdicts=verdicts, before={}, baseline=None, config=None, codec="deflate", notes=notes, why={}
    )


def read(kind: str, made: Check) -> Any:
    """A report of that kind, held against its format."""
    body = json.loads(FORMATS[kind](made))
    jsonschema.validate(body, SCHEMAS[kind])
    return body


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize(
    "name", [NASTY, "a b/c.tflite", "/abs/m.tflite", "../up.tflite", "app.apk!assets/ü.tflite", "\udcff"]
)
def test_any_name_fits(kind: str, name: str) -> None:
    """Whatever a file is called, the format holds, and every text in it can be written as UTF-8."""
    made = check(name, verdicts=(verdict(name), verdict(name, passed=None, actual=None, unknown=Unknown.NOT_MEASURED)))
    read(kind, replace(made, notes=(name,)))
    json.loads(FORMATS[kind](made)).__repr__()
    json.dumps(json.loads(FORMATS[kind](made)), ensure_ascii=False).encode()


@pytest.mark.parametrize("kind", SCHEMAS)
def test_nothing_is_fine_too(kind: str) -> None:
    """No file, no verdict."""
    read(kind, check())


def test_bencher_gets_sizes_as_bytes_and_times_that_raise_no_alarm() -> None:
    """The end of a benchmark's name that Bencher reads as: no alarm."""
    body = read("bmf", check("m.tflite"))
    assert body["m.tflite"]["download-deflate-bytes"] == {"value": 1600}
    assert body["m.tflite"]["install-bytes"] == {"value": 5000}
    assert not any("latency" in measure for measure in body["m.tflite"])
    (other,) = set(body) - {"m.tflite"}
    assert other == "m.tflite on phone-bencher-ignore"
    assert set(body[other]["latency-estimate-ms"]) == {"value", "lower_value", "upper_value"}


def test_benchmark_action_gets_what_may_raise_an_alarm_only() -> None:
    """Bytes and counts are entries; the estimate is told beside them."""
    body = read("benchmark-action", check("m.tflite"))
    assert {"name": "m.tflite: download deflate", "unit": "bytes", "value": 1600} in body
    assert {entry["unit"] for entry in body} == {"bytes", "parameters", "MACs"}
    extra = [entry["extra"] for entry in body if "extra" in entry]
    assert len(extra) == 1
    assert extra[0].startswith("phone: ")
    assert "other" not in extra[0]


def test_sarif_has_what_was_not_kept() -> None:
    """An error for what is over, a warning for what cannot be checked; the number is not in the fingerprint."""
    over, kept = verdict(), verdict(limit=2000, passed=True)
    open_ = verdict(kind=Limit.PARAMETERS, codec=None, passed=None, actual=None, unknown=Unknown.NOT_COUNTED)
    (run,) = read("sarif", check("models/a.tflite", verdicts=(over, kept, open_), notes=("a note",)))["runs"]
    assert [(item["ruleId"], item["level"]) for item in run["results"]] == [
        ("download", "error"),
        ("parameters", "warning"),
    ]
    rules = run["tool"]["driver"]["rules"]
    assert [rules[item["ruleIndex"]]["id"] for item in run["results"]] == ["download", "parameters"]
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == "a note"
    (later,) = read("sarif", check(verdicts=(verdict(actual=1700),)))["runs"][0]["results"]
    assert later["partialFingerprints"] == run["results"][0]["partialFingerprints"]
    assert later["message"] != run["results"][0]["message"]


def test_sarif_points_at_the_file_on_the_disk() -> None:
    """Of a model in an app the app, with the model as the place in it."""
    inner = verdict("out/my app.apk!assets/m.tflite")
    (result,) = read("sarif", check(verdicts=(inner,)))["runs"][0]["results"]
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "out/my%20app.apk"
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "assets/m.tflite"


def test_every_limit_is_a_rule() -> None:
    """Each with a sentence of its own."""
    assert set(_RULES) == set(Limit)
    assert len(set(_RULES.values())) == len(Limit)

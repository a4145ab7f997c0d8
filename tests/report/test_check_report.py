"""A check in each format: whole outputs that somebody has read, and names that must break none of them."""

from __future__ import annotations

import importlib.resources
import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import NASTY, layer, record
from markdown_it import MarkdownIt
from places import TESTS

from edgeprune.checker.check import Check
from edgeprune.checker.size.records import FileAccount, InArchive
from edgeprune.report.cells import markdown_cell, markdown_text, shown
from edgeprune.report.check_report import FORMATS
from edgeprune.verdict import Limit, Unit, Unknown, Verdict

GOLDEN = TESTS / "golden"
SCHEMA = json.loads((importlib.resources.files("edgeprune") / "schemas" / "check.schema.json").read_text())
READER = MarkdownIt("commonmark", {"html": True}).enable("table")


def golden(name: str, text: str) -> None:
    """Hold a whole output against the file that somebody has read and found right."""
    assert text.rstrip("\n") == (GOLDEN / name).read_text().rstrip("\n")


def verdict(path: str = "models/a.tflite", **more: Any) -> Verdict:
    """A download limit that is kept."""
    facts = {"kind": Limit.DOWNLOAD, "actual": 1600, "limit": 2000, "unit": Unit.BYTES, "passed": True}
    kind = more.get("kind", Limit.DOWNLOAD)
    codec = "deflate" if kind in (Limit.DOWNLOAD, Limit.GROWTH) else None
    return Verdict(path=path, **{**facts, "codec": codec, **more})


def check(*files: FileAccount, **more: Any) -> Check:
    """A check of these files."""
    facts: dict[str, Any] = {
        "verdicts": (),
        "before": {},
        "baseline": None,
        "config": None,
        "codec": "deflate",
        "notes": (),
        "why": {},
    }
    return Check(files=files, **{**facts, **more})


@pytest.fixture
def release() -> Check:
    """Two models against budgets and a baseline: one grew beyond its limit, one could not be judged in full."""
    grown = (
        layer("stem", raw_bytes=1000, deflate_bytes=300),
        layer("head", raw_bytes=2500, deflate_bytes=900),
        layer("new|layer", raw_bytes=500, deflate_bytes=200, parameters=125, zeros=0),
    )
    before = (
        layer("stem", raw_bytes=1000, deflate_bytes=300),
        layer("head", raw_bytes=2000, deflate_bytes=700),
        layer("gone", raw_bytes=300, deflate_bytes=100, kind="ADD"),
    )
    first = record("models/a.tflite", layers=grown)
    second = record(
        "models/b.onnx",
        format="onnx",
        complete=False,
        note="sized only",
        parameters=None,
        weights=None,
        zeros=None,
        sparsity=None,
        macs=None,
        layers=(),
        sections={"other": 5000},
    )
    old = record("models/a.tflite", download_bytes={"deflate": 1200, "brotli": 1100}, raw_bytes=4200, layers=before)
    verdicts = (
        verdict(limit=1500, passed=False),
        verdict(kind=Limit.INSTALL, actual=5000, limit=6000),
        verdict(kind=Limit.GROWTH, actual=1 / 3, limit=0.02, unit=Unit.FRACTION, passed=False),
        verdict(kind=Limit.MIN_SPARSITY, actual=0.8, limit=0.9, unit=Unit.FRACTION, passed=False),
        verdict(kind=Limit.MAX_METRIC_DROP, actual=0.0123, limit=0.02, unit=Unit.METRIC, metric="accuracy"),
        verdict("models/b.onnx", codec="brotli", actual=1500, limit=1500),
        verdict(
            "models/b.onnx",
            kind=Limit.PARAMETERS,
            actual=None,
            limit=900,
            unit=Unit.PARAMETERS,
            passed=None,
            unknown=Unknown.NOT_COUNTED,
            detail="sized only",
        ),
    )
    return check(
        first,
        second,
        verdicts=verdicts,
        before={"models/a.tflite": old},
        baseline="main.json",
        config="edgeprune.toml",
        notes=("models/b.onnx is not in the baseline main.json: new, so its growth is not judged",),
        why={"models/a.tflite": ["Of 5.00 kB on disk: weights 4.00 kB (80 %)."]},
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("text", "release.txt"),
        ("json", "release.json"),
        ("markdown", "release.md"),
        ("junit", "release.xml"),
        ("github", "release.github.txt"),
    ],
)
def test_a_release_in_each_format(release: Check, name: str, file: str) -> None:
    """The whole output; the version of the tool is left out of the comparison."""
    text = re.sub(r'("version": )"[^"]*"', r'\1"0"', FORMATS[name](release))
    golden(f"check_{file}", text)


def test_over_beats_unknown_beats_passed() -> None:
    """One limit that is exceeded decides; else one that could not be checked."""
    good, bad, open_ = verdict(), verdict(passed=False), verdict(passed=None, actual=None)
    assert check(verdicts=(good, open_, bad)).passed is False
    assert check(verdicts=(good, open_)).passed is None
    assert check(verdicts=(good,)).passed is True


def test_nothing_checked_is_not_called_a_pass() -> None:
    """Without limits no format says that something is within budget."""
    made = check(record(), notes=("no limit was given, so nothing was checked",))
    assert "no limit was checked" in FORMATS["markdown"](made)
    assert json.loads(FORMATS["json"](made))["passed"] is None
    assert "note: no limit was given" in FORMATS["text"](made)
    assert "no model budget was checked" in FORMATS["github"](made)


def test_models_in_an_archive_say_how_they_stand_there() -> None:
    """Stored or deflated, and what the reader noticed."""
    place = InArchive(archive="a.apk", method="deflated", compressed_bytes=1700, notes=("not aligned",))
    text = FORMATS["text"](check(record("a.apk!m.tflite", in_archive=place)))
    assert "a.apk!m.tflite: deflated in the archive, 1.70 kB there\n  not aligned\n" in text


# --- the schema -----------------------------------------------------------------------------------------------------


def test_the_schema_is_one_and_the_output_follows_it(release: Check) -> None:
    """With layers, without, in an archive, and with names that no schema foresaw."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    place = InArchive(archive="a.apk", method="stored", compressed_bytes=5, notes=())
    for made in (
        release,
        hostile(),
        check(record(in_archive=place)),
        check(record(download_bytes={"deflate": 1, "zstd": 2})),
    ):
        jsonschema.validate(json.loads(FORMATS["json"](made)), SCHEMA, jsonschema.Draft202012Validator)


def test_the_schema_bites(release: Check) -> None:
    """An unknown key anywhere, and a missing one, are refused."""
    body = json.loads(FORMATS["json"](release))
    for place in (body, body["files"][0], body["files"][0]["layers"][0], body["verdicts"][0], body["tool"]):
        place["surprise"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, SCHEMA, jsonschema.Draft202012Validator)
        del place["surprise"]
        key = next(iter(place))
        value = place.pop(key)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, SCHEMA, jsonschema.Draft202012Validator)
        place[key] = value


def test_where_nothing_grew_what_shrank_most_is_shown() -> None:
    """A pull request that prunes: the largest saving first."""
    before = record(layers=(layer("a", raw_bytes=100), layer("b", raw_bytes=900)))
    after = record(layers=(layer("a", raw_bytes=90), layer("b", raw_bytes=300)))
    lines = FORMATS["text"](check(after, before={"m.tflite": before}, baseline="b.json")).splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("layers of m.tflite that shrank most"))
    assert [line.split()[0] for line in lines[place + 2 : place + 4]] == ["b", "a"]


# --- names that are attacks -----------------------------------------------------------------------------------------


def hostile(name: str = NASTY) -> Check:
    """The name as a path, a layer, a kind, a precision, a note, a reason: wherever a file or a user can put one."""
    bad = layer(name, kind=name, precision=name, group=name)
    made = record(name, layers=(bad,), note=name)
    old = record(name, layers=(layer(name, group=name, raw_bytes=10),))
    return check(
        made,
        verdicts=(
            verdict(name, passed=False),
            verdict(name, kind=Limit.INSTALL, passed=None, actual=None, unknown=Unknown.UNREAD, detail=name),
        ),
        before={name: old},
        baseline=name,
        config=name,
        notes=(f"{name} is new",),
        why={name: [f"The largest layers are {name} 5 kB."]},
    )


def cells(text: str) -> list[list[list[Any]]]:
    """Each table that a Markdown reader finds: rows of inline tokens."""
    tables: list[list[list[Any]]] = []
    for token in READER.parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and tables[-1] and token.level > 3:
            tables[-1][-1].append(token)
    return tables


def check_markdown(text: str, tables: int) -> None:
    """The tables are whole, and outside of code nothing is a link, a mention or a tag."""
    found = cells(text)
    assert len(found) == tables
    for table in found:
        assert len({len(row) for row in table}) == 1
        assert len(table) >= 2
    page = READER.render(text)
    outside = re.sub(r"<code>.*?</code>", "", page, flags=re.DOTALL)
    assert not re.search(r"@\w|#\d|https?://|www\.", outside)
    tags = {tag.lower() for tag in re.findall(r"<\s*/?\s*([a-zA-Z0-9!-]+)", outside)}
    assert tags <= {"h3", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "p", "!--"}
    assert "<b>" not in page


def test_hostile_names_in_markdown() -> None:
    """Three tables would be four, a mention would call somebody: none of it."""
    check_markdown(FORMATS["markdown"](hostile()), tables=2)


@given(name=st.text(st.sampled_from("a|`\\<>&@#*_[]()!~\n\r\t \u2028\x1b:%-+.1/w"), min_size=1, max_size=12))
def test_any_name_in_markdown(name: str) -> None:
    """Whatever the characters: the name is one cell, and reads as it is."""
    row = f"| {markdown_cell(name)} | b |"
    (table,) = cells(f"| x | y |\n|---|---|\n{row}\n")
    assert [len(line) for line in table] == [2, 2]
    parts = [child for child in table[1][0].children if child.type != "html_inline"]
    assert "".join(part.content for part in parts) == shown(name)
    check_markdown(f"- {markdown_text(name + '@octocat #12 www.a.b http://c.d')}\n", tables=0)


def test_hostile_names_in_junit() -> None:
    """A reader finds both cases with the name on one line."""
    root = ElementTree.fromstring(FORMATS["junit"](hostile()))
    cases = root.findall("./testsuite/testcase")
    assert [case.get("classname") for case in cases] == [shown(NASTY)] * 2
    assert [[child.tag for child in case] for case in cases] == [["failure"], ["error"]]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "1", "1")


def test_hostile_names_in_annotations() -> None:
    """Each line is one command; the file's property has no end before its end."""
    lines = FORMATS["github"](hostile()).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::notice", "::notice"]
    for line in lines[:2]:
        properties, _, message = line.removeprefix("::error ").partition("::")
        assert re.fullmatch(r"file=[^,:]*,title=[^,:]*", properties)
        assert "%0A" not in properties.replace("%250A", "")
        assert message.startswith("a|b`c\\n::error::d")


def test_hostile_names_in_text() -> None:
    """No line of the table begins in the middle of a name, and no escape code reaches a terminal."""
    text = FORMATS["text"](hostile())
    assert text.isascii() or text.replace("\n", "").isprintable()
    assert not any(line.startswith("::") for line in text.splitlines())
    text.encode()


def test_hostile_names_in_json() -> None:
    """They come back as they are."""
    body = json.loads(FORMATS["json"](hostile()))
    assert body["files"][0]["path"] == NASTY
    FORMATS["json"](hostile()).encode()


def test_a_name_of_a_megabyte_does_not_fill_the_tables() -> None:
    """A forged layer's name is cut in its middle; a path is not."""
    layers = tuple(layer("n" * 1_000_000 + str(n), raw_bytes=n) for n in range(20))
    before = {"m.tflite": record(layers=tuple(layer("n" * 1_000_000 + str(n), raw_bytes=0) for n in range(20)))}
    made = check(record(layers=layers), before=before, baseline="b.json")
    for name in ("text", "markdown"):
        assert len(FORMATS[name](made)) < 20_000
        assert "n...n" in FORMATS[name](made)

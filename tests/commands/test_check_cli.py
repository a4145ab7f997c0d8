"""`edgeprune check`: exit codes, configurations, baselines, what is told when nothing can be checked, hostile files."""

from __future__ import annotations

import importlib.resources
import json
import os
import random
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_records import NASTY, record
from places import TESTS

from edgeprune.checker.size.records import FileAccount

FILES = TESTS / "files"
GOLDEN = TESTS / "golden"
SCHEMA = json.loads((importlib.resources.files("edgeprune") / "schemas" / "check.schema.json").read_text())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with models/int8.tflite and models/half.mlpackage, as the current folder."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "models").mkdir()
    shutil.copy(FILES / "int8.tflite", tmp_path / "models")
    shutil.copytree(FILES / "half.mlpackage", tmp_path / "models/half.mlpackage")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def budgets(folder: Path, *tables: str) -> None:
    """Write edgeprune.toml."""
    (folder / "edgeprune.toml").write_text("\n".join(f"[[budget]]\n{table}\n" for table in tables))


TIGHT = 'path = "models/*.tflite"\ndownload = "1 kB"'
WIDE = 'path = "models/*"\ndownload = "1 MB"\ninstall = "1 MB"'


class TestMadeUp:
    """Whole outputs on made-up bytes, as codec sizes differ between versions of their libraries."""

    @pytest.fixture(autouse=True)
    def sizes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every file has 1,048,576 bytes; of a .onnx nothing else is known."""

        def found(path: Path, codecs: Any, **_: Any) -> Any:
            unknown: dict[str, Any] = {
                "parameters": None,
                "weights": None,
                "zeros": None,
                "sparsity": None,
                "macs": None,
            }
            made: FileAccount = record(
                str(path),
                format=path.suffix[1:],
                raw_bytes=1_048_576,
                download_bytes={"deflate": 267_431, "brotli": 251_000, "zstd": 262_144, "xz": 240_000},
                sections={"weights": 1_000_000, "graph": 48_576},
                **(unknown | {"complete": False, "note": "sized only", "layers": ()} if path.suffix == ".onnx" else {}),
            )
            source = type("Source", (), {"record": made, "contents": None, "file": path})
            return type("Sources", (), {"models": (source,), "refused": (), "notes": (), "error": None})

        monkeypatch.setattr("edgeprune.checker.check.sources_of", found)

    def test_table(self, call: Any) -> None:
        """A row for each file; what is over the limit is said with how much."""
        outcome = call("check", "int8.tflite", "b.tflite", "m.onnx", "--download", "250 KiB")
        assert (outcome.code, outcome.err) == (1, "")
        assert outcome.out == (GOLDEN / "check.txt").read_text()

    def test_json(self, call: Any) -> None:
        """The same facts for programs."""
        outcome = call("check", "int8.tflite", "m.onnx", "--download", "260 kB", "--codec", "brotli", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        body = json.loads(outcome.out)
        body["tool"]["version"] = "0"
        assert body == json.loads((GOLDEN / "check.json").read_text())

    @pytest.mark.parametrize(
        ("limit", "codec", "code"),
        [
            ("267431 B", "deflate", 0),
            ("267430 B", "deflate", 1),
            ("251 kB", "brotli", 0),
            ("262143 B", "zstd", 1),
            ("240 kB", "xz", 0),
            ("239999 B", "xz", 1),
        ],
    )
    def test_limit(self, call: Any, limit: str, codec: str, code: int) -> None:
        """A download as large as the limit passes, a byte more does not, codec by codec."""
        assert call("check", "int8.tflite", "--download", limit, "--codec", codec).code == code


# --- exit codes -----------------------------------------------------------------------------------------------------


def test_budgets_kept_and_exceeded(call: Any, here: Path) -> None:
    """0 and 1, for the files of the configuration; a limit at the command line counts beside it."""
    budgets(here, WIDE)
    outcome = call("check")
    assert outcome.code == 0
    assert outcome.out.count(": ok") == 4
    assert call("check", "--download", "2 kB").code == 1
    budgets(here, WIDE, TIGHT)
    outcome = call("check")
    assert outcome.code == 1
    assert "models/int8.tflite: download (deflate) 1.9" in outcome.out
    assert "OVER by" in outcome.out


def test_from_a_folder_below(call: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration above is found, and its globs count from where it is."""
    budgets(here, WIDE)
    monkeypatch.chdir(here / "models")
    body = json.loads(call("check", "--json").out)
    assert sorted(item["path"] for item in body["files"]) == ["half.mlpackage", "int8.tflite"]
    assert call("check", "int8.tflite").code == 0


def test_a_link_keeps_its_own_name(call: Any, here: Path) -> None:
    """models/latest.tflite is reported as such, not as what it points to."""
    (here / "models/latest.tflite").symlink_to("int8.tflite")
    budgets(here, 'path = "models/latest.tflite"\ninstall = "1 MB"')
    assert "models/latest.tflite: install" in call("check").out


def test_what_cannot_be_measured_is_3(call: Any, here: Path) -> None:
    """A count of a format that is only sized, even where other limits are kept; a limit that is exceeded decides."""
    (here / "models/m.blob").write_bytes(b"x" * 500)
    budgets(here, 'path = "models/m.blob"\ninstall = "1 kB"\nparameters = 10')
    outcome = call("check")
    assert outcome.code == 3
    assert "CANNOT BE CHECKED (sized only" in outcome.out
    budgets(here, 'path = "models/m.blob"\ninstall = "100 B"\nparameters = 10')
    assert call("check").code == 1


@pytest.mark.parametrize("verb", ["check", "inspect", "compare"])
def test_a_missing_file_is_4(call: Any, here: Path, verb: str) -> None:
    """With a configuration too, which has no budget for it."""
    budgets(here, WIDE)
    names = ["models/none.tflite"] * (2 if verb == "compare" else 1)
    call(verb, *names).error(4, "models/none.tflite does not exist")


def test_a_glob_that_matches_nothing_is_2(call: Any, here: Path) -> None:
    """A renamed model must not make its budget pass."""
    budgets(here, WIDE, 'path = "models/renamed.tflite"\ndownload = "1 MB"')
    call("check").error(2, "'models/renamed.tflite' matches no file")


def test_a_file_without_a_budget(call: Any, here: Path) -> None:
    """None at all is an error; one beside others is told."""
    shutil.copy(FILES / "int8.tflite", here / "other.tflite")
    budgets(here, WIDE)
    call("check", "other.tflite").error(2, "no budget is for other.tflite")
    outcome = call("check", "models/int8.tflite", "other.tflite")
    assert outcome.code == 0
    assert "note: no budget is for other.tflite, so it was not checked" in outcome.out


def test_without_a_configuration_one_is_printed(call: Any, here: Path) -> None:
    """It fits the models that lie there, strange names included, and passes when it is saved; exit code 2."""
    shutil.copy(FILES / "float32.tflite", here / 'a"[1].tflite')
    outcome = call("check")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "edgeprune: no files and no edgeprune.toml; name model files, or save the lines above as edgeprune.toml, as "
        "edgeprune init does"
    ]
    (here / "edgeprune.toml").write_text(outcome.out)
    kept = call("check", "--json")
    paths = [item["path"] for item in json.loads(kept.out)["files"]]
    assert (kept.code, sorted(paths)) == (0, ['a"[1].tflite', "models/half.mlpackage", "models/int8.tflite"])


def test_where_there_is_no_model_an_example_is_printed(call: Any, here: Path) -> None:
    """Something to paste and change."""
    shutil.rmtree(here / "models")
    assert '[[budget]]\npath = "models/*.tflite"\ndownload = "350 kB"' in call("check").out


@pytest.mark.parametrize("name", ["junit", "github"])
def test_an_empty_report_for_machines_is_refused(call: Any, here: Path, name: str) -> None:
    """A report without a single limit would pass for a good one."""
    call("check", "models/int8.tflite", "--format", name).error(2, "nothing would be checked")


def test_a_check_that_checked_nothing_is_no_pass(call: Any, here: Path) -> None:
    """The table is shown, and the exit code is 2; --show is for a look, and takes no limits."""
    outcome = call("check", "models/int8.tflite", "--fast")
    assert outcome.code == 2
    assert outcome.out.startswith("file ")
    assert outcome.err.startswith("edgeprune: no limit was given, so nothing was checked: add --download SIZE")
    outcome = call("check", "models/int8.tflite", "--fast", "--show")
    assert (outcome.code, outcome.err) == (0, "")
    budgets(here, WIDE)
    assert call("check", "models/int8.tflite", "--fast", "--show").code == 0
    call("check", "models/int8.tflite", "--show", "--download", "1 MB").error(2, "--show only shows")
    call("check", "--show").error(2, "--show only shows")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--download", "350"], 2, "write a number and a unit"),
        (["--growth", "2 %"], 2, "add --baseline FILE"),
        (["--download", "1 MB", "--codec", "brotli", "--fast"], 2, "drop --fast"),
        (["--json", "--format", "text"], 2, "contradict each other"),
        (["--config", "none.toml"], 4, "does not exist"),
        (["--baseline", "none.json"], 4, "does not exist"),
        (["--baseline", "models/none.tflite"], 4, "does not exist"),
        (["--download", "1 MB", "-o", "none/report.md"], 3, "cannot be written"),
    ],
)
def test_wrong_options(call: Any, here: Path, arguments: list[str], code: int, word: str) -> None:
    """One line each."""
    outcome = call("check", "models/int8.tflite", *arguments)
    assert (outcome.code, word in outcome.err, outcome.out) == (code, True, "")


# --- baselines ------------------------------------------------------------------------------------------------------


def test_growth_against_an_earlier_report(call: Any, here: Path) -> None:
    """What main printed is kept as JSON; a larger model then breaks a limit of 2 %, and says which layer grew."""
    budgets(here, 'path = "models/*.tflite"\ngrowth = "2 %"')
    (here / "main.json").write_text(call("check", "models/int8.tflite", "--json", "--download", "1 MB").out)
    assert call("check", "--baseline", "main.json").code == 0
    shutil.copy(FILES / "float32.tflite", here / "models/int8.tflite")
    outcome = call("check", "--baseline", "main.json", "--format", "markdown")
    assert outcome.code == 1
    assert "| growth of download (deflate) | - | 35" in outcome.out
    assert "that grew most" in outcome.out
    outcome = call("check")
    assert outcome.code == 3
    assert "growth of download (deflate) unknown, limit 2.00 %: CANNOT BE CHECKED" in outcome.out
    assert "note: growth was not judged: add --baseline" in outcome.out
    budgets(here, 'path = "models/*.tflite"\ngrowth = "2 %"\ndownload = "1 MB"')
    assert call("check").code == 0  # how a baseline is made, with the same configuration


def test_a_model_that_is_gone(call: Any, here: Path) -> None:
    """A renamed model is new, and its old name is told; not when only some files are named."""
    budgets(here, 'path = "models/*.tflite"\ngrowth = "2 %"\ndownload = "1 MB"')
    (here / "main.json").write_text(call("check", "--json", "--fast").out)
    (here / "models/int8.tflite").rename(here / "models/small.tflite")
    outcome = call("check", "--fast", "--baseline", "main.json")
    assert "note: models/int8.tflite of the baseline main.json is no longer there: removed, or renamed" in outcome.out
    outcome = call("check", "models/small.tflite", "--fast", "--baseline", "main.json")
    assert "no longer there" not in outcome.out


def test_growth_of_a_new_file_is_no_pass(call: Any, here: Path) -> None:
    """With growth as its only limit it cannot be checked: 3; with another limit that one decides, and it is told."""
    (here / "main.json").write_text('{"files": []}')
    budgets(here, 'path = "models/*.tflite"\ngrowth = "2 %"')
    outcome = call("check", "--baseline", "main.json")
    assert outcome.code == 3
    assert "limit 2.00 %: CANNOT BE CHECKED (it is in no baseline" in outcome.out
    budgets(here, 'path = "models/*.tflite"\ngrowth = "2 %"\ninstall = "1 MB"')
    outcome = call("check", "--baseline", "main.json")
    assert outcome.code == 0
    assert "new, so its growth is not judged" in outcome.out


# --- formats --------------------------------------------------------------------------------------------------------


def test_json_follows_the_schema(call: Any, here: Path) -> None:
    """Of real files, with a baseline and reasons; --fast measures two codecs."""
    budgets(here, WIDE)
    for more in ([], ["--fast"], ["--why"], ["--baseline", FILES]):
        outcome = call("check", "--json", *more)
        body = json.loads(outcome.out)
        jsonschema.validate(body, SCHEMA, jsonschema.Draft202012Validator)
        assert outcome.err == ""
        codecs = ["deflate", "zstd12"] if more == ["--fast"] else ["deflate", "brotli", "zstd", "xz"]
        assert all(list(item["download_bytes"]) == codecs for item in body["files"])


def test_a_report_in_a_file(call: Any, here: Path) -> None:
    """The table still goes to the log."""
    outcome = call("check", "models/int8.tflite", "--download", "1 kB", "--format", "junit", "-o", "report.xml")
    assert outcome.code == 1
    assert outcome.out.startswith("file ")
    assert ElementTree.parse(here / "report.xml").getroot().get("failures") == "1"


@pytest.mark.parametrize("victim", ["models/int8.tflite", "main.tflite", "edgeprune.toml"])
def test_a_report_replaces_nothing_that_is_read(call: Any, here: Path, victim: str) -> None:
    """A report under the name of the model, the baseline or the configuration is refused, and the file stays."""
    budgets(here, WIDE)
    shutil.copy(FILES / "int8.tflite", here / "main.tflite")
    before = (here / victim).read_bytes()
    call("check", "--baseline", "main.tflite", "models/int8.tflite", "-o", here / victim).error(2, "would replace")
    assert (here / victim).read_bytes() == before


def test_why(call: Any, here: Path) -> None:
    """Reasons in words behind the table."""
    outcome = call("check", "models/int8.tflite", "--why")
    assert "why, models/int8.tflite:\n- Of 5.16 kB on disk:" in outcome.out


# --- hostile files --------------------------------------------------------------------------------------------------


def lines_of(outcome: Any) -> list[str]:
    """stderr, which is one line at most and never tells of a defect."""
    assert "defect" not in outcome.err
    assert "Traceback" not in outcome.err
    lines: list[str] = outcome.err.splitlines()
    assert len(lines) <= 1
    return lines


@pytest.mark.parametrize("verb", [["check", "--show"], ["inspect"], ["compare", FILES / "int8.tflite"]])
@pytest.mark.parametrize("name", ["int8.tflite", "float32_sparse.tflite"])
def test_damaged_files(call: Any, tmp_path: Path, verb: list[object], name: str) -> None:
    """Cut at every sixteenth, a byte flipped at 30 places: an account, or one line and 3 or 4."""
    content, path, rng = (FILES / name).read_bytes(), tmp_path / "m.tflite", random.Random(14)
    damaged = [content[: len(content) * part // 16] for part in range(16)]
    for place in rng.sample(range(len(content)), 30):
        damaged.append(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
    more = ["--fast"] if verb[0] == "check" else []
    for number, bad in enumerate(damaged):
        path.write_bytes(bad)
        outcome = call(*verb, path, *more)
        assert outcome.code in ((4,) if number < 16 else (0, 3, 4))
        assert len(lines_of(outcome)) == (outcome.code != 0)


@pytest.mark.parametrize("verb", ["check", "inspect"])
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: path.touch(), "0 bytes"),
        (lambda path: path.mkdir(), ""),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
        (lambda path: os.mkfifo(path), "neither a file nor a folder"),
    ],
)
@pytest.mark.parametrize("suffix", [".tflite", ".mlpackage", ".mlmodel", ".bin"])
def test_what_is_no_model(
    call: Any, tmp_path: Path, make: Callable[[Path], Any], word: str, suffix: str, verb: str
) -> None:
    """Exit code 4 for each format."""
    path = tmp_path / f"m{suffix}"
    make(path)
    call(verb, path).error(4, word)


@pytest.mark.parametrize("name", ["text", "json", "markdown", "junit", "github"])
def test_a_file_with_a_hostile_name(call: Any, here: Path, name: str) -> None:
    """As far as a file system takes it, in each format."""
    nasty = NASTY.replace("/", "_").replace("\ud800", "\udc80") + ".tflite"
    shutil.copy(FILES / "int8.tflite", here / nasty)
    outcome = call(
        "check", nasty, "--download", "1 kB", "--format", name, "--why", "--fast", "--baseline", FILES / "int8.tflite"
    )
    assert outcome.code == 1
    lines_of(outcome)
    budgets(here, f"path = {json.dumps('a*c*')}\ndownload = '1 kB'")
    assert call("check", "--format", name).code == 1


def test_a_terminal_that_lacks_a_letter(here: Path) -> None:
    """A Latin-1 stdout gets an escape, not a crash."""
    shutil.copy(FILES / "int8.tflite", here / "模型.tflite")
    command = [sys.executable, "-P", "-m", "edgeprune", "check", "模型.tflite", "--fast", "--show"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u6a21\\u578b.tflite" in done.stdout


def test_reasons_are_asked_for_once(call: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --why nothing is worked out for it."""
    asked: list[FileAccount] = []
    monkeypatch.setattr("edgeprune.checker.check.reasons", lambda _, account: asked.append(account) or [])
    call("check", "models/int8.tflite", "--fast")
    assert asked == []
    call("check", "models/int8.tflite", "--fast", "--why")
    assert len(asked) == 1


# --- app bundles ----------------------------------------------------------------------------------------------------


def apk(path: Path, **models: bytes) -> Path:
    """An .apk with these files under assets."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in models.items():
            archive.writestr(f"assets/{name}.tflite", content)
    return path


def test_a_broken_model_in_a_bundle(call: Any, here: Path) -> None:
    """It is named by its place in the bundle, the other model is judged, and that is no pass."""
    good = (FILES / "int8.tflite").read_bytes()
    apk(here / "app.apk", bad=good[:3000], good=good)
    outcome = call("check", "app.apk", "--fast", "--download", "1 MB")
    assert (outcome.code, outcome.err) == (3, "")
    assert "app.apk!assets/good.tflite: download (deflate) 1.93 kB, limit 1.00 MB: ok" in outcome.out
    assert (
        "app.apk!assets/bad.tflite: download (deflate) unknown, limit 1.00 MB: CANNOT BE CHECKED (not read: assets/bad"
        in outcome.out
    )
    assert "edgeprune-bundle" not in outcome.out
    assert outcome.out.count("broken TFLite file") == 1


def test_a_bundle_without_a_sound_model(call: Any, here: Path) -> None:
    """A limit was given, so nobody is told to give one."""
    apk(here / "app.apk", bad=(FILES / "int8.tflite").read_bytes()[:3000])
    outcome = call("check", "app.apk", "--fast", "--download", "1 MB")
    assert (outcome.code, outcome.err) == (3, "")
    assert "no limit" not in outcome.out


def test_a_folder_is_no_model(call: Any, here: Path) -> None:
    """A folder of models is not one of them."""
    call("check", "models", "--download", "3 MB").error(4, "name the models in it")


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable for root")
def test_a_file_that_may_not_be_read(call: Any, here: Path) -> None:
    """Exit code 4, as for any input that is unreadable."""
    (here / "models/int8.tflite").chmod(0)
    call("check", "models/int8.tflite", "--download", "3 MB").error(4, "cannot be read")


def test_a_quick_look_beside_a_whole_one(call: Any, here: Path) -> None:
    """A quick look has no shares of the download; a layer that did not change is not told to have shrunk."""
    budgets(here, WIDE)
    (here / "main.json").write_text(call("check", "--json").out)
    outcome = call("check", "--fast", "--baseline", "main.json")
    assert outcome.code == 0
    assert "layers of" not in outcome.out
    layers = json.loads(call("check", "--fast", "--json").out)["files"][0]["layers"]
    assert {layer["deflate_bytes"] for layer in layers if layer["raw_bytes"]} == {None}


def test_the_title_says_where_no_size_changed(call: Any, here: Path) -> None:
    """What an action reads: with a baseline of every file, alike layer by layer, and none of them gone."""
    budgets(here, WIDE)
    shutil.copytree(here / "models", here / "old/models")

    def title(*more: str) -> str:
        text: str = call("check", "--fast", "--format", "markdown", *more).out
        return text.splitlines()[0]

    assert title() == "### edgeprune: within budget"
    assert title("--baseline", "old") == "### edgeprune: within budget, no size changed"
    call("check", "--fast", "--json", "-o", "old.json")
    assert title("--baseline", "old.json").endswith(", no size changed")
    shutil.copy(FILES / "float32.tflite", here / "models/int8.tflite")
    assert title("--baseline", "old") == "### edgeprune: within budget"
    (here / "models/int8.tflite").unlink()
    assert title("--baseline", "old.json") == "### edgeprune: within budget"  # one is gone

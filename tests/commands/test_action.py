"""The GitHub Action and the pre-commit hook: their shape, and the action's script under bash with stand-ins."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

SCRIPT, COMMENT = ROOT / ".github" / "check.sh", ROOT / ".github" / "comment.sh"
STAND_IN = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path({folder!r})
name = pathlib.Path(sys.argv[0]).name
with (folder / f"{{name}}.jsonl").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
plan = json.loads((folder / "plan.json").read_text())
if name == "edgeprune":
    if plan["report"]:
        pathlib.Path(sys.argv[sys.argv.index("--output") + 1]).write_text(plan["report"])
    print("a line of output")
    print(plan["stderr"], file=sys.stderr)
    sys.exit(plan["code"])
body = [word.removeprefix("body=@") for word in sys.argv if word.startswith("body=@")]
if body:
    (folder / "body.md").write_bytes(pathlib.Path(body[0]).read_bytes())
else:
    print(plan["comments"])
sys.exit(plan["gh"])
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run of the script left behind."""

    code: int
    out: str
    summary: str
    outputs: dict[str, str]
    checks: list[list[str]]
    calls: list[list[str]]
    body: str


Runner = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Run the script in a folder of its own with `edgeprune` and `gh` replaced by stand-ins that take notes."""
    stand_ins, work = tmp_path / "stand-ins", tmp_path / "work"
    for folder in (stand_ins, work, tmp_path / "temporary"):
        folder.mkdir()
    for name in ("edgeprune", "gh"):
        (stand_ins / name).write_text(STAND_IN.format(python=sys.executable, folder=str(stand_ins)))
        (stand_ins / name).chmod(0o755)

    def lines(name: str) -> list[list[str]]:
        log = stand_ins / f"{name}.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def start(
        *,
        script: Path = SCRIPT,
        code: int = 0,
        report: str = "| a | b |\n",
        stderr: str = "",
        comments: str = "",
        gh: int = 0,
        **given: str,
    ) -> Result:
        plan = {"code": code, "report": report, "stderr": stderr, "comments": comments, "gh": gh}
        (stand_ins / "plan.json").write_text(json.dumps(plan))
        for name in ("summary", "output"):
            (tmp_path / name).write_text("")
        environment = {
            "PATH": f"{stand_ins}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(tmp_path / "temporary"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "GITHUB_REPOSITORY": "owner/app",
            "GITHUB_WORKFLOW": "ci",
            "GITHUB_JOB": "sizes",
            "PULL_REQUEST": "17",
            **given,
        }
        done = subprocess.run(
            ["bash", str(script)], env=environment, cwd=work, capture_output=True, text=True, timeout=60, check=False
        )
        pairs = [line.partition("=") for line in (tmp_path / "output").read_text().splitlines()]
        body = stand_ins / "body.md"
        return Result(
            code=done.returncode,
            out=done.stdout + done.stderr,
            summary=(tmp_path / "summary").read_text(),
            outputs={name: value for name, _, value in pairs},
            checks=lines("edgeprune"),
            calls=lines("gh"),
            body=body.read_text() if body.exists() else "",
        )

    return start


def commands(out: str) -> list[str]:
    """The commands that the runner would find in a log: not those between stop-commands and its token."""
    found, token = [], ""
    for line in out.splitlines():
        if token:
            token = "" if line == f"::{token}::" else token
        elif line.startswith("::stop-commands::"):
            token = line.removeprefix("::stop-commands::")
        elif line.startswith("::"):
            found.append(line)
    assert token == ""
    return found


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_the_exit_code_is_kept(run: Runner, code: int) -> None:
    """Whatever the check ends with, the step ends with, also when it comments."""
    for comment in ("false", "true"):
        result = run(code=code, stderr="edgeprune: why", INPUT_COMMENT=comment)
        assert (result.code, result.outputs["exit-code"]) == (code, str(code))
        assert bool(commands(result.out)) is (code > 0)


def test_no_inputs(run: Runner) -> None:
    """Without inputs: the check without files, its Markdown in the summary, no comment."""
    result = run()
    (check,) = result.checks
    assert check[:4] == ["check", "--format", "markdown", "--output"]
    assert check[5:] == ["--"]
    assert result.summary == "| a | b |\n"
    assert Path(result.outputs["report"]).read_text() == "| a | b |\n"
    assert (result.calls, commands(result.out)) == ([], [])


def test_files_and_options(run: Runner, tmp_path: Path) -> None:
    """Paths and patterns, one a line, with blanks and brackets in names; configuration and baseline are handed on."""
    work = tmp_path / "work" / "sub folder"
    for name in ("a b.tflite", "deep/er/c.tflite", "odd[1].tflite", "-x.tflite"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).touch()
    result = run(
        INPUT_WORKING_DIRECTORY="sub folder",
        INPUT_FILES="  a b.tflite\r\n\n**/c.tflite\nodd[1].tflite\n-x.tflite\nmissing.tflite\na *.tflite",
        INPUT_CONFIG="b u.toml",
        INPUT_BASELINE="ledger.json",
    )
    assert result.checks[0][5:] == [
        "--config",
        "b u.toml",
        "--baseline",
        "ledger.json",
        "--",
        "a b.tflite",
        "deep/er/c.tflite",
        "odd[1].tflite",
        "-x.tflite",
        "missing.tflite",
        "a b.tflite",
    ]


def test_a_pattern_without_a_match(run: Runner) -> None:
    """A pattern that matches nothing is a missing input, not a check of nothing."""
    result = run(INPUT_FILES="app/*.tflite")
    assert (result.code, result.checks) == (4, [])
    assert commands(result.out) == ["::error title=edgeprune::no file matches app/*.tflite"]


def test_a_missing_folder(run: Runner) -> None:
    """A working directory that is not there is a wrong use."""
    result = run(INPUT_WORKING_DIRECTORY="nowhere")
    assert (result.code, result.checks) == (2, [])


@pytest.mark.parametrize("name", ["INPUT_FILES", "INPUT_CONFIG", "INPUT_BASELINE", "INPUT_WORKING_DIRECTORY"])
@pytest.mark.parametrize("text", ["$(touch hacked)", "`touch hacked`", "x; touch hacked", '"; touch hacked #', "$HOME"])
def test_inputs_are_no_code(run: Runner, tmp_path: Path, name: str, text: str) -> None:
    """Shell text in an input stays text."""
    if name == "INPUT_WORKING_DIRECTORY":
        (tmp_path / "work" / text).mkdir()
    result = run(INPUT_COMMENT="true", **{name: text})
    assert not list(tmp_path.rglob("hacked"))
    assert result.code == 0
    if name != "INPUT_WORKING_DIRECTORY":
        assert text in result.checks[0]


def test_output_is_no_command(run: Runner) -> None:
    """Names in the check's output cannot speak to the runner, nor can they in the one error message."""
    evil = "edgeprune: a\n::set-env name=X::1\n::error::100% of a\r::warning::b"
    result = run(code=3, report="", stderr=evil)
    assert commands(result.out) == ["::error title=edgeprune::::error::100%25 of a%0D::warning::b (exit code 3)"]
    assert "    ::set-env name=X::1" in result.summary


def test_a_check_that_wrote_no_report(run: Runner) -> None:
    """Then the summary and the comment say what it said."""
    result = run(code=4, report="", stderr="edgeprune: m.tflite does not exist", INPUT_COMMENT="true")
    assert "exit code 4" in result.summary
    assert "    edgeprune: m.tflite does not exist" in result.summary
    assert "does not exist" in result.body


def test_a_new_comment(run: Runner) -> None:
    """The first run posts one comment, whose first line marks it."""
    result = run(INPUT_COMMENT="true")
    listing, post = result.calls
    assert listing[:3] == ["api", "--paginate", "repos/owner/app/issues/17/comments"]
    assert post[:5] == ["api", "--silent", "--method", "POST", "repos/owner/app/issues/17/comments"]
    marker, rest = result.body.split("\n", 1)
    assert re.fullmatch(r"<!-- edgeprune-check \d+ -->", marker)
    assert rest == "| a | b |\n"
    assert marker in listing[-1]
    assert "github-actions[bot]" in listing[-1]


def test_a_comment_is_updated(run: Runner) -> None:
    """A later run changes the comment that is there; another job has a mark of its own."""
    result = run(INPUT_COMMENT="true", comments="501\n502")
    assert result.calls[1][:5] == ["api", "--silent", "--method", "PATCH", "repos/owner/app/issues/comments/501"]
    first = result.body.splitlines()[0]
    assert run(INPUT_COMMENT="true").body.splitlines()[0] == first
    assert run(INPUT_COMMENT="true", GITHUB_JOB="other").body.splitlines()[0] != first


CHANGED, SAME = "### edgeprune: within budget\n", "### edgeprune: within budget, no size changed\n"


@pytest.mark.parametrize(
    ("mode", "report", "code", "posted"),
    [
        ("always", SAME, 0, True),
        ("true", SAME, 0, True),
        ("on-change", SAME, 0, False),
        ("on-change", CHANGED, 0, True),
        ("on-change", SAME, 1, True),
        ("on-change", "### edgeprune: within budget\n, no size changed", 0, True),  # told by a name further down
        ("on-failure", CHANGED, 0, False),
        ("on-failure", SAME, 3, True),
        ("never", CHANGED, 1, False),
        ("false", CHANGED, 1, False),
    ],
)
def test_when_there_is_a_comment(run: Runner, mode: str, report: str, code: int, posted: bool) -> None:
    """Only what is worth it in that mode begins a new one."""
    result = run(INPUT_COMMENT=mode, report=report, code=code)
    assert result.code == code
    assert any("POST" in call for call in result.calls) is posted


@pytest.mark.parametrize("mode", ["on-change", "on-failure"])
def test_an_old_comment_does_not_stay_wrong(run: Runner, mode: str) -> None:
    """What was over budget and is no longer is told where it was told."""
    result = run(INPUT_COMMENT=mode, report=SAME, comments="501")
    assert result.calls[1][:5] == ["api", "--silent", "--method", "PATCH", "repos/owner/app/issues/comments/501"]


def test_another_word_for_when(run: Runner) -> None:
    """Is a wrong use, before any work."""
    result = run(INPUT_COMMENT="sometimes")
    assert (result.code, result.checks) == (2, [])


def test_a_history_is_handed_on(run: Runner) -> None:
    """As an option of the check."""
    (check,) = run(INPUT_HISTORY="sizes.jsonl").checks
    assert check[check.index("--history") + 1] == "sizes.jsonl"


HEAD = "a" * 40


def test_a_fork_gets_its_comment_by_another_workflow(run: Runner) -> None:
    """The check posts nothing and leaves a folder; the second workflow posts it and mentions nobody."""
    report = "### edgeprune: OVER BUDGET\n\n- @octocat\n"
    first = run(
        INPUT_COMMENT="on-change",
        GITHUB_EVENT_NAME="pull_request",
        HEAD_REPOSITORY="somebody/app",
        report=report,
        code=1,
    )
    assert (first.code, first.calls) == (1, [])
    folder = first.outputs["comment-folder"]
    second = run(script=COMMENT, INPUT_FOLDER=folder, INPUT_HEAD_SHA=HEAD, comments=HEAD)
    assert second.code == 0
    asked, _, post = second.calls[0], second.calls[1], second.calls[2]
    assert asked[:2] == ["api", "repos/owner/app/pulls/17"]
    assert post[4].startswith("repos/owner/app/issues/")
    assert "### edgeprune: OVER BUDGET" in second.body
    assert "@octocat" not in second.body


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("pull-request", "17/../18", 4),
        ("pull-request", "", 4),
        ("exit-code", "0; touch hacked", 4),
        ("report.md", "buy this\n", 4),
        ("pull-request", None, 4),
        ("report.md", None, 4),
    ],
)
def test_a_fork_is_not_believed(run: Runner, tmp_path: Path, file: str, content: str | None, code: int) -> None:
    """What is no report of ours on a pull request is not posted."""
    folder = tmp_path / "from-the-check"
    folder.mkdir()
    for name, text in {"pull-request": "17", "exit-code": "1", "report.md": CHANGED}.items():
        (folder / name).write_text(text)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    result = run(script=COMMENT, INPUT_FOLDER=str(folder), INPUT_HEAD_SHA=HEAD, comments=HEAD)
    assert result.code == code
    assert not any("POST" in call for call in result.calls)
    assert not list(tmp_path.rglob("hacked"))


def test_a_fork_comments_on_its_own_pull_request_only(run: Runner) -> None:
    """A number whose newest commit is another than the one that was checked gets nothing, nor does a folder that is a
    link to a secret."""
    first = run(INPUT_COMMENT="never", report=CHANGED)
    folder = first.outputs["comment-folder"]
    other = run(script=COMMENT, INPUT_FOLDER=folder, INPUT_HEAD_SHA=HEAD, comments="b" * 40)
    assert (other.code, len(other.calls)) == (0, 1)
    assert run(script=COMMENT, INPUT_FOLDER=folder, INPUT_HEAD_SHA="").code == 2
    (Path(folder) / "report.md").unlink()
    (Path(folder) / "report.md").symlink_to("/etc/passwd")
    assert run(script=COMMENT, INPUT_FOLDER=folder, INPUT_HEAD_SHA=HEAD, comments=HEAD).code == 4


@pytest.mark.parametrize("number", ["", "17/../18", "x"])
def test_no_pull_request(run: Runner, number: str) -> None:
    """On a push there is nothing to comment on."""
    result = run(INPUT_COMMENT="true", PULL_REQUEST=number)
    assert (result.code, result.calls) == (0, [])
    assert commands(result.out)[0].startswith("::notice")


def test_no_permission(run: Runner) -> None:
    """A comment that cannot be written is a warning and changes no verdict."""
    result = run(code=1, INPUT_COMMENT="true", gh=1)
    assert result.code == 1
    assert "pull-requests: write" in commands(result.out)[-1]


def test_a_long_report_is_cut_between_lines(run: Runner) -> None:
    """A comment stays below GitHub's limit and says that it was cut; the summary is whole."""
    rows = "".join(f"| layer {n} | ä |\n" for n in range(10_000))
    result = run(INPUT_COMMENT="true", report=rows)
    assert len(result.body) < 65_536
    lines = result.body.splitlines()
    assert "job summary" in lines[-1]
    assert lines[1:-2] == rows.splitlines()[: len(lines) - 3]
    assert result.summary == rows


def test_the_action_has_no_expression_in_a_command() -> None:
    """Read as text: what follows `run:` holds no ${{ }}, and every input that the script reads is handed to it."""
    text = (ROOT / "action.yml").read_text()
    for block in re.findall(r"^( *)run: \|\n((?:\1 +.*\n)+)", text, re.MULTILINE):
        assert "${{" not in block[1]
    assert text.count("run: |") == text.count("run:") == 2
    wanted = set(re.findall(r"INPUT_[A-Z_]+", SCRIPT.read_text()))
    assert wanted == set(re.findall(r"^        (INPUT_[A-Z_]+): \$\{\{ inputs\.", text, re.MULTILINE))
    assert os.access(SCRIPT, os.X_OK)
    of_fork = (ROOT / ".github" / "comment" / "action.yml").read_text()
    assert "${{" not in of_fork[of_fork.index("run: |") :]
    known = set(re.findall(r"^        (INPUT_[A-Z_]+): \$\{\{ inputs\.", text + of_fork, re.MULTILINE))
    assert set(re.findall(r"INPUT_[A-Z_]+", COMMENT.read_text())) <= known


def loaded(name: str) -> Any:
    """A YAML file of the repository."""
    return pytest.importorskip("yaml").safe_load((ROOT / name).read_text())


def test_the_action_as_yaml() -> None:
    """A composite action: each input described and with a default, each step with a shell, outputs of a real step."""
    action = loaded("action.yml")
    assert action["runs"]["using"] == "composite"
    assert set(action["inputs"]) >= {"files", "baseline", "config", "working-directory", "comment"}
    for given in action["inputs"].values():
        assert given["description"]
        assert isinstance(given["default"], str)
    steps = action["runs"]["steps"]
    assert all("uses" in step or step["shell"] == "bash" for step in steps)
    names = {step.get("id") for step in steps}
    for output in action["outputs"].values():
        assert re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.[\w-]+ \}\}", output["value"])
        assert re.findall(r"steps\.(\w+)", output["value"])[0] in names
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(action["inputs"])


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("app/src/main/assets/m.tflite", True),
        ("M.KERAS", True),
        ("out/app-release.apk", True),
        ("A/N.mlpackage/Data/com.apple.CoreML/model.mlmodel", True),
        ("N.mlmodelc/weights/weight.bin", True),
        ("edgeprune.toml", True),
        ("tflite.py", False),
        ("docs/notflite", False),
    ],
)
def test_the_hook(path: str, taken: bool) -> None:
    """The hook runs when a model, a file of a package or the configuration changes, and for nothing else."""
    (hook,) = loaded(".pre-commit-hooks.yaml")
    assert (hook["id"], hook["language"], hook["entry"]) == ("edgeprune-check", "python", "edgeprune check")
    assert hook["pass_filenames"] is False
    assert bool(re.search(hook["files"], path)) is taken

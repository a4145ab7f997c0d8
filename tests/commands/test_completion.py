"""Completion in a shell: the scripts, and what is offered."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeprune.commands.completion import SHELLS


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts(call: Any, shell: str) -> None:
    """Each calls the program by its name, with the variable by which it knows what to do."""
    outcome = call("completion", shell)
    assert outcome.code == 0
    assert f"_EDGEPRUNE_COMPLETE={shell}_complete" in outcome.out
    assert "edgeprune" in outcome.out


def test_the_shell_of_the_user(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name that of $SHELL; another shell is an error that names those there are."""
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert call("completion").out == call("completion", "fish").out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    call("completion").error(2, "bash, zsh, fish", "tcsh")
    monkeypatch.delenv("SHELL")
    call("completion").error(2, "not set")


def offered(words: list[str], monkeypatch: pytest.MonkeyPatch, call: Any, shell: str = "zsh") -> dict[str, str]:
    """What is offered for the last of these words, with what is said of it."""
    monkeypatch.setenv("_EDGEPRUNE_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["edgeprune", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    lines = call().out.split("\n")
    return dict(zip(lines[1::3], lines[2::3], strict=False))


def test_verbs(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their beginning, with what they do; none of the verbs is imported for it."""
    assert offered(["co"], monkeypatch, call) == {
        "convert": "Keras to TFLite, Core ML or ONNX, held against the model.",
        "compare": "What shrank from one file to another, layer by layer.",
        "completion": "Completion of verbs and options for bash, zsh or fish.",
    }


def test_options_and_their_words(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of options, choices, and the device profiles."""
    assert "--precision" in offered(["convert", "--pre"], monkeypatch, call)
    assert set(offered(["convert", "--to", ""], monkeypatch, call)) == {"tflite", "coreml", "onnx"}
    devices = offered(["estimate", "m.tflite", "--device", "pixel4-"], monkeypatch, call)
    assert "pixel4-tflite-4t-int8" in devices
    assert all(name.startswith("pixel4-") for name in devices)


def test_verbs_are_offered_at_once() -> None:
    """A prompt waits: no verb, NumPy or TensorFlow is loaded."""
    code = (
        "import os, sys\n"
        "os.environ |= {'_EDGEPRUNE_COMPLETE': 'bash_complete', 'COMP_WORDS': 'edgeprune c', 'COMP_CWORD': '1'}\n"
        "from edgeprune.commands.cli import main\n"
        "try:\n    main([])\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, sep='\\n')\n"
    )
    lines = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(lines.splitlines())
    assert "plain,check" in loaded
    assert loaded & {"numpy", "tensorflow", "keras", "edgeprune.commands.convert", "edgeprune.commands.check"} == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_for_real(call: Any, tmp_path: Path) -> None:
    """The script is read by bash, and its function fills in what the program offers."""
    script = tmp_path / "completion.bash"
    script.write_text(call("completion", "bash").out)
    program = tmp_path / "edgeprune"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -c "from edgeprune.commands.cli import main; main()"\n')
    program.chmod(0o755)
    lines = f"""
        PATH={tmp_path}:$PATH
        source {script}
        COMP_WORDS=(edgeprune che) COMP_CWORD=1
        _edgeprune_completion edgeprune che edgeprune
        echo "${{COMPREPLY[@]}}"
        complete -p edgeprune
    """
    done = subprocess.run(["bash", "--norc", "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "check"
    assert "-F _edgeprune_completion edgeprune" in done.stdout

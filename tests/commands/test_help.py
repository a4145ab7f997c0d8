"""--help of every verb: one screen, every option named on it, examples at its end."""

from __future__ import annotations

import math
from typing import Any

import click
import pytest

from edgeprune.commands.cli import VERBS, cli
from edgeprune.commands.screens import GROUPS, LATER, VERB_GROUPS, first_words

COLUMNS, LINES = 100, 40


@pytest.fixture(autouse=True)
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of that width."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def options_of(verb: str) -> list[click.Option]:
    """The options of a verb, without --help."""
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return [option for option in command.params if isinstance(option, click.Option)]


def long_names(option: click.Option) -> list[str]:
    """--output of -o, --output."""
    return [name for name in option.opts if name.startswith("--")]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_one_screen(call: Any, verb: str) -> None:
    """At most so many lines of so many columns, and the last ones are examples."""
    outcome = call(*verb.split(), "--help")
    lines = outcome.out.rstrip().splitlines()
    assert (outcome.code, outcome.err) == (0, "")
    assert sum(max(1, math.ceil(len(line) / COLUMNS)) for line in lines) <= LINES, outcome.out
    examples = lines[lines.index("Examples:") + 1 :]
    assert sum(line.startswith(f"  edgeprune {verb}") for line in examples) >= 1
    assert all(line.startswith(("  edgeprune ", "      ")) for line in examples)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_hidden(call: Any, verb: str) -> None:
    """The screen names every option; --help-all explains each in its own words, and every example is there."""
    brief, whole = call(verb, "--help"), call(verb, "--help-all")
    assert (whole.code, whole.err) == (0, "")
    told = "".join(whole.out.split())  # a line may end within a word with hyphens
    for option in options_of(verb):
        assert any(name in brief.out for name in long_names(option)), option.name
        assert "".join((option.help or "").split()) in told, option.name
    assert whole.out.count("\n  edgeprune ") >= brief.out.count("\n  edgeprune ")


def test_a_required_option_is_on_the_screen(call: Any) -> None:
    """With the word that says so."""
    assert "--to [tflite|coreml|onnx]  Format of the output.  [required]" in call("convert", "--help").out


def test_the_tables_name_what_there_is() -> None:
    """No option or verb in them is gone or misspelt; each verb stands in one group."""
    known = {verb: {name[2:] for option in options_of(verb) for name in long_names(option)} for verb in VERBS}
    everywhere = set.union({"help"}, *known.values())
    grouped = [name for names in GROUPS.values() for name in names]
    assert set(grouped) <= everywhere
    assert len(set(grouped)) == len(grouped)
    assert set(LATER[""]) <= everywhere
    assert {verb: set(names) - known[verb] for verb, names in LATER.items() if verb and set(names) - known[verb]} == {}
    listed = [verb for verbs in VERB_GROUPS.values() for verb in verbs]
    assert sorted(listed) == sorted(VERBS)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Name of the model.", "Name of the model."),
        ("How outputs are scored: " + "a, " * 30, "How outputs are scored."),
        ("Ranked by magnitude; wanda: by the norm of the inputs of each output.", "Ranked by magnitude."),
        ("Report there; a text goes to stdout. More of it.", "Report there; a text goes to stdout."),
        ("coreml: " + "w" * 70, "coreml: " + "w" * 70 + "."),
    ],
)
def test_first_words(text: str, kept: str) -> None:
    """A sentence that fits stays whole; a long one ends where it can."""
    assert first_words(text) == kept


def test_without_arguments(call: Any) -> None:
    """The same screen, and the exit code of wrong usage."""
    outcome = call()
    assert outcome.code == 2
    assert "Begin:" in outcome.out + outcome.err

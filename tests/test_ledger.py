"""A ledger is written, read back, and refused where it is none."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_ledgers import ledger

from edgeprune.checker.agreement import Agreement
from edgeprune.checker.budget import Budget
from edgeprune.checker.judge import run_verdicts
from edgeprune.errors import InputError
from edgeprune.ledger import ChannelParity, Ledger, OutputParity, RuntimeRun, schema_path
from edgeprune.report.agreement_report import agreement_text
from edgeprune.report.summary import summary_sentences

FULL = replace(ledger(), verdicts=run_verdicts(ledger(), Budget(download_bytes=100_000, min_sparsity=0.5)))
FULL = replace(FULL, summary=tuple(summary_sentences(FULL)))


def test_it_reads_itself_back() -> None:
    """From plain values and from text, verdicts and sentences included."""
    assert Ledger.from_json(FULL.to_json()) == FULL
    assert Ledger.from_json(json.dumps(FULL.to_json())) == FULL
    jsonschema.validate(json.loads(json.dumps(FULL.to_json())), json.loads(schema_path().read_text()))


LOST = ChannelParity(axis=-1, channel=4, range=0.7, max_error=0.5, sqnr_db=-4.2)
VALUES: dict[str, Any] = {"samples": 9, "max_error": 1.7, "mean_error": 0.3, "range": 214.0, "relative_error": 0.01}
JOINED = OutputParity(output="joined", agreement=None, sqnr_db=49.4, channels=(LOST,), **VALUES)


def test_lost_channels() -> None:
    """Channels that an output hides stand in the ledger, fit its schema, and the summary warns of them."""
    last = FULL.stages[-1]
    file = replace(last.artifacts[0], parity=(JOINED,), exported=True)
    made = replace(FULL, stages=(*FULL.stages[:-1], replace(last, artifacts=(file,))))
    assert Ledger.from_json(json.dumps(made.to_json())) == made
    jsonschema.validate(json.loads(json.dumps(made.to_json())), json.loads(schema_path().read_text()))
    (line,) = (sentence for sentence in summary_sentences(made) if sentence.startswith("WARNING"))
    assert "channel 4 of output 'joined' is far from the model's: SQNR -4.2 dB against its own variance" in line


NUMBERS = st.none() | st.floats(0, 1)


@given(sparsity=NUMBERS, seconds=st.floats(0, 1e6), seed=st.integers(0, 2**32 - 1), name=st.text(max_size=20))
def test_any_numbers_and_names_read_back(sparsity: float | None, seconds: float, seed: int, name: str) -> None:
    """Whatever is in it."""
    last = FULL.stages[-1]
    file = replace(last.artifacts[0], sparsity=sparsity, path=name, metric_note=name)
    made = replace(
        FULL, seed=seed, stages=(*FULL.stages[:-1], replace(last, name=name, seconds=seconds, artifacts=(file,)))
    )
    assert Ledger.from_json(json.dumps(made.to_json())) == made


def parts(value: Any) -> list[Any]:
    """A value and all that it holds."""
    if dataclasses.is_dataclass(value):
        return [value, *(part for field in dataclasses.fields(value) for part in parts(getattr(value, field.name)))]
    return [value, *(part for item in value for part in parts(item))] if isinstance(value, tuple | list) else [value]


def test_it_is_frozen_all_through() -> None:
    """Nothing in it is a list, and no record of it can be changed."""
    for part in parts(FULL):
        assert not isinstance(part, list)
        if dataclasses.is_dataclass(part):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, dataclasses.fields(part)[0].name, None)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda body: body["stages"][0].update(parameters="many"), "$.stages[0].parameters"),
        (lambda body: body["stages"][1]["artifacts"][0].update(raw_bytes=-1), "$.stages[1].artifacts[0]"),
        (lambda body: body["verdicts"][0].update(kind="cheap"), "$.verdicts[0].kind"),
        (lambda body: body["metric"].pop("name"), "$.metric"),
        (lambda body: body.update(stages=[]), "there is no stage"),
        (lambda body: body.update(schema_version=1), "another version"),
        (lambda body: body.pop("tool"), "tool_version"),
        (lambda body: body.pop("stages"), "not the ledger of a run"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, change: Any, place: str) -> None:
    """One line with the file, the place of the wrong value, and what to do."""
    body = json.loads(json.dumps(FULL.to_json()))
    change(body)
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps(body))
    with pytest.raises(InputError) as caught:
        Ledger.from_json(path.read_bytes(), str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert place in message
    assert "run the recipe again" in message
    assert "\n" not in message


def test_a_float_file_that_agrees_warns_of_lost_channels() -> None:
    """A float16 file may agree on the whole and lose a channel: `verify` says so where people read."""
    run = RuntimeRun(name="litert", version="2.3", ran=True)
    told: dict[str, Any] = {
        "path": "m",
        "format": "tflite",
        "precision": "float16",
        "samples": 9,
        "samples_are": "some",
    }
    made = Agreement(**told, reason=None, parity=(JOINED,), pairs={"joined": "o"}, runtimes=(run,))
    text = agreement_text(made, "m.tflite", "m.keras")
    assert "WARNING: channel 4 of output 'joined' is far" in text
    assert text.endswith("agrees")
    assert "WARNING" not in agreement_text(replace(made, reason="channel 4 ..."), "m.tflite", "m.keras")

"""The report of a run: whole outputs that somebody has read, its verdicts and its sentences."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from made_ledgers import entry, estimate, latency, score, stage
from made_ledgers import ledger as made_ledger
from places import TESTS

from edgeprune.checker.budget import Budget, asked_limits
from edgeprune.checker.judge import run_verdicts
from edgeprune.ledger import (
    ChannelReport,
    LatencyReached,
    LayerWidth,
    Ledger,
    MetricChange,
    MetricValue,
    Outcome,
    RuntimeRun,
    oldest_runtime,
)
from edgeprune.report.ledger_report import ledger_markdown, ledger_text
from edgeprune.report.summary import summary_sentences

GOLDEN = TESTS / "golden"


def golden(name: str, text: str) -> None:
    """Hold a whole output against the file that somebody has read and found right."""
    assert text.rstrip("\n") == (GOLDEN / name).read_text().rstrip("\n")


BUDGET = Budget(download_bytes=100_000, install_bytes=200_000, max_metric_drop=0.005, min_sparsity=0.8012)


@pytest.fixture
def ledger() -> Ledger:
    """The made-up run with its verdicts and its summary."""
    made = made_ledger()
    made = replace(made, verdicts=run_verdicts(made, BUDGET))
    return replace(made, summary=tuple(summary_sentences(made)))


def test_estimates_in_the_ledger(ledger: Ledger) -> None:
    """A sentence and the reason of each device that gives none."""
    none = estimate(device="other", total_ms=None, low_ms=None, high_ms=None, refused="it is int8")
    last = ledger.stages[-1]
    shipped = replace(last.artifacts[0], estimates=(estimate(), none))
    found = replace(ledger, stages=(*ledger.stages[:-1], replace(last, artifacts=(shipped,))))
    sentences = summary_sentences(found)
    assert "Latency of m.int8.tflite on a device: 5.5 ms (5 to 6 ms), estimated from profile phone, ±12 %." in sentences
    assert "Latency of m.int8.tflite on a device: not estimated from profile other: it is int8." in sentences


def test_verdicts(ledger: Ledger) -> None:
    """Every limit against every exported file; what is not known is None, for the same reason as in a check."""
    assert [(v.kind, v.path, v.passed) for v in ledger.verdicts] == [
        ("download", "m.sparse.mlpackage", False),
        ("install", "m.sparse.mlpackage", True),
        ("min_sparsity", "m.sparse.mlpackage", None),
        ("max_metric_drop", "m.sparse.mlpackage", None),
        ("download", "m.int8.tflite", True),
        ("install", "m.int8.tflite", False),
        ("min_sparsity", "m.int8.tflite", True),
        ("max_metric_drop", "m.int8.tflite", True),
    ]
    assert run_verdicts(ledger, None) == ()


def test_a_score_on_fewer_samples_is_compared_on_these(ledger: Ledger) -> None:
    """With what the dense model scored on the same ones; without that it is no drop."""
    for dense, drop in ((0.925, 0.005), (None, None)):
        change = MetricChange(before=dense, difference=-0.005, low=None, high=None, resamples=0) if dense else None
        metric = MetricValue(
            name="accuracy", value=0.92, samples=5000, file="m.int8.tflite", runtime="evaluator", change=change
        )
        shipped = entry("m.int8.tflite", metric=metric, exported=True)
        made = replace(ledger, stages=(ledger.dense, stage("int8", "quantize", (shipped,))))
        (verdict,) = run_verdicts(made, Budget(max_metric_drop=0.01))
        assert verdict.actual == (None if drop is None else pytest.approx(drop))
        assert verdict.passed is (None if drop is None else True)


def test_growth_without_a_baseline_is_told(ledger: Ledger) -> None:
    """A limit on growth that was not judged leaves a sentence."""
    asked = replace(ledger.recipe, asked={"budget": asked_limits(Budget(growth_share=0.02))})
    assert "growth was not judged: add --baseline FILE to the run." in summary_sentences(replace(ledger, recipe=asked))


def test_the_order_of_the_sentences(ledger: Ledger) -> None:
    """The smallest file and what it cost come first; then the other files, each with its score; then stage by stage."""
    last = ledger.stages[-1]
    small, middle, large = (
        entry(f"{n}.tflite", exported=True, download_bytes={"deflate": n}, metric=score(0.92, f"{n}.tflite"))
        for n in (70_000, 80_000, 90_000)
    )
    made = replace(last, artifacts=(large, small, middle), metric=score(0.92, "70000.tflite"))
    sentences = summary_sentences(replace(ledger, stages=(*ledger.stages[:2], made)))
    begins = [" ".join(sentence.split()[:4]) for sentence in sentences]
    assert [begin.split()[0] for begin in begins[:2]] == ["Download", "accuracy"]
    assert "70000.tflite" in sentences[0]
    assert [s.split(" with ")[1].split(",")[0] for s in sentences if s.startswith("Download")] == [
        "70000.tflite",
        "80000.tflite",
        "90000.tflite",
    ]
    assert not any(one.startswith("Download") and two.startswith("Download") for one, two in pairwise(begins))
    assert begins.index("accuracy of stage int8:") < begins.index("accuracy of 80000.tflite: 92.00")
    assert begins.index("Download -90 % (900") < begins.index("Sparsity of stage pruned:")
    assert begins.index("Sparsity of stage pruned:") + 1 == begins.index("accuracy of stage pruned:")
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize(
    ("ran", "found"),
    [
        ({"old": True, "new": True}, "old 1"),
        ({"old": False, "new": True}, "new 1"),
        ({"old": False, "new": False}, None),
        ({"new": True}, None),
        ({}, None),
    ],
)
def test_oldest_runtime(ran: dict[str, bool], found: str | None) -> None:
    """The oldest installed runtime that ran a file; unknown where an older one was not tried."""
    runs = [RuntimeRun(name=name, version="1", ran=did) for name, did in reversed(ran.items())]
    assert oldest_runtime(runs, ["old", "new"]) == found


def test_ledger_text(ledger: Ledger) -> None:
    """The report of a run, for a log."""
    golden("ledger.txt", ledger_text(ledger))


def test_ledger_markdown(ledger: Ledger) -> None:
    """The report of a run, as a page."""
    golden("ledger.md", ledger_markdown(ledger))


def test_a_latency_target_in_the_report(ledger: Ledger) -> None:
    """The estimates before and after stand in a table and a sentence of their own, apart from what was measured."""
    how = "estimated from profile phone (Phone, TFLite, 4 threads, float32), ±12 %: 9 of 10 networks were within it"
    channels = ChannelReport(
        asked="latency 0.6 on phone",
        got=0.37,
        parameters_before=250_000,
        parameters_after=101_000,
        macs_before=5_123_456,
        macs_after=2_049_382,
        removed=(LayerWidth(layer="conv", kind="Conv2D", before=32, asked=None, after=16),),
        skipped=(),
        altered=(),
        verified=3e-6,
        note=None,
        estimated_latency=LatencyReached(
            asked=0.6,
            before=estimate(how=how, total_ms=12.5, low_ms=11.16, high_ms=14.0),
            after=estimate(how=how, total_ms=7.4, low_ms=6.607, high_ms=8.288),
            ratio=0.592,
        ),
    )
    narrow = replace(
        ledger.stages[1], name="narrow", pruning=None, channels=channels, latency=latency(0.7, Outcome.FASTER)
    )
    narrow = replace(narrow, parameters=101_000, nonzero_parameters=101_000, macs=2_049_382)
    found = replace(ledger, stages=(ledger.dense, narrow), verdicts=())
    golden("ledger_latency.md", ledger_markdown(replace(found, summary=tuple(summary_sentences(found)))))


@pytest.mark.parametrize("width", [60, 100, 200])
def test_ledger_on_a_terminal(ledger: Ledger, width: int) -> None:
    """On a terminal no line of a table is wider than it, and nothing is coloured."""
    text = ledger_text(ledger, width=width)
    tables = text.split("* ")[0]
    assert max(len(line) for line in tables.splitlines()) <= width
    assert "\x1b" not in text

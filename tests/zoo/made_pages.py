"""A made-up run with everything that a page can show: every number is chosen, none measured."""

from __future__ import annotations

from dataclasses import replace

from made_ledgers import estimate, ledger
from made_records import layer, record

from edgeprune.answers import AnswerChange, ClassAnswers, ErrorCounts, Swap
from edgeprune.checker.size.records import FileAccount
from edgeprune.ledger import (
    Blame,
    ChannelReport,
    EpochLog,
    LayerWidth,
    Ledger,
    MetricChange,
    MetricValue,
    SkippedGroup,
    TrainLog,
    Undone,
)
from edgeprune.points import Aims, LayerCost, Point, SearchReport, Sensitivity
from edgeprune.report.html.run_page import RunFiles
from edgeprune.report.summary import summary_sentences

__all__ = ["answers", "blame", "full_files", "full_ledger", "many_layers", "search_report", "sensitivity"]


def change(difference: float) -> MetricChange:
    """A difference with an interval of two points."""
    return MetricChange(
        before=0.9231, difference=difference, low=difference - 0.01, high=difference + 0.01, resamples=500
    )


def answers(name: str = "probs") -> AnswerChange:
    """Three classes of which the second pays."""
    classes = [(1, 100, 90, 81), (0, 50, 40, 40), (2, 80, 60, 64)]
    return AnswerChange(
        output=name,
        answers=230,
        lost=12,
        won=7,
        classes=tuple(ClassAnswers(index=i, answers=n, right_before=b, right_after=a) for i, n, b, a in classes),
        swaps=(Swap(actual=1, taken=2, before=5, after=12), Swap(actual=2, taken=0, before=9, after=6)),
    )


def errors() -> AnswerChange:
    """Numbers that miss by more than before."""
    counted = ErrorCounts(edges=(-1.0, 0.0, 1.0), before=(10, 12), after=(8, 14))
    return AnswerChange(output="price", answers=22, lost=0, won=0, errors=counted)


def blame(name: str) -> Blame:
    """A step, a layer, and a step that cannot be undone."""
    how = {"how": "as it was"}
    return Blame(
        metric=ledger().metric,
        data="validation.npz",
        samples=500,
        stack=change(-0.02),
        steps=(
            Undone(step=name, layer=None, what="skipped", change=change(0.015), **how),
            Undone(step="int8", layer=None, what="skipped", change=None, reason="no", **how),
        ),
        layers=(Undone(step="pruned", layer=name, what="dense", change=change(0.002), **how),),
        rest=0.001,
        compounding=0.002,
    )


def search_report(name: str = "keep 0.5") -> SearchReport:
    """Four files, two of which no other beats."""
    facts = {"stage": "int8", "precision": "int8", "epochs": 2, "parameters": 1000, "macs": 5000, "seconds": 1.0}
    numbers = [
        (100_000, 0.9, 0.02, True),
        (150_000, 0.92, 0.003, True),
        (160_000, 0.91, 0.013, False),
        (90_000, 0.8, 0.12, False),
    ]
    return SearchReport(
        tool_version="1.2.3",
        model="m.keras",
        metric="accuracy",
        is_share=True,
        dense_bytes=900_000,
        dense_metric=0.9231,
        device=None,
        aims=Aims(download_bytes=155_000, latency=None, max_drop=0.01),
        asked={},
        points=tuple(
            Point(
                candidate=f"{name} {n}",
                download_bytes=size,
                download_ratio=size / 900_000,
                latency=None,
                how="not asked for",
                metric=metric,
                lost=lost,
                cpu_s=2.0,
                pareto=pareto,
                **facts,
            )
            for n, (size, metric, lost, pareto) in enumerate(numbers)
        ),
        winner=1,
        nearest={},
        reached={"download": True, "drop": True},
        test_drop=0.004,
        seconds=60.0,
        cpu_s=100.0,
        ended="done",
    )


def sensitivity(name: str) -> Sensitivity:
    """Two layers, one of which does no harm."""
    nothing = {"macs": 0.5, "without_db": 20.0, "without_metric": 0.9, "gained": 0.001}
    worst = LayerCost(layer=name, sqnr_db=12.5, metric=0.9, lost=0.02, **nothing)
    none = LayerCost(layer="b", sqnr_db=None, metric=0.92, lost=0.0, **nothing)
    return Sensitivity(
        how="int8", metric="accuracy", samples=500, before=0.92, after=0.9, after_db=10.0, layers=(worst, none)
    )


def full_ledger(name: str = "block1_conv") -> Ledger:
    """The made-up ledger with intervals, channels, training, estimates, blame and answers; `name` is that of layers,
    outputs, devices and steps."""
    made = ledger()
    widths = (LayerWidth(layer=name, kind="Conv2D", before=64, asked=None, after=40),)
    channels = ChannelReport(
        asked="ratio 0.4",
        got=0.375,
        parameters_before=9000,
        parameters_after=5000,
        macs_before=None,
        macs_after=None,
        removed=widths,
        skipped=(SkippedGroup(layer=name, layers=(name,), channels=3, reason=name),),
        altered=(),
        verified=1e-7,
        note=None,
    )
    training = TrainLog(
        epochs=(
            EpochLog(loss=1.5, validation=0.9),
            EpochLog(loss=1.2, validation=0.91),
            EpochLog(loss=1.25, validation=0.905),
        ),
        kept_epoch=2,
        stopped_early=False,
        steps=300,
    )
    scored = MetricValue(
        name="accuracy", value=0.9131, samples=10_000, file=name, runtime="litert 2.3.0", change=change(-0.01)
    )
    none = estimate(device=name, total_ms=None, low_ms=None, high_ms=None, refused=name)
    last = made.stages[-1]
    file = replace(
        last.artifacts[0], metric=scored, metrics=(scored,), answers=(answers(), errors()), estimates=(estimate(), none)
    )
    stages = (
        made.stages[0],
        replace(made.stages[1], channels=channels),
        replace(made.stages[2], name=name, training=training),
        replace(last, artifacts=(file,), metric=scored, metrics=(scored,)),
    )
    found = replace(made, stages=stages, blame=blame(name))
    return replace(found, summary=tuple(summary_sentences(found)))


def many_layers(count: int, name: str = "block", *, zeros: int = 800) -> FileAccount:
    """A file of so many layers, ten in a block."""
    layers = tuple(
        layer(
            f"{name}{n // 10}_conv{n % 10}",
            zeros=zeros,
            raw_bytes=1000 + 37 * n,
            deflate_bytes=300 + 11 * n,
            brotli_bytes=290 + 11 * n,
            bound_bytes=250 + 10 * n,
        )
        for n in range(count)
    )
    raw, download = (sum(getattr(each, key) for each in layers) for key in ("raw_bytes", "deflate_bytes"))
    sizes = {"deflate": download + 5000, "brotli": download + 4000}
    return record("m.int8.tflite", layers=layers, raw_bytes=raw + 9000, download_bytes=sizes)


def full_files(name: str = "block", count: int = 60) -> RunFiles:
    """All that a page can show beside a ledger."""
    return RunFiles(
        after=many_layers(count, name),
        before=many_layers(count, name, zeros=0),
        search=search_report(name),
        sensitivity=sensitivity(name),
        notes=(name,),
    )

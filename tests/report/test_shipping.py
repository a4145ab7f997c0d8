"""Which file to ship for what: said where it was measured or estimated, and not where bands meet."""

from __future__ import annotations

from dataclasses import replace

from made_ledgers import entry, estimate, latency
from made_ledgers import ledger as made_ledger

from edgeprune.ledger import ArtifactEntry, Ledger, Outcome
from edgeprune.report.shipping import shipping_sentences


def run_with(*exported: ArtifactEntry) -> Ledger:
    """A run that exported these files."""
    made = made_ledger()
    return replace(made, stages=(made.stages[0], replace(made.stages[-1], artifacts=exported)))


def file(name: str, size: int, ratio: float, ms: float) -> ArtifactEntry:
    """An exported file of that download, measured and estimated."""
    return entry(
        name,
        exported=True,
        download_bytes={"deflate": size},
        latency=replace(latency(ratio, Outcome.FASTER), low=ratio - 0.01, high=ratio + 0.01),
        estimates=(estimate(total_ms=ms, low_ms=ms * 0.9, high_ms=ms * 1.1),),
    )


def test_each_goal_has_its_file() -> None:
    """int8 is the smaller one and the slower one here, and the faster one on the phone; the others stand beside it."""
    small, fast = file("m.int8.tflite", 60_000, 0.665, 3.0), file("m.float32.tflite", 150_000, 0.373, 5.0)
    download, here, there = shipping_sentences(run_with(small, fast))
    assert download == (
        "Ship m.int8.tflite for the smallest download of the .tflite files: 60.0 kB zipped (m.float32.tflite 150 kB)."
    )
    assert here.startswith("Ship m.float32.tflite for speed on hosts like this one (time beside the dense float32")
    assert "m.float32.tflite 0.373 (0.363 to 0.383), m.int8.tflite 0.665 (0.655 to 0.675)" in here
    assert there.startswith("Ship m.int8.tflite for speed on phone, as estimated from its profile: m.int8.tflite 3 ms")


def test_bands_that_meet_tell_nothing_apart() -> None:
    """Neither a measurement nor an estimate says more than its band."""
    one, other = file("a.tflite", 60_000, 0.5, 5.0), file("b.tflite", 50_000, 0.51, 5.5)
    _, here, there = shipping_sentences(run_with(one, other))
    assert here.startswith("On this host a.tflite and b.tflite are as fast as each other")
    assert there.startswith("On phone the estimates cannot tell a.tflite from b.tflite")


def test_what_is_not_known_is_not_said() -> None:
    """One file is no choice; without measurement and estimate there is only the download; formats have other stores."""
    one, other = file("a.tflite", 60_000, 0.5, 5.0), file("b.tflite", 50_000, 0.6, 9.0)
    assert shipping_sentences(run_with(one)) == []
    assert shipping_sentences(run_with(one, replace(other, format="coreml", path="b.mlpackage"))) == []
    plain = [replace(each, latency=None, estimates=()) for each in (one, other)]
    assert len(shipping_sentences(run_with(*plain))) == 1

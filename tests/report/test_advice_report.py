"""What an advice says: where what was asked does not fit a target, what it recommends, what it cannot know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.checker.ways import Advice, Aim, Kind, Trial, Way, chosen_way
from edgeprune.report.advice_report import advice_json, advice_text, mismatches
from edgeprune.verdict import Estimate

PHONE = "pixel4-tflite-4t-float32"


def estimate(ms: float | None) -> Estimate:
    """An estimate of the phone with a band of a fifth."""
    return Estimate(
        device=PHONE,
        how=f"estimated from profile {PHONE} (Pixel 4, 4 threads), ±20 %: 9 of 9 rows were within it",
        basis="b",
        total_ms=ms,
        low_ms=ms and ms / 1.2,
        high_ms=ms and ms * 1.2,
        relative=None,
        refused=None if ms else "no rule tells what FOO costs",
        notes=(),
    )


def way(kind: Kind, download_bytes: int, ms: float | None = None, after: float | None = None, **more: object) -> Way:
    """A way with its file of so many bytes."""
    trial = None
    if after is not None:
        trial = Trial(
            metric="accuracy", before=0.9, after=after, samples=500, higher_is_better=True, how="measured here"
        )
    facts: dict[str, object] = {"macs": 1000, "install_bytes": 2 * download_bytes} | more
    found = () if kind.is_int8 else (estimate(ms),)
    return Way(kind=kind, asked="so", download_bytes=download_bytes, estimates=found, trial=trial, **facts)  # type: ignore[arg-type]


WAYS = (
    way(Kind.DENSE, 900_000, 8.0),
    way(Kind.FLOAT16, 450_000, 8.0),
    way(Kind.INT8, 260_000, after=0.89),
    way(Kind.MAGNITUDE, 230_000, 8.0, after=0.1),
    way(Kind.MAGNITUDE_INT8, 108_000, after=0.1),
    way(Kind.CHANNELS, 240_000, 3.2, after=0.4, macs=300),
    way(Kind.CHANNELS_INT8, 120_000, after=0.4, macs=300),
)


def advice(ways: tuple[Way, ...] = WAYS, **more: object) -> Advice:
    """An advice with nothing asked."""
    facts: dict[str, object] = {
        "model": "m.keras",
        "layers": 3,
        "parameters": 100,
        "macs": 1000,
        "bound_bytes": 800_000,
        "targets": (PHONE,),
        "ways": ways,
        "sparse": (),
        "sparsity": 0.85,
        "ratio": 0.5,
        "asked_sparsity": False,
        "asked_ratio": False,
        "aim": Aim.DOWNLOAD,
        "chosen": Kind.MAGNITUDE_INT8,
        "trains": True,
        "unknown": (),
    }
    return Advice(**(facts | more))  # type: ignore[arg-type]


def test_zeros_on_dense_kernels() -> None:
    """85 % of zeros change no latency there; fewer channels do, and by how much; nothing asked, nothing told."""
    (told,) = mismatches(advice(asked_sparsity=True))
    assert told.startswith(f"85 % sparsity asked, {PHONE} runs dense kernels: latency unchanged (8 ms, estimated")
    assert "±20 %" in told
    assert "900 kB to 230 kB zipped (counted)" in told
    assert told.endswith("fewer channels (50 % gone) would give 3.2 ms, 0.40 times that")
    assert mismatches(advice()) == []


def test_zeros_that_do_pay() -> None:
    """Where the estimate does change there is no such sentence."""
    faster = tuple(replace(one, estimates=(estimate(4.0),)) if one.kind is Kind.MAGNITUDE else one for one in WAYS)
    assert mismatches(advice(faster, asked_sparsity=True)) == []


def test_zeros_without_an_estimate() -> None:
    """Where the profile refuses the file, MACs are counted and no latency is claimed."""
    unknown = tuple(replace(one, estimates=(estimate(None),)) if one.estimates else one for one in WAYS)
    (told,) = mismatches(advice(unknown, asked_sparsity=True))
    assert "latency not estimated" in told
    assert "unchanged" not in told
    assert "would leave 300 MACs (counted)" in told


def test_channels_for_a_download() -> None:
    """The reverse: channels asked, the download is the goal, and zeros are smaller."""
    (told,) = mismatches(advice(asked_ratio=True))
    assert "120 kB zipped in int8, where 85 % zeros give 108 kB" in told
    assert mismatches(advice(asked_ratio=True, aim=Aim.LATENCY)) == []
    small = tuple(replace(one, download_bytes=50_000) if one.kind is Kind.CHANNELS_INT8 else one for one in WAYS)
    assert mismatches(advice(small, asked_ratio=True)) == []


@pytest.mark.parametrize(
    ("aim", "trains", "int8_target", "expected"),
    [
        (Aim.DOWNLOAD, True, True, Kind.MAGNITUDE_INT8),
        (Aim.LATENCY, True, True, Kind.CHANNELS_INT8),
        (Aim.LATENCY, True, False, Kind.CHANNELS),
        (Aim.DOWNLOAD, False, True, Kind.INT8),  # nothing is trained back: what keeps its metric
        (Aim.LATENCY, False, False, Kind.FLOAT16),
    ],
)
def test_the_choice(aim: Aim, trains: bool, int8_target: bool, expected: Kind) -> None:
    """By what is to become less, what computes there, and whether anything can be trained back."""
    assert chosen_way(WAYS, aim, trains=trains, int8_target=int8_target) is expected


def test_a_pattern_where_its_targets_gain() -> None:
    """N:M zeros are chosen for a latency where every target is for such and gains; never otherwise, nor untrained."""
    ways = (*WAYS, way(Kind.PATTERN, 60_000, after=0.7, pattern="2:4"))
    assert chosen_way(ways, Aim.LATENCY, trains=True, int8_target=False, pattern_pays=True) is Kind.PATTERN
    assert chosen_way(ways, Aim.LATENCY, trains=False, int8_target=False, pattern_pays=True) is Kind.FLOAT16
    assert chosen_way(ways, Aim.LATENCY, trains=True, int8_target=False) is Kind.CHANNELS
    assert chosen_way(ways, Aim.DOWNLOAD, trains=True, int8_target=True) is Kind.MAGNITUDE_INT8


def test_a_simpler_way_of_about_the_same_bytes() -> None:
    """A tenth less to download is not worth a change of the model."""
    near = tuple(replace(one, download_bytes=105_000) if one.kind is Kind.INT8 else one for one in WAYS)
    assert chosen_way(near, Aim.DOWNLOAD, trains=True, int8_target=True) is Kind.INT8


def test_every_number_says_how() -> None:
    """Counted, estimated with its error, measured on how many samples; what was not made and not known, too."""
    refused = Way(kind=Kind.PALETTE, asked="16 values", refused="scikit-learn is missing")
    told = advice_text(advice((*WAYS, refused), unknown=("what int8 computes: add --data",)), "r.toml")
    for part in (
        "counted in files made for this advice",
        "±20 %",
        "measured here",
        "on 500 samples",
        "not made: Core ML palette4: scikit-learn is missing",
        "3.2 ms (0.40 x)",
        "Not known:\n  what int8 computes: add --data",
        "Recommended for download: magnitude + int8",
        "accuracy 0.9000 -> 0.1000 in one shot (measured)",
        "edgeprune run r.toml",
    ):
        assert part in told
    body = advice_json(advice(), None)
    ratios = body["latency_ratios"]
    assert isinstance(ratios, dict)
    assert ratios["channels"] == {PHONE: pytest.approx(0.4)}
    assert body["chosen"] == "magnitude + int8"

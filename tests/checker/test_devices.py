"""Device profiles: each of them holds to its contract, and broken ones are refused."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.checker.latency.estimate import how_of
from edgeprune.checker.latency.fitting import Row, band, fit, left_out, pairwise_band, scale
from edgeprune.checker.latency.kernels import Kernel, Kind
from edgeprune.checker.latency.profiles import Profile, dump_profile, find_profile, load_profile, profile_paths
from edgeprune.checker.latency.roofline import Coefficients
from edgeprune.commands.devices import devices
from edgeprune.errors import InputError

NAMES = sorted(profile_paths())
INT8 = "pixel3-tflite-4t-int8"
# A repository with a commit and a path in it, as in tensorflow/tpu@7dc921f846c9:models/official/mnasnet/README.md
SOURCE = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{12}:\S+")


@pytest.fixture(params=NAMES)
def profile(request: pytest.FixtureRequest) -> Profile:
    """Each profile that comes with the tool."""
    return find_profile(request.param)


# --- the contract of every profile ----------------------------------------------------------------------------------


def test_every_row_has_a_source(profile: Profile) -> None:
    """No coefficient without what it was fitted on, and no row without where it is published."""
    assert profile.truth
    assert [row.source for row in profile.truth if not SOURCE.fullmatch(row.source)] == []
    assert profile.accuracy.rows == len(profile.truth)
    assert profile.accuracy.families == len({row.family for row in profile.truth})


def test_it_beats_latency_proportional_to_macs(profile: Profile) -> None:
    """Judged by rows left out, never by the rows of the fit."""
    accuracy = profile.accuracy
    assert accuracy.left_out in ("family", "network")
    assert accuracy.median is not None
    assert accuracy.flops_median is not None
    assert accuracy.median < accuracy.flops_median


def test_its_accuracy_is_that_of_its_rows(profile: Profile) -> None:
    """Median, shares and band follow from the predictions that stand beside the measurements."""
    errors = np.array([math.log(row.left_out_ms / row.latency_ms) for row in profile.truth if row.left_out_ms])
    relative = np.abs(np.expm1(errors))
    accuracy = profile.accuracy
    assert len(errors) == len(profile.truth)
    assert accuracy.median == pytest.approx(float(np.median(relative)), abs=2e-3)
    assert accuracy.within_20 == pytest.approx(float(np.mean(relative <= 0.2)), abs=1e-4)
    inside = np.mean(np.abs(errors) <= math.log(accuracy.band_factor) + 2e-3)
    assert inside == pytest.approx(accuracy.band_share, abs=1e-3)
    assert accuracy.band_share >= 0.9


def test_its_name_says_what_it_is(profile: Profile) -> None:
    """The file is named as the profile, the precision ends the name, and the sentence of every number names it."""
    assert profile_paths()[profile.name].stem == profile.name
    assert profile.name.endswith(profile.precision)
    assert profile.name in how_of(profile)
    assert re.search(r"±\d+ %: \d+ of \d+ ", how_of(profile))


def test_it_is_written_as_it_was_read(profile: Profile) -> None:
    """Reading and writing a profile gives the same bytes."""
    path = profile_paths()[profile.name]
    assert dump_profile(load_profile(path)) == path.read_text(encoding="utf-8")


def test_what_it_is_based_on_exists(profile: Profile) -> None:
    """A prior is another profile of the tool."""
    assert profile.based_on == "" or profile.based_on in NAMES


def test_large_errors_only_rank(profile: Profile) -> None:
    """A profile gives milliseconds only where half of the rows left out are within 13 % or nearer."""
    assert profile.accuracy.median is not None
    assert profile.kind == "ranking-only" or profile.accuracy.median < 0.13


@pytest.mark.parametrize(
    ("name", "median", "within", "share"),
    [
        ("pixel3-tflite-4t-float32", 0.03, "within_10", 0.9),
        ("pixel1-tflite-1t-float32", 0.05, "within_20", 0.9),
        (INT8, 0.05, "within_20", 0.9),
        ("pixel4-tflite-4t-int8", 0.02, "within_20", 1.0),
    ],
)
def test_the_promised_accuracy(name: str, median: float, within: str, share: float) -> None:
    """What the documentation promises for rows of families left out."""
    accuracy = find_profile(name).accuracy
    assert accuracy.left_out == "family"
    assert accuracy.median is not None
    assert accuracy.median <= median
    assert getattr(accuracy, within) >= share


def test_integers_on_the_pixel_3() -> None:
    """With single networks left out the median error is within 5 %."""
    accuracy = find_profile(INT8).accuracy
    assert accuracy.network_median is not None
    assert accuracy.network_median <= 0.05


@pytest.mark.parametrize(
    ("name", "median"), [("pixel3-tflite-4t-float32", 0.03), ("pixel1-tflite-1t-float32", 0.05), (INT8, 0.06)]
)
def test_ratios_of_widths(name: str, median: float) -> None:
    """How much faster a narrower network is, predicted by fits that have not seen its family (MobileNet, MnasNet)."""
    times = {}
    for row in find_profile(name).truth:
        *kind, width, pixels = row.network.split()
        if row.family in ("mobilenet_v1", "mobilenet_v2", "mnasnet"):
            times[" ".join(kind), pixels, float(width)] = (row.latency_ms, row.left_out_ms)
    errors = []
    for (kind, pixels, width), (ms, left_out_ms) in times.items():
        full = times.get((kind, pixels, 1.0))
        if full and width != 1.0:
            errors.append(abs(left_out_ms / full[1] / (ms / full[0]) - 1))
    assert len(errors) >= 12
    assert np.median(errors) <= median


@pytest.mark.parametrize("word", ["xnnpack-1t", "iphone-xs", "hexagon", "coreml"])
def test_kinds_of_devices(word: str) -> None:
    """XNNPACK on one thread, an iPhone, a Hexagon NPU and Core ML each have a profile."""
    assert [name for name in NAMES if word in name]


# --- fitting --------------------------------------------------------------------------------------------------------

TRUE = Coefficients(dense_gmacs_per_s=10.0, depthwise_gmacs_per_s=2.0, memory_gb_per_s=5.0)
START = Coefficients(dense_gmacs_per_s=20.0, depthwise_gmacs_per_s=1.0, memory_gb_per_s=2.0)


def made_up_rows(coefficients: Coefficients, count: int = 9, slower: float = 1.0) -> list[Row]:
    """Networks of one dense, one depthwise and one moving kernel in varying parts, timed without error."""
    from edgeprune.checker.latency.roofline import Work

    rows = []
    for n in range(count):
        shape = {"weights": 0, "gathered": 1000, "read": 1000, "written": 1000}
        moved = 10**6 * (1 + n // 3)
        network = (
            Kernel(op="a", kind=Kind.POINTWISE, macs=10**7 * (1 + n), **shape),
            Kernel(op="b", kind=Kind.DEPTHWISE, macs=10**6 * (1 + (n * 5) % 7), **shape),
            Kernel(op="c", kind=Kind.MOVEMENT, macs=0, read=moved, written=moved, weights=0, gathered=moved),
        )
        ms = float(Work([network], element_bytes=4, gathers=False).totals_ms(coefficients)[0]) * slower
        rows.append(Row(kernels=network, latency_ms=ms, family=f"f{n % 3}", name=f"n{n}"))
    return rows


def test_a_fit_finds_the_coefficients_again() -> None:
    """From rows without error and a start that is off by factors of two."""
    found = fit(made_up_rows(TRUE), START, element_bytes=4, gathers=False).coefficients
    assert found.dense_gmacs_per_s == pytest.approx(10, rel=1e-3)
    assert found.depthwise_gmacs_per_s == pytest.approx(2, rel=1e-3)
    assert found.memory_gb_per_s == pytest.approx(5, rel=1e-3)


@given(st.floats(0.2, 5.0))
@settings(max_examples=10)
def test_a_scale_finds_the_factor(slower: float) -> None:
    """The same device, slower or faster as a whole; one row is enough."""
    rows = made_up_rows(TRUE, 1, slower)
    found = scale(rows, TRUE, element_bytes=4, gathers=False).coefficients
    assert found.dense_gmacs_per_s == pytest.approx(10 / slower, rel=1e-6)
    assert found.memory_gb_per_s == pytest.approx(5 / slower, rel=1e-6)


def test_a_prior_keeps_proportions_where_rows_are_silent() -> None:
    """One row with a prior is a scale; many rows overcome it."""
    one = fit(made_up_rows(TRUE.scaled(3), 1), TRUE, element_bytes=4, gathers=False, prior_weight=0.04).coefficients
    assert one.dense_gmacs_per_s / one.memory_gb_per_s == pytest.approx(2.0, rel=1e-3)
    assert one.dense_gmacs_per_s == pytest.approx(10 / 3, rel=1e-3)
    many = fit(made_up_rows(TRUE), START, element_bytes=4, gathers=False, prior_weight=0.001).coefficients
    assert many.dense_gmacs_per_s == pytest.approx(10, rel=0.05)


def test_a_prior_of_elements() -> None:
    """4 GB/s of float32 are 1 G elements/s, which is 1 GB/s of int8 and 2 GB/s of float16; multiplications stay."""
    floats = Coefficients(
        dense_gmacs_per_s=30.0, depthwise_gmacs_per_s=5.0, memory_gb_per_s=4.0, weight_gb_per_s=8.0, op_overhead_us=3.0
    )
    integers = dataclasses.replace(floats, memory_gb_per_s=1.0, weight_gb_per_s=2.0)
    assert floats.per_element(4, 1) == integers
    assert integers.per_element(1, 2) == dataclasses.replace(floats, memory_gb_per_s=2.0, weight_gb_per_s=4.0)
    assert TRUE.per_element(4, 4) == TRUE


def test_limits_hold() -> None:
    """A memory rate stays below what the chip can do."""
    found = fit(made_up_rows(TRUE), START, element_bytes=4, gathers=False, limits={"memory_gb_per_s": 3.0})
    assert found.coefficients.memory_gb_per_s <= 3.0 * (1 + 1e-9)


def test_pooled_devices_differ_by_a_factor() -> None:
    """Two devices of the same proportions are fitted together, the second 1.5 times as slow."""
    rows = made_up_rows(TRUE) + [dataclasses.replace(row, group=1) for row in made_up_rows(TRUE, slower=1.5)]
    found = fit(rows, START, element_bytes=4, gathers=False)
    assert found.slower == pytest.approx((1.0, 1.5), rel=1e-3)


def test_what_is_left_out_is_not_seen() -> None:
    """A wrong row spoils the prediction of the others, never its own."""
    rows = made_up_rows(TRUE)
    rows[4] = dataclasses.replace(rows[4], latency_ms=rows[4].latency_ms * 1.5)
    predicted = left_out(rows, lambda some: fit(some, START, element_bytes=4, gathers=False), lambda row: row.name)
    assert predicted[4] == pytest.approx(rows[4].latency_ms / 1.5, rel=1e-3)
    alone = left_out(rows[:1], lambda some: scale(some, TRUE, element_bytes=4, gathers=False), lambda row: row.name)
    assert np.isnan(alone).all()


def test_the_band_is_a_rank_of_the_errors() -> None:
    """20 errors: the 19th smallest, as 0.9 * 21 is 18.9; 5 errors: the largest; none: no band."""
    errors = [math.log(1 + n / 100) for n in range(1, 21)]
    assert band(errors) == pytest.approx((1.19, 19 / 20))
    assert band([-math.log(2), 0.1, 0.2, 0.0, 0.3]) == pytest.approx((2.0, 1.0))
    with pytest.raises(ValueError, match="no errors"):
        band([])
    assert pairwise_band([0.1, -0.1])[0] == pytest.approx(math.exp(0.2))


# --- broken profiles ------------------------------------------------------------------------------------------------

SOUND = profile_paths()["pixel-xnnpack-1t-float32"].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("schema = 1", "schema = 2", "schema is 2"),
        ("schema = 1", "", "schema is None"),
        ('kind = "fitted"', 'kind = "guessed"', "kind: 'guessed'"),
        ("dense_gmacs_per_s", "dense_gmac_per_s", "did you mean 'dense_gmacs_per_s'"),
        ("memory_gb_per_s = ", "memory_gb_per_s = -", "not a number of at least 0"),
        ("memory_gb_per_s = ", "memory_gb_per_s = inf #", "not a number"),
        ("band_factor = 1", "band_factor = 0", "a factor is at least 1"),
        ('left_out = "family"', 'left_out = "luck"', "it is family, network, file or none"),
        ("gathers = false", 'gathers = "no"', "gathers is 'no'"),
        ("element_bytes = 4", "element_bytes = true", "element_bytes is True"),
        ('formats = ["tflite"]', 'formats = ["onnx"]', "known are tflite, coreml"),
        ('accepts = ["float32", "float16"]', "accepts = []", "a list of words"),
        ('name = "pixel', 'nam = "pixel', "unknown 'nam'; did you mean 'name'"),
        ("depthwise = ", "deep = ", "unknown 'deep'"),
        ('source = "google', 'source = "" # "google', "truth row 1 has no source"),
        ("[coefficients]", "[coefficients", "not a device profile"),
    ],
)
def test_a_broken_profile_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    """Each fault is named in one line with the file."""
    assert old in SOUND
    path = tmp_path / "mine.toml"
    path.write_text(SOUND.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        find_profile(str(path))
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_row_without_its_source_is_refused(tmp_path: Path) -> None:
    """A profile whose first row lost its source, and one without rows."""
    path = tmp_path / "mine.toml"
    path.write_text(re.sub(r'source = "[^"]*"\n', "", SOUND, count=1))
    with pytest.raises(InputError, match="truth row 1 has no source"):
        load_profile(path)
    path.write_text(SOUND.split("[[truth]]")[0] + "truth = []\n")
    with pytest.raises(InputError):
        load_profile(path)


def test_files_that_are_no_profile(tmp_path: Path) -> None:
    """Missing, binary, and far too large."""
    for content in (None, b"\xff\xfe\x00", b"#" * 1_000_001):
        path = tmp_path / "mine.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError):
            load_profile(path)


@given(st.text(max_size=40))
def test_any_text_survives_writing(text: str) -> None:
    """Names of devices with quotes, control characters and other scripts are read back as they were."""
    import tomllib

    device = text.encode("utf-8", "replace").decode()
    profile = dataclasses.replace(find_profile("pixel-xnnpack-1t-float32"), device=device)
    assert tomllib.loads(dump_profile(profile)).get("device", "") == device


# --- the verb -------------------------------------------------------------------------------------------------------


def test_the_list_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """Every profile with its error and what MACs alone would give."""
    assert devices.callback(as_json=False) == 0
    text = capsys.readouterr().out
    assert [name for name in NAMES if name not in text] == []
    assert "2.7 %" in text


def test_the_list_of_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors as fractions, and the sources."""
    assert devices.callback(as_json=True) == 0
    told: dict[str, Any] = {item["name"]: item for item in json.loads(capsys.readouterr().out)["devices"]}
    assert sorted(told) == NAMES
    assert told["pixel3-tflite-4t-float32"]["accuracy"]["median"] == pytest.approx(0.027, abs=0.003)
    assert all(item["sources"] for item in told.values())

"""What widths cost, told by a line through files of random widths; plans within two limits; widths by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeprune.checker.latency import measure
from edgeprune.errors import OutOfReach, UsageError
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.pruning.channel.groups import Kept, Structure
from edgeprune.maker.pruning.channel.plan import plan_channels, plan_within
from edgeprune.maker.pruning.channel.pruner import analyse, prune_channels
from edgeprune.maker.pruning.options import ChannelOptions
from edgeprune.maker.search.costs import KINDS, fit_costs, random_widths, work_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras.*")
FASHION = Path(__file__).parents[2] / "sample_models" / "fashion" / "fashion.keras"
OPTIONS = ChannelOptions(ratio=0.5, importance="fisher", round_to=8)


@pytest.fixture(scope="module")
def fashion() -> Structure:
    return analyse(load_model(FASHION))


@pytest.fixture(scope="module")
def plans(fashion: Structure) -> list[Kept]:
    groups = [group for group in fashion.groups if group.reason is None]
    return random_widths(fashion, groups, 8, 24, seed=3)


def whole(structure: Structure) -> Kept:
    return np.ones(len(structure), bool)


def test_work_is_counted_by_kind(keras: Any) -> None:
    """Multiplications and elements written, by hand: 3x3 of stride 2 to 8 channels, depthwise twice, 1x1, Dense."""
    L = keras.layers  # noqa: N806
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(8, 3, 2, padding="same")(x)
    y = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(y)
    y = L.GlobalAveragePooling2D()(L.Conv2D(24, 1)(y))
    structure = analyse(keras.Model(x, L.Dense(5)(y)))
    found = work_of(structure, whole(structure))
    assert found[:3].tolist() == [1, structure.whole().parameters, 8 + 16 + 24 + 5]
    work = dict(zip(KINDS, found[3:].reshape(-1, 2).tolist(), strict=True))
    assert work == {
        "spatial": [16 * 27 * 8, 16 * 8],
        "depthwise": [16 * 9 * 16, 16 * 16],
        "pointwise": [16 * 16 * 24, 16 * 24],
        "fully_connected": [24 * 5, 5],
    }
    assert sum(macs for macs, _ in work.values()) == structure.whole().macs


def test_the_line_is_found_again(fashion: Structure, plans: list[Kept]) -> None:
    """Latencies and bytes that follow such a line are told for widths that were never seen, with noise to 2 %."""
    work = np.array([work_of(fashion, kept) for kept in plans])
    line = np.zeros(work.shape[1])
    line[[0, 3, 5, 6, 7]] = 0.05, 9e-7, 7e-8, 1e-6, 3e-7
    noise = np.random.default_rng(0).normal(1, 0.01, len(plans))
    found = fit_costs(fashion, plans[:18], (work @ line * noise)[:18], work[:18, :3] @ [9000, 0.9, 16])
    told = np.array([found.latency_of(kept) for kept in plans[18:]])
    assert np.abs(told / (work[18:] @ line) - 1).max() < 0.02
    assert found.error < 0.02
    assert found.latency.min() >= 0
    sizes = np.array([found.download_of(kept) for kept in plans[18:]])
    np.testing.assert_allclose(sizes, work[18:, :3] @ [9000, 0.9, 16], rtol=1e-6)


def test_random_widths_differ_and_keep_what_must_stay(fashion: Structure, plans: list[Kept]) -> None:
    """Multiples of eight, from a few channels to all, and never a layer without any."""
    assert len({kept.tobytes() for kept in plans}) == len(plans)
    shares = [fashion.cost(kept).macs / fashion.whole().macs for kept in plans]
    assert min(shares) < 0.2
    assert max(shares) > 0.5
    for kept in plans:
        for group in fashion.groups:
            stays = int(kept[group.units].sum())
            assert stays == len(group.units) or (stays and stays % 8 == 0)


def limits(structure: Structure, macs: float, parameters: float) -> list[Any]:
    base = structure.whole()
    return [
        lambda kept: structure.cost(kept).macs / base.macs / macs,
        lambda kept: structure.cost(kept).parameters / base.parameters / parameters,
    ]


@pytest.mark.parametrize(("macs", "parameters"), [(0.4, 0.3), (0.3, 0.4), (0.3, 1.0), (0.9, 0.3)])
def test_a_plan_within_two_limits(fashion: Structure, macs: float, parameters: float) -> None:
    """Neither is passed, one of them is used up, and it is worth more than one that knows but the tighter limit."""
    scores = np.random.default_rng(1).lognormal(0, 1, len(fashion))
    uses = limits(fashion, macs, parameters)
    kept = plan_within(fashion, OPTIONS, scores, uses, most={})
    taken = [use(kept) for use in uses]
    assert max(taken) <= 1
    assert max(taken) >= 0.97
    as_one = plan_within(fashion, OPTIONS, scores, [lambda kept: max(use(kept) for use in uses)], most={})
    assert scores[kept].sum() >= scores[as_one].sum()
    if macs < 0.5 and parameters < 0.5:
        assert min(taken) >= 0.8


def test_one_group_can_be_held_narrower(fashion: Structure) -> None:
    """What it gives up, others get."""
    scores = np.random.default_rng(1).lognormal(0, 1, len(fashion))
    uses = limits(fashion, 0.4, 0.4)
    stem = next(group for group in fashion.groups if group.name == "stem")
    scores[stem.units] *= 100
    free, held = (plan_within(fashion, OPTIONS, scores, uses, most=most) for most in ({}, {"stem": 8}))
    assert (free[stem.units].sum(), held[stem.units].sum()) == (16, 8)
    assert scores[stem.units][held[stem.units]].min() >= scores[stem.units][~held[stem.units]].max()
    others = np.setdiff1d(np.arange(len(fashion)), stem.units)
    assert scores[others][held[others]].sum() > scores[others][free[others]].sum()
    with pytest.raises(OutOfReach, match=r"of the limits"):
        plan_within(fashion, OPTIONS, scores, limits(fashion, 0.001, 1), most={})


def test_widths_by_name(keras: Any) -> None:
    """Exactly so many channels, the best ones, whatever round_to; groups without a name stay whole."""
    L = keras.layers  # noqa: N806
    x = keras.Input((6, 6, 3))
    y = L.Conv2D(16, 3, name="front")(x)
    y = L.Conv2D(16, 1, name="before")(L.Conv2D(12, 3, name="middle")(y))
    both = L.Conv2D(24, 2, groups=2, name="grouped")(y)
    model = keras.Model(x, L.Dense(2, name="scores")(L.Flatten()(both)))
    options = ChannelOptions(widths={"front": 10}, importance="l1", round_to=8)
    result = prune_channels(model, options)
    assert {item.layer: (item.before, item.after) for item in result.report.removed} == {"front": (16, 10)}
    assert result.report.asked == "the widths of 1 group"
    assert result.report.verified is not None
    structure = analyse(model)
    scores = np.arange(len(structure), dtype=float)
    for widths, part in (
        ({"back": 8}, "'back' names no group"),
        ({"scores": 1}, "'scores' names no group"),
        ({"front": 17}, "front keeps 1 to 16 channels; got 17"),
        ({"before": 10}, "before keeps 12 to 24 channels, in steps of 12; got 10"),
        ({"front": 0}, "at least 1"),
        ({}, "at least 1"),
    ):
        with pytest.raises(UsageError, match=part):
            plan_channels(structure, ChannelOptions(widths=widths, round_to=1), scores)


def test_many_files_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each against the baseline of its own round, whatever order they were loaded in."""
    seen = []

    def worker(job: Any, *_: object, **__: object) -> dict[str, Any]:
        seen.append([Path(path).name for path in job["paths"]])
        rows = [[speed * {"b": 4, "x": 2, "y": 1}[name] for name in seen[-1]] for speed in (1e6, 3e6, 2e6)]
        return {"cpu_ns": rows, "wall_ns": rows, "block": 1}

    monkeypatch.setattr(measure, "ask_worker", worker)
    monkeypatch.setattr(measure, "_newest", lambda _: "litert")
    shares = measure.latency_shares(Path("b"), [Path("x"), Path("y")], processes=2)
    assert seen == [["b", "x", "y"], ["y", "x", "b"]]
    assert shares.tolist() == [0.5, 0.25]


def test_what_lies_between_two_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that few samples hardly tell apart the one whose answers are nearer to the dense model's is expected to
    lose less; where nothing is lost, or answers cannot be compared, the metric alone counts."""
    from edgeprune.maker.search.halving import Halving
    from edgeprune.points import Aims

    known: Any = SimpleNamespace(aims=Aims(download_bytes=1000, latency=0.5, max_drop=0.01))

    def expected(*files: tuple[float, float | None, int]) -> list[float]:
        made = {
            number: SimpleNamespace(point=SimpleNamespace(lost=lost, download_bytes=size), strayed=strayed)
            for number, (lost, strayed, size) in enumerate(files)
        }
        return list(Halving._expected(known, made).values())  # type: ignore[arg-type]

    near, far = expected((0.021, 0.04, 900), (0.020, 0.06, 900))
    assert near < far
    assert near + far == pytest.approx(0.041)
    assert far - near == pytest.approx(0.95 * 0.041 / 5 - 0.05 * 0.001)
    assert expected((0.02, None, 900), (0.01, 0.06, 900)) == [0.02, 0.01]
    assert expected((-0.02, 0.01, 900), (0.01, 0.06, 1100)) == pytest.approx([-0.02, 0.012])

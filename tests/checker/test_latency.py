"""From paired times to a verdict: statistics on made-up numbers, and the shape of what a worker measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS

from edgeprune.checker.latency import measure
from edgeprune.checker.latency.measure import ProcessTimes, compare_latency, judge, timed_files
from edgeprune.checker.latency.percentiles import percentiles_of
from edgeprune.checker.latency.statistics import (
    Interval,
    bootstrap_interval,
    geometric_mean,
    outcome_of,
    paired_ratios,
    process_medians,
    ratio_interval,
    widened_tolerance,
)
from edgeprune.errors import InputError, MissingExtra, RuntimeFailure, UsageError
from edgeprune.ledger import Outcome
from edgeprune.runtime.runtimes import RUNTIMES, RuntimeSpec
from edgeprune.runtime.session import installed_runtimes
from edgeprune.runtime.worker import block_length, pair_count, pair_orders, single_count

FILES = TESTS / "runtime_files"
RATIOS = st.lists(
    st.lists(st.floats(0.5, 2.0), min_size=1, max_size=6).map(np.array), min_size=1, max_size=4
)  # one array of paired ratios per process


def times(candidate: float, *, noise: float = 0.003, processes: int = 5, seed: int = 1) -> list[ProcessTimes]:
    """Made-up times: 1 ms for the baseline and its copy, `candidate` ms for the candidate, log-normal noise."""
    numbers = np.random.default_rng(seed)
    cpu_ms = [np.array([1.0, 1.0, candidate]) * np.exp(numbers.normal(0, noise, (30, 3))) for _ in range(processes)]
    return [ProcessTimes(cpu_ms=table, wall_ms=3 * table) for table in cpu_ms]


class TestStatistics:
    """Ratios, medians, means and intervals."""

    def test_paired_ratios(self) -> None:
        """Each candidate time is divided by the baseline time of its own pair."""
        assert paired_ratios([1.0, 2.0], [2.0, 1.0]).tolist() == [2.0, 0.5]

    @pytest.mark.parametrize("bad", [[1.0], [], [[1.0, 2.0]], [0.0, 1.0], [float("nan"), 1.0], [-1.0, 1.0]])
    def test_times_that_cannot_be(self, bad: list[Any]) -> None:
        """Lists of other lengths, and times of zero, below zero or NaN are refused."""
        with pytest.raises(ValueError, match="times must be"):
            paired_ratios([1.0, 1.0], bad)

    def test_geometric_mean(self) -> None:
        """Twice as slow and twice as fast cancel."""
        assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
        assert geometric_mean([1.0, 8.0, 1.0]) == pytest.approx(2.0)

    def test_process_medians_forget_outliers(self) -> None:
        """One pair that a neighbour disturbed does not move its process's median; processes may differ in length."""
        assert process_medians([np.array([1.0, 1.0, 50.0]), np.array([0.5, 2.0])]) == pytest.approx([1.0, 1.0])

    @given(RATIOS, st.integers(0, 100))
    def test_interval_lies_within_the_samples(self, ratios: list[np.ndarray], seed: int) -> None:
        """No resample can leave the range of the measured ratios, and low is at most high."""
        low, high = bootstrap_interval(ratios, seed=seed, resamples=50)
        everything = np.concatenate(ratios)
        assert everything.min() * (1 - 1e-9) <= low <= high <= everything.max() * (1 + 1e-9)

    @given(RATIOS)
    def test_swapping_the_files_inverts_the_interval(self, ratios: list[np.ndarray]) -> None:
        """Baseline against candidate is the inverse of candidate against baseline."""
        there = ratio_interval(ratios, seed=7)
        back = ratio_interval([1 / own for own in ratios], seed=7)
        assert (back.ratio, back.low, back.high) == pytest.approx((1 / there.ratio, 1 / there.high, 1 / there.low))

    @given(RATIOS, st.floats(0.1, 10))
    def test_a_factor_on_the_candidate_is_a_factor_on_the_ratio(self, ratios: list[np.ndarray], k: float) -> None:
        """A candidate k times as slow has k times the ratio and the interval."""
        one, scaled = ratio_interval(ratios, seed=3), ratio_interval([k * own for own in ratios], seed=3)
        assert (scaled.ratio, scaled.low, scaled.high) == pytest.approx((k * one.ratio, k * one.low, k * one.high))

    def test_the_same_seed_gives_the_same_interval(self) -> None:
        """The bootstrap is reproducible."""
        ratios = [np.array([0.9, 1.0, 1.2]), np.array([1.1, 1.0, 0.8])]
        assert bootstrap_interval(ratios, seed=5) == bootstrap_interval(ratios, seed=5)

    def test_differences_between_processes_are_in_the_interval(self) -> None:
        """Pairs that agree within processes that do not: the interval spans the processes."""
        low, high = bootstrap_interval([np.full(30, 0.9), np.full(30, 1.1)], seed=0)
        assert (low, high) == pytest.approx((0.9, 1.1))


class TestOutcome:
    """From an interval to a word."""

    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            (0.98, 1.02, Outcome.UNCHANGED),
            (0.979, 1.0, Outcome.INCONCLUSIVE),
            (1.0, 1.021, Outcome.INCONCLUSIVE),
            (0.9, 0.979, Outcome.FASTER),
            (0.9, 0.98, Outcome.INCONCLUSIVE),
            (1.021, 1.1, Outcome.SLOWER),
            (0.5, 2.0, Outcome.INCONCLUSIVE),
        ],
    )
    def test_tolerance_two_percent(self, low: float, high: float, expected: Outcome) -> None:
        """The whole interval must lie inside the tolerance, or wholly outside on one side."""
        assert outcome_of(low, high, 0.02) is expected

    @given(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(0, 0.1), st.floats(0, 0.1))
    def test_a_wider_tolerance_never_turns_unchanged_into_a_claim(
        self, one: float, other: float, tolerance: float, more: float
    ) -> None:
        """What is unchanged stays unchanged when the tolerance grows."""
        low, high = sorted((one, other))
        if outcome_of(low, high, tolerance) is Outcome.UNCHANGED:
            assert outcome_of(low, high, tolerance + more) is Outcome.UNCHANGED

    @pytest.mark.parametrize(
        ("low", "high", "expected"), [(1.0, 1.0, 0.02), (0.99, 1.005, 0.03), (0.995, 1.01, 0.03), (0.9, 1.0, 0.05)]
    )
    def test_null_run_widens_up_to_the_limit(self, low: float, high: float, expected: float) -> None:
        """How far the null run strays is added to the tolerance, but a noisy host gets 5 % at most."""
        null = Interval(ratio=1.0, low=low, high=high)
        assert widened_tolerance(0.02, null, limit=0.05) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("candidate", "noise", "expected"),
        [
            (1.0, 0.003, Outcome.UNCHANGED),
            (0.75, 0.003, Outcome.FASTER),
            (1.3, 0.003, Outcome.SLOWER),
            (1.0, 0.8, Outcome.INCONCLUSIVE),
            (0.978, 0.02, Outcome.INCONCLUSIVE),
        ],
    )
    def test_judged_from_times(self, candidate: float, noise: float, expected: Outcome) -> None:
        """Made-up times of a known ratio and noise get the verdict that they deserve."""
        assert judge(times(candidate, noise=noise), runtime="r", runtime_version="1", seed=0).verdict is expected

    def test_units_and_counts(self) -> None:
        """The ratio is candidate over baseline CPU time; milliseconds are medians per invoke; pairs are counted."""
        found = judge(times(0.5), runtime="litert", runtime_version="2.3.0", seed=0)
        assert found.ratio == pytest.approx(0.5, abs=0.002)
        assert (found.baseline_ms, found.candidate_ms) == pytest.approx((1.0, 0.5), abs=0.002)
        assert (found.baseline_wall_ms, found.candidate_wall_ms) == pytest.approx((3.0, 1.5), abs=0.006)
        assert (found.processes, found.pairs, found.threads) == (5, 150, 1)
        assert found.null_low <= found.null_ratio <= found.null_high
        assert "litert 2.3.0, 1 thread, batch 1: 150 ABBA pairs in 5 processes" in found.how


class TestPercentiles:
    """Single calls, and what is told of their tails."""

    def test_a_known_tail(self) -> None:
        """One call in fifty takes ten times as long: P99 sees it, the median does not, and the interval holds both."""
        calls = np.tile(np.where(np.arange(200) % 50 == 0, 10.0, 1.0)[:, None], (1, 3))
        process = ProcessTimes(cpu_ms=calls, wall_ms=calls, single_cpu_ms=calls, single_wall_ms=2 * calls)
        cpu, wall = percentiles_of([process] * 3, 2, seed=0)
        assert [value.ms for value in cpu.values] == pytest.approx([1.0, 1.0, 10.0])
        assert [value.ms for value in wall.values] == pytest.approx([2.0, 2.0, 20.0])
        assert (cpu.calls, cpu.processes, cpu.values[1].beyond) == (600, 3, 12)
        assert all(value.low_ms <= value.ms <= value.high_ms for value in cpu.values)

    def test_few_calls_have_a_wide_interval(self) -> None:
        """The tail of forty calls is less sure than that of four thousand of the same distribution."""
        drawn = np.random.default_rng(0).lognormal(0, 0.5, (4000, 3))
        widths = []
        for count in (40, 4000):
            some = drawn[:count]
            process = ProcessTimes(cpu_ms=some, wall_ms=some, single_cpu_ms=some, single_wall_ms=some)
            tail = percentiles_of([process], 0, seed=0)[0].values[1]
            widths.append((tail.high_ms - tail.low_ms) / tail.ms)
        assert widths[0] > 3 * widths[1]

    def test_none_were_timed(self) -> None:
        """Pairs alone give no percentiles."""
        assert percentiles_of(times(0.5), 2, seed=0) == ()

    def test_single_count(self) -> None:
        """A slow model is called a few times alone, a fast one as often as is asked for."""
        assert [single_count(ns, 3, 500) for ns in (100_000, 5_000_000, 400_000_000)] == [500, 67, 20]
        assert single_count(100_000, 3, 0) == 0


class TestProtocol:
    """What a worker times, and in which order."""

    def test_block_length(self) -> None:
        """A block lasts about 0.4 ms of CPU time, a slow model is invoked once, and no block is endless."""
        assert [block_length(ns) for ns in (0, 100_000, 17_000_000)] == [2_000, 4, 1]

    def test_pair_count(self) -> None:
        """A slow model gets the wanted pairs, a fast one enough to fill 0.4 s, but at most ten times as many."""
        assert pair_count(17_000_000, 1, 3, 30) == 30
        assert pair_count(100_000, 4, 3, 30) == 133  # 0.4 s / (6 blocks of 4 + 1 invokes of 0.1 ms)
        assert pair_count(100, 1, 3, 30) == 300

    def test_pair_orders(self) -> None:
        """Three files take three orders in turn, one for each file in the middle; the way back mirrors each."""
        assert pair_orders(3) == [(0, 1, 2), (0, 2, 1), (1, 0, 2)]

    def test_pair_orders_of_many_files(self) -> None:
        """Of many files not all orders: each is the first one once."""
        orders = pair_orders(20)
        assert [order[0] for order in orders] == list(range(20))
        assert all(sorted(order) == list(range(20)) for order in orders)

    def test_load_orders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Processes alternate which file is loaded first, and times come back under the right file's name."""
        first = []

        def worker(job: Mapping[str, Any], paths: list[Path], **rest: object) -> dict[str, Any]:
            names = [Path(path).name for path in job["paths"]]
            first.append(names[0])
            row = [{"dense.tflite": 1e6, "copy.tflite": 2e6, "dense_int8.tflite": 4e6}[name] for name in names]
            return {"cpu_ns": [row] * 3, "wall_ns": [row] * 3, "block": 1}

        monkeypatch.setattr(measure, "ask_worker", worker)
        monkeypatch.setitem(RUNTIMES, "litert", RuntimeSpec(distribution="numpy", module="none", extra="litert"))
        found = compare_latency(FILES / "dense.tflite", FILES / "dense_int8.tflite", runtime="litert", processes=3)
        assert first == ["dense.tflite", "dense_int8.tflite", "copy.tflite"]
        assert (found.ratio, found.null_ratio) == pytest.approx((4.0, 2.0))

    @pytest.mark.parametrize(("candidate", "processes"), [((1.0, 1.0), 2), ((0.5, 2.0), 6)])
    def test_inconclusive_measures_more(
        self, monkeypatch: pytest.MonkeyPatch, candidate: tuple[float, float], processes: int
    ) -> None:
        """Two processes that agree are enough; when they disagree as many follow, three times as many in all."""
        rows = (np.array([1e6, 1e6, 1e6 * factor]) for factor in candidate * 3)

        def worker(job: Mapping[str, Any], paths: list[Path], **rest: object) -> dict[str, Any]:
            row = next(rows)
            kind = [{"dense.tflite": 0, "copy.tflite": 1, "dense_int8.tflite": 2}[Path(p).name] for p in job["paths"]]
            return {"cpu_ns": [row[kind].tolist()], "wall_ns": [row[kind].tolist()], "block": 1}

        monkeypatch.setattr(measure, "ask_worker", worker)
        monkeypatch.setitem(RUNTIMES, "litert", RuntimeSpec(distribution="numpy", module="none", extra="litert"))
        found = compare_latency(FILES / "dense.tflite", FILES / "dense_int8.tflite", runtime="litert", processes=2)
        assert found.processes == processes

    @pytest.mark.alone
    @pytest.mark.skipif(not installed_runtimes(), reason="no runtime installed")
    def test_a_real_comparison(self) -> None:
        """A short real comparison fills every field; its numbers are this machine's business."""
        seen: list[tuple[int, int]] = []
        found = compare_latency(
            FILES / "two_inputs.tflite",
            FILES / "two_inputs.tflite",
            processes=2,
            pairs=2,
            warmups=1,
            on_progress=lambda *step: seen.append(step),
        )
        assert seen[-1][0] == seen[-1][1] == 2 * found.processes
        assert 0 < found.low <= found.ratio <= found.high
        assert found.baseline_ms > 0
        assert found.candidate_wall_ms > 0
        assert found.runtime == list(installed_runtimes())[-1]
        assert found.processes in (2, 4, 6)
        assert 2 * found.processes <= found.pairs <= 20 * found.processes

    @pytest.mark.alone
    @pytest.mark.skipif(not installed_runtimes(), reason="no runtime installed")
    def test_batches(self) -> None:
        """A batch is resized, told, and timed call by call; a file that cannot take it says what to do."""
        options: dict[str, Any] = {"processes": 1, "pairs": 1, "warmups": 0}
        file = FILES / "two_inputs.tflite"
        found, process_times = timed_files(file, file, batch=3, singles=7, **options)
        assert "batch 3" in found.how
        assert all(process.single_cpu_ms.shape == (7, 3) for process in process_times)
        fixed = TESTS / "files" / "float32.tflite"
        with pytest.raises(RuntimeFailure, match=r"cannot take batches of 4 .* edgeprune convert --input-shape"):
            timed_files(fixed, fixed, batch=4, **options)
        with pytest.raises(UsageError, match="a batch is at least 1"):
            timed_files(file, file, batch=0, **options)

    @pytest.mark.skipif(not installed_runtimes(), reason="no runtime installed")
    def test_a_broken_candidate(self) -> None:
        """A candidate that the runtime refuses is a one-line failure that names it."""
        with pytest.raises(RuntimeFailure, match=r"/broken\.tflite: the file was refused"):
            compare_latency(FILES / "dense.tflite", FILES / "broken.tflite", processes=1, pairs=1)

    def test_no_runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without any runtime the error names the extra of the newest one."""
        for name in list(RUNTIMES):
            monkeypatch.setitem(RUNTIMES, name, RuntimeSpec(distribution="edgeprune-none", module="none", extra=name))
        with pytest.raises(MissingExtra, match=r"edgeprune\[litert\]"):
            compare_latency(FILES / "dense.tflite", FILES / "dense.tflite")

    @pytest.mark.parametrize("options", [{"processes": 0}, {"pairs": 0}, {"warmups": -1}])
    def test_counts_that_cannot_be(self, options: dict[str, int]) -> None:
        """No processes, no pairs or fewer than no warm-ups is a usage error."""
        with pytest.raises(UsageError, match="at least 1"):
            compare_latency(FILES / "dense.tflite", FILES / "dense.tflite", runtime="litert", **options)

    def test_missing_baseline(self, tmp_path: Path) -> None:
        """A baseline that is not there is an input error before any process starts."""
        with pytest.raises(InputError, match=r"gone\.tflite does not exist"):
            compare_latency(tmp_path / "gone.tflite", FILES / "dense.tflite", runtime="litert")

"""Sparsity schedules: edgeprune/maker/pruning/schedule.py."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import UsageError
from edgeprune.maker.pruning.schedule import SCHEDULES, ConstantSparsity, PolynomialDecay, check_sparsity

SPARSITIES = st.floats(0, 0.999)


@st.composite
def decays(draw: st.DrawFn) -> PolynomialDecay:
    """Schedules that never make a model denser."""
    initial, final = sorted((draw(SPARSITIES), draw(SPARSITIES)))
    begin, length = draw(st.integers(0, 50)), draw(st.integers(0, 200))
    return PolynomialDecay(
        initial_sparsity=initial,
        final_sparsity=final,
        begin_step=begin,
        end_step=begin + length,
        power=draw(st.floats(0.5, 5)),
        frequency=draw(st.integers(1, 60)),
    )


@st.composite
def constants(draw: st.DrawFn) -> ConstantSparsity:
    """Any constant schedule."""
    begin = draw(st.integers(0, 50))
    return ConstantSparsity(
        final_sparsity=draw(SPARSITIES),
        begin_step=begin,
        end_step=begin + draw(st.integers(0, 200)),
        frequency=draw(st.integers(1, 60)),
    )


@pytest.mark.parametrize(
    ("step", "wanted"),
    [(9, 0.0), (10, 0.2), (35, 0.546875), (60, 0.725), (85, 0.790625), (110, 0.8), (1000, 0.8)],
)
def test_cubic_decay_has_the_values_of_the_paper(step: int, wanted: float) -> None:
    """s(t) = 0.8 - 0.6 (1 - (t - 10) / 100)^3 between steps 10 and 110; at a quarter 0.8 - 0.6 * 0.421875."""
    schedule = PolynomialDecay(initial_sparsity=0.2, final_sparsity=0.8, begin_step=10, end_step=110)
    assert schedule.sparsity_at(step) == pytest.approx(wanted, abs=1e-12)


def test_power_one_is_a_straight_line() -> None:
    """With power 1 half of the steps bring half of the sparsity."""
    assert PolynomialDecay(final_sparsity=0.8, end_step=10, power=1).sparsity_at(5) == pytest.approx(0.4)


@given(decays())
def test_decay_grows_from_the_initial_to_the_final_sparsity(schedule: PolynomialDecay) -> None:
    """It is 0 before begin_step, never falls from there on, never leaves its bounds and ends exactly at the final."""
    steps = range(schedule.begin_step, schedule.end_step + 2)
    values = [schedule.sparsity_at(step) for step in steps]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert all(schedule.initial_sparsity - 1e-12 <= v <= schedule.final_sparsity + 1e-12 for v in values)
    assert schedule.sparsity_at(schedule.end_step) == schedule.final_sparsity
    if schedule.begin_step:
        assert schedule.sparsity_at(schedule.begin_step - 1) == 0.0
    if schedule.end_step > schedule.begin_step:
        assert values[0] == pytest.approx(schedule.initial_sparsity, abs=1e-12)


@given(constants())
def test_constant_is_a_step_at_begin(schedule: ConstantSparsity) -> None:
    """Nothing is pruned before begin_step, everything asked for from begin_step on."""
    assert schedule.sparsity_at(schedule.begin_step) == schedule.final_sparsity
    assert schedule.sparsity_at(schedule.end_step + 7) == schedule.final_sparsity
    if schedule.begin_step:
        assert schedule.sparsity_at(schedule.begin_step - 1) == 0.0


@given(st.one_of(decays(), constants()))
def test_masks_are_renewed_at_both_ends_and_every_frequency_steps(schedule: PolynomialDecay | ConstantSparsity) -> None:
    """Renewals start at begin_step, end at end_step, and only the last gap may be shorter than `frequency`."""
    renewed = list(schedule.renewals())
    assert renewed[0] == schedule.begin_step
    assert renewed[-1] == schedule.end_step
    gaps = [b - a for a, b in itertools.pairwise(renewed)]
    assert all(gap == schedule.frequency for gap in gaps[:-1])
    assert all(0 < gap <= schedule.frequency for gap in gaps[-1:])


def test_a_schedule_from_step_0_prunes_before_the_first_batch() -> None:
    """The defaults renew at step 0 and only there, where tfmot's defaults would leave 99 steps dense."""
    schedule = ConstantSparsity(final_sparsity=0.8)
    assert schedule.renewals() == (0,)
    assert schedule.sparsity_at(0) == 0.8


def test_the_end_is_renewed_although_frequency_does_not_meet_it() -> None:
    """From 2 to 9 every 3 steps: 2, 5, 8 and the end, 9."""
    schedule = PolynomialDecay(final_sparsity=0.5, begin_step=2, end_step=9, frequency=3)
    assert schedule.renewals() == (2, 5, 8, 9)


def test_a_decay_of_no_length_jumps_to_its_end() -> None:
    """With begin_step = end_step there is no progress to divide by: the final sparsity holds at once."""
    schedule = PolynomialDecay(final_sparsity=0.7, initial_sparsity=0.1, begin_step=4, end_step=4)
    assert [schedule.sparsity_at(step) for step in (3, 4, 5)] == [0.0, 0.7, 0.7]


@given(st.floats(0, 1, exclude_max=True))
def test_a_fraction_below_one_is_a_sparsity(value: float) -> None:
    """Every number in [0, 1) is returned as it is."""
    assert check_sparsity(value) == value


@given(st.one_of(st.floats(max_value=0, exclude_max=True), st.floats(min_value=1), st.just(math.nan)))
def test_anything_else_is_not_a_sparsity(value: float) -> None:
    """Negative numbers, 1 and more, infinities and NaN are refused."""
    with pytest.raises(UsageError, match="at least 0 and below 1"):
        check_sparsity(value)


def test_a_percentage_is_refused_with_the_fraction_meant() -> None:
    """80 is most likely 0.8, and the message says so and names the option."""
    with pytest.raises(UsageError, match=r"^initial_sparsity .* got 80; did you mean 0\.8\?$"):
        PolynomialDecay(final_sparsity=0.9, initial_sparsity=80, end_step=5)


@pytest.mark.parametrize(
    ("begin", "end", "frequency"), [(-1, 5, 1), (6, 5, 1), (0, 5, 0)], ids=["negative", "backwards", "never"]
)
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_impossible_steps_are_refused(name: str, begin: int, end: int, frequency: int) -> None:
    """A negative begin, an end before the begin and a frequency of 0 are usage errors in every schedule."""
    with pytest.raises(UsageError, match=f"begin_step={begin}, end_step={end}, frequency={frequency}"):
        SCHEDULES[name](final_sparsity=0.5, begin_step=begin, end_step=end, frequency=frequency)

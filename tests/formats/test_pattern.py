"""N:M as it is written, and counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import UsageError
from edgeprune.formats.pattern import Pattern


@pytest.mark.parametrize("text", ["2:4", " 14:16 ", "1 : 4"])
def test_a_pattern_reads_itself_back(text: str) -> None:
    assert Pattern.parse(str(Pattern.parse(text))) == Pattern.parse(text)


@pytest.mark.parametrize("text", ["", "2", "4:2", "4:4", "0:4", "a:b", "-1:4", "2:4:8", "2:99999"])
def test_what_is_no_pattern_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Pattern.parse(text)
    assert "2:4" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(data=st.data())
def test_violations_are_counted_as_a_loop_would(data: st.DataObject) -> None:
    m = data.draw(st.integers(2, 6))
    pattern = Pattern(n=data.draw(st.integers(1, m - 1)), m=m)
    taps, groups, outputs = (data.draw(st.integers(1, 3)) for _ in range(3))
    seed = data.draw(st.integers(0, 2**31))
    nonzero = np.random.default_rng(seed).random((taps, groups * m, outputs)) < 0.5
    slow = sum(
        nonzero[tap, group * m : (group + 1) * m, output].sum() > pattern.n
        for tap in range(taps)
        for group in range(groups)
        for output in range(outputs)
    )
    assert pattern.violations(nonzero) == slow


def test_inputs_that_m_does_not_divide_are_not_counted() -> None:
    with pytest.raises(ValueError, match="6 inputs"):
        Pattern(n=2, m=4).violations(np.ones((6, 3), bool))

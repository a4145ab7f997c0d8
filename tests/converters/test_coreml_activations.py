"""int8 activations of Core ML packages: where coremltools puts them, with ranges of the evaluator."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from places import TESTS

from edgeprune.converters.evaluator.program import Evaluator
from edgeprune.formats.coreml.mil_reader import read_coreml

FILES = TESTS / "files"


def test_ranges_of_all_samples() -> None:
    """The smallest and the largest number of every value, not those of the last sample."""
    evaluator = Evaluator(read_coreml(FILES / "half.mlpackage"))
    for count in (3, 20):  # one operation at a time, and as one graph
        samples = np.random.default_rng(0).uniform(0, 1, (count, 6, 6, 2)).astype(np.float32)
        samples[0] *= 9
        found = evaluator.ranges({"image": samples})
        assert found["image"] == (samples.min(), samples.max())
        steps = {step.name: step.values for step in evaluator.trace({"image": samples})}
        assert found.keys() == {"image", *steps}
        for name, values in steps.items():
            assert found[name] == pytest.approx((values.min(), values.max()), rel=1e-3)


@pytest.fixture(scope="module")
def quantized() -> Any:
    """What integer_activations.py printed."""
    pytest.importorskip("coremltools")
    command = [sys.executable, "-P", str(TESTS / "converters" / "integer_activations.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_as_coremltools_puts_them(quantized: Any) -> None:
    """With the same ranges, coremltools' own function makes the same program to the last bit: pairs and scales."""
    assert quantized["same"]


@pytest.mark.slow
def test_scales(quantized: Any) -> None:
    """A given range takes the place of a found one; what is joined shares one range, what never left zero has the scale
    1, and a sum of whole numbers is left alone."""
    scales, found = quantized["scales"], quantized["ranges"]
    assert scales["image"] == pytest.approx(12.7 / 127, rel=1e-3)
    assert scales["last"] == 1
    assert len({scales[name] for name in ("pool", "relu6_0", "dead", "join")}) == 1
    assert found["dead"] == [0, 0]
    assert scales["join"] == pytest.approx(found["join"][1] / 127, rel=2e-3)
    assert "count" not in scales
    assert scales["positive"] == pytest.approx(32752 / 127, rel=1e-3)  # 6e4 is more than a range in float16 can be wide
    assert quantized["refusal"].startswith("'first' is NaN on the calibration samples; give samples")

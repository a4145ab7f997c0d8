"""Tables of few values: facts on numbers alone, and on a package whose constants have one each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import image_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.artifact import Format, Precision
from edgeprune.converters.coarse_palettes import PLAIN, CoarsePalettes, package_bytes
from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.evaluator.program import Evaluator
from edgeprune.converters.palettes import STORED_BITS, indexes, stored_bits, table_of
from edgeprune.converters.session import Converter
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.errors import UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.coreml.storage import constants_of
from edgeprune.formats.elements import pack_bits, unpack_bits
from edgeprune.maker.keras.models import predict
from edgeprune.maker.training.data.samples import Samples


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 256), st.booleans())
def test_tables_are_near_and_zeros_stay(seed: int, count: int, zeros: bool) -> None:
    """No more values than asked, the nearest of them for each number, zeros zeros; no worse than values evenly spread
    between the least and the largest; few numbers stay what they are."""
    rng = np.random.default_rng(seed)
    values = (rng.laplace(size=600) * (rng.random(600) > 0.5 * zeros)).astype(np.float16)
    table = table_of(values, count)
    assert table.dtype == np.float16
    assert len(table) <= count
    assert len(table) <= 1 << stored_bits(table)
    replaced = table[indexes(values, table)].astype(np.float64)
    nearest = table[np.abs(values.astype(np.float64)[:, None] - table.astype(np.float64)).argmin(1)].astype(np.float64)
    assert np.allclose(np.abs(replaced - values), np.abs(nearest - values))
    assert not replaced[values == 0].any()
    even = np.linspace(float(values.min()), float(values.max()), count)
    evenly = even[np.abs(values.astype(np.float64)[:, None] - even).argmin(1)]
    assert np.square(replaced - values).sum() <= np.square(evenly - values).sum() + 1e-3
    assert np.array_equal(table_of(values[:5], 8)[indexes(values[:5], table_of(values[:5], 8))], values[:5])


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.sampled_from(STORED_BITS))
def test_packed_bits_come_back(values: list[int], bits: int) -> None:
    """What is packed is what is unpacked."""
    few = np.array(values, np.uint8) & np.uint8((1 << bits) - 1)
    assert np.array_equal(unpack_bits(pack_bits(few, bits), bits, len(few)), few)


def test_a_search_needs_samples_for_trials(tmp_path: Path, vector_model: Any) -> None:
    """What each layer costs is tried on training samples."""
    held = Samples(path=Path("held.npz"), inputs={"x": np.zeros((4, 6), np.float32)}, targets=np.zeros(4))
    with pytest.raises(UsageError, match="add --calibration"):
        convert(
            vector_model,
            tmp_path / "m.mlpackage",
            precision="palette8",
            validation=held,
            metric="accuracy",
            options=ConvertOptions(slim=SlimOptions(spend="1 %")),
        )


@pytest.mark.slow
def test_each_constant_gets_the_table_that_pays(image_model: Any, converter: Converter, tmp_path: Path) -> None:
    """Against answers of the model itself: the package is smaller than float16 and than the largest table for all, it
    loses no more than it may, and what was scored in memory is what was written."""
    rng = np.random.default_rng(0)
    rows = image_arrays(500, 3)["x"]
    answers = predict(image_model, {"image": rows})["scores"]
    calibration = {"image": rows[400:]}
    entry = convert(
        image_model,
        tmp_path / "spent.mlpackage",
        precision="palette8",
        calibration=calibration,
        validation=Samples(path=Path("held.npz"), inputs={"image": rows[:400]}, targets=answers[:400].argmax(-1)),
        metric="accuracy",
        options=ConvertOptions(slim=SlimOptions(spend="2 %"), tolerance=0.9),
        converter=converter,
    )
    made = converter.export(
        image_model,
        tmp_path / "plain.mlpackage",
        Format.COREML,
        Precision.PALETTE8,
        slim=SlimOptions(spend="2 %"),
        calibration=calibration,
    )
    plain = package_bytes(made)
    assert entry.download_bytes["deflate"] < 0.95 * plain
    spent = read_contents(tmp_path / "spent.mlpackage").package
    assert spent is not None
    scores = Evaluator(spent).run({"image": rows[:400]})["scores"]
    assert (scores.argmax(-1) == answers[:400].argmax(-1)).mean() >= 0.97
    layers = CoarsePalettes(made, 8, None)
    chosen = {number: float(rng.choice([16, 2])) for number in range(len(layers.names))}
    written = converter.export(
        image_model, tmp_path / "b.mlpackage", Format.COREML, Precision.PALETTE8, tables=layers.tables(chosen)
    )
    assert written.contents.package is not None
    known = constants_of(written.contents.package)
    for number, name in enumerate(layers.names):
        stored = next(values for key, values in known.items() if key.startswith(name) and np.size(values) > 64)
        assert len(np.unique(np.asarray(stored))) <= chosen[number] < PLAIN
    found = Evaluator(written.contents.package).run({"image": rows[:20]})["scores"]
    assert np.allclose(layers.run(chosen, {"image": rows[:20]})["scores"], found, atol=1e-3)
    assert abs(layers.download_bytes(chosen) - package_bytes(written)) < 0.25 * plain

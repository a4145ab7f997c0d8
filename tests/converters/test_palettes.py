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
from edgeprune.converters.coarse_palettes import package_bytes
from edgeprune.converters.conversion import ConvertOptions, convert
from edgeprune.converters.evaluator.program import Evaluator
from edgeprune.converters.ladder_options import LadderOptions
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.palettes import STORED_BITS, indexes, stored_bits, table_of
from edgeprune.converters.searched import searched
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.spending import Judge
from edgeprune.errors import UsageError
from edgeprune.formats.coreml.storage import constants_of
from edgeprune.formats.elements import pack_bits, unpack_bits
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.models import predict
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.metrics import METRICS
from edgeprune.maker.training.task import Score


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
    """Against answers of the model itself: the package is smaller than float16 by far, it loses no more than it may,
    and each constant has the table that was chosen for it, as the evaluator read it in the trials."""
    rows = image_arrays(160, 3)["x"]
    answers = predict(image_model, {"image": rows})["scores"]
    held = Samples(path=Path("held.npz"), inputs={"image": rows[:120]}, targets=answers[:120].argmax(-1))
    calls: list[tuple[Exported, int, dict[str, np.ndarray]]] = []

    def export(**more: Any) -> Exported:
        made = converter.export(image_model, tmp_path / "m.mlpackage", Format.COREML, Precision.PALETTE8, **more)
        calls.append((made, package_bytes(made), more.get("tables") or {}))
        return made

    found = searched(
        export,
        SlimOptions(spend="5 %"),
        LadderOptions(),
        model=image_model,
        app=AppOptions(),
        io_type="float32",
        calibration={"image": rows[120:]},
        judge=Judge.of(image_model, held, Score(name="accuracy", metric=METRICS["accuracy"], output="scores", place=0)),
        progress=Progress(quiet=True),
    )
    (_, plain, none), (written, size, tables) = calls
    assert not none
    assert tables
    assert found.made is written
    assert size < 0.98 * plain
    package = written.contents.package
    assert package is not None
    scores = Evaluator(package).run({"image": rows[:120]})["scores"]
    assert (scores.argmax(-1) == held.told[""]).mean() >= 0.9
    known = constants_of(package)
    for name, table in tables.items():
        stored = np.unique(np.asarray(known[f"{name}_palettized"]))
        assert len(stored) <= len(table)
        assert np.isin(stored, table).all()

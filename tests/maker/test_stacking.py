"""Steps on steps: what an earlier one won, a later one keeps, or the run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import image_arrays

from edgeprune.errors import EdgepruneError
from edgeprune.maker.keras.models import clone
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.masked_training import prune_while_training
from edgeprune.maker.pruning.options import ChannelOptions, MagnitudeOptions
from edgeprune.maker.pruning.schedule import PolynomialDecay
from edgeprune.maker.recipe.kept import Holdings, zero_places
from edgeprune.maker.recipe.steps import ChannelStep, FinetuneStep, PruneStep
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.options import TrainOptions

TRAIN = TrainOptions(epochs=1, batch_size=16, seed=3)


def pruning(name: str = "pruned", **options: Any) -> PruneStep:
    return PruneStep(name=name, options=MagnitudeOptions(**options))


def tuning() -> FinetuneStep:
    return FinetuneStep(training=TRAIN)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    arrays = image_arrays(64, 3)
    return Samples(path=tmp_path, inputs={"image": arrays["x"]}, targets={"": arrays["y"]})


def test_a_pruning_training_holds_the_zeros_of_an_earlier_step(image_model: Any, samples: Samples) -> None:
    """Those of kernels that it prunes less, and of kernels that it does not prune."""
    first = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.8)).model
    before = zero_places(first)
    decay = PolynomialDecay(initial_sparsity=0.0, final_sparsity=0.3, end_step=2, power=3.0, frequency=1)
    found, _ = prune_while_training(
        first,
        MagnitudeOptions(sparsity=0.3, exclude=("point",)),
        decay,
        samples,
        None,
        "accuracy",
        TRAIN,
        settled_step=2,
    )
    after = zero_places(found.model)
    assert before.keys() == after.keys()
    assert all((mask & after[place]).sum() == mask.sum() for place, mask in before.items())
    # It did train: a model that stood still would keep everything.
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(first.weights, found.model.weights, strict=True))


def test_lost_zeros_are_an_error_that_names_the_layer(image_model: Any) -> None:
    holdings = Holdings()
    pruned = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.5)).model
    assert holdings.after(pruning(sparsity=0.5), pruned) == ()
    (kept,) = holdings.after(tuning(), pruned)
    assert (kept.of, kept.what, kept.asked) == ("pruned", "zeros", kept.got)
    assert kept.got > 0
    spoilt = clone(pruned)
    kernel = spoilt.get_layer("point").kernel
    values = np.array(kernel)
    flat = values.reshape(-1)
    flat[np.flatnonzero(flat == 0)[:2]] = 1.0
    kernel.assign(values)
    with pytest.raises(EdgepruneError, match=r"'fine-tuned' loses .* 'pruned' won: layer 'point': 2 of its") as raised:
        holdings.after(tuning(), spoilt)
    assert raised.value.exit_code == 3


def test_zeros_are_followed_through_a_cut(image_model: Any) -> None:
    """Channels that go take their zeros along; the others' stay where they are."""
    from edgeprune.maker.pruning.channel.pruner import prune_channels

    holdings, step = (
        Holdings(),
        ChannelStep(name="cut", options=ChannelOptions(ratio=0.5, round_to=4, compensate="none")),
    )
    pruned = prune_magnitude(image_model, MagnitudeOptions(sparsity=0.5)).model
    holdings.after(pruning(sparsity=0.5), pruned)
    assert step.options is not None
    cut = prune_channels(pruned, step.options)
    narrowed = [width.layer for width in cut.report.removed]
    (kept,) = holdings.after(step, cut.model, kept=cut.kept, narrowed=narrowed)
    whole = sum(int(mask.sum()) for mask in zero_places(pruned).values())
    assert 0 < kept.asked == kept.got < whole
    zeros, widths = holdings.after(tuning(), cut.model)
    assert (widths.of, widths.what, widths.asked, widths.got) == ("cut", "widths", len(narrowed), len(narrowed))
    assert zeros.asked == kept.got
    with pytest.raises(EdgepruneError, match="loses what step"):
        holdings.after(tuning(), pruned)

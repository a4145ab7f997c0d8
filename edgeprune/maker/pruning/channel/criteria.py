"""How much a channel matters: criteria from the literature in one table. Light, for the command line lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = ["CRITERIA", "Criterion", "l2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """A way to score channels. `rows` scores the channels of a weight given as [channels, weights of each]; None for
    criteria that look at something else. `absolute` scores have one unit in all layers (a change of the loss), so that
    they can be set against what a channel costs. `source` is the paper."""

    name: str
    rows: Callable[[Floats], Floats] | None
    needs_data: bool = False
    needs_targets: bool = False
    absolute: bool = False
    source: str


def l1(rows: Floats) -> Floats:
    """Sum of magnitudes."""
    import numpy as np

    total: Floats = np.abs(rows).sum(1)
    return total


def l2(rows: Floats) -> Floats:
    """Euclidean norm."""
    import numpy as np

    norms: Floats = np.linalg.norm(rows, axis=1)
    return norms


def geometric_median(rows: Floats) -> Floats:
    """Sum of the distances to all other channels: the one near the geometric median can be replaced by the others."""
    import numpy as np

    squares = (rows**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0))
    np.fill_diagonal(distances, 0)
    total: Floats = distances.sum(1)
    return total


def lamp(rows: Floats) -> Floats:
    """Squared norm over the sum of the squared norms of all channels that are at least as large."""
    import numpy as np

    squares = (rows**2).sum(1)
    order = np.argsort(squares, kind="stable")
    rest = np.cumsum(squares[order][::-1])[::-1]
    scores: Floats = np.empty_like(squares)
    scores[order] = squares[order] / np.maximum(rest, np.finfo(np.float64).tiny)
    return scores


CRITERIA: dict[str, Criterion] = {
    c.name: c
    for c in (
        Criterion(
            name="l1", rows=l1, source="Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710"
        ),
        Criterion(name="l2", rows=l2, source="Fang et al. 2023, DepGraph (group norm), arXiv:2301.12900"),
        Criterion(name="bn_scale", rows=None, source="Liu et al. 2017, Network Slimming, arXiv:1708.06519"),
        Criterion(name="fpgm", rows=geometric_median, source="He et al. 2019, geometric median, arXiv:1811.00250"),
        Criterion(name="lamp", rows=lamp, source="Lee et al. 2021, layer-adaptive magnitude, arXiv:2010.07611"),
        Criterion(
            name="fisher",
            rows=None,
            needs_data=True,
            absolute=True,
            source="Theis et al. 2018, Fisher pruning (here of the outputs themselves), arXiv:1801.05787",
        ),
        Criterion(
            name="taylor",
            rows=None,
            needs_data=True,
            needs_targets=True,
            absolute=True,
            source="Molchanov et al. 2019, first-order Taylor expansion, arXiv:1906.10771",
        ),
        Criterion(
            name="activation",
            rows=None,
            needs_data=True,
            source="Molchanov et al. 2017, mean activation, arXiv:1611.06440",
        ),
        Criterion(
            name="random", rows=None, source="Mittal et al. 2018, random pruning as a baseline, arXiv:1801.10447"
        ),
    )
}

"""What is told of a file on a target with an accelerator: records, which nothing here fills."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgeprune.checker.latency.accelerators.rules import Source
from edgeprune.checker.latency.sparsity import Condition

__all__ = ["Gain", "Maps", "MatrixShape", "OpPlacement", "Placement"]


class Maps(enum.StrEnum):
    """Whether the accelerator takes an operation, or every one of a file."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


WORTH = 1.1  # times as fast: what a change of the model and of its training is held against


@dataclass(frozen=True, slots=True, kw_only=True)
class OpPlacement:
    """An operation, whether it maps, and the conditions that fail or that could not be evaluated, each with its source.

    `output` is the name of what it computes.
    """

    index: int
    op: str
    output: str
    macs: int
    maps: Maps
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixShape:
    """A product: weights (outputs, inputs) by activations (inputs, columns), the columns of one inference."""

    outputs: int
    inputs: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What sparse tensor cores can gain for a file, estimated from documents; shares are of the MACs, None where these
    are not in the file.

    `eligible_share` is in operations of a shape that can be sparse, `aligned_share` in those of them whose widths
    NVIDIA's own pruning asks for, `wide_share` in those that are large enough to be faster as well, and `kept_share`
    where the weights also keep the pattern; `weights` counts the large ones, `weights_kept` those that keep it. `low`,
    `high` and `most` are how many times as fast the whole can become when all of the large ones are `k_low`, `k_high`
    and `k_most` times as fast; of `measured` operations that factor is the one in the table `table`. `commands` measure
    it, empty for a file of another format than ONNX. `shapes` are the products and 1x1 convolutions that could be
    sparse.
    """

    eligible_share: float | None
    aligned_share: float | None
    wide_share: float | None
    kept_share: float | None
    weights: int
    weights_kept: int
    k_low: float
    k_high: float
    k_most: float
    low: float | None
    high: float | None
    most: float | None
    table: str | None
    measured: int
    commands: tuple[str, ...]
    shapes: tuple[MatrixShape, ...]

    @property
    def pays(self) -> bool | None:
        """Whether measuring is worth its while; None where the file does not tell its MACs."""
        return None if self.wide_share is None or self.most is None else self.most >= WORTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the operations of a file run on a target with an accelerator, by its published rules: nothing was compiled
    and nothing measured.

    `refused` says why nothing maps where the whole file is of a kind that the target cannot run; `ops` are then empty.
    `gain` is told of targets that take sparse weights.
    """

    target: str
    title: str
    compiler: str
    maps: Maps
    ops: tuple[OpPlacement, ...]
    sources: tuple[Source, ...]
    refused: str = ""
    note: str = ""
    gain: Gain | None = None

    def of(self, maps: Maps) -> tuple[OpPlacement, ...]:
        """The operations with this answer, in order."""
        return tuple(op for op in self.ops if op.maps is maps)

    @property
    def macs_share(self) -> float | None:
        """Share of the multiplications in operations that map; None where there are none."""
        macs = sum(op.macs for op in self.ops)
        return sum(op.macs for op in self.of(Maps.YES)) / macs if macs else None

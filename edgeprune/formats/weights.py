"""Which arrays of a model are weights: one rule for every format, by what an array is for.

A weight is what an operation takes as its kernel, matrix or table: the kernel of a Dense(1) is one though it has a
single column, the bias of a bidirectional LSTM is none though it has two rows. Each format says in a `Uses` what its
operations take. Where a file does not tell what an array is for (an operation of somebody's own, a variable without a
name), it is a weight when at least two of its axes are longer than 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Role", "Uses"]

Place = int | str  # of an operation's input: its position, or the name of the parameter


class Role(StrEnum):
    """What an array is for: sparsity is of the weights, parameters are weights and biases.

    BIAS is any parameter that is no weight: also statistics and scales of a normalization, and learned slopes.
    """

    WEIGHT = "weight"
    BIAS = "bias"
    STEERING = "steering"  # a shape, an axis, a constant that nothing uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """Where the operations of a format take weights and biases, by kind of operation; "" stands for any kind.

    `elementwise` kinds add or multiply by an array of the size of their activations, which is no weight.
    """

    weights: Mapping[str, Collection[Place]]
    biases: Mapping[str, Collection[Place]]
    elementwise: frozenset[str] = frozenset()

    def knows(self, kind: str, place: Place) -> bool:
        """Whether operations of `kind` take a weight or a bias at `place`: then one number is a parameter, too."""
        return any(place in table.get(known, ()) for table in (self.weights, self.biases) for known in (kind, ""))

    def role(self, kind: str, place: Place, shape: tuple[int, ...]) -> Role:
        """The role of a parameter that an operation of `kind` takes at `place`: weight or bias."""
        for known in (kind, ""):
            if place in self.weights.get(known, ()):
                return Role.WEIGHT
            if place in self.biases.get(known, ()):
                return Role.BIAS
        if kind in self.elementwise or (kind and kind in self.weights):
            return Role.BIAS
        return Role.WEIGHT if sum(size > 1 for size in shape) >= 2 else Role.BIAS

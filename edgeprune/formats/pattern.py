"""N:M: at most N non-zero weights among M consecutive inputs of one output.

The pattern that sparse tensor cores compute with (2:4; Mishra et al. 2021, arXiv:2104.08378). One type for what is
asked of a pruning, what a file is counted for and what a budget holds. Light, for the command line reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Pattern"]

_WRITTEN = re.compile(r"\s*(\d{1,4})\s*:\s*(\d{1,4})\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """At most `n` non-zeros of every `m` consecutive inputs of an output; printed as "2:4"."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise UsageError(f"{self.n}:{self.m} is no pattern; N:M keeps at least 1 and fewer than M weights: '2:4'")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """The pattern of "2:4". Raises UsageError."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            raise UsageError(f"{text[:40]!r} is no pattern; write N:M, the non-zeros of M consecutive inputs: '2:4'")
        return cls(n=int(match.group(1)), m=int(match.group(2)))

    @property
    def sparsity(self) -> float:
        """The fraction of the weights that is zero at the least: 0.5 for 2:4."""
        return 1 - self.n / self.m

    def violations(self, nonzero: np.ndarray) -> int:
        """How many groups have more than `n` non-zeros.

        `nonzero` (bool) has shape (..., inputs, outputs), consecutive inputs along the axis before the last. Raises
        ValueError where `m` does not divide the inputs.
        """
        import numpy as np

        inputs, outputs = nonzero.shape[-2:]
        if inputs % self.m:
            raise ValueError(f"{inputs} inputs are no multiple of {self.m}")
        groups = nonzero.reshape(-1, inputs // self.m, self.m, outputs)
        return int(np.count_nonzero(np.count_nonzero(groups, axis=2) > self.n))

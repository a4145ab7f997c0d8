"""What sparse kernels gain, by a law that was measured: the time of 1x1 convolutions is linear in their non-zeros.

Fitted within 6 % on MobileNetV1 and V2 at 0 to 95 % zeros, in WebAssembly (LiteRT.js 2.5.3) and on x86 with AVX hidden
(LiteRT 2.3.0): T = a + b * (1 - sparsity), where sparse kernels break even with dense ones at 28 to 43 % zeros. No
phone is behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.checker.latency.sparsity import runs_sparse_kernels
from edgeprune.formats.contents import Contents

__all__ = ["SpeedUp", "runs_sparse", "speed_up_of"]

# Zeros at which sparse kernels take as long as dense ones: a non-zero costs 1 / (1 - this) dense multiplications.
BREAK_EVEN = (0.28, 0.43)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """How many times as fast as the same weights stored dense, from `low` to `high`: a range, not an interval."""

    low: float
    high: float
    how: str


def speed_up_of(share: float, sparsity: float) -> SpeedUp:
    """The range for a file whose 1x1 convolutions take this share of the dense time and have this share of zeros."""
    high, low = (1 / (1 - share + share * (1 - sparsity) / (1 - even)) for even in BREAK_EVEN)
    return SpeedUp(
        low=low,
        high=high,
        how=f"a law, not measured on this device: 1x1 convolutions take {share:.0%} of the dense estimate, "
        f"{sparsity:.1%} of their weights are zeros, and sparse kernels break even at {BREAK_EVEN[0]:.0%} to "
        f"{BREAK_EVEN[1]:.0%} (measured in WebAssembly and on x86 with AVX hidden)",
    )


def runs_sparse(contents: Contents, runtime: str) -> bool:
    """Whether the runtime of a profile has sparse kernels and chooses them for a file."""
    return runtime.startswith("XNNPACK") and contents.graph is not None and runs_sparse_kernels(contents)

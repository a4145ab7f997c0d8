"""The latency model: an operation takes as long as its multiplications or its memory traffic, whichever is longer.

Roofline: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (2009). To that come a
fixed cost for each operation, a fixed cost for each call, and, for accelerators that keep activations on the chip but
stream weights from memory, the time of that stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from edgeprune.checker.latency.kernels import Kernel, Kind

__all__ = ["RATES", "Coefficients", "Work", "kernel_ms"]

Floats = npt.NDArray[np.float64]

# Coefficients that divide (a larger one is faster); the others are times.
RATES = ("dense_gmacs_per_s", "spatial_gmacs_per_s", "depthwise_gmacs_per_s", "memory_gb_per_s", "weight_gb_per_s")
_DENSE = frozenset({Kind.POINTWISE, Kind.FULLY_CONNECTED, Kind.MATMUL})
_RATE_OF = {kind: 0 if kind in _DENSE else 2 if kind is Kind.DEPTHWISE else 1 for kind in Kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """Speeds and fixed costs of a device with a runtime.

    `spatial_gmacs_per_s` is for k x k kernels (None: as dense ones). With `weight_gb_per_s` weights are streamed, which
    adds to the time; with None they are part of an operation's memory traffic.
    """

    dense_gmacs_per_s: float
    depthwise_gmacs_per_s: float
    memory_gb_per_s: float
    spatial_gmacs_per_s: float | None = None
    weight_gb_per_s: float | None = None
    op_overhead_us: float = 0.0
    fixed_ms: float = 0.0

    def scaled(self, slower: float) -> Coefficients:
        """Coefficients under which every operation takes `slower` times as long."""
        changed = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if value is not None:
                changed[part.name] = value / slower if part.name in RATES else value * slower
        return replace(self, **changed)

    def per_element(self, before: int, after: int) -> Coefficients:
        """Coefficients under which elements of `after` bytes move as fast as those of `before` bytes do under these.

        CPU kernels spend instructions on elements (patches, packing, requantization), so that int8 activations move
        nowhere near four times as fast as float32 ones: a prior from another precision is one of elements, not bytes.
        """
        streamed = self.weight_gb_per_s
        return replace(
            self,
            memory_gb_per_s=self.memory_gb_per_s * after / before,
            weight_gb_per_s=None if streamed is None else streamed * after / before,
        )

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the coefficients that have a value other than none or zero."""
        return tuple(part.name for part in fields(self) if getattr(self, part.name))


class Work:
    """The kernels of one or several networks as arrays, ready to be timed under any coefficients.

    `element_bytes` is what an element takes while the runtime computes; `gathers` tells whether the runtime unrolls the
    patches of k x k convolutions (im2col).
    """

    def __init__(self, networks: Sequence[Sequence[Kernel]], *, element_bytes: int, gathers: bool) -> None:
        kept = [[kernel for kernel in network if kernel.kind is not Kind.FREE] for network in networks]
        flat = [kernel for network in kept for kernel in network]
        self.networks = len(kept)
        self.owner = np.repeat(np.arange(len(kept)), [len(network) for network in kept])
        self.macs: Floats = np.array([kernel.macs for kernel in flat], dtype=np.float64)
        self.rate = np.array([_RATE_OF[kernel.kind] for kernel in flat], dtype=np.intp)
        moved = [(kernel.gathered if gathers else kernel.read) + kernel.written for kernel in flat]
        self.moved_bytes: Floats = np.array(moved, dtype=np.float64) * element_bytes
        self.weight_bytes: Floats = np.array([kernel.weights for kernel in flat], dtype=np.float64) * element_bytes

    def parts_ms(self, coefficients: Coefficients) -> tuple[Floats, Floats, Floats]:
        """(compute, memory, rest) in ms, each (kernels,): a kernel takes max(compute, memory) + rest."""
        dense = coefficients.dense_gmacs_per_s
        rates = np.array([dense, coefficients.spatial_gmacs_per_s or dense, coefficients.depthwise_gmacs_per_s])
        compute = self.macs / (rates[self.rate] * 1e6)
        rest = np.full(compute.shape, coefficients.op_overhead_us / 1e3)
        moved = self.moved_bytes
        if coefficients.weight_gb_per_s is None:
            moved = moved + self.weight_bytes
        else:
            rest = rest + self.weight_bytes / (coefficients.weight_gb_per_s * 1e6)
        return compute, moved / (coefficients.memory_gb_per_s * 1e6), rest

    def totals_ms(self, coefficients: Coefficients) -> Floats:
        """Milliseconds of each network, (networks,)."""
        compute, memory, rest = self.parts_ms(coefficients)
        each = np.maximum(compute, memory) + rest
        sums = np.bincount(self.owner, weights=each, minlength=self.networks).astype(np.float64)
        return sums + coefficients.fixed_ms


def kernel_ms(kernel: Kernel, coefficients: Coefficients, *, element_bytes: int, gathers: bool) -> tuple[float, str]:
    """Milliseconds of one kernel and what binds it: compute, memory, weights (their stream), or overhead."""
    if kernel.kind is Kind.FREE:
        return 0.0, "free"
    work = Work([[kernel]], element_bytes=element_bytes, gathers=gathers)
    compute, memory, rest = (float(part[0]) for part in work.parts_ms(coefficients))
    overhead = coefficients.op_overhead_us / 1e3
    times = {"compute": compute, "memory": memory, "weights": rest - overhead, "overhead": overhead}
    return max(compute, memory) + rest, max(times, key=lambda name: times[name])

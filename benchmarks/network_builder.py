"""Shape arithmetic that writes down the operations of a convolutional network as an interpreter runs them.

No framework: a layer is its shapes. Batch normalization after a convolution and activations that interpreters fuse cost
no operation of their own; a batch normalization that stands before its convolution is a MUL and an ADD.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgeprune.checker.latency.kernels import Kernel, kind_of

__all__ = ["Network", "divisible"]

Shape = tuple[int, int, int]  # height, width, channels
Size = int | tuple[int, int]


def divisible(value: float, divisor: int = 8) -> int:
    """Channels rounded to a multiple of `divisor`, never more than a tenth below `value` (MobileNetV2, slim)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _pair(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _extent(size: int, kernel: int, stride: int, valid: bool) -> int:
    return -(-(size - kernel + 1 if valid else size) // stride)


@dataclass
class Network:
    """Operations written so far; each method takes the shape of its input and returns that of its output."""

    kernels: list[Kernel] = field(default_factory=list)

    def write(
        self, op: str, read: int, written: int, *, weights: int = 0, macs: int = 0, taps: int = 1, gathered: int = 0
    ) -> None:
        kind = kind_of(op, taps)
        assert kind is not None, op
        self.kernels.append(
            Kernel(op=op, kind=kind, macs=macs, read=read, written=written, weights=weights, gathered=gathered or read)
        )

    def conv(
        self, x: Shape, channels: int, size: Size, stride: Size = 1, *, valid: bool = False, groups: int = 1
    ) -> Shape:
        (high, wide), (down, across) = _pair(size), _pair(stride)
        y = (_extent(x[0], high, down, valid), _extent(x[1], wide, across, valid), channels)
        weights = high * wide * x[2] // groups * channels
        taps = high * wide
        self.write(
            "CONV_2D" if groups == 1 else "GROUPED_CONV_2D",
            math.prod(x),
            math.prod(y),
            weights=weights + channels,
            macs=y[0] * y[1] * weights,
            taps=taps,
            gathered=y[0] * y[1] * taps * x[2] if taps > 1 and groups == 1 else 0,
        )
        return y

    def depthwise(self, x: Shape, size: int, stride: int = 1, *, valid: bool = False, multiplier: int = 1) -> Shape:
        y = (_extent(x[0], size, stride, valid), _extent(x[1], size, stride, valid), x[2] * multiplier)
        weights = size * size * y[2]
        self.write(
            "DEPTHWISE_CONV_2D",
            math.prod(x),
            math.prod(y),
            weights=weights + y[2],
            macs=math.prod(y) * size * size,
        )
        return y

    def dense(self, inputs: int, outputs: int) -> int:
        self.write("FULLY_CONNECTED", inputs, outputs, weights=(inputs + 1) * outputs, macs=inputs * outputs)
        return outputs

    def product(self, read: int, written: int, depth: int) -> None:
        """A matrix product of activations; each element written adds up `depth` products."""
        self.write("BATCH_MATMUL", read, written, macs=written * depth)

    def pool(self, x: Shape, size: int, stride: int, *, valid: bool = False, kind: str = "MAX_POOL_2D") -> Shape:
        y = (_extent(x[0], size, stride, valid), _extent(x[1], size, stride, valid), x[2])
        self.write(kind, math.prod(x), math.prod(y))
        return y

    def mean(self, x: Shape) -> int:
        self.write("MEAN", math.prod(x), x[2])
        return x[2]

    def unary(self, op: str, x: Shape | int) -> None:
        count = x if isinstance(x, int) else math.prod(x)
        self.write(op, count, count)

    def binary(self, op: str, x: Shape, other: int | None = None) -> Shape:
        """ADD or MUL of x with an equally large tensor, or with `other` elements that are broadcast."""
        count = math.prod(x)
        self.write(op, count + (count if other is None else other), count)
        return x

    def concat(self, *parts: Shape) -> Shape:
        y = (parts[0][0], parts[0][1], sum(part[2] for part in parts))
        self.write("CONCATENATION", math.prod(y), math.prod(y))
        return y

    def norm(self, x: Shape) -> Shape:
        """A batch normalization that no convolution absorbs; a ReLU after it is fused."""
        for op in ("MUL", "ADD"):
            self.binary(op, x, x[2])
        return x

    def squeeze_excite(self, x: Shape, inner: int, gate: str) -> Shape:
        """Mean, two 1x1 convolutions, the gate, and the product with x."""
        channels = self.mean(x)
        self.conv((1, 1, channels), inner, 1)
        self.conv((1, 1, inner), channels, 1)
        if gate == "hard_sigmoid":
            self.binary("ADD", (1, 1, channels), 1)
            self.binary("MUL", (1, 1, channels), 1)
        else:
            self.unary("LOGISTIC", channels)
        return self.binary("MUL", x, channels)

    def head(self, x: Shape, classes: int, *, convolution: bool = False, kind: str = "MEAN") -> None:
        """Global average, classifier, softmax."""
        if kind == "MEAN":
            self.mean(x)
        else:
            self.pool(x, x[0], 1, valid=True, kind=kind)
        if convolution:
            self.conv((1, 1, x[2]), classes, 1)
        else:
            self.dense(x[2], classes)
        self.unary("SOFTMAX", classes)

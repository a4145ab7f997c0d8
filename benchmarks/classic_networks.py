"""Inception, ResNet, DenseNet, SqueezeNet, NASNet, ShuffleNet and RegNet, written as operations.

Sources: tensorflow/models, research/slim/nets (Inception V1 to V4, ResNet V2), keras.applications
(NASNet, DenseNet), pytorch/vision (ResNet, ResNeXt, Wide ResNet, GoogLeNet, SqueezeNet 1.1, ShuffleNet V2, RegNet).
"""

from __future__ import annotations

from collections.abc import Sequence

from network_builder import Network, Shape, Size

__all__ = [
    "densenet",
    "googlenet",
    "inception_v2",
    "inception_v3",
    "inception_v4",
    "nasnet",
    "regnet",
    "resnet",
    "resnet_v2",
    "shufflenet_v2",
    "squeezenet",
]

Step = tuple[int, Size]  # channels and kernel size of one convolution of a chain


def _chain(net: Network, x: Shape, *steps: Step) -> Shape:
    for channels, size in steps:
        x = net.conv(x, channels, size)
    return x


def _pooled(net: Network, x: Shape, channels: int, kind: str = "AVERAGE_POOL_2D") -> Shape:
    return net.conv(net.pool(x, 3, 1, kind=kind), channels, 1)


# Channels of the nine modules of GoogLeNet: 1x1, 3x3 (reduced, full), second (reduced, full), pool.
_GOOGLENET = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def googlenet(pixels: int, classes: int = 1001) -> Network:
    """Inception V1; its "5x5" branch is 3x3 in slim and in torchvision."""
    net = Network()
    x = net.conv((pixels, pixels, 3), 64, 7, 2)
    x = net.pool(x, 3, 2)
    x = _chain(net, x, (64, 1), (192, 3))
    x = net.pool(x, 3, 2)
    for number, (one, small, large, low, high, pool) in enumerate(_GOOGLENET):
        if number in (2, 7):
            x = net.pool(x, 3 if number == 2 else 2, 2)
        x = net.concat(
            net.conv(x, one, 1),
            _chain(net, x, (small, 1), (large, 3)),
            _chain(net, x, (low, 1), (high, 3)),
            _pooled(net, x, pool, "MAX_POOL_2D"),
        )
    net.head(x, classes, convolution=True, kind="AVERAGE_POOL_2D")
    return net


# Inception V2: 1x1, 3x3 (reduced, full), double 3x3 (reduced, full), pool.
_INCEPTION_V2 = (
    (64, 64, 64, 64, 96, 32),
    (64, 64, 96, 64, 96, 64),
    (0, 128, 160, 64, 96, 0),
    (224, 64, 96, 96, 128, 128),
    (192, 96, 128, 96, 128, 128),
    (160, 128, 160, 128, 160, 96),
    (96, 128, 192, 160, 192, 96),
    (0, 128, 192, 192, 256, 0),
    (352, 192, 320, 160, 224, 128),
    (352, 192, 320, 192, 224, 128),
)


def inception_v2(pixels: int, classes: int = 1001) -> Network:
    net = Network()
    x = net.depthwise((pixels, pixels, 3), 7, 2, multiplier=8)
    x = net.conv(x, 64, 1)
    x = net.pool(x, 3, 2)
    x = _chain(net, x, (64, 1), (192, 3))
    x = net.pool(x, 3, 2)
    for one, small, large, low, high, pool in _INCEPTION_V2:
        if one:
            x = net.concat(
                net.conv(x, one, 1),
                _chain(net, x, (small, 1), (large, 3)),
                _chain(net, x, (low, 1), (high, 3), (high, 3)),
                _pooled(net, x, pool),
            )
        else:
            left = net.conv(net.conv(x, small, 1), large, 3, 2)
            right = net.conv(_chain(net, x, (low, 1), (high, 3)), high, 3, 2)
            x = net.concat(left, right, net.pool(x, 3, 2))
    net.head(x, classes, convolution=True, kind="AVERAGE_POOL_2D")
    return net


def inception_v3(pixels: int, classes: int = 1001) -> Network:
    net = Network()
    x = net.conv((pixels, pixels, 3), 32, 3, 2, valid=True)
    x = net.conv(x, 32, 3, valid=True)
    x = net.conv(x, 64, 3)
    x = net.pool(x, 3, 2, valid=True)
    x = net.conv(x, 80, 1, valid=True)
    x = net.conv(x, 192, 3, valid=True)
    x = net.pool(x, 3, 2, valid=True)
    for pool in (32, 64, 64):
        x = net.concat(
            net.conv(x, 64, 1),
            _chain(net, x, (48, 1), (64, 5)),
            _chain(net, x, (64, 1), (96, 3), (96, 3)),
            _pooled(net, x, pool),
        )
    x = net.concat(
        net.conv(x, 384, 3, 2, valid=True),
        net.conv(_chain(net, x, (64, 1), (96, 3)), 96, 3, 2, valid=True),
        net.pool(x, 3, 2, valid=True),
    )
    for inner in (128, 160, 160, 192):
        x = net.concat(
            net.conv(x, 192, 1),
            _chain(net, x, (inner, 1), (inner, (1, 7)), (192, (7, 1))),
            _chain(net, x, (inner, 1), (inner, (7, 1)), (inner, (1, 7)), (inner, (7, 1)), (192, (1, 7))),
            _pooled(net, x, 192),
        )
    x = net.concat(
        net.conv(net.conv(x, 192, 1), 320, 3, 2, valid=True),
        net.conv(_chain(net, x, (192, 1), (192, (1, 7)), (192, (7, 1))), 192, 3, 2, valid=True),
        net.pool(x, 3, 2, valid=True),
    )
    for _ in range(2):
        one = net.conv(x, 320, 1)
        split = net.conv(x, 384, 1)
        deep = _chain(net, x, (448, 1), (384, 3))
        parts = [net.conv(y, 384, size) for y in (split, deep) for size in ((1, 3), (3, 1))]
        x = net.concat(one, net.concat(*parts[:2]), net.concat(*parts[2:]), _pooled(net, x, 192))
    net.head(x, classes, convolution=True, kind="AVERAGE_POOL_2D")
    return net


def _v4_stem(net: Network, pixels: int) -> Shape:
    x = net.conv((pixels, pixels, 3), 32, 3, 2, valid=True)
    x = net.conv(x, 32, 3, valid=True)
    x = net.conv(x, 64, 3)
    x = net.concat(net.pool(x, 3, 2, valid=True), net.conv(x, 96, 3, 2, valid=True))
    short = net.conv(net.conv(x, 64, 1), 96, 3, valid=True)
    long = net.conv(_chain(net, x, (64, 1), (64, (1, 7)), (64, (7, 1))), 96, 3, valid=True)
    x = net.concat(short, long)
    return net.concat(net.conv(x, 192, 3, 2, valid=True), net.pool(x, 3, 2, valid=True))


def inception_v4(pixels: int, classes: int = 1001) -> Network:
    net = Network()
    x = _v4_stem(net, pixels)
    for _ in range(4):
        x = net.concat(
            net.conv(x, 96, 1),
            _chain(net, x, (64, 1), (96, 3)),
            _chain(net, x, (64, 1), (96, 3), (96, 3)),
            _pooled(net, x, 96),
        )
    x = net.concat(
        net.conv(x, 384, 3, 2, valid=True),
        net.conv(_chain(net, x, (192, 1), (224, 3)), 256, 3, 2, valid=True),
        net.pool(x, 3, 2, valid=True),
    )
    for _ in range(7):
        x = net.concat(
            net.conv(x, 384, 1),
            _chain(net, x, (192, 1), (224, (1, 7)), (256, (7, 1))),
            _chain(net, x, (192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
            _pooled(net, x, 128),
        )
    x = net.concat(
        net.conv(net.conv(x, 192, 1), 192, 3, 2, valid=True),
        net.conv(_chain(net, x, (256, 1), (256, (1, 7)), (320, (7, 1))), 320, 3, 2, valid=True),
        net.pool(x, 3, 2, valid=True),
    )
    for _ in range(3):
        one = net.conv(x, 256, 1)
        split = net.conv(x, 384, 1)
        deep = _chain(net, x, (384, 1), (448, (3, 1)), (512, (1, 3)))
        parts = [net.conv(y, 256, size) for y in (split, deep) for size in ((1, 3), (3, 1))]
        x = net.concat(one, net.concat(*parts[:2]), net.concat(*parts[2:]), _pooled(net, x, 256))
    net.head(x, classes, kind="AVERAGE_POOL_2D")
    return net


def resnet_v2(blocks: Sequence[int], pixels: int, classes: int = 1001) -> Network:
    """Pre-activation ResNet of slim: a stage halves the resolution in its last block."""
    net = Network()
    x = net.pool(net.conv((pixels, pixels, 3), 64, 7, 2), 3, 2)
    for stage, count in enumerate(blocks):
        for n in range(count):
            stride = 2 if n == count - 1 and stage < len(blocks) - 1 else 1
            inner = 64 << stage
            y = net.norm(x)
            if x[2] != 4 * inner:
                short = net.conv(y, 4 * inner, 1, stride)
            else:
                short = net.pool(x, 1, stride) if stride > 1 else x
            y = net.conv(y, inner, 1)
            y = net.conv(y, inner, 3, stride)
            y = net.conv(y, 4 * inner, 1)
            x = net.binary("ADD", short)
    net.norm(x)
    net.head(x, classes, convolution=True)
    return net


def resnet(
    blocks: Sequence[int], pixels: int, *, bottleneck: bool, width: int = 64, groups: int = 1, classes: int = 1000
) -> Network:
    """ResNet V1, ResNeXt and Wide ResNet of torchvision; `width` is the base width of a group."""
    net = Network()
    x = net.pool(net.conv((pixels, pixels, 3), 64, 7, 2), 3, 2)
    for stage, count in enumerate(blocks):
        out = (256 if bottleneck else 64) << stage
        inner = (width * groups) << stage
        for n in range(count):
            stride = 2 if n == 0 and stage else 1
            if bottleneck:
                y = net.conv(net.conv(x, inner, 1), inner, 3, stride, groups=groups)
                y = net.conv(y, out, 1)
            else:
                y = net.conv(net.conv(x, out, 3, stride), out, 3)
            if x != y:
                net.conv(x, out, 1, stride)
            x = net.binary("ADD", y)
    net.head(x, classes)
    return net


def densenet(blocks: Sequence[int], pixels: int, *, bottleneck: bool, growth: int = 32, classes: int = 1000) -> Network:
    """DenseNet; `bottleneck` (DenseNet-B) puts a 1x1 convolution before each 3x3. Its normalizations stay unfused."""
    net = Network()
    x = net.pool(net.conv((pixels, pixels, 3), 2 * growth, 7, 2), 3, 2)
    for stage, count in enumerate(blocks):
        for _ in range(count):
            y = net.norm(x)
            y = net.conv(y, 4 * growth, 1) if bottleneck else y
            x = net.concat(x, net.conv(y, growth, 3))
        if stage < len(blocks) - 1:
            x = net.pool(net.conv(net.norm(x), x[2] // 2, 1), 2, 2, kind="AVERAGE_POOL_2D")
    net.norm(x)
    net.head(x, classes)
    return net


def squeezenet(version: str, pixels: int, classes: int = 1000) -> Network:
    """SqueezeNet 1.0 or 1.1; a fire module squeezes, then expands 1x1 and 3x3."""
    net = Network()
    first = (96, 7) if version == "1.0" else (64, 3)
    x = net.conv((pixels, pixels, 3), *first, 2, valid=True)
    pools = (0, 3, 7) if version == "1.0" else (0, 2, 4)
    for number, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if number in pools:
            x = net.pool(x, 3, 2, valid=True)
        y = net.conv(x, squeezed, 1)
        x = net.concat(net.conv(y, 4 * squeezed, 1), net.conv(y, 4 * squeezed, 3))
    x = net.conv(x, classes, 1)
    net.mean(x)
    net.unary("SOFTMAX", classes)
    return net


class _Nasnet:
    """The two cells of NASNet-A; an activation read by several branches is computed once."""

    def __init__(self, net: Network) -> None:
        self.net = net

    def separable(self, x: Shape, channels: int, size: int, stride: int = 1) -> Shape:
        """Two separable convolutions; the ReLU between them is fused, the one before is the caller's."""
        y = self.net.conv(self.net.depthwise(x, size, stride), channels, 1)
        return self.net.conv(self.net.depthwise(y, size), channels, 1)

    def rectified(self, x: Shape) -> Shape:
        self.net.unary("RELU", x)
        return x

    def adjusted(self, previous: Shape | None, x: Shape, channels: int) -> Shape:
        if previous is None:
            return x
        if previous[0] != x[0]:
            y = self.rectified(previous)
            self.net.unary("PAD", y)
            parts = [self.net.conv(self.net.pool(y, 1, 2, kind="AVERAGE_POOL_2D"), channels // 2, 1) for _ in (0, 1)]
            return self.net.norm(self.net.concat(*parts))
        if previous[2] != channels:
            return self.net.conv(self.rectified(previous), channels, 1)
        return previous

    def normal(self, x: Shape, previous: Shape | None, channels: int) -> tuple[Shape, Shape]:
        net = self.net
        p = self.adjusted(previous, x, channels)
        h = net.conv(self.rectified(x), channels, 1)
        self.rectified(h)
        self.rectified(p)
        first = net.binary("ADD", (self.separable(h, channels, 5), self.separable(p, channels, 3))[0])
        second = net.binary("ADD", (self.separable(p, channels, 5), self.separable(p, channels, 3))[0])
        third = net.binary("ADD", net.pool(h, 3, 1, kind="AVERAGE_POOL_2D"))
        fourth = net.binary("ADD", net.pool(p, 3, 1, kind="AVERAGE_POOL_2D"))
        fifth = net.binary("ADD", self.separable(h, channels, 3))
        return net.concat(p, first, second, third, fourth, fifth), x

    def reduction(self, x: Shape, previous: Shape | None, channels: int) -> tuple[Shape, Shape]:
        net = self.net
        p = self.adjusted(previous, x, channels)
        h = net.conv(self.rectified(x), channels, 1)
        self.rectified(h)
        self.rectified(p)
        first = net.binary("ADD", (self.separable(h, channels, 5, 2), self.separable(p, channels, 7, 2))[0])
        biggest = net.pool(h, 3, 2)
        second = net.binary("ADD", (biggest, self.separable(p, channels, 7, 2))[0])
        net.pool(h, 3, 2, kind="AVERAGE_POOL_2D")
        third = net.binary("ADD", self.separable(p, channels, 5, 2))
        net.pool(first, 3, 1, kind="AVERAGE_POOL_2D")
        fourth = net.binary("ADD", second)
        self.rectified(first)
        fifth = net.binary("ADD", self.separable(first, channels, 3))
        return net.concat(second, third, fourth, fifth), x


def nasnet(penultimate: int, repeats: int, stem: int, pixels: int, *, skip: bool, classes: int = 1001) -> Network:
    """NASNet-A; large is (4032, 6, 96, 331, skip=True), mobile (1056, 4, 32, 224, skip=False)."""
    net = Network()
    cells = _Nasnet(net)
    channels = penultimate // 24
    x = net.conv((pixels, pixels, 3), stem, 3, 2, valid=True)
    previous: Shape | None = None
    x, previous = cells.reduction(x, previous, channels // 4)
    x, previous = cells.reduction(x, previous, channels // 2)
    for stage in range(3):
        if stage:
            x, before = cells.reduction(x, previous, channels << stage)
            previous = previous if skip else before
        for _ in range(repeats):
            x, previous = cells.normal(x, previous, channels << stage)
    net.unary("RELU", x)
    net.head(x, classes)
    return net


def shufflenet_v2(pixels: int, classes: int = 1000) -> Network:
    """ShuffleNet V2 1.0; a shuffle is a transposition of groups."""
    net = Network()
    x = net.pool(net.conv((pixels, pixels, 3), 24, 3, 2), 3, 2)
    for channels, repeats in ((116, 4), (232, 8), (464, 4)):
        half = channels // 2
        for n in range(repeats):
            if n == 0:
                left = net.conv(net.depthwise(x, 3, 2), half, 1)
                right = net.conv(net.depthwise(net.conv(x, half, 1), 3, 2), half, 1)
            else:
                net.unary("SPLIT", x)
                left = (x[0], x[1], half)
                right = net.conv(net.depthwise(net.conv(left, half, 1), 3), half, 1)
            x = net.concat(left, right)
            net.unary("TRANSPOSE", x)
    x = net.conv(x, 1024, 1)
    net.head(x, classes)
    return net


def regnet(
    widths: Sequence[int], depths: Sequence[int], group: int, pixels: int, *, squeeze: bool, classes: int = 1000
) -> Network:
    """RegNet X, or Y with `squeeze`; `group` is the width of a group of the 3x3 convolutions."""
    net = Network()
    x = net.conv((pixels, pixels, 3), 32, 3, 2)
    for width, depth in zip(widths, depths, strict=True):
        for n in range(depth):
            stride = 2 if n == 0 else 1
            y = net.conv(net.conv(x, width, 1), width, 3, stride, groups=width // group)
            if squeeze:
                y = net.squeeze_excite(y, round(x[2] / 4), "sigmoid")
            y = net.conv(y, width, 1)
            if x != y:
                net.conv(x, width, 1, stride)
            x = net.binary("ADD", y)
    net.head(x, classes)
    return net

"""MobileNet, MnasNet and EfficientNet: the networks of inverted residuals and their ancestors.

Sources: arXiv 1704.04861 (V1), 1801.04381 (V2), 1905.02244 (V3), 1807.11626 (MnasNet), 1905.11946 (EfficientNet);
EfficientNet-Lite: tensorflow/tpu, models/official/efficientnet/lite.
"""

from __future__ import annotations

import math

from network_builder import Network, Shape, divisible

__all__ = ["efficientnet", "efficientnet_lite", "mnasnet", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3"]

_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
# kernel, expansion, channels, squeeze and excite, hard swish, stride
_V3_LARGE = (
    (3, 1, 16, False, False, 1),
    (3, 4, 24, False, False, 2),
    (3, 3, 24, False, False, 1),
    (5, 3, 40, True, False, 2),
    (5, 3, 40, True, False, 1),
    (5, 3, 40, True, False, 1),
    (3, 6, 80, False, True, 2),
    (3, 2.5, 80, False, True, 1),
    (3, 2.3, 80, False, True, 1),
    (3, 2.3, 80, False, True, 1),
    (3, 6, 112, True, True, 1),
    (3, 6, 112, True, True, 1),
    (5, 6, 160, True, True, 2),
    (5, 6, 160, True, True, 1),
    (5, 6, 160, True, True, 1),
)
_V3_SMALL = (
    (3, 1, 16, True, False, 2),
    (3, 72 / 16, 24, False, False, 2),
    (3, 88 / 24, 24, False, False, 1),
    (5, 4, 40, True, True, 2),
    (5, 6, 40, True, True, 1),
    (5, 6, 40, True, True, 1),
    (5, 3, 48, True, True, 1),
    (5, 3, 48, True, True, 1),
    (5, 6, 96, True, True, 2),
    (5, 6, 96, True, True, 1),
    (5, 6, 96, True, True, 1),
)
# repeats, kernel, stride, expansion, channels, squeeze ratio
_MNASNET_A1 = (
    (1, 3, 1, 1, 16, 0.0),
    (2, 3, 2, 6, 24, 0.0),
    (3, 5, 2, 3, 40, 0.25),
    (4, 3, 2, 6, 80, 0.0),
    (2, 3, 1, 6, 112, 0.25),
    (3, 5, 2, 6, 160, 0.25),
    (1, 3, 1, 6, 320, 0.0),
)
_MNASNET_B1 = (
    (1, 3, 1, 1, 16, 0.0),
    (3, 3, 2, 3, 24, 0.0),
    (3, 5, 2, 3, 40, 0.0),
    (3, 5, 2, 6, 80, 0.0),
    (2, 3, 1, 6, 96, 0.0),
    (4, 5, 2, 6, 192, 0.0),
    (1, 3, 1, 6, 320, 0.0),
)
_EFFICIENTNET = (
    (1, 3, 1, 1, 16, 0.25),
    (2, 3, 2, 6, 24, 0.25),
    (2, 5, 2, 6, 40, 0.25),
    (3, 3, 2, 6, 80, 0.25),
    (3, 5, 1, 6, 112, 0.25),
    (4, 5, 2, 6, 192, 0.25),
    (1, 3, 1, 6, 320, 0.25),
)


def mobilenet_v1(width: float, pixels: int, classes: int = 1001) -> Network:
    net = Network()
    x = net.conv((pixels, pixels, 3), max(int(32 * width), 8), 3, 2)
    for channels, stride in _V1:
        x = net.depthwise(x, 3, stride)
        x = net.conv(x, max(int(channels * width), 8), 1)
    net.head(x, classes, convolution=True, kind="AVERAGE_POOL_2D")
    return net


def _inverted(
    net: Network,
    x: Shape,
    *,
    size: int,
    stride: int,
    expanded: int,
    channels: int,
    squeeze: int = 0,
    gate: str = "sigmoid",
    activation: str = "",
) -> Shape:
    """Expand, depthwise, squeeze and excite, project, add. `activation` is an operation that is not fused."""
    y = x
    if expanded != x[2]:
        y = net.conv(y, expanded, 1)
        _activate(net, y, activation)
    y = net.depthwise(y, size, stride)
    _activate(net, y, activation)
    if squeeze:
        y = net.squeeze_excite(y, squeeze, gate)
    y = net.conv(y, channels, 1)
    return net.binary("ADD", y) if y == x else y


def _activate(net: Network, x: Shape, activation: str) -> None:
    if activation == "SWISH":  # x * sigmoid(x)
        net.unary("LOGISTIC", x)
        net.binary("MUL", x)
    elif activation:
        net.unary(activation, x)


def mobilenet_v2(width: float, pixels: int, classes: int = 1001) -> Network:
    net = Network()
    x = net.conv((pixels, pixels, 3), divisible(32 * width), 3, 2)
    for factor, channels, repeats, stride in _V2:
        for n in range(repeats):
            inner = divisible(x[2] * factor) if factor > 1 else x[2]
            out = divisible(channels * width)
            x = _inverted(net, x, size=3, stride=stride if n == 0 else 1, expanded=inner, channels=out)
    x = net.conv(x, divisible(1280 * max(width, 1.0)), 1)
    net.head(x, classes, convolution=True)
    return net


def mobilenet_v3(size: str, width: float, pixels: int, *, minimal: bool = False, classes: int = 1001) -> Network:
    """`size` is large or small; `minimal` has 3x3 kernels only, no squeeze and excite and plain ReLU."""
    net = Network()
    swish = "" if minimal else "HARD_SWISH"
    x = net.conv((pixels, pixels, 3), divisible(16 * width), 3, 2)
    _activate(net, x, swish)
    for kernel, factor, channels, squeeze, hard, stride in _V3_LARGE if size == "large" else _V3_SMALL:
        inner = divisible(x[2] * factor)
        x = _inverted(
            net,
            x,
            size=3 if minimal else kernel,
            stride=stride,
            expanded=inner,
            channels=divisible(channels * width),
            squeeze=divisible(inner / 4) if squeeze and not minimal else 0,
            gate="hard_sigmoid",
            activation=swish if hard else "",
        )
    x = net.conv(x, divisible(x[2] * 6), 1)
    _activate(net, x, swish)
    net.mean(x)
    last = divisible((1280 if size == "large" else 1024) * max(width, 1.0))
    y = net.conv((1, 1, x[2]), last, 1)
    _activate(net, y, swish)
    net.conv(y, classes, 1)
    net.unary("SOFTMAX", classes)
    return net


def mnasnet(variant: str, width: float, pixels: int, classes: int = 1001) -> Network:
    """`variant` is A1 (squeeze and excite) or B1; the last convolution keeps its 1280 channels."""
    net = Network()
    x = net.conv((pixels, pixels, 3), divisible(32 * width), 3, 2)
    for repeats, size, stride, factor, channels, ratio in _MNASNET_A1 if variant == "A1" else _MNASNET_B1:
        for n in range(repeats):
            x = (
                _inverted(
                    net,
                    x,
                    size=size,
                    stride=stride if n == 0 else 1,
                    expanded=x[2] * factor,
                    channels=divisible(channels * width),
                    squeeze=max(1, int(x[2] * ratio)),
                )
                if ratio
                else _inverted(
                    net,
                    x,
                    size=size,
                    stride=stride if n == 0 else 1,
                    expanded=x[2] * factor,
                    channels=divisible(channels * width),
                )
            )
    x = net.conv(x, 1280, 1)
    net.head(x, classes)
    return net


def efficientnet(
    width: float, depth: float, pixels: int, *, lite: bool = False, classes: int = 1000, squeeze: bool = True
) -> Network:
    """EfficientNet; `lite` keeps stem, head and the first and last repeats, has ReLU6 and no squeeze and excite."""
    net = Network()
    swish = "" if lite else "SWISH"
    x = net.conv((pixels, pixels, 3), 32 if lite else divisible(32 * width), 3, 2)
    _activate(net, x, swish)
    for stage, (repeats, size, stride, factor, channels, ratio) in enumerate(_EFFICIENTNET):
        fixed = lite and stage in (0, len(_EFFICIENTNET) - 1)
        for n in range(repeats if fixed else math.ceil(repeats * depth)):
            x = _inverted(
                net,
                x,
                size=size,
                stride=stride if n == 0 else 1,
                expanded=x[2] * factor,
                channels=divisible(channels * width),
                squeeze=0 if lite or not squeeze else max(1, int(x[2] * ratio)),
                activation=swish,
            )
    x = net.conv(x, 1280 if lite else divisible(1280 * width), 1)
    _activate(net, x, swish)
    net.head(x, classes)
    return net


def efficientnet_lite(number: int, pixels: int) -> Network:
    width, depth = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))[number]
    return efficientnet(width, depth, pixels, lite=True)

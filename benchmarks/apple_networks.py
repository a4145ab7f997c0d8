"""Networks whose authors published latencies on iPhones, as Core ML runs them: branches merged, activations fused.

Sources: apple/ml-mobileone (arXiv 2206.04040), apple/ml-fastvit (2303.14189), snap-research/EfficientFormer
(2206.01191).
"""

from __future__ import annotations

from network_builder import Network, Shape

__all__ = ["efficientformer", "fastvit", "mobileone"]

_MOBILEONE = {
    "s0": (0.75, 1.0, 1.0, 2.0),
    "s1": (1.5, 1.5, 2.0, 2.5),
    "s2": (1.5, 2.0, 2.5, 4.0),
    "s3": (2.0, 2.5, 3.0, 4.0),
    "s4": (3.0, 3.5, 3.5, 4.0),
}


def mobileone(size: str, pixels: int, classes: int = 1000) -> Network:
    """MobileOne at inference; s4 has squeeze and excite in the last 5 blocks of its third stage and in the fourth."""
    net = Network()
    widths = _MOBILEONE[size]
    x = net.conv((pixels, pixels, 3), min(64, int(64 * widths[0])), 3, 2)
    for stage, (width, blocks) in enumerate(zip(widths, (2, 8, 10, 1), strict=True)):
        for n in range(blocks):
            squeezed = size == "s4" and (stage == 3 or (stage == 2 and n >= 5))
            x = net.depthwise(x, 3, 2 if n == 0 else 1)
            x = net.squeeze_excite(x, x[2] // 16, "sigmoid") if squeezed else x
            x = net.conv(x, int((64 << stage) * width), 1)
            x = net.squeeze_excite(x, x[2] // 16, "sigmoid") if squeezed else x
    net.head(x, classes)
    return net


def _attention(net: Network, x: Shape, heads: int, key: int, value: int) -> None:
    """Self-attention over the places of x: two dense layers around two products of activations."""
    places = x[0] * x[1]
    net.conv(x, heads * (2 * key + value), 1)
    net.unary("TRANSPOSE", places * heads * (2 * key + value))
    net.product(2 * places * heads * key, heads * places * places, key)
    net.unary("SOFTMAX", heads * places * places)
    net.product(heads * places * places + places * heads * value, places * heads * value, places)
    net.unary("TRANSPOSE", places * heads * value)
    net.conv((x[0], x[1], heads * value), x[2], 1)


def _mlp(net: Network, x: Shape, ratio: int) -> Shape:
    y = net.conv(x, x[2] * ratio, 1)
    return net.binary("ADD", net.conv(y, x[2], 1))


_FASTVIT = {
    "t8": ((2, 2, 4, 2), 48, 3, False),
    "t12": ((2, 2, 6, 2), 64, 3, False),
    "s12": ((2, 2, 6, 2), 64, 4, False),
    "sa12": ((2, 2, 6, 2), 64, 4, True),
    "sa24": ((4, 4, 12, 4), 64, 4, True),
    "sa36": ((6, 6, 18, 6), 64, 4, True),
    "ma36": ((6, 6, 18, 6), 76, 4, True),
}


def fastvit(size: str, pixels: int, classes: int = 1000) -> Network:
    """FastViT at inference; the "sa" and "ma" sizes have attention in the last stage."""
    net = Network()
    depths, first, ratio, attends = _FASTVIT[size]
    x = net.conv((pixels, pixels, 3), first, 3, 2)
    x = net.conv(net.depthwise(x, 3, 2), first, 1)
    for stage, depth in enumerate(depths):
        if stage:
            x = net.conv(net.depthwise(x, 7, 2, multiplier=2), first << stage, 1)
        last = attends and stage == len(depths) - 1
        if last:
            x = net.binary("ADD", net.depthwise(x, 7))
        for _ in range(depth):
            if last:
                net.norm(x)
                _attention(net, x, x[2] // 32, 32, 32)
                net.binary("ADD", x)
            else:
                net.depthwise(x, 3)
            net.depthwise(x, 7)
            x = _mlp(net, x, ratio)
    x = net.depthwise(x, 3, multiplier=2)
    x = net.squeeze_excite(x, x[2] // 16, "sigmoid")
    net.head(x, classes)
    return net


_EFFICIENTFORMER = {
    "l1": ((3, 2, 6, 4), (48, 96, 224, 448), 1),
    "l3": ((4, 4, 12, 6), (64, 128, 320, 512), 4),
    "l7": ((6, 6, 18, 8), (96, 192, 384, 768), 8),
}


def efficientformer(size: str, pixels: int, classes: int = 1000) -> Network:
    """EfficientFormer: pooling blocks, and attention (8 heads, keys of 32, values of 128) in the last ones."""
    depths, channels, attending = _EFFICIENTFORMER[size]
    net = Network()
    x = net.conv(net.conv((pixels, pixels, 3), channels[0] // 2, 3, 2), channels[0], 3, 2)
    for stage, (depth, width) in enumerate(zip(depths, channels, strict=True)):
        x = net.conv(x, width, 3, 2) if stage else x
        for n in range(depth):
            if stage == 3 and n >= depth - attending:
                net.norm(x)
                _attention(net, x, 8, 32, 128)
                net.norm(net.binary("ADD", x))
            else:
                net.pool(x, 3, 1, kind="AVERAGE_POOL_2D")
                net.binary("ADD", x)
            x = _mlp(net, x, 4)
    net.norm(x)
    _heads(net, x, classes)
    return net


def _heads(net: Network, x: Shape, classes: int) -> None:
    """The mean and two classifiers, one of them distilled."""
    net.mean(x)
    for _ in range(2):
        net.dense(x[2], classes)

"""The networks whose published latencies device profiles are fitted on, by name: "mobilenet_v1 0.75 224".

python benchmarks/truth_networks.py        name, MACs, parameters and operations of each
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from pathlib import Path

import apple_networks as apple
import classic_networks as classic
import mobile_networks as mobile
from network_builder import Network

__all__ = ["TRUTH", "network", "truth_rows"]

TRUTH = Path(__file__).parent / "device_truth" / "latencies.csv"

_BUILDERS: dict[str, Callable[..., Network]] = {
    "mobilenet_v1": lambda width, pixels: mobile.mobilenet_v1(float(width), int(pixels)),
    "mobilenet_v2": lambda width, pixels: mobile.mobilenet_v2(float(width), int(pixels)),
    "mobilenet_v3": lambda size, width, pixels: mobile.mobilenet_v3(size, float(width), int(pixels)),
    "mobilenet_v3_minimal": lambda size, width, pixels: mobile.mobilenet_v3(
        size, float(width), int(pixels), minimal=True
    ),
    "mnasnet": lambda variant, width, pixels: mobile.mnasnet(variant, float(width), int(pixels)),
    "efficientnet_lite": lambda number, pixels: mobile.efficientnet_lite(int(number), int(pixels)),
    "efficientnet": lambda width, depth, pixels: mobile.efficientnet(float(width), float(depth), int(pixels)),
    "mobileone": lambda size, pixels: apple.mobileone(size, int(pixels)),
    "fastvit": lambda size, pixels: apple.fastvit(size, int(pixels)),
    "efficientformer": lambda size, pixels: apple.efficientformer(size, int(pixels)),
    "googlenet": lambda pixels: classic.googlenet(int(pixels)),
    "inception_v2": lambda pixels: classic.inception_v2(int(pixels)),
    "inception_v3": lambda pixels: classic.inception_v3(int(pixels)),
    "inception_v4": lambda pixels: classic.inception_v4(int(pixels)),
    "resnet_v2_101": lambda pixels: classic.resnet_v2((3, 4, 23, 3), int(pixels)),
    "resnet18": lambda pixels: classic.resnet((2, 2, 2, 2), int(pixels), bottleneck=False),
    "resnet50": lambda pixels: classic.resnet((3, 4, 6, 3), int(pixels), bottleneck=True),
    "resnet101": lambda pixels: classic.resnet((3, 4, 23, 3), int(pixels), bottleneck=True),
    "wide_resnet50": lambda pixels: classic.resnet((3, 4, 6, 3), int(pixels), bottleneck=True, width=128),
    "resnext50": lambda pixels: classic.resnet((3, 4, 6, 3), int(pixels), bottleneck=True, width=4, groups=32),
    "resnext101": lambda pixels: classic.resnet((3, 4, 23, 3), int(pixels), bottleneck=True, width=8, groups=32),
    "densenet121": lambda pixels: classic.densenet((6, 12, 24, 16), int(pixels), bottleneck=True),
    "densenet121_plain": lambda pixels: classic.densenet((6, 12, 24, 16), int(pixels), bottleneck=False),
    "squeezenet": lambda version, pixels: classic.squeezenet(version, int(pixels)),
    "nasnet_large": lambda pixels: classic.nasnet(4032, 6, 96, int(pixels), skip=True),
    "nasnet_mobile": lambda pixels: classic.nasnet(1056, 4, 32, int(pixels), skip=False),
    "shufflenet_v2": lambda pixels: classic.shufflenet_v2(int(pixels)),
    "regnet_x_3_2gf": lambda pixels: classic.regnet(
        (96, 192, 432, 1008), (2, 6, 15, 2), 48, int(pixels), squeeze=False
    ),
    "regnet_y_800mf": lambda pixels: classic.regnet((64, 144, 320, 784), (1, 3, 8, 2), 16, int(pixels), squeeze=True),
}


@functools.cache
def network(name: str) -> Network:
    """The operations of a network. Raises KeyError for an architecture that is not in the table."""
    kind, *options = name.split()
    return _BUILDERS[kind](*options)


def truth_rows() -> list[dict[str, str]]:
    """The published latencies, one dictionary a row; `use` is fit, held out, or "left out: " and the reason."""
    with TRUTH.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    for name in sorted({row["network"] for row in truth_rows() if row["network"]}):
        kernels = network(name).kernels
        macs, parameters = sum(k.macs for k in kernels), sum(k.weights for k in kernels)
        print(f"{name:34} {macs / 1e6:9.1f} M MACs {parameters / 1e6:7.2f} M parameters {len(kernels):4} operations")


if __name__ == "__main__":
    main()

"""Which layer of one model file is which layer of another."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from edgeprune.checker.size.records import LayerAccount

__all__ = ["Pair", "layer_pairs"]

# What formats call the same operation, in lower case without underscores.
_SAME_KIND = {
    kind: words[0]
    for words in (
        ("conv", "conv1d", "conv2d", "conv3d", "depthwiseconv2d", "convolution"),
        ("convtranspose", "transposeconv", "conv1dtranspose", "conv2dtranspose", "conv3dtranspose"),
        ("linear", "fullyconnected", "dense", "gemm", "innerproduct"),
        ("matmul", "batchmatmul"),
    )
    for kind in words
}

Pair = tuple[LayerAccount | None, LayerAccount | None]


def layer_pairs(before: Sequence[LayerAccount], after: Sequence[LayerAccount]) -> list[Pair]:
    """(before, after) for every layer of both, in order of the second; None where the other has no such layer.

    By name first (the n-th of a name with the n-th), then by kind in the order that fits best, as converters rename
    what they fuse; kinds of different formats that mean the same are the same.
    """
    taken: dict[int, int] = {}  # place in after -> place in before
    places: dict[tuple[str, str], list[int]] = {}
    for place, layer in enumerate(before):
        places.setdefault((layer.group, layer.name), []).append(place)
    for place, layer in enumerate(after):
        found = places.get((layer.group, layer.name))
        if found:
            taken[place] = found.pop(0)
    rest_before = [place for place in range(len(before)) if place not in set(taken.values())]
    rest_after = [place for place in range(len(after)) if place not in taken]
    taken.update(_by_kind(before, after, rest_before, rest_after))
    matched = set(taken.values())
    pairs: list[Pair] = [(before[taken[n]] if n in taken else None, layer) for n, layer in enumerate(after)]
    return pairs + [(layer, None) for n, layer in enumerate(before) if n not in matched]


def _by_kind(
    before: Sequence[LayerAccount], after: Sequence[LayerAccount], rest_before: list[int], rest_after: list[int]
) -> dict[int, int]:
    kinds = [_kind(before[n]) for n in rest_before], [_kind(after[n]) for n in rest_after]
    blocks = difflib.SequenceMatcher(None, *kinds, autojunk=False).get_matching_blocks()
    return {rest_after[b + k]: rest_before[a + k] for a, b, size in blocks for k in range(size) if kinds[0][a + k]}


def _kind(layer: LayerAccount) -> str:
    plain = layer.kind.replace("_", "").lower()
    return _SAME_KIND.get(plain, plain)

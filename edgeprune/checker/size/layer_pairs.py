"""Which layer of one model file is which layer of another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from edgeprune.checker.size.records import LayerAccount
from edgeprune.formats.contents import printable

__all__ = ["Pair", "causes", "changed_pairs", "grown_layers", "layer_gain", "layer_pairs", "layer_weight"]

_NAME_CHARS = 80

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


def changed_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Those whose bytes differ, without the parts of the download where one side was looked at quickly and has none."""
    known = [_comparable(pair) for pair in pairs]
    return [(old, new) for old, new in known if layer_weight(old) != layer_weight(new)]


def causes(before: Sequence[LayerAccount], after: Sequence[LayerAccount]) -> list[Pair]:
    """The layers that make the difference between two files, the largest first: those whose bytes in the file differ,
    else whose content does (what an ideal coder needs of it), else whose part of the download does.

    A part of the download also moves by some bytes with the layers before it, and a quick look does not count it.
    """
    pairs = layer_pairs(before, after)
    for kind in (_in_file, _ideal, _in_download):
        found = [pair for pair in pairs if kind(pair)]
        if found:
            return sorted(found, key=lambda pair: [abs(count) for count in layer_gain(pair)], reverse=True)
    return []


def grown_layers(before: Sequence[LayerAccount], after: Sequence[LayerAccount]) -> tuple[str, ...]:
    """The names of the layers that made a file grow, the one that grew most first."""
    grown = [pair for pair in causes(before, after) if layer_gain(pair) > (0, 0)]
    return tuple(printable(new.name, _NAME_CHARS) for _, new in grown if new is not None)


def layer_gain(pair: Pair) -> tuple[int, int]:
    """How many bytes a layer gained in the file, and in the download or else, where that is not known, ideally."""
    return _in_file(pair), _in_download(pair) if _is_known(pair) else _ideal(pair)


def _is_known(pair: Pair) -> bool:
    return all(layer is None or layer.deflate_bytes is not None for layer in pair)


def _in_file(pair: Pair) -> int:
    old, new = (layer.raw_bytes if layer else 0 for layer in pair)
    return new - old


def _in_download(pair: Pair) -> int:
    old, new = ((layer.deflate_bytes or 0) if layer else 0 for layer in pair)
    return new - old if _is_known(pair) else 0


def _ideal(pair: Pair) -> int:
    old, new = ((layer.bound_bytes or 0) if layer else 0 for layer in pair)
    both = all(layer is None or layer.bound_bytes is not None for layer in pair)
    return new - old if both else 0


def layer_weight(layer: LayerAccount | None) -> tuple[int, int]:
    """(bytes in the file, in the download)."""
    return (layer.raw_bytes, layer.deflate_bytes or 0) if layer else (0, 0)


def _comparable(pair: Pair) -> Pair:
    old, new = pair
    if old is None or new is None or (old.deflate_bytes is None) is (new.deflate_bytes is None):
        return pair
    return replace(old, deflate_bytes=None), replace(new, deflate_bytes=None)

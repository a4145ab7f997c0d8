"""Where the bytes of a file are: a tile for each layer, in blocks by their names, for every way to count bytes.

Squarified treemaps (Bruls, Huizing and van Wijk 2000). All layouts are computed here; the code of the page moves tiles
from one to another and stretches a block over the whole picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgeprune.checker.size.layer_pairs import Pair, layer_pairs
from edgeprune.checker.size.records import FileAccount, LayerAccount
from edgeprune.report.cells import difference, layer_name, shown
from edgeprune.report.html.drawing import CHAR, WIDE, shortened, svg
from edgeprune.report.html.markup import Markup, element
from edgeprune.report.html.page import Picture
from edgeprune.report.table import Table
from edgeprune.units import format_bytes, format_percent

__all__ = ["treemap"]

_HEIGHT = 440.0
_STRIP = 16.0  # above the tiles of a block, for its name; less where it is low
_DEEPEST = 3
_TOKEN = re.compile(r"[^/_.;:]+[/_.;:]*|[/_.;:]+")
_REST = "(structure, names, padding)"
# The ways to count: what the switch says, and what it means.
_MEASURES: Mapping[str, tuple[str, str]] = {
    "raw": ("raw", "bytes in the file (install)"),
    "deflate": ("deflate", "its part of one deflate stream (zip, APK, IPA)"),
    "brotli": ("brotli", "its part of one brotli stream (web)"),
    "ideal": ("ideal", "what a coder that looks at one number at a time would need (order-0 entropy)"),
}
Box = tuple[float, float, float, float]  # x, y, width, height


@dataclass(slots=True)
class _Node:
    """A layer, or a block of them: its name without that of the block it lies in."""

    name: str
    layer: LayerAccount | None = None
    before: LayerAccount | None = None
    children: list[_Node] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)
    inner: dict[str, Box] = field(default_factory=dict)  # where the tiles of a block lie

    def walk(self) -> Iterator[_Node]:
        yield self
        for child in self.children:
            yield from child.walk()


def treemap(record: FileAccount, before: FileAccount | None = None, *, name: str = "treemap") -> Picture:
    """The layers of a file; against `before` with what became of each."""
    measures = [key for key in _MEASURES if _is_known(record, key)]
    pairs = layer_pairs(before.layers, record.layers) if before else [(None, layer) for layer in record.layers]
    root = _tree(record, pairs, measures)
    for measure in measures:
        _place(root, measure, (0.0, 0.0, WIDE, _HEIGHT))
    start = "deflate" if "deflate" in measures else "raw"
    colour = "change" if before else "zeros"
    label = f"Bytes of {shown(record.path)} by layer; the table below has the numbers"
    tiles = [tile for node in root.walk() if node is not root and (tile := _tile(node, measures, start, colour))]
    return Picture(
        name=name,
        title=f"{shown(record.path)}: where the bytes are" + (f", against {shown(before.path)}" if before else ""),
        caption=_caption(before, measures),
        table=_table(pairs, record, measures, before),
        wide=svg(WIDE, _HEIGHT, *tiles, label=label, class_=f"treemap by-{colour}"),
        controls=_controls(measures, start, with_change=before is not None),
    )


def _is_known(record: FileAccount, measure: str) -> bool:
    counted = measure in ("raw", "ideal") or measure in record.download_bytes
    return counted and bool(record.layers) and all(_bytes(layer, measure) is not None for layer in record.layers)


def _bytes(layer: LayerAccount | None, measure: str) -> int | None:
    if layer is None:
        return 0
    counts = {"raw": layer.raw_bytes, "deflate": layer.deflate_bytes, "brotli": layer.brotli_bytes}
    return counts.get(measure, layer.bound_bytes)


def _tree(record: FileAccount, pairs: Sequence[Pair], measures: Sequence[str]) -> _Node:
    """Blocks by the parts of names that several layers begin with."""
    root = _Node("")
    for old, new in pairs:
        if new is not None:
            leaf = _Node(layer_name(new), layer=new, before=old)
            leaf.sizes = {measure: _bytes(new, measure) or 0 for measure in measures}
            root.children.append(leaf)
    root.children = _grouped(root.children, 0)
    if len(root.children) == 1 and root.children[0].children:
        root = root.children[0]  # a name that all begin with is no block
        root.name = ""
    rest = _Node(_REST)
    rest.sizes = {measure: _beside(record, measure) for measure in measures}
    root.children.append(rest)
    for node in reversed(list(root.walk())):
        if node.children:
            node.sizes = {measure: sum(child.sizes[measure] for child in node.children) for measure in measures}
    return root


def _grouped(leaves: list[_Node], depth: int) -> list[_Node]:
    """The leaves, those in a block of their own whose names begin with the same word, that taken off the names."""
    by: dict[str, list[_Node]] = {}
    for leaf in leaves:
        by.setdefault("".join(_TOKEN.findall(leaf.name)[:1]), []).append(leaf)
    found: list[_Node] = []
    for members in by.values():
        start = _common([leaf.name for leaf in members])
        if len(members) == 1 or not start or depth == _DEEPEST:
            found += members
            continue
        for leaf in members:
            leaf.name = leaf.name[len(start) :] or start
        deeper = depth + (len(members) < len(leaves))  # a beginning that all share costs no level
        found.append(_Node(start.rstrip("/_.;:") or start, children=_grouped(members, deeper)))
    return found


def _common(names: Sequence[str]) -> str:
    """The words that all of them begin with; no name is used up by them."""
    split = [_TOKEN.findall(name) for name in names]
    shared = []
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    start = "".join(shared)
    return start if all(len(name) > len(start) for name in names) else "".join(shared[:-1])


def _beside(record: FileAccount, measure: str) -> int:
    """Bytes of the file that are no layer's; what an ideal coder would make of them is not known."""
    whole = {"raw": record.raw_bytes - record.training_bytes}.get(measure, record.download_bytes.get(measure))
    counted = sum(_bytes(layer, measure) or 0 for layer in record.layers)
    return max(0, whole - counted) if whole is not None else 0


def _place(node: _Node, measure: str, box: Box) -> None:
    """Give every node in the tree its box."""
    x, y, width, height = box
    strip = min(_STRIP, height / 5) if node.name else 0.0
    edge = 1.0 if node.name and min(width, height) > 6 else 0.0
    inside = (x + edge, y + strip, max(0.0, width - 2 * edge), max(0.0, height - strip - edge))
    node.boxes[measure], node.inner[measure] = box, inside
    ordered = sorted((child for child in node.children if child.sizes[measure] > 0), key=lambda c: -c.sizes[measure])
    for child, place in zip(ordered, _squares([child.sizes[measure] for child in ordered], inside), strict=True):
        if child.children:
            _place(child, measure, place)
        else:
            child.boxes[measure] = place


def _squares(sizes: Sequence[float], box: Box) -> list[Box]:
    """Boxes with areas as `sizes` (the largest first) that fill `box`, each as square as its row lets it be."""
    found: list[Box] = []
    x, y, width, height = box
    scale = width * height / (sum(sizes) or 1)
    rest = [size * scale for size in sizes]
    while rest:
        side = min(width, height)
        count = 1
        while count < len(rest) and _worst(rest[: count + 1], side) <= _worst(rest[:count], side):
            count += 1
        row, rest = rest[:count], rest[count:]
        deep = sum(row) / side if side else 0.0
        place = y if width >= height else x
        for area in row:
            long = area / deep if deep else 0.0
            found.append((x, place, deep, long) if width >= height else (place, y, long, deep))
            place += long
        if width >= height:
            x, width = x + deep, max(0.0, width - deep)
        else:
            y, height = y + deep, max(0.0, height - deep)
    return found


def _worst(row: Sequence[float], side: float) -> float:
    """The longest shape in a row of areas along a side."""
    total = sum(row) or 1.0
    square = side * side or 1.0
    return max(square * max(row) / (total * total), total * total / (square * (min(row) or 1e-9)))


def _tile(node: _Node, measures: Sequence[str], start: str, colour: str) -> Markup | None:
    """A node as a group that begins in its box of the measure `start`, and knows the others."""
    if not node.boxes:
        return None
    is_block = bool(node.children)
    boxes = {f"data_{measure}": _written(node.boxes[measure]) for measure in measures if measure in node.boxes}
    if is_block:
        boxes |= {f"data_{measure}_in": _written(node.inner[measure]) for measure in measures if measure in node.inner}
    x, y, width, height = node.boxes.get(start, (0.0, 0.0, 0.0, 0.0))
    (grown, deep), zeros = _grown(node) if colour == "change" else ("", 1.0), _shade(node)
    class_ = "block" if is_block else "other" if node.layer is None else grown
    tip = f"{_whole_name(node)}: " + ", ".join(f"{_MEASURES[m][0]} {format_bytes(node.sizes[m])}" for m in measures)
    opacity = None if node.layer is None else deep if colour == "change" else zeros
    drawn = [
        element("title", tip + _became(node)),
        element("rect", x=x, y=y, width=width, height=height, fill_opacity=opacity),
    ]
    strip = node.inner[start][1] - y + 2 if start in node.inner else height
    drawn.append(element("text", _words(node, width, strip), x=x + 4, y=y + 12, data_name=_label(node)))
    shades = {"data_zeros": zeros, "data_grown": deep} if node.layer else {}
    return element("g", *drawn, class_=class_ or None, **shades, **boxes)


def _label(node: _Node) -> str:
    """What stands in a tile: of a layer the first part of the path that its name is."""
    return (node.name.split("/")[0] if node.layer else "") or node.name


def _shade(node: _Node) -> float:
    """The more of its weights are zero, the paler."""
    return 1 - 0.8 * ((node.layer.sparsity if node.layer else None) or 0.0)


def _whole_name(node: _Node) -> str:
    return layer_name(node.layer) if node.layer else node.name


def _became(node: _Node) -> str:
    layer = node.layer
    parts = [f", {format_percent(layer.sparsity)} zeros"] if layer and layer.sparsity is not None else []
    if layer and node.before:
        parts.append(f", before {format_bytes(node.before.raw_bytes)} raw")
    return "".join(parts)


def _words(node: _Node, width: float, height: float) -> str:
    return shortened(_label(node), width - 6) if height >= 14 and width >= 5 * CHAR else ""


def _written(box: Box) -> Markup:
    return Markup(" ".join(f"{value:.1f}" for value in box))


def _grown(node: _Node) -> tuple[str, float]:
    """Whether a layer grew or shrank in the download (where that is not known, in the file), as a class, and how deep
    the colour of that is."""
    if node.layer is None:
        return "", 1.0
    measure = "raw" if any(one and one.deflate_bytes is None for one in (node.layer, node.before)) else "deflate"
    before, after = _bytes(node.before, measure) or 0, _bytes(node.layer, measure) or 0
    if not before:
        return ("grew", 1.0) if after else ("same", 1.0)
    ratio = after / before
    if ratio > 1.02:
        return "grew", 0.25 + 0.75 * min(1.0, ratio - 1)
    return ("shrank", 0.2 + 0.8 * (1 - ratio)) if ratio < 0.98 else ("same", 1.0)


def _controls(measures: Sequence[str], start: str, *, with_change: bool) -> Markup:
    """Buttons that only work with the code of the page, which shows them."""

    def group(title: str, key: str, words: Mapping[str, str], pressed: str) -> Markup:
        buttons = [
            element(
                "button",
                word,
                type="button",
                data_key=key,
                data_value=value,
                aria_pressed=str(value == pressed).lower(),
            )
            for value, word in words.items()
        ]
        return element("span", f"{title} ", *buttons, role="group", aria_label=title)

    parts = [group("Bytes:", "measure", {key: _MEASURES[key][0] for key in measures}, start)]
    if with_change:
        parts.append(group("Colour:", "colour", {"change": "change", "zeros": "zeros"}, "change"))
    back = element("button", "Back", type="button", data_key="back", disabled=True)
    parts.append(element("span", back, " ", element("span", class_="where", aria_live="polite")))
    return element("div", *parts, class_="controls", hidden=True)


def _caption(before: FileAccount | None, measures: Sequence[str]) -> str:
    meaning = "; ".join(f"{_MEASURES[key][0]}: {_MEASURES[key][1]}" for key in measures)
    missing = [_MEASURES[key][0] for key in _MEASURES if key not in measures]
    colour = "The fainter a layer, the more of its weights are zero"
    if before:
        colour = (
            "Colour by change: green layers shrank in the download, red ones grew or are new, the deeper the more; by "
            "zeros: the fainter a layer, the more of its weights are zero"
        )
    lacks = f" Not measured for this file: {' and '.join(missing)}." if missing else ""
    return f"A tile for each layer, as large as its bytes. {meaning}. {colour}. Click a block to go into it.{lacks}"


def _table(pairs: Sequence[Pair], record: FileAccount, measures: Sequence[str], before: FileAccount | None) -> Table:
    """A row for each layer, the largest first, and what is in the file beside them."""
    ordered = sorted(pairs, key=lambda pair: -(pair[1].raw_bytes if pair[1] else 0))
    rows = [_cells(old, new, measures, with_change=before is not None) for old, new in ordered]
    rest = [format_bytes(count) if (count := _beside(record, measure)) else "-" for measure in measures]
    rows.append((_REST, "-", *rest, "-", *(["-"] if before else [])))
    heads = (
        "layer",
        "op",
        *(_MEASURES[key][0] for key in measures),
        "zeros",
        *(["raw, against before"] if before else []),
    )
    return Table(heads=heads, rows=tuple(rows), left=frozenset({0, 1}))


def _cells(
    old: LayerAccount | None, new: LayerAccount | None, measures: Sequence[str], *, with_change: bool
) -> tuple[str, ...]:
    layer = new or old
    assert layer is not None
    sizes = [format_bytes(_bytes(new, measure) or 0) for measure in measures]
    zeros = format_percent(layer.sparsity) if layer.sparsity is not None else "-"
    change = (difference(old.raw_bytes if old else 0, new.raw_bytes if new else 0),) if with_change else ()
    return (layer_name(layer), layer.kind or "-", *sizes, zeros, *change)

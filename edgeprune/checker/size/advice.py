"""Where a model's bytes are and what would make them fewer, in sentences. Every number is of this file.

What an encoding does to a download was measured on MobileNetV2, 1.0, 224 px (ImageNet weights, magnitude-pruned in one
shot), deflate-9: 80 % zeros leave 28 % of the dense float32 download, 32 % in float16, 42 % in int8; -0.0 in place of
+0.0 costs 14 to 20 % there; sparse encoding of int8 in a .tflite makes the download 15 % larger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from edgeprune.checker.size.account import shipped_layers
from edgeprune.checker.size.quantized_parts import beside_weights
from edgeprune.checker.size.records import FileAccount, LayerAccount
from edgeprune.formats.contents import Contents, Layer, StoredArray, printable
from edgeprune.formats.weights import Role
from edgeprune.units import format_bytes, format_percent

__all__ = ["reasons"]

_WORTH_SAYING = 0.02  # of the file: less is not worth a sentence
_MANY_ZEROS = 0.1
_FAR_FROM_BOUND = 1.1
_NAME_CHARS = 80


def reasons(contents: Contents, account: FileAccount) -> list[str]:
    """Sentences about one file, the largest matters first."""
    if not contents.complete:
        return [f"{contents.note}."]
    parts = (_sections, _largest, _zeros, _sparse, _wide, _beside, _negative_zeros, _twice, _bound, _training)
    return [sentence for part in parts for sentence in part(contents, account)]


def _named(layer: Layer | LayerAccount) -> str:
    return printable(layer.name, _NAME_CHARS)


def _sections(_: Contents, account: FileAccount) -> Iterator[str]:
    whole = account.raw_bytes
    places = sorted(account.sections.items(), key=lambda item: -item[1])
    told = ", ".join(
        f"{name} {format_bytes(count)} ({format_percent(count / whole, 0)})" for name, count in places if count
    )
    yield f"Of {format_bytes(whole)} on disk: {told}."


def _largest(_: Contents, account: FileAccount) -> Iterator[str]:
    layers = sorted(account.layers, key=lambda layer: -layer.raw_bytes)
    layers, total = [layer for layer in layers if layer.raw_bytes][:3], sum(layer.raw_bytes for layer in layers)
    if total:
        told = ", ".join(f"{_named(layer)} {format_bytes(layer.raw_bytes)}" for layer in layers)
        part = format_percent(sum(layer.raw_bytes for layer in layers) / total, 0)
        yield f"The largest layers are {told}: {part} of the weights' bytes."


def _weights(contents: Contents) -> list[StoredArray]:
    arrays = (array for layer in shipped_layers(contents) for array in layer.arrays)
    return [array for array in arrays if array.role is Role.WEIGHT]


def _zeros(contents: Contents, _: FileAccount) -> Iterator[str]:
    """Zeros that take their full place in the file."""
    plain = [a for a in _weights(contents) if len(a.pieces) == 1 and a.zeros is not None]
    elements, zeros = sum(a.elements for a in plain), sum(a.zeros or 0 for a in plain)
    if not elements or zeros / elements < _MANY_ZEROS:
        if elements:
            yield (
                f"{format_percent(zeros / elements)} of the weights are zero: pruning has not shrunk this download; "
                "'edgeprune prune --sparsity 0.8' would (MobileNetV2 then deflates to 28 % of its dense size in "
                "float32, 42 % in int8)."
            )
        return
    stored = sum(a.stored_bytes for a in plain)
    yield (
        f"{format_percent(zeros / elements)} of the weights are zeros stored like any other number: they shrink the "
        f"download and leave install ({format_bytes(stored)} for these weights) and dense latency as they were; "
        "removing channels ('edgeprune prune --style channel') shrinks all three."
    )


def _sparse(contents: Contents, _: FileAccount) -> Iterator[str]:
    """Sparse encodings: larger to download for int8, smaller to install."""
    sparse = [a for a in _weights(contents) if "sparse" in a.precision]
    if not sparse:
        return
    stored, elements = sum(a.stored_bytes for a in sparse), sum(a.elements for a in sparse)
    positions = sum(p.stored_bytes for a in sparse for p in a.pieces if p.dtype in ("uint1", "uint8"))
    yield (
        f"{len(sparse)} arrays are stored sparse: {format_bytes(stored)} for {elements:,} weights, "
        f"{format_bytes(positions)} of it to say where the non-zeros are."
    )
    integers = [a for a in sparse if "int8" in a.precision]
    if integers and contents.format == "tflite":
        yield (
            "Sparse int8 in a .tflite makes the download larger than dense int8 with the same zeros (deflate +15 % at "
            "80 %), and some runtimes refuse it; store it densely unless the app is shipped uncompressed."
        )


def _wide(contents: Contents, account: FileAccount) -> Iterator[str]:
    """float32 weights, and float16 ones."""
    for precision, bits, smaller in (
        ("float32", 32, "float16 halves them (--precision float16), int8 quarters them"),
        ("float16", 16, "int8 halves them (--precision int8)"),
    ):
        wide = sum(a.stored_bytes for a in _weights(contents) if a.precision == precision)
        if wide > _WORTH_SAYING * account.raw_bytes:
            yield f"{format_bytes(wide)} are weights of {bits} bits: {smaller}."


def _beside(contents: Contents, account: FileAccount) -> Iterator[str]:
    yield from beside_weights(contents, account.download_bytes.get("deflate"))


def _negative_zeros(contents: Contents, account: FileAccount) -> Iterator[str]:
    count = 0
    for array in _weights(contents):
        for piece in array.pieces:
            width = {"float32": 4, "float16": 2}.get(piece.dtype)
            if width and len(piece.raw) % width == 0:
                words = piece.raw.view(f"<u{width}")
                count += int(np.count_nonzero(words == words.dtype.type(1 << (8 * width - 1))))
    if count > _WORTH_SAYING * (account.parameters or 1):
        yield (
            f"{count:,} zeros are -0.0, which compress badly beside +0.0 (MobileNetV2 at 80 % zeros: 14 to 20 % more "
            "to download); pruning and converting with this tool writes +0.0."
        )


def _twice(contents: Contents, _: FileAccount) -> Iterator[str]:
    """Arrays whose bytes are the same."""
    seen: dict[tuple[int, bytes], str] = {}
    double: list[tuple[int, str, str]] = []
    for layer in shipped_layers(contents):
        for array in layer.arrays:
            for piece in array.pieces:
                if piece.stored_bytes < 64:
                    continue
                key = (len(piece.raw), hashlib.blake2b(piece.raw.data, digest_size=16).digest())
                if key in seen:
                    double.append((piece.stored_bytes, seen[key], _named(layer)))
                seen.setdefault(key, _named(layer))
    total = sum(item[0] for item in double)
    if double:
        first, second = max(double)[1:]
        yield (
            f"{format_bytes(total)} are stored twice (the same bytes in {first} and {second}"
            f"{f', and {len(double) - 1} more' if len(double) > 1 else ''}): sharing them would save that at install."
        )


def _bound(_: Contents, account: FileAccount) -> Iterator[str]:
    bound, shares = account.bound_bytes or 0, sum(layer.deflate_bytes or 0 for layer in account.layers)
    if not bound or not shares or "deflate" not in account.download_bytes:
        return
    ratio = shares / bound
    room = ": little is left for a better codec" if ratio < _FAR_FROM_BOUND else ""
    yield (
        f"The weights deflate to {format_bytes(shares)}, {ratio:.2f} times the {format_bytes(bound)} of an ideal coder "
        "that looks at one number at a time (order-0; per channel where that is less; of floats each byte by itself)"
        f"{room}."
    )


def _training(_: Contents, account: FileAccount) -> Iterator[str]:
    if account.training_bytes:
        yield (
            f"{format_bytes(account.training_bytes)} are state of the optimizer, which no app needs; save the model "
            "with include_optimizer=False, or convert it."
        )

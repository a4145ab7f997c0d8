"""The one account of a model file: what each codec makes of it, and how much of that each layer is responsible for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeprune.checker.size.codecs import QUICK
from edgeprune.checker.size.download import measure_download
from edgeprune.checker.size.entropy import bound_bytes
from edgeprune.checker.size.records import FileAccount, InArchive, LayerAccount
from edgeprune.formats import read_contents
from edgeprune.formats.contents import Contents, Layer, StoredArray
from edgeprune.formats.weights import Role
from edgeprune.verdict import Estimate

__all__ = ["account", "shipped_layers"]

_TRAINING_GROUPS = frozenset({"optimizer", "training"})  # of layers that are no part of the model that ships


def account(
    model: Path | Contents,
    codecs: Sequence[str] = QUICK,
    *,
    shares: bool = True,
    bounds: bool = True,
    brotli: bool = False,
    every: bool = False,
    path: str | None = None,
    in_archive: InArchive | None = None,
    estimates: tuple[Estimate, ...] = (),
) -> FileAccount:
    """The account of a model file, or of one that has been read; `path` is what to call it.

    Layers are those with arrays or MACs, or with `every` all that ship. `shares`, each layer's part of the download,
    are worth half of the time of a quick look, and `bounds`, what an ideal coder would need, a quarter; `brotli`, the
    same part by brotli 11, takes two seconds a megabyte. Without them these are None. Raises InputError for a file
    that is missing, broken or refused, and Unsupported for one that cannot be read.
    """
    contents = read_contents(model) if isinstance(model, Path) else model
    shipped = shipped_layers(contents)
    with ThreadPoolExecutor(1) as pool:  # beside the threads of the codecs
        download = pool.submit(measure_download, contents.path, codecs)
        rows = _layers(shipped, shares=shares, bounds=bounds, brotli=brotli)
        download_bytes = download.result()
    arrays = [array for layer in shipped for array in layer.arrays]
    elements, zeros = _weights(arrays) if contents.complete else (None, None)
    stored = sum(array.stored_bytes for layer in contents.layers for array in layer.arrays)
    return FileAccount(
        path=path or str(contents.path),
        format=contents.format,
        complete=contents.complete,
        note=contents.note,
        raw_bytes=contents.raw_bytes,
        sections=dict(contents.sections),
        training_bytes=stored - sum(row.raw_bytes for row in rows),
        download_bytes=download_bytes,
        bound_bytes=sum(row.bound_bytes or 0 for row in rows) if contents.complete and bounds else None,
        parameters=sum(row.parameters for row in rows) if contents.complete else None,
        weights=elements,
        zeros=zeros,
        sparsity=zeros / elements if elements and zeros is not None else None,
        macs=contents.macs,
        layers=tuple(row for row, layer in zip(rows, shipped, strict=True) if every or layer.arrays or layer.macs),
        in_archive=in_archive,
        estimates=estimates,
    )


def shipped_layers(contents: Contents) -> list[Layer]:
    """The layers of the model itself, without state of training."""
    return [layer for layer in contents.layers if layer.group not in _TRAINING_GROUPS]


def _weights(arrays: Sequence[StoredArray]) -> tuple[int, int] | tuple[None, None]:
    """(elements, zeros) of the weights; None where the zeros of one are not known."""
    weights = [array for array in arrays if array.role is Role.WEIGHT]
    zeros = [array.zeros for array in weights if array.zeros is not None]
    return (sum(array.elements for array in weights), sum(zeros)) if len(zeros) == len(weights) else (None, None)


def _layers(layers: Sequence[Layer], *, shares: bool, bounds: bool, brotli: bool) -> list[LayerAccount]:
    nothing: list[int | None] = [None] * len(layers)
    with ThreadPoolExecutor(1) as pool:
        parts = pool.submit(_deflate_shares, layers) if shares else None
        more = _brotli_shares(layers) if brotli else nothing
        needed = [sum(map(bound_bytes, layer.arrays)) for layer in layers] if bounds else nothing
        rows = zip(layers, parts.result() if parts else nothing, needed, more, strict=True)
        return [_layer(*row) for row in rows]


def _layer(layer: Layer, share: int | None, bound: int | None, brotli: int | None) -> LayerAccount:
    parameters = [array for array in layer.arrays if array.parameter]
    weights = [array for array in layer.arrays if array.role is Role.WEIGHT]
    largest = max(parameters or layer.arrays, key=lambda array: array.stored_bytes, default=None)
    return LayerAccount(
        name=layer.name,
        kind=layer.kind,
        group=layer.group,
        shape=layer.outputs[0] if layer.outputs else None,
        precision=largest.precision if largest else None,
        parameters=sum(array.elements for array in parameters),
        weights=sum(array.elements for array in weights),
        zeros=_weights(weights)[1],
        raw_bytes=sum(array.stored_bytes for array in layer.arrays),
        deflate_bytes=share if layer.arrays else 0,
        bound_bytes=bound if layer.arrays else 0,
        macs=layer.macs,
        brotli_bytes=brotli if layer.arrays or brotli is None else 0,
    )


def _deflate_shares(layers: Sequence[Layer]) -> list[int]:
    """Bytes of each layer in one deflate-9 stream over all arrays, with a flush (about 5 bytes) behind each layer."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    shares: list[int] = []
    for layer in layers:
        count = sum(len(stream.compress(piece.raw.data)) for array in layer.arrays for piece in array.pieces)
        shares.append(count + len(stream.flush(zlib.Z_SYNC_FLUSH)) if layer.arrays else 0)
    return shares


def _brotli_shares(layers: Sequence[Layer]) -> list[int]:
    """The same of one brotli stream (RFC 7932) with the codec's level and window."""
    import brotli

    stream = brotli.Compressor(quality=11, lgwin=22)
    shares: list[int] = []
    for layer in layers:
        pieces = (piece.raw.tobytes() for array in layer.arrays for piece in array.pieces)
        count = sum(len(stream.process(piece)) for piece in pieces)
        shares.append(count + len(stream.flush()) if layer.arrays else 0)
    return shares

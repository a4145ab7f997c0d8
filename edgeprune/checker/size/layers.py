"""A model file's account: what each codec makes of it, and how much of that each layer is responsible for."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeprune.checker.size.accounting import measure_download
from edgeprune.checker.size.codecs import QUICK
from edgeprune.checker.size.entropy import bound_bytes
from edgeprune.formats import read_contents
from edgeprune.formats.contents import Contents, Layer
from edgeprune.formats.weights import Role

__all__ = ["TRAINING_GROUPS", "Account", "LayerAccount", "account", "account_contents"]

# Groups of layers that are no part of the model that ships.
TRAINING_GROUPS = frozenset({"optimizer", "training"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerAccount:
    """The bytes of one layer.

    `raw_bytes` is what its arrays take in the file, `share_bytes` their part of a deflate stream that codes all arrays
    in order (None where that was not asked for), `bound_bytes` what an ideal order-0 coder would need. `parameters`
    counts elements of weights and biases, `weights` the elements of its kernels, matrices and tables, `zeros` those of
    the weights that are zero (None where that is not known).
    """

    layer: Layer
    raw_bytes: int
    share_bytes: int | None
    bound_bytes: int
    parameters: int
    weights: int
    zeros: int | None
    precision: str

    @property
    def sparsity(self) -> float | None:
        """Share of the weights that are zero; None without weights or where zeros are not known."""
        return self.zeros / self.weights if self.zeros is not None and self.weights else None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits in the file for each parameter; None without parameters."""
        return 8 * self.raw_bytes / self.parameters if self.parameters else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Account:
    """A model file's bytes. `download_bytes` has an entry for each codec that was asked for.

    `layers` holds those with parameters or bytes; state of training is in `training_bytes` and in no other number.
    """

    contents: Contents
    download_bytes: dict[str, int]
    layers: tuple[LayerAccount, ...]
    training_bytes: int

    @property
    def path(self) -> Path:
        """The file or package."""
        return self.contents.path

    @property
    def raw_bytes(self) -> int:
        """What it takes on a disk."""
        return self.contents.raw_bytes

    @property
    def known(self) -> bool:
        """Whether parameters and zeros could be read."""
        return self.contents.complete

    @property
    def parameters(self) -> int | None:
        """Weights and biases; None for a format that is only sized."""
        return sum(layer.parameters for layer in self.layers) if self.known else None

    @property
    def zeros(self) -> int | None:
        """Weights that are zero; None where that is not known of a layer."""
        if not self.known or any(layer.zeros is None for layer in self.layers):
            return None
        return sum(layer.zeros or 0 for layer in self.layers)

    @property
    def weights(self) -> tuple[int, int] | None:
        """(elements, zeros) of the weights without biases and other vectors; None where zeros are not known."""
        kernels = [a for found in self.layers for a in found.layer.arrays if a.role is Role.WEIGHT]
        if not self.known or any(array.zeros is None for array in kernels):
            return None
        return sum(array.elements for array in kernels), sum(array.zeros or 0 for array in kernels)

    @property
    def sparsity(self) -> float | None:
        """Share of the weights (biases do not count) that are zero; None without weights or where not known."""
        found = self.weights
        return found[1] / found[0] if found and found[0] else None

    @property
    def bound_bytes(self) -> int | None:
        """What an ideal order-0 coder would make of all arrays; None for a format that is only sized."""
        return sum(layer.bound_bytes for layer in self.layers) if self.known else None


def account(path: Path, codecs: Sequence[str] = QUICK, *, shares: bool = True) -> Account:
    """The account of the model at `path`; `shares` are worth half of the time of a quick look.

    Raises InputError for a file that is missing, broken or refused, and Unsupported for one that cannot be read.
    """
    return account_contents(read_contents(path), codecs, shares=shares)


def account_contents(contents: Contents, codecs: Sequence[str] = QUICK, *, shares: bool = True) -> Account:
    """The account of a file that has been read. Raises InputError when it cannot be read once more."""
    shipped = [layer for layer in contents.layers if layer.group not in TRAINING_GROUPS]
    with ThreadPoolExecutor(2) as pool:  # beside the threads of the codecs
        download = pool.submit(measure_download, contents.path, codecs)
        parts = pool.submit(_deflate_shares if shares else _no_shares, shipped)
        bounds = [sum(bound_bytes(array) for array in layer.arrays) for layer in shipped]
        rows = tuple(
            _layer(layer, share, bound)
            for layer, share, bound in zip(shipped, parts.result(), bounds, strict=True)
            if layer.arrays
        )
        training = sum(
            array.stored_bytes for layer in contents.layers if layer.group in TRAINING_GROUPS for array in layer.arrays
        )
        return Account(contents=contents, download_bytes=download.result(), layers=rows, training_bytes=training)


def _layer(layer: Layer, share: int | None, bound: int) -> LayerAccount:
    parameters = [array for array in layer.arrays if array.parameter]
    kernels = [array for array in layer.arrays if array.role is Role.WEIGHT]
    zeros = [array.zeros for array in kernels]
    largest = max(parameters or layer.arrays, key=lambda array: array.stored_bytes)
    return LayerAccount(
        layer=layer,
        raw_bytes=sum(array.stored_bytes for array in layer.arrays),
        share_bytes=share,
        bound_bytes=bound,
        parameters=sum(array.elements for array in parameters),
        weights=sum(array.elements for array in kernels),
        zeros=None if None in zeros else sum(zero or 0 for zero in zeros),
        precision=largest.precision,
    )


def _no_shares(layers: Sequence[Layer]) -> list[int | None]:
    return [None] * len(layers)


def _deflate_shares(layers: Sequence[Layer]) -> list[int | None]:
    """Bytes of each layer in one deflate-9 stream over all arrays, with a flush (about 5 bytes) behind each layer."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    shares: list[int | None] = []
    for layer in layers:
        count = sum(len(stream.compress(piece.raw.data)) for array in layer.arrays for piece in array.pieces)
        shares.append(count + len(stream.flush(zlib.Z_SYNC_FLUSH)) if layer.arrays else 0)
    return shares

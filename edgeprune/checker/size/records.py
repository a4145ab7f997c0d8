"""A model file's account as plain values: what the JSON report holds, and what a later check reads back as baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from edgeprune.host.json_values import check_counts, check_shares
from edgeprune.verdict import Estimate

__all__ = ["FileAccount", "InArchive", "LayerAccount"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAccount:
    """One layer. Unknown is None.

    `raw_bytes`: of its arrays in the file; `deflate_bytes`: its part of one deflate stream over all arrays, and
    `brotli_bytes` of one by brotli, None where it was not asked for; `bound_bytes`: order-0 code length of its arrays;
    `weights`: elements of kernels, matrices and tables, and `zeros` those that are zero (`parameters` has biases, too);
    `shape`: of its first output; `macs`: for one inference.
    """

    name: str
    kind: str
    group: str
    shape: tuple[int, ...] | None
    precision: str | None
    parameters: int
    weights: int
    zeros: int | None
    raw_bytes: int
    deflate_bytes: int | None
    bound_bytes: int | None
    macs: int | None
    brotli_bytes: int | None = None

    def __post_init__(self) -> None:
        check_counts(parameters=self.parameters, weights=self.weights, zeros=self.zeros, macs=self.macs)
        check_counts(raw_bytes=self.raw_bytes, deflate_bytes=self.deflate_bytes, bound_bytes=self.bound_bytes)
        check_counts(brotli_bytes=self.brotli_bytes)

    @property
    def sparsity(self) -> float | None:
        """Share of the weights that are zero; None without weights or where zeros are not known."""
        return self.zeros / self.weights if self.zeros is not None and self.weights else None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits in the file for each parameter; None without parameters."""
        return 8 * self.raw_bytes / self.parameters if self.parameters else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InArchive:
    """How a model stands in an app bundle: `method` is stored, deflated or mixed, `compressed_bytes` its bytes there.

    `install_bytes` is what it takes on a device, with the copy that an app makes of a model it cannot map; None where
    the bundle does not decide that (.aab, .zip).
    """

    archive: str
    method: str
    compressed_bytes: int
    install_bytes: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_counts(compressed_bytes=self.compressed_bytes, install_bytes=self.install_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAccount:
    """One model file. `complete` is False for a format that is only sized (then counts are None, and `note` says why).

    `weights`, `zeros` and `sparsity` are of kernels, matrices and tables; biases count as parameters only. The bytes of
    `sections` add up to `raw_bytes`; `training_bytes` of them are optimizer state, which is in no other count.
    """

    path: str
    format: str
    complete: bool
    note: str
    raw_bytes: int
    sections: Mapping[str, int]
    training_bytes: int
    download_bytes: Mapping[str, int]
    bound_bytes: int | None
    parameters: int | None
    weights: int | None
    zeros: int | None
    sparsity: float | None
    macs: int | None
    layers: tuple[LayerAccount, ...] = field(default_factory=tuple)
    in_archive: InArchive | None = None
    estimates: tuple[Estimate, ...] = ()

    def __post_init__(self) -> None:
        check_counts(raw_bytes=self.raw_bytes, sections=self.sections, download_bytes=self.download_bytes)
        check_counts(training_bytes=self.training_bytes, bound_bytes=self.bound_bytes, macs=self.macs)
        check_counts(parameters=self.parameters, weights=self.weights, zeros=self.zeros)
        check_shares(sparsity=self.sparsity)

    def estimate(self, device: str, basis: str) -> Estimate | None:
        """The estimate from the profile with this name, best with this basis; None where none was made."""
        named = [found for found in self.estimates if found.device == device]
        return next((found for found in named if found.basis == basis), named[0] if named else None)

    def to_json(self) -> dict[str, object]:
        """Plain values by the names of the fields; layers also with `sparsity` and `bits_per_weight`, and without
        `brotli_bytes` where nobody asked for it."""
        body = asdict(self)
        for values, layer in zip(body["layers"], self.layers, strict=True):
            values |= {"sparsity": layer.sparsity, "bits_per_weight": layer.bits_per_weight}
            if layer.brotli_bytes is None:
                del values["brotli_bytes"]
        return body

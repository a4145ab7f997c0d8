"""A model file's account as plain values: what the JSON report holds, and what a later check reads back as baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edgeprune.ledger import Estimate

__all__ = ["FileRecord", "InArchive", "LayerRecord", "record_from_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """One layer. Unknown is None.

    `raw_bytes`: of its arrays in the file; `deflate_bytes`: its part of one deflate stream over all arrays;
    `bound_bytes`: order-0 code length of its arrays; `weights`: elements of kernels, matrices and tables, and `zeros`
    those that are zero (`parameters` has biases, too); `shape`: of its first output; `macs`: for one inference.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
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
    layers: tuple[LayerRecord, ...] = field(default_factory=tuple)
    in_archive: InArchive | None = None
    estimates: tuple[Estimate, ...] = ()

    def estimate(self, device: str, basis: str) -> Estimate | None:
        """The estimate from the profile with this name, best with this basis; None where none was made."""
        named = [found for found in self.estimates if found.device == device]
        return next((found for found in named if found.basis == basis), named[0] if named else None)

    def to_json(self) -> dict[str, Any]:
        """Plain values by the names of the fields; layers also with `sparsity` and `bits_per_weight`."""
        body = asdict(self)
        for values, layer in zip(body["layers"], self.layers, strict=True):
            values |= {"sparsity": layer.sparsity, "bits_per_weight": layer.bits_per_weight}
        return body


def record_from_json(raw: Mapping[str, Any]) -> FileRecord:
    """A record as `to_json` wrote it. Raises KeyError, TypeError or ValueError for anything else."""
    archive = raw["in_archive"]
    return FileRecord(
        **_fields(FileRecord, raw, leave=("layers", "in_archive", "estimates")),
        layers=tuple(LayerRecord(**_fields(LayerRecord, layer)) for layer in raw["layers"]),
        in_archive=InArchive(**_fields(InArchive, archive)) if archive is not None else None,
        estimates=tuple(Estimate(**_fields(Estimate, found)) for found in raw["estimates"]),
    )


def _fields(kind: type, raw: Mapping[str, Any], leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a record but for those to `leave`, each held against its type."""
    found = {}
    for item in fields(kind):
        if item.name not in leave:
            value = raw[item.name]
            if isinstance(value, list):
                value = tuple(value)
            if not _CHECKS[str(item.type)](value):
                raise ValueError(f"{item.name} is {str(value)[:40]!r}")
            found[item.name] = value
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_BYTES


def _is_counts(value: object) -> bool:
    return isinstance(value, dict) and all(_is_count(count) for count in value.values())


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_milliseconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST_BYTES


_MOST_BYTES = 2**63  # no number in a report is larger
# What each annotation of a record lets in.
_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "Mapping[str, int]": _is_counts,
    "Milliseconds | None": lambda value: value is None or _is_milliseconds(value),
    "bool": lambda value: isinstance(value, bool),
    "float | None": lambda value: value is None or _is_share(value),
    "int": _is_count,
    "int | None": lambda value: value is None or _is_count(value),
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "tuple[int, ...] | None": lambda value: value is None or (isinstance(value, tuple) and all(map(_is_count, value))),
    "tuple[str, ...]": lambda value: isinstance(value, tuple) and all(isinstance(text, str) for text in value),
}

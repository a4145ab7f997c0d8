"""A model file's account as plain values: what the JSON report holds, and what a later check reads back as baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edgeprune.contents.model import Layer
from edgeprune.size.layers import Account, LayerAccount

__all__ = ["FileRecord", "InArchive", "LayerRecord", "file_record", "record_from_json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """One layer. Unknown is None.

    `raw_bytes`: of its arrays in the file; `deflate_bytes`: its part of one deflate stream over all arrays;
    `bound_bytes`: order-0 code length of its arrays; `shape`: of its first output; `macs`: for one inference.
    """

    name: str
    kind: str
    group: str
    shape: tuple[int, ...] | None
    precision: str | None
    parameters: int
    zeros: int | None
    raw_bytes: int
    deflate_bytes: int | None
    bound_bytes: int | None
    macs: int | None

    @property
    def sparsity(self) -> float | None:
        """Share of the parameters that are zero; None without parameters or where zeros are not known."""
        return self.zeros / self.parameters if self.zeros is not None and self.parameters else None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits in the file for each parameter; None without parameters."""
        return 8 * self.raw_bytes / self.parameters if self.parameters else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InArchive:
    """How a model stands in an app bundle: `method` is stored or deflated, `compressed_bytes` what it takes there."""

    archive: str
    method: str
    compressed_bytes: int
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

    def to_json(self) -> dict[str, Any]:
        """Plain values by the names of the fields; layers also with `sparsity` and `bits_per_weight`."""
        body = asdict(self)
        for values, layer in zip(body["layers"], self.layers, strict=True):
            values |= {"sparsity": layer.sparsity, "bits_per_weight": layer.bits_per_weight}
        return body


def file_record(found: Account, *, path: str | None = None, in_archive: InArchive | None = None) -> FileRecord:
    """The account as plain values; `path` is what to call the file."""
    contents, weights = found.contents, found.weights
    rows = {id(row.layer): row for row in found.layers}
    return FileRecord(
        path=path or str(found.path),
        format=contents.format,
        complete=contents.complete,
        note=contents.note,
        raw_bytes=found.raw_bytes,
        sections=dict(contents.sections),
        training_bytes=found.training_bytes,
        download_bytes=dict(found.download_bytes),
        bound_bytes=found.bound_bytes,
        parameters=found.parameters,
        weights=weights[0] if weights else None,
        zeros=weights[1] if weights else None,
        sparsity=found.sparsity,
        macs=contents.macs,
        layers=tuple(
            _layer_record(layer, rows.get(id(layer))) for layer in contents.layers if id(layer) in rows or layer.macs
        ),
        in_archive=in_archive,
    )


def _layer_record(layer: Layer, row: LayerAccount | None) -> LayerRecord:
    return LayerRecord(
        name=layer.name,
        kind=layer.kind,
        group=layer.group,
        shape=layer.outputs[0] if layer.outputs else None,
        precision=row.precision if row else None,
        parameters=row.parameters if row else 0,
        zeros=row.zeros if row else 0,
        raw_bytes=row.raw_bytes if row else 0,
        deflate_bytes=row.share_bytes if row else 0,
        bound_bytes=row.bound_bytes if row else 0,
        macs=layer.macs,
    )


def record_from_json(raw: Mapping[str, Any]) -> FileRecord:
    """A record as `to_json` wrote it. Raises KeyError, TypeError or ValueError for anything else."""
    archive = raw.get("in_archive")
    names = {item.name for item in fields(LayerRecord)}
    layers = tuple(
        LayerRecord(**{**{name: layer[name] for name in names}, "shape": _shape(layer["shape"])})
        for layer in raw["layers"]
    )
    for name in ("raw_bytes", "training_bytes"):
        if not isinstance(raw[name], int) or raw[name] < 0:
            raise ValueError(f"{name} is {raw[name]!r}")
    plain = {item.name: raw[item.name] for item in fields(FileRecord) if item.name not in ("layers", "in_archive")}
    return FileRecord(
        **plain,
        layers=layers,
        in_archive=InArchive(**{**archive, "notes": tuple(archive["notes"])}) if archive else None,
    )


def _shape(raw: Any) -> tuple[int, ...] | None:
    return None if raw is None else tuple(int(size) for size in raw)

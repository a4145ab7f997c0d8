"""A model file on disk: what it is, how precise it is, and the hash that names its bytes."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "GIT_LFS_POINTER",
    "SUFFIXES",
    "Artifact",
    "Color",
    "DeploymentTarget",
    "Format",
    "IoType",
    "Precision",
    "Rounding",
    "Scales",
    "files_of",
    "sha256_of",
]

# How the file begins that git checks out where git-lfs is not installed (git-lfs specification).
GIT_LFS_POINTER = b"version https://git-lfs"


class Format(enum.StrEnum):
    """Container of a model."""

    KERAS = "keras"
    TFLITE = "tflite"
    COREML = "coreml"
    ONNX = "onnx"


SUFFIXES = {Format.TFLITE: ".tflite", Format.COREML: ".mlpackage", Format.ONNX: ".onnx"}  # of the files that are made


class Precision(enum.StrEnum):
    """Number format of the weights (and, for int8, int16x8 and w8a8, of the activations)."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    DYNAMIC = "dynamic"  # dynamic range: int8 weights, float32 activations
    INT8 = "int8"  # full integer for TFLite; weight-only, per channel for Core ML; Q/DQ pairs for ONNX
    INT8_WEIGHTS = "int8-weights"  # TFLite: int8 kernels per channel, unpacked when the file is loaded; of variants
    INT16X8 = "int16x8"  # TFLite: int16 activations, int8 weights
    SPARSE = "sparse"  # Core ML: float16 non-zeros and a bit mask
    INT4 = "int4"  # Core ML, from iOS 18: weight-only, a scale for each 32 inputs of an output channel
    W8A8 = "w8a8"  # Core ML, from iOS 17: int8 weights per channel, int8 activations per tensor
    PALETTE2 = "palette2"  # Core ML: a table of 4 float16 values for each tensor, 2-bit indexes; likewise below
    PALETTE4 = "palette4"
    PALETTE6 = "palette6"
    PALETTE8 = "palette8"
    SPARSE_INT8 = "sparse-int8"  # Core ML, from iOS 18: a bit mask, and the non-zeros as int8
    SPARSE_W8A8 = "sparse-w8a8"  # Core ML, from iOS 18: sparse-int8 with int8 activations
    SPARSE_PALETTE4 = "sparse-palette4"  # Core ML, from iOS 18: a bit mask, and the non-zeros as indexes into a table
    SPARSE_PALETTE6 = "sparse-palette6"
    SPARSE_PALETTE8 = "sparse-palette8"


class IoType(enum.StrEnum):
    """Inputs and outputs of a .tflite file."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"


class Scales(enum.StrEnum):
    """How the scales of the kernels of an integer .tflite file are stored."""

    SLIM = "slim"  # rounded up to a few bits
    FLOAT32 = "float32"


class Rounding(enum.StrEnum):
    """How the weights of an integer .tflite file are rounded."""

    AUTO = "auto"  # reconstructed where weights get coarser, or where that keeps max_drop; else nearest
    NEAREST = "nearest"
    RECONSTRUCTED = "reconstructed"  # so that each layer keeps its outputs


class DeploymentTarget(enum.StrEnum):
    """The oldest iOS that must run a Core ML package."""

    IOS15 = "iOS15"
    IOS16 = "iOS16"
    IOS17 = "iOS17"
    IOS18 = "iOS18"


class Color(enum.StrEnum):
    """Order of the channels of the pictures that a model was trained with."""

    RGB = "RGB"
    BGR = "BGR"
    GRAYSCALE = "GRAYSCALE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A written model file (or, for .mlpackage, folder)."""

    path: Path
    format: Format
    precision: Precision
    sha256: str

    @classmethod
    def of(cls, path: Path, model_format: Format, precision: Precision) -> Artifact:
        """The artifact at `path`, hashed as it is on disk now."""
        return cls(path=path, format=model_format, precision=precision, sha256=sha256_of(path))


def files_of(path: Path) -> list[Path]:
    """The file itself, or every file of a package folder, sorted by its path inside it."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def sha256_of(path: Path) -> str:
    """SHA-256, hex. A folder is hashed over its sorted relative names and contents."""
    digest = hashlib.sha256()
    for file in files_of(path):
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            digest.update(file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

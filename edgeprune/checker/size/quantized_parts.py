"""What a quantized .tflite file holds beside its weights, in sentences: scales, biases, names, and what would cut them.

What coarser weights save was measured on the Fashion-MNIST sample (5,000 test images): `edgeprune convert --spend
'0.2 %'` took its int8 download from 258 to 148 kB dense, from 132 to 85 kB with 80 % zeros and from 70 to 46 kB with
37 % of the MACs; the accuracy of none of them fell by more than 0.16 points.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.formats.contents import Contents
from edgeprune.formats.tflite.scales import are_slim, round_up
from edgeprune.formats.weights import Role
from edgeprune.units import format_bytes, format_percent

__all__ = ["beside_weights"]

_WORTH_SAYING = 0.02  # of the download
_ONE_GRID = 0.5  # of a kernel's scales: where so many are the same, they stand on a floor already

Arrays = Sequence[npt.NDArray[np.generic]]


def beside_weights(contents: Contents, download_bytes: int | None) -> Iterator[str]:
    """Sentences about an integer .tflite file; none about others."""
    if contents.graph is None or not download_bytes:
        return
    kernels, biases = _scales(contents, Role.WEIGHT, "int8"), _scales(contents, Role.BIAS, "int32", "int64")
    if not kernels or not biases:
        return
    names = [np.frombuffer(tensor.name.encode("utf-8", "replace"), np.uint8) for tensor in contents.graph.tensors]
    stored = [a.pieces[0].raw for layer in contents.layers for a in layer.arrays if a.role is Role.BIAS]
    parts: dict[str, Arrays] = {
        "scales of kernels": kernels,
        "the same with the biases, times the scale of the data": biases,
        "biases": stored,
        "names of tensors": names,
    }
    told = ", ".join(
        f"{name} {format_bytes(_raw(arrays))} ({format_bytes(_deflated(arrays))} deflated)"
        for name, arrays in parts.items()
    )
    points = f"zero points {format_bytes(contents.zero_point_bytes)}"
    yield f"Beside the weights there are {told}, and {points} (next to nothing deflated)."
    yield from _cuts(kernels, biases, names, download_bytes)


def _cuts(kernels: Arrays, biases: Arrays, names: Arrays, download_bytes: int) -> Iterator[str]:
    """What would make them fewer."""
    wide = [scales for scales in kernels if not are_slim(np.asarray(scales, np.float32))]
    if wide:
        slim = [round_up(np.asarray(scales, np.float32)) for scales in wide]
        saved = (1 + _deflated(biases) / max(_deflated(kernels), 1)) * (_deflated(wide) - _deflated(slim))
        if saved > _WORTH_SAYING * download_bytes:
            yield (
                f"{len(wide)} of {len(kernels)} kernels have float32 scales; with few bits, which 'edgeprune convert "
                f"--precision int8' gives them, the download loses about {format_bytes(round(saved))} "
                f"({format_percent(saved / download_bytes, 0)})."
            )
    lost = _deflated(names)
    if lost > _WORTH_SAYING * download_bytes:
        yield f"No runtime reads the names of inner tensors: '--drop-names' leaves out most of {format_bytes(lost)}."
    several = [scales for scales in kernels if len(scales) > 1]
    if sum(_most_equal(scales) < _ONE_GRID for scales in several) > len(several) / 2:
        yield (
            "Each channel has a grid of its own: 'edgeprune convert --spend \"0.2 %\" --validation DATA' makes grids "
            "coarser where that costs least (the Fashion-MNIST sample: 34 to 43 % less to download)."
        )


def _scales(contents: Contents, role: Role, *dtypes: str) -> list[npt.NDArray[np.float32]]:
    assert contents.graph is not None
    tensors = contents.graph.tensors
    places = (place for place, known in contents.graph.roles().items() if known is role)
    return [contents.scales[p] for p in places if p in contents.scales and tensors[p].dtype in dtypes]


def _most_equal(scales: npt.NDArray[np.generic]) -> float:
    """Share of the commonest one."""
    return float(np.unique(scales, return_counts=True)[1].max() / len(scales))


def _raw(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays)


def _deflated(arrays: Arrays) -> int:
    return len(zlib.compress(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays), 9))

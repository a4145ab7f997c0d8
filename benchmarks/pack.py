"""`edgeprune pack` on MobileNetV2 1.0 (224 px, 1000 classes) as int8 .tflite, dense and with 50, 80 and 90 % zeros.

Weights are drawn like trained ones (`download.trained_like`); zeros in convolutions and the Dense layer, not in
depthwise kernels, in one shot. And as float32 with 80 %, half of the zeros negative, as a mask leaves them.

For each file one line: install, deflate at level 9, the stream of pack, brotli beside it, and the CPU time of the
stream as a share of zlib's own; what pack writes is read back by Python's zipfile and, where there is one, by unzip.
Target: at 80 % in int8 at most 1.29 MB.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from download import trained_like

from edgeprune import PackOptions, pack
from edgeprune.artifact import Format, Precision
from edgeprune.checker.size.codecs import CODECS
from edgeprune.converters.session import Converter
from edgeprune.formats.bundles.deflating import deflated
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.formats.tflite.packed import array_edges
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import MagnitudeOptions

TARGET_BYTES, AT = 1_290_000, 0.8


def stream_cost(content: bytes) -> float:
    """CPU time of the stream, zlib's pass at level 9 included, as a share of that pass."""
    begun = time.process_time()
    plain = CODECS["deflate"].compress(content)
    middle = time.process_time()
    deflated(content, plain, array_edges(content))
    return (time.process_time() - begun) / max(middle - begun, 1e-6)


def line(name: str, path: Path) -> int:
    """Pack one file into a new zip and tell; the bytes of the stream."""
    options = PackOptions(drop_metadata=True, drop_names=True)
    found = pack(path, path.with_suffix(".zip"), options=options, overwrite=True)
    assert found.member is not None
    before, after = found.download_bytes["deflate"], found.member.compressed_bytes
    brotli = CODECS["brotli"].compressed_bytes(path.read_bytes())
    print(
        f"{name}: install {found.raw_bytes:,} -> {found.packed_raw_bytes:,}, deflate 9 {before:,}, pack {after:,} "
        f"({after / before - 1:+.1%}), brotli 11 {brotli:,}, CPU {stream_cost(path.read_bytes()):.2f} of zlib's; read "
        f"by {' and '.join(found.member.read_by)}"
    )
    return after


def with_negative_zeros(content: bytes, rng: np.random.Generator) -> bytes:
    """A float32 file as a product with a mask leaves it: half of the zeros of its constants are -0.0."""
    changed = bytearray(content)
    graph, buffers = parse_tflite(Path("model"), content)
    for number in {tensor.buffer for tensor in graph.tensors if tensor.constant and tensor.dtype == "float32"}:
        start, size = buffers.places[number]
        words = np.frombuffer(changed, np.uint32, size // 4, start)
        zeros = np.flatnonzero(words == 0)
        words[zeros[rng.random(len(zeros)) < 0.5]] = 1 << 31
    return bytes(changed)


def main() -> None:
    keras, rng = keras_module(), np.random.default_rng(0)
    dense = trained_like(keras.applications.MobileNetV2((224, 224, 3), weights=None), rng)
    images = {dense.inputs[0].name: rng.normal(size=(4, 224, 224, 3)).astype(np.float32)}
    with tempfile.TemporaryDirectory() as place, Converter() as converter:
        for zeros in (0.0, 0.5, 0.8, 0.9):
            model = prune_magnitude(dense, MagnitudeOptions(sparsity=zeros)).model if zeros else dense
            path = Path(place) / f"zeros{zeros:.1f}.int8.tflite"
            converter.export(model, path, Format.TFLITE, Precision.INT8, calibration=images)
            size = line(f"int8, {zeros:.0%} zeros", path)
            if zeros == AT:
                masked = Path(place) / "masked.float32.tflite"
                converter.export(model, masked, Format.TFLITE, Precision.FLOAT32)
                masked.write_bytes(with_negative_zeros(masked.read_bytes(), rng))
                line("float32, 80% zeros, half of them negative", masked)
                print(f"target {TARGET_BYTES:,}: {'met' if size <= TARGET_BYTES else 'missed'}")


if __name__ == "__main__":
    main()

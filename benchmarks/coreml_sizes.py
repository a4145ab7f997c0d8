"""Compressed Core ML packages of MobileNetV2 1.0 at 224 px beside the ratios that Apple publishes for it.

Ratios are float16 package / compressed package, bytes on disk. Apple's (coremltools 9 guide, "Optimization overview",
MobileNetV2-1.0): 50 % sparse 1.37, 75 % 1.73, 4-bit palette 3.38, int8 1.92. Their numbers fit pruning of the
convolutions without the depthwise ones and without the classifier (62 % of the weights), which is what "as published"
does here; "all" prunes the classifier too. The 4-bit palette comes out smaller than theirs, because small tensors are
palettized too (from 64 elements on; coremltools's default is 2,048). Sizes of these encodings depend on the number of
zeros, not on the weights' values, so random weights serve. "download" is deflate 9 of the package, over that of the
dense float16 package.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgeprune.artifact import Format, Precision
from edgeprune.checker.size.account import account
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.session import Converter
from edgeprune.maker.keras.models import keras_module
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import MagnitudeOptions

CLASSIFIER = "predictions"
# label, sparsity (0: dense), whether the classifier is pruned, precision, target, published ratio
ROWS: tuple[tuple[str, float, bool, Precision, str, float | None], ...] = (
    ("int8 per channel", 0, False, Precision.INT8, "iOS16", 1.92),
    ("palette, 4 bit", 0, False, Precision.PALETTE4, "iOS16", 3.38),
    ("50 % sparse, as published", 0.5, False, Precision.SPARSE, "iOS16", 1.37),
    ("75 % sparse, as published", 0.75, False, Precision.SPARSE, "iOS16", 1.73),
    ("80 % sparse, as published", 0.8, False, Precision.SPARSE, "iOS16", None),
    ("80 % sparse, all", 0.8, True, Precision.SPARSE, "iOS16", None),
    ("80 % sparse, all, int8", 0.8, True, Precision.SPARSE_INT8, "iOS18", None),
    ("80 % sparse, all, palette4", 0.8, True, Precision.SPARSE_PALETTE4, "iOS18", None),
    ("80 % sparse, all, stored dense", 0.8, True, Precision.FLOAT16, "iOS16", None),
    ("80 % sparse, all, int8 dense", 0.8, True, Precision.INT8, "iOS16", None),
)


def main() -> None:
    keras = keras_module()
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((224, 224, 3), weights=None)
    models: dict[tuple[float, bool], Any] = {(0, False): model}
    with Converter() as converter, tempfile.TemporaryDirectory() as place:
        plain = Path(place) / "float16.mlpackage"
        converter.export(model, plain, Format.COREML, Precision.FLOAT16)
        base = account(plain)
        print(f"float16: {base.raw_bytes:,} bytes, download {base.download_bytes['deflate']:,}")
        print(f"{'setting':32s} {'bytes':>10s} {'ratio':>6s} {'published':>9s} {'off':>6s} {'download':>9s}  zeros")
        for number, (label, sparsity, classifier, precision, target, published) in enumerate(ROWS):
            key = (sparsity, classifier)
            if key not in models:
                exclude = () if classifier else (CLASSIFIER,)
                models[key] = prune_magnitude(model, MagnitudeOptions(sparsity=sparsity, exclude=exclude)).model
            out = Path(place) / f"{number}.mlpackage"
            converter.export(models[key], out, Format.COREML, precision, app=AppOptions(target=target))
            size = account(out)
            ratio = base.raw_bytes / size.raw_bytes
            beside = f"{published:9.2f} {ratio / published - 1:+6.1%}" if published else f"{'':9s} {'':6s}"
            download = size.download_bytes["deflate"] / base.download_bytes["deflate"]
            print(
                f"{label:32s} {size.raw_bytes:10,} {ratio:6.2f} {beside} {download:8.3f}x  {size.sparsity:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()

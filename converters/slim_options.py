"""What may be done to the bytes of an integer .tflite file, and to tables of a Core ML package.

Light: no NumPy, no TensorFlow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from edgeprune.artifact import Format, Precision, Rounding, Scales
from edgeprune.converters.exports import INTEGER, PALETTES
from edgeprune.errors import UsageError
from edgeprune.host.toml_values import check_choice
from edgeprune.units import parse_bytes, parse_share

__all__ = ["SlimOptions", "check_slim"]

_TIMES = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*x\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimOptions:
    """How the numbers of an integer .tflite file are stored.

    With `spend` or `download_target` weights go to coarser grids, layer by layer, where a saved byte costs least; those
    two are for Core ML packages of tables too.
    """

    scales: Scales = Scales.SLIM
    """`"slim"`: scales of the kernels with few bits, which compress to a third; `"float32"`: as TensorFlow gives
    them."""
    drop_names: bool = False
    """Leave out the names of inner tensors, which no runtime reads."""
    rounding: Rounding = Rounding.AUTO
    """Of int8 and int16x8: `"nearest"` step for each weight, or `"reconstructed"`: those steps that keep the outputs of
    each layer on the calibration samples. `"auto"` is reconstructed for `spend` and `download_target`, a rung of
    `max_drop`, and else nearest."""
    spend: str | None = None
    """How much of the metric coarser weights may cost on the validation samples, such as `"0.2 %"`: of a share in
    points, of other metrics of its value."""
    download_target: str | None = None
    """Coarser weights until the download is this size: `"0.09x"` of the dense float32 file, or `"80 kB"`; with `spend`
    as far as that allows."""

    def __post_init__(self) -> None:
        check_choice("scales", self.scales, Scales)
        check_choice("rounding", self.rounding, Rounding)
        if self.searches and self.scales is not Scales.SLIM:
            raise UsageError("spend and download_target choose slim scales; leave out scales")
        if self.spend is not None and not 0 <= parse_share(self.spend) < 1:
            raise UsageError(f"spend is a small part of the metric such as '0.2 %'; got {self.spend!r}")
        if self.download_target is not None:
            self.target_bytes(1)

    @property
    def without_search(self) -> SlimOptions:
        """The same without a search for grids."""
        return replace(self, spend=None, download_target=None)

    @property
    def searches(self) -> bool:
        """Whether grids are looked for."""
        return self.spend is not None or self.download_target is not None

    @property
    def reconstructs(self) -> bool:
        """Whether weights are rounded by what their layers compute."""
        return self.rounding == Rounding.RECONSTRUCTED or (self.searches and self.rounding == Rounding.AUTO)

    @property
    def rewrites(self) -> bool:
        """Whether a plain file is made first, and another one of it."""
        return self.searches or self.reconstructs

    def target_bytes(self, dense_bytes: int) -> int | None:
        """The download to reach; None where none is asked for. Raises UsageError."""
        if self.download_target is None:
            return None
        times = _TIMES.fullmatch(self.download_target)
        if times is not None and 0 < float(times.group(1)) < 1:
            return int(float(times.group(1)) * dense_bytes)
        if times is not None or "b" not in self.download_target.lower():
            raise UsageError(f"download_target is such as '0.09x' or '80 kB'; got {self.download_target!r}")
        return parse_bytes(self.download_target)


def check_slim(model_format: Format, precision: Precision, options: SlimOptions) -> None:
    """Raise UsageError for what files of this precision do not have."""
    integer = model_format is Format.TFLITE and precision in INTEGER
    if options.searches and not integer and precision not in PALETTES:
        raise UsageError(
            f"--spend and --download-target are for tflite int8 and int16x8 and coreml palette2 to palette8; "
            f"got {model_format} {precision}"
        )
    if options.without_search != SlimOptions() and not integer:
        raise UsageError(
            f"--scales, --drop-names and --rounding are for tflite int8 and int16x8; got {model_format} {precision}"
        )

"""How much of its accuracy an int8 .tflite file may lose, and what may be done about it. Light: no NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.artifact import Format, Precision
from edgeprune.errors import UsageError
from edgeprune.units import parse_share

__all__ = ["AUTO", "LadderOptions", "check_ladder"]

AUTO = "auto"
USUAL_FLOAT_MACS = "5 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderOptions:
    """What an int8 file is held to: with `max_drop` biases, rounding, ranges and float operations are tried, the
    cheapest first, until the file loses no more."""

    max_drop: str | None = None
    """How much of the metric int8 may lose on the validation samples, such as `"0.5 %"`: of a share in points, of other
    metrics of its value. Biases, rounding, ranges and, with `keep_float`, float operations are tried until it loses
    no more."""
    keep_float: tuple[str, ...] = ()
    """Layers that stay in float, by patterns of names; `"auto"`: the fewest that `max_drop` needs. Accelerators for
    integers refuse them."""
    max_float_macs: str | None = None
    """Of `keep_float = "auto"`: the largest share of the MACs in float; `"5 %"` where it is left out."""

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= parse_share(self.max_drop) < 1:
            raise UsageError(f"max_drop is a small part of the metric such as '0.5 %'; got {self.max_drop!r}")
        if self.chooses and self.max_drop is None:
            raise UsageError('keep_float = "auto" keeps what max_drop needs: add max_drop, or name layers')
        if AUTO in self.keep_float and len(self.keep_float) > 1:
            raise UsageError('keep_float is "auto" or patterns of layer names, not both')
        if self.max_float_macs is not None:
            if not self.chooses:
                raise UsageError('max_float_macs is for keep_float = "auto"; leave it out')
            if not 0 <= parse_share(self.max_float_macs) <= 1:
                raise UsageError(f"max_float_macs is a share such as '5 %'; got {self.max_float_macs!r}")

    @property
    def chooses(self) -> bool:
        """Whether float operations are chosen by what they gain."""
        return self.keep_float == (AUTO,)

    @property
    def searches(self) -> bool:
        """Whether files are scored on validation samples."""
        return self.max_drop is not None

    @property
    def asked(self) -> bool:
        """Whether the file differs from a plain one, or is scored."""
        return self.searches or bool(self.keep_float)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of layers that stay in float whatever they gain."""
        return () if self.chooses else self.keep_float

    @property
    def allowed(self) -> float:
        """What may be lost."""
        return parse_share(self.max_drop) if self.max_drop is not None else 1.0

    @property
    def float_share(self) -> float:
        """The largest share of MACs in float."""
        return parse_share(self.max_float_macs or USUAL_FLOAT_MACS)


def check_ladder(model_format: Format, precision: Precision, options: LadderOptions) -> None:
    """Raise UsageError for what only int8 .tflite files have."""
    if options.asked and not (model_format is Format.TFLITE and precision is Precision.INT8):
        raise UsageError(
            f"--max-drop, --keep-float and --max-float-macs are for tflite int8; got {model_format} {precision}"
        )

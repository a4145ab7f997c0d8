"""What to prune and how much: the options of each style, and the names that they are chosen from.

Light, for the command line shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.errors import UsageError
from edgeprune.formats.pattern import Pattern
from edgeprune.host.toml_values import check_choice
from edgeprune.maker.pruning.channel.criteria import CRITERIA
from edgeprune.maker.pruning.schedule import check_sparsity

__all__ = [
    "COMPENSATIONS",
    "SCOPES",
    "SCORES",
    "STYLES",
    "ChannelOptions",
    "MagnitudeOptions",
    "check_sr_ste",
    "sparsity_of",
]

COMPENSATIONS = ("norms", "mean", "none")
SCOPES = ("layer", "global")
SCORES = ("magnitude", "wanda")
TARGETS = ("ratio", "macs", "parameters", "download", "latency", "widths", "harmless")


def sparsity_of(written: str | float | Pattern) -> float | Pattern:
    """A fraction, or the pattern of "2:4". Raises UsageError for a text that is neither."""
    if not isinstance(written, str):
        return written
    if ":" in written:
        return Pattern.parse(written)
    try:
        return float(written)
    except ValueError:
        raise UsageError(
            f"sparsity is the fraction of weights to remove, 0.8, or a pattern N:M, 2:4; got {written[:40]!r}"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeOptions:
    """What to prune and how much.

    `include` and `exclude` are shell patterns matched against the name and the class of a layer and of the models and
    wrappers that hold it ("block*", "Dense", "LSTM").
    `keep_first` and `keep_last` leave the first and the last of the chosen layers dense, in the model's own order.
    Under a pattern, kernels whose inputs it does not divide stay dense too, as do embeddings and depthwise kernels.
    """

    sparsity: float | Pattern
    """Fraction of the weights to remove, at least 0 and below 1; or a pattern `"N:M"`, such as `"2:4"`: at most N
    non-zeros of M consecutive inputs of an output."""
    scope: str = "layer"
    """`"layer"`: the same sparsity in every layer; `"global"`: one threshold through all."""
    score: str = "magnitude"
    """`"magnitude"`; `"wanda"`: magnitude times the norm of the input over training samples, compared within each
    output, in one shot."""
    permute: bool = False
    """Of a pattern: reorder channels first, all layers alike, so that more magnitude is kept; outputs stay the same."""
    symmetric_padding: bool = False
    """Pad layers first as sparse kernels want, where they are not: half the kernel on all sides, or as far as that with
    the image turned. Outputs change until the model is fine-tuned."""
    include: tuple[str, ...] = ("*",)
    """Prune only layers whose name or type matches one of these patterns."""
    exclude: tuple[str, ...] = ()
    """Leave layers that match one of these patterns as they are."""
    prune_depthwise: bool = False
    """Prune depthwise kernels too."""
    keep_first: bool = False
    """Leave the first prunable layer dense."""
    keep_last: bool = False
    """Leave the last prunable layer dense."""

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, SCOPES)
        check_choice("score", self.score, SCORES)
        if self.pattern is None:
            check_sparsity(self.fraction)
        elif self.scope != "layer":
            raise UsageError(f"{self.pattern} is the same in every layer: leave out scope, or give a fraction")
        elif self.prune_depthwise:
            raise UsageError(f"a depthwise kernel has one input for each output, so no {self.pattern}: leave it dense")
        if self.permute and self.pattern is None:
            raise UsageError('permute puts channels in the order that keeps most of a pattern: give sparsity = "2:4"')
        if self.needs_data and self.scope != "layer":
            raise UsageError("wanda compares weights within each output: leave out scope, or score")

    @property
    def pattern(self) -> Pattern | None:
        """The pattern that is asked for, None for a fraction."""
        return self.sparsity if isinstance(self.sparsity, Pattern) else None

    @property
    def fraction(self) -> float:
        """The fraction of the weights to remove."""
        return self.sparsity.sparsity if isinstance(self.sparsity, Pattern) else self.sparsity

    @property
    def needs_data(self) -> bool:
        """Whether training samples are looked at."""
        return self.score == "wanda"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """What to remove and how much: one of `ratio` (fraction of channels), `macs`, `parameters`, `download` or `latency`
    (share left; the latency is that of a device and is searched for, see `prune_to_latency`), `widths` (channels left
    of each group), or `harmless`: what does nothing on real input.

    With scope "layer" each group loses `ratio` of its channels, with "global" all groups together, the least important
    channels first and at most 90 % of a group; `macs`, `parameters` and `download` rank like that too (criteria with an
    absolute scale, fisher and taylor, by importance per cost). Widths become multiples of `round_to` where a group has
    more channels than that. `through_norms` also prunes channels that a LayerNormalization reads together, which
    changes its statistics. `compensate` = "norms" estimates the statistics of batch normalization again where there are
    samples; "mean" moves the mean of a removed channel into the bias of the layers that read it (needs samples).
    """

    ratio: float | None = None
    """Fraction of channels to remove, at least 0 and below 1."""
    macs: float | None = None
    """Share of the MACs to keep."""
    parameters: float | None = None
    """Share of the parameters to keep."""
    download: float | None = None
    """Share of the deflated bytes of the weights to keep, counted as float32."""
    latency: float | None = None
    """Share of the latency to keep, estimated for `device`."""
    widths: Mapping[str, int] | None = None
    """Channels to keep of each group, by the name that `edgeprune groups` gives it: `{ stem = 8, head = 128 }`. Groups
    that are not named stay whole."""
    harmless: float | None = None
    """Remove channels that do nothing on training samples, the least effect first, each replaced by its mean, while no
    output changes by more than this part of its range (`1e-4`); checked on samples that were not looked at."""
    scope: str = "layer"
    """For `ratio`: the same in every group (`"layer"`), or ranked over all groups (`"global"`)."""
    importance: str = "lamp"
    """How channels are ranked; the criteria are on the page on channel pruning."""
    round_to: int = 8
    """Widths become multiples of it; 8 suits int8 kernels, 16 float ones."""
    include: tuple[str, ...] = ("*",)
    """Prune only channels made by layers whose name or type matches one of these patterns."""
    exclude: tuple[str, ...] = ()
    """Leave channels that layers make which match one of these patterns."""
    through_norms: bool = False
    """Also prune channels that a LayerNormalization reads together, which changes its statistics."""
    compensate: str = "norms"
    """`"norms"`: the statistics of batch normalization are estimated again, over up to 2,048 training samples, where
    there are some; `"mean"`: the mean of a removed channel moves into the next bias (needs training data); `"none"`."""
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"channel pruning takes one of {', '.join(TARGETS[:-1])} and {TARGETS[-1]}; got "
                f"{', '.join(given) or 'none'}"
            )
        if self.widths is None:
            _check_target(given[0], getattr(self, given[0]))
        elif not self.widths or min(self.widths.values()) < 1:
            raise UsageError(f"widths are the channels to keep of each group, at least 1; got {dict(self.widths)}")
        check_choice("scope", self.scope, SCOPES)
        check_choice("importance criterion", self.importance, CRITERIA)
        check_choice("way to compensate", self.compensate, COMPENSATIONS)
        if self.round_to < 1:
            raise UsageError(f"round_to is at least 1; got {self.round_to}")

    @property
    def target(self) -> str:
        """What is aimed at: one of TARGETS."""
        return next(name for name in TARGETS if getattr(self, name) is not None)

    @property
    def asked(self) -> str:
        """What was asked for, in words: "ratio 0.4"."""
        if self.widths is not None:
            return f"the widths of {len(self.widths)} group{'s' * (len(self.widths) != 1)}"
        return f"{self.target} {getattr(self, self.target):g}"

    @property
    def needs_data(self) -> bool:
        """Whether training samples are looked at."""
        return CRITERIA[self.importance].needs_data or self.compensate == "mean" or self.harmless is not None


def check_sr_ste(decay: float, options: MagnitudeOptions) -> None:
    """Raise UsageError for a decay of SR-STE that is none, or that is not of a pattern."""
    if not 0 <= decay < 1:
        raise UsageError(f"sr_ste is a decay, at least 0 and below 1 (2e-4 in the paper); got {decay:g}")
    if decay and options.pattern is None:
        raise UsageError('sr_ste is for a pattern: give sparsity = "2:4", or leave it out')


def _check_target(name: str, value: float) -> None:
    if name == "ratio" and not 0 <= value < 1:
        told = "ratio is the fraction of channels to remove, at least 0 and below 1"
    elif name == "harmless":
        if 0 < value < 0.1:
            return
        raise UsageError(f"harmless is the part of an output's range that may change, such as 1e-4; got {value:g}")
    elif name != "ratio" and not 0 < value <= 1:
        told = f"{name} is the share of the {name} to keep, above 0 and at most 1"
    else:
        return
    hint = f"; did you mean {value / 100:g}?" if 2 <= value < 100 else ""
    raise UsageError(f"{told}; got {value:g}{hint}")


STYLES: dict[str, type[MagnitudeOptions] | type[ChannelOptions]] = {
    "magnitude": MagnitudeOptions,
    "channel": ChannelOptions,
}

"""Where N:M sparsity would pay on sparse tensor cores, by published rules: what is eligible, and what that can gain.

The gain is Amdahl's: S = 1 / ((1 - f) + f / k), f the share of the multiplications in eligible operations (that of the
time is not known without a GPU) and k how much faster these become: at most 2 (Mishra et al. 2021, arXiv:2104.08378),
of single operations 1.3 to 1.6 in practice; NVIDIA's own end-to-end figure is up to 20 % (ResNeXt-101).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.checker.latency.accelerators.placement_records import Gain, Maps, MatrixShape, OpPlacement
from edgeprune.checker.latency.accelerators.rules import Accelerator, Rule
from edgeprune.checker.latency.accelerators.sparse_table import SparseTable
from edgeprune.checker.latency.accelerators.weight_checks import WeightView, weight_views
from edgeprune.checker.latency.sparsity import Condition
from edgeprune.formats.contents import Contents
from edgeprune.formats.pattern import Pattern

__all__ = ["amdahl", "place_weights"]

K_LOW, K_HIGH, K_MOST = 1.3, 1.6, 2.0
_ALIGNED, _SIZE, _PATTERN = "aligned", "wide", "pattern_kept"  # checks of shapes that can be sparse in principle


def amdahl(shares: Sequence[tuple[float, float]]) -> float:
    """How many times as fast the whole is where the share f of it becomes k times as fast, for each (f, k)."""
    rest = 1 - sum(share for share, _ in shares)
    return 1 / (rest + sum(share / factor for share, factor in shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """An operation's weights with the rules that are not met (False) or not known (None), by check."""

    view: WeightView
    open: tuple[tuple[str, Condition], ...]

    def passes(self, *but: str) -> bool:
        """Whether all is met, the checks `but` apart."""
        return all(check in but for check, _ in self.open)

    @property
    def placed(self) -> Maps:
        """By all conditions."""
        met = {condition.met for _, condition in self.open}
        return Maps.NO if False in met else Maps.UNKNOWN if None in met else Maps.YES


def place_weights(
    contents: Contents, accelerator: Accelerator, table: SparseTable | None
) -> tuple[tuple[OpPlacement, ...], Gain]:
    """Each weight of a file of any format against the rules, and what sparse tensor cores can gain."""
    pattern = Pattern.parse(accelerator.pattern)
    judged = [_judge(view, accelerator) for view in weight_views(contents, pattern)]
    ops = tuple(
        OpPlacement(
            index=index,
            op=item.view.layer.kind,
            output=item.view.layer.name,
            macs=item.view.macs or 0,
            maps=item.placed,
            conditions=tuple(condition for _, condition in item.open),
        )
        for index, item in enumerate(judged)
    )
    return ops, _gain(contents.path, contents.format, judged, table)


def _judge(view: WeightView, accelerator: Accelerator) -> _Judged:
    if view.kind not in accelerator.operations:
        found = f"{view.layer.kind:.60} is not"
        source = accelerator.listed_in.address
        return _Judged(
            view=view,
            open=(
                ("", Condition(rule="convolutions and products with a matrix", met=False, found=found, source=source)),
            ),
        )
    return _Judged(view=view, open=tuple(_failing(view, accelerator.rules)))


def _failing(view: WeightView, rules: Sequence[Rule]) -> Iterator[tuple[str, Condition]]:
    """What is not met or not known, up to the first thing that makes it no matter of widths and zeros."""
    for rule in rules:
        condition = rule.condition(view) if rule.applies(view) else None
        if condition is not None and condition.met is not True:
            yield rule.check, condition
            if rule.check not in (_ALIGNED, _SIZE, _PATTERN):
                return


def _gain(path: Path, format_: str, judged: Sequence[_Judged], table: SparseTable | None) -> Gain:
    macs = sum(item.view.macs or 0 for item in judged)
    known = bool(macs) and all(item.view.macs is not None for item in judged)
    every = [item for item in judged if item.passes(_ALIGNED, _SIZE, _PATTERN)]
    wide = [item for item in judged if item.passes(_PATTERN)]
    aligned, kept = [item for item in judged if item.passes(_SIZE, _PATTERN)], [item for item in wide if item.passes()]
    shares = [
        sum(item.view.macs or 0 for item in some) / macs if known else None for some in (every, aligned, wide, kept)
    ]
    low, high, most, measured = _speed_ups(wide, macs, table) if known else (None, None, None, 0)
    return Gain(
        eligible_share=shares[0],
        aligned_share=shares[1],
        wide_share=shares[2],
        kept_share=shares[3],
        weights=len(wide),
        weights_kept=len(kept),
        k_low=K_LOW,
        k_high=K_HIGH,
        k_most=K_MOST,
        low=low,
        high=high,
        most=most,
        table=f"{table.name} ({table.card})" if table is not None else None,
        measured=measured,
        commands=_commands(path) if format_ == "onnx" else (),
        shapes=tuple(dict.fromkeys(shape for item in every if (shape := _matrix(item.view)) is not None)),
    )


def _speed_ups(wide: Sequence[_Judged], macs: int, table: SparseTable | None) -> tuple[float, float, float, int]:
    """(low, high, most, operations whose k is measured): Amdahl over the operations that are large enough."""
    found: list[list[tuple[float, float]]] = [[], [], []]
    measured = 0
    for item in wide:
        shape = _matrix(item.view)
        factor = table.factor(shape, _dtype(item.view)) if table is not None and shape is not None else None
        measured += factor is not None
        share = (item.view.macs or 0) / macs
        # TensorRT takes the dense kernel where the sparse one is slower.
        for one, fallback in zip(found, (K_LOW, K_HIGH, K_MOST), strict=True):
            one.append((share, fallback if factor is None else max(factor, 1.0)))
    low, high, most = map(amdahl, found)
    return low, high, most, measured


def _matrix(view: WeightView) -> MatrixShape | None:
    """Of a product or a 1x1 convolution: (outputs, inputs) times (inputs, columns); None for another operation."""
    if view.kept is None or view.taps != 1 or not view.kept.inputs or not view.macs:
        return None
    size = view.kept.inputs * view.kept.outputs
    return MatrixShape(outputs=view.kept.outputs, inputs=view.kept.inputs, columns=max(1, view.macs // size))


def _dtype(view: WeightView) -> str:
    """What a GPU would multiply in: float32 is built as float16."""
    stored = view.array.precision if view.array is not None else ""
    return "int8" if stored == "int8" else "float16"


def _commands(path: Path) -> tuple[str, ...]:
    import shlex

    name = shlex.quote(str(path))
    return tuple(f"trtexec --onnx={name} --fp16 --sparsity={word}" for word in ("enable", "disable"))

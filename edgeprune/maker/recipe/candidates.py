"""The files behind an advice: a model pruned, cut and quantized in one shot, exported, counted and tried on samples.

Nothing is trained. Each file is a real one, made by the converter that a run uses; what would take minutes on a large
network is bounded by its MACs: how many samples a metric is taken on, and how many set the ranges of int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from edgeprune.artifact import SUFFIXES, Format, Precision
from edgeprune.checker.latency.accelerators.placement import place_operations
from edgeprune.checker.latency.accelerators.placement_records import Maps, Placement
from edgeprune.checker.latency.accelerators.rules import find_accelerator
from edgeprune.checker.latency.estimate import estimate_latency
from edgeprune.checker.latency.latency_targets import why_never
from edgeprune.checker.latency.profiles import Profile
from edgeprune.checker.latency.sparsity import SparsityAdvice, sparsity_advice
from edgeprune.checker.size.account import account
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.checker.size.records import FileAccount
from edgeprune.checker.ways import Kind, OnAccelerator, Trial, Way
from edgeprune.converters.evaluation import evaluate_file
from edgeprune.converters.session import Converter, Exported
from edgeprune.errors import EdgepruneError
from edgeprune.formats import Contents
from edgeprune.formats.pattern import Pattern
from edgeprune.host.progress import Progress
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.pruner import prune_channels
from edgeprune.maker.pruning.magnitude import prune_magnitude
from edgeprune.maker.pruning.options import ChannelOptions, MagnitudeOptions
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Task
from edgeprune.units import format_percent

__all__ = ["MOST_SAMPLES", "Candidates", "Made", "Wanted"]

MOST_SAMPLES = 1000
_TRIAL_MACS = 6e10  # a metric is taken on so many multiplications, some seconds on a laptop
_FEWEST_SAMPLES = 50
_RANGES_MACS = 4e10  # likewise for the samples that set the ranges of int8
_MADE_UP = 4  # samples where there are none: the size of an int8 file hardly hangs on its ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to try, and for which targets; `tests` are scored and `looked_at` set ranges and statistics."""

    sparsity: float
    ratio: float
    profiles: tuple[Profile, ...]
    accelerators: tuple[str, ...]
    tests: Samples | None = None
    looked_at: Samples | None = None
    task: Task | None = None
    seed: int = 0

    @property
    def coreml(self) -> bool:
        """Whether a target runs Core ML packages."""
        return any("coreml" in profile.formats for profile in self.profiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The ways, the account of the dense float32 .tflite file, and whether kernels for zeros would run the pruned
    one."""

    ways: tuple[Way, ...]
    dense: FileAccount
    sparse: tuple[SparsityAdvice, ...]


@dataclass(slots=True)
class _Pending:
    """A way whose bytes are still being counted beside the next conversion."""

    way: Way
    counted: Future[FileAccount] | None = None

    def done(self) -> Way:
        if self.counted is None:
            return self.way
        found = self.counted.result()
        return replace(
            self.way,
            install_bytes=found.raw_bytes,
            download_bytes=found.download_bytes[BASE_CODEC],
            macs=found.macs,
            sparsity=found.sparsity,
        )


@dataclass(kw_only=True)
class Candidates:
    """Makes the files of one model, one after the other."""

    model: Model
    wanted: Wanted
    converter: Converter
    progress: Progress
    _ways: list[_Pending] = field(default_factory=list)
    _sparse: tuple[SparsityAdvice, ...] = ()
    _macs: int = 0
    _before: dict[str, np.ndarray] = field(default_factory=dict)
    _tests: Samples | None = None

    def made(self) -> Made:
        """All ways; one that cannot be made says why. Raises what the export of the dense model raises."""
        with ThreadPoolExecutor(1) as pool:
            dense = self._dense(pool)
            self._try(pool, Kind.FLOAT16, "stored in 16 bits", self.model, Precision.FLOAT16)
            self._try(pool, Kind.INT8, "all integers", self.model, Precision.INT8)
            self._pruned(pool)
            self._patterned(pool)
            self._cut(pool)
            self.progress.begin("count bytes")
            ways = tuple(pending.done() for pending in self._ways)
            self.progress.end()
            order = list(Kind)
            ways = tuple(sorted(ways, key=lambda way: order.index(way.kind)))
            return Made(ways=ways, dense=dense.result(), sparse=self._sparse)

    def _dense(self, pool: ThreadPoolExecutor) -> Future[FileAccount]:
        self.progress.begin("convert the model as it is")
        made = self._export(self.model, Precision.FLOAT32, "dense")
        counted = pool.submit(account, made.contents, (BASE_CODEC,), shares=False)
        self._macs = made.contents.macs or 0
        self._ways.append(_Pending(self._way(Kind.DENSE, "as it is", made), counted))
        self.progress.end()
        wanted = self.wanted
        if wanted.tests is not None and wanted.task is not None:
            self.progress.begin("score the model as it is")
            few = self._affordable(_TRIAL_MACS, MOST_SAMPLES)
            self._tests = wanted.tests.some(few, np.random.default_rng(wanted.seed))
            self._before = predict(self.model, self._tests.inputs)
            self.progress.end(f"{len(self._tests)} samples")
        if wanted.coreml:
            self._try(pool, Kind.COREML, "stored in 16 bits", self.model, Precision.FLOAT16)
            self._try(pool, Kind.PALETTE, "16 values for each kernel", self.model, Precision.PALETTE4)
        return counted

    def _pruned(self, pool: ThreadPoolExecutor) -> None:
        """Zeros in one shot, stored like other numbers."""
        wanted, asked = self.wanted, f"{format_percent(self.wanted.sparsity, 0)} of the kernels' weights zero"
        pruned = self._changed(
            asked,
            (Kind.MAGNITUDE, Kind.MAGNITUDE_INT8),
            lambda: prune_magnitude(self.model, MagnitudeOptions(sparsity=wanted.sparsity)).model,
        )
        if pruned is None:
            return
        self._try(pool, Kind.MAGNITUDE, asked, pruned, Precision.FLOAT32)
        self._try(pool, Kind.MAGNITUDE_INT8, asked, pruned, Precision.INT8)
        if wanted.coreml:
            self._try(pool, Kind.SPARSE, asked, pruned, Precision.SPARSE)
        self.converter.forget(pruned)

    def _patterned(self, pool: ThreadPoolExecutor) -> None:
        """N:M zeros in one shot where a target takes such, if some layer is large enough for it."""
        dense = next(pending.way for pending in self._ways if pending.way.kind is Kind.DENSE)
        gains = [(find_accelerator(one.target).pattern, one.gain) for one in dense.accelerators if one.gain is not None]
        if not gains:
            return
        written = gains[0][0]
        asked = f"{written} of the inputs of each output"
        if not any(gain.weights for _, gain in gains):
            refused = f"no layer is of a size for which {written} pays (edgeprune estimate FILE --target NAME says why)"
            self._ways.append(_Pending(Way(kind=Kind.PATTERN, asked=asked, pattern=written, refused=refused)))
            return
        options = MagnitudeOptions(sparsity=Pattern.parse(written))
        pruned = self._changed(asked, (Kind.PATTERN,), lambda: prune_magnitude(self.model, options).model)
        if pruned is None:
            return
        self._try(pool, Kind.PATTERN, asked, pruned, Precision.FLOAT32, pattern=written)
        self.converter.forget(pruned)

    def _cut(self, pool: ThreadPoolExecutor) -> None:
        """Fewer channels in one shot, statistics of batch normalization estimated again where there are samples."""
        wanted, asked = self.wanted, f"{format_percent(self.wanted.ratio, 0)} of the channels gone"
        options = ChannelOptions(ratio=wanted.ratio, seed=wanted.seed)
        few = self._affordable(_RANGES_MACS, 512)
        some = None if wanted.looked_at is None else wanted.looked_at.some(few, self._rng())
        cut = self._changed(
            asked,
            (Kind.CHANNELS, Kind.CHANNELS_INT8),
            lambda: prune_channels(self.model, options, samples=some, verify=False).model,
        )
        if cut is None:
            return
        self._try(pool, Kind.CHANNELS, asked, cut, Precision.FLOAT32)
        self._try(pool, Kind.CHANNELS_INT8, asked, cut, Precision.INT8)
        self.converter.forget(cut)

    def _changed(self, asked: str, kinds: tuple[Kind, ...], change: Callable[[], Model]) -> Model | None:
        """The changed model; None where it cannot be changed so, which the ways of these kinds then say."""
        try:
            return change()
        except EdgepruneError as cause:
            refused = " ".join(str(cause).split())
            self._ways += [_Pending(Way(kind=kind, asked=asked, refused=refused)) for kind in kinds]
            return None

    def _try(
        self,
        pool: ThreadPoolExecutor,
        kind: Kind,
        asked: str,
        model: Model,
        precision: Precision,
        *,
        pattern: str = "",
    ) -> None:
        """Export a model, have its bytes counted, and score it. What cannot be made says why."""
        self.progress.begin(f"{kind}: {asked}")
        try:
            made = self._export(model, precision, kind.name.lower())
            way = replace(self._way(kind, asked, made), pattern=pattern)
        except EdgepruneError as cause:
            self._ways.append(_Pending(Way(kind=kind, asked=asked, refused=" ".join(str(cause).split()))))
            self.progress.end("not made")
            return
        if kind is Kind.MAGNITUDE:
            self._sparse = sparsity_advice(made.contents)
        counted = pool.submit(account, made.contents, (BASE_CODEC,), shares=False, bounds=False)
        self._ways.append(_Pending(self._tried(way, model, made), counted))
        self.progress.end()

    def _export(self, model: Model, precision: Precision, name: str) -> Exported:
        form = Format.COREML if name in ("coreml", "palette", "sparse") else Format.TFLITE
        path = self.converter.scratch(f"{name}{SUFFIXES[form]}")
        ranges = self._ranges() if precision is Precision.INT8 else None
        return self.converter.export(model, path, form, precision, calibration=ranges)

    def _ranges(self) -> dict[str, np.ndarray]:
        """Samples that set the ranges of int8; made up where there are none."""
        specs, looked_at = input_specs(self.model), self.wanted.looked_at
        if looked_at is not None:
            some = looked_at.some(self._affordable(_RANGES_MACS, 200), self._rng())
            return {name: np.asarray(some.inputs[name]).astype(dtype) for name, (_, dtype) in specs.items()}
        numbers = self._rng()
        return {
            name: numbers.uniform(0, 1, (_MADE_UP, *(size or 1 for size in shape[1:]))).astype(dtype)
            for name, (shape, dtype) in specs.items()
        }

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.wanted.seed)

    def _affordable(self, macs: float, most: int) -> int:
        return min(most, max(_FEWEST_SAMPLES, round(macs / max(self._macs, 1))))

    def _way(self, kind: Kind, asked: str, made: Exported) -> Way:
        contents, form = made.contents, str(made.format)
        estimates = [
            estimate_latency(contents, profile)
            for profile in self.wanted.profiles
            if _may_cover(profile, form, str(made.precision))
        ]
        accelerators = () if kind.is_coreml else self._placed(contents, kind)
        return Way(kind=kind, asked=asked, estimates=tuple(estimates), accelerators=tuple(accelerators))

    def _placed(self, contents: Contents, kind: Kind) -> Iterator[OnAccelerator]:
        """Where accelerators take it: those of int8 files are asked of these, those of N:M of the dense one."""
        for target in self.wanted.accelerators:
            of_weights = bool(find_accelerator(target).pattern)
            if kind not in ((Kind.DENSE, Kind.PATTERN) if of_weights else (Kind.INT8, Kind.CHANNELS_INT8)):
                continue
            found = place_operations(contents, target)
            yield OnAccelerator(
                target=target,
                maps=found.maps,
                macs_share=found.macs_share,
                failed=found.refused or (_first_failed(found) if found.maps is Maps.NO else ""),
                gain=found.gain,
            )

    def _tried(self, way: Way, model: Model, made: Exported) -> Way:
        """The way with what the metric became."""
        task, tests = self.wanted.task, self._tests
        if way.kind.is_coreml:
            return replace(way, untried="not measured: Core ML runs on macOS and iOS only")
        if way.kind is Kind.FLOAT16:
            return replace(way, untried="not measured: rounding to 16 bits")
        if task is None or tests is None:
            return replace(way, untried="not measured: no samples with targets (--data)")
        score = task.main
        before = score.of(self._before, tests.told)
        if way.kind.is_int8:
            expected = self._before if way.kind is Kind.INT8 else predict(model, tests.inputs)
            try:
                found = evaluate_file(
                    made, tests, input_specs(self.model), expected, task, every_runtime=False, may_depart=True
                )
            except EdgepruneError as cause:
                return replace(way, untried=f"not measured: {' '.join(str(cause).split())}")
            if not found.metrics:
                return replace(way, untried=found.note or "not measured")
            after, how = found.metrics[0].value, f"measured here on the file with {found.metrics[0].runtime}"
        else:
            after, how = score.of(predict(model, tests.inputs), tests.told), "measured here on the Keras model"
        trial = Trial(
            metric=score.name,
            before=before,
            after=after,
            samples=len(tests),
            higher_is_better=score.metric.higher_is_better,
            how=f"{how}, in one shot, no training",
        )
        return replace(way, trial=trial)


def _first_failed(found: Placement) -> str:
    """The first operation that does not map, and why; or that these are only the ends."""
    outside = found.of(Maps.NO)
    if all(op.op in ("QUANTIZE", "DEQUANTIZE") for op in outside):
        return 'what turns float inputs and outputs into integers; io_type = "int8" leaves it out'
    first, failed = next((op, c) for op in outside for c in op.conditions if c.met is False)
    return f"#{first.index} {first.op:.60}, {failed.rule}: {failed.found}"


def _may_cover(profile: Profile, form: str, precision: str) -> bool:
    """Whether a profile is of such files, one that only ranks included."""
    return not why_never(replace(profile, kind="fitted"), form, precision)

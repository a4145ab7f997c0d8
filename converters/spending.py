"""Make an integer .tflite file smaller by coarser grids, as far as its accuracy on validation samples allows.

First the price of every grid (`grids`), with one trial for each kernel on calibration samples; then the cheapest moves,
as many as the metric on the validation samples bears or the download asks for. Test samples are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeprune.artifact import sha256_of
from edgeprune.checker.size.codecs import BASE_CODEC, CODECS
from edgeprune.converters.float_start import run_content
from edgeprune.converters.grids import PROBED, Grid, Move, floored, grids_of, moves
from edgeprune.converters.kernels import float_constants, kernels_of
from edgeprune.converters.objects import as_objects, file_bytes, operator_kinds, scales_of, with_outputs
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.quantizer import without_ranges
from edgeprune.converters.session import Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.slim_scales import requantize, without_names
from edgeprune.errors import MissingExtra, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.tflite.metadata import with_metadata
from edgeprune.ledger import MetricChange
from edgeprune.maker.keras.models import input_specs, output_names, predict
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.bootstrap import compared
from edgeprune.maker.training.data.columns import as_type
from edgeprune.maker.training.data.loading import InputSpecs
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Arrays, Score
from edgeprune.runtime.session import installed_runtimes
from edgeprune.units import format_bytes, parse_share

__all__ = ["USUAL_SPEND", "Judge", "coarser", "rewritten"]

USUAL_SPEND = "1 %"  # of a download target that names none
TRIALS = 200  # calibration samples of a trial
MEASURED = 7  # files that tell what distortion costs, each of half the distortion of the one before
_ENDINGS = frozenset({"DEQUANTIZE", "LOGISTIC", "QUANTIZE", "SOFTMAX"})  # what squeezes differences of the outputs

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What scores a file: the main metric on validation samples; `specs` and `outputs` are the model's, `floats` what
    it computes there itself, where files are held against that."""

    samples: Samples
    main: Score
    specs: InputSpecs
    outputs: tuple[str, ...]
    floats: Arrays = field(default_factory=dict)

    @classmethod
    def of(cls, model: AnyModel, samples: Samples, main: Score) -> Judge:
        """That of the files of a model."""
        return cls(samples=samples, main=main, specs=input_specs(model), outputs=tuple(output_names(model)))

    def against(self, model: AnyModel) -> Judge:
        """One that holds files against this model."""
        return replace(self, floats=predict(model, self.samples.inputs))

    def made(self, content: bytes) -> dict[str, np.ndarray]:
        """What a file makes of the samples, by the newest runtime that is installed."""
        inputs = {name: as_type(self.samples.inputs[name], dtype) for name, (_, dtype) in self.specs.items()}
        outputs = run_content(content, inputs)
        return {name: outputs[name] for name in self.outputs}

    def check(self, keys: str, doing: str) -> None:
        """Raise UsageError for samples without targets, and MissingExtra where no runtime is installed."""
        if not self.samples.told:
            raise UsageError(f"{self.samples.path}: {keys} need targets there; add them")
        self.check_runtime(doing)

    def check_runtime(self, doing: str) -> None:
        """Raise MissingExtra where no runtime is installed."""
        if not installed_runtimes():
            raise MissingExtra("a TFLite runtime", "litert", doing)

    def score(self, content: bytes) -> float:
        """The metric of a file."""
        return self.main.of(self.made(content), self.samples.told)

    def change(self, content: bytes) -> MetricChange:
        """What a file changes of the metric, and how sure that is."""
        return compared(self.main, self.floats, self.made(content), self.samples.told)[1]

    def lost(self, before: float, after: float) -> float:
        """How much worse `after` is: of a share in its own unit, else as a part of `before`."""
        worse = before - after if self.main.metric.higher_is_better else after - before
        return worse if self.main.metric.is_share else worse / max(abs(before), 1e-12)


def coarser(
    made: Exported,
    options: SlimOptions,
    *,
    app: AppOptions,
    calibration: Mapping[str, np.ndarray],
    judge: Judge,
    dense_bytes: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[Exported, tuple[str, ...]]:
    """(The file anew, with coarser weights; what is to be said of it).

    `dense_bytes` is the download that a target such as "0.09x" is a part of, that of the float file behind this one
    where it is None. Raises UsageError for samples without
    targets and MissingExtra where no runtime is installed.
    """
    judge.check("spend and download_target", "looking for coarser weights")
    search = _Search(made.path.read_bytes(), float_constants(made.start), judge, on_progress or (lambda _, __: None))
    target_bytes = options.target_bytes(_deflated(without_ranges(made.start)) if dense_bytes is None else dense_bytes)
    content, said = search.found(calibration, options, target_bytes)
    return rewritten(made, content, app), said


def rewritten(made: Exported, content: bytes, app: AppOptions) -> Exported:
    """A file with other content, and with what it tells the app."""
    made.path.write_bytes(with_metadata(Path(made.path.name), content, app) if app.told else content)
    return replace(made, sha256=sha256_of(made.path), contents=read_contents(made.path), start=b"")


class _Search:
    """One file whose kernels change; `start` is its content, `kernels` those that may."""

    def __init__(self, start: bytes, floats: Mapping[str, np.ndarray], judge: Judge, told: Progress) -> None:
        self.start, self.floats, self.judge, self.told = start, floats, judge, told
        known = kernels_of(as_objects(start), floats).known
        self.kernels = [kernel for kernel in known if kernel.exact]
        self.done, self.whole = 0, len(self.kernels) + MEASURED + 2  # one for the start, one for what is taken
        self.scores: dict[int, float] = {}

    def found(
        self, calibration: Mapping[str, np.ndarray], options: SlimOptions, target_bytes: int | None
    ) -> tuple[bytes, tuple[str, ...]]:
        """(The smallest file that loses no more than may be spent, or the first one that is small enough; why not)."""
        grids = [grids_of(kernel) for kernel in self.kernels]
        path = moves(grids, self.weights(grids, calibration))
        may = options.spend or USUAL_SPEND
        count = self.affordable(path, parse_share(may))

        def made(moves_made: int) -> bytes:
            content = self.content(path[:moves_made])
            return without_names(content) if options.drop_names else content

        if target_bytes is not None:
            count = _first(count, lambda n: _deflated(made(n)) <= target_bytes)
        content = made(count)
        size = _deflated(content)
        if target_bytes is None or size <= target_bytes:
            return content, ()
        bound = f"of {self.judge.main.name} on {self.judge.samples.path.name} no more than {may} may be spent"
        return content, (
            f"the download target of {format_bytes(target_bytes)} is not reached: {format_bytes(size)}, as "
            f"{'no grid is coarser' if count == len(path) else bound}",
        )

    def affordable(self, path: Sequence[Move], spend: float) -> int:
        """How many of the moves may be made: what they cost, and what their distortion should cost, is within `spend`.

        A single score is noise to a large part: of 2,000 samples by a third of a point. So the price of distortion is
        taken from several files, the coarser ones of which lose more than the noise, and the file that it allows is
        then scored itself.
        """
        total = np.cumsum([0.0, *(move.distortion for move in path)])

        def within(distortion: float) -> int:
            return int(np.searchsorted(total, distortion, side="right")) - 1

        counts = sorted({within(total[-1] * 2.0**-n) for n in range(MEASURED)} - {0})
        lost = np.array([0.0, *(self.lost(path, n) for n in counts)])
        luck, price = _trend(total[[0, *counts]], lost)
        most = within(spend / price) if price > 0 else len(path)
        for share in (1.0, 0.84, 0.7, 0.5, 0.25, 0.125):
            count = within(share * total[most])
            if self.lost(path, count) - luck <= spend:
                return count
        return 0

    def weights(self, grids: Sequence[Sequence[Grid]], calibration: Mapping[str, np.ndarray]) -> list[float]:
        """What a unit of the squared error of each kernel does to the outputs: their mean squared change, each output
        in units of its own variance."""
        inputs = {name: np.asarray(array)[:TRIALS] for name, array in calibration.items()}
        before = run_content(_tapped(self.start), inputs)
        found = []
        for number, known in enumerate(grids):
            content = self.content([Move(kernel=number, floor=PROBED, distortion=0.0, price=0.0)])
            changed = _changed(before, run_content(_tapped(content), inputs))
            own, probed = (next(grid for grid in known if grid.floor == floor).error for floor in (0.0, PROBED))
            found.append(changed / max(probed - own, 1e-30))
            self.step()
        return found

    def content(self, path: Sequence[Move]) -> bytes:
        """The file after some moves."""
        model = as_objects(self.start)
        for number, floor in {move.kernel: move.floor for move in path}.items():
            requantize(model, self.kernels[number], floored(self.kernels[number], floor))
        return file_bytes(model)

    def lost(self, path: Sequence[Move], count: int) -> float:
        """What the first moves cost on the validation samples."""
        for n in (0, count):
            if n not in self.scores:
                self.scores[n] = self.judge.score(self.content(path[:n]))
                self.step()
        return self.judge.lost(self.scores[0], self.scores[count])

    def step(self) -> None:
        self.done += 1
        self.told(min(self.done, self.whole), self.whole)


def _trend(distortion: np.ndarray, lost: np.ndarray) -> tuple[float, float]:
    """(What files without distortion seem to lose, what a unit of distortion costs and one standard error more).

    The first is the luck of the file that all are held against, for without distortion nothing is lost. The variance of
    a score is as the share of answers that change: as the root of the distortion, and those that change with anything.
    """
    root = distortion**0.5
    weights = 1 / (root + max(float(root[root > 0].min(initial=1.0)), 1e-15))
    design = np.stack([np.ones_like(distortion), distortion], axis=1)
    spread = np.linalg.pinv(design.T @ (weights[:, None] * design))
    luck, price = spread @ design.T @ (weights * lost)
    off = float((weights * np.square(lost - luck - price * distortion)).sum()) / max(1, len(lost) - 2)
    return float(luck), float(price + (off * spread[1, 1]) ** 0.5)


def _first(most: int, fits: Callable[[int], bool]) -> int:
    """The smallest number up to `most` that fits, where all above it do; `most` where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def _deflated(content: bytes) -> int:
    return CODECS[BASE_CODEC].compressed_bytes(content)


def _changed(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    parts = []
    for name, values in before.items():
        spread = float(values.var())
        if spread > 0:
            parts.append(float(np.square(values.astype(np.float64) - after[name]).mean()) / spread)
    return float(np.mean(parts)) if parts else 0.0


def _tapped(content: bytes) -> bytes:
    """The file with outputs from before a softmax or sigmoid, where differences are not squeezed."""
    model = as_objects(content)
    graph, kinds = model.subgraphs[0], operator_kinds(model)
    made_by = {int(n): op for op in graph.operators for n in op.outputs if kinds[op.opcodeIndex] in _ENDINGS}
    before: dict[int, int] = {}  # output -> the tensor that stands for it
    for number in map(int, graph.outputs):
        at = number
        while at in made_by and len(scales_of(graph.tensors[made_by[at].inputs[0]])):
            at = int(made_by[at].inputs[0])
        before[number] = at
    if len(set(before.values())) < len(before):
        return content
    return with_outputs(model, before)

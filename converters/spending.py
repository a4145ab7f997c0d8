"""Make a file smaller by coarser weights, as far as its accuracy on validation samples allows.

First the price of every choice that a layer has (`grids`), with one trial for each layer on calibration samples; then
the cheapest moves, as many as the metric on the validation samples bears or the download asks for. Test samples are
never looked at. What the choices are depends on the format (`coarse_kernels`, `coarse_palettes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from edgeprune.artifact import sha256_of
from edgeprune.converters.float_start import run_content
from edgeprune.converters.grids import Grid, Move, chosen_by, first_fitting, moves
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.session import Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.errors import MissingExtra, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.tflite.metadata import with_metadata
from edgeprune.ledger import MetricChange
from edgeprune.maker.keras.models import input_specs, output_names, predict
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.training.bootstrap import compared
from edgeprune.maker.training.data.columns import Column, as_type
from edgeprune.maker.training.data.loading import InputSpecs
from edgeprune.maker.training.data.samples import Samples
from edgeprune.maker.training.task import Arrays, Score
from edgeprune.runtime.session import installed_runtimes
from edgeprune.units import format_bytes, parse_share

__all__ = ["USUAL_SPEND", "Judge", "Layers", "Search", "rewritten"]

USUAL_SPEND = "1 %"  # of a download target that names none
TRIALS = 200  # calibration samples of a trial
MEASURED = 7  # files that tell what distortion costs, each of half the distortion of the one before

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

    @property
    def inputs(self) -> dict[str, Column]:
        """The samples as the file takes them."""
        return {name: as_type(self.samples.inputs[name], dtype) for name, (_, dtype) in self.specs.items()}

    def value(self, outputs: Mapping[str, np.ndarray]) -> float:
        """The metric of what a file computed."""
        return self.main.of(self._own(outputs), self.samples.told)

    def _own(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's outputs in its order."""
        return {name: outputs[name] for name in self.outputs}

    def made(self, content: bytes) -> dict[str, np.ndarray]:
        """What a file makes of the samples, by the newest runtime that is installed."""
        return run_content(content, self.inputs)

    def check(self, keys: str) -> None:
        """Raise UsageError for samples without targets."""
        if not self.samples.told:
            raise UsageError(f"{self.samples.path}: {keys} need targets there; add them")

    def check_runtime(self, doing: str) -> None:
        """Raise MissingExtra where no runtime is installed."""
        if not installed_runtimes():
            raise MissingExtra("a TFLite runtime", "litert", doing)

    def score(self, content: bytes) -> float:
        """The metric of a file."""
        return self.value(self.made(content))

    def strayed(self, outputs: Mapping[str, np.ndarray]) -> float | None:
        """How far what a file computed is from `floats`: the mean squared difference of each output as a part of its
        variance, added up. Few samples tell more by it than by a metric that counts right answers. None where the
        outputs cannot be held against each other."""
        found = 0.0
        for name, value in self._own(outputs).items():
            wanted = np.asarray(self.floats[name], np.float64) if name in self.floats else np.zeros(0)
            if wanted.shape != value.shape or not wanted.size:
                return None
            found += float(np.mean((value - wanted) ** 2)) / max(float(np.var(wanted)), 1e-12)
        return found if np.isfinite(found) else None

    def change(self, content: bytes) -> MetricChange:
        """What a file changes of the metric, and how sure that is."""
        return compared(self.main, self.floats, self._own(self.made(content)), self.samples.told)[1]

    def lost(self, before: float, after: float) -> float:
        """How much worse `after` is: of a share in its own unit, else as a part of `before`."""
        worse = before - after if self.main.metric.higher_is_better else after - before
        return worse if self.main.metric.is_share else worse / max(abs(before), 1e-12)


class Layers(Protocol):
    """A file whose layers have choices. `chosen` are choices of some of them; all others have their finest."""

    @property
    def grids(self) -> Sequence[Sequence[Grid]]:
        """The choices of each layer, finest first."""

    @property
    def probed(self) -> float:
        """The choice of a trial."""

    def run(self, chosen: Mapping[int, float], inputs: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """The outputs of the file for samples."""

    def inner(self, chosen: Mapping[int, float], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same from before a softmax or sigmoid."""

    def download_bytes(self, chosen: Mapping[int, float]) -> int:
        """Bytes of the file as deflate stores it."""


Choosing = TypeVar("Choosing", bound=Layers)


def rewritten(made: Exported, content: bytes, app: AppOptions) -> Exported:
    """A file with other content, and with what it tells the app."""
    made.path.write_bytes(with_metadata(Path(made.path.name), content, app) if app.told else content)
    return replace(made, sha256=sha256_of(made.path), contents=read_contents(made.path), start=b"")


class Search(Generic[Choosing]):
    """One file whose layers change: the cheapest of their choices. `layers` makes them, and calls its argument after
    each part of that work."""

    def __init__(self, layers: Callable[[Callable[[], None]], Choosing], judge: Judge, told: Progress) -> None:
        self.judge, self.told = judge, told
        self.done, self.whole = 0, 100
        self.layers = layers(self.step)
        self.whole = self.done + len(self.layers.grids) + MEASURED + 2  # one for the start, one for what is taken
        self.scores: dict[int, float] = {}
        self.path: list[Move] = []

    def found(
        self, calibration: Mapping[str, np.ndarray], options: SlimOptions, target_bytes: int | None
    ) -> tuple[dict[int, float], tuple[str, ...]]:
        """(Choices for the smallest file that loses no more than may be spent, or the first one that is small enough;
        why not)."""
        path = self.path = self.path or moves(self.layers.grids, self.weights(calibration))
        may = options.spend or USUAL_SPEND
        count = self.affordable(path, parse_share(may))
        if target_bytes is not None:
            count = first_fitting(count, lambda n: self.layers.download_bytes(chosen_by(path[:n])) <= target_bytes)
        chosen = chosen_by(path[:count])
        size = self.layers.download_bytes(chosen)
        if target_bytes is None or size <= target_bytes:
            return chosen, ()
        bound = f"of {self.judge.main.name} on {self.judge.samples.path.name} no more than {may} may be spent"
        return chosen, (
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
        luck = min(luck, spend)  # where most is lost at once, the trend takes that for luck
        most = within(spend / price) if price > 0 else len(path)
        for share in (1.0, 0.84, 0.7, 0.5, 0.25, 0.125):
            count = within(share * total[most])
            if self.lost(path, count) - luck <= spend:
                return count
        return 0

    def weights(self, calibration: Mapping[str, np.ndarray]) -> list[float]:
        """What a unit of the error of each layer does to the outputs: their mean squared change, each output in units
        of its own variance."""
        layers = self.layers
        inputs = {name: np.asarray(array)[:TRIALS] for name, array in calibration.items()}
        before = layers.inner({}, inputs)
        found = []
        for number, known in enumerate(layers.grids):
            probed = next((grid for grid in known if grid.choice == layers.probed), known[-1])
            changed = _changed(before, layers.inner({number: probed.choice}, inputs))
            found.append(changed / max(probed.error - known[0].error, 1e-30))
            self.step()
        return found

    def lost(self, path: Sequence[Move], count: int) -> float:
        """What the first moves cost on the validation samples."""
        for n in (0, count):
            if n not in self.scores:
                self.scores[n] = self.judge.value(self.layers.run(chosen_by(path[:n]), self.judge.inputs))
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


def _changed(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    parts = []
    for name, values in before.items():
        spread = float(values.var())
        if spread > 0:
            parts.append(float(np.square(values.astype(np.float64) - after[name]).mean()) / spread)
    return float(np.mean(parts)) if parts else 0.0

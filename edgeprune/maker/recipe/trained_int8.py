"""A model that was trained for int8, and the files that take what it learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgeprune.artifact import Format, Precision
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.quantizer import Ranges, moved_ranges
from edgeprune.converters.rounded_places import ranges_in_package, rounded_places
from edgeprune.converters.session import Converter, Exported
from edgeprune.host.scratch import scratch_folder
from edgeprune.maker.keras.types import Model
from edgeprune.maker.quantization.places import Places
from edgeprune.maker.quantization.training import Quantized
from edgeprune.maker.recipe.model_steps import ModelSteps
from edgeprune.maker.recipe.steps import QatStep

__all__ = ["TrainedInt8"]

TRIALS = 3  # samples by which tensors of a file are found in the model


class TrainedInt8:
    """What `result` learned, in the names of the float file `before`, and the int8 file that was made of it."""

    def __init__(self, result: Quantized, before: bytes, trial: Mapping[str, np.ndarray]) -> None:
        self.result, self.trial = result, trial
        self._before, self._start = before, b""
        self._places: Places | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        step: QatStep,
        *,
        steps: ModelSteps,
        converter: Converter,
        calibration: Mapping[str, np.ndarray],
    ) -> TrainedInt8:
        """Train a model as its int8 file computes."""
        trial = {name: np.asarray(values[:TRIALS]) for name, values in calibration.items()}
        with scratch_folder() as folder:
            made = converter.export(
                model,
                folder / "int8.tflite",
                Format.TFLITE,
                Precision(step.precision),
                calibration=calibration,
                float_fallback=step.float_fallback,
                per_tensor=step.per_tensor,
                slim=step.slim.without_search,
                keep_start=True,
            )
            places = rounded_places(made, trial)
        return cls(steps.quantized(model, step, places, trial), made.start, trial)

    def exporting(self, export_as: Callable[..., Exported]) -> Callable[..., Exported]:
        """The same exports of the trained model, with the ranges that it learned."""
        self._start = start = export_as(keep_start=True).start
        learned = moved_ranges(self.result.ranges, self._before, start)

        def again(*, ranges: Ranges | None = None, **more: Any) -> Exported:
            return export_as(**{**more, "start": start, "ranges": {**learned, **(ranges or {})}})

        return again

    def keep(self, made: Exported) -> None:
        """Remember what the file of an export rounds, for packages: it may be moved."""
        self._places = rounded_places(replace(made, start=self._start), self.trial)

    def package_ranges(self, converter: Converter, options: AppOptions) -> Ranges | None:
        """What was learned, for a Core ML package with int8 activations; the values of one that takes pictures are
        other numbers, so that calibration finds them."""
        if self._places is None or options.image is not None:
            return None
        with scratch_folder() as folder:
            plain = converter.export(
                self.result.model, folder / "float16.mlpackage", Format.COREML, Precision.FLOAT16, app=options
            )
        assert plain.contents.package is not None
        return ranges_in_package(self._places, plain.contents.package, self.trial)

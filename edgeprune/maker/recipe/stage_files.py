"""The .tflite file of a stage, with all that is looked for in it; one that was made before is not made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.artifact import Format, Precision, sha256_of
from edgeprune.converters.packaging import AppOptions
from edgeprune.converters.searched import Searched, judge_of, searched
from edgeprune.converters.session import Converter, Exported
from edgeprune.converters.spending import Judge
from edgeprune.formats import read_contents
from edgeprune.host.json_values import record_of
from edgeprune.host.outputs import write_file
from edgeprune.host.progress import Progress
from edgeprune.host.untrusted import read_whole
from edgeprune.ledger import LadderReport
from edgeprune.maker.keras.models import input_specs
from edgeprune.maker.keras.types import AnyModel
from edgeprune.maker.recipe.prepare import Prepared
from edgeprune.maker.recipe.stages import Store
from edgeprune.maker.recipe.steps import QuantizeStep
from edgeprune.maker.recipe.tables import flat
from edgeprune.maker.training.data.loading import calibration_set

__all__ = ["Adapt", "StageFiles", "calibration_of"]

Adapt = Callable[[Callable[..., Exported]], Callable[..., Exported]]


def calibration_of(prepared: Prepared, step: QuantizeStep) -> Mapping[str, np.ndarray]:
    """Training samples that set the scales: as many as the step says."""
    assert prepared.train is not None
    return calibration_set(prepared.train, input_specs(prepared.model), step.samples, prepared.recipe.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFiles:
    """Makes the .tflite files of a recipe's stages."""

    prepared: Prepared
    converter: Converter
    progress: Progress
    store: Store | None = None

    def made(
        self,
        model: AnyModel,
        path: Path,
        precision: Precision,
        quantize: QuantizeStep | None = None,
        *,
        asked: Sequence[object] = (),
        app: AppOptions | None = None,
        dense_bytes: int | None = None,
        adapt: Adapt | None = None,
    ) -> Searched:
        """The file at `path`, behind the steps that `asked` tells; `adapt` changes how an export of it is made, and
        `dense_bytes` is the download of the dense float32 file, once that is known."""
        quantized, told = quantize or QuantizeStep(), app or AppOptions()
        if self.store is None or adapt is not None or not (quantize and quantized.searches):
            return self._made(model, path, precision, quantize, told, dense_bytes, adapt)
        made: list[Searched] = []

        def make(key: str) -> dict[str, Any]:
            assert self.store is not None
            found = self._made(model, path, precision, quantize, told, dense_bytes, adapt)
            made.append(found)
            write_file(self.store.path(key, ".tflite"), path.read_bytes())
            report = asdict(found.report) if found.report else None
            return {"said": found.said, "left": found.made.left, "report": report}

        order = [list(asked), str(precision), flat(quantized), dense_bytes, repr(told)]
        record = self.store.once("file", order, make)
        if made:
            return made[0]
        kept = self.store.path(self.store.key("file", order), ".tflite")
        path.write_bytes(read_whole(kept, "a result"))
        known = Exported(
            path=path,
            format=Format.TFLITE,
            precision=precision,
            sha256=sha256_of(path),
            contents=read_contents(path),
            left=tuple(record["left"]),
        )
        report = record["report"] and record_of(LadderReport, record["report"], "a result")
        return Searched(made=known, said=tuple(record["said"]), report=report)

    def _made(
        self,
        model: AnyModel,
        path: Path,
        precision: Precision,
        quantize: QuantizeStep | None,
        app: AppOptions,
        dense_bytes: int | None,
        adapt: Adapt | None,
    ) -> Searched:
        step = quantize or QuantizeStep()
        calibration = calibration_of(self.prepared, step) if quantize else None
        export_as: Callable[..., Exported] = partial(
            self.converter.export,
            model,
            path,
            Format.TFLITE,
            precision,
            io_type=step.io_type,
            calibration=calibration,
            float_fallback=step.float_fallback,
            per_tensor=step.per_tensor,
        )
        return searched(
            adapt(export_as) if adapt else export_as,
            step.slim,
            step.ladder,
            model=model,
            app=app,
            io_type=step.io_type,
            calibration=calibration,
            judge=self._judge(model, step),
            progress=self.progress,
            dense_bytes=dense_bytes,
        )

    def _judge(self, model: AnyModel, step: QuantizeStep) -> Judge | None:
        if not step.searches:
            return None
        assert self.prepared.validation is not None
        return judge_of(model, self.prepared.validation, self.prepared.task, step.slim, step.ladder)

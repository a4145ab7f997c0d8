"""The zoo of channel pruning through every exporter: each file is run and agrees with its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channel_zoo import ZOO, inputs_for, randomised

from edgeprune.artifact import Format, Precision
from edgeprune.converters.evaluation import evaluate_file
from edgeprune.errors import ConversionError
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.training.data.samples import Samples
from edgeprune.runtime.session import installed_runtimes

pytestmark = pytest.mark.slow(minutes=3)

# What TFLite has no operation for, in any precision.
NO_TFLITE = {"volume": "AvgPool3D"}


@pytest.mark.parametrize("name", ZOO)
def test_zoo(converter: Any, keras: Any, tmp_path: Path, name: str) -> None:
    """TFLite float32 and int8, Core ML float32 and float16: within 1e-5, a positive SQNR, and float16's rounding."""
    pytest.importorskip("coremltools")
    model = randomised(ZOO[name](keras, keras.layers, keras.ops))
    samples = Samples(path=Path("zoo"), inputs=inputs_for(model, 16), targets=None)
    some = samples.rows(np.arange(3))
    expected, specs = predict(model, some.inputs), input_specs(model)

    def errors(model_format: Format, precision: Precision) -> list[Any]:
        suffix = "tflite" if model_format is Format.TFLITE else "mlpackage"
        out = tmp_path / f"{precision}.{suffix}"
        calibration = samples.inputs if precision is Precision.INT8 else None
        artifact = converter.export(model, out, model_format, precision, calibration=calibration)
        return list(evaluate_file(artifact, some, specs, expected, None, every_runtime=False).parity)

    if name in NO_TFLITE:
        with pytest.raises(ConversionError, match=f"TFLite has no operation for {NO_TFLITE[name]}"):
            errors(Format.TFLITE, Precision.FLOAT32)
    elif installed_runtimes():
        assert max(item.relative_error or 0 for item in errors(Format.TFLITE, Precision.FLOAT32)) <= 1e-5
        assert errors(Format.TFLITE, Precision.INT8)
    assert max(item.relative_error or 0 for item in errors(Format.COREML, Precision.FLOAT32)) <= 1e-5
    assert max(item.relative_error or 0 for item in errors(Format.COREML, Precision.FLOAT16)) <= 1e-2

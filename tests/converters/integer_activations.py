"""Run by test_coreml_activations.py in a process of its own, since coremltools leaves folders open: prints JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  (coremltools's own convention)
from coremltools.converters.mil.mil import types
from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

from edgeprune.converters.coreml_activations import found_ranges, with_integer_activations
from edgeprune.converters.evaluator.program import Evaluator
from edgeprune.formats.coreml.mil_reader import read_coreml
from edgeprune.formats.coreml.storage import constants_of

RNG = np.random.default_rng(3)
SAMPLES = {
    "image": RNG.normal(size=(4, 3, 8, 8)).astype(np.float16),
    "whole": RNG.integers(0, 9, (4, 2)).astype(np.int32),
}


def kernel(*shape: int) -> np.ndarray:
    """Normal numbers, float16."""
    return RNG.normal(0, 0.3, shape).astype(np.float16)


def program() -> Any:
    """All that coremltools quantizes, a join, a sum of whole numbers, and an activation that is always zero."""

    ends = [mb.TensorSpec((1, 3, 8, 8), types.fp16), mb.TensorSpec((1, 2), types.int32)]

    @mb.program(input_specs=ends, opset_version=ct.target.iOS17)
    def main(image: Any, whole: Any) -> Any:
        first = mb.relu6(x=mb.conv(x=image, weight=kernel(8, 3, 3, 3), bias=kernel(8), name="first"))
        point = mb.relu(x=mb.conv(x=first, weight=kernel(8, 8, 1, 1), name="point"), name="positive")
        dead = mb.relu(x=mb.conv(x=first, weight=-np.ones((8, 8, 1, 1), np.float16)), name="dead")
        pool = mb.max_pool(x=mb.add(x=first, y=point, name="sum"), kernel_sizes=[1, 1], pad_type="valid", name="pool")
        joined = mb.concat(values=[pool, first, dead], axis=1, name="join")
        last = mb.conv(x=joined, weight=kernel(4, 24, 3, 3), name="last")
        scores = mb.linear(x=mb.reshape(x=last, shape=[1, -1]), weight=kernel(5, 64), bias=kernel(5))
        count = mb.add(x=whole, y=mb.mul(x=whole, y=np.int32(2)), name="count")
        return mb.softmax(x=scores, name="scores"), mb.mul(x=count, y=np.int32(3), name="counts")

    return ct.convert(
        main,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )


def quantized_by_coremltools(model: Any, sample: Mapping[str, np.ndarray]) -> Any:
    """The whole of coremltools' own function; only its predictions are made here. It would quantize a sum of whole
    numbers, and fail."""
    traced = {step.name: step.values for step in Evaluator(read_coreml(Path(model.package_path))).trace(sample)}
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(mode="linear_symmetric"))
    config.set_op_name("count", None)
    with patch.object(ModelDebugger, "predict_intermediate_outputs", lambda *_, **__: traced):
        return cto.linear_quantize_activations(model, config, [sample])


def scales(model: Any) -> dict[str, float]:
    """By the name of the value that is quantized."""
    package = read_coreml(Path(model.package_path))
    assert package.program is not None
    made: Mapping[str, Any] = constants_of(package)
    found = {op.inputs["input"][0]: op.inputs["scale"][0] for op in package.program.operations if op.kind == "quantize"}
    return {name: float(made[scale]) for name, scale in found.items()}


def main() -> None:
    """What the tests ask."""
    model = program()
    one = {name: array[:1] for name, array in SAMPLES.items()}
    ours, theirs = with_integer_activations(model, found_ranges(model, one)), quantized_by_coremltools(model, one)
    found = found_ranges(model, SAMPLES)
    given = with_integer_activations(
        model, {**found, "image": (-1.0, 12.7), "last": (0.0, 0.0), "positive": (0.0, 6e4)}
    )
    refusal = ""
    try:
        with_integer_activations(model, {**found, "first": (np.nan, np.nan)})
    except ValueError as error:
        refusal = str(error)
    told = {
        "same": ours.get_spec().mlProgram == theirs.get_spec().mlProgram,
        "ranges": found,
        "scales": scales(given),
        "refusal": refusal,
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()

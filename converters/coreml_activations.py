"""int8 activations of a Core ML program: pairs of `quantize` and `dequantize` where coremltools puts them.

coremltools learns the ranges by running the model, which needs a Mac, and version 9.0 keeps those of the last sample
only (`_update_tensor_range` overwrites a range before it compares with it). The evaluator finds them over all samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeprune.converters.evaluator.arguments import UnknownOperationError
from edgeprune.converters.quantizer import Ranges
from edgeprune.converters.types import Generated
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.coreml.mil_reader import read_coreml

__all__ = ["found_ranges", "with_integer_activations"]

# Scales are float16, and the pass takes the width of the range in float16 too.
LARGEST_BOUND = float(np.finfo(np.float16).max) / 2
STEPS = 254  # from -127 to 127


def found_ranges(
    model: Generated, calibration: Mapping[str, np.ndarray], known: Ranges | None = None
) -> dict[str, tuple[float, float]]:
    """The range of every value of a float program over the calibration samples (image inputs: pixels), but for those
    that are known otherwise.

    Raises ValueError for an operation that the evaluator does not know, and for a range of what is no value.
    """
    from edgeprune.converters.evaluator.program import Evaluator

    try:
        found = Evaluator(_package(model)).ranges(calibration)
    except UnknownOperationError as cause:
        raise ValueError(
            f"activations are not calibrated: op {cause} is not known to the evaluator; use --precision int8, whose "
            "activations stay float16"
        ) from cause
    strange = [name for name in known or {} if name not in found]
    if strange:
        raise ValueError(f"a range for {strange[0]!r}, which is no value of the program")
    return {**found, **(known or {})}


def with_integer_activations(model: Generated, ranges: Ranges) -> Generated:
    """The program with int8 activations, one symmetric scale each, around what coremltools' pass quantizes:
    convolutions, linear layers, poolings and sums.

    What `concat` joins shares one range. A value that never left zero has the scale 1. Raises ValueError for a range
    that holds NaN.
    """
    import coremltools.optimize.coreml as cto
    from coremltools.optimize.coreml.experimental import _post_training_quantization as statistics
    from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

    told = dict(_statistics(ranges))
    statistics._adjust_concat_surrounding_activation_stats(ModelDebugger(model)._get_concat_op_info(), told)
    for bounds in told.values():
        if np.float16(2 * max(map(abs, bounds.values())) / STEPS) == 0:
            bounds.update(rmin=-STEPS / 2, rmax=STEPS / 2)
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(mode="linear_symmetric"))
    for name in _integer_sums(_package(model)):
        config.set_op_name(name, None)
    return _passed(model, {"config": config, "activation_stats": told})


def _passed(model: Generated, told: Mapping[str, object]) -> Generated:
    """The program behind the passes of coremltools' `linear_quantize_activations`, which itself predicts first."""
    from coremltools import _SPECIFICATION_VERSION_IOS_17
    from coremltools.converters.mil.mil.passes.graph_pass import PassOption
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.models.utils import _apply_graph_pass

    pairs = [PASS_REGISTRY[f"compression::insert_{place}_quantize_dequantize_pair"] for place in ("prefix", "suffix")]
    for each in pairs:
        each.set_options([PassOption(name, value) for name, value in told.items()])
    merge = PASS_REGISTRY["common::dequantize_quantize_pair_elimination"]
    return _apply_graph_pass(model, [*pairs, merge], spec_version=_SPECIFICATION_VERSION_IOS_17, skip_model_load=True)


def _package(model: Generated) -> Package:
    return read_coreml(Path(model.package_path))


def _statistics(ranges: Ranges) -> Iterator[tuple[str, dict[str, float]]]:
    for name, bounds in ranges.items():
        least, most = np.clip(bounds, -LARGEST_BOUND, LARGEST_BOUND)
        if np.isnan([least, most]).any():
            raise ValueError(f"{name!r} is NaN on the calibration samples; give samples that the model was made for")
        yield name, {"rmin": float(least), "rmax": float(most)}


def _integer_sums(package: Package) -> Iterator[str]:
    """Sums of whole numbers, which the pass would quantize like any other: the names of their values and their own."""
    for operation in package.program.operations if package.program else ():
        if operation.kind == "add" and not operation.outputs[0].dtype.startswith("float"):
            yield operation.outputs[0].name
            if "name" in operation.attributes:
                yield str(operation.attributes["name"].values)

"""How the .tflite files beside this one were made; needs TensorFlow and its flatbuffers schema, unlike the tests.

dense.tflite      float32, signature image -> scores: scores = relu(image @ [[1, -1], [2, 0], [0.5, 3]] + [0, 1])
dense_int8.tflite the same as full integer with int8 input and output
two_inputs.tflite float32 `value` (2) and int32 `row` (1): out = table[row] + value, table [[0, 0], [10, 20], [30, 40]]
dynamic.tflite    float32 (1, any length): the sum of each sample
logarithm.tflite  float32 (2): the natural logarithm, NaN below 0
too_new.tflite    dense.tflite with the version of its FULLY_CONNECTED raised to 99
broken.tflite     the first 200 bytes of dense.tflite
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

HERE = Path(__file__).parent
Spec = tf.TensorSpec


def write(name: str, function: Callable[..., Any], specs: list[Any], samples: list[Any] | None = None) -> None:
    """Convert a function of named tensors, with its signature; quantized when there are calibration samples."""
    module = tf.Module()
    module.call = tf.function(function, input_signature=specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module)
    if samples is not None:

        def calibration() -> Iterator[list[Any]]:
            for sample in samples:
                yield [sample]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = calibration
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    (HERE / name).write_bytes(converter.convert())


def dense(image: Any) -> dict[str, Any]:
    """relu(image @ W + b) with weights that can be checked by hand."""
    return {"scores": tf.nn.relu(image @ tf.constant([[1.0, -1.0], [2.0, 0.0], [0.5, 3.0]]) + tf.constant([0.0, 1.0]))}


def two_inputs(value: Any, row: Any) -> dict[str, Any]:
    """A tiny embedding: a row number outside the table would be read out of bounds."""
    return {"out": tf.gather(tf.constant([[0.0, 0.0], [10.0, 20.0], [30.0, 40.0]]), row[:, 0]) + value}


def raise_version() -> None:
    """A file that no runtime has the operator for."""
    model = schema.ModelT.InitFromPackedBuf((HERE / "dense.tflite").read_bytes())
    for code in model.operatorCodes:
        code.version = 99
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (HERE / "too_new.tflite").write_bytes(bytes(builder.Output()))


def main() -> None:
    """Write every file."""
    image = Spec((1, 3), tf.float32, name="image")
    steps = [np.array([[a, b, 1.0]], np.float32) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    write("dense.tflite", dense, [image])
    write("dense_int8.tflite", dense, [image], [*steps, np.zeros((1, 3), np.float32)])
    write("two_inputs.tflite", two_inputs, [Spec((1, 2), tf.float32, name="value"), Spec((1, 1), tf.int32, name="row")])
    write("dynamic.tflite", lambda x: {"sum": tf.reduce_sum(x, 1)}, [Spec((1, None), tf.float32, name="x")])
    write("logarithm.tflite", lambda x: {"log": tf.math.log(x)}, [Spec((1, 2), tf.float32, name="x")])
    raise_version()
    (HERE / "broken.tflite").write_bytes((HERE / "dense.tflite").read_bytes()[:200])


if __name__ == "__main__":
    main()

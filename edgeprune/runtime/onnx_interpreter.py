"""ONNX Runtime behind the calls of a TFLite interpreter, so that one worker runs, times and traces both.

Imported in the worker's process only, which is confined. The CPU provider alone, and no operators of others.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Interpreter", "OpResolverType"]

_NUMBERS = {"float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_}
_ERRORS_ONLY = 4  # severity of the log: fatal ones, which are raised as well


class OpResolverType:
    """The one name of TensorFlow Lite's that a trace asks for; nothing is delegated here."""

    BUILTIN_WITHOUT_DEFAULT_DELEGATES = 0


class Interpreter:
    """A session with the file at `model_path`; with `experimental_preserve_all_tensors` every value of its main graph
    is an output too."""

    def __init__(
        self, *, model_path: str, num_threads: int, experimental_preserve_all_tensors: bool = False, **_: object
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        self._written: list[dict[str, Any]] = []
        self._own = 0
        source: str | bytes = model_path
        if experimental_preserve_all_tensors:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            source = self._whole(model_path)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # its classes have no ancestor but Exception
            raise RuntimeError(_plain(cause)) from cause
        self._inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()
        self._names = [value.name for value in (*self._inputs, *self._outputs)]
        self._fed: dict[str, npt.NDArray[Any]] = {}
        self._sizes: dict[int, tuple[int, ...]] = {}
        self._made: dict[int, npt.NDArray[Any]] = {}
        self._kept = self._own or len(self._outputs)

    def _whole(self, path: str) -> bytes:
        """The file with each value of its main graph as an output behind its own."""
        import onnx

        model = onnx.load(path)
        known = {value.name for value in model.graph.output}
        self._own = len(model.graph.output)
        for node in model.graph.node:
            for name in filter(None, node.output):
                self._written.append({"op_name": node.op_type, "name": name, "inputs": list(node.input)})
                if name not in known:
                    known.add(name)
                    model.graph.output.add(name=name)
        return bytes(model.SerializeToString())

    def allocate_tensors(self) -> None:
        """Nothing: a session is ready."""

    def get_signature_list(self) -> dict[str, Any]:
        """None: inputs and outputs have their names."""
        return {}

    def get_input_details(self) -> list[dict[str, Any]]:
        """As TensorFlow Lite tells them; a free size has 1 in the shape, or what it was resized to, and -1 in its
        signature."""
        found = [_detail(value, index) for index, value in enumerate(self._inputs)]
        return [{**detail, "shape": list(self._sizes.get(detail["index"], detail["shape"]))} for detail in found]

    def get_output_details(self) -> list[dict[str, Any]]:
        """The same of the outputs that the file itself has; after a run with the sizes that they had in it."""
        first = len(self._inputs)
        found = [_detail(value, first + index) for index, value in enumerate(self._outputs[: self._kept])]
        made = {index: list(value.shape) for index, value in self._made.items()}
        return [{**detail, "shape": made.get(detail["index"], detail["shape"])} for detail in found]

    def get_tensor_details(self) -> list[dict[str, Any]]:
        """The same of every value that a node makes."""
        first = len(self._inputs)
        return [_detail(value, first + index) for index, value in enumerate(self._outputs)]

    def _get_ops_details(self) -> list[dict[str, Any]]:
        """Each node with the numbers of what it reads and writes; constants have none."""
        number = {name: index for index, name in enumerate(self._names)}
        return [
            {
                "op_name": written["op_name"],
                "inputs": [number[name] for name in written["inputs"] if name in number],
                "outputs": [number[written["name"]]],
            }
            for written in self._written
        ]

    def resize_tensor_input(self, index: int, shape: tuple[int, ...], *, strict: bool = False) -> None:  # noqa: ARG002
        """Another shape of an input; a session whose sizes are not free refuses to run then."""
        self._sizes[index] = tuple(shape)

    def set_tensor(self, index: int, value: npt.NDArray[Any]) -> None:
        """What an input is fed."""
        self._fed[self._names[index]] = np.ascontiguousarray(value)

    def get_tensor(self, index: int) -> npt.NDArray[Any]:
        """What an output held after the last run."""
        return self._made[index]

    def invoke(self) -> None:
        """One run."""
        try:
            made = self._session.run(None, self._fed)
        except Exception as cause:
            raise RuntimeError(_plain(cause)) from cause
        self._made = {len(self._inputs) + index: np.asarray(value) for index, value in enumerate(made)}


def _detail(value: Any, index: int) -> dict[str, Any]:
    sizes = [size if isinstance(size, int) and size > 0 else -1 for size in value.shape or []]
    return {
        "name": value.name,
        "index": index,
        "shape": [max(1, size) for size in sizes],
        "shape_signature": sizes,
        "dtype": _dtype(value.type),
        "quantization": (0.0, 0),
    }


def _dtype(told: str) -> Any:
    """The type of numbers in "tensor(float)"; an object where it is none that NumPy has."""
    found = re.fullmatch(r"tensor\((\w+)\)", told)
    name = found.group(1) if found else ""
    if name in _NUMBERS:
        return _NUMBERS[name]
    return np.dtype(name) if re.fullmatch(r"u?int(8|16|32|64)", name) else np.dtype(object)


def _plain(cause: Exception) -> str:
    """What ONNX Runtime says without its marks: "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ..."."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(cause))

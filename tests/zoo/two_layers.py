"""One network in every format, written by hand: 8 numbers to 2 by a kernel of half zeros, then to 1 by a dense kernel.

18 weights of which 8 are zero, 3 biases, 18 MACs. Its second kernel is a Dense(1): a column, and a weight all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import written_mil as mil
from wire import number, piece
from written_tflite import GraphSpec, TensorSpec, dense_op, write

__all__ = ["PARAMETERS", "SPARSITY", "WRITERS"]

SPARSITY, PARAMETERS = 8 / 18, 21
# (out, in), as TFLite, ONNX (transB) and Core ML keep kernels; Keras keeps (in, out).
FIRST = np.array([[0.5, 0.0] * 4, [0.0, 0.25] * 4], "<f4")
SECOND = np.array([[0.5, -0.5]], "<f4")
BIASES = np.zeros(2, "<f4"), np.zeros(1, "<f4")


def _tflite(path: Path) -> None:
    arrays = (FIRST, BIASES[0], SECOND, BIASES[1])
    tensors = [TensorSpec(shape=(1, 8))]
    tensors += [TensorSpec(shape=array.shape, buffer=at + 1) for at, array in enumerate(arrays)]
    tensors += [TensorSpec(shape=(1, 2)), TensorSpec(shape=(1, 1))]
    ops = (dense_op((0, 1, 2), (5,)), dense_op((5, 3, 4), (6,)))
    graph = GraphSpec(tensors=tuple(tensors), ops=ops, outputs=(6,))
    write(path, graph, buffers=(b"", *(array.tobytes() for array in arrays)))


def _onnx(path: Path) -> None:
    def tensor(name: str, array: np.ndarray) -> bytes:
        sizes = b"".join(number(1, size) for size in array.shape)
        return piece(5, sizes, number(2, 1), piece(8, name), piece(9, array.tobytes()))

    def gemm(source: str, kernel: str, bias: str, output: str) -> bytes:
        ends = b"".join(piece(1, name) for name in (source, kernel, bias)) + piece(2, output)
        return piece(1, ends, piece(4, "Gemm"), piece(5, piece(1, "transB"), number(3, 1)))

    def value(key: int, name: str, size: int) -> bytes:
        sizes = piece(1, number(1, 1)) + piece(1, number(1, size))
        return piece(key, piece(1, name), piece(2, piece(1, number(1, 1), piece(2, sizes))))

    nodes = gemm("x", "k1", "b1", "h") + gemm("h", "k2", "b2", "y")
    tensors = tensor("k1", FIRST) + tensor("b1", BIASES[0]) + tensor("k2", SECOND) + tensor("b2", BIASES[1])
    shapes = value(11, "x", 8) + value(13, "h", 2) + value(12, "y", 1)
    path.write_bytes(number(1, 8) + piece(7, nodes, tensors, shapes))


def _program(path: Path) -> None:
    def constant(name: str, array: np.ndarray) -> bytes:
        return mil.constant(name, mil.tensor_type(mil.FLOAT32, *array.shape), mil.immediate(1, array.tobytes()))

    def linear(source: str, kernel: str, bias: str, output: str, size: int) -> bytes:
        bound = [
            piece(2, piece(1, name), piece(2, piece(1, piece(1, value))))
            for name, value in (("x", source), ("weight", kernel), ("bias", bias))
        ]
        shape = piece(2, mil.tensor_type(mil.FLOAT32, 1, size))
        return piece(1, "linear") + b"".join(bound) + piece(3, piece(1, output), shape)

    arrays = {"k1": FIRST, "b1": BIASES[0], "k2": SECOND, "b2": BIASES[1]}
    constants = [constant(name, array) for name, array in arrays.items()]
    path.write_bytes(mil.model(*constants, linear("x", "k1", "b1", "h", 2), linear("h", "k2", "b2", "y", 1)))


def _neural_network(path: Path) -> None:
    def dense(name: str, kernel: np.ndarray, bias: np.ndarray) -> bytes:
        weights, offsets = (piece(key, piece(1, array.tobytes())) for key, array in ((20, kernel), (21, bias)))
        sizes = number(1, kernel.shape[1]) + number(2, kernel.shape[0])
        return piece(1, piece(1, name), piece(140, sizes, number(10, 1), weights, offsets))

    network = dense("first", FIRST, BIASES[0]) + dense("second", SECOND, BIASES[1])
    path.write_bytes(number(1, 4) + piece(2, piece(1, piece(1, "x"))) + piece(500, network))


def _h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"first", b"second"]
        for name, kernel, bias in (("first", FIRST, BIASES[0]), ("second", SECOND, BIASES[1])):
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"kernel:0", b"bias:0"]
            group.create_dataset("kernel:0", data=kernel.T)
            group.create_dataset("bias:0", data=bias)


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "two.tflite": _tflite,
    "two.onnx": _onnx,
    "program.mlmodel": _program,
    "network.mlmodel": _neural_network,
    "two.h5": _h5,
}

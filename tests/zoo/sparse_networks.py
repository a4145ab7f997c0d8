"""Small networks of the kind that sparse kernels are for, written operation by operation without TensorFlow.

An image of SIZE x SIZE x 3, or another size, through a 3x3 stem of stride 2, inverted bottlenecks of 1x1 and depthwise
convolutions, and a mean, to CLASSES scores. Padding is SAME, as the converter writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.formats.tflite.editing import EditedGraph

FILES = Path(__file__).parent.parent / "files"
SIZE, CLASSES = 16, 5


class Network:
    """A graph that grows; `x` is the last value."""

    def __init__(self, size: int = SIZE, *, seed: int = 0, sparsity: float = 0.8) -> None:
        source = FILES / "eligible_sparse.tflite"
        self.made = EditedGraph(source, source.read_bytes())
        self.rng, self.sparsity = np.random.default_rng(seed), sparsity
        graph = self.made.graph
        graph.operators, graph.tensors = [], []
        self.made.model.metadata = None
        self.image = self.x = self.made.add_tensor("image", (1, size, size, 3), "FLOAT32")

    def weights(self, *shape: int, zeros: float = 0.0) -> int:
        """A constant with this share of zeros, about of the size that keeps the size of values."""
        values = self.rng.normal(0, (2 / max(1, np.prod(shape[1:]))) ** 0.5, shape).astype(np.float32)
        values.reshape(-1)[self.rng.permutation(values.size)[: round(zeros * values.size)]] = 0
        return self.made.add_constant("weights", values)

    def put(self, kind: str, inputs: list[int], shape: tuple[int, ...], options: Any = None, version: int = 1) -> int:
        """An operation behind all others; what it writes."""
        name = f"{kind.lower()}_{len(self.made.ops)}"
        self.x = self.made.add_tensor(name, shape, "FLOAT32")
        op = self.made.add_op(kind, inputs, self.x, before=None, options=options, version=version)
        self.made.ops.append(self.made.ops.pop(0))
        assert self.made.ops[-1] is op
        return self.x

    def conv(
        self, channels: int, kernel: int = 1, stride: int = 1, *, padding: str = "SAME", act: str = "RELU6"
    ) -> int:
        """A convolution; 1x1 ones have zeros."""
        batch, height, width, depth = self.made.shape(self.x)
        options = self.options("Conv2DOptions", stride, padding, act)
        kernels = self.weights(channels, kernel, kernel, depth, zeros=self.sparsity if kernel == 1 else 0.0)
        size = self.sizes(height, width, kernel, stride, padding)
        return self.put("CONV_2D", [self.x, kernels, self.bias(channels)], (batch, *size, channels), options)

    def depthwise(self, kernel: int = 3, stride: int = 1, *, padding: str = "SAME", act: str = "RELU6") -> int:
        """A depthwise convolution."""
        batch, height, width, depth = self.made.shape(self.x)
        options = self.options("DepthwiseConv2DOptions", stride, padding, act)
        options.depthMultiplier = 1
        size = self.sizes(height, width, kernel, stride, padding)
        inputs = [self.x, self.weights(1, kernel, kernel, depth), self.bias(depth)]
        return self.put("DEPTHWISE_CONV_2D", inputs, (batch, *size, depth), options)

    def pad(self, before: int, behind: int) -> int:
        """Zeros around the map."""
        batch, height, width, depth = self.made.shape(self.x)
        sides = np.array([[0, 0], [before, behind], [before, behind], [0, 0]], np.int32)
        shape = (batch, height + before + behind, width + before + behind, depth)
        return self.put("PAD", [self.x, self.made.add_constant("sides", sides)], shape, self.made.schema.PadOptionsT())

    def binary(self, kind: str, first: int, second: int) -> int:
        """ADD, SUB or MUL."""
        options = getattr(self.made.schema, f"{kind.title()}OptionsT")()
        shape = max(self.made.shape(first), self.made.shape(second), key=np.prod)
        return self.put(kind, [first, second], shape, options)

    def number(self, *values: float) -> int:
        """A scalar, or a vector of one number for each channel."""
        return self.made.add_constant("number", np.array(values if len(values) > 1 else values[0], np.float32))

    def unary(self, kind: str) -> int:
        """LOGISTIC and so on."""
        return self.put(kind, [self.x], self.made.shape(self.x))

    def mean(self, *, keeps: bool = False) -> int:
        """Over height and width."""
        batch, _, _, depth = self.made.shape(self.x)
        options = self.made.schema.ReducerOptionsT()
        options.keepDims = keeps
        axes = self.made.add_constant("axes", np.array([1, 2], np.int32))
        return self.put("MEAN", [self.x, axes], (batch, 1, 1, depth) if keeps else (batch, depth), options)

    def reshape(self, *shape: int) -> int:
        """The same numbers in another shape."""
        options = self.made.schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        return self.put("RESHAPE", [self.x, self.made.add_constant("shape", options.newShape)], shape, options)

    def pool(self) -> int:
        """The average of the whole map."""
        batch, height, width, depth = self.made.shape(self.x)
        options = self.made.schema.Pool2DOptionsT()
        options.padding, options.strideH, options.strideW = self.made.schema.Padding.VALID, 1, 1
        options.filterHeight, options.filterWidth = height, width
        return self.put("AVERAGE_POOL_2D", [self.x], (batch, 1, 1, depth), options)

    def dense(self, classes: int = CLASSES) -> int:
        """A dense layer with zeros."""
        batch, depth = self.made.shape(self.x)
        options = self.made.schema.FullyConnectedOptionsT()
        inputs = [self.x, self.weights(classes, depth, zeros=self.sparsity), self.bias(classes)]
        return self.put("FULLY_CONNECTED", inputs, (batch, classes), options)

    def gate(self, *, reshaped: bool = False, hard: bool = False) -> int:
        """Squeeze and excitation."""
        outside, depth = self.x, self.made.shape(self.x)[3]
        self.mean(keeps=not reshaped)
        if reshaped:
            self.reshape(1, 1, 1, depth)
        self.conv(8)
        self.conv(depth, act="RELU6" if hard else "NONE")
        inside = self.binary("MUL", self.x, self.number(1 / 6)) if hard else self.unary("LOGISTIC")
        return self.binary("MUL", outside, inside)

    def bias(self, channels: int) -> int:
        return self.made.add_constant("bias", self.rng.normal(0, 0.1, channels).astype(np.float32))

    def options(self, table: str, stride: int, padding: str, act: str) -> Any:
        schema = self.made.schema
        options = getattr(schema, table + "T")()
        options.padding, options.strideH, options.strideW = getattr(schema.Padding, padding), stride, stride
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, act)
        options.dilationHFactor = options.dilationWFactor = 1
        return options

    @staticmethod
    def sizes(height: int, width: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
        lost = kernel - 1 if padding == "VALID" else 0
        return -(-(height - lost) // stride), -(-(width - lost) // stride)

    def content(self) -> bytes:
        """The file; its only output is the last value."""
        graph = self.made.graph
        graph.inputs, graph.outputs = np.array([self.image], np.int32), np.array([self.x], np.int32)
        (signature,) = self.made.model.signatureDefs
        for ends, name, tensor in ((signature.inputs, b"image", self.image), (signature.outputs, b"scores", self.x)):
            ends[0].name, ends[0].tensorIndex = name, tensor
        used = {op.opcodeIndex for op in self.made.ops}
        assert used <= set(range(len(self.made.model.operatorCodes)))
        return self.made.content()


def plain(size: int = SIZE, *, seed: int = 0, sparsity: float = 0.8) -> Network:
    """Two bottlenecks, without a mean."""
    network = Network(size, seed=seed, sparsity=sparsity)
    network.conv(8, 3, 2)
    network.conv(24)
    network.depthwise(3, 2)
    network.conv(16, act="NONE")
    return network


def headed(network: Network) -> bytes:
    """A network with a mean and a dense layer behind it, as a file."""
    network.conv(32)
    network.mean()
    network.dense()
    return network.content()


__all__ = ["CLASSES", "FILES", "SIZE", "Network", "headed", "plain"]

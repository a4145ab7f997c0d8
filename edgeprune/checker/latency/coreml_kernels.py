"""The operations of a Core ML program as kernels, from its shapes: no constant is decoded.

Semantics: apple.github.io/coremltools, MIL operations. Activations and normalizations that stand behind a convolution
cost nothing of their own: Core ML's compiler fuses them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgeprune.checker.latency.kernels import Kernel, Kind
from edgeprune.errors import Unsupported
from edgeprune.formats.coreml.mil import Constant, Operation, Package
from edgeprune.formats.coreml.mil_macs import mil_macs
from edgeprune.formats.coreml.storage import is_constant

__all__ = ["coreml_kernels"]

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_PRODUCTS = frozenset({"conv", "conv_transpose", "linear", "matmul"})
_FUSED = frozenset(
    {
        "batch_norm",
        "clip",
        "gelu",
        "hard_swish",
        "leaky_relu",
        "prelu",
        "relu",
        "relu6",
        "scaled_tanh",
        "sigmoid",
        "sigmoid_hard",
        "silu",
        "softplus",
        "tanh",
        "thresholded_relu",
    }
)
_NAMES: Mapping[Kind, str] = {
    Kind.ELEMENTWISE: "abs add batch_norm cast ceil clip cos elu equal erf exp exp2 floor floor_div gelu greater"
    " greater_equal hard_swish instance_norm inverse l2_norm layer_norm leaky_relu less less_equal log"
    " local_response_norm logical_and logical_not logical_or maximum minimum mod mul not_equal pow prelu"
    " real_div relu relu6 round rsqrt scaled_tanh select sigmoid sigmoid_hard sign silu sin softmax"
    " softplus softplus_parametric softsign sqrt square sub tanh threshold thresholded_relu quantize"
    " dequantize",
    Kind.POOL: "avg_pool max_pool l2_pool reduce_argmax reduce_argmin reduce_l1_norm reduce_l2_norm reduce_log_sum"
    " reduce_log_sum_exp reduce_max reduce_mean reduce_min reduce_prod reduce_sum reduce_sum_square",
    Kind.MOVEMENT: "batch_to_space concat crop depth_to_space fill gather gather_along_axis gather_nd pad"
    " pixel_shuffle resize_bilinear resize_nearest_neighbor reverse slice_by_index slice_by_size space_to_batch"
    " space_to_depth split stack tile transpose upsample_bilinear upsample_nearest_neighbor",
    Kind.FREE: "expand_dims identity reshape shape squeeze classify",
}
_KINDS: Mapping[str, Kind] = {op: kind for kind, ops in _NAMES.items() for op in ops.split()}


def coreml_kernels(package: Package) -> list[Kernel | Operation]:
    """The operations of the main function in order, without constants; one that no rule covers stays as it is.

    Raises Unsupported for a model that is no ML program, and for one with open sizes.
    """
    program = package.program
    if program is None:
        raise Unsupported(f"{package.path}: {package.what}, not an ML program; convert it anew for iOS15 or later")
    for port in program.inputs:
        if None in port.shape:
            raise Unsupported(
                f"{package.path}: input {port.name!r} has an open size; convert it with a fixed shape to estimate it"
            )
    shapes = {port.name: tuple(size or 1 for size in port.shape) for port in program.inputs}
    for operation in program.operations:
        shapes.update({port.name: tuple(size or 1 for size in port.shape) for port in operation.outputs})
    stored = {port.name for operation in program.operations if is_constant(operation) for port in operation.outputs}
    behind = {
        port.name
        for operation in program.operations
        if operation.kind in _PRODUCTS | _FUSED | {"add"} and not is_constant(operation)
        for port in operation.outputs
    }
    named = {port.name: operation for operation in program.operations for port in operation.outputs}
    return [
        _kernel(operation, shapes, stored, behind, named)
        for operation in program.operations
        if not is_constant(operation)
    ]


def _named(operation: Operation, parameter: str) -> str:
    bindings = operation.inputs.get(parameter, ())
    return bindings[0] if bindings and isinstance(bindings[0], str) else ""


def _shape(operation: Operation, parameter: str, shapes: Shapes) -> Shape:
    """The shape of an input, given by name or written in place; () when it is absent."""
    bindings = operation.inputs.get(parameter, ())
    if bindings and isinstance(bindings[0], Constant):
        return tuple(bindings[0].shape)
    return shapes.get(_named(operation, parameter), ())


def _kernel(
    operation: Operation, shapes: Shapes, stored: set[str], behind: set[str], named: Mapping[str, Operation]
) -> Kernel | Operation:
    if not operation.outputs:
        return operation
    names = [name for bindings in operation.inputs.values() for name in bindings if isinstance(name, str)]
    read = sum(math.prod(shapes.get(name, ())) for name in names if name not in stored)
    written = sum(math.prod(shapes[port.name]) for port in operation.outputs)
    product = _product(operation, shapes, stored) if operation.kind in _PRODUCTS else None
    kind = product[0] if product else _KINDS.get(operation.kind)
    if kind is None or operation.blocks:
        return operation
    if operation.kind in _FUSED and _named(operation, "x") in behind:
        kind = Kind.FREE
    taps, weights = product[1:] if product else (1, 0)
    macs = mil_macs(operation, shapes, named) if product else 0
    output = shapes[operation.outputs[0].name]
    channels = output[1] if len(output) > 1 else 1
    return Kernel(
        op=operation.kind,
        kind=kind,
        macs=macs,
        read=read,
        written=written,
        weights=weights,
        gathered=macs // max(channels, 1) if kind is Kind.SPATIAL and taps > 1 else read,
        name=operation.outputs[0].name,
    )


def _product(operation: Operation, shapes: Shapes, stored: set[str]) -> tuple[Kind, int, int] | None:
    """(kind, taps, weights) of a multiplication; None when the program does not tell its shapes."""
    x = _shape(operation, "x", shapes)
    if operation.kind == "matmul":
        y = _shape(operation, "y", shapes)
        if not x or not y:
            return None
        constant = _named(operation, "y") in stored
        return Kind.FULLY_CONNECTED if constant else Kind.MATMUL, 1, math.prod(y) if constant else 0
    weight = _shape(operation, "weight", shapes)
    if operation.kind == "linear":
        return (Kind.FULLY_CONNECTED, 1, math.prod(weight)) if len(weight) == 2 else None
    if len(weight) < 3 or len(x) < 2:
        return None
    taps = math.prod(weight[2:])
    if operation.kind == "conv_transpose":  # weight (in, out / groups, ...): every input meets its whole kernel
        return Kind.SPATIAL, taps, math.prod(weight)
    groups = max(1, x[1] // max(weight[1], 1))
    depthwise = groups > 1 and weight[1] == 1
    kind = Kind.DEPTHWISE if depthwise else Kind.GROUPED if groups > 1 else Kind.SPATIAL if taps > 1 else Kind.POINTWISE
    return kind, taps, math.prod(weight)

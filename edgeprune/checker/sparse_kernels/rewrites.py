"""Exact changes of a float graph after which XNNPACK can run it with sparse kernels. Each is listed.

That an image turned by 180 degrees, with kernels turned alike, gives a map turned alike holds for every operation of
the cluster: convolutions, operations on each place, and means over all places, which undo the turn.
"""

from __future__ import annotations

import numpy as np

from edgeprune.checker.latency.sparse_cluster import UNARY
from edgeprune.checker.sparse_kernels.ineligible import IneligibleError
from edgeprune.checker.sparse_kernels.region import PAD_ALIKE, Mean, Region, Spatial, find_region
from edgeprune.formats.tflite.editing import EditedGraph
from edgeprune.formats.tflite.objects import Generated, operator_code
from edgeprune.ledger import Rewrite

__all__ = ["make_eligible"]

_HEIGHT, _WIDTH = 1, 2
_PLACEWISE = frozenset({"ADD", "CAST", "DIV", "MUL", "SUB"}) | UNARY


def make_eligible(graph: EditedGraph, *, reversed_input: bool = False) -> tuple[Rewrite, ...]:
    """Change a float graph so that its cluster meets all conditions but those of zeros and of storage; what was done.

    With `reversed_input` the caller feeds images turned by 180 degrees where that is needed; else the file turns them.
    Raises IneligibleError, and leaves a half changed graph then.
    """
    region = find_region(graph)
    turned = _turned(graph, region)
    done = []
    if turned:
        done.append(_turn(graph, region, reversed_input=reversed_input))
    done += [*_pad(graph, region), *_order_constants(graph, region), *_drop_axes(graph, region)]
    return tuple(rewrite for rewrite in done if rewrite.layers)


# --- Padding and the turn ------------------------------------------------------------------------------------------


def _turned(graph: EditedGraph, region: Region) -> bool:
    """Whether the image is to be turned; False where the padding is right as it is."""
    for turned in (False, True):
        if all(axis.symmetric(turned=turned) for part in region.spatial for axis in part.axes):
            return turned
    part = next(p for p in region.spatial if not all(axis.symmetric(turned=True) for axis in p.axes))
    known = ", ".join(f"{axis.size} padded by ({axis.before}, {axis.behind})" for axis in part.axes)
    raise IneligibleError(
        "d" if part is region.stem else "e",
        graph.layer(part.op),
        f"a kernel of {part.axes[0].kernel} of stride {part.axes[0].stride} moves over {known}, which is not "
        f"{part.axes[0].half} on all sides, nor is it with the image turned",
        f"choose another input size, or {PAD_ALIKE}",
    )


def _turn(graph: EditedGraph, region: Region, *, reversed_input: bool) -> Rewrite:
    """Turn all kernels and the image."""
    for op in region.resizes:
        if not (op.builtinOptions.alignCorners or op.builtinOptions.halfPixelCenters):
            raise IneligibleError(
                "e", graph.layer(op), "a RESIZE_BILINEAR that is not the same from both ends", PAD_ALIKE
            )
    known: dict[int, int] = {}
    for part in region.spatial:
        kernel = graph.reads(part.op)[1]
        values = graph.floats(kernel)
        if values is None:
            raise IneligibleError("c", graph.layer(part.op), "its kernel is no float32 constant", "convert it anew")
        if kernel not in known:
            known[kernel] = graph.add_constant(graph.name(kernel) + "/turned", values[:, ::-1, ::-1, :])
        graph.set_read(part.op, 1, known[kernel])
    what = "kernels turned by 180 degrees, "
    if reversed_input:
        what += "the caller feeds the image turned"
        _first_input(graph, region)
    else:
        what += "the image turned in the file (REVERSE_V2)"
        _reverse(graph, _first_input(graph, region))
    return Rewrite(name="rot180", what=what, layers=tuple(graph.layer(part.op) for part in region.spatial))


def _first_input(graph: EditedGraph, region: Region) -> int:
    """The input of the model that reaches the stem through operations on each place alone."""
    start = region.stem.pad if region.stem.pad is not None else region.stem.op
    index, reader = graph.reads(start)[0], start
    while index not in graph.inputs:
        maker = graph.maker(index)
        given = [] if maker is None else [n for n in graph.reads(maker) if graph.values(n) is None]
        if maker is None or len(given) != 1 or graph.kind(maker) not in _PLACEWISE or not _uniform(graph, maker):
            what = graph.kind(maker) if maker is not None else "constant"
            raise IneligibleError(
                "d",
                graph.layer(reader),
                f"between the image and the stem stands a {what}, behind which it would have to be turned",
                "move what prepares the image into the app",
            )
        index, reader = given[0], maker
        if len(graph.users(index)) != 1:
            break
    if index not in graph.inputs or len(graph.users(index)) != 1 or index in graph.outputs:
        raise IneligibleError(
            "d", graph.layer(reader), "the image is read by other operations than the stem", "give them their own input"
        )
    return index


def _uniform(graph: EditedGraph, op: Generated) -> bool:
    """Whether the constants of an operation are the same at every place."""
    shapes = [graph.shape(index) for index in graph.reads(op) if graph.values(index) is not None]
    return all(np.prod(shape[:-1], dtype=np.int64) <= 1 for shape in shapes)


def _reverse(graph: EditedGraph, image: int) -> None:
    """Turn an input. It stands first: what does not depend on it would else be split off into a partition of its own,
    and the sign that the weights are sparse (DENSIFY) with it."""
    readers = graph.users(image)
    first = graph.ops[0]
    last = image
    for axis, word in ((_WIDTH, "mirrored"), (_HEIGHT, "turned")):
        name = f"{graph.name(image)}/{word}"
        made = graph.add_tensor(name, graph.shape(image), graph.type_name(image))
        along = graph.add_constant(f"{name}/axis", np.array([axis], np.int32))
        graph.add_op("REVERSE_V2", [last, along], made, before=first, options=graph.schema.ReverseV2OptionsT())
        last = made
    graph.redirect(image, last, readers)


def _pad(graph: EditedGraph, region: Region) -> list[Rewrite]:
    """Explicit padding by half the kernel on all sides, which XNNPACK fuses into the convolution."""
    written: list[str] = []
    widened: list[str] = []
    for part in region.spatial:
        same = part.op.builtinOptions.padding == graph.schema.Padding.SAME
        still = part.pad is None and same and part.axes[0].stride == part.axes[1].stride == 1
        exact = all(axis.before == axis.behind == axis.half for axis in part.axes)
        if still or (part.pad is not None and not same and exact):
            continue
        _set_padding(graph, part)
        (written if part.pad is None else widened).append(graph.layer(part.op))
    shape = "by half the kernel on all sides, which XNNPACK fuses with VALID"
    return [
        Rewrite(name="explicit-padding", what=f"SAME became a PAD {shape}", layers=tuple(written)),
        Rewrite(name="symmetric-padding", what=f"a PAD became one {shape}", layers=tuple(widened)),
    ]


def _set_padding(graph: EditedGraph, part: Spatial) -> None:
    half = part.axes[0].half
    sides = graph.add_constant(
        graph.layer(part.op) + "/paddings", np.array([[0, 0], [half, half], [half, half], [0, 0]], np.int32)
    )
    batch, height, width, channels = graph.shape(graph.reads(part.op if part.pad is None else part.pad)[0])
    shape = (batch, height + 2 * half, width + 2 * half, channels)
    padded = graph.add_tensor(graph.layer(part.op) + "/padded", shape, "FLOAT32")
    source = graph.reads(part.op if part.pad is None else part.pad)[0]
    graph.add_op("PAD", [source, sides], padded, before=part.op, options=graph.schema.PadOptionsT())
    if part.pad is not None:
        graph.remove(part.pad)
    graph.set_read(part.op, 0, padded)
    part.op.builtinOptions.padding = graph.schema.Padding.VALID


# --- Constants and means ---------------------------------------------------------------------------------------------


def _order_constants(graph: EditedGraph, region: Region) -> list[Rewrite]:
    """Constants of ADD and MUL get four dimensions and stand first: XNNPACK looks at the first operand's shape for
    both. SUB of a constant becomes ADD of its negative."""
    changed = []
    for op in region.binaries:
        reads = graph.reads(op)
        place = next((n for n, index in enumerate(reads) if graph.values(index) is not None), None)
        if place is None or (place == 0 and len(graph.shape(reads[0])) == 4 and graph.kind(op) != "SUB"):
            continue
        values = graph.floats(reads[place])
        if values is None:
            raise IneligibleError("c", graph.layer(op), "its constant is not float32", "convert it anew")
        subtracts = graph.kind(op) == "SUB"
        flat = (-values if subtracts else values).reshape(1, 1, 1, -1)
        put = graph.add_constant(graph.name(reads[place]) + "/first", flat)
        op.inputs = np.array([put, reads[1 - place]], np.int32)
        if subtracts:
            _become_addition(graph, op)
        changed.append(graph.layer(op))
    what = "its constant has four dimensions and stands first"
    return [Rewrite(name="constant-first", what=what, layers=tuple(changed))]


def _become_addition(graph: EditedGraph, op: Generated) -> None:
    options = graph.schema.AddOptionsT()
    options.fusedActivationFunction = op.builtinOptions.fusedActivationFunction if op.builtinOptions else 0
    op.opcodeIndex = operator_code(graph.model, "ADD", 1)
    op.builtinOptions, op.builtinOptionsType = options, graph.schema.BuiltinOptions.AddOptions


def _drop_axes(graph: EditedGraph, region: Region) -> list[Rewrite]:
    """A mean that ends the cluster drops its axes and is reshaped; one that gates a map keeps them."""
    dropped, kept, pooled = [], [], []
    for mean in region.means:
        if graph.kind(mean.op) == "AVERAGE_POOL_2D":
            pooled.append(graph.layer(mean.op))
            _become_mean(graph, mean.op)
        if mean.gate and mean.reshape is not None:
            kept.append(graph.layer(mean.op))
            _keep(graph, mean)
        elif not mean.gate and len(graph.shape(graph.writes(mean.op)[0])) == 4:
            dropped.append(graph.layer(mean.op))
            _drop(graph, mean.op)
    return [
        Rewrite(name="mean", what="an average pooling of the whole map became a MEAN", layers=tuple(pooled)),
        Rewrite(name="mean-drops-axes", what="a MEAN drops its axes, and a RESHAPE adds them", layers=tuple(dropped)),
        Rewrite(name="mean-keeps-axes", what="a MEAN keeps its axes, without a RESHAPE", layers=tuple(kept)),
    ]


def _become_mean(graph: EditedGraph, op: Generated) -> None:
    axes = graph.add_constant(graph.layer(op) + "/axes", np.array([_HEIGHT, _WIDTH], np.int32))
    op.inputs = np.array([graph.reads(op)[0], axes], np.int32)
    op.opcodeIndex = operator_code(graph.model, "MEAN", 1)
    op.builtinOptions = graph.schema.ReducerOptionsT()
    op.builtinOptions.keepDims = True
    op.builtinOptionsType = graph.schema.BuiltinOptions.ReducerOptions


def _drop(graph: EditedGraph, op: Generated) -> None:
    made = graph.writes(op)[0]
    batch, _, _, channels = graph.shape(made)
    flat = graph.add_tensor(graph.layer(op) + "/flat", (batch, channels), "FLOAT32")
    shape = np.array([-1, 1, 1, channels], np.int32)  # any batch
    options = graph.schema.ReshapeOptionsT()
    options.newShape = shape
    wanted = graph.add_constant(graph.layer(op) + "/shape", shape)
    behind = graph.ops[next(n for n, other in enumerate(graph.ops) if other is op) + 1 :]
    graph.add_op("RESHAPE", [flat, wanted], made, before=behind[0] if behind else None, options=options)
    if not behind:  # it was the last operation
        graph.graph.operators.append(graph.graph.operators.pop(0))
    op.outputs = np.array([flat], np.int32)
    op.builtinOptions.keepDims = False


def _keep(graph: EditedGraph, mean: Mean) -> None:
    assert mean.reshape is not None
    op, made = mean.op, graph.writes(mean.reshape)[0]
    graph.remove(mean.reshape)
    op.outputs = np.array([made], np.int32)
    op.builtinOptions.keepDims = True

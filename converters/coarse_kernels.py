"""The kernels of an integer .tflite file as layers whose grids may be coarser.

A grid of a kernel is a floor under its scales. The channels of an output share one scale, so an error of a weight
weighs the same in each of them: where a channel's own step is finer than the others', its bits buy nothing, and a floor
takes them first. Floors above the largest scale make the whole kernel coarser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeprune.checker.size.codecs import BASE_CODEC, CODECS
from edgeprune.converters.float_start import FloatStart, run_content
from edgeprune.converters.grids import Grid, deflated, on_hull
from edgeprune.converters.kernels import Kernel, float_constants, kernels_of
from edgeprune.converters.layer_inputs import moments_of
from edgeprune.converters.reconstruction import Moments, output_error, reconstructed
from edgeprune.converters.session import Exported
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.slim_scales import Rounded, levels, requantize, without_names
from edgeprune.formats.tflite.objects import as_objects, file_bytes, operator_kinds, scales_of, with_outputs
from edgeprune.formats.tflite.scales import round_up
from edgeprune.maker.training.data.columns import Column

__all__ = ["FLOORS", "CoarseKernels", "floored"]

FLOORS = (
    0.0,
    0.5,
    0.71,
    1.0,
    1.41,
    2.0,
    2.83,
    4.0,
    5.66,
    8.0,
    11.3,
    16.0,
)  # times the kernel's largest scale; 0 is its own grid
PROBED = 4.0  # the floor of a trial: coarse enough to be seen through the rounding of activations
_ENDINGS = frozenset({"DEQUANTIZE", "LOGISTIC", "QUANTIZE", "SOFTMAX"})  # what squeezes differences of the outputs


class CoarseKernels:
    """Those of an int8 or int16x8 file that was made with its `start`: `grids` of each kernel that may change.

    With `options.reconstructs` the numbers on every grid are those that keep the layer's outputs
    (`converters.reconstruction`), and an error is that of its outputs on `calibration`; otherwise they are the nearest
    ones, and it is that of the weights. `step` is called after each part of the work.
    """

    probed = PROBED

    def __init__(
        self,
        made: Exported,
        options: SlimOptions,
        calibration: Mapping[str, np.ndarray],
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self.start, self.drop_names = made.path.read_bytes(), options.drop_names
        known = kernels_of(as_objects(self.start), float_constants(made.start)).known
        self.kernels = [kernel for kernel in known if kernel.exact]
        self.rounded: dict[tuple[int, float], Rounded] = {}
        moments: dict[str, Moments] = {}
        if options.reconstructs:
            moments = moments_of(FloatStart.of(made, ()), self.kernels, calibration, step)
        self.grids = []
        for number, kernel in enumerate(self.kernels):
            self.grids.append(self._grids(number, kernel, moments.pop(kernel.name, None)))
            step()

    def _grids(self, number: int, kernel: Kernel, moments: Moments | None) -> list[Grid]:
        """The grids of a kernel, finest first; of those that may be taken the numbers are kept."""
        tried = {floor: reconstructed(kernel, floored(kernel, floor), moments) for floor in FLOORS if moments}
        grids = [_grid(kernel, floor, tried.get(floor), moments) for floor in FLOORS]
        wanted = {*on_hull(grids), PROBED}
        self.rounded.update({(number, floor): rounded for floor, rounded in tried.items() if floor in wanted})
        return grids

    def content(self, chosen: Mapping[int, float]) -> bytes:
        """The file with a choice for some kernels, and the finest one for all others."""
        model = as_objects(self.start)
        for number, kernel in enumerate(self.kernels):
            floor = chosen.get(number, FLOORS[0])
            rounded = self.rounded.get((number, floor))
            if rounded is not None or number in chosen:
                requantize(model, kernel, floored(kernel, floor), rounded=rounded)
        content = file_bytes(model)
        return without_names(content) if self.drop_names else content

    def run(self, chosen: Mapping[int, float], inputs: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """The outputs of that file."""
        return run_content(self.content(chosen), inputs)

    def inner(self, chosen: Mapping[int, float], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same from before a softmax or sigmoid, where differences are not squeezed."""
        return run_content(_tapped(self.content(chosen)), inputs)

    def download_bytes(self, chosen: Mapping[int, float]) -> int:
        """Bytes of that file's deflate stream."""
        return CODECS[BASE_CODEC].compressed_bytes(self.content(chosen))


def floored(kernel: Kernel, floor: float) -> np.ndarray:
    """The slim scales of a kernel on a grid, as far as runtimes take them."""
    own = round_up(kernel.scales)
    least = min(floor * float(kernel.scales.max()), kernel.largest / 2)
    return np.maximum(own, round_up(np.array([least], np.float32))) if least > 0 else own


def _grid(kernel: Kernel, floor: float, rounded: Rounded | None, moments: Moments | None) -> Grid:
    scales = floored(kernel, floor)
    stored = levels(kernel, scales) if rounded is None else rounded.stored
    if rounded is None or moments is None:
        error = float(np.square(kernel.values - stored * kernel.by_channel(scales)).sum())
    else:
        error = float(output_error(kernel, rounded, scales, moments).sum())
    units = [bias.unit * scales for bias in kernel.biases]
    return Grid(choice=floor, stream_bytes=deflated(stored, scales, *units), error=error)


def _tapped(content: bytes) -> bytes:
    """The file with outputs from before a softmax or sigmoid, where differences are not squeezed."""
    model = as_objects(content)
    graph, kinds = model.subgraphs[0], operator_kinds(model)
    made_by = {int(n): op for op in graph.operators for n in op.outputs if kinds[op.opcodeIndex] in _ENDINGS}
    before: dict[int, int] = {}  # output -> the tensor that stands for it
    for number in map(int, graph.outputs):
        at = number
        while at in made_by and len(scales_of(graph.tensors[made_by[at].inputs[0]])):
            at = int(made_by[at].inputs[0])
        before[number] = at
    if len(set(before.values())) < len(before):
        return content
    return with_outputs(model, before)

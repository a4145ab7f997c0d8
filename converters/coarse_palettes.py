"""The constants of a Core ML package as layers that may have tables of fewer values.

A choice is the number of values in a table (`palettes`); the finest one is float16 without a table. Trials run in the
reference evaluator on the program with other constants, so that no package is written for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edgeprune.artifact import files_of
from edgeprune.checker.size.codecs import BASE_CODEC, CODECS
from edgeprune.converters.evaluator.arguments import UnknownOperationError
from edgeprune.converters.grids import Grid, deflated, on_hull
from edgeprune.converters.palettes import indexes, stored_bits, table_of
from edgeprune.converters.pictures import pixels_of
from edgeprune.converters.session import Exported
from edgeprune.errors import Unsupported
from edgeprune.formats.coreml.mil import Block, Constant, Package
from edgeprune.formats.coreml.storage import constants_of
from edgeprune.formats.elements import pack_bits
from edgeprune.formats.metadata import ImageInput
from edgeprune.maker.training.data.columns import Column

__all__ = ["CoarsePalettes", "package_bytes"]

PLAIN = float(1 << 16)  # the choice of no table
COUNTS = (256, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
PROBED = 16.0  # the table of a trial
SMALLEST = 64  # numbers: of fewer a table costs more than it saves
_ENDINGS = frozenset({"cast", "identity", "sigmoid", "softmax"})  # what squeezes differences of the outputs


class CoarsePalettes:
    """Those of a float16 package; tables have up to 2^`bits` values. `image` is its image input."""

    probed = PROBED

    def __init__(
        self, made: Exported, bits: int, image: ImageInput | None, step: Callable[[], None] = lambda: None
    ) -> None:
        assert made.contents.package is not None
        self.package, self.image = made.contents.package, image
        assert self.package.program is not None
        known = constants_of(self.package)
        consts = {op.outputs[0].name for op in self.package.program.operations if op.kind == "const"}
        arrays = {name: values for name, values in known.items() if name in consts and isinstance(values, np.ndarray)}
        self.arrays = {name: a for name, a in arrays.items() if a.dtype == np.float16 and a.size > SMALLEST}
        self.names = list(self.arrays)
        self.known_tables: dict[tuple[int, float], np.ndarray] = {}
        self.grids = []
        for number in range(len(self.names)):
            self.grids.append(self._grids(number, [n for n in COUNTS if n <= 1 << bits]))
            step()
        self.rest_bytes = package_bytes(made) - sum(grids[0].stream_bytes for grids in self.grids)

    def _grids(self, number: int, counts: list[int]) -> list[Grid]:
        """The choices of a constant, finest first; tables of those that may be taken are kept."""
        values = self.arrays[self.names[number]]
        grids = [Grid(choice=PLAIN, stream_bytes=deflated(values), error=0.0)]
        tables = {}
        for count in counts:
            table = tables[float(count)] = table_of(values, count)
            places = indexes(values, table)
            packed = pack_bits(places.reshape(-1), stored_bits(table))
            error = float(np.square(table[places].astype(np.float64) - values).sum())
            grids.append(Grid(choice=float(count), stream_bytes=deflated(packed, table), error=error))
        wanted = {*on_hull(grids), PROBED, float(counts[-1])}
        self.known_tables.update({(number, count): table for count, table in tables.items() if count in wanted})
        return grids

    def tables(self, chosen: Mapping[int, float]) -> dict[str, np.ndarray]:
        """The table of each constant that has one, by name."""
        return {self.names[n]: self.known_tables[n, count] for n, count in chosen.items() if count != PLAIN}

    def run(self, chosen: Mapping[int, float], inputs: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """The outputs of the package with these choices."""
        return self._outputs(self._with_tables(chosen), inputs)

    def inner(self, chosen: Mapping[int, float], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same from before a softmax or sigmoid, where differences are not squeezed."""
        return self._outputs(_tapped(self._with_tables(chosen)), inputs)

    def download_bytes(self, chosen: Mapping[int, float]) -> int:
        """Bytes of the package as deflate stores it, estimated: each constant as a stream of its own."""
        sizes = [{grid.choice: grid.stream_bytes for grid in grids} for grids in self.grids]
        return self.rest_bytes + sum(known[chosen.get(number, PLAIN)] for number, known in enumerate(sizes))

    def correct(self, chosen: Mapping[int, float], written: Exported) -> None:
        """Let the estimate be right for a package that was written."""
        self.rest_bytes += package_bytes(written) - self.download_bytes(chosen)

    def _outputs(self, package: Package, inputs: Mapping[str, Column]) -> dict[str, np.ndarray]:
        given = {name: np.asarray(values[:]) for name, values in inputs.items()}
        if self.image is not None:
            given[self.image.name] = pixels_of(given[self.image.name], self.image)
        from edgeprune.converters.evaluator.program import Evaluator

        try:
            return Evaluator(package).run(given)
        except UnknownOperationError as cause:
            raise Unsupported(
                f"tables by what they cost: op {cause} is not known to the evaluator; leave out --spend and "
                "--download-target"
            ) from cause

    def _with_tables(self, chosen: Mapping[int, float]) -> Package:
        """The package with the constants that the choices come to."""
        program, tables = self.package.program, self.tables(chosen)
        assert program is not None
        made = []
        for op in program.operations:
            name = op.outputs[0].name if op.outputs else ""
            if op.kind == "const" and name in tables:
                values = tables[name][indexes(self.arrays[name], tables[name])]
                told = op.attributes["val"]
                coarse = Constant(dtype=told.dtype, shape=told.shape, values=values)
                op = replace(op, attributes={**op.attributes, "val": coarse})
            made.append(op)
        return replace(self.package, program=replace(program, operations=tuple(made)))


def package_bytes(made: Exported) -> int:
    """Bytes of a package, each file as deflate stores it."""
    return sum(CODECS[BASE_CODEC].compressed_bytes(file.read_bytes()) for file in files_of(made.path))


def _tapped(package: Package) -> Package:
    """A package whose outputs are what comes before a softmax or sigmoid; itself where two would be one."""
    program = package.program
    assert program is not None
    makers = {port.name: op for op in program.operations for port in op.outputs}
    found = []
    for name in program.outputs:
        at = name
        while at in makers and makers[at].kind in _ENDINGS and isinstance(makers[at].inputs["x"][0], str):
            at = str(makers[at].inputs["x"][0])
        found.append(at)
    if len(set(found)) < len(found) or package.predicted:
        return package
    inner = Block(inputs=program.inputs, outputs=tuple(found), operations=program.operations)
    return replace(package, outputs=(), program=inner)

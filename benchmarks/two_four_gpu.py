"""2:4 against dense products on an NVIDIA GPU (Ampere or later): python two_four_gpu.py -o table.toml

PyTorch only, one file, a few minutes. The shapes are those of ResNet-50's 1x1 convolutions and its dense layer, or of a
model of yours: --estimate takes what `edgeprune estimate MODEL --target tensorrt-sparse-ampere --json` prints. Each
product is computed dense and with torch.sparse.to_sparse_semi_structured (float16, int8; batch 1 to 256), compared in
numbers, and timed by CUDA events. The table is what `edgeprune estimate --measured` reads: ratios of cuSPARSELt's or
CUTLASS's products, not of TensorRT's. Without a GPU: one line and exit code 3.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

BATCHES = (1, 4, 16, 64, 256)
DTYPES = ("float16", "int8")
# (rows, columns) of the weights are multiples of these (torch/sparse/semi_structured.py, for CUTLASS; cuSPARSELt takes
# as much), and the activations' columns are padded to a multiple of 16.
MULTIPLES = {"float16": (32, 64), "int8": (32, 128)}
PAD = 16
MOST_COLUMNS = 1 << 20  # 256 pictures of 64 x 64
WARM_UPS, REPEATS, INNER = 5, 15, 10
TOLERANCE = 1e-2  # of the largest output, float16


class WrongProductError(ArithmeticError):
    """A sparse product that is not the dense one."""


class Shape(NamedTuple):
    """Weights (outputs, inputs) by activations (inputs, columns); the columns of one inference."""

    outputs: int
    inputs: int
    columns: int


class Row(NamedTuple):
    """One product, microseconds as medians."""

    dtype: str
    outputs: int
    inputs: int
    columns: int
    dense_us: float
    sparse_us: float
    error: float


def resnet50() -> list[Shape]:
    """The 1x1 convolutions and the dense layer of ResNet-50 at 224 x 224 (He et al. 2015), each shape once."""
    shapes, into = [], 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        pixels = (56 >> stage) ** 2
        for block in range(blocks):
            shapes += [Shape(width, into, pixels), Shape(4 * width, width, pixels)]
            if not block:
                shapes.append(Shape(4 * width, into, pixels))
            into = 4 * width
    return list(dict.fromkeys([*shapes, Shape(1000, into, 1)]))


def shapes_of(estimate: str) -> list[Shape]:
    """The shapes in the JSON of `edgeprune estimate`. Raises ValueError where it tells none."""
    try:
        found = json.loads(estimate)["placement"]["gain"]["shapes"]
        shapes = [Shape(int(row["outputs"]), int(row["inputs"]), int(row["columns"])) for row in found]
    except (KeyError, TypeError, ValueError) as cause:
        raise ValueError("not what 'edgeprune estimate --target tensorrt-sparse-ampere --json' prints") from cause
    if not shapes:
        raise ValueError("no product in that model can be sparse")
    return shapes


def products(shapes: Sequence[Shape], batches: Sequence[int], dtype: str) -> Iterator[Shape]:
    """Those that the sparse kernels take, for each batch, each once: padded columns, aligned weights."""
    rows, columns = MULTIPLES[dtype]
    seen = set()
    for shape in shapes:
        for batch in batches:
            wanted = -(-shape.columns * batch // PAD) * PAD
            made = Shape(shape.outputs, shape.inputs, wanted)
            if shape.outputs % rows or shape.inputs % columns or wanted > MOST_COLUMNS or made in seen:
                continue
            seen.add(made)
            yield made


def to_toml(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """The table that `edgeprune estimate --measured` reads."""
    lines = ["# Written by benchmarks/two_four_gpu.py", "schema = 1"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in facts.items()]
    for row in rows:
        lines += ["", "[[rows]]"]
        lines += [f"{name} = {_number(value)}" for name, value in row._asdict().items()]
    return "\n".join(lines) + "\n"


def _number(value: str | float) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    return str(value) if isinstance(value, int) else f"{value:.6f}"


def to_text(rows: Sequence[Row]) -> str:
    """For people."""
    lines = ["dtype     outputs  inputs  columns  dense us  sparse us  ratio"]
    for row in rows:
        ratio = row.dense_us / row.sparse_us
        lines.append(
            f"{row.dtype:8} {row.outputs:8} {row.inputs:7} {row.columns:8} {row.dense_us:9.1f} {row.sparse_us:10.1f} "
            f"{ratio:6.2f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: written. 2: wrong arguments. 3: no GPU that computes 2:4, or a product that is wrong."""
    parser = argparse.ArgumentParser(description="2:4 against dense products on an NVIDIA GPU")
    parser.add_argument("-o", "--output", type=Path, help="the table, a .toml file")
    parser.add_argument("--estimate", type=Path, help="JSON of 'edgeprune estimate --target tensorrt-sparse-ampere'")
    options = parser.parse_args(arguments)
    try:
        shapes = shapes_of(options.estimate.read_text()) if options.estimate else resnet50()
    except (OSError, ValueError) as cause:
        print(f"{options.estimate}: {cause}", file=sys.stderr)
        return 2
    refusal = no_gpu()
    if refusal:
        print(refusal, file=sys.stderr)
        return 3
    try:
        rows = [row for dtype in DTYPES for row in measured(shapes, dtype)]
    except WrongProductError as cause:
        print(cause, file=sys.stderr)
        return 3
    if not rows:
        print("no product was measured: none has weights of a shape that the sparse kernels take", file=sys.stderr)
        return 3
    print(to_text(rows))
    if options.output:
        options.output.write_text(to_toml(rows, facts_of_host()))
    return 0


# --- on the GPU ------------------------------------------------------------------------------------------------------


def no_gpu() -> str:
    """Why nothing can be measured here, in one line; "" where it can."""
    try:
        import torch
    except ImportError:
        return "no PyTorch here: pip install torch, on a machine with an NVIDIA GPU of Ampere or later"
    if not torch.cuda.is_available():
        return "no NVIDIA GPU here (torch.cuda.is_available() is False): nothing was measured"
    if torch.cuda.get_device_capability() < (8, 0):
        return (
            f"{torch.cuda.get_device_name()} has no sparse tensor cores (compute capability 8.0): nothing was measured"
        )
    return ""


def facts_of_host() -> dict[str, str]:
    """Card, versions, date."""
    import torch

    sparse = getattr(torch.backends, "cusparselt", None)  # since PyTorch 2.3
    return {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cusparselt": str(sparse.version()) if sparse and sparse.is_available() else "none",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def measured(shapes: Sequence[Shape], dtype: str) -> Iterator[Row]:
    """Each product that can be computed; a product that the library refuses is told and left out.

    Raises WrongProductError where the sparse product is not the dense one: a wrong kernel's time is worth nothing.
    """
    for number, shape in enumerate(wanted := list(products(shapes, BATCHES, dtype)), start=1):
        print(f"{dtype} {number}/{len(wanted)} {shape}", end="\r", file=sys.stderr)
        try:
            row = _measure(shape, dtype)
        except (RuntimeError, NotImplementedError) as cause:
            print(f"{dtype} {shape}: left out: {str(cause).splitlines()[0][:100]}", file=sys.stderr)
            continue
        if row.error > TOLERANCE:
            raise WrongProductError(
                f"{dtype} {shape}: sparse and dense differ by {row.error:.3g} of the largest output"
            )
        yield row


def _measure(shape: Shape, dtype: str) -> Row:
    """Weights with two zeros in each four, the same in both; the activations are (columns, inputs), used transposed."""
    import torch
    from torch.sparse import to_sparse_semi_structured

    generator = torch.Generator(device="cuda").manual_seed(0)
    size, place = (shape.outputs, shape.inputs), {"device": "cuda", "generator": generator}
    if dtype == "int8":
        weights = torch.randint(-8, 8, size, dtype=torch.int8, **place)
        inputs = torch.randint(-8, 8, (shape.columns, shape.inputs), dtype=torch.int8, **place)
    else:
        weights = torch.randn(size, **place).half()
        inputs = torch.randn((shape.columns, shape.inputs), **place).half()
    weights[:, 2::4] = 0
    weights[:, 3::4] = 0
    sparse, activations = to_sparse_semi_structured(weights), inputs.t()
    # torch._int_mm asks for more than 16 rows of its first operand and a second one by columns.
    dense = (lambda: torch._int_mm(weights, activations)) if dtype == "int8" else (lambda: weights @ activations)
    return Row(
        dtype,
        *shape,
        dense_us=_median_us(dense),
        sparse_us=_median_us(lambda: torch.mm(sparse, activations)),
        error=_difference(dense(), torch.mm(sparse, activations), dtype),
    )


def _difference(dense: Any, sparse: Any, dtype: str) -> float:
    """Of the largest output. The int8 product of cuSPARSELt may come as int8: then those that fit are compared."""
    import torch

    reference, found = dense.double(), sparse.double()
    if dtype == "int8" and sparse.dtype == torch.int8:
        fits = reference.abs() <= 127
        reference, found = reference[fits], found[fits]
    if not reference.numel():
        return 0.0
    return float((reference - found).abs().max() / reference.abs().max().clamp(min=1e-12))


def _median_us(run: Callable[[], Any]) -> float:
    """The median of several runs of several calls, by CUDA events."""
    import torch

    for _ in range(WARM_UPS):
        run()
    times = []
    for _ in range(REPEATS):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        for _ in range(INNER):
            run()
        ended.record()
        torch.cuda.synchronize()
        times.append(1000 * begun.elapsed_time(ended) / INNER)
    return statistics.median(times)


if __name__ == "__main__":
    raise SystemExit(main())

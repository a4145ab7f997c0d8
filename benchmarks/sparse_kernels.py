"""Which networks of keras.applications XNNPACK can run with sparse kernels, by which rewrites, what stops the others.

Each is built with random weights and statistics at its usual size, converted once (kept in FOLDER), pruned to 80 % and
made a file for sparse kernels by `edgeprune variant`; models of more than LARGE pixels are proved on 2 samples. With
--structure nothing is converted: the first convolution and the kernels of the others are told, of models whose weights
are never made, which is enough to rule out a larger member of a family. With --arm the executed Arm64 instructions are
counted of the pruned file stored dense and of the sparse one (prepare the emulated system first). With --speed the CPU
time of a variant is held against that of converting the same model again in the same run. Target: the edit costs at
most 1/50 of what `edgeprune convert` does. With --spread zeros are spread over the layers in several ways, 80 % of all
weights each time, and instructions counted.

    python benchmarks/sparse_kernels.py [FOLDER] [--structure] [--arm] [--speed] [--spread] [MODEL ...]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from applications import with_statistics
from conversion_overhead import COMMAND, seconds

MODELS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *(f"EfficientNetB{size}" for size in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *("NASNetMobile", "NASNetLarge", "Xception", "InceptionV3", "InceptionResNetV2"),
    *("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    *("DenseNet121", "DenseNet169", "DenseNet201", "VGG16", "VGG19"),
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
)
LARGE = 300  # pixels
SPARSITY = 0.8


def built(name: str) -> Any:
    return with_statistics(plain(name))


def plain(name: str) -> Any:
    from edgeprune.maker.keras.models import keras_module

    more = {"input_shape": (224, 224, 3)} if name.startswith("MobileNetV3") else {}
    return getattr(keras_module().applications, name)(weights=None, **more)


def structure(name: str) -> str:
    """The first convolution, and the kernels of the others with how many there are."""
    from edgeprune.maker.keras.models import keras_module

    with keras_module().StatelessScope(initialize_variables=False):  # variables get no values
        layers = [layer for layer in plain(name)._flatten_layers() if hasattr(layer, "kernel_size")]
    found = [(type(layer).__name__, *layer.kernel_size, layer.strides[0]) for layer in layers]
    kind, height, width, stride = found[0]
    inside = Counter(f"{kind} {height}x{width}" for kind, height, width, _ in found[1:])
    told = ", ".join(f"{count} {words}" for words, count in sorted(inside.items()))
    return f"| {name} | {kind} {height}x{width} of stride {stride} | {told} |"


def converted(name: str, folder: Path) -> Path:
    """The dense float32 file, which is made where it is not there yet."""
    from edgeprune.artifact import Format, Precision
    from edgeprune.converters.session import Converter

    path = folder / f"{name}.tflite"
    if not path.exists():
        with Converter() as converter:
            converter.export(built(name), path, Format.TFLITE, Precision.FLOAT32)
    return path


def row(name: str, folder: Path, *, arm: bool) -> str:
    from edgeprune.checker.sparse_kernels.ineligible import IneligibleError
    from edgeprune.checker.sparse_kernels.options import SparseOptions
    from edgeprune.checker.sparse_kernels.proof import random_inputs
    from edgeprune.converters.variants import VariantOptions, variant
    from edgeprune.formats import read_graph
    from edgeprune.maker.training.data.samples import Samples

    dense = converted(name, folder)
    graph = read_graph(dense)
    few = None
    if graph.tensors[graph.inputs[0]].shape[1] > LARGE:
        few = Samples(path=Path("random"), inputs=random_inputs(graph, samples=2), targets=None)
    pruned, sparse = folder / f"{name}.pruned.tflite", folder / f"{name}.sparse.tflite"
    try:
        asked = VariantOptions(sparsity=SPARSITY, sparse=SparseOptions())
        made = variant(dense, sparse, asked, samples=few, overwrite=True)
    except IneligibleError as error:
        return f"| {name} | no | {error.found} (condition {error.rule}) |"
    assert made.sparse_kernels is not None
    rewrites = ", ".join(f"{item.name} ({len(item.layers)})" for item in made.sparse_kernels.rewrites)
    told = f"| {name} | yes | {rewrites} | {made.sparse_kernels.difference:.1e} |"
    if arm:
        variant(dense, pruned, VariantOptions(sparsity=SPARSITY), overwrite=True)
        told += f" {counted(pruned, sparse)} |"
    return told


def counted(pruned: Path, sparse: Path) -> str:
    from edgeprune.checker.arm.cpus import arm_root, find_cpu
    from edgeprune.checker.arm.emulation import count_instructions

    counts = [count_instructions(path, cpu=find_cpu("cortex-a76"), root=arm_root()) for path in (pruned, sparse)]
    dense, thin = (found.instructions for found in counts)
    return f"{dense / 1e6:.1f} M -> {thin / 1e6:.1f} M, {dense / thin:.2f} times fewer"


def cpu_seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def speed(name: str, folder: Path) -> None:
    """A variant against a conversion: the work itself, and the commands with all their checks."""
    from edgeprune.artifact import Precision
    from edgeprune.checker.sparse_kernels.options import Prefer
    from edgeprune.checker.sparse_kernels.rewrites import make_eligible
    from edgeprune.checker.sparse_kernels.sparse_file import float_graph
    from edgeprune.checker.sparse_kernels.storage import store_weights
    from edgeprune.converters.frozen import freeze
    from edgeprune.converters.tflite import convert_tflite
    from edgeprune.converters.variants import prune_graph

    dense, model = converted(name, folder), built(name)
    content = dense.read_bytes()

    def edit() -> bytes:
        graph = float_graph(dense, content)
        prune_graph(graph, SPARSITY)
        make_eligible(graph)
        kernel = next(graph.reads(op)[1] for op in graph.ops if graph.kind(op) == "CONV_2D")
        store_weights(graph, Precision.FLOAT32, sparse=True, prefer=Prefer.DOWNLOAD, hint=kernel)
        return graph.content()

    def convert() -> bytes:
        return convert_tflite(freeze(model, folder / "graph.pb"), precision="float32").content

    for work in (convert, edit):  # the first of a process also loads what it needs
        work()
    made, edited = min(cpu_seconds(convert) for _ in range(2)), min(cpu_seconds(edit) for _ in range(5))
    print(f"{name}: edit {edited:.3f} CPU s, converter alone and warm {made:.2f}: 1/{made / edited:.0f}", flush=True)
    keras_file, out = folder / f"{name}.keras", folder / "speed.tflite"
    model.save(keras_file)
    whole, _ = seconds(COMMAND, "convert", keras_file, "--to", "tflite", "-o", out, "--overwrite", "-q")
    options = ("--sparsity", SPARSITY, "--sparse-kernels", "-o", out, "--overwrite", "-q")
    part, _ = seconds(COMMAND, "variant", dense, *options)
    print(f"edgeprune convert {whole:.1f} CPU s: the edit is 1/{whole / edited:.0f} of it")
    print(f"edgeprune variant {part:.1f} CPU s, 64 samples on two files among them: 1/{whole / part:.1f}")


def spread(name: str, folder: Path) -> None:
    """Instructions at 80 % zeros overall: what a layer keeps is in proportion to its weight in each of SPREADS."""
    import numpy as np

    from edgeprune.artifact import Precision
    from edgeprune.checker.arm.cpus import arm_root, find_cpu
    from edgeprune.checker.arm.emulation import count_instructions
    from edgeprune.checker.sparse_kernels.options import SparseOptions
    from edgeprune.checker.sparse_kernels.sparse_file import float_graph, with_sparse_kernels
    from edgeprune.maker.pruning.magnitude import keep_largest

    dense = converted(name, folder)
    for words, weigh in SPREADS.items():
        graph = float_graph(dense, dense.read_bytes())
        ops = [op for op in graph.ops if graph.kind(op) in ("CONV_2D", "FULLY_CONNECTED")][1:]
        kernels = [graph.floats(graph.reads(op)[1]) for op in ops]
        positions = [int(np.prod(graph.shape(graph.writes(op)[0])[1:-1])) for op in ops]
        shares = np.array([weigh(k.shape, n) for k, n in zip(kernels, positions, strict=True)])
        sizes = np.array([kernel.size for kernel in kernels])
        kept = _shares_kept(shares, sizes, 1 - SPARSITY)
        for op, kernel, share in zip(ops, kernels, kept, strict=True):
            values = np.where(keep_largest(kernel, 1 - share), kernel, 0)
            graph.set_read(op, 1, graph.add_constant(graph.name(graph.reads(op)[1]) + "/thin", values))
        path = folder / f"{name}.spread.tflite"
        path.write_bytes(with_sparse_kernels(path, graph.content(), SparseOptions(precision=Precision.FLOAT32)).content)
        macs = sizes * positions
        found = count_instructions(path, cpu=find_cpu("cortex-a76"), root=arm_root()).instructions
        print(
            f"| {words} | {1 - (kept * sizes).sum() / sizes.sum():.1%} | {1 - (kept * macs).sum() / macs.sum():.1%} | "
            f"{1 - kept[-1]:.0%} | {found / 1e6:.1f} M |",
            flush=True,
        )


def _shares_kept(shares: Any, sizes: Any, whole: float) -> Any:
    """What each layer keeps, at most all of it, so that `whole` of all weights stay."""
    import numpy as np

    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        if (np.minimum(1, shares * middle) * sizes).sum() > whole * sizes.sum():
            high = middle
        else:
            low = middle
    return np.minimum(1, shares * low)


# Words -> what a layer keeps, for its kernel's shape (outputs first) and its number of positions.
SPREADS: dict[str, Callable[[Any, int], float]] = {
    "the same share of each layer": lambda _shape, _positions: 1.0,
    "1x1 convolutions half of what the classifier keeps": lambda shape, _positions: 1.0 if len(shape) == 4 else 2.0,
    "Erdos-Renyi (RigL, arXiv:1911.11134)": lambda shape, _positions: (shape[0] + shape[-1]) / (shape[0] * shape[-1]),
    "less of large maps: by positions to the power of -1/4": lambda _shape, positions: positions**-0.25,
}


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    folder, names = Path(words[0] if words else "build/sparse-kernels"), words[1:] or list(MODELS)
    folder.mkdir(parents=True, exist_ok=True)
    if "--speed" in sys.argv:
        for name in names:
            speed(name, folder)
        return
    if "--spread" in sys.argv:
        for name in names:
            spread(name, folder)
        return
    for name in names:
        print(structure(name) if "--structure" in sys.argv else row(name, folder, arm="--arm" in sys.argv), flush=True)


if __name__ == "__main__":
    main()

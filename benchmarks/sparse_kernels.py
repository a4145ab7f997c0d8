"""Which networks of keras.applications XNNPACK can run with sparse kernels, by which rewrites, what stops the others.

Each is built with random weights and statistics at its usual size, converted once (kept in FOLDER), pruned to 80 % and
made a file for sparse kernels by `edgeprune variant`. With --arm the executed Arm64 instructions are counted of the
pruned file stored dense and of the sparse one (prepare the emulated system first). With --speed the CPU time of a
variant is held against that of converting the same model again in the same run. Target: the edit costs at most 1/50 of
what `edgeprune convert` does.

    python benchmarks/sparse_kernels.py FOLDER [--arm] [--speed] [MODEL ...]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from applications import with_statistics

MODELS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0", "EfficientNetB3"),
    *("EfficientNetV2B0", "NASNetMobile", "ResNet50", "DenseNet121", "Xception", "InceptionV3"),
)
SPARSITY = 0.8


def built(name: str) -> Any:
    from edgeprune.maker.keras.models import keras_module

    keras = keras_module()
    more = {"input_shape": (224, 224, 3)} if name.startswith("MobileNetV3") else {}
    return with_statistics(getattr(keras.applications, name)(weights=None, **more))


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
    from edgeprune.converters.variants import VariantOptions, variant

    dense = converted(name, folder)
    pruned, sparse = folder / f"{name}.pruned.tflite", folder / f"{name}.sparse.tflite"
    try:
        made = variant(dense, sparse, VariantOptions(sparsity=SPARSITY, sparse=SparseOptions()), overwrite=True)
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


def children_seconds(*arguments: object) -> float:
    """CPU time of a command and of all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "edgeprune", *map(str, arguments)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
    whole = children_seconds("convert", keras_file, "--to", "tflite", "-o", out, "--overwrite", "-q")
    options = ("--sparsity", SPARSITY, "--sparse-kernels", "-o", out, "--overwrite", "-q")
    part = children_seconds("variant", dense, *options)
    print(f"edgeprune convert {whole:.1f} CPU s: the edit is 1/{whole / edited:.0f} of it")
    print(f"edgeprune variant {part:.1f} CPU s, most of it 64 samples on two runtimes: 1/{whole / part:.1f}")


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    folder, names = Path(words[0]), words[1:] or list(MODELS)
    folder.mkdir(parents=True, exist_ok=True)
    if "--speed" in sys.argv:
        for name in names:
            speed(name, folder)
        return
    for name in names:
        print(row(name, folder, arm="--arm" in sys.argv), flush=True)


if __name__ == "__main__":
    main()

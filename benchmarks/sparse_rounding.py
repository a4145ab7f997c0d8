"""How far a file for sparse kernels may be from the file that it was made of: rounding, measured on photos.

A Keras model (MobileNetV1 0.25 with its ImageNet weights, say) is pruned to 80 %, converted, and made a file for sparse
kernels by `edgeprune variant`. Both files run over the same 64 photos on every runtime here and on those of other
environments (their interpreters' paths behind --python), and both graphs are computed in float64 by TensorFlow, which
gives the exact answer. Distances are the largest difference of an output as a share of the largest number. Target: both
graphs are the same in float64, and the sparse file is as near to the exact answer as other runtimes of the dense one.

    python benchmarks/sparse_rounding.py FOLDER MODEL.keras PHOTOS [--python PYTHON ...]

PHOTOS is a folder of .jpg files; pixels become -1 to 1.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES, SPARSITY = 64, 0.8
# Run by another Python, which need not have edgeprune: FILE INPUTS.npy OUTPUTS.npy; prints the runtime.
FOREIGN = """
import sys, importlib.metadata, numpy
from ai_edge_litert.interpreter import Interpreter
file, inputs, outputs = sys.argv[1:]
made = Interpreter(file, num_threads=1)
made.allocate_tensors()
begin, end = made.get_input_details()[0]["index"], made.get_output_details()[0]["index"]
found = []
for row in numpy.load(inputs):
    made.set_tensor(begin, row[None])
    made.invoke()
    found.append(made.get_tensor(end)[0].copy())
numpy.save(outputs, numpy.stack(found))
print("litert", importlib.metadata.version("ai-edge-litert"))
"""


def photos(folder: Path, size: int) -> np.ndarray:
    """float32 [SAMPLES, size, size, 3], evenly taken from the sorted files."""
    import tensorflow as tf

    files = sorted(folder.glob("*.jpg"))
    chosen = [files[place * len(files) // SAMPLES] for place in range(SAMPLES)]
    decoded = [tf.image.resize(tf.io.decode_jpeg(file.read_bytes(), channels=3), (size, size)) for file in chosen]
    return np.stack([image.numpy() for image in decoded]).astype(np.float32) / np.float32(127.5) - np.float32(1)


def exact(path: Path, x: np.ndarray) -> np.ndarray:
    """The output of a float graph of these few operations, in float64."""
    import tensorflow as tf

    from edgeprune.checker.sparse_kernels.sparse_file import float_graph

    graph = float_graph(path, path.read_bytes())
    known: dict[int, Any] = {graph.inputs[0]: tf.constant(x, tf.float64)}
    batch = len(x)

    def value(index: int) -> Any:
        if index not in known:
            stored = graph.values(index)
            assert stored is not None, graph.name(index)
            known[index] = tf.constant(stored.astype(np.float64) if stored.dtype.kind == "f" else stored)
        return known[index]

    for op in graph.ops:
        kind, options = graph.kind(op), op.builtinOptions
        inputs = [value(index) for index in graph.reads(op) if index >= 0]
        made = OPERATIONS[kind](tf, inputs, options, (batch, *graph.shape(graph.writes(op)[0])[1:]))
        acts = {0: lambda y: y, 1: tf.nn.relu, 3: tf.nn.relu6}
        known[graph.writes(op)[0]] = acts[getattr(options, "fusedActivationFunction", 0)](made)
    found: np.ndarray = known[graph.outputs[0]].numpy()
    return found


def _convolution(tf: Any, inputs: list[Any], options: Any, _: Any) -> Any:
    padding = "SAME" if options.padding == 0 else "VALID"
    return tf.nn.conv2d(inputs[0], tf.transpose(inputs[1], (1, 2, 3, 0)), options.strideH, padding) + inputs[2]


def _depthwise(tf: Any, inputs: list[Any], options: Any, _: Any) -> Any:
    padding, strides = "SAME" if options.padding == 0 else "VALID", (1, options.strideH, options.strideW, 1)
    kernel = tf.transpose(inputs[1], (1, 2, 3, 0))
    return tf.nn.depthwise_conv2d(inputs[0], kernel, strides, padding) + inputs[2]


OPERATIONS: dict[str, Callable[[Any, list[Any], Any, Any], Any]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": lambda tf, inputs, *_: tf.linalg.matmul(inputs[0], inputs[1], transpose_b=True) + inputs[2],
    "PAD": lambda tf, inputs, *_: tf.pad(inputs[0], inputs[1]),
    "ADD": lambda _, inputs, *__: inputs[0] + inputs[1],
    "MEAN": lambda tf, inputs, options, _: tf.reduce_mean(inputs[0], inputs[1], keepdims=bool(options.keepDims)),
    "RESHAPE": lambda tf, inputs, _, shape: tf.reshape(inputs[0], shape),
    "SOFTMAX": lambda tf, inputs, *_: tf.nn.softmax(inputs[0]),
    "REVERSE_V2": lambda tf, inputs, *_: tf.reverse(inputs[0], inputs[1]),
}


def made(folder: Path, source: Path) -> tuple[Path, Path]:
    """(the pruned dense file, the sparse one)."""
    from edgeprune.artifact import Format, Precision
    from edgeprune.checker.sparse_kernels.options import SparseOptions
    from edgeprune.converters.session import Converter
    from edgeprune.converters.variants import VariantOptions, variant
    from edgeprune.maker.keras.model_files import load_convertible
    from edgeprune.maker.pruning.magnitude import prune_magnitude
    from edgeprune.maker.pruning.options import MagnitudeOptions

    dense, sparse = folder / "pruned.tflite", folder / "sparse.tflite"
    pruned = prune_magnitude(load_convertible(source), MagnitudeOptions(sparsity=SPARSITY, keep_first=True)).model
    dense.unlink(missing_ok=True)
    with Converter() as converter:
        converter.export(pruned, dense, Format.TFLITE, Precision.FLOAT32)
    variant(dense, sparse, VariantOptions(sparse=SparseOptions()), overwrite=True)
    return dense, sparse


def answers(path: Path, x: np.ndarray, pythons: list[str]) -> dict[str, np.ndarray]:
    """The output of a file on each runtime, with one and two threads, and with plain kernels."""
    from edgeprune.runtime.session import installed_runtimes, run_tflite, trace_tflite

    found = {}
    for name, version in installed_runtimes().items():
        for threads in (1, 2):
            outputs = run_tflite(path, {"x": x}, runtime=name, threads=threads).outputs
            found[f"{name} {version}, {threads} threads"] = next(iter(outputs.values()))
    last = trace_tflite(path, {"x": x}, runtime=name).tensors[-1].values  # of the newest
    assert last is not None
    found[f"{name} {version}, plain kernels"] = last
    places = path.parent / "inputs.npy", path.parent / "outputs.npy"
    np.save(places[0], x)
    for python in pythons:
        command = [python, "-c", FOREIGN, str(path), *map(str, places)]
        words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        found[f"{words}, 1 threads"] = np.load(places[1])
    return found


def distance(one: np.ndarray, other: np.ndarray) -> float:
    wide = one.astype(np.float64)
    return float(np.abs(wide - other.astype(np.float64).reshape(wide.shape)).max() / np.abs(wide).max())


def main() -> None:
    words, _, pythons = " ".join(sys.argv[1:]).partition(" --python ")
    if len(words.split()) < 3:
        print("not run: it needs a FOLDER, MODEL.keras and a folder of PHOTOS")
        return
    folder, source, pictures = map(Path, words.split())
    folder.mkdir(parents=True, exist_ok=True)
    dense, sparse = made(folder, source)
    from edgeprune.formats import read_graph

    graph = read_graph(dense)
    x = photos(pictures, graph.tensors[graph.inputs[0]].shape[1])
    truth, rewritten = exact(dense, x), exact(sparse, x)
    print(f"both graphs in float64: {distance(truth, rewritten):.1e} apart")
    found = {path: answers(path, x, pythons.split()) for path in (dense, sparse)}
    newest = next(runtime for runtime in reversed(found[dense]) if runtime.endswith("2 threads"))
    print(f"| runtime | dense from exact | sparse from exact | sparse from dense | dense from dense on {newest} |")
    for runtime, output in found[dense].items():
        thin = found[sparse][runtime]
        print(
            f"| {runtime} | {distance(truth, output):.1e} | {distance(truth, thin):.1e} | {distance(output, thin):.1e}"
            f" | {distance(found[dense][newest], output):.1e} |"
        )


if __name__ == "__main__":
    main()

"""Peak memory of `edgeprune check --fast` on large generated files (default 500 MB) of every format, against the file.

    python benchmarks/large_files.py [MB] [FORMAT...]

The bound: three times the file and 300 MB for the largest process (ru_maxrss).
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "zoo")]

import written_mil as mil  # noqa: E402 - found where the tests are
import written_network  # noqa: E402
import written_onnx  # noqa: E402
from wire import number, piece  # noqa: E402

COLUMNS = 1024
BOUND_TIMES, BOUND_MB = 3, 300


def numbers(megabytes: int) -> np.ndarray:
    """A kernel of random floats, a quarter of its rows zero."""
    rng = np.random.default_rng(1)
    rows = megabytes * 1_000_000 // (4 * COLUMNS)
    found = rng.standard_normal((rows, COLUMNS), np.float32)
    found[: rows // 4] = 0
    return found


def tflite(path: Path, kernel: np.ndarray) -> None:
    import tflite as schema
    import written_tflite as made

    rows, columns = kernel.shape
    graph = made.GraphSpec(
        tensors=(
            made.TensorSpec(shape=(1, columns)),
            made.TensorSpec(shape=(rows, columns), buffer=1, dtype=schema.TensorType.FLOAT32),
            made.TensorSpec(shape=(1, rows)),
        ),
        ops=(made.dense_op(),),
        outputs=(2,),
    )
    made.write(path, graph, buffers=(b"", kernel.tobytes()))


def h5(path: Path, kernel: np.ndarray) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "d1"
        group["0"], group["1"] = kernel, np.zeros(COLUMNS, np.float32)


def keras(path: Path, kernel: np.ndarray) -> None:
    import hostile_keras

    h5(path.with_suffix(".weights.h5"), kernel)
    small = hostile_keras.write_keras(path.with_suffix(".small"), hostile_keras.model_config())
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json"):
            archive.writestr(name, source.read(name))
        archive.write(path.with_suffix(".weights.h5"), "model.weights.h5")
    path.with_suffix(".weights.h5").unlink()


def onnx(path: Path, kernel: np.ndarray) -> None:
    made = written_onnx
    tensor = made.tensor("w", made.FLOAT, kernel.shape[::-1], made.raw(kernel.tobytes()))
    ends = [piece(11, made.value("x", 1, COLUMNS)), piece(12, made.value("y", 1, len(kernel)))]
    path.write_bytes(made.model(made.graph([made.node("MatMul", ["x", "w"], ["y"])], [tensor], *ends)))


def mlmodel(path: Path, kernel: np.ndarray) -> None:
    dense = written_network.dense(piece(1, kernel.tobytes()), COLUMNS, len(kernel))
    path.write_bytes(written_network.model(written_network.NETWORK, dense))


def mlpackage(path: Path, kernel: np.ndarray) -> None:
    import json

    inside = path / "Data/com.apple.CoreML"
    (inside / "weights").mkdir(parents=True)
    size = kernel.nbytes
    head = struct.pack("<IIQ", 1, 2, 0).ljust(64, b"\0") + struct.pack("<IIQQ", 0xDEADBEEF, 2, size, 128).ljust(
        64, b"\0"
    )
    with (inside / "weights/weight.bin").open("wb") as file:
        file.write(head)
        kernel.tofile(file)
    value = mil.in_file("@model_path/weights/weight.bin", 64)
    constant = mil.constant("w", mil.tensor_type(mil.FLOAT32, *kernel.shape), value)
    (inside / "model.mlmodel").write_bytes(number(1, 7) + mil.model(constant, outputs=["w"])[2:])
    item = {"author": "com.apple.CoreML", "description": "", "name": "model.mlmodel"}
    items = {"a": {**item, "path": "com.apple.CoreML/model.mlmodel"}, "b": {**item, "path": "com.apple.CoreML/weights"}}
    told = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": "a"}
    (path / "Manifest.json").write_text(json.dumps(told))


MAKERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    made.__name__: made for made in (tflite, keras, h5, onnx, mlmodel, mlpackage)
}


def main() -> None:
    """Make each file, check it, and tell the largest process of the check."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    kernel, worst = numbers(megabytes), 0.0
    for kind in sys.argv[2:] or MAKERS:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / f"large.{kind}"
            MAKERS[kind](path, kernel)
            size_mb = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file()) / 1e6
            peak_mb = peak(path)
        share = (peak_mb - BOUND_MB) / size_mb
        worst = max(worst, share)
        print(
            f"{kind:10} {size_mb:6.0f} MB: {peak_mb:6.0f} MB, {peak_mb / size_mb:.2f} times; {share:.2f} without 300 MB"
        )
    sys.exit(f"more than {BOUND_TIMES} times the file and {BOUND_MB} MB" if worst > BOUND_TIMES else 0)


def peak(path: Path) -> float:
    """MB of the largest process of a check, in a process of its own, as the maximum over all children stays."""
    script = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(code, *(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,))"
    )
    check = [sys.executable, "-P", "-m", "edgeprune", "check", "--show", "--fast", str(path)]
    told = subprocess.run([sys.executable, "-c", script, *check], capture_output=True, text=True, check=True).stdout
    code, kilobytes = map(int, told.split())
    if code:
        sys.exit(f"check of {path.name} ended with {code}")
    return kilobytes * 1024 / 1e6


if __name__ == "__main__":
    main()

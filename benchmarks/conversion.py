"""Every model builder of keras.applications to TFLite, Core ML and ONNX, each file run and compared with its model.

Each model is built with random weights and statistics at its smallest legal input. A column holds the largest error of
the logits over 2 random samples as a share of their range, or the reason why there is none. Targets: 1e-5 for all
float32 columns; float16 within 0.1 (its rounding adds up over hundreds of layers); int8 is right when its SQNR is
positive, random weights are no measure of its accuracy. A process of its own for each model keeps memory in bounds.

    python benchmarks/conversion.py [--only FORMAT] [MODEL ...]
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from applications import built

COLUMNS = (
    ("tflite", "float32"),
    ("tflite", "int8"),
    ("coreml", "float16"),
    ("coreml", "float32"),
    ("onnx", "float32"),
)
EXACT = 1e-5
Columns = tuple[tuple[str, str], ...]


def cells(name: str, columns: Columns) -> list[dict[str, Any]]:
    """One result for each column."""
    from edgeprune.artifact import Format, Precision
    from edgeprune.converters.evaluation import evaluate_file
    from edgeprune.converters.exports import SUFFIXES
    from edgeprune.converters.session import Converter
    from edgeprune.errors import EdgepruneError
    from edgeprune.maker.keras.models import input_specs, keras_module, predict
    from edgeprune.maker.training.data.samples import Samples

    model = built(keras_module(), name)
    specs = input_specs(model)
    rng = np.random.default_rng(1)
    images = {key: rng.uniform(0, 255, (8, *shape[1:])).astype(np.float32) for key, (shape, _) in specs.items()}
    some = Samples(path=Path("random"), inputs={key: array[:2] for key, array in images.items()}, targets=None)
    expected = predict(model, some.inputs)
    found = []
    with Converter() as converter, tempfile.TemporaryDirectory() as place:
        for kind, precision in columns:
            out = Path(place) / f"{precision}{SUFFIXES[Format(kind)]}"
            begun = time.monotonic()
            try:
                calibration = images if precision == "int8" else None
                artifact = converter.export(model, out, Format(kind), Precision(precision), calibration=calibration)
                judged = evaluate_file(artifact, some, specs, expected, None, every_runtime=False)
                told = {"error": None if judged.parity else judged.note}
                if judged.parity:
                    (output,) = judged.parity
                    told |= {"relative": output.relative_error, "sqnr": output.sqnr_db}
            except EdgepruneError as error:
                told = {"error": str(error)}
            found.append({**told, "seconds": time.monotonic() - begun})
            gc.collect()
    return found


def shown(column: tuple[str, str], cell: dict[str, Any]) -> str:
    if cell["error"]:
        return "FAIL"
    if column[1] == "int8":
        return "equal" if cell["sqnr"] is None else f"{cell['sqnr']:.0f} dB"
    return f"{cell['relative']:.1e}"


def good(column: tuple[str, str], cell: dict[str, Any]) -> bool:
    return cell["error"] is None and (column[1] != "float32" or cell["relative"] <= EXACT)


def asked() -> tuple[Columns, list[str], bool]:
    """The columns, the names of models, and whether this is the process of one model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=sorted({kind for kind, _ in COLUMNS}))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("models", nargs="*")
    given = parser.parse_args()
    return tuple(c for c in COLUMNS if given.only in (None, c[0])), given.models, given.one


def main() -> None:
    columns, names, one = asked()
    if one:
        print(json.dumps(cells(names[0], columns)))
        return
    from edgeprune.maker.keras.models import keras_module

    applications = keras_module().applications
    names = names or [name for name in dir(applications) if name[0].isupper()]
    print(f"{'model':20s}" + "".join(f"{' '.join(column):>17s}" for column in columns) + "   wall s", flush=True)
    passed = [0] * len(columns)
    arguments = [argument for argument in sys.argv[1:] if argument not in names]
    for name in names:
        command = [sys.executable, __file__, "--one", *arguments, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:20s} the process ended with {done.returncode}: {done.stderr.strip()[-300:]}", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        passed = [n + good(column, cell) for n, column, cell in zip(passed, columns, row, strict=True)]
        texts = "".join(f"{shown(column, cell):>17s}" for column, cell in zip(columns, row, strict=True))
        print(f"{name:20s}{texts}   {sum(cell['seconds'] for cell in row):6.1f}", flush=True)
        for column, cell in zip(columns, row, strict=True):
            if cell["error"]:
                print(f"    {' '.join(column)}: {cell['error']}", flush=True)
    summary = ", ".join(f"{' '.join(c)} {n} of {len(names)}" for c, n in zip(columns, passed, strict=True))
    print(f"converted and in parity: {summary}")
    sys.exit(0 if all(n == len(names) for n in passed) else 1)


if __name__ == "__main__":
    main()

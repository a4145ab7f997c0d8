"""What `edgeprune run` costs beside training: CPU and wall seconds of a recipe without any, on the Fashion sample.

80 % of the weights in one shot, int8, and four files: each is run over the 5,000 test images (.tflite on every
installed runtime, packages by the evaluator) and weighed, and stages and files are timed in pairs. CPU seconds are of
all processes. Where other programs use the machine too each of them does less, so the import of TensorFlow is measured
before and after, as a yardstick. Target: at most 100 CPU s.

    python benchmarks/run_cost.py [TURNS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from conversion_overhead import COMMAND, seconds

FASHION = Path(__file__).parent.parent / "sample_models" / "fashion"
MOST_S = 100.0
RECIPE = """
model = "{folder}/fashion.keras"
metric = "accuracy"
seed = 7

[data]
train = "{folder}/train.npz"
validation = "{folder}/validation.npz"
test = "{folder}/test.npz"

[[steps]]
kind = "prune"
sparsity = 0.8
exclude = ["stem", "block[123]_*"]

[[steps]]
kind = "quantize"
"""
EXPORTS = (("tflite", "float32"), ("tflite", "int8"), ("coreml", "sparse"), ("coreml", "int8"))


def main() -> None:
    exports = "".join(f'\n[[exports]]\nformat = "{kind}"\nprecision = "{name}"\n' for kind, name in EXPORTS)
    spent = []
    with tempfile.TemporaryDirectory() as place:
        recipe = Path(place) / "recipe.toml"
        recipe.write_text(RECIPE.format(folder=FASHION) + exports)
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
            yardsticks = [seconds("import tensorflow")[0]]
            cpu_s, wall_s = seconds(COMMAND, "run", recipe, "-o", Path(place) / "out", "--overwrite", "--quiet")
            yardsticks.append(seconds("import tensorflow")[0])
            spent.append(cpu_s)
            told = " and ".join(f"{each:.1f}" for each in yardsticks)
            print(
                f"run {cpu_s:6.1f} CPU s, {wall_s:6.1f} s; import tensorflow before and after {told} CPU s", flush=True
            )
    median_s = statistics.median(spent)
    print(f"median {median_s:.1f} CPU s, target {MOST_S:g}")
    sys.exit(0 if median_s <= MOST_S else 1)


if __name__ == "__main__":
    main()

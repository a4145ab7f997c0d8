"""What padding a model anew for sparse kernels costs, and what fine-tuning brings back: one recipe from end to end.

A MobileNetV1 0.25 with its ImageNet weights is tuned on photos of clothes at 100 pixels, where no turn makes every
layer right for XNNPACK: a map of 25 stands before a stride of 2. RECIPE pads it anew, fine-tunes, prunes while
training and exports a file for sparse kernels. 2,000 photos train, 400 choose epochs, the others are scored once.
Target: the padded model is fine-tuned to within a point of the model, and the file is made.

    python benchmarks/sparse_padding.py FOLDER WEIGHTS.keras PHOTOS.tar
"""

from __future__ import annotations

import json
import subprocess
import sys

from int8_training import HEAD, prepared_folder

SIZE = 100
RECIPE = """
[[steps]]
kind = "prune"
name = "padded"
sparsity = 0
symmetric_padding = true

[[steps]]
kind = "finetune"
name = "tuned"
epochs = 2
batch_size = 32
learning_rate = 3e-4
distill = 0.5
flip = true

[[steps]]
kind = "prune"
sparsity = 0.7
keep_first = true
epochs = 8
batch_size = 32
distill = 0.5
flip = true

[[exports]]
format = "tflite"
precision = "float32"
sparse_kernels = true
"""


def main() -> None:
    folder = prepared_folder(SIZE)
    if folder is None:
        return
    recipe, out = folder / "sparse.toml", folder / "sparse"
    recipe.write_text(HEAD + RECIPE)
    subprocess.run([sys.executable, "-m", "edgeprune", "run", recipe, "-o", out, "-q", "--overwrite"], check=True)
    ledger = json.loads((out / "ledger.json").read_text())
    for line in ledger["summary"]:
        print(line)
    for stage in ledger["stages"]:
        for file in stage["artifacts"]:
            made = file["sparse_kernels"]
            print(
                f"{stage['name']}: {file['path']}, {file['metric']['value']:.2%} of {file['metric']['samples']} photos"
            )
            if made is not None:
                rewrites = ", ".join(item["name"] for item in made["rewrites"])
                print(f"  {rewrites}; {made['difference']:.1e} apart, {made['sparsity']:.1%} zeros in 1x1 filters")


if __name__ == "__main__":
    main()

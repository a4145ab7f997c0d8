"""Which channels to remove: how far a cut model is from the whole one by each criterion, untrained and trained.

    python benchmarks/importance.py [MODEL --train T --validation V] [--macs 0.35] [--epochs 4] [--seed 0]

By default the Fashion sample. Every criterion cuts to the same share of the MACs, in multiples of 8 channels; the
statistics of batch normalization are estimated again. What is printed is on validation samples: the Kullback-Leibler
divergence from the whole model's answers, the samples with the same answer, and both again after a short training with
distillation and features (the same for all). CPU seconds of the scores stand beside.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import edgeprune
from edgeprune.maker.pruning.channel.criteria import CRITERIA

SAMPLE = Path(__file__).parent.parent / "sample_models" / "fashion"


def told(model: Any, x: np.ndarray, whole: np.ndarray) -> str:
    """(Divergence, same answers) of a model's probabilities from those of the whole one, [samples, classes]."""
    made = model.predict(x, batch_size=64, verbose=0)
    kl = (whole * (np.log(whole + 1e-7) - np.log(made + 1e-7))).sum(-1).mean()
    return f"{kl:8.4f} {100 * (made.argmax(-1) == whole.argmax(-1)).mean():6.2f} %"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path, nargs="?", default=SAMPLE / "fashion.keras")
    options.add_argument("--train", type=Path, default=SAMPLE / "train.npz")
    options.add_argument("--validation", type=Path, default=SAMPLE / "validation.npz")
    options.add_argument("--macs", type=float, default=0.35)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", choices=CRITERIA, action="append")
    asked = options.parse_args()
    model = edgeprune.load_model(asked.model)
    train, validation = (edgeprune.load_samples(path, model) for path in (asked.train, asked.validation))
    x = np.asarray(next(iter(validation.inputs.values())), np.float32)
    whole = model.predict(x, batch_size=64, verbose=0)
    after = f"{asked.epochs} epochs: KL, same"
    print(f"{'':12s} {'CPU s':>6s} {'MACs':>6s} {'param.':>6s}   untrained: KL, same    {after}")
    for name in asked.only or CRITERIA:
        wanted = edgeprune.ChannelOptions(macs=asked.macs, importance=name, seed=asked.seed)
        begun = time.process_time()
        cut = edgeprune.prune_channels(model, wanted, samples=train, verify=False)
        took, report = time.process_time() - begun, cut.report
        trained = edgeprune.TrainOptions(
            epochs=asked.epochs, learning_rate=2e-3, distill=0.9, features=1.0, keep_from=0.8, seed=asked.seed
        )
        tuned, _ = edgeprune.finetune(cut.model, train, trained, teacher=model, kept=cut.kept)
        macs = (report.macs_after or 0) / (report.macs_before or 1)
        print(
            f"{name:12s} {took:6.1f} {macs:6.3f} {report.parameters_after / report.parameters_before:6.3f}   "
            f"{told(cut.model, x, whole)}      {told(tuned, x, whole)}",
            flush=True,
        )


if __name__ == "__main__":
    main()

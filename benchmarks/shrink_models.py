"""How near `edgeprune shrink` comes to ten times smaller, twice as fast and one point, over several models.

    python benchmarks/shrink_models.py OUT [--data FOLDER] [--only NAME] [--time 20min] [--seed 7] [--device NAME]

Without --data the sample models are searched. FOLDER may hold, each as its publisher packs it: cifar10_jpeg/ and
mlperf_tiny/ (ResNet-8 and DS-CNN of MLPerf Tiny), clothing_small_224/ and imagenet_models/ (MobileNetV1-0.25, which is
tuned on the photos first, at 128 pixels). What was prepared and searched before is in OUT and is not made again. CPU
seconds stand beside wall time; latencies are paired measurements of one run unless --device names a profile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from int8_training import photos, prepare

SAMPLES = Path(__file__).parent.parent / "sample_models"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Case:
    """A search: `ready` leaves model.keras and the splits in a folder and returns the model's path; `asked` are the
    targets; `needs` are folders below --data."""

    ready: Callable[[Path, Path], Path]
    asked: tuple[str, ...]
    needs: tuple[str, ...] = ()


def sample(name: str) -> Callable[[Path, Path], Path]:
    def ready(folder: Path, _: Path) -> Path:
        for split in SPLITS:
            link = folder / f"{split}.npz"
            link.unlink(missing_ok=True)
            link.symlink_to(SAMPLES / name / f"{split}.npz")
        return SAMPLES / name / f"{name}.keras"

    return ready


def resnet8(folder: Path, data: Path) -> Path:
    """6,500 pictures train, 1,000 decide, 2,500 are for the report; pixels 0 to 255."""
    pictures, labels = photos(next((data / "cifar10_jpeg").glob("*.tar")), None)
    _leave(folder, pictures.astype(np.float32), labels, (6_500, 1_000))
    return data / "mlperf_tiny" / "image_classification" / "pretrainedResnet.h5"


def ds_cnn(folder: Path, data: Path) -> Path:
    """The 500 published samples: 300 train, 100 decide, 100 are for the report; as the benchmark maps them."""
    held = np.load(data / "mlperf_tiny" / "kws_eval_500.npz")
    _leave(folder, (held["x"].astype(np.float32) - 83) * 0.58470458, held["y"], (300, 100))
    return next((data / "mlperf_tiny" / "keyword_spotting").glob("*.h5"))


def mobilenet(folder: Path, data: Path) -> Path:
    """MobileNetV1-0.25, tuned on 2,000 photos of clothes; 400 decide."""
    weights = data / "imagenet_models" / "mobilenet_v1_025_224_imagenet.keras"
    prepare(folder, weights, next((data / "clothing_small_224").glob("*.tar")))
    return folder / "model.keras"


def _leave(folder: Path, x: np.ndarray, y: np.ndarray, counts: tuple[int, int]) -> None:
    train, validation = counts
    cuts = (slice(train), slice(train, train + validation), slice(train + validation, None))
    for split, rows in zip(SPLITS, cuts, strict=True):
        np.savez(folder / f"{split}.npz", x=x[rows], y=y[rows])


MOON = ("--download", "0.1x", "--latency", "0.5x", "--max-drop", "1 %")
CASES = {
    "fashion": Case(
        sample("fashion"),
        ("--download", "0.085x", "--latency", "0.5x", "--max-drop", "0.8 %", "--flip", "--shift", "2"),
    ),
    "flights": Case(sample("flights"), (*MOON, "--metric", "auc")),
    "resnet8": Case(resnet8, (*MOON, "--flip", "--shift", "2"), ("cifar10_jpeg", "mlperf_tiny")),
    "ds_cnn": Case(ds_cnn, (*MOON, "--batch-size", "32"), ("mlperf_tiny",)),
    "mobilenet": Case(mobilenet, (*MOON, "--flip", "--batch-size", "32"), ("clothing_small_224", "imagenet_models")),
}


def searched(name: str, out: Path, data: Path, time: str, seed: int, device: str | None) -> dict[str, Any]:
    """search.json of a case, and beside it the latency of the files that ship."""
    case, folder = CASES[name], out / name
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / f"seed{seed}"
    if not (found / "search.json").exists():
        model = case.ready(folder, data)
        splits = [part for split in SPLITS for part in (f"--{split}", str(folder / f"{split}.npz"))]
        command = [sys.executable, "-m", "edgeprune", "shrink", str(model), *splits, *case.asked]
        command += ["--device", device] if device else []
        command += ["--time", time, "--seed", str(seed), "-o", str(found), "--cache", str(out / "cache")]
        made = subprocess.run([*command, "--overwrite"], stdout=subprocess.DEVNULL)
        if made.returncode not in (0, 1):
            sys.exit(f"{name}: exit code {made.returncode} of {' '.join(command)}")
    return json.loads((found / "search.json").read_text())


def row(name: str, found: dict[str, Any]) -> str:
    point, aims = found["points"][found["winner"]], found["aims"]
    asked = aims["download_bytes"] / found["dense_bytes"]
    test = "-" if found["test_drop"] is None else f"{100 * found['test_drop']:.2f}"
    missed = ", ".join(aim for aim, met in found["reached"].items() if not met) or "-"
    return (
        f"{name:10s} {point['candidate'][:44]:44s} {point['epochs']:3d}  {asked:.3f}x {point['download_ratio']:.3f}x  "
        f"{aims['latency']:.2f}x {point['latency']:.3f}x  {100 * aims['max_drop']:.1f} {100 * point['lost']:6.2f} "
        f"{test:>6s}  {found['cpu_s']:6.0f} {found['seconds']:6.0f}  {missed}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path, nargs="?", default=Path("build/shrink-models"))
    options.add_argument("--data", type=Path, default=Path())
    options.add_argument("--only", choices=CASES, action="append")
    options.add_argument("--time", default="20min")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--device", help="estimate latencies for it instead of measuring them here")
    asked = options.parse_args()
    print(
        f"{'model':10s} {'winner':44s} ep.  download       latency       drop of metric         CPU s wall s  missed\n"
        f"{'':10s} {'':44s}      asked  got     asked got    asked  val.   test"
    )
    for name in asked.only or CASES:
        if all((asked.data / needed).is_dir() for needed in CASES[name].needs):
            print(row(name, searched(name, asked.out, asked.data, asked.time, asked.seed, asked.device)), flush=True)


if __name__ == "__main__":
    main()

"""Trials a minute on one and on two workers, and what is left of a sweep that is killed at random moments.

    python benchmarks/search_workers.py [--trials N] [--epochs N] [--threads N] [--kills N] [--ray]

A small network is trained, and the same space is swept by one process, by two, and with --ray on a cluster that is
started here, where one of the workers is killed in the middle. Trials a minute leave out what a worker's start takes
(TensorFlow, model and data), which is told beside. CPU seconds stand beside wall time: where others use the machine
they say more. With --kills a search is killed (SIGKILL) at random moments and started again until it ends: the
result has to be that of one that was never killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SPACE = """
model = "model.keras"
metric = "accuracy"
seed = 5
{threads}

[data]
train = "train.npz"
validation = "validation.npz"
test = "test.npz"

[[steps]]
kind = "prune"
style = "channel"
macs = {{ from = 0.3, to = 0.8 }}
round_to = 1

[[steps]]
kind = "finetune"
epochs = {epochs}
learning_rate = {{ from = 1e-3, to = 1e-2, log = true }}

[[exports]]
format = "tflite"
precision = "float16"

[latency]
measure = false

[sweep]
trials = {trials}
batch = {trials}
max_drop = "50 %"
"""


def make(folder: Path, samples: int) -> None:
    """A network of two convolutions, and pictures whose class is the row that is bright."""
    import numpy as np

    from edgeprune.maker.keras.models import keras_module

    keras = keras_module()
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    for name, count in (("train", samples), ("validation", 300), ("test", 300)):
        y = rng.integers(0, 5, count)
        x = rng.normal(0, 0.5, (count, 16, 16, 1))
        x[np.arange(count), 2 + 2 * y, :, 0] += 1.0
        np.savez(folder / f"{name}.npz", x=x.astype(np.float32), y=y)
    layers = keras.layers
    image = keras.Input((16, 16, 1), name="image")
    z = layers.Conv2D(24, 3, activation="relu", name="wide")(image)
    z = layers.Conv2D(32, 3, activation="relu", name="wider")(z)
    z = layers.Dense(5, activation="softmax", name="scores")(layers.GlobalAveragePooling2D(name="pool")(z))
    keras.Model(image, z).save(folder / "model.keras")


def children_cpu_s() -> float:
    """CPU seconds of all children that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(*arguments: object) -> list[str]:
    """The command line of this package."""
    return [sys.executable, "-m", "edgeprune", *map(str, arguments)]


def swept(folder: Path, name: str, *more: str, victim: bool = False) -> dict[str, float]:
    """Sweep with an empty cache: wall and CPU seconds, how long until the first trial began, and trials a minute from
    then on."""
    cache, begun, used, since = folder / f"cache-{name}", time.monotonic(), children_cpu_s(), time.time()
    asked = command("sweep", folder / "space.toml", "-o", folder / name, "--cache", cache, "-q", *more)
    child = subprocess.Popen(asked, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        time.sleep(0.2)
        victim = victim and not (_trials(cache) and _kill_a_worker())
    assert child.returncode == 0, child.returncode
    wall_s, done = time.monotonic() - begun, _trials(cache)
    first = min(file.with_suffix(".lock" if "ray" not in name else ".json").stat().st_mtime for file in done)
    span_s = max(file.stat().st_mtime for file in done) - first
    return {
        "wall_s": wall_s,
        "cpu_s": children_cpu_s() - used,
        "first_s": first - since,
        "per_minute": 60 * len(done) / span_s,
    }


def _trials(cache: Path) -> list[Path]:
    """The records of files that were judged."""
    return [file for file in cache.glob("sweep-*/*.json") if '"batch_s"' in file.read_text() and _is_trial(file)]


def _is_trial(file: Path) -> bool:
    try:
        return "metric" in json.loads(file.read_text())
    except ValueError:
        return False


def _kill_a_worker() -> bool:
    """Kill a worker of the Ray cluster that carries out a trial."""
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if status.read_bytes().startswith(b"ray::carry_out_there"):
                os.kill(int(status.parent.name), signal.SIGKILL)
                print(f"killed {status.parent.name}, a worker of the cluster")
                return True
        except OSError:
            continue
    return False


def outcome(folder: Path) -> str:
    """A hash of what a search found: its points without what they took, its file and its recipe."""
    report = json.loads((folder / "search.json").read_text())
    points = [{key: v for key, v in point.items() if key not in ("seconds", "cpu_s")} for point in report["points"]]
    told = json.dumps([points, report["winner"], report["reached"]], sort_keys=True).encode()
    files = b"".join(file.read_bytes() for file in sorted(folder.glob("*.tflite")))
    return hashlib.sha256(told + files + (folder / "recipe.toml").read_bytes()).hexdigest()[:16]


def killed(folder: Path, verb: Sequence[object], name: str, kills: int, seed: int) -> None:
    """Run to the end; then, with an empty cache, killed so many times, each time at a random moment behind a few more
    results, and once more to the end."""
    rng, plain, often = random.Random(seed), folder / f"{name}-plain", folder / f"{name}-often"
    child = subprocess.Popen(command(*verb, "-o", plain, "--cache", folder / f"{name}-1", "-q"))
    most = 0
    while child.poll() is None:
        most = max(most, len(_records(folder / f"{name}-1")))
        time.sleep(0.1)
    cache, made = folder / f"{name}-2", list[int]()
    for number in range(kills):
        child = subprocess.Popen(command(*verb, "-o", often, "--cache", cache, "-q"))
        while child.poll() is None and len(_records(cache)) < number * most // kills:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 2.0))
        child.kill()
        child.wait()
        for file in _records(cache):
            json.loads(file.read_text())  # none is half
        made.append(len(_records(cache)))
        assert not often.exists()
    subprocess.run(command(*verb, "-o", often, "--cache", cache, "-q"))
    same = outcome(plain) == outcome(often)
    half = [file.name for file in folder.iterdir() if file.name.startswith(".")]
    print(f"{name}: killed {kills} times; results in the cache after each, of {most}: {made}")
    print(f"{name}: {'the same result' if same else 'ANOTHER RESULT'}; left beside the output: {half or 'nothing'}")


def _records(cache: Path) -> list[Path]:
    return list(cache.glob("*/*.json"))


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--threads", type=int, default=1, help="of a trial; 0 for as many as there are cores")
    parser.add_argument("--ray", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="search-workers-"))
    try:
        make(folder, asked.samples)
        threads = f"threads = {asked.threads}" if asked.threads else ""
        (folder / "space.toml").write_text(SPACE.format(trials=asked.trials, epochs=asked.epochs, threads=threads))
        names = [f"workers {count}" for count in asked.workers.split(",") if count] + ["ray"] * asked.ray
        for name in names:
            kind, _, count = name.partition(" ")
            more = ["--workers", count] if kind == "workers" else ["--ray", "local"]
            found = swept(folder, name.replace(" ", "-"), *more, victim=kind == "ray")
            told = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
            print(f"{name}: {told}; result {outcome(folder / name.replace(' ', '-'))}", flush=True)
        if asked.kills:
            splits = [text for key in ("train", "validation", "test") for text in (f"--{key}", folder / f"{key}.npz")]
            search = ["shrink", folder / "model.keras", *splits, "--download", "0.2x", "--max-drop", "50 %"]
            killed(folder, [*search, "--time", "1h", "--seed", 3], "shrink", asked.kills, seed=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

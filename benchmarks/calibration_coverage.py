"""How often published latencies lie within the band of a profile that was calibrated with a few others.

python benchmarks/calibration_coverage.py [SUBSETS]

For 1 to 8 rows, subsets (40 unless told, at random with a fixed seed) of the published latencies of a device calibrate
the profile of another one, and all other latencies of the device are compared with the band that comes out. "one
family" draws the rows from one family of networks, which is how users measure, and asks for all others. Latencies below
3 ms are left out: they are published to 0.1 ms.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from truth_networks import network, truth_rows

from edgeprune.checker.latency.calibrate import calibrated_fit
from edgeprune.checker.latency.fitting import Row
from edgeprune.checker.latency.profiles import find_profile
from edgeprune.errors import InputError

CASES: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("pixel4-tflite-4t-float32", {"device": "Pixel 3", "threads": "4", "precision": "float32"}),
    ("pixel3-tflite-4t-float32", {"device": "Pixel 4", "threads": "4", "precision": "float32"}),
    ("pixel3-tflite-4t-float32", {"device": "Pixel 1", "threads": "1", "precision": "float32"}),
    ("pixel1-tflite-1t-float32", {"device": "Pixel 3", "threads": "4", "precision": "float32"}),
    ("pixel3-tflite-4t-int8", {"device": "Pixel 4", "threads": "4", "precision": "int8"}),
)
COUNTS = (1, 2, 3, 4, 5, 6, 8)
SHORTEST_MS = 3.0


def published(where: Mapping[str, str]) -> list[Row]:
    """The latencies of one device, fitted on or held out, with the operations of each network."""
    rows = [row for row in truth_rows() if all(row[key] == value for key, value in where.items())]
    return [
        Row(
            kernels=network(row["network"]).kernels,
            latency_ms=float(row["latency_ms"]),
            family=row["family"],
            name=row["network"],
        )
        for row in rows
        if row["network"] and row["use"] in ("fit", "held out") and "TFLite CPU" in row["runtime"]
        if float(row["latency_ms"]) >= SHORTEST_MS
    ]


def coverage(
    base: str, rows: Sequence[Row], count: int, subsets: int, *, threads: int, one_family: bool
) -> tuple[int, int, float]:
    """(latencies within the band, all that were compared, median band factor)."""
    chance, profile = random.Random(count), find_profile(base)
    within, total, factors = 0, 0, []
    for _ in range(subsets):
        family = chance.choice(rows).family
        pool = [row for row in rows if row.family == family] if one_family else list(rows)
        if len(pool) < count or count >= len(rows):
            continue
        chosen = chance.sample(pool, count)
        others = [row for row in rows if row not in chosen]
        try:
            fit, _, accuracy = calibrated_fit(profile, chosen, threads=threads)
        except InputError:
            continue
        errors = np.abs(np.log(fit.predict_ms(others) / np.array([row.latency_ms for row in others])))
        within += int(np.sum(errors <= np.log(accuracy.band_factor)))
        total += len(others)
        factors.append(accuracy.band_factor)
    return within, total, float(np.median(factors)) if factors else float("nan")


def main() -> None:
    subsets = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for base, where in CASES:
        rows = published(where)
        print(f"{base} calibrated with {where['device']}, {where['threads']} threads: {len(rows)} latencies")
        for one_family in (False, True):
            cells = []
            for count in COUNTS:
                within, total, factor = coverage(
                    base, rows, count, subsets, threads=int(where["threads"]), one_family=one_family
                )
                if total:
                    cells.append(f"{count}: {within / total:4.0%} in ±{factor - 1:3.0%}")
            print(f"  {'one family' if one_family else 'any rows':10}  {'   '.join(cells)}")


if __name__ == "__main__":
    main()

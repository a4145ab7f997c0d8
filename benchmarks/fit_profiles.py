"""Fit the device profiles of the checker to published latencies and write them anew, byte for byte the same.

    python benchmarks/fit_profiles.py [--check] [NAME ...]

The rows are benchmarks/device_truth/latencies.csv, each with its source; the networks are written by shape arithmetic
(truth_networks.py). NumPy only. A profile that does not beat latency proportional to MACs is refused here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from truth_networks import network, truth_rows

from edgeprune.checker.latency.derivation import Derivation, Method, derive, largest_shares
from edgeprune.checker.latency.fitting import OTHER_CHIP, SAME_CHIP, Row
from edgeprune.checker.latency.profiles import Profile, TruthRow, dump_profile
from edgeprune.checker.latency.roofline import Coefficients

__all__ = ["SPECS", "Spec", "derivation_of", "fit_all", "rows_of"]

FOLDER = Path(__file__).parent.parent / "edgeprune" / "checker" / "latency" / "devices"
REFERENCE = "mobilenet_v2 1.0 224"
CPU = Coefficients(
    dense_gmacs_per_s=20, spatial_gmacs_per_s=20, depthwise_gmacs_per_s=3, memory_gb_per_s=4, op_overhead_us=5
)
NPU = Coefficients(
    dense_gmacs_per_s=4000, depthwise_gmacs_per_s=4000, memory_gb_per_s=100, weight_gb_per_s=40, fixed_ms=0.3
)
FLOAT = ("float32", "float16")  # weights of a float16 file are float32 once loaded on a CPU
FOUR = ("dense_gmacs_per_s", "spatial_gmacs_per_s", "depthwise_gmacs_per_s", "memory_gb_per_s")
PIXELS = ("Pixel", "Pixel 2", "Pixel 3a")
OVERHEAD = ("dense_gmacs_per_s", "depthwise_gmacs_per_s", "memory_gb_per_s", "op_overhead_us")
STREAM = ("dense_gmacs_per_s", "memory_gb_per_s", "weight_gb_per_s", "fixed_ms")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to fit: rows that match `where`, in the given way. `prior` names the profile whose proportions it starts
    from, `pool` all devices of one runtime that are fitted together, each up to a factor of its own."""

    name: str
    where: Mapping[str, str]
    runtime: str
    threads: int | None
    precision: str
    accepts: tuple[str, ...]
    start: Coefficients = CPU
    free: tuple[str, ...] = FOUR
    gathers: bool = True
    kind: str = "fitted"
    prior: str = ""
    pool: tuple[str, ...] = ()
    device: str = ""
    formats: tuple[str, ...] = ("tflite",)
    limits: Mapping[str, float] | None = None


def tflite(name: str, device: str, threads: int, precision: str, date: str, **more: object) -> Spec:
    """A profile of TFLite's own kernels (before XNNPACK became the default in 2020)."""
    return Spec(
        name=name,
        where={"device": device, "runtime": "TFLite CPU", "threads": str(threads), "precision": precision},
        runtime=f"TFLite CPU {date}",
        threads=threads,
        precision=precision,
        accepts=FLOAT if precision == "float32" else ("int8",),
        **more,  # type: ignore[arg-type]
    )


def xnnpack(device: str) -> Spec:
    """XNNPACK called directly: convolutions read their input in place. Three phones, four networks each, one fit."""
    return Spec(
        name=f"{device.lower().replace(' ', '')}-xnnpack-1t-float32",
        where={"device": device, "runtime": "XNNPACK end2end_bench", "threads": "1", "precision": "float32"},
        runtime="XNNPACK (2020)",
        threads=1,
        precision="float32",
        accepts=FLOAT,
        gathers=False,
        prior="pixel1-tflite-1t-float32",
        pool=PIXELS,
    )


def hexagon(name: str, device: str, precision: str) -> Spec:
    return Spec(
        name=name,
        where={"device": device, "runtime": "TFLite 2.17 QNN (Hexagon NPU)", "precision": precision},
        runtime="TFLite 2.17 with the QNN delegate (Hexagon NPU)",
        threads=None,
        precision=precision,
        accepts=FLOAT if precision == "float16" else ("int8",),
        kind="fitted" if precision == "float16" else "ranking-only",
        start=NPU,
        free=STREAM,
        gathers=False,
    )


LPDDR4 = {"memory_gb_per_s": 29.8}  # two channels of LPDDR4-1866, what the chip's memory can do at most
SPECS: tuple[Spec, ...] = (
    tflite("pixel3-tflite-4t-float32", "Pixel 3", 4, "float32", "(2019/20)", start=replace(CPU, op_overhead_us=0.0)),
    tflite(
        "pixel1-tflite-1t-float32",
        "Pixel 1",
        1,
        "float32",
        "(2018/19)",
        free=OVERHEAD,
        limits=LPDDR4,
        start=replace(CPU, spatial_gmacs_per_s=None),
    ),
    tflite("pixel3-tflite-4t-int8", "Pixel 3", 4, "int8", "(2019/20)", prior="pixel3-tflite-4t-float32"),
    tflite("pixel4-tflite-4t-float32", "Pixel 4", 4, "float32", "(2020)", prior="pixel3-tflite-4t-float32"),
    tflite("pixel4-tflite-4t-int8", "Pixel 4", 4, "int8", "(2020)", prior="pixel3-tflite-4t-int8"),
    tflite("iphone-xs-tflite-2t-float32", "iPhone XS", 2, "float32", "(2019/20)", prior="pixel3-tflite-4t-float32"),
    tflite("pixel2-tflite-1t-float32", "Pixel 2", 1, "float32", "(2019)", prior="pixel1-tflite-1t-float32"),
    tflite("pixel3-tflite-1t-float32", "Pixel 3", 1, "float32", "(2019)", prior="pixel1-tflite-1t-float32"),
    *(xnnpack(device) for device in PIXELS),
    Spec(
        name="rpi4-xnnpack-4t-float32",
        where={"device": "RPi 4 (BCM2711, ARM64)", "threads": "4", "precision": "float32"},
        runtime="XNNPACK (2020)",
        threads=4,
        precision="float32",
        accepts=FLOAT,
        gathers=False,
        prior="pixel-xnnpack-1t-float32",
    ),
    hexagon("galaxy-s24-hexagon-float16", "Samsung Galaxy S24", "float16"),
    hexagon("galaxy-s25-hexagon-float16", "Samsung Galaxy S25", "float16"),
    hexagon("snapdragon-8-elite-gen5-hexagon-float16", "Snapdragon 8 Elite Gen 5 QRD", "float16"),
    hexagon("galaxy-s24-hexagon-int8", "Samsung Galaxy S24", "int8"),
    hexagon("galaxy-s25-hexagon-int8", "Samsung Galaxy S25", "int8"),
    Spec(
        name="iphone12-coreml-float16",
        device="iPhone 12 and 12 Pro",
        where={"soc": "A14", "runtime": "Core ML", "precision": "float16"},
        runtime="Core ML (2021/23)",
        threads=None,
        precision="float16",
        accepts=("float16",),
        formats=("coreml",),
        kind="ranking-only",
        start=NPU,
        free=STREAM,
        gathers=False,
    ),
    Spec(
        name="pixel3-gpu-float32",
        where={"device": "Pixel 3", "runtime": "TFLite GPU delegate", "precision": "float32"},
        runtime="TFLite GPU delegate (2019/20)",
        threads=None,
        precision="float32",
        accepts=FLOAT,
        kind="ranking-only",
        start=replace(CPU, spatial_gmacs_per_s=None),
        free=OVERHEAD,
        gathers=False,
        limits=LPDDR4,
    ),
)


def rows_of(spec: Spec, use: str = "fit") -> tuple[list[Row], list[dict[str, str]]]:
    """The rows of a profile, those of its whole pool, with what the table says of each.

    `use` is fit, held out or left out; rows whose network is not known are never among them.
    """
    rows, told = [], []
    for group, device in enumerate(spec.pool or ("",)):
        wanted = {**spec.where, "device": device} if device else spec.where
        for item in truth_rows():
            used = item["use"].split(":")[0] == use and item["network"]
            if used and all(item[key] == value for key, value in wanted.items()):
                kernels = network(item["network"]).kernels
                latency_ms = float(item["latency_ms"])
                rows.append(
                    Row(
                        kernels=kernels, latency_ms=latency_ms, family=item["family"], name=item["network"], group=group
                    )
                )
                told.append(item)
    return rows, told


def method_of(spec: Spec, made: Mapping[str, Profile]) -> Method:
    element_bytes = {"float32": 4, "float16": 2, "int8": 1}[spec.precision]
    if not spec.prior:
        return Method(
            start=spec.start, free=spec.free, element_bytes=element_bytes, gathers=spec.gathers, limits=spec.limits
        )
    base = made[spec.prior]
    weight = SAME_CHIP if base.soc in soc_of(spec) else OTHER_CHIP
    start = base.coefficients.per_element(base.element_bytes, element_bytes)
    return Method(start=start, element_bytes=element_bytes, gathers=spec.gathers, prior_weight=weight)


def soc_of(spec: Spec) -> set[str]:
    """The chips of the devices that a profile is fitted on."""
    return {item["soc"] for item in rows_of(spec)[1]}


def derivation_of(spec: Spec, made: Mapping[str, Profile]) -> tuple[Derivation, list[Row], list[dict[str, str]]]:
    rows, told = rows_of(spec)
    return derive(rows, method_of(spec, made)), rows, told


def profile_of(spec: Spec, made: Mapping[str, Profile]) -> Profile:
    derivation, rows, told = derivation_of(spec, made)
    accuracy, found = derivation.accuracy, derivation.fit
    own = found.coefficients.scaled(found.slower[spec.pool.index(spec.where["device"])] if spec.pool else 1.0)
    rounded = replace(own, **{name: float(f"{getattr(own, name):.4g}") for name in own.free})
    if spec.kind != "ranking-only" and not (accuracy.median or 0) < (accuracy.flops_median or 0):
        raise SystemExit(f"{spec.name}: median {accuracy.median:.3f} is not below {accuracy.flops_median:.3f} of MACs")
    reference = replace(found, coefficients=rounded).predict_ms(
        [Row(kernels=network(REFERENCE).kernels, latency_ms=1.0, family="", name=REFERENCE)]
    )
    return Profile(
        name=spec.name,
        device=spec.device or spec.where["device"],
        soc=next(item["soc"] for item in told if item["device"] == spec.where.get("device", item["device"])),
        runtime=spec.runtime,
        threads=spec.threads,
        precision=spec.precision,
        accepts=spec.accepts,
        formats=spec.formats,
        kind=spec.kind,
        element_bytes=found.element_bytes,
        gathers=found.gathers,
        coefficients=rounded,
        accuracy=accuracy,
        largest_share=largest_shares(rows, replace(found, coefficients=rounded)),
        truth=tuple(
            TruthRow(
                network=item["network"] + (f" on {item['device']}" if spec.pool else ""),
                family=row.family,
                latency_ms=row.latency_ms,
                left_out_ms=None if np.isnan(ms) else float(f"{ms:.4g}"),
                source=item["source"],
            )
            for row, item, ms in zip(rows, told, derivation.left_out_ms, strict=True)
        ),
        based_on=spec.prior,
        reference_ms=float(reference[0]),
    )


def fit_all() -> dict[str, Profile]:
    """Every profile by name, in the order that priors need."""
    made: dict[str, Profile] = {}
    for spec in SPECS:
        made[spec.name] = profile_of(spec, made)
    return made


def main() -> None:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    stale = []
    for name, profile in fit_all().items():
        if wanted and name not in wanted:
            continue
        path, text = FOLDER / f"{name}.toml", dump_profile(profile)
        same = path.exists() and path.read_text(encoding="utf-8") == text
        if not same and "--check" in sys.argv:
            stale.append(name)
        elif not same:
            path.write_text(text, encoding="utf-8")
        print(f"{name}: {'unchanged' if same else 'differs' if '--check' in sys.argv else 'written'}")
    if stale:
        sys.exit(f"not what the fit gives: {', '.join(stale)}")


if __name__ == "__main__":
    main()

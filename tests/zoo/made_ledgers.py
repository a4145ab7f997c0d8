"""A made-up ledger for the tests of budgets and reports: every number is chosen, none measured."""

from __future__ import annotations

from typing import Any

from edgeprune.ledger import (
    ArtifactEntry,
    Estimate,
    Host,
    LatencyComparison,
    LayerSparsity,
    Ledger,
    MetricKind,
    MetricValue,
    ModelOrigin,
    Outcome,
    PruneReport,
    RecipeOrigin,
    RuntimeRun,
    SkippedLayer,
    Stage,
)

__all__ = ["entry", "estimate", "latency", "ledger", "score", "stage"]


def entry(path: str, **more: Any) -> ArtifactEntry:
    """A dense float32 file of a megabyte."""
    facts: dict[str, Any] = {
        "format": "tflite",
        "precision": "float32",
        "sha256": "0" * 64,
        "raw_bytes": 1_000_000,
        "download_bytes": {"deflate": 900_000, "brotli": 880_000, "zstd": 890_000},
        "sparsity": 0.0,
        "macs": 5_123_456,
        "parameters": 249_000,
        "metric": None,
        "metric_note": None,
        "parity": None,
        "runtimes": (RuntimeRun(name="litert", version="2.3.0", ran=True, value=0.92),),
        "exported": False,
    }
    return ArtifactEntry(path=path, **{**facts, **more})


def stage(name: str, kind: str, artifacts: tuple[ArtifactEntry, ...], **more: Any) -> Stage:
    """A stage with these files."""
    facts: dict[str, Any] = {
        "parameters": 250_000,
        "nonzero_parameters": 250_000,
        "macs": 5_123_456,
        "metric": artifacts[0].metric,
        "latency": None,
        "pruning": None,
        "training": None,
        "seconds": 1.5,
    }
    return Stage(name=name, kind=kind, artifacts=artifacts, **{**facts, **more})


def score(value: float, file: str) -> MetricValue:
    """An accuracy on all test samples."""
    return MetricValue(name="accuracy", value=value, samples=10_000, file=file, runtime="litert 2.3.0")


def latency(ratio: float, verdict: Outcome) -> LatencyComparison:
    """A comparison with dense on a made-up host."""
    return LatencyComparison(
        ratio=ratio,
        low=ratio - 0.012,
        high=ratio + 0.015,
        verdict=verdict,
        tolerance=0.03,
        **dict.fromkeys(("null_ratio", "null_low", "null_high"), 1.0),
        **dict.fromkeys(("baseline_ms", "baseline_wall_ms", "baseline_p90_ms"), 2.0),
        **dict.fromkeys(("candidate_ms", "candidate_wall_ms", "candidate_p90_ms"), 2.0 * ratio),
        runtime="litert",
        runtime_version="2.3.0",
        threads=1,
        processes=5,
        pairs=150,
        how="5 processes x 30 pairs on this host",
    )


PRUNED = PruneReport(
    asked=0.8,
    got=0.8004,
    layers=(
        LayerSparsity(layer="conv", kind="Conv2D", key="conv/kernel", elements=1440, asked=0.8, got=0.8),
        LayerSparsity(layer="d|2", kind="Dense", key="d|2/kernel", elements=5000, asked=None, got=0.81),
    ),
    skipped=(SkippedLayer(layer="dw", kind="DepthwiseConv2D", parameters=320, reason="depthwise kernel: few weights"),),
)


def estimate(**more: Any) -> Estimate:
    """5.5 ms on a phone."""
    facts: dict[str, Any] = {
        "device": "phone",
        "how": "estimated from profile phone, ±12 %",
        "basis": "1",
        "total_ms": 5.5,
        "low_ms": 5.0,
        "high_ms": 6.0,
        "relative": 0.5,
        "refused": None,
        "notes": (),
    }
    return Estimate(**{**facts, **more})


def ledger() -> Ledger:
    """A run that pruned to 80 %, fine-tuned, quantized and exported two files; every number is made up."""
    small = {"deflate": 250_000, "brotli": 240_000, "zstd": 245_000}
    tiny = {"deflate": 100_000, "brotli": 95_000, "zstd": 98_000}
    dense = (
        entry("stages/m.dense.float32.tflite", metric=score(0.9231, "stages/m.dense.float32.tflite")),
        entry(
            "stages/m.dense.int8.tflite",
            precision="int8",
            raw_bytes=260_000,
            download_bytes={"deflate": 230_000, "brotli": 225_000, "zstd": 228_000},
            metric=score(0.92, "stages/m.dense.int8.tflite"),
        ),
    )
    pruned = entry(
        "stages/m.pruned.float32.tflite",
        download_bytes=small,
        sparsity=0.79,
        metric=score(0.9102, "stages/m.pruned.float32.tflite"),
    )
    tuned = entry(
        "stages/m.fine-tuned.float32.tflite",
        download_bytes=small,
        sparsity=0.79,
        metric=score(0.9231, "stages/m.fine-tuned.float32.tflite"),
    )
    package = entry(
        "m.sparse.mlpackage",
        format="coreml",
        precision="sparse",
        raw_bytes=180_000,
        download_bytes={"deflate": 150_000, "brotli": 140_000, "zstd": 145_000},
        sparsity=None,
        macs=None,
        metric_note="not verified: op fft is not known to the evaluator",
        runtimes=(),
        exported=True,
    )
    old = RuntimeRun(name="tflite-runtime", version="2.14.0", ran=False, reason="too new")
    quantized = entry(
        "m.int8.tflite",
        precision="int8",
        raw_bytes=260_000,
        download_bytes=tiny,
        sparsity=0.8012,
        metric=score(0.9198, "m.int8.tflite"),
        runtimes=(old, RuntimeRun(name="litert", version="2.3.0", ran=True, value=0.9198)),
        exported=True,
        oldest_runtime="litert 2.3.0",
    )
    return Ledger(
        tool_version="1.2.3",
        recipe=RecipeOrigin(path="recipe.toml", sha256="1" * 64, asked={}),
        input=ModelOrigin(path="m.keras", sha256="2" * 64, raw_bytes=3_000_000),
        data={},
        metric=MetricKind(name="accuracy", higher_is_better=True, is_share=True),
        host=Host(machine="x86_64", system="Linux", runtimes={"tflite-runtime": "2.14.0", "litert": "2.3.0"}),
        seed=0,
        stages=(
            stage("dense", "dense", dense, seconds=4.04),
            stage(
                "pruned",
                "prune",
                (pruned,),
                nonzero_parameters=52_000,
                latency=latency(1.003, Outcome.UNCHANGED),
                pruning=PRUNED,
                seconds=64.2,
            ),
            stage(
                "fine-tuned",
                "finetune",
                (tuned, package),
                nonzero_parameters=52_000,
                latency=latency(0.97, Outcome.INCONCLUSIVE),
                seconds=600.0,
            ),
            stage("int8", "quantize", (quantized,), nonzero_parameters=52_000, latency=latency(0.91, Outcome.FASTER)),
        ),
    )

"""The whole job on the sample of the guide, by `import edgeprune` alone; little data, so that a test can run it."""

from __future__ import annotations

import edgeprune

__all__ = ["job"]

SAMPLES = 200
DEVICE = "pixel3-tflite-4t-float32"


def first(samples: edgeprune.Samples, count: int) -> edgeprune.Samples:
    """The first samples of a split."""
    return edgeprune.Samples(
        path=samples.path,
        inputs={name: values[:count] for name, values in samples.inputs.items()},
        targets={name: values[:count] for name, values in samples.told.items()},
    )


def job(sample: str, out: str) -> dict[str, object]:
    """Prune, fine-tune and convert the model in the folder `sample`; the files lie in `out`."""
    model = edgeprune.load_model(f"{sample}/fashion.keras")
    train, test = (
        first(edgeprune.load_samples(f"{sample}/{split}.npz", model, metric="accuracy"), SAMPLES)
        for split in ("train", "test")
    )
    pruned = edgeprune.prune_magnitude(model, edgeprune.MagnitudeOptions(sparsity=0.5))
    options = edgeprune.TrainOptions(epochs=1, batch_size=64, learning_rate=1e-4)
    tuned, _ = edgeprune.finetune(pruned.model, train, options, metric="accuracy")
    edgeprune.save_model(tuned, f"{out}/tuned.keras")

    with edgeprune.Converter() as converter:
        exact = edgeprune.convert(tuned, f"{out}/exact.tflite", samples=test, metric="accuracy", converter=converter)
        small = edgeprune.convert(
            tuned,
            f"{out}/small.tflite",
            precision="int8",
            calibration=train,
            samples=test,
            metric="accuracy",
            converter=converter,
        )
    agreement = edgeprune.verify(f"{out}/exact.tflite", f"{out}/tuned.keras", samples=test, metric="accuracy")
    told = edgeprune.account(f"{out}/small.tflite")
    budgets = [edgeprune.Budget(download_bytes=count) for count in (told.raw_bytes * 2, 1000)]
    verdicts = [edgeprune.check(f"{out}/small.tflite", budget)[0] for budget in budgets]
    compared = edgeprune.compare(f"{out}/exact.tflite", f"{out}/small.tflite")
    estimate = edgeprune.estimate_latency(f"{out}/exact.tflite", DEVICE)
    return {
        "sparsity": told.sparsity,
        "agrees": agreement.agrees,
        "int8_bytes": small.raw_bytes,
        "float_bytes": exact.raw_bytes,
        "passed": [verdict.passed for verdict in verdicts],
        "download_ratio": compared.after.download_bytes["deflate"] / compared.before.download_bytes["deflate"],
        "estimated": estimate.total_ms is not None and DEVICE in [profile.name for profile in edgeprune.devices()],
        "drop": edgeprune.evaluate(model, test) - edgeprune.evaluate(tuned, test),
    }

"""Memory that samples larger than it take: 1 GB of pictures as .npz, .parquet and TFRecord, each in a process that
reads it, trains an epoch, draws a calibration set and scores it.

Prints the peak above that of the same model trained on a few samples. Target: at most 400 MB. Needs 3 GB of disk.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHAPE, CLASSES, BATCH = (64, 64, 3), 10, 256
COUNT = 1_000_000_000 // int(np.prod(SHAPE))
FILES = ("d.npz", "d.parquet", "d.tfrecord")


def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random pictures and classes, a few at a time."""
    rng = np.random.default_rng(0)
    for start in range(0, COUNT, 1000):
        count = min(1000, COUNT - start)
        yield rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, count)


def write(path: Path) -> None:
    """The file of this name."""
    if path.suffix == ".npz":
        pixels, classes = zip(*parts(), strict=True)
        np.savez(path, x=np.concatenate(pixels), y=np.concatenate(classes))
    elif path.suffix == ".parquet":
        _write_parquet(path)
    else:
        _write_records(path)


def _write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = int(np.prod(SHAPE))
    schema = pa.schema({"image": pa.list_(pa.uint8(), size), "y": pa.int64()})
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as file:
        for pixels, classes in parts():
            lists = pa.FixedSizeListArray.from_arrays(pixels.reshape(-1), size)
            file.write_table(pa.table([lists, pa.array(classes)], schema=schema), row_group_size=20_000)


def _write_records(path: Path) -> None:
    import tensorflow as tf

    train = tf.train
    path.with_suffix(".toml").write_text(
        f'[image]\ntype = "uint8"\nshape = {list(SHAPE)}\n[y]\ntype = "int64"\n', encoding="utf-8"
    )
    with tf.io.TFRecordWriter(str(path)) as file:
        for pixels, classes in parts():
            for row, number in zip(pixels, classes, strict=True):
                values = {
                    "image": train.Feature(bytes_list=train.BytesList(value=[row.tobytes()])),
                    "y": train.Feature(int64_list=train.Int64List(value=[int(number)])),
                }
                file.write(train.Example(features=train.Features(feature=values)).SerializeToString())


def peak_bytes() -> int:
    """The largest resident size since the last call, of this process."""
    told = Path("/proc/self/status").read_text(encoding="ascii")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in told.splitlines() if line.startswith("VmHWM"))


def used(path: Path) -> None:
    """Read, train, calibrate and score, in this process."""
    from edgeprune.maker.keras.models import input_specs, keras_module
    from edgeprune.maker.training.data.loading import calibration_set, load_samples
    from edgeprune.maker.training.goals import find_task
    from edgeprune.maker.training.loop import evaluate, train
    from edgeprune.maker.training.options import TrainOptions

    keras = keras_module()
    image = keras.Input(SHAPE, name="image")
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    model = keras.Model(image, keras.layers.Dense(CLASSES)(keras.layers.GlobalAveragePooling2D()(x)))
    specs, task, options = (
        input_specs(model),
        find_task(model, "accuracy", trains=True),
        TrainOptions(epochs=1, batch_size=BATCH),
    )
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.npz"
        np.savez(few, x=np.zeros((4 * BATCH, *SHAPE), np.uint8), y=np.zeros(4 * BATCH, np.int64))
        small = load_samples(few, specs, scale=1 / 255)
        train(model, small, None, task, options)
        evaluate(model, small, task)
    base, begun = peak_bytes(), time.monotonic()
    samples = load_samples(path, specs, scale=1 / 255)
    read_s, read = time.monotonic() - begun, peak_bytes()
    train(model, samples, None, task, options)
    calibration_set(samples, specs, 200, 0)
    evaluate(model, samples, task)
    whole = max(read, peak_bytes())
    print(
        f"{path.suffix:10s} {path.stat().st_size / 1e6:6.0f} MB, {len(samples):,} samples: above the model "
        f"{(read - base) / 1e6:4.0f} MB to read ({read_s:.0f} s), {(whole - base) / 1e6:4.0f} MB in all"
    )


def main() -> None:
    if len(sys.argv) > 1:
        used(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            path = Path(folder) / name
            write(path)
            subprocess.run([sys.executable, __file__, str(path)], check=True)
            path.unlink()


if __name__ == "__main__":
    main()

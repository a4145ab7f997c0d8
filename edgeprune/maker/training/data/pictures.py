"""A folder of pictures: one folder for each class. They are decoded once, in several threads, to whole pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.models import one_line
from edgeprune.maker.training.data.columns import Column
from edgeprune.maker.training.data.spool import Spool

__all__ = ["read_pictures"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
MOST_BYTES = 100_000_000  # of one file
BATCH = 64
SHOWN = 3

Specs = Mapping[str, tuple[tuple[int | None, ...], str]]


def read_pictures(folder: Path, specs: Specs) -> dict[str, Column]:
    """The columns "x", uint8 [pictures, height, width, channels] in the size of the model's only input, and "y", the
    number of each one's folder in the order of their names.

    Resized with bilinear interpolation and rounded to whole pixels. Raises InputError for a folder without classes or
    pictures and for files that cannot be decoded, naming them, Unsupported for a model without one image input.
    """
    height, width, channels = _size(folder, specs)
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [
        (number, file)
        for number, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in ENDINGS and file.is_file()
    ]
    if not files:
        raise InputError(f"{folder}: no pictures ({', '.join(ENDINGS)}) in folders of their classes, as in CLASS/a.jpg")
    if len({number for number, _ in files}) == 1:
        raise InputError(f"{folder}: pictures of one class only, {classes[files[0][0]]!r}; a folder for each class")
    bad: list[tuple[Path, str]] = []
    with Spool(str(folder)) as spool:
        for part in _decoded(files, height, width, channels):
            good = [(number, pixels) for number, _, pixels in part if isinstance(pixels, np.ndarray)]
            bad += [(file, why) for _, file, why in part if isinstance(why, str)]
            if good:
                numbers, pixels = zip(*good, strict=True)
                spool.add({"x": np.stack(pixels), "y": np.array(numbers, np.int32)})
        _refuse_bad(folder, bad, len(files))
        return dict(spool.columns())


def _size(folder: Path, specs: Specs) -> tuple[int, int, int]:
    shapes = [shape for shape, _ in specs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] not in (1, 3):
        raise Unsupported(f"{folder}: a folder of pictures is for a model with one input of 1 or 3 channels")
    _, height, width, channels = shapes[0]
    if height is None or width is None:
        raise Unsupported(
            f"{folder}: the model takes pictures of any size, so nothing says to which these are resized: give it one "
            "size (--input-shape 1,224,224,3), or samples in an .npz file"
        )
    assert channels is not None
    return height, width, channels


def _decoded(
    files: Sequence[tuple[int, Path]], height: int, width: int, channels: int
) -> Iterator[list[tuple[int, Path, npt.NDArray[Any] | str]]]:
    """Batches of (class, file, pixels or why there are none)."""

    def one(item: tuple[int, Path]) -> tuple[int, Path, npt.NDArray[Any] | str]:
        number, file = item
        try:
            return number, file, _pixels(file, height, width, channels)
        except Exception as cause:  # noqa: BLE001  (TensorFlow raises anything on damaged files)
            return number, file, one_line(cause)[:100]

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), BATCH):
            yield list(pool.map(one, files[start : start + BATCH]))


def _pixels(file: Path, height: int, width: int, channels: int) -> npt.NDArray[Any]:
    import tensorflow as tf

    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    image = tf.io.decode_image(file.read_bytes(), channels=channels, expand_animations=False)
    sized = tf.image.resize(image, (height, width))
    found: npt.NDArray[Any] = tf.cast(tf.clip_by_value(tf.round(sized), 0, 255), tf.uint8).numpy()
    return found


def _refuse_bad(folder: Path, bad: Sequence[tuple[Path, str]], count: int) -> None:
    if bad:
        named = ", ".join(f"{file.relative_to(folder)} ({why})" for file, why in bad[:SHOWN])
        more = "" if len(bad) <= SHOWN else ", ..."
        raise InputError(f"{folder}: {len(bad)} of {count} pictures cannot be read: {named}{more}; take them out")

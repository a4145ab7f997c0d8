"""Pictures in a folder for each class. They are decoded once, in several threads, to whole pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.models import one_line
from edgeprune.maker.training.data.bad import SKIP_HINT, BadSamples
from edgeprune.maker.training.data.columns import Column
from edgeprune.maker.training.data.spool import Spool

__all__ = ["Picture", "PictureSize", "decode_picture", "decoded", "in_batches", "picture_size", "read_pictures"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
MOST_BYTES = 100_000_000  # of one file
BATCH = 64
SHOWN = 3

Specs = Mapping[str, tuple[tuple[int | None, ...], str]]
PictureSize = tuple[int, int, int]  # height, width, channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture: its file, what errors call it, and its other columns (a class, a weight)."""

    file: Path
    name: str
    columns: Mapping[str, npt.NDArray[Any]]


def read_pictures(folder: Path, specs: Specs, bad: BadSamples) -> dict[str, Column]:
    """The columns "x", uint8 [pictures, height, width, channels] in the size of the model's only input, and "y", the
    number of each one's folder in the order of their names.

    Resized with bilinear interpolation and rounded to whole pixels. Raises InputError for a folder without classes or
    pictures and for files that cannot be decoded, naming them, Unsupported for a model without one image input.
    """
    size = picture_size(folder, specs)
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    pictures = [
        Picture(file=file, name=str(file.relative_to(folder)), columns={"y": np.array(number, np.int32)})
        for number, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in ENDINGS and file.is_file()
    ]
    if not pictures:
        raise InputError(f"{folder}: no pictures ({', '.join(ENDINGS)}) in folders of their classes, as in CLASS/a.jpg")
    found = sorted({int(picture.columns["y"]) for picture in pictures})
    if len(found) == 1:
        raise InputError(f"{folder}: pictures of one class only, {classes[found[0]]!r}; a folder for each class")
    return decoded(folder, pictures, size, bad)


def decoded(what: Path, pictures: Sequence[Picture], size: PictureSize, bad: BadSamples) -> dict[str, Column]:
    """The pixels of all pictures as "x", and their other columns. Raises InputError where some cannot be decoded."""
    faults: list[tuple[Picture, str]] = []
    with Spool(str(what)) as spool:
        for part in in_batches(pictures, lambda picture: _of_file(picture.file, size)):
            good = [(picture, pixels) for picture, pixels in part if not isinstance(pixels, str)]
            faults += [(picture, fault) for picture, fault in part if isinstance(fault, str)]
            if good:
                names = good[0][0].columns
                columns = {name: np.stack([picture.columns[name] for picture, _ in good]) for name in names}
                spool.add({"x": np.stack([pixels for _, pixels in good]), **columns})
        if not bad.skips:
            _refuse(what, faults, len(pictures))
        for picture, fault in faults:
            bad.add(picture.name, fault)
        bad.refuse_all(len(spool))
        return spool.columns()


def picture_size(what: Path, specs: Specs) -> PictureSize:
    """Height, width, channels of the model's only input. Raises Unsupported where it takes no pictures of one size."""
    shapes = [shape for shape, _ in specs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] not in (1, 3):
        raise Unsupported(f"{what}: pictures are for a model with one input of 1 or 3 channels")
    _, height, width, channels = shapes[0]
    if height is None or width is None:
        raise Unsupported(
            f"{what}: the model takes pictures of any size, so nothing says to which these are resized: give it one "
            "size (--input-shape 1,224,224,3), or samples in an .npz file"
        )
    assert channels is not None
    return height, width, channels


def in_batches(
    items: Iterable[Any], work: Callable[[Any], Any], *, threaded: bool = True
) -> Iterator[list[tuple[Any, Any]]]:
    """Batches of (item, what `work` makes of it, or in words why it cannot), in their order. Threads pay where
    TensorFlow works, not for Python."""

    def one(item: Any) -> tuple[Any, Any]:
        try:
            return item, work(item)
        except Exception as cause:  # noqa: BLE001  (TensorFlow raises anything on damaged files)
            return item, one_line(cause)[:100]

    left = iter(items)
    with ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(left, BATCH)):
            yield list((pool.map if threaded else map)(one, batch))


def _of_file(file: Path, size: PictureSize) -> npt.NDArray[Any]:
    if not file.is_file():
        raise ValueError("there is no such file")
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    return decode_picture(file.read_bytes(), size)


def decode_picture(content: bytes, size: PictureSize) -> npt.NDArray[Any]:
    """Whole pixels of 0 to 255, uint8 [height, width, channels]. Raises what TensorFlow raises on damaged files."""
    import tensorflow as tf

    height, width, channels = size
    image = tf.io.decode_image(content, channels=channels, expand_animations=False)
    sized = tf.image.resize(image, (height, width))
    found: npt.NDArray[Any] = tf.cast(tf.clip_by_value(tf.round(sized), 0, 255), tf.uint8).numpy()
    return found


def _refuse(what: Path, faults: Sequence[tuple[Picture, str]], count: int) -> None:
    if faults:
        named = ", ".join(f"{picture.name} ({fault})" for picture, fault in faults[:SHOWN])
        more = "" if len(faults) <= SHOWN else ", ..."
        raise InputError(f"{what}: {len(faults)} of {count} pictures cannot be read: {named}{more}; {SKIP_HINT}")

"""TFRecord files of tf.train.Example, one or a folder of shards, with a file that says what their features are.

Format: tensorflow.org/tutorials/load_data/tfrecord: records of a length, its checksum, the bytes, their checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError
from edgeprune.formats.protobuf import BrokenMessageError, Message, parse, unpack_varints
from edgeprune.host.untrusted import check_file
from edgeprune.maker.training.data.bad import BadSamples
from edgeprune.maker.training.data.columns import Column
from edgeprune.maker.training.data.features import Feature, description
from edgeprune.maker.training.data.pictures import decode_picture, in_batches
from edgeprune.maker.training.data.spool import Spool

__all__ = ["is_records", "read_records"]

ENDING = ".tfrecord"  # shards go on: train.tfrecord-00000-of-00010
MOST_BYTES = 1_000_000_000  # of one record
FEW_BYTES = 64  # of packed integers that are read one by one
BYTES, FLOATS, INTEGERS = 1, 2, 3  # fields of tf.train.Feature (tensorflow/core/example/feature.proto)
_LENGTH = struct.Struct("<Q")
_FRAME_BYTES = 16  # around the bytes of a record: length, two checksums

Specs = Mapping[str, tuple[tuple[int | None, ...], str]]
Record = tuple[str, bytes]  # what errors call it, and its content


def is_records(path: Path) -> bool:
    """Whether this is a TFRecord file, or a folder that has some."""
    return any(True for _ in _files(path))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield from [path] if ENDING in path.name.lower() else []
        return
    yield from sorted(file for file in path.iterdir() if ENDING in file.name.lower() and file.is_file())


def _stem(file: Path) -> str:
    """The name of a file without the numbers of a shard: train of train.tfrecord-00000-of-00010."""
    return file.name[: file.name.lower().index(ENDING)]


def read_records(path: Path, specs: Specs, bad: BadSamples) -> dict[str, Column]:
    """The arrays that the description names, out of a file or all files of a folder, in the order of their names.

    The description lies beside them, see `description`. Raises InputError for a missing description and for what is
    damaged or does not fit it, naming the record.
    """
    files = list(_files(path))
    for file in files:
        check_file(file, "a TFRecord file")
    wanted = _wanted(path, files, specs)
    with Spool(str(path)) as spool:
        pictures = any(feature.size is not None for feature in wanted.values())
        records = _records(path, files, bad)
        for part in in_batches(records, lambda record: _sample(record[1], wanted), threaded=pictures):
            good = []
            for (name, _), sample in part:
                if isinstance(sample, str):
                    bad.add(name, sample)
                else:
                    good.append(sample)
            if good:
                spool.add({name: np.stack([sample[name] for sample in good]) for name in wanted})
        bad.refuse_all(len(spool))
        return spool.columns()


def _wanted(path: Path, files: Sequence[Path], specs: Specs) -> dict[str, Feature]:
    """What each array is. Raises InputError where nothing says it, and for records of several splits."""
    stems = sorted({_stem(file) for file in files})
    if len(stems) > 1:
        raise InputError(f"{path}: records of {', '.join(stems[:5])}; give each split a folder, or name one file")
    found = description(path, files[0].with_name(_stem(files[0])), specs)
    if found is None:
        place = path / "features.toml" if path.is_dir() else path.with_name(f"{_stem(path)}.toml")
        raise InputError(
            f"{path}: which features are inputs and targets? say it in {place}, a table for each, as in [x], "
            f'feature = "NAME", type = "image"; its first record has {_shown(files[0])}'
        )
    return found


def _shown(file: Path) -> str:
    """The features of a file's first record, for those who have to describe them."""
    _, content = next(_records(file, [file], BadSamples(file)), ("", b""))
    kinds = {BYTES: "bytes", FLOATS: "floats", INTEGERS: "integers"}
    try:
        found = [
            f"{name!r} ({next((word for kind, word in kinds.items() if piece.has(kind)), 'nothing')})"
            for name, piece in _features(content).items()
        ]
    except ValueError as cause:
        return f"none: {cause}"
    return ", ".join(found[:20]) or "none"


def _records(path: Path, files: Sequence[Path], bad: BadSamples) -> Iterator[Record]:
    """The records of all files that are whole; the others are bad samples."""
    for file in files:
        prefix = f"{file.name}, " if path.is_dir() else ""

        def damaged(number: int, fault: str, prefix: str = prefix) -> None:
            bad.add(f"{prefix}record {number}", fault)

        for number, content in _whole(file, damaged):
            yield f"{prefix}record {number}", content


def _whole(file: Path, damaged: Callable[[int, str], None]) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the records of one file. Where a record ends is taken from its length, held against the file
    first: TensorFlow would ask for as much memory as it says."""
    from tensorflow.python.lib.io.tf_record import tf_record_random_reader  # with checksums, and from any place

    left, offset, number = file.stat().st_size, 0, 0
    reader = tf_record_random_reader(str(file))
    with file.open("rb") as lengths:
        if lengths.read(2) == b"\x1f\x8b":
            raise InputError(f"{file}: compressed; unpack it first (gunzip)")
        while offset < left:
            lengths.seek(offset)
            head = lengths.read(_LENGTH.size)
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else left
            if length > min(MOST_BYTES, left - offset - _FRAME_BYTES):
                damaged(number, "cut short, or its length is damaged: what follows it is lost")
                return
            try:
                content, _ = reader.read(offset)
            except Exception as cause:  # noqa: BLE001  (DataLossError, and what else TensorFlow raises)
                damaged(number, f"damaged ({' '.join(str(cause).split())[:80]})")
            else:
                yield number, content
            offset += length + _FRAME_BYTES
            number += 1


def _sample(content: bytes, wanted: Mapping[str, Feature]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one record. Raises ValueError for one that lacks a feature, or has it in another form."""
    features = _features(content)
    found = {}
    for name, feature in wanted.items():
        if feature.key not in features:
            raise ValueError(
                f"no feature {feature.key!r}; it has {', '.join(map(repr, list(features)[:20])) or 'none'}"
            )
        try:
            found[name] = _value(features[feature.key], feature)
        except BrokenMessageError:
            raise
        except Exception as cause:
            raise ValueError(f"feature {feature.key!r}: {' '.join(str(cause).split())[:80]}") from cause
    return found


def _features(content: bytes) -> dict[str, Message]:
    try:
        return dict(parse(content).child(1).entries(1))
    except BrokenMessageError as cause:
        raise ValueError(f"no tf.train.Example ({cause})") from cause


def _value(piece: Message, wanted: Feature) -> npt.NDArray[Any]:
    if wanted.size is not None:
        return decode_picture(_one(piece), wanted.size)
    if piece.has(BYTES):
        values: npt.NDArray[Any] = np.frombuffer(_one(piece), np.dtype(wanted.kind).newbyteorder("<"))
    elif piece.has(FLOATS):
        values = piece.child(FLOATS).reals(1, 4)
    else:
        values = _integers(piece.child(INTEGERS))
    if len(values) != int(np.prod(wanted.shape, dtype=np.int64)):
        each = f"shape {list(wanted.shape)}" if wanted.shape else "one number, for no shape is given"
        raise ValueError(f"{len(values)} values, the description says {each}")
    return _as_kind(values, wanted.kind).reshape(wanted.shape)


def _one(piece: Message) -> bytes:
    contents = piece.child(BYTES).pieces.get(1, [])
    if len(contents) != 1:
        raise ValueError(f"holds {len(contents)} byte strings, not one" if piece.has(BYTES) else "holds no bytes")
    return bytes(contents[0])


def _integers(numbers: Message) -> npt.NDArray[np.int64]:
    if sum(map(len, numbers.pieces.get(1, ()))) < FEW_BYTES:
        return np.array(numbers.integers(1), np.uint64).astype(np.int64)
    packed = [unpack_varints(part, "int64") for part in numbers.pieces.get(1, ())]
    loose = np.array(numbers.numbers.get(1, ()), np.uint64).astype(np.int64)
    return np.concatenate([loose, *packed])


def _as_kind(values: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """The same numbers in the type of the description. Raises ValueError where they are no longer the same."""
    if values.dtype == kind:
        return values
    with np.errstate(invalid="ignore", over="ignore"):
        typed_values = values.astype(kind)
    if np.dtype(kind).kind != "f" and not np.array_equal(typed_values, values):
        raise ValueError(f"holds numbers that {kind} cannot hold")
    return typed_values

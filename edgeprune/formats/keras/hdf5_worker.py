"""The child's side of reading an HDF5 file: the only place where libhdf5 meets a file that is not trusted.

libhdf5 loops for ever on some damaged files and can crash on others, so it runs in a process of its own, which the
system ends when it uses too much processor time or memory. Started by hdf5_session with the job as JSON in its first
argument; the reply on stdout is one line of JSON and then, where there is no error, the numbers of every array in turn.

Format: docs.hdfgroup.org (HDF5 file format), and how Keras lays out its files (hdf5.py).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeprune.errors import InputError
from edgeprune.formats.keras.hdf5_limits import check_hdf5

__all__ = ["main"]

_FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
_ROOT_ATTRIBUTES = ("model_config", "training_config", "keras_version", "backend")
_LONGEST_NAME = 4096
_SPARE_BYTES = 1 << 30  # for libraries, whose size is not known
_KINDS = "fiubc"


def main() -> None:
    """Answer the job in the first argument; a file that cannot be read is an answer too."""
    job = json.loads(sys.argv[1])
    reply = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what C code prints must not get into the reply
    try:
        import h5py

        _limit(job["cpu_s"], job["largest_bytes"])
        check_hdf5(job["path"], largest=job["largest_bytes"])
        with h5py.File(job["path"], "r") as file:
            _answer(file, job, reply)
    except InputError as refusal:
        _say(reply, {"refused": _plain(str(refusal))})
    except UnicodeError:
        _say(reply, {"error": "a name or text in it is no UTF-8"})
    except _FAILURES as cause:
        _say(reply, {"error": _plain(" ".join(f"{type(cause).__name__}: {cause}".split())[:300])})


def _plain(text: str) -> str:
    """A message without the bytes of names that are no UTF-8, which h5py keeps as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _limit(cpu_s: float, largest_bytes: int) -> None:
    """From here on: that much processor time, and memory for the largest array and some copies of it."""
    with suppress(OSError, ValueError):  # a system without these limits
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most_s = math.ceil(time.process_time() + cpu_s)
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s + 5))
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
        now_bytes = int(pages) * resource.getpagesize()
        most_bytes = now_bytes + _SPARE_BYTES + 3 * largest_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))


def _say(reply: Any, message: dict[str, Any]) -> None:
    # Names that are no UTF-8 end here, with an error, and not in the report.
    reply.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
    reply.flush()


def _answer(file: Any, job: dict[str, Any], reply: Any) -> None:
    found = list(_datasets(file))
    size_bytes = Path(job["path"]).stat().st_size
    arrays = [
        {
            "path": path,
            "dtype": dtype,
            "shape": list(data.shape),
            "raw_bytes": int(data.size) * data.dtype.itemsize,
            "stored_bytes": int(data.id.get_storage_size()),
            "places": _places(data) if job["places"] else [],
        }
        for path, data, dtype in found
    ]
    head = {
        "attributes": {key: _text(file.attrs, key, size_bytes) for key in _ROOT_ATTRIBUTES if key in file.attrs},
        "orders": dict(_orders(file, size_bytes)),
        "names": dict(_names(file)),
        "arrays": arrays,
    }
    _say(reply, head)
    for _, data, _ in found:
        reply.write(_numbers(data))
    reply.flush()


def _groups(file: Any) -> Iterator[tuple[str, Any]]:
    """Every group once, the file itself first, with its path."""
    import h5py

    seen, stack = set(), [("", file)]
    while stack:
        path, group = stack.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        yield path, group
        children = [(f"{path}/{name}".lstrip("/"), group[name]) for name in group]
        stack.extend(item for item in reversed(children) if isinstance(item[1], h5py.Group))


def _datasets(file: Any) -> Iterator[tuple[str, Any, str]]:
    """(path, dataset, element type) of every array of numbers, once however many names it has."""
    import h5py

    seen = set()
    for path, group in _groups(file):
        for name in group:
            data = group[name]
            if not isinstance(data, h5py.Dataset) or data.shape is None:
                continue
            address = h5py.h5o.get_info(data.id).addr
            dtype = _dtype(data)
            if dtype and address not in seen:
                seen.add(address)
                yield f"{path}/{name}".lstrip("/"), data, dtype


def _dtype(data: Any) -> str:
    """The element type; "" for what is no number (text, records)."""
    if data.dtype.kind in _KINDS and data.dtype.itemsize <= 16:
        return str(data.dtype.name)
    # HDF5 has no bfloat16: Keras keeps it as opaque bytes, with a mark in a `.weights.h5` and without in a `.h5`
    # (keras/src/saving/saving_lib.py, H5Entry). No other type that it writes is two opaque bytes.
    opaque = data.dtype.kind == "V" and data.dtype.itemsize == 2 and data.dtype.names is None
    return "bfloat16" if opaque and _text(data.attrs, "dtype", _LONGEST_NAME) in ("", "bfloat16") else ""


def _numbers(data: Any) -> bytes | memoryview:
    """The numbers of an array, little-endian, in the order of its axes."""
    import numpy as np

    values = np.asarray(data[()])
    if values.dtype.kind in _KINDS:
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return values.tobytes()


def _places(data: Any) -> list[list[int]]:
    """[byte, length] in the file of every part of an array; empty for one that is kept with its description."""
    if data.chunks is not None:
        found: list[list[int]] = []
        data.id.chunk_iter(lambda chunk: found.append([int(chunk.byte_offset), int(chunk.size)]))
        return found
    offset = data.id.get_offset()
    return [] if offset is None else [[int(offset), int(data.id.get_storage_size())]]


def _orders(file: Any, size_bytes: int) -> Iterator[tuple[str, list[str]]]:
    """Group -> names in order, as `layer_names` and `weight_names` tell; a long list is cut into numbered ones."""
    for path, group in _groups(file):
        for told in ("layer_names", "weight_names"):
            keys = [told] if told in group.attrs else list(_numbered(group.attrs, told))
            names = [name for key in keys for name in _texts(group.attrs, key, size_bytes)]
            if keys:
                yield path, names


def _numbered(attributes: Any, told: str) -> Iterator[str]:
    for number in itertools.count():
        if f"{told}{number}" not in attributes:
            return
        yield f"{told}{number}"


def _names(file: Any) -> Iterator[tuple[str, str]]:
    """Group of variables -> the name of the layer it belongs to, which Keras 3 writes."""
    for path, group in _groups(file):
        if "name" in group.attrs and path.rpartition("/")[2] == "vars":
            yield path, _text(group.attrs, "name", _LONGEST_NAME)


def _text(attributes: Any, key: str, most_bytes: int) -> str:
    found = _texts(attributes, key, most_bytes)
    return found[0] if found else ""


def _texts(attributes: Any, key: str, most_bytes: int) -> list[str]:
    """A text, or an array of texts; [] where the attribute is missing or holds something else."""
    if key not in attributes:
        return []
    held = attributes.get_id(key)
    if math.prod(held.shape) * held.dtype.itemsize > most_bytes:
        raise ValueError(f"the attribute {key!r} claims more bytes than the file has")
    value = attributes[key]
    items = value.ravel().tolist() if hasattr(value, "ravel") else [value]
    texts = [item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item for item in items]
    return [text for text in texts if isinstance(text, str)]

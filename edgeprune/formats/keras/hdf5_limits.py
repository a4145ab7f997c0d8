"""HDF5 files, which are not trusted: what leaves the file or grows without bound when it is read is refused."""

from __future__ import annotations

from typing import Any

from edgeprune.errors import InputError

__all__ = ["check_hdf5", "largest_plausible"]

# A weight file expands to about its own size; a thousandfold expansion is an attack (zip bomb).
_LARGEST_RATIO = 1000
_MAX_EXPANDED_BYTES = 8 * 1000**3


def largest_plausible(size_bytes: int) -> int:
    """Bytes that what is packed in a file of `size_bytes` may expand to."""
    return min(_MAX_EXPANDED_BYTES, _LARGEST_RATIO * max(size_bytes, 1))


def check_hdf5(source: Any, *, largest: int) -> None:
    """Walk an HDF5 file (path or binary stream) without reading a value.

    Raises InputError for links of any kind, for data kept in other files, and for data of more than `largest` bytes in
    all; OSError and the like for a damaged file.
    """
    import h5py

    with h5py.File(source, "r") as file:
        expanded, seen, stack = 0, set(), [("", file)]
        while stack:
            place, group = stack.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:  # a group that holds itself
                continue
            seen.add(address)
            for name in group:
                path = f"{place}/{name}"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise InputError(f"refused, {path!r} is a link to somewhere else")
                item = group[name]
                if isinstance(item, h5py.Group):
                    stack.append((path, item))
                elif isinstance(item, h5py.Dataset):
                    if item.external or item.is_virtual:
                        raise InputError(f"refused, the data of {path!r} are kept in another file")
                    expanded += item.size * item.dtype.itemsize if item.size else 0
        if expanded > largest:
            raise InputError(f"refused, its arrays expand to {expanded} bytes (zip bomb?)")

"""What a model file or package costs to download: its bytes as each codec compresses them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeprune.checker.size.codecs import CODECS, LARGE_BYTES, QUICK
from edgeprune.errors import InputError
from edgeprune.host.untrusted import is_folder, open_file, read_whole, status_of

__all__ = ["measure_download"]

_AT_ONCE = 1 << 20


def measure_download(path: Path, codecs: Sequence[str] = QUICK) -> dict[str, int]:
    """Bytes of a model file, or of a package folder such as a .mlpackage, as each of `codecs` compresses it.

    A folder is the sum over its files, each compressed alone as zip does; names, zip headers and the folder's own
    entry do not count. Raises InputError when the path is missing, an empty folder, holds an empty file, a git-lfs
    pointer in place of a model, a link that leads out of the package or anything that is neither file nor folder.
    """
    download_bytes = Counter(dict.fromkeys(codecs, 0))
    # All codecs release the interpreter lock, so the slowest (Brotli) sets the time on two cores or more.
    with ThreadPoolExecutor(len(codecs)) as pool:
        for member in _members(path):
            counts = pool.map(_counter(member), codecs)
            download_bytes.update(dict(zip(codecs, counts, strict=True)))
    return dict(download_bytes)


def _counter(member: Path) -> Callable[[str], int]:
    """Counts the bytes of a file for the codec of a name. A large file is read anew for each, and held by none."""
    size = status_of(member).st_size
    if size > LARGE_BYTES:
        return lambda name: CODECS[name].streamed_bytes(_parts(member), size)
    content = read_whole(member, "a model file")
    return lambda name: CODECS[name].compressed_bytes(content)


def _parts(member: Path) -> Iterator[bytes]:
    with open_file(member, "a model file") as file:
        while part := file.read(_AT_ONCE):
            yield part


def _members(path: Path) -> list[Path]:
    """The file, or every file of a package, sorted by its path inside it."""
    if not is_folder(path):
        return [path]
    members = sorted(_walk(path, path.resolve()))
    if not members:
        raise InputError(f"{path} is a folder without files; name a model file or a package such as a .mlpackage")
    return members


def _walk(folder: Path, package: Path) -> Iterator[Path]:
    """The files under a folder of the package whose real path is `package`."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        file = Path(entry.path)
        if entry.is_symlink():
            _check_link(file, package)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(file, package)
        else:
            status_of(file)
            yield file


def _check_link(link: Path, package: Path) -> None:
    """A copy of the package would lose what a link out of it points to, and a linked folder counts twice or loops."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: how Python 3.11 reports a ring of links
        raise InputError(f"{link} is a broken symbolic link; replace it by the file it stands for") from error
    if not target.is_relative_to(package):
        raise InputError(f"{link} is a symbolic link out of the package; replace it by a copy of {target}")
    if target.is_dir():
        raise InputError(f"{link} is a symbolic link to a folder; replace it by a copy of {target}")

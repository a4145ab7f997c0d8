"""What a model file or package costs to download: its bytes as each codec compresses them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeprune.artifact import GIT_LFS_POINTER
from edgeprune.checker.size.codecs import CODECS, QUICK
from edgeprune.errors import InputError

__all__ = ["measure_download"]


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
            content = _content(member)
            counts = pool.map(lambda name, content=content: CODECS[name].compressed_bytes(content), codecs)
            download_bytes.update(dict(zip(codecs, counts, strict=True)))
    return dict(download_bytes)


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    if not content:
        raise InputError(f"{file} is empty (0 bytes); export the model again")
    if content.startswith(GIT_LFS_POINTER):
        raise InputError(f"{file} is a git-lfs pointer, not the model itself; run 'git lfs pull'")
    return content


def _members(path: Path) -> list[Path]:
    """The file, or every file of a package, sorted by its path inside it."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not is_folder:
        _check_kind(path)
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
            _check_kind(file)
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


def _check_kind(file: Path) -> None:
    if not file.is_file():  # a pipe or a device would be read for ever
        raise InputError(f"{file} is neither a file nor a folder")

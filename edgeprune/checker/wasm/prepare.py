"""Prepare LiteRT.js for `edgeprune bench --wasm`, once; nothing on this machine is changed.

    python -m edgeprune.checker.wasm.prepare [FOLDER]

npm, which comes with node, downloads the package @litertjs/core in one fixed version from this machine's registry; its
checksum must be the one that is written here. What --wasm needs of it, two builds of LiteRT, goes into FOLDER.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import click

from edgeprune.checker.wasm.root import BUILDS, FORMAT, PREPARE, ROOT_FILE, ROOT_VARIABLE, VERSION, load_root, root_path
from edgeprune.errors import InputError, Unsupported
from edgeprune.host.prepared import check_place, fill_folder, prepare_main, run_tool

__all__ = ["main", "prepare"]

PACKAGE = "@litertjs/core"
SHA512 = "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="  # of the registry
TOOLS = ("node", "npm")


def prepare(folder: Path) -> None:
    """Make the folder; does nothing where it is complete. Prints what it does.

    Raises UsageError (the folder holds something else), Unsupported (no node, no package), InputError (a package with
    another checksum) and OutputError.
    """
    if load_root(folder) is not None:
        click.echo(f"{folder}: prepared already; remove it to prepare it again")
        return
    check_place(folder, ROOT_FILE)
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        raise Unsupported(
            f"preparing LiteRT.js needs {', '.join(absent)}, not found here; node brings both: nodejs.org"
        )
    fill_folder(folder, _fill)


def _fill(build: Path, partial: Path) -> None:
    """All files of a prepared folder, root.json last."""
    click.echo(f"{PACKAGE} {VERSION} ...")
    tarball = _download(partial)
    digests = {}
    with tarfile.open(tarball) as archive:
        for name in BUILDS.values():
            # .cjs: node would take a .js file of the package for another kind of module
            for member, target in ((f"{name}.js", f"{name}.cjs"), (f"{name}.wasm", f"{name}.wasm")):
                content = _member(archive, f"package/wasm/{member}")
                (build / target).write_bytes(content)
                digests[target] = hashlib.sha256(content).hexdigest()
    told = {"format": FORMAT, "package": PACKAGE, "version": VERSION, "sha256": digests}
    (build / ROOT_FILE).write_text(json.dumps(told, indent=2) + "\n")


def _download(folder: Path) -> Path:
    """The package, its checksum checked."""
    found = next(iter(folder.glob("*.tgz")), None)
    if found is None or not _is_right(found):
        command = [
            "npm",
            "pack",
            f"{PACKAGE}@{VERSION}",
            "--silent",
            "--ignore-scripts",
            "--pack-destination",
            str(folder),
        ]
        run_tool(command, "npm pack")
        found = next(iter(folder.glob("*.tgz")), None)
    if found is None or not _is_right(found):
        raise InputError(f"{found or folder}: not the {PACKAGE} {VERSION} of the public registry: its checksum differs")
    return found


def _is_right(package: Path) -> bool:
    return base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode() == SHA512


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise InputError(f"{PACKAGE} {VERSION}: no {name} in it")
    return file.read()


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    return prepare_main(
        arguments, prepare, command=PREPARE, usual=root_path(), variable=ROOT_VARIABLE, text=__doc__ or ""
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

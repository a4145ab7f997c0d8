"""Folders that are prepared once, with downloads, by a command of their own; what needs them then needs no network.

Downloads stay in FOLDER.partial until FOLDER is complete, so that a run that was cut off goes on; FOLDER itself appears
whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from edgeprune.errors import EdgepruneError, OutputError, Unsupported, UsageError
from edgeprune.host.children import child_process
from edgeprune.host.interrupts import handlers
from edgeprune.units import format_bytes

__all__ = ["cache_place", "check_place", "fill_folder", "prepare_main", "run_tool"]

TIMEOUT_S = 1800


def cache_place(variable: str, name: str) -> Path:
    """The folder that an environment variable names, else edgeprune/NAME in the user's cache folder."""
    own = os.environ.get(variable)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own).absolute() if own else Path(cache).absolute() / "edgeprune" / name


def check_place(folder: Path, mark: str) -> None:
    """Raise UsageError where a folder holds something else than what is prepared, which a file `mark` tells."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / mark).is_file())):
        raise UsageError(f"{folder} holds something else; give a folder that does not exist")


def fill_folder(folder: Path, fill: Callable[[Path, Path], None]) -> None:
    """Make `folder`, which `check_place` let pass: `fill` gets a new folder, which takes its place in the end, and one
    for downloads. Raises OutputError, and what `fill` does.
    """
    partial = folder.with_name(folder.name + ".partial")
    build = partial / "build"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        fill(build, partial)
        shutil.rmtree(folder, ignore_errors=True)
        build.rename(folder)
        shutil.rmtree(partial)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error}") from error
    click.echo(f"{folder}: complete, {format_bytes(_size(folder))}")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def run_tool(command: Sequence[str], purpose: str, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints. Raises Unsupported with the last lines of it."""
    settings = {"LC_ALL": "C", **(environment or {})}
    try:  # package tools, no model: they need the network
        with child_process(command, writable=None, stderr=subprocess.STDOUT, settings=settings) as child:
            text = child.communicate(timeout=TIMEOUT_S)[0].decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unsupported(f"{purpose} failed: {error}") from error
    if child.returncode != 0:
        marks = ("E:", "ERROR", "error", "npm error", "npm ERR!")
        telling = [line.strip() for line in text.splitlines() if line.startswith(marks)]
        last = " | ".join((telling or [line for line in text.splitlines() if line.strip()])[-2:])
        raise Unsupported(f"{purpose} failed (status {child.returncode}): {last[:400]}")
    return text


def prepare_main(
    arguments: Sequence[str], prepare: Callable[[Path], None], *, command: str, usual: Path, variable: str, text: str
) -> int:
    """What `python -m ...prepare [FOLDER]` does; the exit code."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        click.echo(f"usage: {command} [FOLDER]   (default: {usual})\n\n{text}", err=True)
        return 0 if list(arguments) in (["--help"], ["-h"]) else 2
    try:
        with handlers():
            prepare(Path(arguments[0]).absolute() if arguments else usual)
    except EdgepruneError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    if arguments:
        click.echo(f"Use it: {variable}={Path(arguments[0]).absolute()}")
    return 0

"""The configuration of a project: its budgets in edgeprune.toml or pyproject.toml, and the files they are for."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeprune.checker.budget import Budget, read_budget
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.host.toml_values import known_keys, read_toml
from edgeprune.units import format_bytes

__all__ = ["CONFIG", "Config", "download_of", "find_config", "load_config", "matches", "sample_config"]

CONFIG = "edgeprune.toml"
PYPROJECT = "pyproject.toml"
_MOST_IN_SAMPLE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The budgets in a file; globs count from the folder that it is in."""

    path: Path
    budgets: tuple[Budget, ...]


def find_config(start: Path) -> Path | None:
    """The nearest edgeprune.toml, or pyproject.toml with [tool.edgeprune], in `start` or above it.

    Not above the folder that holds .git. An empty one is none: a shell makes it before `edgeprune check >
    edgeprune.toml` runs.
    """
    for folder in (start, *start.parents):
        own = folder / CONFIG
        if own.is_file() and own.stat().st_size:
            return own
        project = folder / PYPROJECT
        if project.is_file() and project.stat().st_size and _tool_table(read_toml(project)[1]) is not None:
            return project
        if (folder / ".git").exists():
            return None
    return None


def _tool_table(raw: Mapping[str, object]) -> object:
    """What stands under [tool.edgeprune], None when nothing does."""
    tools = raw.get("tool")
    return tools.get("edgeprune") if isinstance(tools, Mapping) else None


def load_config(path: Path) -> Config:
    """The budgets in `path`. Raises InputError (cannot be read) and RecipeError (not right as it stands)."""
    whole = read_toml(path)[1]
    raw = _tool_table(whole) if path.name == PYPROJECT else whole
    if raw is None:
        raise RecipeError(f"{path}: no [tool.edgeprune] in it; budgets are tables [[tool.edgeprune.budget]]")
    found = known_keys(path, "tool.edgeprune" if path.name == PYPROJECT else "", raw, ("budget",))
    tables = found.get("budget", [])
    prefix = "tool.edgeprune.budget" if path.name == PYPROJECT else "budget"
    if not isinstance(tables, list) or not tables:
        raise RecipeError(f"{path}: no budget in it; write a table [[{prefix}]] for each, with a path and a limit")
    return Config(path=path, budgets=tuple(_budget(path, f"{prefix} {n}", table) for n, table in enumerate(tables, 1)))


def _budget(path: Path, where: str, raw: object) -> Budget:
    """A table of the configuration, whose `path` must be a glob in its folder."""
    if isinstance(raw, Mapping) and raw and "path" not in raw:
        raise RecipeError(f'{path}: [{where}] names no file; add path = "models/*.tflite"')
    budget = read_budget(path, where, raw)
    pattern = budget.path
    if not pattern or PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise RecipeError(f"{path}: [{where}] path {pattern!r} must lie in the folder of this file")
    try:
        if any("**" in part and part != "**" for part in PurePosixPath(pattern).parts):
            raise ValueError("** stands alone between slashes")  # Python 3.13 would take it for *
        next(iter(path.glob(pattern)), None)  # below a file there is nothing: only the pattern is looked at
    except (ValueError, IndexError, AttributeError, re.error) as cause:  # AttributeError: pathlib's answer to "./"
        raise RecipeError(
            f"{path}: [{where}] path {pattern!r} is no glob; write one such as models/*.tflite"
        ) from cause
    return budget


def matches(config: Config, budget: Budget) -> list[Path]:
    """The files (or packages) that a budget is for, sorted. Raises RecipeError when there are none."""
    found = sorted(config.path.parent.glob(budget.path))
    if not found:
        raise RecipeError(
            f"{config.path}: [{budget.where}] path {budget.path!r} matches no file in "
            f"{config.path.parent.resolve()}; correct it, or build the model first"
        )
    return found


def sample_config(folder: Path, files: Sequence[Path] | None = None) -> str:
    """A configuration for model files and app bundles in `folder` (else a few that lie in and below it), with a tenth
    to spare; one that cannot be read is left out."""
    if files is None:
        from edgeprune.checker.folder import exported_files

        files = exported_files(folder)[:_MOST_IN_SAMPLE]
    sizes = {path: download_of(path) for path in files}
    tables = [
        _sample_budget(glob.escape(path.relative_to(folder).as_posix()), format_bytes(size * 11 // 10))
        for path, size in sizes.items()
        if size is not None
    ]
    return "\n".join(tables) or _sample_budget("models/*.tflite", "350 kB")


def download_of(path: Path) -> int | None:
    """Deflated bytes of a model file, of an app bundle those of its largest model; None where it cannot be read."""
    from edgeprune.checker.size.models_behind import sources_of

    try:
        models = sources_of(path, ("deflate",)).models
    except EdgepruneError:  # a broken file is no reason to show nothing
        return None
    return max((model.record.download_bytes["deflate"] for model in models), default=None)


def _sample_budget(pattern: str, size: str) -> str:
    return (
        f"[[budget]]\npath = {json.dumps(pattern)}\n"  # TOML reads JSON's strings
        f'download = "{size}"  # deflate, as in an APK or IPA\n# growth = "2 %"  # against --baseline\n'
    )

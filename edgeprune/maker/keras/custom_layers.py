"""Layers of the user's own, from a Python file that the user names."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edgeprune.errors import UsageError
from edgeprune.host.untrusted import check_file

__all__ = ["custom_objects", "python_module", "training_objects"]

_modules: dict[Path, ModuleType] = {}  # a file registers its classes with Keras, which it can do once only


def custom_objects(files: Sequence[Path], keras: ModuleType) -> dict[str, type]:
    """Run Python files; every Keras layer defined in them by its name, and all that is registered with Keras.

    Raises InputError for a missing file and UsageError, with the line, for a file that fails.
    """
    found: dict[str, type] = {}
    for file in files:
        module = python_module(file, f"--custom {file}")
        layers = {
            name: value
            for name, value in vars(module).items()
            if inspect.isclass(value) and issubclass(value, keras.layers.Layer) and value.__module__ == module.__name__
        }
        found |= layers
    return {**keras.saving.get_custom_objects(), **found}


def training_objects(files: Sequence[Path]) -> dict[str, object]:
    """What can be called in Python files that were run (losses, metrics), by its name."""
    modules = [_modules[file.resolve()] for file in files if file.resolve() in _modules]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_")
    }


def python_module(file: Path, what: str) -> ModuleType:
    """A Python file, run once; `what` names it in errors. Raises as `custom_objects`."""
    check_file(file, "a Python file")
    path = file.resolve()
    if path in _modules:
        return _modules[path]
    name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"custom_{len(_modules)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{what}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as cause:
        del sys.modules[name]
        raise UsageError(f"{what}, line {_line(path, cause)}: {type(cause).__name__}: {cause}") from cause
    _modules[path] = module
    return module


def _line(path: Path, cause: BaseException) -> int:
    """The last line of the file that the error came through."""
    if isinstance(cause, SyntaxError) and cause.lineno:
        return cause.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == str(path)]
    return next((line for line in reversed(lines) if line), 1)

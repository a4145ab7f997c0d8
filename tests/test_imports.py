"""Who may import whom: the ranks of the house plan, the checker wing's diet, and the public names of every module."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT, TESTS

from edgeprune.commands.cli import VERBS

# Who may be imported by whom: each room from those before it, and from itself. The longest matching prefix counts.
RANKS: tuple[tuple[str, ...], ...] = (
    ("edgeprune.errors", "edgeprune.units", "edgeprune.artifact"),  # words
    ("edgeprune.host",),
    ("edgeprune.verdict", "edgeprune.step_reports", "edgeprune.answers", "edgeprune.ledger", "edgeprune.points"),
    ("edgeprune.formats",),
    ("edgeprune.runtime",),
    ("edgeprune.checker",),
    ("edgeprune.report",),
    ("edgeprune.maker",),
    ("edgeprune.converters",),
    ("edgeprune.maker.recipe",),  # the exception: a run converts what it made
    ("edgeprune.maker.search",),  # and a search makes runs
    ("edgeprune.commands",),
)
# What may name TensorFlow and its kin.
MAKERS = ("maker", "converters")
HEAVY = {"tensorflow", "keras", "coremltools", "tf_keras", "tensorflow_model_optimization", "sklearn"}


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the package in a source tree."""
    for folder, package in (("edgeprune", "edgeprune"), ("converters", "edgeprune.converters")):
        for file in sorted((root / folder).rglob("*.py")):
            parts = [package, *file.relative_to(root / folder).with_suffix("").parts]
            yield ".".join(parts).removesuffix(".__init__"), file


def imports_of(file: Path, name: str) -> Iterator[str]:
    """Every dotted name that a file imports, at the top and inside functions; not those for type checkers only."""
    is_package = file.name == "__init__.py"
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            module = ".".join([*above, node.module] if node.module else above)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(name: str) -> int | None:
    """The place in RANKS of the longest known prefix; None for other packages. A new top module must be given one."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        for number, prefixes in enumerate(RANKS):
            if ".".join(parts[:length]) in prefixes:
                return number
    return None


def is_light(name: str) -> bool:
    """Whether a module must do without TensorFlow: all but the maker and the converters."""
    return name.split(".")[1:2] != [] and name.split(".")[1] not in MAKERS


def breaches(root: Path) -> list[str]:
    """Every import that goes up, or that loads a heavy package outside the maker and the converters."""
    found = []
    known = dict(modules(root))
    for name, file in known.items():
        if name in ("edgeprune", "edgeprune.__main__"):  # one resolves its names on first use, the other is the door
            continue
        own = room(name)
        assert own is not None, f"{name} has no rank"
        for target in imports_of(file, name):
            if target.split(".")[0] in HEAVY and is_light(name):
                found.append(f"{name} imports {target}")
            above = room(target) if target in known else None
            if above is not None and above > own:
                found.append(f"{name} imports {target}")
    return sorted(set(found))


def test_imports_go_down() -> None:
    """No module imports from its own rank or a higher one, inside functions neither."""
    assert breaches(ROOT) == []


@pytest.mark.parametrize(
    ("victim", "line", "told"),
    [
        ("units.py", "from edgeprune.commands.cli import main", "units imports edgeprune.commands.cli"),
        ("maker/training/metrics.py", "import edgeprune.maker.recipe", "metrics imports edgeprune.maker.recipe"),
        ("maker/keras/models.py", "def f():\n    from edgeprune import converters", "imports edgeprune.converters"),
        ("host/outputs.py", "from .. import runtime", "edgeprune.host.outputs imports edgeprune.runtime"),
        ("formats/tflite/__init__.py", "from ...checker.size import codecs", "imports edgeprune.checker.size"),
        ("../converters/parity.py", "import edgeprune.commands.run", "parity imports edgeprune.commands.run"),
        ("checker/size/codecs.py", "def f():\n    import keras.ops", "codecs imports keras.ops"),
        ("commands/check.py", "import tensorflow", "edgeprune.commands.check imports tensorflow"),
    ],
)
def test_the_rule_bites(tmp_path: Path, victim: str, line: str, told: str) -> None:
    """A planted import that goes up, in any spelling, is found."""
    for folder in ("edgeprune", "converters"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "edgeprune" / victim).open("a") as file:
        file.write(f"\n{line}\n")
    assert any(told in breach for breach in breaches(tmp_path))


def loaded_by(code: str) -> set[str]:
    """Names of all modules that are loaded when a piece of code has run in a fresh interpreter."""
    script = (
        "import contextlib, io, json, sys\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        + "".join(f"    {line}\n" for line in code.splitlines())
        + "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("option", ["--help", "--version", *(f"{verb} --help" for verb in VERBS)])
def test_help_is_light(option: str) -> None:
    """Help and version import neither NumPy nor TensorFlow nor anything that needs them."""
    loaded = loaded_by(f"from edgeprune.commands.cli import main\nmain({option.split()!r})")
    assert loaded & (HEAVY | {"numpy", "tflite", "rich", "brotli", "zstandard"}) == set()
    assert "edgeprune.commands.cli" in loaded


def test_check_is_light() -> None:
    """`edgeprune check` reads a model without TensorFlow, Keras or coremltools, and leaves the interpreter alone."""
    model = TESTS / "files" / "int8.tflite"
    loaded = loaded_by(f"from edgeprune.commands.cli import main\nmain(['check', {str(model)!r}])")
    assert "edgeprune.formats.tflite.flatbuffer" in loaded
    assert loaded & (HEAVY | {"ai_edge_litert", "tflite_runtime", "h5py", "edgeprune.maker.keras.models"}) == set()


def test_a_quick_check_loads_what_it_needs() -> None:
    """It takes longer to load modules than to read a small model: no slow codec, no estimates, no bundles, no schema in
    whole."""
    model = str(TESTS / "files" / "int8.tflite")
    arguments = ["check", model, "--show", "--fast"]
    loaded = loaded_by(f"from edgeprune.commands.cli import main\nmain({arguments!r})")
    assert "edgeprune.formats.tflite.flatbuffer" in loaded
    ours = {"checker.latency.estimate", "checker.latency.profiles", "formats.bundles.bundle", "formats.coreml.mil"}
    others = {"brotli", "msgspec", "rich", "tempfile", "tflite", "tflite.WhileOptions", "xml.etree.ElementTree"}
    assert loaded & (others | {f"edgeprune.{name}" for name in ours}) == set()


def test_the_checker_wing_is_light() -> None:
    """Importing every module of the checker wing imports nothing heavy, not even indirectly."""
    names = [name for name, _ in modules(ROOT) if is_light(name) and name != "edgeprune.__main__"]
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert set(names) <= loaded
    assert loaded & (HEAVY | {"ai_edge_litert", "tflite_runtime"}) == set()


def all_of(file: Path) -> list[str] | None:
    """The literal value of __all__ in a file."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            value = ast.literal_eval(node.value)
            assert isinstance(value, list)
            return value
    return None


def names_in(file: Path) -> set[str]:
    """Names defined or imported at the top of a file, and those that its __getattr__ may resolve."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


MODULES = [(name, file) for name, file in modules(ROOT) if file.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize(("name", "file"), MODULES, ids=[name for name, _ in MODULES])
def test_public_names(name: str, file: Path) -> None:
    """Every module lists its public names, each once, sorted (constants, classes, functions), and each exists."""
    public = all_of(file)
    assert public is not None, "no __all__"
    assert public == sorted(set(public), key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))
    assert set(public) <= names_in(file)


def test_the_package_resolves_its_names() -> None:
    """Each public name of the package itself can be had, and asking for one does not import TensorFlow."""
    import edgeprune

    for name in getattr(edgeprune, "__all__", []):
        assert getattr(edgeprune, name) is not None
    loaded = loaded_by("import edgeprune")
    assert loaded & (HEAVY | {"numpy"}) == set()


def test_the_installed_package_is_this_one() -> None:
    """The tests run against this source tree or a wheel built from it: every module can be found."""
    assert [name for name, _ in modules(ROOT) if importlib.util.find_spec(name) is None] == []


def test_every_folder_is_in_the_wheel() -> None:
    """The list of packages is written by hand, since two of them lie beside the others."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    samples = {name for name in setuptools["packages"] if name.startswith("edgeprune.sample_models.")}
    there = {
        ".".join(("edgeprune" if top == "converters" else "", *file.parent.relative_to(ROOT).parts)).lstrip(".")
        for top in ("edgeprune", "converters")
        for file in (ROOT / top).rglob("__init__.py")
        if "edgeprune/converters" not in file.as_posix()
    }
    assert set(setuptools["packages"]) - samples == there
    assert {name: setuptools["package-dir"][name] for name in samples} == {
        "edgeprune.sample_models.shapes": "sample_models/shapes"
    }

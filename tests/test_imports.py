"""Who may import whom: the ranks of the house plan, the checker wing's diet, and the public names of every module."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A module imports only from lower ranks, or from its own family (folder). The longest matching prefix counts.
RANKS: dict[str, int] = {
    "edgeprune": 0,  # the package itself resolves its public names on first use and is exempt
    "edgeprune.errors": 0,
    "edgeprune.interrupts": 0,
    "edgeprune.hdf5_files": 1,
    "edgeprune.units": 1,
    "edgeprune.artifact": 2,
    "edgeprune.toml_values": 2,
    "edgeprune.report.table": 2,
    "edgeprune.graph": 3,
    "edgeprune.runtime": 3,
    "edgeprune.contents": 4,  # reads a graph
    "edgeprune.size": 5,
    "edgeprune.latency": 5,  # asks a runtime
    "edgeprune.arm": 5,
    "edgeprune.progress": 5,
    "edgeprune.output": 5,
    "edgeprune.metrics": 5,
    "edgeprune.recipe_tables": 5,
    "edgeprune.recipe_steps": 6,
    "edgeprune.recipe": 7,
    "edgeprune.budget": 6,
    "edgeprune.ledger": 6,
    "edgeprune.report": 7,  # of ledgers
    "edgeprune.datasets": 7,
    "edgeprune.saved_models": 6,
    "edgeprune.keras_models": 7,
    "edgeprune.custom_layers": 7,
    "edgeprune.keras2_layers": 5,
    "edgeprune.keras2_ops": 5,
    "edgeprune.keras2": 6,
    "edgeprune.keras2_weights": 8,
    "edgeprune.model_files": 9,
    "edgeprune.augmentation": 7,
    "edgeprune.distillation": 8,
    "edgeprune.training": 9,
    "edgeprune.pruning": 10,
    "edgeprune.quantization": 10,
    "edgeprune.converters": 11,
    "edgeprune.summary": 12,
    "edgeprune.narrowing": 12,
    "edgeprune.ledger_entries": 12,
    "edgeprune.preparation": 13,
    "edgeprune.pipeline": 14,
    "edgeprune.check": 14,
    "edgeprune.compare": 14,
    "edgeprune.inspection": 14,
    "edgeprune.channel_verbs": 14,
    "edgeprune.verify_verbs": 13,
    "edgeprune.export_verbs": 14,
    "edgeprune.latency_verbs": 14,
    "edgeprune.arm_verbs": 14,
    "edgeprune.verbs": 15,
    "edgeprune.options": 14,
    "edgeprune.commands": 16,
    "edgeprune.cli": 17,
    "edgeprune.__main__": 18,
}
# The checker wing: everything that `edgeprune check` and a look at a ledger need.
CHECKER = (
    "errors",
    "interrupts",
    "units",
    "toml_values",
    "artifact",
    "report",
    "graph",
    "hdf5_files",
    "runtime",
    "contents",
    "size",
    "latency",
    "budget",
    "latency_verbs",
    "arm",
    "arm_verbs",
    "check",
    "commands",
    "options",
    "compare",
    "inspection",
    "ledger",
)
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


def rank(name: str) -> int | None:
    """The rank of the longest known prefix; None for other packages. A new top module must be given a rank."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        found = RANKS.get(".".join(parts[:length]))
        if found is not None:
            return found
    return RANKS["edgeprune"] if name == "edgeprune" else None


def family(name: str) -> str:
    """The folder that a module lives in, or the module itself."""
    return ".".join(name.split(".")[:2])


def breaches(root: Path) -> list[str]:
    """Every import that goes up, or that loads a heavy package into the checker wing."""
    found = []
    known = dict(modules(root))
    for name, file in known.items():
        own = rank(name)
        assert own is not None, f"{name} has no rank"
        for target in imports_of(file, name):
            if target.split(".")[0] in HEAVY and name.split(".")[1:2] and name.split(".")[1] in CHECKER:
                found.append(f"{name} imports {target}")
            if target not in known or "edgeprune" in (target, name) or family(target) == family(name):
                continue
            above = rank(target)
            if above is not None and above >= own:
                found.append(f"{name} imports {target}")
    return sorted(set(found))


def test_imports_go_down() -> None:
    """No module imports from its own rank or a higher one, inside functions neither."""
    assert breaches(ROOT) == []


@pytest.mark.parametrize(
    ("victim", "line", "told"),
    [
        ("edgeprune/units.py", "from edgeprune.cli import main", "edgeprune.units imports edgeprune.cli"),
        ("edgeprune/metrics.py", "import edgeprune.recipe", "edgeprune.metrics imports edgeprune.recipe"),
        ("edgeprune/pruning/held.py", "def f():\n    from edgeprune import pipeline", "imports edgeprune.pipeline"),
        ("edgeprune/datasets.py", "from . import keras_models", "edgeprune.datasets imports edgeprune.keras_models"),
        ("edgeprune/graph/__init__.py", "from ..size import codecs", "edgeprune.graph imports edgeprune.size"),
        ("converters/parity.py", "import edgeprune.verbs", "edgeprune.converters.parity imports edgeprune.verbs"),
        ("edgeprune/size/codecs.py", "def f():\n    import keras.ops", "edgeprune.size.codecs imports keras.ops"),
    ],
)
def test_the_rule_bites(tmp_path: Path, victim: str, line: str, told: str) -> None:
    """A planted import that goes up, in any spelling, is found."""
    for folder in ("edgeprune", "converters"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / victim).open("a") as file:
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


@pytest.mark.parametrize("option", ["--help", "--version", "run --help", "check --help"])
def test_help_is_light(option: str) -> None:
    """Help and version import neither NumPy nor TensorFlow nor anything that needs them."""
    loaded = loaded_by(f"from edgeprune.cli import main\nmain({option.split()!r})")
    assert loaded & (HEAVY | {"numpy", "tflite", "rich", "brotli", "zstandard", "edgeprune.verbs"}) == set()
    assert "edgeprune.cli" in loaded


def test_check_is_light() -> None:
    """`edgeprune check` reads a model without TensorFlow, Keras or coremltools, and leaves the interpreter alone."""
    model = Path(__file__).parent / "files" / "int8.tflite"
    loaded = loaded_by(f"from edgeprune.cli import main\nmain(['check', {str(model)!r}])")
    assert "edgeprune.graph.tflite" in loaded
    assert loaded & (HEAVY | {"ai_edge_litert", "tflite_runtime", "h5py", "edgeprune.keras_models"}) == set()


def test_the_checker_wing_is_light() -> None:
    """Importing every module of the checker wing imports nothing heavy, not even indirectly."""
    names = [name for name, _ in modules(ROOT) if name.split(".")[1:2] and name.split(".")[1] in CHECKER]
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

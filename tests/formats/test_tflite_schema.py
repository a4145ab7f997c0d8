"""The few classes of the schema that are read, without the many that are not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import TESTS

FILES = TESTS / "files"
READ = "from pathlib import Path; from edgeprune.formats import read_contents; read_contents(Path(sys.argv[1]));"
CHECKS = {
    "reading loads no more than it needs": "print('tflite' in sys.modules or 'tflite.WhileOptions' in sys.modules)",
    "the package is whole for who wants it": "import tflite; from edgeprune.formats.tflite.schema import schema;"
    "print(tflite.Model is not schema.Model or not tflite.ModelStart or not tflite.WhileOptions)",
}


@pytest.mark.parametrize("code", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name", ["int8.tflite", "float32_sparse.tflite"])
def test_the_schema_in_part(name: str, code: str) -> None:
    """In a process of its own, as what is loaded stays loaded."""
    command = [sys.executable, "-c", f"import sys; {READ} {code}", str(FILES / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

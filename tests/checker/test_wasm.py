"""Times in WebAssembly: what is asked of node and made of its replies; real runs only where LiteRT.js is prepared."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from places import TESTS

from edgeprune.checker.wasm import prepare, root, timing
from edgeprune.checker.wasm.root import BUILDS, WasmRoot, load_root, node_version, wasm_root
from edgeprune.errors import InputError, RuntimeFailure, Unsupported
from edgeprune.runtime.session import RunResult

FILES = TESTS / "files"
PREPARED = load_root(root.root_path()) if shutil.which("node") else None
real = pytest.mark.skipif(PREPARED is None, reason="python -m edgeprune.checker.wasm.prepare has not been run")
Call = Callable[..., Outcome]

# Speaks as runner.cjs does: the third file takes SPEED times as long, and computes OUTPUT.
FAKE = """#!{python}
import json, sys
if sys.argv[1:] == ["--version"]:
    print("v22.1.0")
    sys.exit()
job = json.loads(sys.stdin.readline())
if {error!r}:
    print(json.dumps({{"error": {error!r}}}))
    sys.exit()
slow = [{speed} if "float32_sparse" in path else 1.0 for path in job["paths"]]
rows = [[1e6 * (s + 0.001 * (row % 3)) for s in slow] for row in range(job["pairs"])]
alone = rows[: job["singles"]]
told = [{{"name": "y", "element": 1, "shape": [1, {width}], "bytes": {output!r}}}]
print(json.dumps({{"progress": [1, 2]}}))
times = {{"cpu_ns": rows, "wall_ns": rows, "single_cpu_ns": alone, "single_wall_ns": alone}}
print(json.dumps({{"result": {{"outputs": [told] * len(slow), **times}}}}))
"""


def fake_node(folder: Path, values: np.ndarray, *, speed: float = 0.5, error: str = "") -> Path:
    """A program in node's place, which computes `values` for every file."""
    path = folder / "node"
    output = base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
    text = FAKE.format(python=sys.executable, speed=speed, output=output, width=np.size(values), error=error)
    path.write_text(text)
    path.chmod(0o755)
    return path


def made_root(folder: Path) -> Path:
    """A prepared folder with empty modules."""
    names = [f"{name}{suffix}" for name in BUILDS.values() for suffix in (".cjs", ".wasm")]
    for name in names:
        (folder / name).write_bytes(b"")
    digests = dict.fromkeys(names, hashlib.sha256(b"").hexdigest())
    (folder / "root.json").write_text(json.dumps({"format": 1, "version": root.VERSION, "sha256": digests}))
    return folder


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the interpreter of this host computes; none is started."""
    values = np.array([[0.0, 0.25, 1.0]], np.float32)

    def run(path: Path, inputs: Any, *, runtime: str) -> RunResult:
        assert all(array.shape[:2] == (1, 1) for array in inputs.values())  # a sample, with the batch of the file
        kinds = {"y": "float32"}
        return RunResult(
            outputs=dict.fromkeys(names(path), values),
            runtime=runtime,
            version="2",
            samples=1,
            input_dtypes={},
            output_dtypes=kinds,
        )

    monkeypatch.setattr(timing, "run_tflite", run)
    monkeypatch.setattr(timing, "installed_runtimes", lambda: {"litert": "2.3.0"})
    monkeypatch.setattr(timing, "newest_runtime", lambda: "litert")
    return values


def names(path: Path) -> list[str]:
    """Of the outputs of a file."""
    from edgeprune.formats.tflite.metadata import read_metadata

    return [end.name for end in read_metadata(path).outputs]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray) -> Path:
    """A prepared folder, and a fake node that is found."""
    place = tmp_path / "wasm"
    place.mkdir()
    monkeypatch.setenv(root.ROOT_VARIABLE, str(made_root(place)))
    programs = tmp_path / "bin"
    programs.mkdir()
    fake_node(programs, expected)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return programs


def test_a_verdict(call: Call, prepared: Path) -> None:
    """Paired times as bench has them, called what they are, and outputs held against this host."""
    sparse, dense = FILES / "float32_sparse.tflite", FILES / "float32.tflite"
    done = call("bench", sparse, "--against", dense, "--wasm", "--processes", "2", "--pairs", "5", "-q")
    assert (done.code, done.err) == (0, "")
    assert "faster: 0.50" in done.out
    assert "CPU time of the process on this host, LiteRT.js 2.5.3 (relaxed SIMD) under node 22.1.0" in done.out
    assert done.out.count("are off by at most 0 % of their range from litert 2.3.0 on this host") == 2


def test_json_and_the_other_build(call: Call, prepared: Path) -> None:
    """One file alone has no verdict."""
    options = ["--wasm", "--wasm-build", "compat", "--processes", "1", "--json", "-q"]
    told = json.loads(call("bench", FILES / "float32.tflite", *options).out)
    assert (told["runtime"], told["verdict"]) == ("LiteRT.js", None)
    assert told["runtime_version"] == "2.5.3 (SIMD without relaxed instructions) under node 22.1.0"
    assert [(check["runtime"], check["error"]) for check in told["outputs_against_host"]] == [("litert 2.3.0", 0.0)]


def test_other_outputs_are_no_comparison(call: Call, prepared: Path) -> None:
    """A file that computes something else there is not timed against anything."""
    fake_node(prepared, np.array([[0.0, 0.5, 1.0]]))
    done = call("bench", FILES / "float32.tflite", "--wasm", "--processes", "1", "-q")
    done.error(3, "off by 25 % of its range from litert 2.3.0")


def test_refusals_of_the_runtime(call: Call, prepared: Path) -> None:
    """What the child tells is one line."""
    fake_node(prepared, np.zeros((1, 3)), error="a.tflite: the file was refused: no such operator")
    call("bench", FILES / "float32.tflite", "--wasm", "-q").error(3, "LiteRT.js 2.5.3: a.tflite: the file was refused")


def test_usage(call: Call, prepared: Path, tmp_path: Path) -> None:
    """Options that have no meaning with it."""
    model = FILES / "float32.tflite"
    call("bench", model, "--wasm", "--runtime", "litert").error(2, "drop --runtime")
    call("bench", model, "--wasm", "--arm", "cortex-a76").error(2, "--arm")
    call("bench", model, "--wasm", "--batch", "1,2").error(2, "--batch")
    call("bench", model, "--wasm-build", "compat").error(2, "goes with --wasm")
    call("bench", tmp_path / "m.onnx", "--wasm").error(2, "takes .tflite files")
    call("bench", FILES / "open_height.tflite", "--wasm", "-q").error(3, "open sizes")


def test_not_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without node, without the package, with one that was changed: what to type."""
    place = tmp_path / "wasm"
    monkeypatch.setenv(root.ROOT_VARIABLE, str(place))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="needs node"):
        wasm_root()
    fake_node(tmp_path, np.zeros(1))
    with pytest.raises(Unsupported, match=r"python -m edgeprune\.checker\.wasm\.prepare"):
        wasm_root()
    place.mkdir()
    made_root(place)
    assert wasm_root().node_version == "22.1.0"
    (place / "litert_wasm_internal.cjs").write_text("other()")
    with pytest.raises(Unsupported, match="not found whole"):
        wasm_root()


def test_old_nodes(tmp_path: Path) -> None:
    """Which lack what the builds need, and programs that are no node."""
    program = tmp_path / "node"
    for text, told in (("v18.19.0", "18.19.0"), ("hello", "hello")):
        program.write_text(f"#!/bin/sh\necho {text}\n")
        program.chmod(0o755)
        with pytest.raises(Unsupported, match=told):
            node_version(str(program))


def package(folder: Path) -> Path:
    """What npm would download."""
    path = folder / "litertjs-core-2.5.3.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in BUILDS.values():
            for suffix in (".js", ".wasm"):
                info = tarfile.TarInfo(f"package/wasm/{name}{suffix}")
                info.size = len(name)
                archive.addfile(info, io.BytesIO(name.encode()))
    return path


def test_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Both builds under names that node loads; not again where it is complete; another checksum is refused."""
    (tmp_path / "dist").mkdir()
    tarball = package(tmp_path / "dist")

    def npm(command: list[str], _: str) -> str:
        assert command[:3] == ["npm", "pack", "@litertjs/core@2.5.3"]
        shutil.copy(tarball, command[-1])
        return ""

    monkeypatch.setattr(prepare, "run_tool", npm)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    place = tmp_path / "wasm"
    with pytest.raises(InputError, match="its checksum differs"):
        prepare.prepare(place)
    assert not place.exists()
    right = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    monkeypatch.setattr(prepare, "SHA512", right)
    assert prepare.main([str(place)]) == 0
    assert f"EDGEPRUNE_WASM_ROOT={place}" in capsys.readouterr().out
    assert load_root(place) == place
    assert (place / "litert_wasm_internal.cjs").read_bytes() == b"litert_wasm_internal"
    assert prepare.main([str(place)]) == 0
    assert "prepared already" in capsys.readouterr().out


def test_prepare_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with other files is left alone; without npm it is one line."""
    (tmp_path / "mine.txt").touch()
    assert prepare.main([str(tmp_path)]) == 2
    assert (tmp_path / "mine.txt").exists()
    monkeypatch.setattr("shutil.which", lambda name: None if name == "npm" else f"/bin/{name}")
    capsys.readouterr()
    assert prepare.main([str(tmp_path / "wasm")]) == 3
    assert "needs npm, not found here" in capsys.readouterr().err


def test_outputs_far_off_are_told() -> None:
    """As a share of the range; shapes that do not fit are infinitely far."""
    assert timing._error(np.array([0.0, 2.0]), np.array([0.0, 1.5])) == 0.25
    assert timing._error(np.array([0.0, 2.0]), np.array([0.0])) == float("inf")
    assert timing._error(np.array([3.0]), np.array([3.5])) == 0.5


@real
@pytest.mark.alone
@pytest.mark.slow
def test_real_files(call: Call) -> None:
    """int8 and float32 files compute in WebAssembly what they compute here, and a file is as fast as itself."""
    for name in ("int8.tflite", "float32.tflite", "eligible_sparse.tflite"):
        done = call("bench", FILES / name, "--wasm", "--processes", "1", "--pairs", "3", "-q")
        assert done.code == 0, done.err
        assert "of their range from" in done.out


@real
@pytest.mark.slow
def test_a_broken_file() -> None:
    """Is a refusal, not a crash of this process."""
    place = wasm_root()
    broken = TESTS / "runtime_files" / "too_new.tflite"
    with pytest.raises((RuntimeFailure, InputError, Unsupported)):
        timing.timed_in_wasm(broken, broken, place, "compat", processes=1, pairs=1)
    assert isinstance(place, WasmRoot)

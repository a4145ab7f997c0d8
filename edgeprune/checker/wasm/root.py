"""Where the prepared LiteRT.js stands, and the node that runs it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import Unsupported
from edgeprune.host.children import child_process
from edgeprune.host.prepared import cache_place

__all__ = [
    "BUILDS",
    "PREPARE",
    "ROOT_VARIABLE",
    "VERSION",
    "WasmRoot",
    "load_root",
    "node_version",
    "root_path",
    "wasm_root",
]

FORMAT = 1  # of a prepared folder: another number means that it must be prepared again
ROOT_FILE = "root.json"
ROOT_VARIABLE = "EDGEPRUNE_WASM_ROOT"
PREPARE = "python -m edgeprune.checker.wasm.prepare"
VERSION = "2.5.3"  # of @litertjs/core
# How fast WebAssembly multiplies depends on the instructions that a browser has: the name of each build's module.
BUILDS = {"relaxed": "litert_wasm_internal", "compat": "litert_wasm_compat_internal"}
NODE = "node"
OLDEST_NODE = 20
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class WasmRoot:
    """A prepared folder with the modules of LiteRT.js, and the node of this machine."""

    path: Path
    version: str
    node: str
    node_version: str

    def module(self, build: str) -> Path:
        """The script that loads a build; its .wasm file lies beside it."""
        return self.path / f"{BUILDS[build]}.cjs"


def node_version(node: str) -> str:
    """What `node --version` says, without its v. Raises Unsupported for a node that does not start, or an old one."""
    try:
        with child_process([node, "--version"], writable=[], stderr=subprocess.DEVNULL) as child:
            text = child.communicate(timeout=TIMEOUT_S)[0].decode(errors="replace").strip().removeprefix("v")
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise Unsupported(f"{node} cannot be started: {cause}") from cause
    major = text.partition(".")[0]
    if not major.isdecimal() or int(major) < OLDEST_NODE:
        raise Unsupported(f"--wasm needs node {OLDEST_NODE} or later, and {node} is {text or 'of no known version'}")
    return text


def root_path() -> Path:
    """EDGEPRUNE_WASM_ROOT, else edgeprune/wasm in the user's cache folder."""
    return cache_place(ROOT_VARIABLE, "wasm")


def load_root(path: Path) -> Path | None:
    """The prepared folder at a path; None where there is none, one of another version, or one that was changed."""
    try:
        told = json.loads((path / ROOT_FILE).read_text())
        if (told["format"], told["version"]) != (FORMAT, VERSION):
            return None
        for name, digest in told["sha256"].items():
            if hashlib.sha256((path / Path(name).name).read_bytes()).hexdigest() != digest:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return path


def wasm_root() -> WasmRoot:
    """The prepared folder and node of this machine. Raises Unsupported, with what to type, where one is absent."""
    node = shutil.which(NODE)
    if node is None:
        raise Unsupported("--wasm needs node (nodejs.org, version 20 or later), not found here; or leave out --wasm")
    path = load_root(root_path())
    if path is None:
        raise Unsupported(
            f"--wasm needs LiteRT.js {VERSION}, not found whole in {root_path()}: type '{PREPARE}' (once, 12 MB to "
            f"download; {ROOT_VARIABLE} is another place)"
        )
    return WasmRoot(path=path, version=VERSION, node=node, node_version=node_version(node))

"""Two .tflite files in WebAssembly: paired times as `bench` takes them, and what they compute against this host."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.checker.latency.measure import ProcessTimes, copied, in_rounds, judge, process_times
from edgeprune.checker.wasm.root import WasmRoot
from edgeprune.errors import RuntimeFailure, Unsupported
from edgeprune.formats.graph import Graph
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.formats.tflite.metadata import ends_of
from edgeprune.host.scratch import scratch_folder
from edgeprune.host.untrusted import read_whole
from edgeprune.ledger import LatencyComparison
from edgeprune.runtime import worker
from edgeprune.runtime.session import ask, installed_runtimes, newest_runtime, run_tflite
from edgeprune.runtime.trials import made_up_inputs

__all__ = ["HostCheck", "WasmTimes", "timed_in_wasm"]

RUNTIME = "LiteRT.js"
CLOCK = "CPU time of the process"
WARM_NS = 300_000_000  # of each file, in which the engine replaces its first, quick code by better code
FLOAT_LIMIT, INTEGER_LIMIT = 1e-3, 0.05  # of an output's range: more is no rounding
_RUNNER = Path(__file__).with_name("runner.cjs")
# LiteRT's element types by number (index.d.ts of the package, ElementType)
_ELEMENTS: Mapping[int, str] = {1: "f4", 2: "i4", 3: "u1", 4: "i8", 6: "?", 7: "i2", 9: "i1", 10: "f2", 11: "f8"}
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCheck:
    """Outputs of a file in WebAssembly against those of `runtime` on this host, for one and the same input.

    `error` is the largest difference as a share of the output's range, of all outputs the worst. None, with a `reason`,
    where this host has no runtime that takes the file.
    """

    path: str
    runtime: str
    error: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WasmTimes:
    """What timing gave: the comparison, the times behind it, and a check of each file's outputs."""

    compared: LatencyComparison
    times: tuple[ProcessTimes, ...]
    checks: tuple[HostCheck, ...]


def timed_in_wasm(
    baseline: Path,
    candidate: Path,
    root: WasmRoot,
    build: str,
    *,
    processes: int = 5,
    pairs: int = 30,
    warmups: int = 5,
    seed: int = 0,
    singles: int = 0,
    timeout_s: float = 600,
    on_progress: OnProgress | None = None,
) -> WasmTimes:
    """Time two .tflite files in LiteRT.js under node, as `timed_files` does in an interpreter of this host.

    Inputs are random, from `seed`, and each file's outputs for them are compared with this host's. Raises InputError,
    Unsupported (open sizes), and RuntimeFailure: a file that is refused or does not end, or outputs that are far off.
    """
    graphs = {path: parse_tflite(path, read_whole(path, "a .tflite file"))[0] for path in (baseline, candidate)}
    with scratch_folder() as folder:
        files = [baseline, copied(baseline, folder), candidate]
        inputs = {path: _inputs(path, graph, folder, seed) for path, graph in graphs.items()}
        job = {
            "inputs": [inputs[path][1] for path in (baseline, baseline, candidate)],
            "warmups": warmups,
            "warm_ns": WARM_NS,
            "pairs": pairs,
            "singles": singles,
            **_limits(),
        }
        ask_node = functools.partial(_ask, root, build, timeout_s=timeout_s)
        replies: list[dict[str, Any]] = []
        compared, times = in_rounds(
            lambda order, step: _time_process(files, order, job, ask_node, replies, step),
            partial(judge, runtime=RUNTIME, runtime_version=_version(root, build), seed=seed, clock=CLOCK),
            processes=processes,
            pairs=pairs,
            on_progress=on_progress,
        )
    outputs = dict(zip(files, replies[0]["outputs"], strict=True))
    checks = [_check(path, graphs[path], inputs[path][0], outputs[path]) for path in graphs]
    return WasmTimes(compared=compared, times=times, checks=tuple(checks))


def _version(root: WasmRoot, build: str) -> str:
    simd = "relaxed SIMD" if build == "relaxed" else "SIMD without relaxed instructions"
    return f"{root.version} ({simd}) under node {root.node_version}"


def _limits() -> dict[str, Any]:
    """How long to time, as worker.py does."""
    return {
        "orders": worker.pair_orders(3),
        "block_ns": worker.BLOCK_NS,
        "most_block": worker.MAX_BLOCK,
        "process_ns": worker.PROCESS_NS,
        "singles_ns": worker.SINGLES_NS,
        "least_singles": worker.LEAST_SINGLES,
    }


def _inputs(path: Path, graph: Graph, folder: Path, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """One sample for a file, by input name, and the files that hold its bytes."""
    if graph.options.open_inputs:
        raise Unsupported(f"{path}: its inputs have open sizes; convert it with one size to time it")
    made, written = made_up_inputs(graph, 1, seed=seed), {}
    for number, (name, values) in enumerate(made.items()):
        place = folder / f"{len(list(folder.iterdir()))}-{number}.bin"
        place.write_bytes(np.ascontiguousarray(values).tobytes())
        written[name] = str(place)
    return made, written


def _ask(
    root: WasmRoot,
    build: str,
    job: Mapping[str, Any],
    subject: str,
    on_progress: OnProgress | None,
    *,
    timeout_s: float,
) -> dict[str, Any]:
    command = [root.node, str(_RUNNER), str(root.module(build))]
    subject = f"{subject} on {RUNTIME} {root.version}"
    return ask(command, job, subject=subject, writable=[], timeout_s=timeout_s, on_progress=on_progress)


def _time_process(
    files: Sequence[Path],
    order: Sequence[int],
    job: Mapping[str, Any],
    ask_node: Callable[..., dict[str, Any]],
    replies: list[dict[str, Any]],
    on_progress: OnProgress | None,
) -> ProcessTimes:
    """One process that loads the files in this order; its reply is kept in the order of `files`."""
    loaded = {"paths": [str(files[i].absolute()) for i in order], "inputs": [job["inputs"][i] for i in order]}
    subject = f"{files[0]} or {files[2]}"
    result = ask_node({**job, **loaded}, subject, on_progress)
    replies.append({"outputs": [result["outputs"][list(order).index(i)] for i in range(len(files))]})
    return process_times(result, order, f"{subject} on {RUNTIME}")


def _check(
    path: Path, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]], told: Sequence[Mapping[str, Any]]
) -> HostCheck:
    """Hold what a file computed in WebAssembly against this host. Raises RuntimeFailure where it is far off."""
    if not installed_runtimes():
        return HostCheck(path=str(path), runtime="", error=None, reason="no interpreter is installed on this host")
    runtime = newest_runtime()
    named = f"{runtime} {installed_runtimes()[runtime]}"
    try:
        expected = run_tflite(path, inputs, runtime=runtime)
    except RuntimeFailure as refusal:
        return HostCheck(path=str(path), runtime=named, error=None, reason=str(refusal))
    found = _outputs(graph, told)
    errors = [_error(np.asarray(values), found[name]) for name, values in expected.outputs.items()]
    worst = max(errors, default=0.0)
    limit = FLOAT_LIMIT if all(kind.startswith("float") for kind in expected.output_dtypes.values()) else INTEGER_LIMIT
    if not worst <= limit:
        raise RuntimeFailure(
            f"{path}: in {RUNTIME} an output is off by {100 * worst:.3g} % of its range from {named}: times of another "
            "result are no comparison"
        )
    return HostCheck(path=str(path), runtime=named, error=worst)


def _outputs(graph: Graph, told: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, quantized ones as the numbers that they stand for."""
    found = {}
    for end, index in zip(ends_of(graph)[1], graph.outputs, strict=True):
        item = told[0] if len(told) == 1 else next(one for one in told if one["name"] == end.name)
        kind = _ELEMENTS.get(item["element"])
        if kind is None:
            raise RuntimeFailure(f"{graph.path}: output {end.name!r} has an element that {RUNTIME} does not tell")
        values = np.frombuffer(base64.b64decode(item["bytes"]), f"<{kind}").reshape(item["shape"])
        quantized = graph.options.quantization.get(index)
        if quantized is not None and values.dtype in worker.QUANTIZED:
            values = worker.dequantize(values, quantized.scale, quantized.zero_point)
        found[end.name] = values
    return found


def _error(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """The largest difference as a share of the range."""
    wide = expected.astype(np.float64).reshape(-1)
    if wide.size != found.size:
        return float("inf")
    off = np.abs(wide - found.astype(np.float64).reshape(-1)).max(initial=0.0)
    spread = float(np.ptp(wide)) if wide.size else 0.0
    return float(off / spread) if spread else float(off)

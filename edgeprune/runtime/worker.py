"""The child process: the only place that imports an interpreter (started by `edgeprune.host.children`).

One JSON object on the first line of stdin is the job; JSON lines on stdout are the replies: any number of
`{"progress": [done, total]}`, then one `{"result": {...}}` or `{"error": "one line"}`. Inputs travel as a folder of
.npy files, outputs as an uncompressed .npz file, named by position ("0", "1", ...), because names of tensors are not
always names of files.
Whatever the interpreter prints goes to stderr, which the parent keeps for its error messages.

Jobs (all also hold "module", the module that has the class `Interpreter`):
    run   {"path", "threads", "names", "inputs", "outputs", "batch"}: a file over N samples, one per invoke; where its
          batch is free the first alone and the others by `batch` (1 when left out)
    trace {"path", "threads", "names", "inputs", "outputs", "limit_bytes"}: the same, keeping what every op writes
    time  {"paths", "warmups", "pairs", "seed"}: CPU and wall time of several files in turn, one thread; "batch" gives
          their inputs another first size, "singles" times at most so many calls one by one as well
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

import numpy as np
import numpy.typing as npt

__all__ = [
    "Tensor",
    "block_length",
    "dequantize",
    "main",
    "match_inputs",
    "pair_count",
    "pair_orders",
    "quantize",
    "single_count",
]

Array = npt.NDArray[Any]
Report = Callable[[int, int], None]

# CPU time of one timed block, far above the timer's resolution. Longer blocks do not help: on a loaded machine the
# noise of a pair hardly falls with their length (4.9 % at 0.3 ms, 5.2 % at 3 ms), so many short pairs win.
BLOCK_NS = 400_000
MOST_ORDERED = 4  # files whose orders are all taken
PROCESS_NS = 400_000_000  # CPU time that is worth spending on pairs once a process is started
MAX_BLOCK = 2_000  # invokes
SINGLES_NS = 1_000_000_000  # CPU time that is worth spending on calls timed one by one, in each process
LEAST_SINGLES = 20
REBATCH = "convert the model with this batch: edgeprune convert --input-shape"
REPORT_EVERY_S = 0.2
QUANTIZED = (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16))
REFUSALS = (ValueError, RuntimeError, SystemError, MemoryError, ImportError, OSError, AttributeError, TypeError)


class JobError(Exception):
    """The job cannot be done; the message is the one line that the user will read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of the loaded file; `signature` holds -1 where the size may change."""

    name: str
    index: int
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int

    @property
    def quantized(self) -> bool:
        """Whether the integers stand for real numbers: real = scale * (integer - zero point)."""
        return self.scale != 0.0 and self.dtype in QUANTIZED


# --- Loading -----------------------------------------------------------------------------------------------------


def load(module: str, path: str, threads: int, *, keep_all: bool = False) -> Any:
    """An interpreter of `module` with the file at `path`, tensors not yet allocated; with `keep_all` it overwrites no
    tensor, and no delegate takes over any op."""
    try:
        library = importlib.import_module(module)
        interpreter = library.Interpreter
    except REFUSALS as error:
        raise JobError(f"{module} cannot be imported: {one_line(error)}") from error
    try:
        options: dict[str, Any] = {}
        if keep_all:
            options["experimental_preserve_all_tensors"] = True
            options["experimental_op_resolver_type"] = library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return interpreter(model_path=path, num_threads=threads, **options)
    except REFUSALS as error:
        raise JobError(f"the file was refused: {one_line(error)}") from error


def allocate(interpreter: Any) -> None:
    """Allocate all tensors; a delegate that cannot take its nodes refuses here."""
    try:
        interpreter.allocate_tensors()
    except REFUSALS as error:
        raise JobError(f"the file was refused: {one_line(error)}") from error


def invoke(interpreter: Any) -> None:
    """One inference."""
    try:
        interpreter.invoke()
    except REFUSALS as error:
        raise JobError(f"inference failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an exception on one line, led by its class where that says more than "bad value"."""
    text = " ".join(str(error).split())
    prefix = "" if type(error) in (ValueError, RuntimeError) and text else f"{type(error).__name__}: "
    return (prefix + text).rstrip(".")[:400]


def tensors(interpreter: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs in the file's order, under the names of its signature where it has one."""
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    names_in, names_out = signature_names(interpreter, inputs, outputs)
    read_in = [_tensor(detail, names_in) for detail in inputs]
    read_out = [_tensor(detail, names_out) for detail in outputs]
    for kind, found in (("inputs", read_in), ("outputs", read_out)):
        if len({tensor.name for tensor in found}) != len(found):
            raise JobError(f"the {kind} do not have distinct names: {listing(found)}")
    return read_in, read_out


def signature_names(
    interpreter: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> tuple[dict[int, str], dict[int, str]]:
    """Tensor index -> name, for inputs and outputs, by the signature of the main subgraph; empty without one."""
    keys = list(interpreter.get_signature_list())
    for key in sorted(keys, key=lambda key: key != "serving_default"):
        runner = interpreter.get_signature_runner(key)
        names_in = {detail["index"]: name for name, detail in runner.get_input_details().items()}
        names_out = {detail["index"]: name for name, detail in runner.get_output_details().items()}
        # A signature of another subgraph has other tensors: its names would be wrong for the main one.
        if names_in.keys() == {d["index"] for d in inputs} and names_out.keys() == {d["index"] for d in outputs}:
            return names_in, names_out
    return {}, {}


def _tensor(detail: dict[str, Any], names: dict[int, str]) -> Tensor:
    scale, zero_point = detail["quantization"]
    return Tensor(
        name=names.get(detail["index"], detail["name"]),
        index=detail["index"],
        shape=tuple(int(n) for n in detail["shape"]),
        signature=tuple(int(n) for n in detail["shape_signature"]),
        dtype=np.dtype(detail["dtype"]),
        scale=float(scale),
        zero_point=int(zero_point),
    )


def listing(found: Sequence[Tensor]) -> str:
    """Names with shapes and types, as an error message shows them."""
    return ", ".join(f"{t.name!r} {t.dtype.name}{list(t.signature)}" for t in found)


# --- Numbers -----------------------------------------------------------------------------------------------------


def quantize(values: Array, scale: float, zero_point: int, dtype: np.dtype[Any]) -> Array:
    """Real numbers as integers of `dtype`: round half to even, then clip (TFLite quantization specification)."""
    limits = np.iinfo(dtype)
    steps = np.rint(values.astype(np.float64) / scale) + zero_point
    integers: Array = np.clip(steps, limits.min, limits.max).astype(dtype)
    return integers


def dequantize(values: Array, scale: float, zero_point: int) -> Array:
    """Integers as the real numbers that they stand for, float32."""
    return ((values.astype(np.int64) - zero_point) * np.float64(scale)).astype(np.float32)


def match_inputs(wanted: Sequence[Tensor], arrays: dict[str, Array]) -> list[Array]:
    """The caller's arrays in the file's order, by name; a single input needs no name."""
    if len(wanted) == 1 and len(arrays) == 1:
        return list(arrays.values())
    if {tensor.name for tensor in wanted} != arrays.keys():
        given = ", ".join(repr(name) for name in arrays)
        raise JobError(f"the file's inputs are {listing(wanted)}; the samples are named {given or 'nothing'}")
    return [arrays[tensor.name] for tensor in wanted]


def fixed_batch(wanted: Sequence[Tensor], fed: Sequence[Array]) -> int:
    """How many samples the file takes at once: the first size of all its inputs, where it is fixed and a batch."""
    sizes = {
        tensor.shape[0]
        for tensor, array in zip(wanted, fed, strict=True)
        if len(tensor.shape) == array.ndim and tensor.signature[:1] != (-1,)
    }
    whole = len(sizes) == 1 and all(len(tensor.shape) == array.ndim for tensor, array in zip(wanted, fed, strict=True))
    return int(next(iter(sizes))) if whole else 1


def sample_shape(tensor: Tensor, array: Array, batch: int = 1) -> tuple[int, ...]:
    """The shape that `batch` samples of `array` (N, ...) are fed in; raises JobError when the file does not take it."""
    inner = tuple(int(size) for size in array.shape[1:])
    shapes: list[tuple[int, ...]] = [(batch, *inner), *([inner] if batch == 1 else [])]
    for shape in shapes:
        if len(shape) == len(tensor.shape) and all(
            have == fixed or free == -1
            for have, fixed, free in zip(shape, tensor.shape, tensor.signature or tensor.shape, strict=True)
        ):
            return shape
    if tensor.shape[:1] != (1,) and tensor.shape[1:] == inner:
        raise JobError(f"input {tensor.name!r} has the batch {tensor.shape[0]}, others have not; use one batch for all")
    raise JobError(f"one sample for input {tensor.name!r} has shape {list(inner)}; the file takes {listing([tensor])}")


def encode(tensor: Tensor, array: Array) -> Array:
    """Samples in the type that the file takes.

    A quantized input takes its own integer type as it is (already quantized); anything else is read as real numbers
    and quantized. A plain integer input takes numbers that are whole and in range.
    """
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise JobError(f"the samples for input {tensor.name!r} hold NaN")
    if array.dtype == tensor.dtype:
        return array
    if tensor.quantized:
        return quantize(array, tensor.scale, tensor.zero_point, tensor.dtype)
    if tensor.dtype.kind not in "fiub":
        raise JobError(f"input {tensor.name!r} has the type {tensor.dtype.name}, which cannot be fed with numbers")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(tensor.dtype)
    if tensor.dtype.kind != "f" and not np.array_equal(cast, array):
        raise JobError(f"the samples for input {tensor.name!r} are not whole numbers of type {tensor.dtype.name}")
    return cast


# --- Job: run ----------------------------------------------------------------------------------------------------


def run(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run a file over all samples, write the outputs, and say what went in and out."""
    interpreter = load(job["module"], job["path"], job["threads"])
    wanted, counted, feed = prepare(interpreter, job)
    samples = counted.samples
    _, results = tensors(interpreter)
    collected: list[list[Array]] = [[] for _ in results]
    last_report_s = time.monotonic()
    for k in counted.starts:
        feed(k)
        invoke(interpreter)
        for tensor, rows in zip(results, collected, strict=True):
            rows += counted.rows(tensor, decode(tensor, interpreter.get_tensor(tensor.index), sample=k), k)
        done = min(samples, k + counted.size(k))
        if time.monotonic() - last_report_s > REPORT_EVERY_S or done == samples:
            last_report_s = time.monotonic()
            report(done, samples)
    stacked = [stack(tensor, rows) for tensor, rows in zip(results, collected, strict=True)]
    np.savez(job["outputs"], **{str(i): array for i, array in enumerate(stacked)})
    return {
        "samples": samples,
        "output_names": [tensor.name for tensor in results],
        "input_dtypes": {tensor.name: tensor.dtype.name for tensor in wanted},
        "output_dtypes": {tensor.name: tensor.dtype.name for tensor in results},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many samples there are, and how many the file takes at once."""

    samples: int
    batch: int
    free: bool = False  # it takes any number: the first sample goes alone, so that a batch of one is tried as well

    @property
    def starts(self) -> list[int]:
        """The first sample of each invoke."""
        first = int(self.free)
        return [*range(first), *range(first, self.samples, self.batch)]

    def size(self, start: int) -> int:
        """How many samples an invoke gets."""
        if not self.free:
            return self.batch
        return min(self.batch, self.samples - start) if start else 1

    def rows(self, tensor: Tensor, value: Array, start: int) -> list[Array]:
        """What an invoke made of each of its samples, the batch taken off."""
        size = self.size(start)
        if size == 1:
            return [value[0] if value.ndim and value.shape[0] == 1 else value]
        if not value.ndim or value.shape[0] != size:
            raise JobError(f"{tensor.name!r} of shape {list(value.shape)} has no value for each of {size} samples")
        return list(value[: self.samples - start])


def prepare(interpreter: Any, job: dict[str, Any]) -> tuple[list[Tensor], Counted, Callable[[int], None]]:
    """Size the inputs for the job's samples and allocate; the inputs, the samples, and what sets those from k on."""
    stored = [np.load(f"{job['inputs']}/{i}.npy", mmap_mode="r", allow_pickle=False) for i in range(len(job["names"]))]
    wanted, results = tensors(interpreter)
    fed = match_inputs(wanted, dict(zip(job["names"], stored, strict=True)))
    free = job.get("batch", 1) > 1 and all(tensor.signature[:1] == (-1,) for tensor in (*wanted, *results))
    samples, batch = count_samples(wanted, fed), job["batch"] if free else fixed_batch(wanted, fed)
    counted = Counted(samples=samples, batch=batch, free=free)
    shapes = [sample_shape(tensor, array, batch) for tensor, array in zip(wanted, fed, strict=True)]
    for tensor, shape in zip(wanted, shapes, strict=True):
        if shape != tensor.shape:
            interpreter.resize_tensor_input(tensor.index, shape, strict=True)
    allocate(interpreter)

    def feed(start: int) -> None:
        taken = np.arange(start, start + counted.size(start))
        rows = np.minimum(taken, samples - 1)  # the last sample again where some are missing
        for tensor, array, shape in zip(wanted, fed, shapes, strict=True):
            sized = (len(rows), *shape[1:]) if free else shape
            interpreter.set_tensor(tensor.index, encode(tensor, array[rows]).reshape(sized))

    return wanted, counted, feed


def count_samples(wanted: Sequence[Tensor], fed: Sequence[Array]) -> int:
    """N, which must be the same for every input and at least 1."""
    counts = {tensor.name: len(array) if array.ndim else 0 for tensor, array in zip(wanted, fed, strict=True)}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise JobError(f"every input needs the same number of samples, at least 1; got {counts}")
    return next(iter(counts.values()))


def decode(tensor: Tensor, value: Array, *, sample: int) -> Array:
    """One output with its batch: real numbers where the file holds quantized ones."""
    if value.dtype.kind == "f" and np.isnan(value).any():
        raise JobError(f"output {tensor.name!r} holds NaN at sample {sample}")
    return dequantize(value, tensor.scale, tensor.zero_point) if tensor.quantized else value


def stack(tensor: Tensor, rows: Sequence[Array]) -> Array:
    """The outputs of all samples as one array (N, ...); floating types become float32."""
    shapes = sorted({row.shape for row in rows})
    if len(shapes) > 1:
        raise JobError(f"output {tensor.name!r} changes its shape from sample to sample: {shapes[0]}, {shapes[1]}")
    stacked = np.stack(rows)
    return stacked.astype(np.float32, copy=False) if stacked.dtype.kind == "f" else stacked


# --- Job: trace --------------------------------------------------------------------------------------------------


def trace(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run a file over a few samples and write what every op computes from the inputs, in execution order."""
    interpreter = load(job["module"], job["path"], job["threads"], keep_all=True)
    wanted, counted, feed = prepare(interpreter, job)
    samples = counted.samples
    written = written_tensors(interpreter, {tensor.index for tensor in wanted})
    notes = [note_of(tensor, samples, job["limit_bytes"]) for tensor, _ in written]
    collected: list[list[Array]] = [[] for _ in written]
    for k in counted.starts:
        feed(k)
        invoke(interpreter)
        for n, (tensor, _) in enumerate(written):
            if notes[n] is not None:
                continue
            try:
                collected[n] += counted.rows(tensor, real_values(tensor, interpreter.get_tensor(tensor.index)), k)
            except JobError as error:
                notes[n] = str(error)
        report(min(samples, k + counted.size(k)), samples)
    for n, rows in enumerate(collected):
        if notes[n] is None and len({row.shape for row in rows}) > 1:
            notes[n] = "its shape changes from sample to sample"
    kept = {str(n): np.stack(rows) for n, rows in enumerate(collected) if notes[n] is None}
    np.savez(job["outputs"], **kept)
    return {
        "samples": samples,
        "tensors": [
            {"name": t.name, "op": op, "shape": list(t.shape), "dtype": t.dtype.name, "note": note}
            for (t, op), note in zip(written, notes, strict=True)
        ],
    }


def written_tensors(interpreter: Any, inputs: set[int]) -> list[tuple[Tensor, str]]:
    """Tensors of the main subgraph that an op writes and that depend on an input, with the op's kind, in order."""
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    depends, found = set(inputs), []
    for op in interpreter._get_ops_details():
        if depends.isdisjoint(int(index) for index in op["inputs"]):
            continue  # unpacks a constant
        for index in (int(index) for index in op["outputs"]):
            if index in details and index not in depends:
                found.append((_tensor(details[index], {}), str(op["op_name"])))
            depends.add(index)
    return found


def note_of(tensor: Tensor, samples: int, limit_bytes: int) -> str | None:
    """Why a tensor's values are left out; None when they are not."""
    if tensor.dtype.kind not in "fiub":
        return f"holds {tensor.dtype.name}, not numbers"
    size_bytes = 4 * samples * int(np.prod(tensor.shape))
    return f"{size_bytes} bytes, above the limit of {limit_bytes}" if size_bytes > limit_bytes else None


def real_values(tensor: Tensor, value: Array) -> Array:
    """float32 numbers, quantized ones decoded."""
    return dequantize(value, tensor.scale, tensor.zero_point) if tensor.quantized else value.astype(np.float32)


# --- Job: time ---------------------------------------------------------------------------------------------------


def time_files(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Time the files in turn in this one process: nanoseconds per invoke, [pair][file], CPU and wall.

    A pair times one block of each file in some order and then in the reverse of it (ABBA), so that a drift of the
    machine's speed hits all files alike; its time for a file is the mean of the two blocks.
    """
    interpreters = []
    for path in job["paths"]:
        try:
            interpreters.append(ready(job["module"], path, job["seed"], job.get("batch")))
        except JobError as error:
            raise JobError(f"{path}: {error}") from error
    for interpreter in interpreters:
        for _ in range(job["warmups"]):
            invoke(interpreter)
    single_ns = float(np.median([time_block(interpreters[0], 1)[0] for _ in range(5)]))
    block = block_length(single_ns)
    pairs = pair_count(single_ns, block, len(interpreters), job["pairs"])
    orders = pair_orders(len(interpreters))
    times_ns = []
    last_report_s = time.monotonic()
    for k in range(pairs):
        times_ns.append(time_pair(interpreters, orders[k % len(orders)], block))
        if time.monotonic() - last_report_s > REPORT_EVERY_S or k == pairs - 1:
            last_report_s = time.monotonic()
            report(k + 1, pairs)
    cpu_ns, wall_ns = (np.array(times_ns)[:, :, kind].tolist() for kind in (0, 1))
    alone = time_singles(interpreters, single_count(single_ns, len(interpreters), job.get("singles", 0)))
    singles = {f"single_{clock}_ns": alone[:, :, kind].tolist() for kind, clock in enumerate(("cpu", "wall"))}
    return {"cpu_ns": cpu_ns, "wall_ns": wall_ns, "block": block, "batch": batch_of(interpreters[0]), **singles}


def time_pair(interpreters: Sequence[Any], order: tuple[int, ...], block: int) -> Array:
    """Per file (CPU, wall) nanoseconds per invoke, the mean of a block on the way there and one on the way back."""
    total_ns = np.zeros((len(interpreters), 2))
    for file in (*order, *reversed(order)):
        interpreters[file].invoke()  # untimed: each block starts with its own weights in the cache, not another's
        total_ns[file] += time_block(interpreters[file], block)
    return total_ns / (2 * block)


def time_singles(interpreters: Sequence[Any], calls: int) -> Array:
    """(calls, files, 2): CPU and wall nanoseconds of single calls, file by file in turn, for the tails that a mean of a
    block hides. What ran before each call is a call of another file, as in an app that does other things in between."""
    times_ns = np.zeros((calls, len(interpreters), 2))
    for call in range(calls):
        for turn in range(len(interpreters)):
            file = (call + turn) % len(interpreters)
            times_ns[call, file] = time_block(interpreters[file], 1)
    return times_ns


def single_count(single_ns: float, files: int, most: int) -> int:
    """Calls of each file that are timed alone: at most `most`, in about SINGLES_NS of CPU time, at least a few."""
    return min(most, max(LEAST_SINGLES, round(SINGLES_NS / (files * max(single_ns, 1.0)))))


def rebatch(interpreter: Any, batch: int) -> None:
    """Give every input this first size, and allocate."""
    before = tensors(interpreter)
    sizes = {tensor.shape[0] if tensor.shape else 0 for tensor in before[0]}
    if len(sizes) != 1 or sizes == {0}:
        raise JobError(f"its inputs have no batch in common: {listing(before[0])}")
    for tensor in before[0]:
        interpreter.resize_tensor_input(tensor.index, (batch, *tensor.shape[1:]))
    try:
        allocate(interpreter)
    except JobError as error:
        raise JobError(f"it cannot take batches of {batch} ({error}); {REBATCH}") from error


def batch_of(interpreter: Any) -> int:
    """The first size that all inputs share, 1 where there is none."""
    sizes = {tensor.shape[0] if tensor.shape else 1 for tensor in tensors(interpreter)[0]}
    return sizes.pop() if len(sizes) == 1 else 1


def check_rebatched(interpreter: Any, batch: int) -> None:
    """Outputs must have the new batch after a call; raises JobError where a constant shape inside keeps the old one."""
    try:
        interpreter.invoke()
    except REFUSALS as error:
        raise JobError(f"it cannot take batches of {batch} ({one_line(error)}); {REBATCH}") from error
    for tensor in tensors(interpreter)[1]:
        if tensor.shape[:1] != (batch,):
            raise JobError(f"its output {tensor.name!r} stays {list(tensor.shape)} for a batch of {batch}; {REBATCH}")


def ready(module: str, path: str, seed: int, batch: int | None = None) -> Any:
    """An interpreter on one thread with its inputs set: random numbers, but zeros where integers may be indexes."""
    interpreter = load(module, path, 1)
    if batch is None:
        allocate(interpreter)
    else:
        rebatch(interpreter, batch)
    numbers = np.random.default_rng(seed)
    for tensor in tensors(interpreter)[0]:
        if -1 in tensor.signature[1:]:
            raise JobError(f"input {listing([tensor])} has open sizes; convert it with one size to time it")
        if tensor.dtype.kind == "f":
            value = numbers.uniform(0.0, 1.0, tensor.shape).astype(tensor.dtype)
        elif tensor.quantized:
            limits = np.iinfo(tensor.dtype)
            value = numbers.integers(limits.min, limits.max, tensor.shape, dtype=tensor.dtype, endpoint=True)
        elif tensor.dtype.kind in "iub":
            value = np.zeros(tensor.shape, tensor.dtype)
        else:
            raise JobError(f"input {tensor.name!r} has the type {tensor.dtype.name}, which cannot be timed")
        interpreter.set_tensor(tensor.index, value)
    if batch is not None:
        check_rebatched(interpreter, batch)
    return interpreter


def time_block(interpreter: Any, block: int) -> tuple[int, int]:
    """Thread CPU time and wall time of `block` invokes, nanoseconds."""
    run_once = interpreter.invoke
    repeats = itertools.repeat(None, block)
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    for _ in repeats:
        run_once()
    return time.thread_time_ns() - cpu, time.perf_counter_ns() - wall


def block_length(single_ns: float) -> int:
    """Invokes per timed block, from the time of one invoke: about BLOCK_NS of CPU time, at least 1."""
    return max(1, min(MAX_BLOCK, round(BLOCK_NS / max(single_ns, 1.0))))


def pair_count(single_ns: float, block: int, files: int, wanted: int) -> int:
    """At least the wanted pairs; for a fast model more of them, up to PROCESS_NS of CPU time and ten times as many."""
    pair_ns = 2 * files * (block + 1) * max(single_ns, 1.0)
    return max(wanted, min(10 * wanted, round(PROCESS_NS / pair_ns)))


def pair_orders(files: int) -> list[tuple[int, ...]]:
    """The orders that pairs take in turn: every permutation but those that are another one's mirror image; of many
    files each as the first once."""
    if files > MOST_ORDERED:
        return [(*range(first, files), *range(first)) for first in range(files)]
    return [order for order in itertools.permutations(range(files)) if order[0] <= order[-1]]


# --- The process -------------------------------------------------------------------------------------------------

JOBS: dict[str, Callable[[dict[str, Any], Report], dict[str, Any]]] = {"run": run, "time": time_files, "trace": trace}


def private_stdout() -> TextIO:
    """Keep stdout for replies: what the interpreter's C++ prints there goes to stderr instead."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def main() -> NoReturn:
    """Do the job on stdin and end with status 0 when a result or a one-line error was sent."""
    replies = private_stdout()

    def send(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    job = json.loads(sys.stdin.buffer.readline())
    try:
        send({"result": JOBS[job["job"]](job, lambda done, total: send({"progress": [done, total]}))})
    except JobError as error:
        send({"error": str(error)})
    os._exit(0)  # an interpreter's destructor has nothing left to say, and could only crash

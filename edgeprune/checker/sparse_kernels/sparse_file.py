"""A .tflite file made eligible for sparse kernels, and shown to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune.artifact import Precision
from edgeprune.checker.latency.sparse_cluster import NEEDED_ZEROS, Cluster, KeptMean, find_cluster
from edgeprune.checker.sparse_kernels.ineligible import IneligibleError
from edgeprune.checker.sparse_kernels.options import STORED, Prefer, SparseOptions
from edgeprune.checker.sparse_kernels.proof import Arrays, Proof, prove_exact, random_inputs
from edgeprune.checker.sparse_kernels.region import find_region
from edgeprune.checker.sparse_kernels.rewrites import make_eligible
from edgeprune.checker.sparse_kernels.storage import store_weights, unpack_weights
from edgeprune.errors import MissingExtra, Unsupported
from edgeprune.formats.precision import tflite_precision
from edgeprune.formats.tflite.associated import find_appended, read_files, with_files
from edgeprune.formats.tflite.editing import EditedGraph
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.formats.tflite.objects import can_edit
from edgeprune.ledger import SparseKernels

__all__ = ["SparseFile", "float_graph", "stored_as", "with_sparse_kernels"]

PRUNE = "prune it: edgeprune prune MODEL.keras --sparsity 0.8, or edgeprune variant FILE --sparsity 0.8 in one shot"


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseFile:
    """The bytes of a file, and what was done; `known` are the outputs of the file that it was made of, where the proof
    ran it."""

    content: bytes
    report: SparseKernels
    notes: tuple[str, ...]
    known: Arrays = field(default_factory=dict, repr=False)


def float_graph(path: Path, content: bytes) -> EditedGraph:
    """The graph of a float .tflite file with all its weights as dense float32 numbers; `path` is for messages.

    Raises InputError for a broken file, Unsupported for one that computes in integers, and MissingExtra where nothing
    can edit it.
    """
    if not can_edit():
        raise MissingExtra("ai-edge-litert", "litert", "editing a .tflite file")
    precision = tflite_precision(parse_tflite(path, content)[0])
    if precision not in STORED:
        raise Unsupported(
            f"{path} is {precision}: it computes with integers, which no sparse kernel takes, and its floats are gone; "
            "start from a float32 or float16 file of the same model"
        )
    graph = EditedGraph(path, content)
    unpack_weights(graph)
    return graph


def stored_as(
    graph: EditedGraph, source: bytes, precision: Precision, floors: Mapping[int, float] | None = None
) -> bytes:
    """The file of a float graph with weights of a precision, and with the files behind `source`, which it came from;
    `floors` as `store_weights` takes them."""
    store_weights(graph, precision, sparse=False, prefer=Prefer.DOWNLOAD, floors=floors)
    return _finished(graph, source)


def _finished(graph: EditedGraph, source: bytes) -> bytes:
    _, buffers = parse_tflite(graph.path, source)
    return with_files(graph.content(), read_files(graph.path, source, find_appended(buffers)))


def with_sparse_kernels(
    path: Path, content: bytes, options: SparseOptions | None = None, *, inputs: Arrays | None = None
) -> SparseFile:
    """The same float model as a file that XNNPACK runs with sparse kernels; `path` is for messages.

    Proved on `inputs` ([samples, ...] by name) or on SAMPLES random ones. Raises IneligibleError for a model that
    cannot be, ConversionError for one that the rewrites change, and what `float_graph` raises.
    """
    wanted = options or SparseOptions()
    graph = float_graph(path, content)
    dense = graph.content()
    rewrites = make_eligible(graph, reversed_input=wanted.reversed_input)
    rewritten = graph.content()
    pointwise = [graph.reads(op)[1] for op in find_region(graph).pointwise]
    hint = min(pointwise, key=lambda index: math.prod(graph.shape(index)), default=None)
    count = store_weights(graph, wanted.precision, sparse=True, prefer=wanted.prefer, hint=hint)
    made = _finished(graph, content)
    cluster = find_cluster(parse_tflite(path, made)[0])
    notes = _check(cluster)
    given = dict(inputs) if inputs is not None else random_inputs(parse_tflite(path, dense)[0])
    samples = min(len(rows) for rows in given.values())
    proof = Proof(difference=0.0)
    if rewrites:
        proof = _proved(path, dense, rewritten, given, turns=wanted.reversed_input and rewrites[0].name == "rot180")
    report = SparseKernels(
        rewrites=rewrites,
        difference=proof.difference,
        rounding=proof.rounding,
        samples=samples,
        sparsity=cluster.pointwise_sparsity or 0.0,
        stored_sparse=count,
        reversed_input=wanted.reversed_input and any(rewrite.name == "rot180" for rewrite in rewrites),
    )
    return SparseFile(content=made, report=report, notes=notes, known=proof.known)


def _proved(path: Path, before: bytes, after: bytes, inputs: Arrays, *, turns: bool) -> Proof:
    if not turns:
        return prove_exact(path, before, after, inputs)
    turned = {name: rows[:, ::-1, ::-1] if rows.ndim == 4 else rows for name, rows in inputs.items()}
    return prove_exact(path, before, after, inputs, turned)


def _check(cluster: Cluster) -> tuple[str, ...]:
    """What is to be said of a written file. Raises IneligibleError where the checker, which reads the file alone, does
    not find it eligible."""
    if cluster.integers or cluster.stem or cluster.inside:
        rule = "c" if cluster.integers else "d" if cluster.stem else "e"
        raise IneligibleError(rule, "", cluster.integers or cluster.stem or cluster.inside or "", "report this graph")
    if cluster.kept_mean is not KeptMean.HARMLESS:
        raise IneligibleError("g", "", f"a mean keeps its dimensions, read by {cluster.reader}", "average without them")
    alone, whole = cluster.pointwise_sparsity or 0.0, cluster.sparsity or 0.0
    if not alone > NEEDED_ZEROS:
        found = f"{alone:.1%} zeros in its 1x1 filters, and more than {NEEDED_ZEROS:.1%} are needed"
        raise IneligibleError("f", "", found, PRUNE)
    if not whole > NEEDED_ZEROS:
        return (
            f"with the dense layers behind the mean {whole:.1%} are zeros: runtimes that count those stay dense "
            "(LiteRT 2.3.0 does not count them)",
        )
    return ()

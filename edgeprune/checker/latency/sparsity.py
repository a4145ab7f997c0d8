"""Do zeros make this file faster, and where? The rule of each runtime, held against the file.

XNNPACK: google/XNNPACK, src/subgraph.c (xnn_subgraph_rewrite_for_nchw and the analysis of its clusters) and
src/configs/hardware-config.c; LiteRT, tflite/delegates/xnnpack, README "Sparse Inference". Core ML: apple/coremltools,
docs-guides/source/opt-pruning-perf.md. Ethos-U: Arm, Vela compiler, weight compression. 2:4: NVIDIA, TensorRT guide.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.checker.latency.sparse_cluster import NEEDED_ZEROS, Cluster, KeptMean, find_cluster
from edgeprune.errors import InputError
from edgeprune.formats.contents import Contents
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.coreml.storage import weights_of
from edgeprune.formats.graph import Graph
from edgeprune.formats.precision import tflite_precision

__all__ = [
    "TWO_OF_FOUR",
    "Condition",
    "Pays",
    "Refusal",
    "SparsityAdvice",
    "load_refusals",
    "runs_sparse_kernels",
    "sparsity_advice",
]

ARM = "XNNPACK on Arm"
TWO_OF_FOUR = "2:4 sparsity"
REWRITE = "edgeprune variant FILE --sparse-kernels does what the graph allows, by exact rewrites"
STORE_SPARSE = f"store the zeros sparse: {REWRITE}"
SPEED_UPS = (
    "sparse kernels run a whole cluster of operations or none of it; measured for MobileNetV2 with LiteRT.js 2.5.3 in "
    "WebAssembly: 1.5 times as fast at 70 % zeros, 1.9 at 80 %, 2.6 at 90 %"
)
DROP_AXES = "average with keepdims=False, and classify with Dense (same weights) instead of a 1x1 convolution"
TRY_ARM = "see that it loads (edgeprune bench FILE --arm cortex-a76) and compare outputs with the dense file's there"
SHRINK = "what does make it faster: fewer channels (edgeprune prune --style channel)"
# Core ML on an iPhone 14 Pro, all compute units, iOS 17; milliseconds dense float16, 50 % and 75 % stored sparse.
PUBLISHED_COREML = (
    ("MobileNetV2 1.0", 0.48, 0.46, 0.46),
    ("MobileNetV3 small", 0.13, 0.12, 0.12),
    ("ResNet50", 1.52, 1.46, 1.28),
)
COREML_SOURCE = "apple/coremltools@e0e2f42b0b7c:docs-guides/source/opt-pruning-perf.md"


class Pays(enum.StrEnum):
    """Whether zeros shorten inference."""

    YES = "yes"
    NO = "no"
    A_LITTLE = "a little"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition of a rule; `met` is None where the file does not tell. `found` says what was found, `letter` orders
    those of XNNPACK, and `source` is where this one is published (of sparsity, the advice has one source)."""

    rule: str
    met: bool | None
    found: str
    letter: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityAdvice:
    """Whether zeros pay on a target, by which rule, what fails, and what to change."""

    target: str
    pays: Pays
    rule: str
    conditions: tuple[Condition, ...]
    change: str
    source: str

    @property
    def failed(self) -> tuple[Condition, ...]:
        """The conditions that are not met."""
        return tuple(condition for condition in self.conditions if condition.met is False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A runtime that refuses to load the file, as measured on files of TensorFlow 2.21, and what to do about it."""

    runtime: str
    reason: str
    change: str


def sparsity_advice(contents: Contents) -> tuple[SparsityAdvice, ...]:
    """Whether the zeros of a model make it faster, for each target that its format can run on.

    Raises InputError for one that is neither .tflite nor a Core ML package.
    """
    graph = contents.graph
    if graph is not None:
        cluster = find_cluster(graph)
        return (
            *(_xnnpack(graph, cluster, target) for target in (ARM, "XNNPACK in WebAssembly SIMD")),
            _xnnpack(graph, cluster, "XNNPACK on x86 with AVX"),
            _ethos(graph),
            _two_of_four(),
        )
    if contents.package is not None:
        return (_coreml(contents.package), _two_of_four())
    raise InputError(f"{contents.path}: neither a .tflite file nor a Core ML package; convert the model first")


def _xnnpack(graph: Graph, cluster: Cluster, target: str) -> SparsityAdvice:
    precision = tflite_precision(graph)
    chip = "x86" not in target
    conditions: tuple[Condition, ...] = (
        Condition(letter="a", rule="the processor", met=chip, found=_processor(target)),
        Condition(
            letter="b",
            rule="a filter stored sparse (DENSIFY)",
            met=cluster.densify > 0,
            found=f"{cluster.densify} of them" if cluster.densify else "zeros are stored like other numbers",
        ),
        Condition(
            letter="c",
            rule="floating point throughout",
            met=cluster.integers == "",
            found=f"the file is {precision}" + (f"; {cluster.integers}" if cluster.integers else ""),
        ),
        Condition(
            letter="d",
            rule="a 3x3 stem of stride 2 on 3 channels, padded by 1 all round, to a global mean",
            met=cluster.stem == "",
            found=cluster.stem or "found",
        ),
        Condition(
            letter="e",
            rule="only eligible operations between them",
            met=None if cluster.inside is None else not cluster.inside,
            found="not followed, there is no stem" if cluster.inside is None else cluster.inside or "all are",
        ),
        _zeros_condition(cluster),
        _mean_condition(cluster, target),
    )
    found = {condition.met for condition in conditions}
    pays = Pays.NO if False in found else Pays.UNKNOWN if None in found else Pays.YES
    return SparsityAdvice(
        target=target,
        pays=pays,
        rule=SPEED_UPS
        if pays is not Pays.YES
        else f"{cluster.sparsity:.1%} zeros in the 1x1 filters and heads of this file; {SPEED_UPS}",
        conditions=conditions,
        change="" if pays is Pays.YES else _xnnpack_change(conditions, cluster),
        source="google/XNNPACK@75db3c093b6d: src/subgraph.c, src/xnnpack/hardware-config.h; "
        "google-ai-edge/LiteRT@f67457790c9c: tflite/delegates/xnnpack/xnnpack_delegate.cc; "
        "the last condition: measured with LiteRT 2.3.0 on emulated Arm",
    )


def _zeros_condition(cluster: Cluster) -> Condition:
    """XNNPACK of 2026 counts dense layers behind the mean, LiteRT 2.3.0 does not: measured on emulated Arm."""
    shares = (cluster.pointwise_sparsity, cluster.sparsity)
    known = [share for share in shares if share is not None]
    enough = {share > NEEDED_ZEROS for share in known}
    met = None if len(enough) > 1 or cluster.inside is None else enough == {True}
    alone, whole = (f"{share:.1%}" if share is not None else "none" for share in shares)
    found = whole if alone == whole else f"{alone}, with dense layers {whole}"
    if len(enough) > 1:
        found += ": runtimes differ in whether those count (in LiteRT 2.3.0 they do not)"
    return Condition(
        letter="f",
        rule="more than 2/3 zeros in the 1x1 filters and heads, as far as operations are eligible",
        met=met,
        found=found if known else "no such filter",
    )


def _mean_condition(cluster: Cluster, target: str) -> Condition:
    """Refusals were seen on Arm alone; elsewhere the same code gives the same wrong shape, so that much is unknown."""
    met: bool | None = None
    if cluster.kept_mean is KeptMean.HARMLESS:
        met, found = True, "it does, or what reads it is not harmed"
    elif cluster.kept_mean is KeptMean.REFUSED:
        met = False if target == ARM else None
        found = f"it keeps them and {cluster.reader} reads it: LiteRT 2.3.0 on Arm refuses to load such a file"
    else:
        found = (
            f"it keeps them, read by {cluster.reader}: its result gets a wrong shape, with wrong outputs in some files"
        )
    return Condition(letter="g", rule="the mean drops the dimensions it averages over", met=met, found=found)


def _processor(target: str) -> str:
    if "x86" in target:
        return "with AVX the sparse kernels are switched off: dense ones are expected to be faster"
    return "sparse kernels are built in"


def _xnnpack_change(conditions: Sequence[Condition], cluster: Cluster) -> str:
    """What the failed conditions ask for; those that no change of the file can meet come alone."""
    advice: Mapping[str, str] = {
        "a": f"nothing in the file helps on this processor; {SHRINK}",
        "b": STORE_SPARSE,
        "c": "integer graphs never use sparse kernels: keep float32 or float16, or prune channels "
        "(edgeprune prune --style channel)",
        "d": f"pad the stem by 1 on all sides (a PAD and padding VALID) instead of SAME at stride 2: {REWRITE}"
        if cluster.shaped
        else "begin with a 3x3 convolution of stride 2 on 3 channels",
        "e": "replace the operation that breaks the cluster, and pad stride-2 depthwise convolutions explicitly",
        "f": "prune the 1x1 convolutions to 70 % zeros or more",
        "g": DROP_AXES,
    }
    failed = [condition.letter for condition in conditions if condition.met is False]
    final = [letter for letter in failed if letter in "ac"][:1]
    unknown = [] if final else [condition.letter for condition in conditions[-2:] if condition.met is None]
    words = [advice[letter] for letter in (*(final or failed), *(unknown if cluster.inside is not None else ()))]
    return "; ".join(words + ([TRY_ARM] if unknown and not failed else []))


def _ethos(graph: Graph) -> SparsityAdvice:
    integer = tflite_precision(graph) in ("int8", "int16x8")
    zeros = graph.sparsity or 0.0
    conditions = (
        Condition(rule="int8 weights", met=integer, found=f"the file is {tflite_precision(graph)}"),
        Condition(rule="zeros to compress", met=zeros > 0.01, found=f"{zeros:.1%} of the weights"),
        Condition(rule="operations that wait for their weights", met=None, found="only Vela's report tells which do"),
    )
    good = integer and zeros > 0.01
    return SparsityAdvice(
        target="Ethos-U (compiled by Vela)",
        pays=Pays.UNKNOWN if good else Pays.NO,
        rule="weights are compressed without loss and decoded on the way in: zeros shorten that stream, so only "
        "operations bound by weight traffic gain; multiplications are skipped by Ethos-U85 alone, where 2 of 4 inputs "
        "are zero (edgeprune estimate FILE --target ethos-u85)",
        conditions=conditions,
        change="compile it with Vela with and without pruning and compare its cycle estimates"
        if good
        else "quantize to int8 first"
        if not integer
        else "prune first: edgeprune prune",
        source="Arm Ethos-U Vela documentation (weight compression)",
    )


def _two_of_four() -> SparsityAdvice:
    return SparsityAdvice(
        target=TWO_OF_FOUR,
        pays=Pays.NO,
        rule="two of four consecutive weights zero is a format of NVIDIA tensor cores (Ampere and later) through "
        "TensorRT; no phone runtime of this format uses it",
        conditions=(Condition(rule="a sparse tensor core", met=False, found="no processor that runs this format"),),
        change="edgeprune estimate FILE --target tensorrt-sparse-ampere tells whether it would pay in TensorRT; "
        "otherwise fewer channels make it faster",
        source="NVIDIA, TensorRT developer guide, structured sparsity",
    )


def _coreml(package: Package) -> SparsityAdvice:
    weights = weights_of(package)
    sparse = [weight for weight in weights if "sparse" in weight.encoding]
    elements, zeros = sum(w.elements for w in weights), sum(w.zeros for w in weights)
    conditions = (
        Condition(rule="weights stored sparse", met=bool(sparse), found=f"{len(sparse)} of {len(weights)} weights"),
        Condition(
            rule="many zeros",
            met=bool(elements) and zeros / elements >= 0.5,
            found=f"{zeros / elements:.1%}" if elements else "no weights",
        ),
    )
    good = all(condition.met for condition in conditions)
    figures = "; ".join(f"{name} {dense} -> {half} -> {most}" for name, dense, half, most in PUBLISHED_COREML)
    return SparsityAdvice(
        target="Core ML on the Neural Engine",
        pays=Pays.A_LITTLE if good else Pays.NO,
        rule="the Neural Engine can skip runs of zeros in weights stored sparse; published for an iPhone 14 Pro, ms "
        f"dense, 50 % and 75 % sparse: {figures}",
        conditions=conditions,
        change="" if good else "export with precision sparse, from a model with at least half of its weights zero",
        source=COREML_SOURCE,
    )


def runs_sparse_kernels(contents: Contents) -> bool:
    """Whether XNNPACK on Arm chooses sparse kernels for a .tflite file, even if it then refuses the file.

    Raises InputError for a file of no format that is advised on.
    """
    return _chosen(sparsity_advice(contents)[0])


def _chosen(advice: SparsityAdvice) -> bool:
    """Whether the advice is of XNNPACK on Arm, and all holds that its choice of sparse kernels asks for; the last
    condition is whether it then loads the file."""
    return advice.target == ARM and all(condition.met is not False for condition in advice.conditions[:-1])


def load_refusals(contents: Contents) -> tuple[Refusal, ...]:
    """Runtimes that refuse a .tflite file, as measured on files of TensorFlow 2.21; other formats have none."""
    graph = contents.graph
    if graph is None:
        return ()
    sparse = graph.options.sparse
    precision = tflite_precision(graph)
    found = []
    if precision == "dynamic":
        found.append(
            Refusal(
                runtime="tflite-runtime 2.14",
                reason="dynamic-range FULLY_CONNECTED of version 12 is unknown to it",
                change="run it on LiteRT, or convert to float16 or int8",
            )
        )
        if sparse:
            found.append(
                Refusal(
                    runtime="LiteRT 1.2 to 2.3 with its default delegate",
                    reason="dynamic range with sparse storage: failed to delegate CONV_2D",
                    change="convert without sparse storage, or load it without delegates",
                )
            )
    elif precision == "int8" and _sparse_dense_layer(graph, sparse):
        found.append(
            Refusal(
                runtime="LiteRT 2.3 with its default delegate",
                reason="a FULLY_CONNECTED with sparse int8 weights: failed to delegate FULLY_CONNECTED",
                change="leave the dense layers out of sparse storage (1x1 convolutions alone load)",
            )
        )
    arm = sparsity_advice(contents)[0]
    if _chosen(arm) and arm.conditions[-1].met is False:
        found.append(
            Refusal(
                runtime="LiteRT 2.3.0 on Arm with its default delegate",
                reason=f"sparse kernels and a mean that keeps its dimensions ({arm.conditions[-1].found}): "
                "failed to reshape runtime",
                change=DROP_AXES,
            )
        )
    return tuple(found)


def _sparse_dense_layer(graph: Graph, sparse: frozenset[int]) -> bool:
    unpacked = {op.outputs[0] for op in graph.ops if op.kind == "DENSIFY" and op.outputs}
    return any(
        op.kind == "FULLY_CONNECTED" and len(op.inputs) > 1 and op.inputs[1] in unpacked | sparse for op in graph.ops
    )

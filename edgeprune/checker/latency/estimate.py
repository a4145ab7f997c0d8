"""Latency of a model file on a device, estimated from a profile: operation by operation, with an error band.

An estimate reads shapes and storage, never the values of weights. Zeros that are stored like other numbers therefore
cannot change it, as they do not change what the runtimes behind the profiles do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from edgeprune.artifact import Precision
from edgeprune.checker.latency.coreml_kernels import coreml_kernels
from edgeprune.checker.latency.kernels import Kernel, Kind, kernels_of
from edgeprune.checker.latency.profiles import Profile, shipped_profiles
from edgeprune.checker.latency.roofline import kernel_ms
from edgeprune.checker.latency.sparse_speed import SpeedUp, runs_sparse, speed_up_of
from edgeprune.errors import EdgepruneError, Unsupported
from edgeprune.formats.contents import Contents, printable
from edgeprune.formats.coreml.mil import Package
from edgeprune.formats.graph import Graph, Op
from edgeprune.formats.precision import computed_precision, coreml_precision, tflite_precision
from edgeprune.verdict import Estimate

__all__ = [
    "EXTRAPOLATION",
    "LEAST_SHARE",
    "MIX_MARGIN",
    "NEW_MARGIN",
    "Breakdown",
    "OpEstimate",
    "basis_of",
    "breakdown_of",
    "covered_kernels",
    "estimate_latency",
    "how_of",
    "latency_breakdown",
    "refused_estimate",
]

# A kind of operation may take this much more of the time than in any network that the profile was fitted on.
MIX_MARGIN = 0.25
NEW_MARGIN = 0.05  # and so much where no network of the fit had any
# Below this part of the fastest network of the fit, what a call costs by itself decides, which no profile tells.
LEAST_SHARE = 0.02
EXTRAPOLATION = "an extrapolation"
ONLY_RANKS = "this profile only ranks models"
WORTH_A_NOTE = 0.01  # share of zeros
DENSE_ZEROS = "zeros stored like other numbers change no latency here: the estimate reads shapes, not values"
SPARSE_ZEROS = (
    "weights are stored sparse, and the estimate is that of the same weights stored dense: it reads shapes only"
)

SPARSE_KERNELS = (
    "XNNPACK runs its sparse kernels on this file, or may, and no profile was measured with those: the operations are "
    "told as if stored dense"
)
MULTIPLIED = (
    "a depthwise convolution has more outputs than inputs: this runtime's int8 kernels may run it slower than that "
    "(the one published network that begins so, Inception V2, took 59 ms where 50 were estimated)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpEstimate:
    """One operation: milliseconds, its share of the whole, and what binds it.

    `bound` is compute, memory, weights, overhead, free, or "unsupported". Shares add up to 1 with the fixed cost of a
    call. `ms` is None where the profile only ranks, both are None where the estimate is refused.
    """

    index: int
    op: str
    name: str
    macs: int
    ms: float | None
    share: float | None
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """An estimate and what it is made of.

    `fixed_ms` is the part of the total that every inference has, whatever is in the file; `unsupported` are the
    operations without a rule. `speed_up` tells what sparse kernels make of the same weights stored dense.
    """

    estimate: Estimate
    fixed_ms: float | None
    macs: int
    ops: tuple[OpEstimate, ...]
    unsupported: tuple[str, ...]
    speed_up: SpeedUp | None = None


def estimate_latency(contents: Contents, profile: Profile) -> Estimate:
    """The latency of one inference of a model (a .tflite file or .mlpackage folder), as the profile tells.

    Without milliseconds where the profile does not cover the file or only ranks, and `refused` says why. Raises
    InputError for a broken file.
    """
    try:
        return latency_breakdown(contents, profile).estimate
    except Unsupported as cause:
        return refused_estimate(contents.path, profile, cause)


def refused_estimate(path: Path, profile: Profile, cause: EdgepruneError) -> Estimate:
    """What stands for a file that cannot be estimated, and why."""
    reason = str(cause).replace(str(path), path.name)  # a ledger is the same wherever it was made
    return _estimate(profile, total_ms=None, relative=None, refused=reason, notes=())


def latency_breakdown(contents: Contents, profile: Profile) -> Breakdown:
    """The estimate of a file and each of its operations.

    Raises InputError for a broken file, and Unsupported when the profile is of another format or precision, or the
    file has open sizes. Operations without a rule and an operation mix that the profile has not seen do not raise:
    they come back as an estimate without a total.
    """
    kernels, notes = covered_kernels(contents, profile)
    found = breakdown_of(kernels, profile, notes)
    speed_up = _speed_up(contents, kernels, found, profile)
    if speed_up is None:
        return found
    return replace(
        found,
        estimate=replace(
            found.estimate, total_ms=None, low_ms=None, high_ms=None, relative=None, refused=SPARSE_KERNELS
        ),
        speed_up=speed_up,
    )


def covered_kernels(contents: Contents, profile: Profile) -> tuple[list[Kernel | str], tuple[str, ...]]:
    """The operations of a file that `profile` covers, those without a rule as their names, and notes on the file.

    Raises as `latency_breakdown` does.
    """
    path = contents.path
    if contents.graph is not None:
        found, notes = _tflite_kernels(contents, contents.graph, profile)
    elif contents.package is not None:
        _check_format(path, "coreml", profile)
        _check_precision(path, _stored_precision(contents.package), profile, "coreml")
        found = [item if isinstance(item, Kernel) else item.kind for item in coreml_kernels(contents.package)]
        notes = _decompressed(coreml_precision(contents.package))
    else:
        raise Unsupported(f"{path}: estimates are for .tflite files and .mlpackage folders; convert the model first")
    if not found:
        raise Unsupported(f"{path}: no operations in its main function or graph, so there is nothing to estimate")
    return found, notes


def _tflite_kernels(contents: Contents, graph: Graph, profile: Profile) -> tuple[list[Kernel | str], tuple[str, ...]]:
    path = contents.path
    _check_format(path, "tflite", profile)
    stored = tflite_precision(graph)
    _check_precision(path, "float32" if stored == Precision.INT8_WEIGHTS else stored, profile, "tflite")
    _check_sizes(path, graph)
    notes = (*_zeros_note(graph), *_other_graphs(graph), *_multiplied_depthwise(graph, profile))
    return [_named(item) for item in kernels_of(graph)], notes


def _zeros_note(graph: Graph) -> tuple[str, ...]:
    """What the zeros of a .tflite file do to an estimate, by how they are stored; nothing where there are few."""
    if (graph.sparsity or 0.0) < WORTH_A_NOTE:
        return ()
    return (SPARSE_ZEROS if graph.options.sparse else DENSE_ZEROS,)


def _other_graphs(graph: Graph) -> tuple[str, ...]:
    """Which of several signatures the estimate is of."""
    if len({signature.subgraph for signature in graph.signatures}) < 2:
        return ()
    names = [signature.name for signature in graph.signatures if signature.subgraph == 0]
    told = f"its signature {', '.join(map(printable, names))}" if names else "its first graph"
    return (f"the file has {len(graph.signatures)} signatures; the estimate is of {told} only",)


def _decompressed(stored: str) -> tuple[str, ...]:
    """What weights other than plain floats are taken as."""
    if stored in ("float32", "float16"):
        return ()
    return (f"its weights are stored as {stored} and taken as float16, to which Core ML decompresses them",)


def _multiplied_depthwise(graph: Graph, profile: Profile) -> tuple[str, ...]:
    """TFLite's int8 depthwise kernels are vectorized for some channel multipliers only (depthwiseconv_uint8.h)."""
    if profile.precision != "int8" or not profile.runtime.startswith("TFLite CPU"):
        return ()
    depthwise = [op for op in graph.ops if op.kind == "DEPTHWISE_CONV_2D" and op.subgraph == 0]
    multiplied = any(_channels(graph, op.inputs) < _channels(graph, op.outputs) for op in depthwise)
    return (MULTIPLIED,) if multiplied else ()


def _channels(graph: Graph, ends: Sequence[int]) -> int:
    """Channels of the first tensor; 0 where it is absent or has no axes."""
    shape = graph.tensors[ends[0]].shape if ends and ends[0] >= 0 else ()
    return shape[-1] if shape else 0


def _speed_up(
    contents: Contents, kernels: Sequence[Kernel | str], dense: Breakdown, profile: Profile
) -> SpeedUp | None:
    """Where XNNPACK runs sparse kernels a dense estimate is wrong: what they gain on it, as far as that is known. None
    where it runs none, or the dense estimate itself is refused."""
    from edgeprune.checker.latency.sparse_cluster import find_cluster

    if contents.graph is None or dense.estimate.refused or not runs_sparse(contents, profile.runtime):
        return None
    pairs = zip(kernels, dense.ops, strict=True)
    share = sum(op.share or 0.0 for item, op in pairs if isinstance(item, Kernel) and item.kind is Kind.POINTWISE)
    return speed_up_of(share, find_cluster(contents.graph).pointwise_sparsity or 0.0)


def _named(item: Kernel | Op) -> Kernel | str:
    return item if isinstance(item, Kernel) else item.kind


def _stored_precision(package: Package) -> str:
    """What a Core ML program computes in."""
    return computed_precision(coreml_precision(package))


def _others(format_: str, precision: str) -> str:
    names = [
        profile.name for profile in shipped_profiles() if format_ in profile.formats and precision in profile.accepts
    ]
    if names:
        return f"profiles that do: {', '.join(names)}"
    return "no profile of the tool does: measure it on the device itself"


def _check_format(path: Path, format_: str, profile: Profile) -> None:
    if format_ not in profile.formats:
        raise Unsupported(
            f"{path}: profile {profile.name} is of {profile.runtime}, which does not run this format; those that do: "
            + ", ".join(known.name for known in shipped_profiles() if format_ in known.formats)
        )


def _check_precision(path: Path, precision: str, profile: Profile, format_: str) -> None:
    if precision not in profile.accepts:
        raise Unsupported(
            f"{path} is {precision}; profile {profile.name} covers {', '.join(profile.accepts)}; "
            f"{_others(format_, precision)}"
        )


def _check_sizes(path: Path, graph: Graph) -> None:
    for index, shape in graph.options.open_inputs.items():
        raise Unsupported(
            f"{path}: input {graph.tensors[index].name!r} has open sizes {list(shape)}; "
            "convert it with a fixed input shape to estimate it"
        )


def breakdown_of(kernels: Sequence[Kernel | str], profile: Profile, notes: Sequence[str] = ()) -> Breakdown:
    """The estimate for these operations; an operation without a rule is given as its name."""
    ops = _timed(kernels, profile)
    total = profile.coefficients.fixed_ms + sum(op.ms for op in ops if op.ms is not None)
    unsupported = tuple(dict.fromkeys(item for item in kernels if isinstance(item, str)))
    refused = _refused(kernels, ops, unsupported, profile) or _too_small(total, profile)
    gives_ms = not refused and profile.kind != "ranking-only"
    return Breakdown(
        estimate=_estimate(
            profile,
            total_ms=total if gives_ms else None,
            relative=total / profile.reference_ms if not refused and profile.reference_ms else None,
            refused=refused or (None if gives_ms else ONLY_RANKS),
            notes=tuple(notes) if refused else (*notes, *_remarks(total, profile)),
        ),
        fixed_ms=profile.coefficients.fixed_ms if gives_ms else None,
        macs=sum(op.macs for op in ops),
        ops=ops if gives_ms else tuple(replace(op, ms=None, share=None if refused else op.share) for op in ops),
        unsupported=unsupported,
    )


def _estimate(
    profile: Profile, *, total_ms: float | None, relative: float | None, refused: str | None, notes: tuple[str, ...]
) -> Estimate:
    factor = profile.accuracy.band_factor
    return Estimate(
        device=profile.name,
        how=how_of(profile),
        basis=basis_of(profile),
        total_ms=total_ms,
        low_ms=total_ms / factor if total_ms is not None else None,
        high_ms=total_ms * factor if total_ms is not None else None,
        relative=relative,
        refused=refused,
        notes=notes,
    )


def _timed(kernels: Sequence[Kernel | str], profile: Profile) -> tuple[OpEstimate, ...]:
    times = [
        kernel_ms(item, profile.coefficients, element_bytes=profile.element_bytes, gathers=profile.gathers)
        if isinstance(item, Kernel)
        else None
        for item in kernels
    ]
    whole = (sum(time[0] for time in times if time) + profile.coefficients.fixed_ms) or 1.0
    ops = []
    for index, (item, time) in enumerate(zip(kernels, times, strict=True)):
        known = item if isinstance(item, Kernel) else None
        ops.append(
            OpEstimate(
                index=index,
                op=known.op if known else str(item),
                name=known.name if known else "",
                macs=known.macs if known else 0,
                ms=time[0] if time else None,
                share=time[0] / whole if time else None,
                bound=time[1] if time else "unsupported",
            )
        )
    return tuple(ops)


def _refused(
    kernels: Sequence[Kernel | str], ops: Sequence[OpEstimate], unsupported: Sequence[str], profile: Profile
) -> str:
    """Why there is no total; empty when there is one."""
    if unsupported:
        return f"no rule tells what {', '.join(unsupported)} costs; measure the file on the device instead"
    shares: dict[Kind, float] = {}
    for item, op in zip(kernels, ops, strict=True):
        if isinstance(item, Kernel) and op.share is not None:
            shares[item.kind] = shares.get(item.kind, 0.0) + op.share
    for kind, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        seen = profile.largest_share.get(kind.value, 0.0)
        if share > (seen + MIX_MARGIN if seen else NEW_MARGIN):
            return (
                f"{kind.value.replace('_', ' ')} operations would take {share:.0%} of the time, and at most {seen:.0%} "
                f"in the networks that {profile.name} was fitted on; calibrate it with files like this one"
            )
    return ""


def _too_small(total_ms: float, profile: Profile) -> str:
    """Why a total is too far below all that was measured; empty when it is not."""
    if total_ms >= LEAST_SHARE * profile.fastest_truth_ms:
        return ""
    return (
        f"its operations take less than a fiftieth of the fastest network that {profile.name} was fitted on "
        f"({profile.fastest_truth_ms:.3g} ms): what a call costs by itself decides, and is not known; measure it on "
        "the device"
    )


def _remarks(total_ms: float, profile: Profile) -> tuple[str, ...]:
    remarks = []
    if profile.kind == "ranking-only":
        remarks.append("this profile ranks files and gives no milliseconds: its error is too large for them")
    elif total_ms < profile.fastest_truth_ms / 2:
        remarks.append(
            f"{EXTRAPOLATION}: the fastest network behind this profile takes {profile.fastest_truth_ms:.3g} ms"
        )
    return tuple(remarks)


def how_of(profile: Profile) -> str:
    """How an estimate is obtained, in one sentence that every number carries."""
    accuracy = profile.accuracy
    error = f"±{100 * (accuracy.band_factor - 1):.0f} %"
    if accuracy.left_out == "none":
        proof = (
            "measurements of one model set its scale; the band is what ratios between two models, predicted by the "
            "profile it is based on, are off by on its own device or from device to device"
        )
    elif accuracy.left_out == "file":
        held = round(accuracy.band_share * accuracy.rows)
        proof = (
            f"{held} of {accuracy.rows} measured files left out of the fit were within it; the fewer their "
            "families, the more the errors of the profile it is based on count in it"
        )
    else:
        held = round(accuracy.band_share * accuracy.rows)
        units = "rows of families" if accuracy.left_out == "family" else "networks"
        proof = f"{held} of {accuracy.rows} {units} left out of the fit were within it"
    return f"estimated from profile {profile.name} ({profile.summary}), {error}: {proof}"


def basis_of(profile: Profile) -> str:
    """A name for all that decides the milliseconds of a file: estimates with the same one can be compared."""
    numbers = json.dumps([asdict(profile.coefficients), profile.element_bytes, profile.gathers], sort_keys=True)
    return hashlib.sha256(f"{version('edgeprune')} {numbers}".encode()).hexdigest()[:16]

"""SavedModel folders: a computation that TensorFlow runs. It can be evaluated and converted; it has no layers to prune.

Loading one makes TensorFlow build its functions and run some of them. So the graph is looked through first, and what
reads or writes files, runs Python, talks to a network or is not known to be harmless is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError, Unsupported

if TYPE_CHECKING:
    from tensorflow import TensorSpec
    from tensorflow.core.framework.node_def_pb2 import NodeDef
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as SavedModelProto
    from tensorflow.types.experimental import ConcreteFunction

    from edgeprune.maker.keras.types import Tensor, Variable

__all__ = ["SavedModel", "SavedTensor", "is_saved_model", "open_saved_model"]

NOT_LAYERS = "a SavedModel holds a computation, not layers, so it can be converted only"
# What may keep state: variables, control flow, random numbers, tables and arrays in memory. Nothing else.
STATEFUL = re.compile(
    r"VarHandleOp|ReadVariableOp|Assign(Add|Sub)?VariableOp|VarIsInitializedOp|VariableShape|DisableCopyOnRead|Resource"
    r"(Gather|GatherNd|Scatter\w*|Apply\w*|SparseApply\w*)|DestroyResourceOp|StatefulPartitionedCall|If|While|Case|Random"
    r"(Uniform|UniformInt|StandardNormal|Shuffle|Gamma|Poisson\w*)|TruncatedNormal|Multinomial|Stateful\w+|Rng\w+|"
    r"StatelessRandomGetAlg|(Mutable|Anonymous)*HashTable(V2)?|LookupTable\w+|InitializeTableV2|TensorArray\w+|Assert|"
    r"CheckNumerics(V2)?|Empty|DeviceIndex|GuaranteeConst|CudnnRNN\w*"
)
# What keeps no state and still reaches out of the model.
OUTWARD = re.compile(
    r"ReadFile|MatchingFiles|PyFunc\w*|EagerPyFunc|InitializeTableFromTextFile\w*|Reader\w+|DecodeProto\w*|EncodeProto|"
    r"Debug\w+|Copy(Host)?|Snapshot\w+|\w*Dataset\w*|\w*Iterator\w*|Load\w+|Print\w*"
)
SAVERS = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensor:
    """An input or output of a signature; None stands for an open size."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedModel:
    """A SavedModel in memory: one of its signatures, with what goes in and comes out."""

    name: str
    signature: ConcreteFunction
    whole: object  # owns the variables
    inputs: tuple[SavedTensor, ...]
    outputs: tuple[SavedTensor, ...]

    def call(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in the order of `outputs`, for tensors in the order of `inputs`."""
        made = self.signature(**{spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)})
        return [made[spec.name] for spec in self.outputs]

    @property
    def weights(self) -> list[Variable]:
        """Variables and constants that the signature reads; what only training needs is not among them."""
        constants = [
            tensor for tensor in self.signature.captured_inputs if tensor.dtype.name not in ("resource", "string")
        ]
        return [*self.signature.variables, *constants]


def is_saved_model(path: Path) -> bool:
    """Whether a path is a SavedModel folder."""
    return (path / "saved_model.pb").is_file()


def open_saved_model(path: Path, *, trust_code: bool = False) -> SavedModel:
    """The model in a SavedModel folder. TensorFlow must be started (`keras_module`) before.

    Raises InputError for a damaged folder and Unsupported for what cannot be used: operations that reach out of the
    model (unless `trust_code`), no usable signature, no fixed rank.
    """
    _check(path, _read(path), trust_code=trust_code)
    import tensorflow as tf

    try:
        whole = tf.saved_model.load(str(path))
    except Exception as cause:  # TensorFlow raises anything on damaged files
        raise InputError(f"{path}: cannot be loaded: {' '.join(str(cause).split())[:160]}") from cause
    signature = _signature(path, whole.signatures)
    keywords = signature.structured_input_signature[1]
    model = SavedModel(
        name=path.name,
        signature=signature,
        whole=whole,
        inputs=tuple(_tensor(path, name, spec) for name, spec in sorted(keywords.items())),
        outputs=tuple(_tensor(path, name, spec) for name, spec in sorted(signature.structured_outputs.items())),
    )
    if not model.inputs or not model.outputs:
        raise Unsupported(f"{path}: its signature has no inputs or no outputs")
    for spec in model.inputs:
        if not spec.shape:
            raise Unsupported(
                f"{path}: input {spec.name!r} is a single number; an input needs a batch as its first size"
            )
    return model


def _read(path: Path) -> SavedModelProto:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    told = saved_model_pb2.SavedModel()
    try:
        told.ParseFromString((path / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as cause:
        raise InputError(
            f"{path}: saved_model.pb is damaged or cannot be read; copy or save the model again"
        ) from cause
    if not told.meta_graphs:
        raise InputError(f"{path}: saved_model.pb holds no graph; copy or save the model again")
    return told


def _check(path: Path, told: SavedModelProto, *, trust_code: bool) -> None:
    """Refuse what must not be loaded."""
    for graph in told.meta_graphs:
        if not graph.HasField("object_graph_def"):
            raise Unsupported(f"{path}: a SavedModel of TensorFlow 1; load and save it again with TensorFlow 2")
        for asset in graph.asset_file_def:
            if asset.filename.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", asset.filename):
                raise InputError(f"{path}: refused, an asset lies outside the folder: {asset.filename!r}")
        if not trust_code:
            _refuse_operations(path, graph)


def _refuse_operations(path: Path, graph: MetaGraphDef) -> None:
    savers = _savers(graph)
    bodies = [("", graph.graph_def.node)]
    bodies += [(function.signature.name, function.node_def) for function in graph.graph_def.library.function]
    for owner, nodes in bodies:
        for node in nodes:
            if node.op in SAVERS and (owner in savers or not owner):
                continue
            reason = _reason(node.op, {function for function, _ in bodies})
            if reason:
                raise Unsupported(
                    f"{path}: refused, its graph holds the operation {node.op} ({node.name}), which {reason}; "
                    "if you trust its author, add --trust-code"
                )


def _savers(graph: MetaGraphDef) -> set[str]:
    """Functions that the main graph alone calls. It is never run, so they write and read nothing."""
    called = {name for function in graph.graph_def.library.function for name in _called(function.node_def)}
    offered = set(graph.object_graph_def.concrete_functions)
    return set(_called(graph.graph_def.node)) - called - offered


def _called(nodes: Iterable[NodeDef]) -> Iterator[str]:
    for node in nodes:
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func.name
            yield from (function.name for function in value.list.func)


def _reason(operation: str, functions: set[str]) -> str:
    """Why an operation is refused, or an empty text."""
    from tensorflow.python.framework import op_def_registry

    if operation in functions:
        return ""
    known = op_def_registry.get(operation)
    if known is None:
        return "TensorFlow does not know"
    if OUTWARD.fullmatch(operation) or operation in SAVERS:
        return "reaches out of the model (files, code, data)"
    if known.is_stateful and not STATEFUL.fullmatch(operation):
        return "keeps state in a way that is not known to be harmless"
    return ""


def _signature(path: Path, signatures: Mapping[str, ConcreteFunction]) -> ConcreteFunction:
    names = [name for name in signatures if not name.startswith("__")]
    chosen = "serving_default" if "serving_default" in names else names[0] if len(names) == 1 else None
    if chosen is None:
        what = f"several signatures ({', '.join(sorted(names))})" if names else "no signature"
        raise Unsupported(f"{path}: has {what} and none is called serving_default; save it with signatures=FUNCTION")
    return signatures[chosen]


def _tensor(path: Path, name: str, spec: TensorSpec) -> SavedTensor:
    if spec.shape.rank is None:
        raise Unsupported(f"{path}: the number of sizes of {name!r} is open; save it with a signature of fixed rank")
    return SavedTensor(name=name, shape=tuple(spec.shape.as_list()), dtype=spec.dtype.name)

"""What the weights of a Core ML package are: elements, zeros, how each is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import InputError
from edgeprune.formats.coreml.constexpr import DECODERS, decode
from edgeprune.formats.coreml.mil import Constant, Operation, Package
from edgeprune.formats.weights import Role, Uses

__all__ = [
    "MIL_USES",
    "Storage",
    "StoredWeight",
    "compression_of",
    "constants_of",
    "is_constant",
    "storage_of",
    "weights_of",
]

Array = npt.NDArray[Any]

# The parameters of MIL operations (coremltools, MIL operations) that are weights and biases.
_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "conv": ("weight",),
    "conv_transpose": ("weight",),
    "gather": ("x",),
    "linear": ("weight",),
    "lstm": ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"),
    "gru": ("weight_ih", "weight_hh"),
    "rnn": ("weight_ih", "weight_hh"),
    "matmul": ("x", "y"),
    "einsum": ("values",),
}
_BIASES: Mapping[str, tuple[str, ...]] = {
    "": ("bias", "bias_back"),
    "batch_norm": ("gamma", "beta", "mean", "variance"),
    "instance_norm": ("gamma", "beta"),
    "layer_norm": ("gamma", "beta"),
    "lstm": ("peephole", "peephole_back"),
    "prelu": ("alpha",),
}
_ELEMENTWISE = frozenset(
    {"add", "clip", "concat", "maximum", "minimum", "mul", "pow", "real_div", "select", "stack", "sub"}
)
MIL_USES = Uses(weights=_WEIGHTS, biases=_BIASES, elementwise=_ELEMENTWISE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeight:
    """A multiplied weight: its name, shape, zeros, and `encoding`: its dtype, or "sparse", "int8", "int4", "palette",
    joined by "+" where two are combined. `stored_bytes` is what it takes in the weight file."""

    name: str
    shape: tuple[int, ...]
    zeros: int
    encoding: str
    stored_bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How a package stores its multiplied weights. `encodings`: number of tensors by encoding."""

    elements: int
    zeros: int
    encodings: Mapping[str, int]

    @property
    def sparsity(self) -> float | None:
        """Share of the weights that are zero; None without weights."""
        return self.zeros / self.elements if self.elements else None


def storage_of(package: Package) -> Storage:
    """The weights of a package taken together. Raises InputError for a constant that does not fit its description."""
    weights = weights_of(package)
    return Storage(
        elements=sum(weight.elements for weight in weights),
        zeros=sum(weight.zeros for weight in weights),
        encodings=dict(Counter(weight.encoding for weight in weights)),  # asdict would count a Counter again
    )


def is_constant(operation: Operation) -> bool:
    """Whether an operation only names or decodes stored values."""
    return operation.kind == "const" or operation.kind in DECODERS


def constants_of(package: Package) -> dict[str, object]:
    """Every constant of the main function by name, compressed ones decoded; strings and lists as Python values.

    Raises InputError for a constant that does not fit its own description.
    """
    made: dict[str, Any] = {}
    for operation in package.program.operations if package.program else ():
        if not is_constant(operation):
            continue
        try:
            made.update(_made(operation, made))
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as cause:
            name = operation.outputs[0].name if operation.outputs else operation.kind
            raise InputError(f"{package.path}: a broken Core ML model: constant {name!r}: {cause}") from cause
    return made


def _made(operation: Operation, made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if operation.kind == "const":
        yield operation.outputs[0].name, _plain(operation.attributes["val"])
        return
    parts = {name: _plain(constant) for name, constant in operation.attributes.items()}
    for name, bindings in operation.inputs.items():
        binding = bindings[0]
        parts[name] = _plain(binding) if isinstance(binding, Constant) else made[binding]
    yield from zip([port.name for port in operation.outputs], decode(operation.kind, parts), strict=True)


def _plain(constant: Constant) -> Any:
    return constant.values if constant.dtype in ("string", "list", "dictionary") else constant.array()


def weights_of(package: Package) -> list[StoredWeight]:
    """The weights of the main function (see `edgeprune.formats.weights`), each once, in order of use."""
    if package.program is None:
        return []
    values = constants_of(package)
    makers = {port.name: op for op in package.program.operations for port in op.outputs if is_constant(op)}
    found: dict[str, StoredWeight] = {}
    for operation in package.program.operations:
        for parameter, bindings in operation.inputs.items():
            for binding in bindings:
                if not isinstance(binding, str) or binding not in makers or binding in found:
                    continue
                array = values[binding]
                if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                    continue
                if MIL_USES.role(operation.kind, parameter, array.shape) is Role.WEIGHT:
                    found[binding] = _stored(binding, array, makers)
    return list(found.values())


def compression_of(parts: Iterable[Operation]) -> list[str]:
    """How the operations behind a constant compress it: "sparse", "palette", "int8", "int4"; empty for a plain one."""
    known = list(parts)
    words = [word for part, word in (("sparse", "sparse"), ("lut", "palette")) if any(part in p.kind for p in known)]
    scaled = [part for part in known if "scale" in part.kind or "affine" in part.kind]
    return words + ["int4" if any(map(_four_bits, scaled)) else "int8"] * bool(scaled)


def _four_bits(operation: Operation) -> bool:
    given = [*operation.attributes.items(), *((name, bindings[0]) for name, bindings in operation.inputs.items())]
    return any(
        isinstance(part, Constant) and part.dtype in ("int4", "uint4")
        for name, part in given
        if name in ("quantized_data", "data", "nonzero_data")
    )


def _stored(name: str, array: Array, makers: Mapping[str, Operation]) -> StoredWeight:
    parts: list[Operation] = []
    stored = 0
    pending, seen = [makers[name]], set()
    while pending:
        operation = pending.pop()
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        parts.append(operation)
        stored += sum(constant.stored_bytes for constant in operation.attributes.values())
        for bindings in operation.inputs.values():
            for binding in bindings:
                if isinstance(binding, Constant):
                    stored += binding.stored_bytes
                elif binding in makers:
                    pending.append(makers[binding])
    return StoredWeight(
        name=name,
        shape=array.shape,
        zeros=int(array.size - np.count_nonzero(array)),
        encoding="+".join(compression_of(parts)) or array.dtype.name,
        stored_bytes=stored,
    )

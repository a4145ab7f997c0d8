"""The reference evaluator: run a saved Core ML package on this machine, operation by operation.

The package is read from disk (`edgeprune.formats.coreml.mil`), compressed constants are decoded, and every operation is
carried out by TensorFlow in float32; a value that the program declares float16 is rounded to float16. It proves graph,
weights and their precision. It does not reproduce the kernels of Apple's CPU, GPU or Neural Engine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgeprune.converters.evaluator import arrays, elementwise, recurrent, sums, windows
from edgeprune.converters.evaluator.arguments import Arguments, Kernel, UnknownOperationError
from edgeprune.converters.evaluator.widening import widened
from edgeprune.converters.types import Value
from edgeprune.errors import ConversionError, InputError
from edgeprune.formats.coreml.constexpr import DECODERS
from edgeprune.formats.coreml.mil import Constant, Operation, Package, Port, contradiction
from edgeprune.formats.coreml.storage import constants_of, is_constant

__all__ = ["KERNELS", "Evaluator", "Step", "unknown_operations"]

Array = np.ndarray
Env = dict[str, Any]
KERNELS: Mapping[str, Kernel] = {
    **arrays.KERNELS,
    **elementwise.KERNELS,
    **recurrent.KERNELS,
    **sums.KERNELS,
    **windows.KERNELS,
}
# Tracing the program as one graph costs about as much as this many runs operation by operation.
EAGER_SAMPLES = 16
MANY_SAMPLES = 64  # from here on they go many at a time, where the program lets them
_WIDE = {tf.float16: tf.float32, tf.int8: tf.int32, tf.uint8: tf.int32, tf.int16: tf.int32, tf.uint16: tf.int32}
_HANDLED = {"const", "classify"}
_NARROW = {"float16", "float32", "bool", "int32", "int16", "int8", "uint8", "uint16", "uint32", "int64", "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The value of one output of one operation: float32 or the program's integers, [samples, ...]."""

    name: str
    kind: str
    values: Array


def unknown_operations(package: Package) -> list[str]:
    """Kinds of operations in the program that the evaluator does not know, sorted."""
    known = KERNELS.keys() | DECODERS.keys() | _HANDLED
    found = set()
    blocks = [package.program] if package.program else []
    while blocks:
        for operation in blocks.pop().operations:
            found.add(operation.kind)
            blocks.extend(operation.blocks)
    return sorted(found - known)


class Evaluator:
    """A package made ready to run.

    Raises UnknownOperationError for a model that is no ML program or holds an operation that is not known, InputError
    when the program contradicts itself.
    """

    def __init__(self, package: Package) -> None:
        if package.program is None:
            raise UnknownOperationError(f"{package.what} (only ML programs are evaluated)")
        unknown = unknown_operations(package)
        if unknown:
            raise UnknownOperationError(", ".join(unknown))
        wrong = contradiction(package)
        if wrong is not None:
            raise InputError(f"{package.path}: a broken Core ML model: {wrong}")
        self.package, self.program = package, package.program
        self.images = {feature.name for feature in package.inputs if feature.kind == "image"}
        self._constants = constants_of(package)

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs of the program: name, type and shape, batch first."""
        return self.program.inputs

    def run(
        self, inputs: Mapping[str, Array], on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Array]:
        """Outputs by name, [samples, ...] in float32 or integers.

        `inputs` maps names to arrays [samples, ...]; those of an image input hold pixels 0 to 255, [samples, height,
        width, channels], channels in the order that the model was trained with. Raises ConversionError for missing
        inputs and wrong shapes.
        """
        count = self._check(inputs)
        many = self._many(inputs, count)
        if many is not None:
            return many.run(inputs, on_progress)
        call = self._once if count <= EAGER_SAMPLES else tf.function(self._once, autograph=False)
        rows: list[tuple[Array, ...]] = []
        batch = self._batch(inputs)
        for index in range(0, count, batch):
            made = [np.asarray(value) for value in call(self._fed(inputs, index, batch, count))]
            rows += zip(*(_samples_of(value, batch)[: count - index] for value in made), strict=True)
            if on_progress is not None and (index % 16 < batch or index + batch >= count):
                on_progress(min(index + batch, count), count)
        names = self.program.outputs
        columns = [np.stack(column) for column in zip(*rows, strict=True)]
        return {
            name: column.astype(np.float32) if column.dtype.kind == "f" else column
            for name, column in zip(names, columns, strict=True)
            if name != self.package.predicted
        }

    def trace(self, inputs: Mapping[str, Array], largest: int = 1 << 24) -> list[Step]:
        """Every intermediate float value of the main function in order of execution, up to `largest` elements each."""
        count = self._check(inputs)
        found: dict[str, tuple[str, list[Array]]] = {}

        def note(operation: Operation, name: str, value: Value) -> None:
            array = np.asarray(value)
            of_samples = batch == 1 or array.shape[:1] == (batch,)
            if array.dtype.kind == "f" and of_samples and array.size * count <= largest * batch:
                found.setdefault(name, (operation.kind, []))[1].extend(_samples_of(array.astype(np.float32), batch))

        batch = self._batch(inputs)
        for index in range(0, count, batch):
            self._once(self._fed(inputs, index, batch, count), note)
        return [
            Step(name=name, kind=kind, values=np.stack(values[:count]))
            for name, (kind, values) in found.items()
            if len(values) >= count
        ]

    def ranges(self, inputs: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
        """(Smallest, largest) number of every input and value of the main function that holds floats, by name."""
        count, batch = self._check(inputs), self._batch(inputs)
        many = self._many(inputs, count)
        if many is not None:
            return many.ranges(inputs)
        call = self._extents if count <= EAGER_SAMPLES else tf.function(self._extents, autograph=False)
        found: dict[str, Array] = {}
        for index in range(0, count, batch):
            for name, extent in call(self._fed(inputs, index, batch, count)).items():
                least, most = np.asarray(extent, np.float32)
                known = found.setdefault(name, np.array([least, most]))
                known[:] = np.minimum(known[0], least), np.maximum(known[1], most)
        return {name: (float(least), float(most)) for name, (least, most) in found.items()}

    def _extents(self, fed: Mapping[str, Value]) -> dict[str, Value]:
        found: dict[str, Value] = {}

        def note(_: Operation | None, name: str, value: Value) -> None:
            if isinstance(value, tf.Tensor) and value.dtype.is_floating:
                wide = tf.cast(value, tf.float32)
                found[name] = tf.stack([tf.reduce_min(wide), tf.reduce_max(wide)])

        for name, value in fed.items():
            note(None, name, value)
        self._once(fed, note)
        return found

    def _check(self, inputs: Mapping[str, Array]) -> int:
        wanted = [port.name for port in self.ports]
        if set(wanted) != set(inputs):
            raise ConversionError(
                f"{self.package.path.name}: its inputs are {', '.join(wanted)}; samples are named {', '.join(inputs)}"
            )
        count = min((len(array) for array in inputs.values()), default=0)
        if not count:
            raise ConversionError(f"{self.package.path.name}: no samples to run it on")
        return count

    def _batch(self, inputs: Mapping[str, Array]) -> int:
        """How many samples the program takes at once: the first size of all its inputs, where they are batches."""
        sizes = {port.shape[0] if len(port.shape) == inputs[port.name].ndim else 1 for port in self.ports}
        (size,) = sizes if len(sizes) == 1 else (1,)
        return size or 1

    def _many(self, inputs: Mapping[str, Array], count: int) -> Evaluator | None:
        """The same program for many samples at once, where there are many and it keeps them apart."""
        alike = all(inputs[port.name].ndim == len(port.shape) for port in self.ports)
        program = widened(self.program, self._constants) if count >= MANY_SAMPLES and alike else None
        if program is None:
            return None
        made = copy.copy(self)
        made.program = program
        return made

    def _fed(self, inputs: Mapping[str, Array], start: int, batch: int, count: int) -> dict[str, Value]:
        """Samples from `start` on as the program takes them; the last one again where some are missing."""
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        return {port.name: tf.constant(self._as_taken(port, inputs[port.name][rows])) for port in self.ports}

    def _as_taken(self, port: Port, samples: Array) -> Array:
        if port.name in self.images:
            samples = _planes(samples)
        fits = len(port.shape) == samples.ndim and all(
            size in (None, given) for size, given in zip(port.shape, samples.shape, strict=True)
        )
        shape = samples.shape if fits else tuple(size or 1 for size in port.shape)
        if not fits and (None in port.shape or samples.size != int(np.prod(shape))):
            raise ConversionError(
                f"{self.package.path.name}: input {port.name!r} takes {list(port.shape)}, "
                f"a sample is {list(samples.shape[1:])}"
            )
        if port.dtype not in _NARROW:
            raise UnknownOperationError(f"an input of type {port.dtype}")
        kind = "float32" if port.dtype == "float16" else port.dtype
        fed: Array = samples.reshape(shape).astype(kind)
        return fed.astype(np.float16) if port.dtype == "float16" else fed

    def _once(
        self, fed: Mapping[str, Value], note: Callable[[Operation, str, Value], None] | None = None
    ) -> list[Value]:
        env: Env = {**self._constants, **fed}
        for operation in self.program.operations:
            if is_constant(operation):
                continue
            for port, value in zip(operation.outputs, self._apply(operation, env), strict=False):
                env[port.name] = value
                if note is not None:
                    note(operation, port.name, value)
        absent = [name for name in self.program.outputs if name not in env]
        if absent:
            raise InputError(f"{self.package.path}: nothing in the program makes its output {absent[0]!r}")
        return [env[name] for name in self.program.outputs]

    def _apply(self, operation: Operation, env: Env) -> tuple[Value, ...]:
        try:
            arguments = Arguments(
                kind=operation.kind,
                values={name: _given(bindings, env) for name, bindings in operation.inputs.items()},
                outputs=len(operation.outputs),
            )
            if operation.kind == "classify":
                return (env_label(arguments), tf.convert_to_tensor(arguments["probabilities"]))
            made = KERNELS[operation.kind](arguments)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, tf.errors.OpError) as cause:
            where = operation.outputs[0].name if operation.outputs else operation.kind
            line = " ".join(str(cause).split())[:200]
            raise InputError(
                f"{self.package.path}: operation {operation.kind} ({where!r}) cannot be carried out: {line}"
            ) from cause
        values = made if isinstance(made, tuple) else (made,)
        return tuple(_declared(value, port) for value, port in zip(values, operation.outputs, strict=False))


def env_label(arguments: Arguments) -> Value:
    """Index of the most probable class; names belong to the app."""
    return tf.argmax(tf.reshape(arguments["probabilities"], [-1]), output_type=tf.int32)


def _given(bindings: tuple[str | Constant, ...], env: Env) -> Value | list[Value]:
    values = [_wide(_bound(binding, env)) for binding in bindings]
    return values[0] if len(values) == 1 else values


def _bound(binding: str | Constant, env: Env) -> Any:
    if isinstance(binding, str):
        return env[binding]
    return binding.values if binding.dtype in ("string", "list") else binding.array()


def _wide(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == np.float16:
            return value.astype(np.float32)
        small = value.dtype.kind in "iu" and value.dtype not in (np.int32, np.int64)
        return value.astype(np.int32) if small else value
    if isinstance(value, tf.Tensor):
        return tf.cast(value, _WIDE[value.dtype]) if value.dtype in _WIDE else value
    return value


def _declared(value: Value, port: Port) -> Value:
    """A result in the type that the program declares for it."""
    if port.dtype not in _NARROW:
        return value
    value = tf.convert_to_tensor(value)
    wanted = tf.as_dtype(port.dtype)
    return value if value.dtype == wanted else tf.cast(value, wanted)


def _samples_of(value: Array, batch: int) -> list[Array]:
    """What a value holds of each sample of a batch, without the batch."""
    if batch == 1:
        return [value[0] if value.ndim and value.shape[0] == 1 else value]
    if value.shape[:1] != (batch,):
        raise ConversionError(f"an output of shape {list(value.shape)} has no value for each of {batch} samples")
    return list(value)


def _planes(samples: Array) -> Array:
    """Pixels [samples, height, width, channels] as planes [samples, channels, height, width]."""
    pixels = samples[..., None] if samples.ndim == 3 else samples
    return np.moveaxis(pixels, -1, 1)

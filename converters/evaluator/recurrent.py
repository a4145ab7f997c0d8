"""MIL's lstm over [time, batch, features]; gates in the order input, forget, output, cell.

Layout and equations: apple.github.io/coremltools, MIL operations, "recurrent".
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from edgeprune.converters.evaluator.arguments import Arguments, Kernel, UnknownOperationError
from edgeprune.converters.types import Value

__all__ = ["KERNELS"]

ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "linear": tf.identity,
    "relu": tf.nn.relu,
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
}


def _lstm(a: Arguments) -> tuple[Value, ...]:
    direction = a.text("direction", "forward")
    if a.get("clip") is not None:
        raise UnknownOperationError("lstm with clip")
    x, h, c = (tf.convert_to_tensor(a[name]) for name in ("x", "initial_h", "initial_c"))
    if direction != "bidirectional":
        every, h, c = _one_way(a, x, h, c, "", direction == "reverse")
    else:
        (h_there, h_back), (c_there, c_back) = tf.split(h, 2, 1), tf.split(c, 2, 1)
        there = _one_way(a, x, h_there, c_there, "", False)
        back = _one_way(a, x, h_back, c_back, "_back", True)
        every, h, c = (tf.concat(pair, -1) for pair in zip(there, back, strict=True))
    return (every if a.flag("output_sequence") else h[None]), h, c


def _one_way(a: Arguments, x: Value, h: Value, c: Value, suffix: str, backwards: bool) -> tuple[Value, Value, Value]:
    """(hidden states of all steps in the order of time, the last hidden state, the last memory)."""
    if a.get("peephole" + suffix) is not None:
        raise UnknownOperationError("lstm with peepholes")
    inner, outer = a["weight_ih" + suffix], a["weight_hh" + suffix]
    bias = a.get("bias" + suffix)
    gate, cell, out = (
        _activation(a, name, default)
        for name, default in (("recurrent_activation", "sigmoid"), ("cell_activation", "tanh"), ("activation", "tanh"))
    )
    steps: list[Value] = []
    times = range(int(x.shape[0]))
    for step in reversed(times) if backwards else times:
        made = tf.matmul(x[step], inner, transpose_b=True) + tf.matmul(h, outer, transpose_b=True)
        i, f, o, z = tf.split(made if bias is None else made + bias, 4, -1)
        c = gate(f) * c + gate(i) * cell(z)
        h = gate(o) * out(c)
        steps.append(h)
    return tf.stack(steps[::-1] if backwards else steps), h, c


def _activation(a: Arguments, name: str, default: str) -> Callable[[Value], Value]:
    chosen = a.text(name, default)
    if chosen not in ACTIVATIONS:
        raise UnknownOperationError(f"lstm with {name} {chosen!r}")
    return ACTIVATIONS[chosen]


KERNELS: dict[str, Kernel] = {"lstm": _lstm}

"""Multiplications whose size a parameter decides: written in place, or bound by name as coremltools writes it."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.formats.coreml.mil import Constant, Operation, Port
from edgeprune.formats.coreml.mil_macs import mil_macs


def constant(value: object, dtype: str) -> Constant:
    return Constant(dtype=dtype, shape=(), values=np.array(value) if dtype == "bool" else value)


def named(value: Constant, name: str) -> Operation:
    port = Port(name=name, dtype=value.dtype, shape=())
    return Operation(kind="const", inputs={}, outputs=(port,), attributes={"val": value})


@pytest.mark.parametrize("by_name", [False, True])
def test_a_transposed_product(by_name: bool) -> None:
    """x of (5, 3) is read as (3, 5): 3 x 7 outputs of 5 products each."""
    flag = constant(True, "bool")
    inputs = {"x": ("x",), "y": ("y",), "transpose_x": ("flag",) if by_name else (flag,)}
    outputs = (Port(name="z", dtype="float16", shape=(3, 7)),)
    operation = Operation(kind="matmul", inputs=inputs, outputs=outputs, attributes={})
    shapes = {"x": (5, 3), "y": (5, 7), "z": (3, 7)}
    assert mil_macs(operation, shapes, {"flag": named(flag, "flag")}) == 3 * 7 * 5


@pytest.mark.parametrize("by_name", [False, True])
def test_an_einsum(by_name: bool) -> None:
    """Once for each combination of the letters."""
    equation = constant("bnqd,bnkd->bnqk", "string")
    inputs = {"values": ("q", "k"), "equation": ("e",) if by_name else (equation,)}
    outputs = (Port(name="z", dtype="float16", shape=(1, 2, 6, 4)),)
    operation = Operation(kind="einsum", inputs=inputs, outputs=outputs, attributes={})
    shapes = {"q": (1, 2, 6, 8), "k": (1, 2, 4, 8), "z": (1, 2, 6, 4)}
    assert mil_macs(operation, shapes, {"e": named(equation, "e")}) == 2 * 6 * 8 * 4

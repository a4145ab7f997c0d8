"""The order-0 bound against a coder that goes symbol by symbol, its invariances, and its ceiling."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.checker.size.entropy import bound_bytes, code_bits
from edgeprune.formats.contents import Piece, StoredArray
from edgeprune.formats.weights import Role

ALPHABET = 256  # bits that say which symbols occur
ROWS = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 255), min_size=width, max_size=width), min_size=1, max_size=6)
)


def sequential_bits(rows: list[list[int]]) -> float:
    """An adaptive coder, one symbol after the other: each costs -log2 of (seen + 1/2) / (all seen + kinds / 2)."""
    kinds = len({symbol for row in rows for symbol in row})
    bits = 0.0
    for row in rows:
        seen: Counter[int] = Counter()
        for count, symbol in enumerate(row):
            bits -= math.log2((seen[symbol] + 0.5) / (count + kinds / 2))
            seen[symbol] += 1
    return bits


def array(*pieces: Piece) -> StoredArray:
    """An array of these pieces."""
    return StoredArray(name="w", shape=(), precision="", role=Role.WEIGHT, zeros=None, pieces=pieces)


def piece(values: np.ndarray, dtype: str = "", axis: int | None = None, shape: tuple[int, ...] | None = None) -> Piece:
    """The bytes of an array as a piece."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return Piece(
        raw=raw, dtype=dtype or values.dtype.name, shape=shape or values.shape, axis=axis, stored_bytes=len(raw)
    )


@given(rows=ROWS)
def test_bits_are_those_of_a_sequential_coder(rows: list[list[int]]) -> None:
    """Whatever the symbols, to a millionth of a bit; one kind of symbol costs the alphabet alone."""
    assert code_bits(np.array(rows, np.uint8)) == pytest.approx(sequential_bits(rows) + ALPHABET, abs=1e-6)


def test_many_rows_and_long_rows_go_in_parts() -> None:
    """600 rows (counted 256 at a time) and one row of 200,000 (counted 65,536 at a time), with the sequential coder."""
    many = np.random.default_rng(1).integers(0, 5, (600, 20), dtype=np.uint8)
    assert code_bits(many) == pytest.approx(sequential_bits(many.tolist()) + ALPHABET, abs=1e-4)
    long = np.random.default_rng(2).integers(0, 3, (1, 200_000), dtype=np.uint8)
    assert code_bits(long) == pytest.approx(sequential_bits(long.tolist()) + ALPHABET, rel=1e-9)


@given(rows=ROWS, seed=st.integers(0, 1000))
def test_neither_order_nor_naming_matters(rows: list[list[int]], seed: int) -> None:
    """Rows shuffled, symbols within a row shuffled, symbols renamed: the same bits."""
    symbols, rng = np.array(rows, np.uint8), np.random.default_rng(seed)
    shuffled = rng.permuted(symbols, axis=1)[rng.permutation(len(symbols))]
    renamed = rng.permutation(256).astype(np.uint8)[shuffled]
    assert code_bits(renamed) == pytest.approx(code_bits(symbols), abs=1e-6)


@given(content=st.binary(max_size=400), dtype=st.sampled_from(["int8", "uint8", "int4", "uint1", "float16", "float32"]))
def test_the_bound_never_exceeds_the_bytes(content: bytes, dtype: str) -> None:
    """Storing them as they are is always possible."""
    raw = np.frombuffer(content, np.uint8)
    whole = Piece(raw=raw, dtype=dtype, shape=(len(raw),), axis=None, stored_bytes=len(raw))
    assert 0 <= bound_bytes(array(whole)) <= len(content)


def test_nothing_costs_nothing() -> None:
    """An empty array, and symbols that are none."""
    assert bound_bytes(array(piece(np.empty(0, np.int8)))) == 0
    assert code_bits(np.empty((0, 0), np.uint8)) == 0


def test_equal_bytes_cost_the_alphabet() -> None:
    """10,000 times the same: 32 bytes that say which symbol it is."""
    assert bound_bytes(array(piece(np.full(10_000, 7, np.int8)))) == 32


def test_channels_help_where_they_differ() -> None:
    """16 channels of two values each, 32 values in all: per channel 1 bit for each, in one row 5 bits."""
    values = np.random.default_rng(3).integers(0, 2, (16, 4096)) + 2 * np.arange(16)[:, None]
    kernel = values.astype(np.int8)
    apart, together = (bound_bytes(array(piece(kernel, axis=axis))) for axis in (0, None))
    assert 16 * 4096 / 8 < apart < 1.15 * 16 * 4096 / 8
    assert together > 4.9 * 16 * 4096 / 8
    turned = piece(np.ascontiguousarray(kernel.T), axis=1)
    assert bound_bytes(array(turned)) == apart


def test_packed_integers_are_their_own_symbols() -> None:
    """8,000 times int4 of 4 equally frequent values in 4,000 bytes: 2 bits each, as one byte each would take too."""
    nibbles = np.random.default_rng(4).integers(0, 4, 8000).astype(np.uint8)
    packed = nibbles[::2] | nibbles[1::2] << 4
    bound = bound_bytes(array(piece(packed, "int4", shape=(8000,))))
    assert 2000 < bound < 2100
    assert abs(bound - bound_bytes(array(piece(nibbles)))) <= 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zeros_among_floats_cost_a_mask(dtype: str) -> None:
    """A tenth of the numbers at random: their bytes, and H(0.1) = 0.469 bit a number for where they are."""
    rng, count = np.random.default_rng(5), 40_000
    values = np.where(rng.random(count) < 0.1, rng.standard_normal(count), 0).astype(dtype)
    others = values[values != 0]
    bound = bound_bytes(array(piece(values)))
    assert 0 <= bound - bound_bytes(array(piece(others))) - 0.469 * count / 8 < 100


def test_a_zero_with_a_sign_is_told_from_one_without() -> None:
    """Half of the zeros negative at random costs one bit for each: a decoder must give back every bit."""
    rng, count = np.random.default_rng(6), 40_000
    zeros = np.zeros(count, np.float32)
    signed = np.where(rng.random(count) < 0.5, np.float32(-0.0), np.float32(0))
    assert bound_bytes(array(piece(zeros))) == 32
    assert count / 8 <= bound_bytes(array(piece(signed))) < count / 8 + 100


def test_wide_integers_go_byte_by_byte() -> None:
    """Small int32 numbers have three bytes that are all the same, 32 bytes of alphabet each."""
    values = np.random.default_rng(7).integers(0, 16, 4000).astype(np.int32)
    low = bound_bytes(array(piece(values.astype(np.uint8))))
    assert bound_bytes(array(piece(values))) == low + 3 * 32


def test_bytes_that_do_not_fit_their_type_are_plain_bytes() -> None:
    """Seven bytes called float32, and a shape that does not fit: no crash, no more than the bytes."""
    odd = np.arange(7, dtype=np.uint8)
    assert bound_bytes(array(piece(odd, "float32", axis=0, shape=(1 << 40, 3)))) == 7


def test_memory_stays_near_that_of_the_array() -> None:
    """4 MB of floats: copies that NumPy makes stay below twice that."""
    values = np.random.default_rng(8).standard_normal(1_000_000).astype(np.float32)
    whole = array(piece(values.reshape(1000, 1000), axis=0))
    tracemalloc.start()
    try:
        bound_bytes(whole)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000

"""The deflate stream of `pack`: valid for every decoder, never longer than zlib's, shorter where there are zeros."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.formats.bundles import deflating
from edgeprune.formats.bundles.deflating import deflated
from edgeprune.formats.bundles.huffman import bits_of, code_lengths, codes_of
from edgeprune.formats.bundles.replacing import NewMember, new_archive
from edgeprune.formats.bundles.runs import Runs, block_bits


def plain(content: bytes) -> bytes:
    """What zlib makes of it at level 9."""
    stream = zlib.compressobj(9, wbits=-15)
    return stream.compress(content) + stream.flush()


def ours(content: bytes, edges: tuple[int, ...] = ()) -> bytes:
    """The stream, without the look at which one is shorter."""
    cuts = deflating._units(len(content), edges)
    return b"".join(deflating._streams(content, deflating._plan(content, cuts, 8 * len(plain(content)))))


def weights(count: int, zeros: float, seed: int = 0) -> bytes:
    """int8 weights as a pruned layer has them: Laplace, the smallest of them zero."""
    values = np.random.default_rng(seed).laplace(0, 1, count)
    values[np.argsort(np.abs(values))[: int(zeros * count)]] = 0
    return np.clip(np.rint(values * 127 / np.abs(values).max()), -127, 127).astype(np.int8).tobytes()


PIECES = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.tuples(st.integers(0, 255), st.integers(1, 2000)).map(lambda pair: bytes([pair[0]]) * pair[1]),
)


@given(st.lists(PIECES, min_size=1, max_size=12), st.lists(st.integers(0, 20_000), max_size=6))
def test_any_content_reads_back(pieces: list[bytes], edges: list[int]) -> None:
    """Whatever is written in blocks of its own or by zlib, at any cuts."""
    content = b"".join(pieces)
    assert zlib.decompress(ours(content, tuple(edges)), -15) == content
    assert len(deflated(content, plain(content), edges)) <= len(plain(content))


@pytest.mark.parametrize("repeats", [1, 2, 3, 4, 257, 258, 259, 260, 516, 517, 518, 100_000])
def test_runs_of_every_length(repeats: int) -> None:
    """Repetitions of 258 at most, and what is left."""
    content = bytes([7, 0]) + bytes(repeats) + bytes([9])
    block = np.concatenate([block_bits(Runs.of(np.frombuffer(content, np.uint8))), bits_of([1, 1, 0], [1, 2, 7])])
    assert zlib.decompress(np.packbits(block, bitorder="little").tobytes(), -15) == content


@pytest.mark.parametrize(("zeros", "most"), [(0.0, 1.0), (0.5, 0.89), (0.8, 0.89), (0.9, 0.98)])
def test_weights_with_zeros_take_less_than_by_zlib(zeros: float, most: float) -> None:
    """Which spends distances on repetitions that weights do not have."""
    content = weights(300_000, zeros)
    stream = deflated(content, plain(content))
    assert zlib.decompress(stream, -15) == content
    assert len(stream) <= most * len(plain(content))


def test_each_stretch_is_written_in_its_own_way() -> None:
    """Text by zlib, weights in blocks of their own: together less than either for all."""
    text = b" ".join(random.Random(1).choices([b"tensor", b"name", b"of", b"the", b"layer"], k=20_000))
    content = text + weights(200_000, 0.8) + text[::-1]
    plan = deflating._plan(content, deflating._units(len(content), (len(text), len(text) + 200_000)), 1 << 20)
    assert [stretch.by_zlib for stretch in plan if stretch.stop - stretch.start > 60_000] == [True, False, True]
    assert len(ours(content)) < 0.97 * len(plain(content))


def test_a_stretch_by_zlib_copies_from_before_it() -> None:
    """Its window holds what stands before, though other blocks wrote that."""
    once = random.Random(2).randbytes(3000)
    content = once + weights(20_000, 0.8) + once
    assert zlib.decompress(ours(content, (3000, 23_000)), -15) == content
    stretch = deflating._Stretch(start=23_000, stop=26_000, by_zlib=True)
    assert len(deflating._by_zlib(content, stretch)) < 300


def test_same_content_same_stream() -> None:
    """Twice, and with edges in another order."""
    content = weights(50_000, 0.7) + bytes(500)
    assert ours(content, (100, 40_000)) == ours(content, (40_000, 100, 100))


@given(st.lists(st.integers(0, 1 << 20), min_size=2, max_size=286))
def test_codes_are_complete_and_not_too_long(counts: list[int]) -> None:
    """Kraft's sum is 1, so that every decoder takes them, also where most counts are 0."""
    for longest in (15, 9):
        lengths = code_lengths(counts, longest)
        assert lengths.max() <= longest
        assert sum(2.0 ** -int(length) for length in lengths if length) == 1
        assert all(lengths[symbol] for symbol, count in enumerate(counts) if count)


def test_a_deep_tree_is_cut() -> None:
    """Fibonacci counts make Huffman's tree as deep as it has symbols."""
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    assert code_lengths(counts, 40).max() == 39
    assert code_lengths(counts).max() == 15


def test_no_code_begins_another() -> None:
    """Prefixes, first bit lowest."""
    lengths = code_lengths([5, 9, 12, 13, 16, 45])
    codes = [f"{code:0{length}b}"[::-1] for code, length in zip(codes_of(lengths), lengths.tolist(), strict=True)]
    assert sorted(map(len, codes)) == [1, 3, 3, 3, 4, 4]
    assert not any(b.startswith(a) for a, b in itertools.permutations(codes, 2))


@pytest.mark.skipif(not shutil.which("unzip"), reason="no unzip here")
def test_unzip_reads_it(tmp_path: Path) -> None:
    """Info-ZIP's own inflate, which is not zlib's."""
    content = weights(120_000, 0.8) + b"names" * 900 + weights(3000, 0.0, 4) + bytes(70_000)
    made = ours(content, (120_000, 124_500, 127_500))
    (tmp_path / "a.zip").write_bytes(new_archive("a.bin", NewMember(content=content, stream=made)))
    subprocess.run(["unzip", "-q", "a.zip"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.bin").read_bytes() == content

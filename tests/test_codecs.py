"""Contract of every codec: a real stream, the same each time, of the stated length."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.size import CODECS, Codec

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "deflate": lambda stream: zlib.decompress(stream, wbits=-15),
    "brotli": brotli.decompress,
    "zstd": lambda stream: bytes(zstandard.ZstdDecompressor().decompress(stream)),
}


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    """Each codec of the table."""
    return CODECS[request.param]


def test_the_table_holds_what_downloads_use() -> None:
    """Three codecs at their highest usual level, each under its own name and with its meaning."""
    assert {name: codec.level for name, codec in CODECS.items()} == {"deflate": 9, "brotli": 11, "zstd": 19}
    assert all(name == codec.name and codec.stands_for for name, codec in CODECS.items())


@given(content=st.binary(max_size=2000), name=st.sampled_from(sorted(CODECS)))
def test_the_stream_reads_back(content: bytes, name: str) -> None:
    """The format's own decompressor returns the content."""
    assert DECOMPRESS[name](CODECS[name].compress(content)) == content


def test_the_count_is_the_length_of_the_stream(codec: Codec) -> None:
    """And it is far below 100 kB for 100 kB of zeros."""
    content = bytes(100_000)
    assert codec.compressed_bytes(content) == len(codec.compress(content)) < 200


def test_deterministic_also_in_threads(codec: Codec) -> None:
    """Four compressions at a time give one and the same stream."""
    content = random.Random(3).randbytes(5_000) * 3
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(codec.compress, [content] * 8)) == {codec.compress(content)}


def test_empty_content_is_a_few_bytes(codec: Codec) -> None:
    """An empty stream has a header and no more."""
    assert 0 < codec.compressed_bytes(b"") <= 16
    assert DECOMPRESS[codec.name](codec.compress(b"")) == b""


def test_random_bytes_grow_a_little(codec: Codec) -> None:
    """Incompressible content is stored: at most 0.1 % and 32 bytes more."""
    content = random.Random(4).randbytes(200_000)
    assert 200_000 < codec.compressed_bytes(content) <= 200_232


def test_deflate_is_raw_zlib_at_level_9() -> None:
    """Computed with zlib directly, without header and checksum."""
    content = random.Random(5).randbytes(1000) + bytes(9000)
    stream = zlib.compressobj(9, wbits=-15)
    assert CODECS["deflate"].compressed_bytes(content) == len(stream.compress(content) + stream.flush())

"""Contract of every codec: a real stream, the same each time, of the stated length."""

from __future__ import annotations

import lzma
import random
import shutil
import subprocess
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.checker.size.codecs import CODECS, FULL, QUICK, Codec, with_quick

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "deflate": lambda stream: zlib.decompress(stream, wbits=-15),
    "pack": lambda stream: zlib.decompress(stream, wbits=-15),
    "brotli": brotli.decompress,
    "zstd": lambda stream: bytes(zstandard.ZstdDecompressor().decompress(stream)),
    "xz": lzma.decompress,
    "zstd12": lambda stream: bytes(zstandard.ZstdDecompressor().decompress(stream)),
}


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    """Each codec of the table."""
    return CODECS[request.param]


def test_the_table_holds_what_downloads_use() -> None:
    """Four codecs at their highest usual level and a quick stand-in, each under its own name and with its meaning."""
    levels = {"deflate": 9, "brotli": 11, "zstd": 19, "xz": 9, "zstd12": 12, "pack": 9}
    assert {name: codec.level for name, codec in CODECS.items()} == levels
    assert (QUICK, FULL) == (("deflate", "zstd12"), ("deflate", "brotli", "zstd", "xz"))
    assert with_quick(["xz", "deflate", "brotli"]) == ("deflate", "brotli", "xz", "zstd12")
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
    """An empty stream has a header (of xz: 12 bytes, an index of 8, a footer of 12) and no more."""
    assert 0 < codec.compressed_bytes(b"") <= (32 if codec.name == "xz" else 16)
    assert DECOMPRESS[codec.name](codec.compress(b"")) == b""


def test_random_bytes_grow_a_little(codec: Codec) -> None:
    """Incompressible content is stored: at most 0.1 % and 64 bytes more."""
    content = random.Random(4).randbytes(200_000)
    assert 200_000 < codec.compressed_bytes(content) <= 200_264


def test_deflate_is_raw_zlib_at_level_9() -> None:
    """Computed with zlib directly, without header and checksum."""
    content = random.Random(5).randbytes(1000) + bytes(9000)
    stream = zlib.compressobj(9, wbits=-15)
    assert CODECS["deflate"].compressed_bytes(content) == len(stream.compress(content) + stream.flush())


TOOLS = {
    "xz": (["xz", "-9", "--check=none", "-c"], ["xz", "-dc"]),
    "zstd": (["zstd", "-19", "--no-check", "-q", "-c"], ["zstd", "-dcq"]),
    "brotli": (["brotli", "-q", "11", "-w", "22", "-c"], ["brotli", "-dc"]),
}


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_the_command_line_tools_agree(name: str) -> None:
    """They read the stream back, and their own of the same level is within 1 % and 32 bytes of its length."""
    pack, unpack = TOOLS[name]
    if shutil.which(pack[0]) is None:
        pytest.skip(f"{pack[0]} is not installed")
    rng = random.Random(6)
    content = bytes(rng.choice((0, 0, 0, rng.randrange(256))) for _ in range(50_000))
    stream = CODECS[name].compress(content)
    assert subprocess.run(unpack, input=stream, capture_output=True, check=True).stdout == content
    theirs = subprocess.run(pack, input=content, capture_output=True, check=True).stdout
    assert len(stream) == pytest.approx(len(theirs), rel=0.01, abs=32)


def test_the_dictionary_of_xz_grows_with_the_content() -> None:
    """A repetition 700 kB back is found: what xz -9 would find in a small file is found with a small dictionary."""
    block = random.Random(7).randbytes(700_000)
    assert CODECS["xz"].compressed_bytes(block * 2) < 701_000

"""The codecs that stand between a model file and its download, in one light table.

Their libraries are loaded when they compress. Quick ones are measured everywhere, the others where somebody asks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgeprune.errors import UsageError

__all__ = ["BASE_CODEC", "CODECS", "FULL", "LARGE_BYTES", "PACK_CODEC", "QUICK", "Codec", "with_quick"]

BASE_CODEC = "deflate"  # what stores charge: measured of every file
PACK_CODEC = "pack"
LARGE_BYTES = 64_000_000  # above, a file is compressed part by part, so that neither it nor a stream is in memory whole
_AT_ONCE = 1 << 20

_SMALLEST_XZ_DICTIONARY = 4096  # bytes, a limit of the format


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A compressor at a fixed level: the same bytes in give the same bytes out.

    `stands_for` names the download whose size it gives; `stream` makes of the parts of a content, and of its size, the
    parts of a stream that the format's own decompressor reads back. `quick` ones cost little beside reading a model;
    `instead_of` names the codec of the same download, which budgets are about.
    """

    name: str
    level: int
    stands_for: str
    stream: Callable[[Iterable[bytes], int], Iterator[bytes]]
    quick: bool = False
    instead_of: str | None = None

    def compress(self, content: bytes) -> bytes:
        """The compressed stream."""
        return b"".join(self.stream([content], len(content)))

    def compressed_bytes(self, content: bytes) -> int:
        """Bytes of the compressed stream. Incompressible content grows a little, as it does in a real download."""
        return self.streamed_bytes([content], len(content))

    def streamed_bytes(self, parts: Iterable[bytes], size: int) -> int:
        """The same of a content of `size` bytes in parts; a large one is not kept."""
        return sum(map(len, self.stream(parts, size)))


def _deflate(parts: Iterable[bytes], _: int) -> Iterator[bytes]:
    """A raw stream (RFC 1951), which is what a zip member holds; the same however the content is cut."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    for part in parts:
        for start in range(0, len(part), _AT_ONCE):
            yield stream.compress(memoryview(part)[start : start + _AT_ONCE])
    yield stream.flush()


def _packed(parts: Iterable[bytes], _: int) -> Iterator[bytes]:
    """A raw stream (RFC 1951) too, as `edgeprune pack` writes it: never longer than by deflate."""
    from edgeprune.formats.bundles.deflating import deflated
    from edgeprune.formats.tflite.packed import array_edges

    content = b"".join(parts)
    yield deflated(content, b"".join(_deflate([content], len(content))), array_edges(content))


def _brotli(parts: Iterable[bytes], _: int) -> Iterator[bytes]:
    """RFC 7932 with a window of 4 MiB, the encoder's default and what web servers send."""
    import brotli

    yield bytes(brotli.compress(b"".join(parts), quality=11, lgwin=22))


def _zstd(parts: Iterable[bytes], size: int, level: int = 19) -> Iterator[bytes]:
    """RFC 8878, one frame with its content size and no checksum.

    Of a large content part by part, which can make a stream differ by a few bytes of ten thousand.
    """
    import zstandard

    # Not kept between calls: a compressor must not be shared by threads.
    compressor = zstandard.ZstdCompressor(level=level)
    if size <= LARGE_BYTES:
        yield bytes(compressor.compress(b"".join(parts)))
        return
    stream = compressor.compressobj(size=size)
    for part in parts:
        yield stream.compress(part)
    yield stream.flush()


def _zstd12(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    return _zstd(parts, size, 12)


def _xz(parts: Iterable[bytes], size: int) -> Iterator[bytes]:
    """One .xz stream without a check sum, as `xz -9 --check=none` writes it."""
    import lzma

    # A dictionary larger than the content gains nothing, and the encoder takes 11 times its size in memory.
    room = max(_SMALLEST_XZ_DICTIONARY, 1 << max(0, size - 1).bit_length())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(room, 1 << 26)}]
    yield lzma.compress(b"".join(parts), lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters)


CODECS: Mapping[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec(name="deflate", level=9, stands_for="a member of a zip, APK or IPA", stream=_deflate, quick=True),
        Codec(name="brotli", level=11, stands_for="a web download (content coding br)", stream=_brotli),
        Codec(name="zstd", level=19, stands_for="a web download (content coding zstd)", stream=_zstd),
        Codec(name="xz", level=9, stands_for="an archive that the app fetches and unpacks itself", stream=_xz),
        # A tenth of the time of 19, and within 5 % of it (13 % on 80 % zeros in int8).
        Codec(
            name="zstd12",
            level=12,
            stands_for="about what zstd would give",
            stream=_zstd12,
            quick=True,
            instead_of="zstd",
        ),
        Codec(
            name=PACK_CODEC,
            level=9,
            stands_for="a member of a zip, APK or IPA that 'edgeprune pack' deflates",
            stream=_packed,
            instead_of="deflate",
        ),
    )
}
QUICK = tuple(name for name, codec in CODECS.items() if codec.quick)  # measured unless others are asked for
FULL = tuple(name for name, codec in CODECS.items() if codec.instead_of is None)  # what `edgeprune check` measures


def with_quick(names: Iterable[str]) -> tuple[str, ...]:
    """The quick codecs and those named, in the order of the table. Raises UsageError for one that is not in it."""
    from edgeprune.host.toml_values import check_choice

    if isinstance(names, str):
        raise UsageError(f'codecs are a list of names: ["{names}"]')
    wanted = {*QUICK, *names}
    for name in sorted(wanted):
        check_choice("codec", name, CODECS)
    return tuple(name for name in CODECS if name in wanted)

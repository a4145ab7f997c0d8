"""Spoil a sound model file in every way that is cheap, and see that a reader refuses it or stays sound."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.contents import Contents
from edgeprune.formats.elements import element_bits

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


def cut(content: bytes) -> Iterator[bytes]:
    """The file cut short at every sixteenth."""
    return (content[: len(content) * part // 16] for part in range(16))


def flipped(content: bytes, trials: int, seed: int = 7) -> Iterator[bytes]:
    """The file with one to four bytes changed."""
    chance = random.Random(seed)
    for _ in range(trials):
        spoilt = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            spoilt[chance.randrange(len(spoilt))] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
        yield bytes(spoilt)


def check_sound(contents: Contents) -> None:
    """Sections add up to the file, and every array's pieces hold what they claim."""
    assert sum(contents.sections.values()) == contents.raw_bytes
    assert min(contents.sections.values()) >= 0
    for layer in contents.layers:
        for array in layer.arrays:
            assert array.zeros is None or 0 <= array.zeros <= array.elements
            for piece in array.pieces:
                bits = element_bits(piece.dtype)
                count = 1
                for size in piece.shape:
                    count *= size
                assert len(piece.raw) == -(-count * bits // 8)
                assert piece.axis is None or 0 <= piece.axis < len(piece.shape)


def read_spoilt(read: Callable[[Path], Contents], path: Path, spoilt: Iterator[bytes]) -> int:
    """Read every version; how many were refused. Anything but a refusal or a sound result fails."""
    refused = 0
    for content in spoilt:
        path.write_bytes(content)
        refused += 1
        with contextlib.suppress(InputError, Unsupported):
            check_sound(read(path))
            refused -= 1
    return refused

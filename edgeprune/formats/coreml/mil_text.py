"""The text of a compiled Core ML program (model.mil): which operations use which arrays of the weight file.

Syntax: what coremlc writes, one statement a line, in its two spellings (program 1.0 for iOS 15 to 17, 1.3 for iOS 18):

    tensor<fp16, [640, 512]> w = const()[name = tensor<string, []>("w"), val = tensor<fp16, [640, 512]>(
        BLOBFILE(path = tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64)))];
    tensor<fp16, [8]> y = linear(weight = w, x = x)[name = string("y")];

Only what names and shapes need is understood; every pattern is bounded, so that no text takes more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgeprune.formats.elements import Shape

__all__ = ["Reference", "Statement", "Value", "statements"]

_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "fp8e4m3fn": "float8_e4m3fn",
    "fp8e5m2": "float8_e5m2",
}
_FUNCTION = re.compile(rb"\s{0,64}func (\w{1,256})")
_HEAD_BYTES = 1 << 16  # the outputs of a statement
_OUTPUT = re.compile(rb"tensor<(\w{1,16}), ?\[([\d, ]{0,256})\]> (\w{1,1024})")
_KIND = re.compile(rb"\s{0,8}([A-Za-z]\w{0,127})\(")
_WORD = re.compile(rb"(\w+)(\s{0,2}=)?")
_NAME = re.compile(rb'\bname ?= ?(?:tensor<string, ?\[\]>|string)\("([^"]{1,1024})"')
_BLOB = re.compile(
    rb"tensor<(\w{1,16}), ?\[([\d, ]{0,256})\]>\(BLOBFILE\("
    rb'path ?= ?(?:tensor<string, ?\[\]>|string)\("([^"]{1,1024})"\), ?'
    rb"offset ?= ?(?:tensor<uint64, ?\[\]>|uint64)\((\d{1,18})\)"
)
_NO_WORD = bytes(char if chr(char).isalnum() or char == ord("_") else 32 for char in range(128)) + b" " * 128


@dataclass(frozen=True, slots=True)
class Value:
    """An output of a statement."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Reference:
    """A place in a weight file: the parameter it is given for, and how it is to be read."""

    parameter: str
    dtype: str
    shape: Shape
    path: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """An operation. `arguments` are (parameter, word) for all words in its arguments: names of values, and others."""

    function: str
    kind: str
    name: str
    outputs: tuple[Value, ...]
    references: tuple[Reference, ...]
    arguments: tuple[tuple[str, str], ...]


def statements(lines: Iterable[bytes]) -> Iterator[Statement]:
    """The statements of a program in its order, constants without a place in a weight file left out.

    A function begins with a statement of the kind "func" whose outputs are the function's inputs.
    """
    function = ""
    for line in lines:
        if found := _FUNCTION.match(line):
            function = _text(found[1])
            inputs = tuple(_values(line, found.end(), found.end() + _HEAD_BYTES))
            yield Statement(function=function, kind="func", name=function, outputs=inputs, references=(), arguments=())
            continue
        equals = line.find(b" = ", 0, _HEAD_BYTES)
        kind = _KIND.match(line, equals + 3) if equals > 0 else None
        if kind is None or (kind[1] == b"const" and b"BLOBFILE" not in line):
            continue
        named = _NAME.search(line, kind.end())
        outputs = tuple(_values(line, 0, equals))
        yield Statement(
            function=function,
            kind=_text(kind[1]),
            name=_text(named[1]) if named else outputs[0].name if outputs else _text(kind[1]),
            outputs=outputs,
            references=tuple(_references(line)),
            arguments=() if kind[1] == b"const" else tuple(_arguments(line, kind.end())),
        )


def _values(line: bytes, start: int, stop: int) -> Iterator[Value]:
    for found in _OUTPUT.finditer(line, start, stop):
        yield Value(_text(found[3]), _dtype(found[1]), _shape(found[2]))


def _references(line: bytes) -> Iterator[Reference]:
    for found in _BLOB.finditer(line):
        before = line[max(0, found.start() - 300) : found.start()].rstrip()
        words = before[:-1].translate(_NO_WORD).split() if before.endswith(b"=") else []
        parameter = _text(words[-1]) if words else ""
        yield Reference(parameter, _dtype(found[1]), _shape(found[2]), _text(found[3]), int(found[4]))


def _arguments(line: bytes, start: int) -> Iterator[tuple[str, str]]:
    parameter = ""
    for found in _WORD.finditer(line, start):
        if found[2]:
            parameter = _text(found[1][:256])
        elif parameter not in ("name", "path") and not found[1].isdigit():
            yield parameter, _text(found[1][:1024])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _dtype(raw: bytes) -> str:
    return _DTYPES.get(_text(raw), _text(raw))


def _shape(raw: bytes) -> Shape:
    return tuple(int(size) for size in raw.replace(b" ", b"").split(b",") if size)

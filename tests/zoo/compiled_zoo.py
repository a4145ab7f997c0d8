"""Compiled Core ML models made in tests: real weight files (coremltools), programs written by hand.

`text` writes a program in either of the spellings that Apple's compiler uses; HALF, PALETTE and SPARSE are statements
for the weights of the test packages half, palette4 and sparse_int8.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from places import TESTS

FILES = TESTS / "files"
INFO = '[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, {"coremltools-version", "9.0"}})]'


def text(*lines: str, old: bool) -> str:
    """A program: statements written once, with @S@, @U@ and @I@ for the types of single strings and integers."""
    types = ("tensor<string, []>", "tensor<uint64, []>", "tensor<int32, []>") if old else ("string", "uint64", "int32")
    body = "\n".join(f"            {line}" for line in lines)
    for mark, kind in zip(("@S@", "@U@", "@I@"), types, strict=True):
        body = body.replace(mark, kind)
    opset = "ios16" if old else "ios18"
    start = (
        f"program({'1.0' if old else '1.3'})\n{INFO}\n{{\n    func main<{opset}>(tensor<fp16, [1, 2, 6, 6]> image) {{\n"
    )
    return f"{start}{body}\n        }} -> (scores);\n}}"


def stored(kind: str, shape: str, offset: int) -> str:
    """A value in the weight file."""
    return f'tensor<{kind}, {shape}>(BLOBFILE(path = @S@("@model_path/weights/weight.bin"), offset = @U@({offset})))'


def const(name: str, kind: str, shape: str, offset: int) -> str:
    """A constant in the weight file."""
    return f'tensor<{kind}, {shape}> {name} = const()[name = @S@("{name}"), val = {stored(kind, shape, offset)}];'


REST = (
    '@I@ groups = const()[name = @S@("groups"), val = @I@(1)];',
    'tensor<fp16, [8]> b0 = const()[name = @S@("b0"), val = tensor<fp16, [8]>([0x1p-1, 0x1p-1])];',
    "tensor<fp16, [1, 8, 4, 4]> conv_out = conv(bias = b0, groups = groups, weight = W0, x = image)"
    '[name = @S@("conv_0")];',
    'tensor<fp16, [1, 128]> flat = reshape(shape = s, x = conv_out)[name = @S@("flat")];',
    'tensor<fp16, [1, 12]> scores = linear(bias = b1, weight = W1, x = flat)[name = @S@("dense_0")];',
)
HALF = (
    const("W0", "fp16", "[8, 2, 3, 3]", 64),
    const("W1", "fp16", "[12, 128]", 448),
    const("b1", "fp16", "[12]", 3584),
    *REST,
)
PALETTE = (
    f"tensor<fp16, [8, 2, 3, 3]> W0 = constexpr_lut_to_dense()[indices = {stored('uint8', '[72]', 64)}, "
    f"lut = {stored('fp16', '[16]', 256)}, "
    'name = @S@("W0"), shape = tensor<uint32, [4]>([8, 2, 3, 3])];',
    f"tensor<fp16, [12, 128]> W1 = constexpr_lut_to_dense()[indices = {stored('uint8', '[768]', 384)}, "
    f"lut = {stored('fp16', '[16]', 1216)}, "
    'name = @S@("W1"), shape = tensor<uint32, [2]>([12, 128])];',
    const("b1", "fp16", "[12]", 1344),
    *REST,
)
SPARSE = (
    const("m0", "uint1", "[8, 2, 3, 3]", 64),
    "tensor<uint1, [8, 2, 3, 3]> q0_0, tensor<fp16, [36]> q0_1 = constexpr_sparse_blockwise_shift_scale("
    f"data_mask = m0, nonzero_data = {stored('int8', '[36]', 192)}, scale = tensor<fp16, [8, 1, 1, 1]>([[[[0x1p-7]]]]))"
    '[name = @S@("q0")];',
    'tensor<fp16, [8, 2, 3, 3]> W0 = constexpr_sparse_to_dense(mask = m0, nonzero_data = q0_1)[name = @S@("W0")];',
    f"tensor<uint1, [12, 128]> q1_0, tensor<fp16, [192]> q1_1 = constexpr_sparse_blockwise_shift_scale(data_mask = "
    f"{stored('uint1', '[12, 128]', 320)}, nonzero_data = {stored('int8', '[192]', 576)}, "
    f'scale = {stored("fp16", "[12, 1]", 832)})[name = @S@("q1")];',
    f"tensor<fp16, [12, 128]> W1 = constexpr_sparse_to_dense(mask = {stored('uint1', '[12, 128]', 320)}, "
    'nonzero_data = q1_1)[name = @S@("W1")];',
    const("b1", "fp16", "[12]", 960),
    *REST,
)


def model(folder: Path, package: str, program: str | None) -> Path:
    """A compiled model with the weights of one of the test packages."""
    path = folder / "Net.mlmodelc"
    (path / "weights").mkdir(parents=True)
    (path / "analytics").mkdir()
    source = FILES / f"{package}.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    shutil.copy(source, path / "weights/weight.bin")
    (path / "coremldata.bin").write_bytes(bytes(300))
    (path / "analytics/coremldata.bin").write_bytes(bytes(243))
    (path / "metadata.json").write_text("[]")
    if program is not None:
        (path / "model.mil").write_text(program)
    return path

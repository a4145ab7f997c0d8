"""A .tflite file taken apart: facts worked out by hand, every byte in one place, forged files refused."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tflite
from places import TESTS
from written_tflite import GraphSpec, OpSpec, TensorSpec, dense_graph, dense_op, write

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.formats import Contents, read_contents

FILES = TESTS / "files"
PRECISIONS = ("float32", "float16", "int8", "float32_sparse", "float16_sparse")
UNUSED = "(constants that nothing uses)"


def check_bytes(found: Contents) -> Contents:
    """Sections add up to the file, none is negative, and the layers' arrays are the weights' section."""
    assert found.raw_bytes == sum(found.sections.values()) == found.path.stat().st_size
    assert min(found.sections.values()) >= 0
    arrays = [array for layer in found.layers for array in layer.arrays]
    assert sum(array.stored_bytes for array in arrays) == found.sections["weights"]
    for array in arrays:
        assert array.stored_bytes == sum(len(piece.raw) for piece in array.pieces)
    return found


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_byte_is_in_one_place(name: str) -> None:
    """Of the small network in each encoding."""
    found = check_bytes(read_contents(FILES / f"{name}.tflite"))
    assert (found.format, found.complete, found.note, found.macs) == ("tflite", True, "", 7872)


def test_layers_of_the_int8_file() -> None:
    """Operators in order with the arrays each is the first to use, from the table in tests/files/make_files.py."""
    found = read_contents(FILES / "int8.tflite")
    kinds = ["QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE", "FULLY_CONNECTED", "DEQUANTIZE"]
    assert [layer.kind for layer in found.layers] == kinds
    assert [layer.macs for layer in found.layers] == [0, 5184, 1152, 0, 1536, 0]
    conv, depthwise, reshape, dense = found.layers[1:5]
    assert (conv.inputs, conv.outputs) == (((1, 8, 8, 2),), ((1, 6, 6, 8),))
    described = [(a.shape, a.precision, a.parameter, a.zeros, a.stored_bytes) for a in conv.arrays]
    assert described == [((8, 3, 3, 2), "int8", True, 120, 144), ((8,), "int32", True, 0, 32)]
    assert [layer.arrays[0].pieces[0].axis for layer in (conv, depthwise, dense)] == [0, 3, 0]
    assert [layer.arrays[0].zeros for layer in (conv, depthwise, dense)] == [120, 0, 1350]
    assert [(a.parameter, a.stored_bytes) for a in reshape.arrays] == [(False, 8)]


def test_channels_of_kernels_without_scales() -> None:
    """A float file says nothing of channels; each operator's kernel has its own place for them."""
    layers = {layer.kind: layer for layer in read_contents(FILES / "float32.tflite").layers}
    axes = [layers[kind].arrays[0].pieces[0].axis for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    assert axes == [0, 3, 0]


@pytest.mark.parametrize(
    ("name", "kernel", "kernel_bytes"),
    [("float32", "float32", 1536 * 4), ("float16", "float16", 1536 * 2), ("int8", "int8", 1536)],
)
def test_precision_and_bytes_of_a_kernel(name: str, kernel: str, kernel_bytes: int) -> None:
    """The dense layer's 1536 weights; those behind DEQUANTIZE belong to the layer that uses them."""
    layer = next(layer for layer in read_contents(FILES / f"{name}.tflite").layers if layer.kind == "FULLY_CONNECTED")
    array = layer.arrays[0]
    assert (array.precision, array.stored_bytes, array.elements) == (kernel, kernel_bytes, 1536)


def test_a_sparse_kernel_has_values_and_positions() -> None:
    """The dense layer's 186 non-zeros as float32 are one piece, the positions are others."""
    found = read_contents(FILES / "float32_sparse.tflite")
    layer = next(layer for layer in found.layers if layer.kind == "FULLY_CONNECTED")
    values, *positions = layer.arrays[0].pieces
    assert (layer.arrays[0].precision, layer.arrays[0].zeros) == ("sparse+float32", 1350)
    assert (len(values.raw), values.axis) == (4 * 186, None)
    assert positions
    assert all(piece.axis is None and len(piece.raw) for piece in positions)


def kernel_bytes(*values: float) -> bytes:
    """float32 numbers."""
    return np.array(values, np.float32).tobytes()


KERNEL = TensorSpec(shape=(3, 4), buffer=1, name="kernel")
TWELVE = kernel_bytes(*range(12))


def test_a_shared_buffer_belongs_to_its_first_user(tmp_path: Path) -> None:
    """Two operators with one kernel: 48 bytes once, in the first; so do buffers that lie in the same place."""
    graph = dense_graph(KERNEL, ops=(dense_op(), dense_op()))
    found = check_bytes(read_contents(write(tmp_path / "m.tflite", graph, buffers=(b"", TWELVE))))
    assert [[array.stored_bytes for array in layer.arrays] for layer in found.layers] == [[48], []]
    second = TensorSpec(shape=(3, 4), buffer=2, name="copy")
    tensors = (TensorSpec(shape=(1, 4)), KERNEL, TensorSpec(shape=(1, 3)), second)
    graph = GraphSpec(tensors=tensors, ops=(dense_op(), dense_op((0, 3))), outputs=(2,))
    path = write(tmp_path / "m.tflite", graph, buffers=(b"", (8, 48), (8, 48), TWELVE))
    place = path.read_bytes().index(TWELVE)
    found = check_bytes(read_contents(write(path, graph, buffers=(b"", (place, 48), (place, 48), TWELVE))))
    assert [[array.name for array in layer.arrays] for layer in found.layers[:2]] == [["kernel"], []]


def test_what_nothing_uses_is_still_there(tmp_path: Path) -> None:
    """A constant without an operator and a buffer without a tensor, in a layer of their own."""
    idle = TensorSpec(shape=(2,), buffer=2, name="idle")
    graph = GraphSpec(tensors=(*dense_graph(KERNEL).tensors, idle), ops=(dense_op(),), outputs=(2,))
    path = write(tmp_path / "m.tflite", graph, buffers=(b"", TWELVE, kernel_bytes(1, 2), b"nobody's"))
    found = check_bytes(read_contents(path))
    last = found.layers[-1]
    assert (last.name, last.kind, last.macs) == (UNUSED, "", 0)
    assert [(a.name, a.stored_bytes, a.parameter) for a in last.arrays] == [("idle", 8, False), ("buffer 3", 8, False)]


def test_subgraphs_and_entry_points(tmp_path: Path) -> None:
    """A subgraph stands in a group; the MACs of another entry point are not those of one inference."""
    graphs = (dense_graph(KERNEL), dense_graph(KERNEL))
    plain = write(tmp_path / "m.tflite", *graphs, buffers=(b"", TWELVE))
    found = read_contents(plain)
    assert [(layer.group, layer.macs) for layer in found.layers] == [("", 12), ("subgraph 1", 12)]
    assert found.macs == 24
    named = write(tmp_path / "m.tflite", *graphs, buffers=(b"", TWELVE), signatures=(("a", 0), ("b", 1)))
    assert read_contents(named).macs == 12


def test_files_appended_as_a_zip_are_metadata(tmp_path: Path) -> None:
    """TensorFlow Lite Metadata appends labels to the model; no other section changes."""
    content = (FILES / "int8.tflite").read_bytes()
    before = read_contents(FILES / "int8.tflite").sections
    for prefixed in (False, True):
        packed = io.BytesIO(content if prefixed else b"")
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("labels.txt", "cat\ndog\n" * 20)
        whole = packed.getvalue() if prefixed else content + packed.getvalue()
        (tmp_path / "m.tflite").write_bytes(whole)
        after = check_bytes(read_contents(tmp_path / "m.tflite")).sections
        added = len(whole) - len(content)
        assert after == {**before, "metadata": before["metadata"] + added}


def test_names_are_shown_on_one_line(tmp_path: Path) -> None:
    """A tensor's name with a newline and an escape character, and bytes that are no text."""
    out = TensorSpec(shape=(1, 3), name=b"a\n\x1b[31m\xff;fused")
    graph = GraphSpec(tensors=(TensorSpec(shape=(1, 4)), KERNEL, out), ops=(dense_op(),), outputs=(2,))
    found = read_contents(write(tmp_path / "m.tflite", graph, buffers=(b"", TWELVE)))
    assert found.layers[0].name == "a\\n\\x1b[31m\\xff"


def test_a_model_is_known_by_its_bytes(tmp_path: Path) -> None:
    """Whatever its suffix is; another file of unknown format is sized only."""
    (tmp_path / "m.bin").write_bytes((FILES / "int8.tflite").read_bytes())
    assert read_contents(tmp_path / "m.bin").format == "tflite"
    (tmp_path / "x.bin").write_bytes(b"no model")
    found = read_contents(tmp_path / "x.bin")
    assert (found.complete, found.layers, dict(found.sections)) == (False, (), {"other": 8})
    assert "sized only" in found.note


# --- forged files ---------------------------------------------------------------------------------------------------


def outcome(path: Path) -> str:
    """What reading gives: "read" with every byte accounted for, or the one line of a refusal."""
    try:
        found = read_contents(path)
    except EdgepruneError as error:
        return str(error)
    assert found.raw_bytes == sum(found.sections.values()) == path.stat().st_size
    assert min(found.sections.values()) >= 0
    return "read"


@pytest.mark.parametrize("name", ["int8", "float32_sparse"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    """At every sixteenth, and to nothing."""
    content, path = (FILES / f"{name}.tflite").read_bytes(), tmp_path / "m.tflite"
    for part in range(16):
        path.write_bytes(content[: len(content) * part // 16])
        assert str(path) in outcome(path)


@pytest.mark.parametrize("name", ["int8", "float32_sparse"])
def test_flipped_bytes_end_in_one_line_or_in_an_account(tmp_path: Path, name: str) -> None:
    """A byte at each of 200 places."""
    content, path, rng = (FILES / f"{name}.tflite").read_bytes(), tmp_path / "m.tflite", random.Random(11)
    for place in rng.sample(range(8, len(content)), 200):
        path.write_bytes(content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :])
        outcome(path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file of a few hundred bytes with every kind of table that a file has."""
    kernel = TensorSpec(shape=(3, 4), buffer=1, zero_points=(0, 0, 0))
    return write(tmp_path / "m.tflite", dense_graph(kernel), buffers=(b"", TWELVE, b"x"), signatures=(("s", 0),))


@pytest.mark.parametrize("word", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0, 4, 8])
def test_any_length_or_offset_may_lie(small: Path, word: int) -> None:
    """2^31 - 1 elements, offsets backwards and to themselves, in each word of the file: no hang, no crash."""
    content = small.read_bytes()
    for place in range(8, len(content) - 3, 4):
        small.write_bytes(content[:place] + word.to_bytes(4, "little") + content[place + 4 :])
        outcome(small)


@pytest.mark.parametrize("place", ["named", "unnamed"])
def test_buffers_laid_over_one_another_cost_no_more_than_the_file(tmp_path: Path, place: str) -> None:
    """3,000 constants of half a megabyte each in a file of 1.2 MB are refused before they are compressed."""
    filler, size, count = random.Random(12).randbytes(1_000_000), 500_000, 3000
    buffers = [b"", TWELVE, *[(100_000 + n, size) for n in range(count)], filler]
    idle = [TensorSpec(shape=(size,), buffer=n + 2, dtype=tflite.TensorType.STRING) for n in range(count)]
    tensors = (*dense_graph(KERNEL).tensors, *(idle if place == "named" else ()))
    path = write(
        tmp_path / "m.tflite", GraphSpec(tensors=tensors, ops=(dense_op(),), outputs=(2,)), buffers=tuple(buffers)
    )
    with pytest.raises(InputError, match="no room"):  # it would take minutes to look at each of them
        read_contents(path)


def test_overlapping_buffers_count_once(tmp_path: Path) -> None:
    """Two buffers that overlap by half, within a third: the section is what they cover together."""
    shifted = TensorSpec(shape=(3, 4), buffer=2)
    graph = GraphSpec(tensors=(*dense_graph(KERNEL).tensors, shifted), ops=(dense_op(), dense_op((0, 3))), outputs=(2,))
    path, twice = tmp_path / "m.tflite", TWELVE + TWELVE
    start = write(path, graph, buffers=(b"", (8, 48), (8, 48), twice)).read_bytes().index(twice)
    found = read_contents(write(path, graph, buffers=(b"", (start, 48), (start + 24, 48), twice)))
    assert found.raw_bytes == sum(found.sections.values())
    assert found.sections["weights"] == 96
    assert sum(array.stored_bytes for layer in found.layers for array in layer.arrays) == 48 + 48 + 96


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
        (lambda path: path.write_bytes(b"\x1c\0\0\0TFL4" + bytes(90)), "not a TFLite file"),
        (lambda path: path.parent, "does not exist"),
    ],
)
def test_what_is_no_model(tmp_path: Path, make: Callable[[Path], object], word: str) -> None:
    """Empty, a folder, a git-lfs pointer, something else, nothing: exit code 4 with the reason."""
    make(tmp_path / "m.tflite")
    with pytest.raises(InputError, match=word):
        read_contents(tmp_path / "m.tflite")


def test_a_code_that_is_custom(tmp_path: Path) -> None:
    """The name of a custom operator is its kind."""
    op = OpSpec(kind="My|Op", inputs=(0,), outputs=(2,))
    graph = GraphSpec(tensors=dense_graph(KERNEL).tensors, ops=(op,), outputs=(2,))
    assert read_contents(write(tmp_path / "m.tflite", graph, buffers=(b"", TWELVE))).layers[0].kind == "My|Op"

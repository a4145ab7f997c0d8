"""A .tflite file written anew: fewer bytes, the same numbers, and what no interpreter reads only on request."""

from __future__ import annotations

import contextlib
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import mutated_bytes
from places import TESTS

from edgeprune.errors import InputError, Unsupported
from edgeprune.formats.graph import Graph, Op, Tensor
from edgeprune.formats.metadata import MetadataOptions
from edgeprune.formats.tflite import packed as module
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.formats.tflite.metadata import read_metadata, with_metadata
from edgeprune.formats.tflite.objects import as_objects, file_bytes, schema_classes
from edgeprune.formats.tflite.packed import PackOptions, array_edges, packed

FILES = TESTS / "files"
ALL = PackOptions(drop_metadata=True, drop_names=True)
MODELS = sorted([*FILES.glob("*.tflite"), *(TESTS / "runtime_files").glob("d*.tflite")], key=str)


def changed(name: str, change: Any) -> bytes:
    """A file with a change of its objects."""
    model = as_objects((FILES / name).read_bytes())
    change(model)
    return file_bytes(model)


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_every_file_takes_less(path: Path) -> None:
    """Its graph is the same but for names, and it does not change a second time."""
    content = path.read_bytes()
    made, _ = packed(path, content, ALL)
    assert len(zlib.compress(made, 9)) < len(zlib.compress(content, 9))
    graph, again = parse_tflite(path, content)[0], parse_tflite(path, made)[0]
    assert (again.ops, again.signatures, again.options) == (graph.ops, graph.signatures, graph.options)
    ends = {*graph.inputs, *graph.outputs}
    assert [t.name for i, t in enumerate(again.tensors) if i in ends] == [graph.tensors[i].name for i in sorted(ends)]
    assert packed(path, made, ALL)[0] == made


def test_negative_zeros_of_weights_become_positive() -> None:
    """All of them, counted, and nothing else."""
    path = FILES / "float32.tflite"
    content = path.read_bytes()
    made, changes = packed(path, content, PackOptions())
    before, after = as_objects(content), as_objects(made)
    words = [
        np.concatenate([np.asarray(b.data, np.uint8) for b in m.buffers if b.data is not None and len(b.data) % 4 == 0])
        for m in (before, after)
    ]
    signs = [np.count_nonzero(word.view(np.uint32) == 1 << 31) for word in words]
    assert (signs[0], signs[1], changes.negative_zeros) == (735, 0, 735)


def constant(name: str, buffer: int) -> Tensor:
    """A float32 tensor, one of a file's constants unless `buffer` is 0."""
    return Tensor(
        name=name, shape=(4, 4), dtype="float32", constant=buffer > 0, raw_bytes=64, elements=16, zeros=8, buffer=buffer
    )


def test_zeros_that_can_be_seen_keep_their_sign() -> None:
    """A table that GATHER takes from, a kernel that is added as well, one that is an output: only products hide it."""
    names = ["table", "kernel", "added", "shown", "a", "b", "c", "d", "e"]
    tensors = [constant(name, number if number < 5 else 0) for number, name in enumerate(names, start=1)]
    steps = [("GATHER", (0, 4), 5), *(("FULLY_CONNECTED", (5, kernel), 6) for kernel in (1, 2, 3)), ("ADD", (6, 2), 7)]
    ops = [Op(kind=kind, inputs=inputs, outputs=(made,), macs=0, subgraph=0) for kind, inputs, made in steps]
    graph = Graph(path=Path("m"), tensors=tuple(tensors), ops=tuple(ops), inputs=(4,), outputs=(7, 3), signatures=())
    assert module._summed(graph) == {2: "float32"}


def test_equal_constants_are_stored_once() -> None:
    """Tensors share the bytes then."""
    twin = []

    def double(model: Any) -> None:
        kernel = max(model.buffers, key=lambda b: 0 if b.data is None else len(b.data))
        bias = schema_classes().BufferT()
        bias.data = np.array(kernel.data, np.uint8)
        model.buffers.append(bias)
        tensor = next(t for t in model.subgraphs[0].tensors if model.buffers[t.buffer] is kernel)
        other = schema_classes().TensorT()
        other.__dict__.update(tensor.__dict__)
        other.name, other.buffer = b"twin", len(model.buffers) - 1
        model.subgraphs[0].tensors.append(other)
        twin.append(len(kernel.data))

    content = changed("int8.tflite", double)
    made, changes = packed(FILES / "int8.tflite", content, PackOptions())
    assert changes.shared_bytes == twin[0]
    assert len(made) <= len(content) - twin[0] + 16
    graph, _ = parse_tflite(FILES / "int8.tflite", made)
    (index,) = [n for n, t in enumerate(graph.tensors) if t.name == "twin"]
    assert [t.buffer for t in graph.tensors].count(graph.tensors[index].buffer) == 2


def test_what_apps_read_stays(tmp_path: Path) -> None:
    """TFLite metadata and the files behind the model; what a converter noted goes."""
    path = tmp_path / "m.tflite"
    content = (FILES / "int8.tflite").read_bytes()
    count = read_metadata(FILES / "int8.tflite").outputs[0].shape[-1]
    labels = tuple(f"label {n}" for n in range(count))
    told = with_metadata(path, content, MetadataOptions(description="Shirts", class_labels=labels))
    path.write_bytes(told)
    before = read_metadata(path)
    made, changes = packed(path, told, ALL)
    path.write_bytes(made)
    after = read_metadata(path)
    assert (after.tables, after.files) == (before.tables, before.files)
    assert after.tables is not None
    assert changes.metadata == ("description", "min_runtime_version", "CONVERSION_METADATA")
    assert b"CONVERSION_METADATA" not in made
    kept, none = packed(path, told, PackOptions())
    assert (b"CONVERSION_METADATA" in kept, none.names, none.metadata) == (True, 0, ())


def test_what_cannot_be_written_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights behind the flatbuffer, options that are not known, broken files, a writer that loses something."""
    path = FILES / "int8.tflite"

    def outside(model: Any) -> None:
        model.buffers[-1].offset, model.buffers[-1].size, model.buffers[-1].data = 32, 4, None

    with pytest.raises(Unsupported, match="behind the flatbuffer"):
        packed(path, changed("int8.tflite", outside), PackOptions())
    with pytest.raises(InputError):
        packed(path, path.read_bytes()[:3000], PackOptions())
    with monkeypatch.context() as patch:
        patch.setattr(module, "file_bytes", lambda _: changed("float32.tflite", lambda _: None))
        with pytest.raises(Unsupported, match="--as-is"):
            packed(path, path.read_bytes(), PackOptions())


def test_spoilt_files_are_one_error() -> None:
    """Whatever is wrong with them: written anew, or refused by a sentence."""
    chance, written = random.Random(3), 0
    contents = [path.read_bytes() for path in MODELS]
    for _ in range(120):
        spoilt = mutated_bytes(chance.choice(contents), chance)
        with contextlib.suppress(InputError, Unsupported):
            packed(Path("spoilt.tflite"), spoilt, ALL)
            written += 1
    assert written > 10


def test_a_changed_number_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of every constant are compared, signs of zeros apart."""
    path = FILES / "int8.tflite"

    def spoil(model: Any) -> bytes:
        kernel = max(model.buffers, key=lambda b: 0 if b.data is None else len(b.data))
        kernel.data = np.array(kernel.data, np.uint8)
        nonzero = np.flatnonzero(kernel.data)
        kernel.data[nonzero[0]] ^= 2
        return file_bytes(model)

    monkeypatch.setattr(module, "file_bytes", spoil)
    with pytest.raises(Unsupported):
        packed(path, path.read_bytes(), PackOptions())


def test_edges_are_those_of_constants() -> None:
    """Of a .tflite file; others have none, broken ones neither."""
    content = (FILES / "int8.tflite").read_bytes()
    places = parse_tflite(Path("m"), content)[1].places
    assert set(array_edges(content)) == {edge for start, size in places.values() for edge in (start, start + size)}
    assert array_edges(b"something else") == array_edges(content[:2000]) == ()

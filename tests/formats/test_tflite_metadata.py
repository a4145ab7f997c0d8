"""TFLite metadata: read from another's file, written and read back by another's classes, hostile bytes refused."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import pytest
import tflite
from flatbuffers import encode, number_types, table
from places import TESTS
from written_tflite import GraphSpec, OpSpec, TensorSpec, write

from edgeprune import ImageInput, MetadataOptions, read_metadata, write_metadata
from edgeprune.artifact import Color
from edgeprune.errors import EdgepruneError, InputError, Unsupported, UsageError
from edgeprune.formats import read_contents
from edgeprune.formats.tflite.embedding import embedded
from edgeprune.formats.tflite.flatbuffer import parse_tflite
from edgeprune.formats.tflite.metadata import with_metadata
from edgeprune.formats.tflite.metadata_tables import pack_tables, unpack_tables
from edgeprune.report.metadata_report import metadata_json, metadata_text

SUPPORTED = TESTS / "files" / "supported.tflite"  # written by tflite-support: tests/files/make_supported.py
INT8 = TESTS / "files" / "int8.tflite"
LABELS = tuple(f"class {number}" for number in range(12))
PICTURES = ImageInput.normalized("image", (127.5,), (63.75,))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A model of pictures, [1, 4, 4, 3] floats to 2 classes."""
    image, scores = TensorSpec(shape=(1, 4, 4, 3), name="image"), TensorSpec(shape=(1, 2), name="scores")
    op = OpSpec(kind="Scorer", inputs=(0,), outputs=(1,))
    graph = GraphSpec(tensors=(image, scores), ops=(op,), inputs=(0,), outputs=(1,))
    return write(tmp_path / "photo.tflite", graph, buffers=(b"",))


def the_tables(path: Path) -> table.Table:
    """The root of the metadata, through the classes of the packages tflite and flatbuffers alone."""
    model = tflite.Model.GetRootAs(path.read_bytes(), 0)
    named = {model.Metadata(n).Name(): model.Metadata(n).Buffer() for n in range(model.MetadataLength())}
    buffer = model.Buffers(named[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert buffer[4:8] == b"M001"
    return table.Table(buffer, encode.Get(number_types.UOffsetTFlags.packer_type, buffer, 0))


def field(of: table.Table, number: int) -> int:
    """Where a field is; its number as in metadata_schema.fbs."""
    offset = of.Offset(4 + 2 * number)
    assert offset, number
    return int(offset + of.Pos)


def text(of: table.Table, number: int) -> str:
    """A string field."""
    return bytes(of.String(field(of, number))).decode()


def floats(of: table.Table, number: int) -> list[float]:
    """A vector of floats."""
    start = of.Vector(field(of, number) - of.Pos)
    return list(struct.unpack_from(f"<{of.VectorLen(field(of, number) - of.Pos)}f", of.Bytes, start))


def child(of: table.Table, number: int) -> table.Table:
    """A table in a field, or the first of a vector of tables."""
    return table.Table(of.Bytes, of.Indirect(field(of, number)))


def first(of: table.Table, number: int) -> table.Table:
    """The first table of a vector."""
    return table.Table(of.Bytes, of.Indirect(of.Vector(field(of, number) - of.Pos)))


def test_written_and_read_by_others(photo: Path, tmp_path: Path) -> None:
    """Another's reader finds description, normalisation, colours, labels, and the model as it was."""
    options = MetadataOptions(
        description="Cats", author="A", image=PICTURES, class_labels=("cat", "crême"), output_names=("kinds",)
    )
    path = write_metadata(photo, tmp_path / "out.tflite", options)
    root = the_tables(path)
    assert (text(root, 1), text(root, 4), text(root, 7)) == ("Cats", "A", "1.0.0")
    graph = first(root, 3)
    image, scores = first(graph, 2), first(graph, 3)
    assert (text(image, 0), text(scores, 0)) == ("image", "kinds")
    content = child(image, 3)
    assert content.Get(number_types.Uint8Flags, field(content, 0)) == 2  # ImageProperties
    assert child(content, 1).Get(number_types.Int8Flags, field(child(content, 1), 0)) == 1  # RGB
    unit = first(image, 4)
    assert unit.Get(number_types.Uint8Flags, field(unit, 0)) == 1  # NormalizationOptions
    assert (floats(child(unit, 1), 0), floats(child(unit, 1), 1)) == ([127.5], [63.75])
    assert (floats(child(image, 5), 0), floats(child(image, 5), 1)) == ([2.0], [-2.0])
    labels = first(scores, 6)
    assert (text(labels, 0), labels.Get(number_types.Int8Flags, field(labels, 2))) == ("labels.txt", 2)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode() == "cat\ncrême\n"
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED
    assert photo.read_bytes() in path.read_bytes()


def test_every_byte_is_accounted(tmp_path: Path) -> None:
    """The file grows by metadata alone, and weights stay at multiples of 16 bytes from where they were."""
    path = write_metadata(INT8, tmp_path / "m.tflite", MetadataOptions(class_labels=LABELS, description="d"))
    before, after = read_contents(INT8), read_contents(path)
    grown = {kind: after.sections[kind] - before.sections[kind] for kind in before.sections}
    padding = -before.raw_bytes % 16
    added = after.raw_bytes - before.raw_bytes - padding
    assert grown == {"graph": padding, "weights": 0, "metadata": added, "padding": 0}
    assert path.read_bytes().index(INT8.read_bytes()) % 16 == 0
    assert after.macs == before.macs


def test_another_hands_file_is_read_and_kept(tmp_path: Path) -> None:
    """What tflite-support wrote is read as its own tools print it, and what is not changed stays."""
    found = read_metadata(SUPPORTED)
    assert found.tables is not None
    (graph,) = found.tables["subgraph_metadata"]
    (image,), (scores,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    assert found.tables["name"] == "ImageClassifier"
    assert image["process_units"][0]["options"] == {"mean": [1.5, 2.5], "std": [4.0, 8.0]}
    assert image["stats"] == {"max": [63.375, 31.5625], "min": [-0.375, -0.3125]}
    unit = {"score_transformation": "LOG", "default_score": 0.25}
    assert scores["process_units"] == [{"options_type": "ScoreCalibrationOptions", "options": unit}]
    assert found.files == {"names.txt": b"ant\nbee\ncat\ndog\n", "scores.txt": b"0.9,1,0\n" * 4}
    options = MetadataOptions(author="me", class_labels=("a", "b", "c", "d"), input_descriptions=("field",))
    kept = read_metadata(write_metadata(SUPPORTED, tmp_path / "m.tflite", options))
    image["description"] = "field"
    assert kept.tables == {**found.tables, "author": "me"}
    assert kept.files == {"names.txt": b"a\nb\nc\nd\n", "scores.txt": b"0.9,1,0\n" * 4}
    told = metadata_text(kept)
    assert "(x - [1.5, 2.5]) / [4, 8], field" in told
    assert "names.txt (4 labels: a, b, c, ...), scores.txt" in told
    assert json.loads(json.dumps(metadata_json(kept)))["metadata"]["author"] == "me"


def test_written_again(tmp_path: Path) -> None:
    """New metadata take the place of the old: the file does not grow by being written twice."""
    one = MetadataOptions(description="one", class_labels=LABELS)
    path = tmp_path / "m.tflite"
    write_metadata(INT8, path, one)
    once = path.read_bytes()
    write_metadata(path, path, MetadataOptions(description="another, longer one" * 9), overwrite=True)
    write_metadata(path, path, one, overwrite=True)
    assert path.read_bytes() == once
    write_metadata(path, path, MetadataOptions(author="me"), overwrite=True, replaced=True)
    found = read_metadata(path)
    assert found.tables is not None
    assert (found.tables["author"], "description" in found.tables, found.files) == ("me", False, {})


def test_pictures_by_mean_or_scale() -> None:
    """(x - mean) / std is x * scale + bias; readers want as many means as standard deviations."""
    assert ImageInput(name="x", scale=1 / 127.5, bias=(-1.0,)).mean == (127.5,)
    both = ImageInput.normalized("x", (1.0, 2.0, 3.0), (4.0,))
    assert (both.scale, both.bias, both.std) == (0.25, (-0.25, -0.5, -0.75), (4.0, 4.0, 4.0))
    assert ImageInput(name="x").mean == (0.0,)
    with pytest.raises(UsageError, match="--std 0 makes every picture the same"):
        ImageInput.normalized("x", (0.0,), (1.0, 0.0))
    with pytest.raises(UsageError, match="--mean has 2 numbers and --std 3"):
        ImageInput.normalized("x", (0.0, 1.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MetadataOptions(class_labels=("a",)), "1 labels, the model's output 2 classes"),
        (MetadataOptions(image=ImageInput(name="photo")), "no such input; it has image"),
        (MetadataOptions(image=ImageInput(name="", color=Color.GRAYSCALE)), r"\[height, width, 1\] of floats"),
        (MetadataOptions(image=ImageInput(name="", scale=(1.0, 2.0))), "--std has 2 numbers for 3 channels"),
        (MetadataOptions(input_names=("a", "b")), "given 2 times and the model's inputs are: image"),
    ],
)
def test_what_does_not_fit(photo: Path, tmp_path: Path, options: MetadataOptions, words: str) -> None:
    """Refused in one line, and nothing is written."""
    with pytest.raises(UsageError, match=words):
        write_metadata(photo, tmp_path / "out.tflite", options)
    assert not (tmp_path / "out.tflite").exists()


def test_the_command(call: Any, photo: Path, tmp_path: Path) -> None:
    """It shows, writes beside or over the file, and says where a word is missing."""
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    shown = call("metadata", photo)
    assert (shown.code, "no TFLite metadata; write some with" in shown.out) == (0, True)
    call("metadata", photo, "--author", "me").error(2, "-o OUT.tflite, or --overwrite")
    call("metadata", photo, "--overwrite").error(2, "nothing to write")
    call("metadata", photo, "--mean", "1", "--overwrite").error(2, "needs --mean and --std")
    given = ("--labels", tmp_path / "labels.txt", "--mean", "127.5", "--std", "127.5", "--description", "Two kinds")
    done = call("metadata", photo, *given, "--overwrite")
    assert (done.code, done.err) == (0, "")
    assert "image: float32 [1, 4, 4, 3], RGB pictures, (x - 127.5) / 127.5\n" in done.out
    assert json.loads(call("metadata", photo, "--json").out)["files"] == [{"name": "labels.txt", "raw_bytes": 8}]


# --- forged files ---------------------------------------------------------------------------------------------------


def test_spoilt_metadata_are_one_line(photo: Path, tmp_path: Path) -> None:
    """Whatever stands in tables and zip: read or refused, never another error."""
    options = MetadataOptions(description="Cats", image=PICTURES, class_labels=("cat", "dog"))
    content = write_metadata(photo, tmp_path / "out.tflite", options).read_bytes()
    rng, outcomes = random.Random(0), set()
    for _ in range(400):
        spoilt = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            spoilt[rng.randrange(len(spoilt))] = rng.choice((0, 1, 255, rng.randrange(256)))
        path = tmp_path / "m.tflite"
        path.write_bytes(spoilt)
        try:
            metadata_text(read_metadata(path))
            with_metadata(path, bytes(spoilt), MetadataOptions(author="A"))
            outcomes.add("read")
        except EdgepruneError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_texts_that_many_share() -> None:
    """References to one long text are paid for each time."""
    names = bytearray(
        pack_tables({"subgraph_metadata": [{"input_tensor_groups": [{"tensor_names": ["x" * 4000] * 9}]}]})
    )
    start = names.index(b"\x09\x00\x00\x00") + 4
    last = start + 32 + struct.unpack_from("<I", names, start + 32)[0]
    for place in range(start, start + 36, 4):
        struct.pack_into("<I", names, place, last - place)
    shared = bytes(names[: last + 4 + 4001])  # nine references, one text behind them
    with pytest.raises(ValueError, match="more than its bytes have room for"):
        unpack_tables(shared)


def test_a_bomb_behind_the_model(tmp_path: Path) -> None:
    """A member that claims to expand a thousandfold is not inflated."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(65 << 20))
    path = tmp_path / "m.tflite"
    path.write_bytes(INT8.read_bytes() + packed.getvalue())
    with pytest.raises(InputError, match="zip bomb"):
        read_metadata(path)
    assert read_contents(path).sections["metadata"] > len(packed.getvalue())


def test_what_cannot_take_metadata(tmp_path: Path) -> None:
    """Weights behind the flatbuffer would move; a newer schema would lose what is not known here."""
    graph = GraphSpec(tensors=(TensorSpec(shape=(1, 4)), TensorSpec(shape=(4,), buffer=1)), outputs=(1,))
    outside = write(tmp_path / "m.tflite", graph, buffers=(b"", (100, 16)))
    with pytest.raises(Unsupported, match="its weights lie behind the flatbuffer"):
        write_metadata(outside, tmp_path / "out.tflite", MetadataOptions(author="A"))
    builder = flatbuffers.Builder(64)
    builder.StartObject(9)  # one field more than the schema has
    builder.PrependUint32Slot(8, 7, 0)
    builder.Finish(builder.EndObject(), b"M001")
    content = INT8.read_bytes()
    path = tmp_path / "newer.tflite"
    path.write_bytes(embedded(content, parse_tflite(INT8, content)[1], bytes(builder.Output())))
    assert "of a newer schema" in metadata_text(read_metadata(path))
    with pytest.raises(Unsupported, match=r"newer than 1\.5\.0, and what is not known here would be lost; --replace"):
        write_metadata(path, path, MetadataOptions(name="n"), overwrite=True)
    write_metadata(path, path, MetadataOptions(name="n"), overwrite=True, replaced=True)
    assert read_metadata(path).complete

"""Samples from .parquet and TFRecord files and lists of pictures; bad samples that are skipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.errors import InputError, MissingExtra, RecipeError
from edgeprune.maker.training.data import npz, parquet
from edgeprune.maker.training.data.loading import load_samples

TWO = {"x": ((None, 2), "float32")}
PICTURE = {"photo": ((None, 2, 3, 3), "float32")}
Values = Mapping[str, Any]


def written(path: Path, columns: Values) -> Path:
    """A .parquet file of these columns, in row groups of four."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(dict(columns)), path, row_group_size=4)
    return path


def png(colour: int, height: int = 4, width: int = 5) -> bytes:
    import tensorflow as tf

    content: bytes = tf.io.encode_png(np.full((height, width, 3), colour, np.uint8)).numpy()
    return content


def recorded(path: Path, samples: list[Values]) -> Path:
    """A TFRecord file of tf.train.Example: bytes, and lists of floats or whole numbers."""
    import tensorflow as tf

    def feature(value: Any) -> Any:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if all(isinstance(number, int) for number in value):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=value))
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))

    with tf.io.TFRecordWriter(str(path)) as file:
        for sample in samples:
            features = tf.train.Features(feature={name: feature(value) for name, value in sample.items()})
            file.write(tf.train.Example(features=features).SerializeToString())
    return path


def test_parquet_by_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and lists of numbers by the names of inputs; a list takes the shape of the input."""
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 200)  # several blocks
    rows = np.arange(60, dtype=np.float32).reshape(10, 6)
    path = written(
        tmp_path / "a.parquet",
        {"image": list(rows), "age": np.arange(10, dtype=np.int16), "label": np.arange(10) % 3},
    )
    found = load_samples(path, {"image": ((None, 2, 3), "float32"), "age": ((None, 1), "int32")})
    np.testing.assert_array_equal(found.inputs["image"], rows.reshape(10, 2, 3))
    assert found.inputs["age"][:, 0].tolist() == list(range(10))
    assert found.told[""].tolist() == [n % 3 for n in range(10)]
    one = written(tmp_path / "b.parquet", {"a": [1.0, 2.0], "b": [3, 4], "y": [0, 1], "sample_weight": [1.0, 2.0]})
    assert load_samples(one, TWO).inputs["x"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"a": [1.0, None], "b": [1.0, 2.0]}, "row 1: no value in column 'a'"),
        ({"x": [[1.0, 2.0], [1.0]]}, "row 1: 1 numbers in column 'x', those before it 2"),
        ({"x": [[1, 2], [3, None]]}, "row 1: a list with no value in column 'x'"),
        ({"a": [1.0, 2.0], "b": ["u", "v"]}, "column 'b' holds string"),
        ({"a": np.zeros(0), "b": np.zeros(0)}, "no samples"),
    ],
)
def test_parquet_that_holds_no_samples(tmp_path: Path, columns: Values, told: str) -> None:
    """What is missing, in which row; with skip the others are there."""
    path = written(tmp_path / "a.parquet", columns)
    with pytest.raises(InputError, match=told):
        load_samples(path, TWO, need_targets=False)
    if "row 1" in told:
        found = load_samples(path, TWO, need_targets=False, on_bad_sample="skip")
        assert (len(found), found.skipped.count) == (1, 1)


def test_parquet_damaged_or_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is none, and an environment without pyarrow, are one line."""
    path = written(tmp_path / "a.parquet", {"a": [1.0], "b": [2.0]})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"not a \.parquet file, or damaged"):
        load_samples(path, TWO, need_targets=False)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"edgeprune\[parquet\]"):
        load_samples(path, TWO, need_targets=False)


DESCRIPTION = """
[x]
feature = "image/encoded"
type = "image"

[y]
feature = "label"
type = "int64"
"""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with two shards of three pictures each."""
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "features.toml").write_text(DESCRIPTION)
    for shard in (0, 1):
        samples = [{"image/encoded": png(40 * n), "label": [n]} for n in range(3 * shard, 3 * shard + 3)]
        recorded(folder / f"train.tfrecord-0000{shard}-of-00002", samples)
    return folder


def test_records_of_pictures(shards: Path) -> None:
    """All shards in their order, pictures in the size of the model, scaled."""
    found = load_samples(shards, PICTURE, scale=0.5)
    assert found.inputs["photo"].shape == (6, 2, 3, 3)
    assert [float(row.mean()) for row in found.inputs["photo"]] == [20.0 * n for n in range(6)]
    assert found.told[""].tolist() == list(range(6))


def test_records_of_numbers(tmp_path: Path) -> None:
    """Lists and raw bytes, by the names of inputs and with shapes."""
    raw = np.arange(4, dtype="<i2")
    path = recorded(tmp_path / "a.tfrecord", [{"f": [0.5, 1.0, 2.0, 4.0], "raw": raw.tobytes(), "n": [-3]}] * 2)
    (tmp_path / "a.toml").write_text(
        '[a]\nfeature = "f"\ntype = "float32"\nshape = [2, 2]\n[b]\nfeature = "raw"\ntype = "int16"\nshape = [4]\n'
        '[y]\nfeature = "n"\ntype = "int32"\n'
    )
    found = load_samples(path, {"a": ((None, 2, 2), "float32"), "b": ((None, 4), "int32")})
    assert found.inputs["a"][1].tolist() == [[0.5, 1], [2, 4]]
    assert found.inputs["b"][0].tolist() == raw.tolist()
    assert found.told[""].tolist() == [-3, -3]


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ({"x": [1.0, 2.0, 3.0]}, "record 1: feature 'x': 3 values, the description says shape"),
        ({"z": [1.0, 2.0]}, "record 1: no feature 'x'; it has 'z'"),
        ({"x": b"abc"}, "record 1: feature 'x': buffer size must be a multiple"),
        ({"x": []}, "record 1: feature 'x': 0 values"),
    ],
)
def test_records_that_do_not_fit(tmp_path: Path, sample: Values, told: str) -> None:
    """The record and its feature; with skip the others are there."""
    path = recorded(tmp_path / "a.tfrecord", [{"x": [1.0, 2.0]}, sample, {"x": [5.0, 6.0]}])
    (tmp_path / "a.toml").write_text('[x]\ntype = "float32"\nshape = [2]\n')
    with pytest.raises(InputError, match=told):
        load_samples(path, TWO, need_targets=False)
    found = load_samples(path, TWO, need_targets=False, on_bad_sample="skip")
    assert (found.inputs["x"].tolist(), found.skipped.count) == ([[1, 2], [5, 6]], 1)


def test_records_that_are_damaged(tmp_path: Path) -> None:
    """A changed byte, a length without end, a file cut short: the record is named, and what can be read is read."""
    path = recorded(tmp_path / "a.tfrecord", [{"x": [float(n), 2.0]} for n in range(4)])
    (tmp_path / "a.toml").write_text('[x]\ntype = "float32"\nshape = [2]\n')
    whole = path.read_bytes()
    step = len(whole) // 4
    for change, left in ((step + 20, [0, 2, 3]), (step + 6, [0]), (None, [0, 1, 2])):
        spoilt = bytearray(whole if change is not None else whole[:-3])
        if change is not None:
            spoilt[change] ^= 64
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match=rf"record {3 if change is None else 1}: (damaged|cut short)"):
            load_samples(path, TWO, need_targets=False)
        found = load_samples(path, TWO, need_targets=False, on_bad_sample="skip")
        assert found.inputs["x"][:, 0].tolist() == left
    path.write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(InputError, match="compressed; unpack"):
        load_samples(path, TWO, need_targets=False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"say it in .*a.toml.*its first record has 'x' \(floats\)"),
        ("[x]\n", "lacks 'type'"),
        ('[x]\ntype = "float3"\n', "did you mean 'float32'"),
        ('[x]\ntype = "int8"\nshape = 4\n', "shape is a list of sizes"),
        ('[x]\ntype = "int8"\nsize = 4\n', "unknown key 'size'"),
        ('[z]\ntype = "image"\n', "no input of the model"),
        ("x = 1\n", "is a table of keys"),
    ],
)
def test_records_without_a_description(tmp_path: Path, text: str | None, told: str) -> None:
    """What to write where, and what is wrong in it."""
    path = recorded(tmp_path / "a.tfrecord", [{"x": [1.0, 2.0]}])
    if text is not None:
        (tmp_path / "a.toml").write_text(text)
    with pytest.raises((InputError, RecipeError), match=told):
        load_samples(path, TWO, need_targets=False)


def test_records_of_tensorflow_datasets(shards: Path) -> None:
    """features.json and dataset_info.json say what the features are; a folder with two splits is refused."""
    (shards / "features.toml").unlink()
    features = {
        "image/encoded": {"pythonClassName": "Image", "image": {"shape": {"dimensions": ["-1", "-1", "3"]}}},
        "label": {"pythonClassName": "ClassLabel", "classLabel": {"numClasses": "10"}},
        "name": {"pythonClassName": "Text", "text": {}},
        "size": {"pythonClassName": "Tensor", "tensor": {"shape": {"dimensions": ["2"]}, "dtype": "float32"}},
    }
    (shards / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    with pytest.raises(InputError, match=r"no feature that is an input \(photo\); say which is in .*features\.toml"):
        load_samples(shards, PICTURE)
    items = [{"featureKey": "image/encoded"}, {"featureKey": "label"}]
    (shards / "dataset_info.json").write_text(json.dumps({"supervisedKeys": {"tuple": {"items": items}}}))
    found = load_samples(shards, PICTURE)
    assert (found.inputs["photo"].shape, len(found.told[""])) == ((6, 2, 3, 3), 6)
    (shards / "test.tfrecord").write_bytes((shards / "train.tfrecord-00000-of-00002").read_bytes())
    with pytest.raises(InputError, match="records of test, train; give each split a folder"):
        load_samples(shards, PICTURE)
    (shards / "features.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_samples(shards / "test.tfrecord", PICTURE)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of three pictures, one of which is none."""
    (tmp_path / "photos").mkdir()
    for name, colour in (("a", 10), ("b", 20)):
        (tmp_path / "photos" / f"{name}.png").write_bytes(png(colour))
    (tmp_path / "photos" / "c.png").write_bytes(png(1)[:50])
    path = tmp_path / "list.csv"
    path.write_text("file,label,sample_weight\nphotos/b.png,cat,1\nphotos/a.png,ape,2\nphotos/c.png,cat,1\n")
    return path


def test_lists_of_pictures(listed: Path) -> None:
    """Files beside the list, names of classes in their order; what cannot be read is named, or skipped."""
    with pytest.raises(InputError, match=r"1 of 3 pictures cannot be read: photos/c.png \(.*--on-bad-sample skip"):
        load_samples(listed, PICTURE)
    found = load_samples(listed, PICTURE, on_bad_sample="skip")
    assert found.inputs["photo"][:, 0, 0, 0].tolist() == [20, 10]
    assert found.told[""].tolist() == [1, 0]
    assert np.asarray(found.weights).tolist() == [1, 2]
    assert found.note is not None
    assert "skipped 1 of 3 samples: photos/c.png" in found.note
    numbered = listed.with_name("numbers.csv")
    numbered.write_text("path,y.0,y.1\nphotos/a.png,0.5,1\nphotos/none.png,1,2\n")
    found = load_samples(numbered, PICTURE, on_bad_sample="skip")
    assert found.told[""].tolist() == [[0.5, 1]]
    assert found.skipped.first == ("photos/none.png (there is no such file)",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,size\na.png,3\n", "unknown column 'size' beside 'file'"),
        ("file,y.0,y.1\na.png,u,v\n", "labels are numbers, or in one column"),
        ("file,label\n", "empty"),
        ("file,label\na.png\n", "line 2: 1 cells"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        load_samples(tmp_path / "a.csv", PICTURE)


def test_skipped_samples_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays in its file is read without them, in any order."""
    monkeypatch.setattr(npz, "LARGE_BYTES", 1)
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    x[[3, 4, 11]] = np.nan
    np.savez(tmp_path / "a.npz", x=x)
    rows = load_samples(tmp_path / "a.npz", TWO, need_targets=False, on_bad_sample="skip").inputs["x"]
    wanted = np.delete(x, [3, 4, 11], 0)
    assert type(rows).__name__ == "PickedRows"
    for key in (slice(None), slice(1, 3), slice(5, 9), np.array([16, 0, 0]), slice(4, 4)):
        np.testing.assert_array_equal(rows[key], wanted[key])
    np.testing.assert_array_equal(rows[2], wanted[2])


def test_samples_with_nan_are_skipped(tmp_path: Path) -> None:
    """In inputs and targets; they are counted and named, and all of them bad are an error."""
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    x[1, 0], y[4] = np.nan, np.inf
    np.savez(tmp_path / "a.npz", x=x, y=y)
    found = load_samples(tmp_path / "a.npz", TWO, on_bad_sample="skip")
    assert found.told[""].tolist() == [0, 2, 3, 5]
    assert found.note == (
        f"{tmp_path / 'a.npz'}: skipped 2 of 6 samples: sample 1 (NaN or infinite values), sample 4 (NaN or infinite "
        "values)"
    )
    np.savez(tmp_path / "b.npz", x=x * np.nan, y=y)
    with pytest.raises(InputError, match="all of its 6 samples are bad: sample 0"):
        load_samples(tmp_path / "b.npz", TWO, on_bad_sample="skip")
    (tmp_path / "c.csv").write_text("a,b,y\n1,2,0\n1,u,0\n1,nan,0\n1\n")
    found = load_samples(tmp_path / "c.csv", TWO, on_bad_sample="skip")
    assert (len(found), found.skipped.count) == (1, 3)
    assert found.skipped.first[0] == "line 3 ('u' in column 'b' is no number)"


@pytest.mark.slow
def test_skipped_samples_stand_in_the_ledger(
    call: Callable[..., Any], tmp_path: Path, keras: Any, vector_model: Any
) -> None:
    """A run leaves them out with a line, and counts them; without the key it ends with exit code 4."""
    from conftest import CLASSES

    vector_model.save(tmp_path / "model.keras")
    x = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    x[3] = np.nan
    np.savez(tmp_path / "test.npz", x=x, y=np.arange(20) % CLASSES)
    recipe = tmp_path / "recipe.toml"
    text = 'model = "model.keras"\nmetric = "accuracy"\n[data]\ntest = "test.npz"\n{}[latency]\nmeasure = false\n'
    text += '[[steps]]\nkind = "prune"\nsparsity = 0.5\n[[exports]]\nformat = "tflite"\nprecision = "float32"\n'
    recipe.write_text(text.format(""))
    call("run", recipe, "-o", tmp_path / "out", "-q").error(4, "sample 3", "--on-bad-sample skip")
    recipe.write_text(text.format('on_bad_sample = "skip"\n'))
    done = call("run", recipe, "-o", tmp_path / "out")
    assert (done.code, "skipped 1 of 20 samples: sample 3" in done.err) == (0, True)
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["data"]["test"]["skipped"] == 1

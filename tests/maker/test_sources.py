"""Samples from folders of pictures, tables and the user's own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import InputError, OutputError, Unsupported, UsageError
from edgeprune.maker.training.data.loading import load_samples

TWO = {"x": ((None, 2), "float32")}
PICTURE = {"photo": ((None, 4, 6, 3), "float32")}


@pytest.fixture
def code(tmp_path: Path) -> Callable[[str], Path]:
    """A Python file with a function `data`; its path as a split."""
    made: list[Path] = []

    def write(body: str) -> Path:
        file = tmp_path / f"split{len(made)}.py"
        made.append(file)
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        file.write_text(f"import numpy as np\n\n\ndef data():\n{lines}\n")
        return Path(f"{file}:data")

    return write


def test_code_runs_only_when_it_is_trusted(code: Callable[[str], Path], tmp_path: Path) -> None:
    """Without --trust-code the file is not even run."""
    path = code(f"open({str(tmp_path / 'ran')!r}, 'w')\nreturn np.zeros((1, 2))")
    with pytest.raises(Unsupported, match="--trust-code"):
        load_samples(path, TWO, need_targets=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "body",
    [
        "return np.arange(10.).reshape(5, 2), np.arange(5)",
        "return {'x': np.arange(10.).reshape(5, 2)}, np.arange(5)",
        "return [(np.arange(6.).reshape(3, 2), np.arange(3)), (np.arange(6., 10).reshape(2, 2), np.arange(3, 5))]",
        "return ((np.full((1, 2), [2 * n, 2 * n + 1]), np.array([n])) for n in range(5))",
    ],
)
def test_arrays_and_batches(code: Callable[[str], Path], body: str) -> None:
    """Arrays at once, or batches of any length, give the same samples, to be taken in any order."""
    found = load_samples(code(body), TWO, trust_code=True)
    assert found.told[""].tolist() == [0, 1, 2, 3, 4]
    assert found.rows(np.array([4, 0])).inputs["x"].tolist() == [[8, 9], [0, 1]]


@pytest.mark.slow
def test_data_sets_of_frameworks(code: Callable[[str], Path]) -> None:
    """tf.data with sample weights, and a PyDataset; one without end is refused."""
    whole = "import tensorflow as tf\nx, y = np.arange(10.).reshape(5, 2), np.arange(5)\n"
    found = load_samples(
        code(f"{whole}return tf.data.Dataset.from_tensor_slices((x, y, np.ones(5))).batch(2)"), TWO, trust_code=True
    )
    assert (len(found), found.weights is not None) == (5, True)
    data = (
        f"{whole}import keras\n\nclass Data(keras.utils.PyDataset):\n    num_batches = 2\n\n"
        "    def __getitem__(self, number):\n        return x[3 * number:][:3], y[3 * number:][:3]\n\n"
        "return Data()"
    )
    assert load_samples(code(data), TWO, trust_code=True).inputs["x"][4].tolist() == [8, 9]
    with pytest.raises(InputError, match="without end"):
        load_samples(code(f"{whole}return tf.data.Dataset.from_tensors(x).repeat()"), TWO, trust_code=True)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("yield np.zeros((3, 2))\nraise KeyError('lost')", "fails after 3 samples: KeyError: 'lost'"),
        ("yield np.zeros((3, 2))\nyield np.zeros((3, 4))", r"batch 2 changes the shape of 'x' from \(2,\) to \(4,\)"),
        ("yield np.zeros((3, 2))\nyield np.zeros((3, 2)), np.zeros(3)", "batch 2 holds x, y, those before it x"),
        ("yield np.zeros((3, 2)), np.array(['a'] * 3)", "'y' holds <U1"),
        ("return iter(())", "gives no samples"),
        ("yield np.zeros((3, 2))\nyield np.zeros((0, 2))", "batch 2 is empty, after 3 samples"),
        ("yield np.zeros((3, 2)), np.zeros(2)", "batch 1 holds 3 of 'x' and 2 of 'y'|3 of 'x', 2 of 'y'"),
        ("return 5", "gives int64, not rows|neither arrays nor batches"),
        ("raise OSError('no disk')", "fails: OSError: no disk"),
        ("import sys\nsys.exit(0)", "fails: SystemExit: 0"),
        ("yield np.zeros((3, 2))\nraise SystemExit", "fails after 3 samples: SystemExit"),
        ("return None", ":data: gives NoneType"),
        ("return 1, 2, 3, 4", "gives 4 things"),
        ("return np.array([[np.nan, 1]])", "NaN or infinite values, first in sample 0"),
    ],
)
def test_code_that_gives_no_samples(code: Callable[[str], Path], body: str, told: str) -> None:
    """What is wrong, after how many samples, in one line."""
    with pytest.raises(InputError, match=told):
        load_samples(code(body), TWO, trust_code=True, need_targets=False)


SEQUENCE = """class Data:
    num_batches = {}

    def __getitem__(self, number):
        return np.zeros((4, 2))[2 * number:][:2]

    def __len__(self):
        return 4

    def __iter__(self):
        yield from ({})


return Data()"""


@pytest.mark.parametrize(
    ("num_batches", "batches", "told"),
    [
        ("4", "", "batch 3 is empty, after 4 samples"),
        ("None", "", "without end"),
        ("0", "", "gives no samples"),
    ],
)
def test_sequences_that_end_early(code: Callable[[str], Path], num_batches: str, batches: str, told: str) -> None:
    """A number of batches that is not that of the data."""
    with pytest.raises(InputError, match=told):
        load_samples(code(SEQUENCE.format(num_batches, batches)), TWO, trust_code=True, need_targets=False)


def test_loaders_that_end_early_or_never(code: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer batches than `len` tells, a generator without end, and one that fills the disk."""
    short = SEQUENCE.replace("    num_batches = {}\n\n", "").format("[np.zeros((2, 2))] * 3")
    with pytest.raises(InputError, match="ends after 3 of the 4 batches that it tells"):
        load_samples(code(short), TWO, trust_code=True, need_targets=False)
    endless = "while True:\n    yield np.zeros((1, 2))"
    monkeypatch.setattr("edgeprune.maker.training.data.code.MOST_BATCHES", 1000)
    with pytest.raises(InputError, match="more than 1,000 batches; if it has an end, give larger"):
        load_samples(code(endless), TWO, trust_code=True, need_targets=False)
    monkeypatch.setattr("edgeprune.maker.training.data.spool.LOOK_BYTES", 1000)
    monkeypatch.setattr("edgeprune.maker.training.data.spool.SPARE_BYTES", 1 << 60)
    with pytest.raises(OutputError, match=r"no room for its samples after 62 of them .*without end"):
        load_samples(code(endless), TWO, trust_code=True, need_targets=False)


def test_code_that_is_not_there(code: Callable[[str], Path], tmp_path: Path) -> None:
    """A missing function, a file that fails, a missing file."""
    file = str(code("return 1")).removesuffix(":data")
    with pytest.raises(UsageError, match="no function 'other'"):
        load_samples(Path(f"{file}:other"), TWO, trust_code=True)
    (tmp_path / "bad.py").write_text("\n\nx = 1 / 0\n")
    with pytest.raises(UsageError, match="line 3: ZeroDivisionError"):
        load_samples(tmp_path / "bad.py:data", TWO, trust_code=True)
    (tmp_path / "ends.py").write_text("import sys\n\nsys.exit(0)\n")
    with pytest.raises(UsageError, match="line 3: SystemExit"):
        load_samples(tmp_path / "ends.py:data", TWO, trust_code=True)
    with pytest.raises(InputError, match=r"write .*bad\.py:FUNCTION"):
        load_samples(tmp_path / "bad.py", TWO, trust_code=True)
    with pytest.raises(InputError, match="does not exist"):
        load_samples(tmp_path / "none.py:data", TWO, trust_code=True)


def test_tables(tmp_path: Path) -> None:
    """All columns for the only input, or columns by the names of inputs; targets, weights."""
    (tmp_path / "a.csv").write_text("height,width,label,sample_weight\n1,2,0,1\n3.5,4,1,2\n\n")
    found = load_samples(tmp_path / "a.csv", TWO)
    assert found.inputs["x"].tolist() == [[1, 2], [3.5, 4]]
    assert (found.targets is not None, found.weights is not None) == (True, True)
    (tmp_path / "b.csv").write_text("size.1,age,y.0,y.1,size.0\n5,7,1,0,6\n")
    named = {"age": ((None, 1), "int32"), "size": ((None, 2), "float32")}
    found = load_samples(tmp_path / "b.csv", named)
    assert (found.inputs["age"].tolist(), found.inputs["size"].tolist()) == ([[7]], [[6, 5]])
    assert found.told[""].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b,y\n1,2,3\n1,x,3\n", "line 3: 'x' in column 'b' is no number"),
        ("a,b,y\n1,2\n", "line 2: 2 cells, the first line names 3"),
        ("a,a,y\n1,2,3\n", "must name each column once"),
        ("y\n3\n", "no column 'x'"),
        ("x.0,x.1,c,y\n1,2,3,4\n", "unknown column 'c'"),
        ("a,b,y\n", "no samples"),
        ("\n", "nothing"),
        ("a,b,y\n1,nan,3\n", "NaN"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    """The line and the column of what is wrong."""
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        load_samples(tmp_path / "a.csv", TWO)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of coloured pictures of different sizes, JPEG and PNG."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in (("dark", 20), ("light", 230)):
        (folder / name).mkdir()
        for number in range(3):
            image = np.full((8 + number, 9, 3), colour, np.uint8)
            tf.io.write_file(str(folder / name / f"{number}.png"), tf.io.encode_png(image))
    tf.io.write_file(str(folder / "light" / "more" / "z.jpg"), tf.io.encode_jpeg(np.full((9, 9, 3), 230, np.uint8)))
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_folders_of_pictures(pictures: Path) -> None:
    """Classes by the order of their names, pixels in the size of the model, scaled like any samples."""
    found = load_samples(pictures, PICTURE, scale=0.1)
    assert found.told[""].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert found.inputs["photo"].shape == (7, 4, 6, 3)
    np.testing.assert_allclose(found.inputs["photo"][0], 2.0, atol=1e-5)
    np.testing.assert_allclose(found.inputs["photo"][6], 23.0, atol=0.3)


def test_folders_that_hold_no_pictures(pictures: Path, tmp_path: Path) -> None:
    """Damaged pictures are counted and named; an empty folder, a single class and open sizes are told."""
    import shutil

    with pytest.raises(Unsupported, match="any size"):
        load_samples(pictures, {"photo": ((None, None, None, 3), "float32")})
    with pytest.raises(Unsupported, match="one input of 1 or 3 channels"):
        load_samples(pictures, TWO)
    bad = shutil.copytree(pictures, tmp_path / "bad")
    (bad / "light" / "0.png").write_bytes((pictures / "light" / "0.png").read_bytes()[:40])
    (bad / "dark" / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"2 of 8 pictures cannot be read: dark/2.jpg \(.*light/0.png"):
        load_samples(bad, PICTURE)
    shutil.rmtree(bad / "light")
    with pytest.raises(InputError, match="one class only, 'dark'"):
        load_samples(bad, PICTURE)
    shutil.rmtree(bad / "dark")
    with pytest.raises(InputError, match="no pictures"):
        load_samples(bad, PICTURE)

"""`edgeprune compare`: the sentence, the layers that changed, and measuring."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import NASTY, layer, record
from places import TESTS
from written_tflite import TensorSpec, dense_graph, write

from edgeprune.checker.comparison import Comparison
from edgeprune.checker.latency.measure import LatencyComparison, ProcessTimes, judge
from edgeprune.checker.size.records import FileAccount
from edgeprune.report import compare_report
from edgeprune.report.compare_report import headline

FILES = TESTS / "files"
GOLDEN = TESTS / "golden"


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the two files be these records."""

    def use(*records: FileAccount) -> None:
        left = list(records)

        def compared(*_: Any, **__: Any) -> Comparison:
            return Comparison(before=left.pop(0), after=left.pop(0))

        monkeypatch.setattr("edgeprune.checker.comparison.compare_files", compared)

    return use


BEFORE = record(
    "old.tflite",
    raw_bytes=9000,
    download_bytes={"deflate": 8000, "brotli": 7900, "zstd": 7950, "xz": 7800},
    parameters=2000,
    weights=2000,
    zeros=0,
    sparsity=0.0,
    macs=128_000,
    layers=(
        layer("stem", zeros=0, deflate_bytes=3700),
        layer("body", zeros=0, deflate_bytes=3700),
        layer("gone", kind="ADD", parameters=0, zeros=0, raw_bytes=16, deflate_bytes=10, macs=0),
    ),
)
AFTER = record(
    "new.tflite",
    layers=(
        layer("stem", zeros=0, deflate_bytes=3702),
        layer("body", precision="int8", raw_bytes=1000, deflate_bytes=400),
    ),
    macs=96_000,
)


@pytest.mark.parametrize(("name", "suffix"), [("text", "txt"), ("markdown", "md"), ("json", "json")])
def test_whole_outputs(call: Any, made_up: Any, name: str, suffix: str) -> None:
    """What shrank in install, in download, in MACs, layer by layer; made-up files."""
    made_up(BEFORE, AFTER)
    outcome = call("compare", "old.tflite", "new.tflite", "--format", name)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (GOLDEN / f"compare.{suffix}").read_text()


def test_all_shows_what_did_not_change(call: Any, made_up: Any) -> None:
    """A difference of 2 bytes of 3,700 in the download is none; --all shows it all the same."""
    made_up(BEFORE, AFTER, BEFORE, AFTER)
    assert "1 layer unchanged" in (short := call("compare", "a", "b").out)
    assert "\nstem" not in short
    full = call("compare", "a", "b", "--all").out
    assert "\nstem" in full
    assert "unchanged (--all" not in full


def changed(old: Any, new: Any) -> Sequence[Any]:
    """The pairs that are shown for one layer each."""
    return compare_report._changed([(old, new)])


def test_what_counts_as_a_change() -> None:
    """Clustering changes nothing but the download; precision, zeros, MACs and bytes count to the last one."""
    assert not changed(layer(), layer(name="renamed"))
    assert not changed(layer(deflate_bytes=1100), layer(deflate_bytes=1110))
    assert changed(layer(deflate_bytes=1100), layer(deflate_bytes=600))
    for more in ({"precision": "int8"}, {"zeros": 801}, {"macs": 1}, {"raw_bytes": 3999}, {"parameters": 999}):
        assert changed(layer(), layer(**more))
    assert changed(None, layer())
    assert changed(layer(), None)


def test_the_sentence_of_a_pruned_file() -> None:
    """A smaller download, the same install and MACs: latency is not promised."""
    dense = record(zeros=0, sparsity=0.0, download_bytes={"deflate": 4000})
    text = headline(Comparison(before=dense, after=record()))
    assert text.startswith(
        "Download -60.0 % (4.00 kB -> 1.60 kB) (deflate), install unchanged (5.00 kB), MACs unchanged"
    )
    assert "zeros 0.0 % -> 80.0 %" in text
    assert "a dense runtime multiplies the zeros too, so expect no change" in text


def test_the_sentence_leaves_out_what_is_not_known() -> None:
    """No MACs, no zeros: no word about them."""
    text = headline(Comparison(before=record(macs=None, sparsity=None), after=record(macs=None, sparsity=None)))
    assert text == (
        "Download unchanged (1.60 kB) (deflate), install unchanged (5.00 kB); "
        "latency not measured (--measure does, for .tflite)."
    )


def measured(ratio: float) -> LatencyComparison:
    """A measurement of five processes in which the second file takes `ratio` times the first one's time."""
    columns = np.array([1.0, 1.0, ratio]) * np.random.default_rng(0).normal(1, 0.001, (30, 3))
    times = [ProcessTimes(cpu_ms=columns, wall_ms=columns) for _ in range(5)]
    return judge(times, runtime="litert", runtime_version="2.3.0", seed=0)


def test_the_sentence_with_a_measurement() -> None:
    """Ratio and interval, on this host."""
    text = headline(Comparison(before=record(), after=record(), latency=measured(0.8)))
    assert "latency faster on this host: 0.800 times before (95 % 0.800 to 0.801)." in text


def test_measure_is_paired_and_shown(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement's own facts in sentence and JSON; other formats are refused before any work."""

    def timed(before: Path, after: Path, **_: Any) -> LatencyComparison:
        assert (before, after) == both
        return measured(1.2)

    monkeypatch.setattr("edgeprune.checker.latency.measure.compare_latency", timed)
    both = FILES / "float32.tflite", FILES / "float32_sparse.tflite"
    outcome = call("compare", *both, "--measure", "--quiet")
    assert "latency slower on this host: 1.200 times before" in outcome.out
    assert "latency on this host: 1 ms -> 1.2 ms CPU time (slower); " in outcome.out
    found = json.loads(call("compare", *both, "--measure", "-q", "--json").out)["latency"]
    assert (found["verdict"], round(found["ratio"], 2)) == ("slower", 1.2)
    call("compare", both[0], FILES / "half.mlpackage", "--measure").error(2, "runs .tflite files only")


def test_real_files(call: Any) -> None:
    """float32 against int8 of one network: a quarter of the kernels, the same MACs and zeros."""
    body = json.loads(call("compare", FILES / "float32.tflite", FILES / "int8.tflite", "--json").out)
    assert body["before"]["raw_bytes"] == (FILES / "float32.tflite").stat().st_size
    assert body["before"]["macs"] == body["after"]["macs"] == 7872
    assert body["before"]["zeros"] == body["after"]["zeros"] == 1470
    assert {"before": "Relu", "after": "Relu"} in body["layers"]
    text = call("compare", FILES / "float32.tflite", FILES / "half.mlpackage").out
    assert "float32 -> float16" in text


def test_clustered_weights_show_in_the_download(call: Any, tmp_path: Path) -> None:
    """One kernel of 256 random floats, then of four values: the same install, a fraction of the download."""
    rng, graph = np.random.default_rng(1), dense_graph(TensorSpec(shape=(64, 4), buffer=1))
    free = rng.standard_normal(256).astype(np.float32)
    few = free[rng.integers(0, 4, 256)]
    paths = [
        write(tmp_path / f"{n}.tflite", graph, buffers=(b"", values.tobytes())) for n, values in enumerate((free, few))
    ]
    text = call("compare", *paths).out
    assert "install unchanged" in text
    assert "\nt    " in text


@pytest.mark.parametrize("name", ["text", "json", "markdown"])
def test_hostile_names(call: Any, made_up: Any, name: str) -> None:
    """Nothing breaks the table, calls somebody or reaches the terminal."""
    kind = "<b>|@octocat"
    bad = record(NASTY, layers=(layer(NASTY, kind=kind, precision=kind, group=NASTY),), note=NASTY)
    made_up(record(NASTY, note=NASTY), bad)
    outcome = call("compare", "a", "b", "--format", name)
    assert (outcome.code, outcome.err) == (0, "")
    if name != "json":
        assert not any(line.startswith("::") for line in outcome.out.splitlines())
        assert "\x1b" not in outcome.out
    if name == "markdown":
        tables = [line for line in outcome.out.splitlines() if line.startswith("|")]
        assert "@octocat" not in outcome.out
        assert "<b>" not in outcome.out
        assert all(line.endswith("|") for line in tables)


def test_a_missing_and_a_broken_file(call: Any, tmp_path: Path) -> None:
    """Exit code 4 and the one to blame, whichever it is."""
    shutil.copy(FILES / "int8.tflite", tmp_path / "a.tflite")
    (tmp_path / "b.tflite").write_bytes((FILES / "int8.tflite").read_bytes()[:900])
    for files, told in ("ab", "b.tflite is a broken TFLite file"), ("ca", "c.tflite does not exist"):
        outcome = call("compare", *(tmp_path / f"{name}.tflite" for name in files))
        assert outcome.code == 4
        assert told in outcome.err
        assert outcome.out.startswith(f"{tmp_path}/a.tflite\n")


def test_precisions_are_not_ranked(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How int8 and float32 compare on this host says nothing of phones: no verdict, whatever was measured."""
    monkeypatch.setattr("edgeprune.checker.latency.measure.compare_latency", lambda *_, **__: measured(2.0))
    outcome = call("compare", FILES / "float32.tflite", FILES / "int8.tflite", "--measure", "-q")
    assert outcome.code == 0, outcome.err
    assert "latency not ranked: the two differ in precision" in outcome.out
    assert "slower" not in outcome.out


def test_estimates_of_both(call: Any) -> None:
    """--device adds what a profile says of each file, or why it says nothing; an unknown name is told first."""
    arguments = ("compare", FILES / "float32.tflite", FILES / "int8.tflite")
    told = json.loads(call(*arguments, "--device", "pixel3-tflite-4t-float32", "--json").out)["estimates"]
    assert told["how"].startswith("estimated from profile pixel3-tflite-4t-float32")
    assert told["before"]["total_ms"] is None
    assert "fully connected" in told["before"]["refused"]
    assert "is int8" in told["after"]["refused"]
    assert (
        "latency on pixel3-tflite-4t-float32: before not estimated"
        in call(*arguments, "--device", "pixel3-tflite-4t-float32").out
    )
    call(*arguments, "--device", "pixel3-tflite-4t-float23").error(2, "pixel3-tflite-4t-float32")


def test_two_strangers(call: Any, made_up: Any) -> None:
    """Without a layer in common the percentages are of different models, and that is said first."""
    made_up(
        record("a.tflite", layers=(layer("stem", kind="CONV_2D"),)),
        record("b.tflite", layers=(layer("other", kind="FULLY_CONNECTED"),)),
    )
    outcome = call("compare", "a.tflite", "b.tflite")
    assert "\nNo layer of the one is in the other, so these may be different models. Download " in outcome.out


def test_the_ratio_of_two_estimates(call: Any, covered: Path) -> None:
    """With a band of its own, narrower than that of two numbers apart; also where a profile only ranks."""
    both = (FILES / "float32.tflite", FILES / "float32.tflite")
    found = json.loads(call("compare", *both, "--device", covered, "--json").out)["estimates"]
    assert found["ratio"] == 1.0
    assert found["ratio_low"] < 1 < found["ratio_high"]
    before = found["before"]
    assert found["ratio_high"] < before["high_ms"] / before["low_ms"]
    assert "1.000 times before" in call("compare", *both, "--device", covered).out
    none = call("compare", both[0], FILES / "int8.tflite", "--device", covered)
    assert "not estimated: int8.tflite is int8" in none.out
    assert "estimated from profile" not in none.out


def test_slow_codecs_are_measured_where_they_are_asked_for(call: Any) -> None:
    """deflate and a quick zstd are always there; a codec that nobody knows is told with what there is."""
    both = (FILES / "float32.tflite", FILES / "int8.tflite")
    assert list(json.loads(call("compare", *both, "--json").out)["before"]["download_bytes"]) == ["deflate", "zstd12"]
    named = json.loads(call("compare", *both, "--json", "--codecs", "xz, brotli").out)
    assert list(named["after"]["download_bytes"]) == ["deflate", "brotli", "xz", "zstd12"]
    call("compare", *both, "--codecs", "broti").error(2, "did you mean 'brotli'?", "zstd12")

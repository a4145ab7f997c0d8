"""Running a .tflite file in a worker process, and every way in which that can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS

from edgeprune.errors import InputError, MissingExtra, RuntimeFailure, UsageError
from edgeprune.formats import read_graph
from edgeprune.host.children import confinement_here
from edgeprune.runtime import session
from edgeprune.runtime.runtimes import RUNTIMES, RuntimeSpec
from edgeprune.runtime.session import installed_runtimes, run_tflite, trace_tflite
from edgeprune.runtime.worker import dequantize, quantize

FILES = TESTS / "runtime_files"
IMAGES = np.array([[1, 1, 1], [0, 0.5, 0]], np.float32)
SCORES = [[3.5, 3.0], [1.0, 1.0]]  # by hand: relu(image @ [[1, -1], [2, 0], [0.5, 3]] + [0, 1])

# An interpreter whose behaviour is the text of the "model" file: it doubles its input, or it misbehaves.
FAKE_INTERPRETER = """
import os, signal, sys, time
import numpy as np

class Interpreter:
    def __init__(self, model_path, num_threads):
        self.mode = open(model_path).read()
        if self.mode.startswith("refuse"):
            raise SystemError(self.mode.partition(" ")[2])
        self.detail = dict(name="x", index=0, shape=np.array([1, 2]), shape_signature=np.array([1, 2]),
                           dtype=np.float32, quantization=(0.0, 0))
    def allocate_tensors(self): pass
    def get_signature_list(self): return {}
    def get_input_details(self): return [self.detail]
    def get_output_details(self): return [{**self.detail, "name": "y"}]
    def set_tensor(self, index, value): self.value = value
    def get_tensor(self, index): return 2 * self.value
    def invoke(self):
        os.write(1, b"chatter on stdout that is no JSON\\n")
        os.write(2, b"INFO: a delegate was made\\nthe last words\\n")
        if self.mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mode == "leave":
            os._exit(7)
        if self.mode == "hang":
            time.sleep(600)
        open(os.path.join(os.environ["TMPDIR"], "pid"), "w").write(str(os.getpid()))
        if self.mode == "spy":
            open(__file__ + ".outside", "w")
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime named "fake", and its folder; a worker leaves its process id beside its outputs."""
    (tmp_path / "fake_interpreter.py").write_text(FAKE_INTERPRETER)
    spec = RuntimeSpec(distribution="numpy", module="fake_interpreter", extra="fake")
    monkeypatch.setitem(RUNTIMES, "fake", spec)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return tmp_path


def model(folder: Path, mode: str) -> Path:
    """A "model" file for the fake interpreter."""
    path = folder / "model.tflite"
    path.write_text(mode)
    return path


def runtimes() -> list[str]:
    """The real runtimes that are here."""
    return list(installed_runtimes()) or [pytest.param("none", marks=pytest.mark.skip(reason="no runtime installed"))]


@pytest.mark.parametrize("runtime", runtimes())
class TestRealRuntimes:
    """Each installed runtime on tiny files whose results are known by hand."""

    def test_float_file(self, runtime: str) -> None:
        """A float32 file computes what its two weights tables say, under its signature's output name."""
        result = run_tflite(FILES / "dense.tflite", {"image": IMAGES}, runtime=runtime)
        assert list(result.outputs) == ["scores"]
        np.testing.assert_allclose(result.outputs["scores"], SCORES, atol=1e-6)
        assert (result.samples, result.input_dtypes, result.runtime) == (2, {"image": "float32"}, runtime)

    def test_samples_in_parts(self, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Samples that are too many for one process go through several, in order, with one count of progress."""
        monkeypatch.setattr(session, "PART_BYTES", 2 * IMAGES.itemsize * IMAGES.shape[1])
        seen: list[tuple[int, int]] = []
        many = IMAGES[[0, 1, 0, 1, 1]]
        result = run_tflite(
            FILES / "dense.tflite", {"image": many}, runtime=runtime, on_progress=lambda *step: seen.append(step)
        )
        np.testing.assert_allclose(result.outputs["scores"], np.array(SCORES)[[0, 1, 0, 1, 1]], atol=1e-6)
        assert (result.samples, seen[-1], [total for _, total in seen]) == (5, (5, 5), [5] * len(seen))

    def test_int8_file(self, runtime: str) -> None:
        """Float samples are quantized and int8 outputs come back as float32, within one step of 4/255."""
        result = run_tflite(FILES / "dense_int8.tflite", {"anything": IMAGES.astype(np.float64)}, runtime=runtime)
        assert result.outputs["scores"].dtype == np.float32
        np.testing.assert_allclose(result.outputs["scores"], SCORES, atol=0.03)
        assert (result.input_dtypes, result.output_dtypes) == ({"image": "int8"}, {"scores": "int8"})

    def test_int8_file_takes_its_own_integers(self, runtime: str) -> None:
        """An int8 array is already quantized: 127 and -128 are the ends of the calibrated range 0 to 1."""
        images = np.array([[127, 127, 127], [-128, -128, -128]], np.int8)
        result = run_tflite(FILES / "dense_int8.tflite", {"image": images}, runtime=runtime)
        np.testing.assert_allclose(result.outputs["scores"], [[3.5, 3.0], [0.0, 1.0]], atol=0.03)

    def test_two_inputs(self, runtime: str) -> None:
        """Two inputs are told apart by name, and whole int64 rows fit an int32 input."""
        inputs = {"row": np.array([[2], [1]]), "value": np.array([[1.0, 1.0], [0.0, 5.0]])}
        result = run_tflite(FILES / "two_inputs.tflite", inputs, runtime=runtime)
        assert result.outputs["out"].tolist() == [[31.0, 41.0], [10.0, 25.0]]

    def test_free_length(self, runtime: str) -> None:
        """A file whose length is free is resized to the samples' length."""
        result = run_tflite(FILES / "dynamic.tflite", {"x": np.ones((3, 5), np.float32)}, runtime=runtime)
        assert result.outputs["sum"].tolist() == [5.0, 5.0, 5.0]

    @pytest.mark.parametrize(("file", "step"), [("dense.tflite", 1e-6), ("dense_int8.tflite", 0.03)])
    def test_trace(self, runtime: str, file: str, step: float) -> None:
        """A trace names what every op wrote in execution order, with float32 values; the last is the file's output."""
        traced = trace_tflite(FILES / file, {"image": IMAGES}, runtime=runtime)
        assert (traced.samples, traced.runtime, traced.version) == (2, runtime, installed_runtimes()[runtime])
        last = traced.tensors[-1]
        assert (last.op, last.shape, last.note) == ("FULLY_CONNECTED", (1, 2), None)
        assert last.dtype == ("int8" if "int8" in file else "float32")
        assert last.values is not None
        assert last.values.dtype == np.float32
        np.testing.assert_allclose(last.values, SCORES, atol=step)

    def test_trace_of_several_ops(self, runtime: str) -> None:
        """Tensors between the ends are kept too, under their names in the file, and NaN is a value like any other."""
        inputs = {"row": np.array([[2], [1]]), "value": np.array([[1.0, 1.0], [0.0, 5.0]])}
        traced = trace_tflite(FILES / "two_inputs.tflite", inputs, runtime=runtime)
        assert [tensor.op for tensor in traced.tensors] == [
            op.kind for op in read_graph(FILES / "two_inputs.tflite").ops
        ]
        assert len({tensor.name for tensor in traced.tensors}) == len(traced.tensors) > 1
        assert traced.tensors[-1].values is not None
        assert traced.tensors[-1].values.tolist() == [[31.0, 41.0], [10.0, 25.0]]
        logarithm = trace_tflite(FILES / "logarithm.tflite", {"x": np.array([[1.0, -1.0]])}, runtime=runtime)
        assert logarithm.tensors[-1].values is not None
        assert np.isnan(logarithm.tensors[-1].values[0, 1])

    def test_a_tensor_too_large_to_trace(self, runtime: str) -> None:
        """What would take more than the limit is named with its size, without values."""
        (tensor,) = trace_tflite(FILES / "dense.tflite", {"x": IMAGES}, runtime=runtime, limit_bytes=15).tensors
        assert (tensor.values, tensor.note) == (None, "16 bytes, above the limit of 15")

    @pytest.mark.parametrize(
        ("file", "samples", "reason"),
        [
            ("dense.tflite", np.ones((2, 4), np.float32), r"one sample for input 'image' has shape \[4\].*\[1, 3\]"),
            ("logarithm.tflite", np.array([[1.0, 1.0], [1.0, -1.0]]), "output 'log' holds NaN at sample 1"),
            ("too_new.tflite", IMAGES, "Didn't find op for builtin opcode 'FULLY_CONNECTED' version '99'"),
            ("broken.tflite", IMAGES, "the file was refused"),
        ],
    )
    def test_failure_is_one_line(self, runtime: str, file: str, samples: np.ndarray, reason: str) -> None:
        """A wrong shape, NaN, an unknown operator or a broken file is one line with file, runtime and reason."""
        with pytest.raises(RuntimeFailure, match=reason) as caught:
            run_tflite(FILES / file, {"x": samples}, runtime=runtime)
        message = str(caught.value)
        assert message.startswith(f"{FILES / file} on {runtime} {installed_runtimes()[runtime]}: ")
        assert "\n" not in message

    def test_unknown_names_of_two_inputs(self, runtime: str) -> None:
        """With two inputs and other names the error lists the file's names."""
        inputs = {"a": np.ones((1, 2)), "b": np.ones((1, 1), np.int32)}
        with pytest.raises(RuntimeFailure, match=r"'value' float32\[1, 2\], 'row' int32\[1, 1\].* named 'a', 'b'"):
            run_tflite(FILES / "two_inputs.tflite", inputs, runtime=runtime)


class TestFailures:
    """What goes wrong in the worker becomes one clear error, and nothing is left behind."""

    def test_chatter_on_stdout_is_harmless(self, fake: Path) -> None:
        """What the interpreter prints on stdout does not mix with the replies."""
        result = run_tflite(model(fake, "fine"), {"x": np.ones((3, 2))}, runtime="fake")
        assert result.outputs["y"].tolist() == [[2.0, 2.0]] * 3

    @pytest.mark.parametrize(
        ("mode", "reason"),
        [
            ("crash", r"crashed \(SIGSEGV\).*the last words"),
            ("leave", "ended with status 7.*the last words"),
            ("refuse two\nlines.", "the file was refused: SystemError: two lines$"),
        ],
    )
    def test_crash(self, fake: Path, mode: str, reason: str) -> None:
        """A signal, an early exit and an exception are told apart, with the last words but without the INFO lines."""
        with pytest.raises(RuntimeFailure, match=reason) as caught:
            run_tflite(model(fake, mode), {"x": np.ones((1, 2))}, runtime="fake")
        assert "INFO" not in str(caught.value)

    def test_hang(self, fake: Path) -> None:
        """A worker that does not end in time is killed."""
        with pytest.raises(RuntimeFailure, match=r"model.tflite on fake .*: no end within 1.5 s"):
            run_tflite(model(fake, "hang"), {"x": np.ones((1, 2))}, runtime="fake", timeout_s=1.5)

    def test_interrupt_leaves_nothing(self, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C during a run leaves no worker, no zombie and no temporary file."""
        (fake / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(fake / "temporary"))

        workers = []

        def interrupt(done: int, total: int) -> None:
            workers.extend(int(file.read_text()) for file in (fake / "temporary").glob("*/pid"))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_tflite(model(fake, "fine"), {"x": np.ones((1, 2))}, runtime="fake", on_progress=interrupt)
        with pytest.raises(ProcessLookupError):
            os.kill(workers[0], 0)
        assert list((fake / "temporary").iterdir()) == []

    @pytest.mark.skipif("Landlock" not in confinement_here(), reason="this system confines no child")
    def test_a_worker_writes_only_beside_its_outputs(self, fake: Path) -> None:
        """An interpreter that opens a file elsewhere for writing is refused by the system."""
        with pytest.raises(RuntimeFailure, match=r"inference failed: PermissionError: .*outside"):
            run_tflite(model(fake, "spy"), {"x": np.ones((1, 2))}, runtime="fake")
        assert not (fake / "fake_interpreter.py.outside").exists()

    def test_numpy_2(self, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """tflite-runtime with NumPy 2 fails with an odd SystemError: the message says what to install."""
        monkeypatch.setitem(RUNTIMES, "tflite-runtime", RUNTIMES["fake"])
        path = model(fake, "refuse <built-in method CreateWrapperFromFile> returned a result with an exception set")
        with pytest.raises(RuntimeFailure, match=r"tflite-runtime needs numpy<2 and finds .*pip install 'numpy<2'"):
            run_tflite(path, {"x": np.ones((1, 2))}, runtime="tflite-runtime")

    def test_current_folder_shadows_nothing(self, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder named edgeprune in the current folder is not what the worker imports."""
        (fake / "elsewhere" / "edgeprune").mkdir(parents=True)
        (fake / "elsewhere" / "edgeprune" / "__init__.py").write_text("raise SystemExit('shadowed')")
        monkeypatch.chdir(fake / "elsewhere")
        assert run_tflite(model(fake, "fine"), {"x": np.ones((1, 2))}, runtime="fake").samples == 1

    def test_samples_that_are_no_numbers(self, fake: Path) -> None:
        """Objects are refused before they could be pickled."""
        with pytest.raises(RuntimeFailure, match="samples for input 'x' are object, not numbers"):
            run_tflite(model(fake, "fine"), {"x": np.array([[None, 1]])}, runtime="fake")

    @pytest.mark.parametrize(
        ("samples", "reason"),
        [
            (np.array([[np.nan, 1.0]]), "samples for input 'x' hold NaN"),
            (np.ones((0, 2)), "at least 1; got {'x': 0}"),
            (np.ones((1, 3)), r"has shape \[3\]; the file takes 'x' float32\[1, 2\]"),
        ],
    )
    def test_bad_samples(self, fake: Path, samples: np.ndarray, reason: str) -> None:
        """NaN, no sample at all, or another shape is named before the interpreter sees it."""
        with pytest.raises(RuntimeFailure, match=reason):
            run_tflite(model(fake, "fine"), {"x": samples}, runtime="fake")

    def test_progress_ends_at_the_last_sample(self, fake: Path) -> None:
        """The last progress report is (N, N)."""
        seen: list[tuple[int, int]] = []
        run_tflite(
            model(fake, "fine"), {"x": np.ones((4, 2))}, runtime="fake", on_progress=lambda *step: seen.append(step)
        )
        assert seen[-1] == (4, 4)

    def test_missing_file(self, fake: Path) -> None:
        """A path without a file is an input error, with its own exit code."""
        with pytest.raises(InputError, match=r"nowhere.tflite does not exist"):
            run_tflite(fake / "nowhere.tflite", {"x": IMAGES}, runtime="fake")


class TestInstalled:
    """Which runtimes there are is read from package metadata."""

    def test_missing_runtime_names_its_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A runtime that is not installed says which extra brings it."""
        spec = RuntimeSpec(distribution="edgeprune-no-such-runtime", module="nothing", extra="tflite")
        monkeypatch.setitem(RUNTIMES, "tflite-runtime", spec)
        assert "tflite-runtime" not in installed_runtimes()
        with pytest.raises(MissingExtra, match=r"pip install 'edgeprune\[tflite\]'"):
            run_tflite(FILES / "dense.tflite", {"image": IMAGES}, runtime="tflite-runtime")

    def test_unknown_runtime(self) -> None:
        """A misspelt runtime is a usage error that lists the right names."""
        with pytest.raises(UsageError, match="choose one of tflite-runtime, litert"):
            run_tflite(FILES / "dense.tflite", {"image": IMAGES}, runtime="tflite")

    def test_nothing_heavy_is_imported(self) -> None:
        """The parent's side imports neither an interpreter nor TensorFlow."""
        code = "import sys, edgeprune.checker.latency.measure, edgeprune.runtime.session; print(*sys.modules)"
        modules = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not {"tensorflow", "keras", "coremltools", "tflite_runtime", "ai_edge_litert"} & set(modules)


class TestQuantization:
    """real = scale * (integer - zero point), TFLite quantization specification."""

    def test_by_hand(self) -> None:
        """Halves round to the even integer, and what lies outside is clipped."""
        real = np.array([0.0, 0.25, 0.75, -0.25, 1000.0, -1000.0])
        assert quantize(real, 0.5, 3, np.dtype(np.int8)).tolist() == [3, 3, 5, 3, 127, -128]
        assert dequantize(np.array([3, 5, -128], np.int8), 0.5, 3).tolist() == [0.0, 1.0, -65.5]

    @given(st.integers(-128, 127), st.integers(-128, 127), st.floats(1e-4, 10))
    def test_integers_survive_the_round_trip(self, integer: int, zero_point: int, scale: float) -> None:
        """Dequantizing and quantizing again gives the same integer."""
        real = dequantize(np.array([integer], np.int8), scale, zero_point)
        assert quantize(real, scale, zero_point, np.dtype(np.int8)).tolist() == [integer]

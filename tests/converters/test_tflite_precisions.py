"""What the TFLite converter does without a word, and what old runtimes make of its files: facts on real conversions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channel_zoo import randomised

from edgeprune.artifact import Format, Precision
from edgeprune.converters.evaluation import evaluate_file
from edgeprune.converters.file_checks import constant_elements, float_ops, refuse_lost_weights
from edgeprune.converters.frozen import FrozenGraph, freeze
from edgeprune.converters.session import _checked
from edgeprune.errors import ConversionError, Unsupported, UsageError
from edgeprune.formats import read_graph
from edgeprune.maker.keras.models import input_specs, predict
from edgeprune.maker.training.data.samples import Samples
from edgeprune.runtime.session import installed_runtimes, run_tflite

RUNTIMES = list(installed_runtimes())
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not RUNTIMES, reason="no TFLite runtime is installed")]
INTEGER = [Precision.INT8, Precision.INT16X8]
STEPS = 4


def samples(model: Any, count: int = 24) -> dict[str, np.ndarray]:
    """Normal floats, or indexes from 0 to 9, by input name."""
    rng = np.random.default_rng(7)
    made = {}
    for name, (shape, dtype) in input_specs(model).items():
        size = (count, *shape[1:])
        made[name] = rng.integers(0, 10, size).astype(dtype) if "int" in dtype else rng.normal(size=size).astype(dtype)
    return made


def errors(path: Path, model: Any, given: dict[str, np.ndarray]) -> dict[str, float]:
    """Runtime -> largest difference from the Keras model over all outputs, as a share of the output's range."""
    expected = predict(model, given)
    found = {runtime: run_tflite(path, given, runtime=runtime).outputs for runtime in RUNTIMES}
    return {
        runtime: max(float(np.abs(outputs[k] - expected[k]).max() / np.ptp(expected[k])) for k in expected)
        for runtime, outputs in found.items()
    }


def recurrent(keras: Any, kind: str) -> Any:
    """A sequence of four steps to three numbers, with random weights."""
    layers = keras.layers
    x = keras.Input((STEPS, 5), name="series")
    y = {
        "LSTM": lambda: layers.LSTM(12)(x),
        "GRU": lambda: layers.GRU(12)(layers.Dense(8, activation="relu")(x)),
        "SimpleRNN": lambda: layers.SimpleRNN(12)(x),
        "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x),
        "stacked": lambda: layers.RNN([layers.LSTMCell(6), layers.GRUCell(12)])(x),
    }[kind]()
    y = layers.GlobalAveragePooling1D()(y) if len(y.shape) == 3 else y
    return randomised(keras.Model(x, layers.Dense(3, name="out")(y), name=kind))


@pytest.mark.parametrize(("precision", "limit"), [(Precision.INT8, 0.09), (Precision.INT16X8, 0.025)])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN", "Bidirectional", "stacked"])
def test_recurrent_layers_quantize(
    converter: Any, keras: Any, tmp_path: Path, kind: str, precision: Precision, limit: float
) -> None:
    """A rolled recurrent layer becomes an integer file that agrees with Keras on every runtime (rolled, it takes the
    converter's process down); nothing in it computes in float and the model stays rolled."""
    model = recurrent(keras, kind)
    given = samples(model)
    path = tmp_path / "m.tflite"
    converter.export(model, path, Format.TFLITE, precision, calibration=given)
    assert max(errors(path, model, given).values()) < limit
    assert float_ops(read_graph(path)) == ()
    assert not any(getattr(layer, "unroll", False) for layer in model._flatten_layers())


@pytest.mark.parametrize(
    ("precision", "loops", "limit"),
    [(Precision.FLOAT32, True, 1e-5), (Precision.DYNAMIC, True, 0.02), (Precision.FLOAT16, False, 2e-3)],
)
def test_recurrent_layers_as_floats(
    converter: Any, keras: Any, tmp_path: Path, precision: Precision, loops: bool, limit: float
) -> None:
    """Two recurrent layers side by side are right on every runtime. float32 and dynamic files keep the loop, which is
    smaller; float16 files do not, because tflite-runtime 2.14 gets this one wrong by a quarter of the range."""
    x = keras.Input((6, 16), name="series")
    both = [keras.layers.GRU(24)(t) for t in (x, keras.layers.Rescaling(0.5)(x))]
    model = randomised(keras.Model(x, keras.layers.Dense(3, name="out")(keras.layers.Concatenate()(both))))
    path = tmp_path / "m.tflite"
    converter.export(model, path, Format.TFLITE, precision)
    assert max(errors(path, model, samples(model)).values()) < limit
    assert any(op.kind == "WHILE" for op in read_graph(path).ops) == loops


def dynamic_zoo(keras: Any, kind: str) -> Any:
    """A model whose weights are many enough (1,024 and more) to be quantized in a dynamic-range file."""
    layers = keras.layers
    x = keras.Input({"embedding": (6,), "lstm": (6, 16), "attention": (9, 32)}.get(kind, (8, 8, 12)), name="x")
    y = {
        "dense": lambda: layers.Dense(32)(layers.Flatten()(x)),
        "conv": lambda: layers.Conv2D(24, 3, activation="relu")(x),
        "depthwise": lambda: layers.DepthwiseConv2D(4, depth_multiplier=8)(x),
        "transposed": lambda: layers.Conv2DTranspose(16, 3, strides=2, activation="relu")(x),
        "embedding": lambda: layers.LSTM(24)(layers.Embedding(100, 32)(x)),
        "lstm": lambda: layers.Bidirectional(layers.LSTM(32))(x),
        "attention": lambda: layers.LayerNormalization()(layers.MultiHeadAttention(4, 16)(x, x)),
    }[kind]()
    return randomised(keras.Model(x, layers.Dense(3, name="out")(layers.Flatten()(y)), name=kind))


@pytest.mark.parametrize("kind", ["dense", "conv", "depthwise", "transposed", "embedding", "lstm", "attention"])
def test_dynamic_range_on_every_runtime(converter: Any, keras: Any, tmp_path: Path, kind: str) -> None:
    """Dynamic-range files store int8 weights and are right on the oldest runtime too (a per-channel Dense or a
    transposed convolution of int8, left to the converter, is refused there)."""
    model = dynamic_zoo(keras, kind)
    path = tmp_path / "m.tflite"
    converter.export(model, path, Format.TFLITE, Precision.DYNAMIC)
    assert max(errors(path, model, samples(model)).values()) < 0.03
    graph = read_graph(path)
    stored = {t.dtype for t in graph.tensors if t.constant and t.elements >= 1024}
    assert stored == {"int8"}


@pytest.mark.parametrize("io_type", ["float32", "int16"])
def test_int16x8_with_several_ends(converter: Any, keras: Any, tmp_path: Path, io_type: str) -> None:
    """Inputs, one of them of indexes, and outputs keep their names in an int16x8 file, whatever the order of the
    alphabet; floats take the asked type and indexes stay int32."""
    layers = keras.layers
    size, index = keras.Input((3,), name="zeta"), keras.Input((2,), dtype="int32", name="alpha")
    words = layers.Flatten()(layers.Embedding(10, 4, name="words")(index))
    h = layers.Dense(8, activation="relu")(layers.Concatenate()([size, words]))
    model = randomised(
        keras.Model([size, index], [layers.Dense(n, name=k)(h) for k, n in (("scores", 4), ("area", 1))])
    )
    given = samples(model)
    path = tmp_path / "m.tflite"
    converter.export(model, path, Format.TFLITE, Precision.INT16X8, io_type=io_type, calibration=given)
    assert max(errors(path, model, given).values()) < 0.03
    found = run_tflite(path, given, runtime=RUNTIMES[-1])
    assert found.input_dtypes == {"zeta": io_type, "alpha": "int32"}
    assert found.output_dtypes == {"scores": io_type, "area": io_type}
    assert {name: a.shape[1:] for name, a in found.outputs.items()} == {"scores": (4,), "area": (1,)}


def test_int16x8_of_a_shared_layer(converter: Any, keras: Any, tmp_path: Path) -> None:
    """A layer used twice on activations of different ranges has the right bias both times (the quantizer stores it in
    the unit of the first)."""
    x = keras.Input((6, 6, 4), name="x")
    twice = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="twice")
    pooled = keras.layers.GlobalAveragePooling2D()(twice(twice(x)))
    model = randomised(keras.Model(x, keras.layers.Dense(3, name="out")(pooled)))
    twice.bias.assign(np.linspace(-1, 2, 4))
    given = {"x": 0.05 * samples(model)["x"]}
    path = tmp_path / "m.tflite"
    converter.export(model, path, Format.TFLITE, Precision.INT16X8, calibration=given)
    assert max(errors(path, model, given).values()) < 0.05


def elu_model(keras: Any) -> Any:
    """Two Dense layers with an ELU, which has no integer kernel, between them."""
    x = keras.Input((6,), name="x")
    h = keras.layers.ELU(name="bend")(keras.layers.Dense(8, name="first")(x))
    return randomised(keras.Model(x, keras.layers.Dense(3, name="out")(h)))


@pytest.mark.parametrize(
    ("precision", "told"),
    [
        (Precision.INT8, r"int8 model fell back to float in: ELU '\S*bend\S*'; .* --float-fallback"),
        (Precision.INT16X8, r"TFLite has no int16x8 kernel for ELU: .* --float-fallback .* --precision int8"),
    ],
)
def test_no_integer_kernel(converter: Any, keras: Any, tmp_path: Path, precision: Precision, told: str) -> None:
    """An operation without an integer kernel is named in one line with what to type, and no file is left; with the
    fallback the file is written, runs and says which operation stayed in float."""
    model = elu_model(keras)
    given, path = samples(model), tmp_path / "m.tflite"
    with pytest.raises(ConversionError, match=told) as caught:
        converter.export(model, path, Format.TFLITE, precision, calibration=given)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    converter.export(model, path, Format.TFLITE, precision, calibration=given, float_fallback=True)
    (op,) = float_ops(read_graph(path))
    assert op.startswith("ELU '")
    assert max(errors(path, model, given).values()) < 0.06


def test_a_whole_model_that_fell_back(converter: Any, keras: Any, tmp_path: Path) -> None:
    """The converter calls a float convolution in three dimensions an int8 model; here it is an error."""
    x = keras.Input((4, 4, 4, 1), name="x")
    model = keras.Model(x, keras.layers.Conv3D(2, 2, name="volume")(x))
    with pytest.raises(ConversionError, match=r"int8 model fell back to float in: CONV_3D '\S*volume\S*'"):
        converter.export(model, tmp_path / "m.tflite", Format.TFLITE, Precision.INT8, calibration=samples(model, 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", INTEGER)
def test_transformers_quantize_whole(converter: Any, keras: Any, tmp_path: Path, precision: Precision) -> None:
    """LayerNormalization, whose negation and squared difference have no integer kernels, and an exact GELU become
    integers; the newest runtime agrees with Keras."""
    x = keras.Input((5, 16), name="x")
    y = keras.layers.LayerNormalization()(keras.layers.Dense(16, activation="gelu")(x))
    model = randomised(keras.Model(x, keras.layers.Dense(3, name="out")(y)))
    given, path = samples(model), tmp_path / "m.tflite"
    converter.export(model, path, Format.TFLITE, precision, calibration=given)
    assert float_ops(read_graph(path)) == ()
    found = run_tflite(path, given, runtime=RUNTIMES[-1]).outputs["out"]
    expected = predict(model, given)["out"]
    assert np.abs(found - expected).max() < 0.06 * np.ptp(expected)


def test_int16x8_of_a_mask(converter: Any, keras: Any, tmp_path: Path) -> None:
    """Whole-number arithmetic, which int16x8 would take for activations, is named with the input that it reads."""
    x = keras.Input((STEPS,), dtype="int32", name="words")
    model = keras.Model(x, keras.layers.LSTM(4)(keras.layers.Embedding(10, 4, mask_zero=True)(x)))
    with pytest.raises(ConversionError, match=r"whole numbers that reads 'words' .* --precision int8"):
        converter.export(model, tmp_path / "m.tflite", Format.TFLITE, Precision.INT16X8, calibration=samples(model))


def test_int16x8_needs_samples(converter: Any, keras: Any, tmp_path: Path) -> None:
    """int16x8 without calibration samples is a usage error that names the precision."""
    with pytest.raises(UsageError, match="int16x8 needs a calibration set"):
        converter.export(elu_model(keras), tmp_path / "m.tflite", Format.TFLITE, Precision.INT16X8)


def crippled(path: Path) -> None:
    """Empty every float constant of a .tflite file, as a conversion that lost its variables does."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema.TensorType.FLOAT32:
            model.buffers[tensor.buffer].data = None
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def test_lost_weights(converter: Any, image_model: Any, tmp_path: Path) -> None:
    """A file without its weights is refused and removed; the same file with them passes."""
    path = tmp_path / "m.tflite"
    converter.export(image_model, path, Format.TFLITE, Precision.FLOAT32)
    graph = converter._freeze(image_model, unroll=False, sizes={})
    _checked(path, graph, Precision.FLOAT32, float_fallback=True)
    crippled(path)
    with pytest.raises(ConversionError, match=r"m\.tflite: weights are missing: the file holds \d+ constants"):
        _checked(path, graph, Precision.FLOAT32, float_fallback=True)
    assert not path.exists()


def test_what_a_file_must_hold(keras: Any, vector_model: Any, tmp_path: Path) -> None:
    """Constants are counted as a converter can fold them: a slice of a table as the slice, a layer that no output needs
    not at all, equal arrays once; vectors, and tables of one value, as nothing, for they may be folded away."""
    kernels = sum(math.prod(weight.shape) for weight in vector_model.weights if len(weight.shape) > 1)
    assert freeze(vector_model, tmp_path / "g.pb").constants == kernels

    class Positions(keras.layers.Layer):
        """Adds the first rows of a long table."""

        def build(self, shape: Any) -> None:
            """The table."""
            self.table = self.add_weight(shape=(500, shape[-1]), name="table")

        def call(self, inputs: Any) -> Any:
            """Add."""
            return inputs + self.table[:STEPS]

    x = keras.Input((STEPS, 3))
    y = keras.layers.Dense(5)(Positions()(x))
    assert freeze(keras.Model(x, y), tmp_path / "g.pb").constants == STEPS * 3 + 3 * 5
    a = keras.Input((2,))
    for kernel, count in ((keras.initializers.HeNormal(seed=1), 14), ("ones", 0)):
        same = [keras.layers.Dense(7, use_bias=False, kernel_initializer=kernel)(a) for _ in range(2)]
        assert freeze(keras.Model(a, same), tmp_path / "g.pb").constants == count


def test_no_false_alarm(converter: Any, keras: Any, tmp_path: Path) -> None:
    """Folding normalisations into kernels, and equal kernels stored once, do not look like lost weights."""
    layers = keras.layers
    x = keras.Input((8, 8, 3), name="x")
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(1, use_bias=False)(layers.BatchNormalization()(x)))
    y = layers.Add()([layers.Conv2D(8, 1, kernel_initializer="ones")(y) for _ in range(4)])
    model = keras.Model(x, layers.BatchNormalization()(y))
    converter.export(model, tmp_path / "m.tflite", Format.TFLITE, Precision.FLOAT32)
    graph = read_graph(tmp_path / "m.tflite")
    refuse_lost_weights(graph, constant_elements(graph) * 4)
    with pytest.raises(ConversionError, match="weights are missing"):
        refuse_lost_weights(graph, constant_elements(graph) * 4 + 1)


def test_a_frozen_graph_tells_its_loops(tmp_path: Path) -> None:
    """Loops and constants survive the way to the child."""
    graph = FrozenGraph(path=tmp_path / "g.pb", inputs=(), outputs=(), loops=("a", "b"), constants=5)
    assert FrozenGraph.from_json(graph.to_json()) == graph


def test_a_loop_that_stays(converter: Any, keras: Any, tmp_path: Path) -> None:
    """A loop that cannot be unrolled still converts to floats, and only integer precisions refuse it."""

    class Doubling(keras.layers.Layer):
        """Three times doubled, in a loop."""

        def call(self, inputs: Any) -> Any:
            """Loop."""
            return keras.ops.while_loop(lambda n, _: n < 3, lambda n, t: (n + 1, 2 * t), (0, inputs))[1]

    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, name="out")(Doubling(name="doubling")(x)))
    given = samples(model)
    converter.export(model, tmp_path / "m.tflite", Format.TFLITE, Precision.FLOAT32)
    assert max(errors(tmp_path / "m.tflite", model, given).values()) < 1e-5
    with pytest.raises(Unsupported, match=r"doubling\S* is a loop that cannot be unrolled"):
        converter.export(model, tmp_path / "n.tflite", Format.TFLITE, Precision.INT8, calibration=given)


@pytest.mark.parametrize(("form", "suffix"), [(Format.TFLITE, ".tflite"), (Format.COREML, ".mlpackage")])
def test_the_index_of_the_largest_converts(
    converter: Any, keras: Any, tmp_path: Path, form: Format, suffix: str
) -> None:
    """argmax and argmin, whose care for the sign of zero no format can express, give the indexes that Keras gives."""
    x = keras.Input((6,), name="x")
    scores = keras.layers.Dense(5, name="scores")(x)
    lowest = keras.ops.argmin(keras.ops.reshape(scores, (-1, 5, 1)), axis=1, keepdims=True)
    model = randomised(keras.Model(x, {"label": keras.ops.argmax(scores, axis=-1), "lowest": lowest}))
    given = samples(model)
    artifact = converter.export(model, tmp_path / f"m{suffix}", form, Precision.FLOAT32)
    some = Samples(path=tmp_path, inputs=given, targets=None)
    judged = evaluate_file(artifact, some, input_specs(model), predict(model, given), None, every_runtime=True)
    assert {item.output: item.max_error for item in judged.parity} == {"label": 0.0, "lowest": 0.0}

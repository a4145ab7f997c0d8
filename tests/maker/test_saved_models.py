"""SavedModel folders: evaluated, converted, counted; refused where they reach out of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT

from edgeprune.converters.frozen import freeze, thaw
from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.model_files import load_convertible, load_model
from edgeprune.maker.keras.models import count_nonzero_parameters, count_parameters, input_specs, output_names, predict
from edgeprune.maker.keras.saved_models import SavedModel

SHARED = ROOT.parent / "shared" / "data"
IMAGES = {"image": np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, image_model: Any) -> Path:
    """The image model as `model.export` writes it."""
    path = tmp_path_factory.mktemp("saved") / "images"
    image_model.export(path, verbose=False)
    return path


def run_frozen(model: Any, path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the frozen graph computes for the first sample."""
    import tensorflow as tf

    _, function = thaw(freeze(model, path))
    made = function(**{name: tf.constant(value[:1]) for name, value in inputs.items()})
    return {name: tensor.numpy() for name, tensor in made.items()}


def test_an_exported_model(folder: Path, tmp_path: Path, image_model: Any) -> None:
    """A SavedModel computes what its Keras model computes, also frozen with a batch of one, and counts the same."""
    model = load_convertible(folder)
    assert isinstance(model, SavedModel)
    assert input_specs(model) == {"image": ((None, 8, 8, 1), "float32")}
    wanted = predict(image_model, IMAGES)["scores"]
    (name,) = output_names(model)
    np.testing.assert_allclose(predict(model, IMAGES)[name], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run_frozen(model, tmp_path / "g.pb", IMAGES)[name], wanted[:1], rtol=1e-5, atol=1e-6)
    assert count_parameters(model) == count_parameters(image_model)
    assert count_nonzero_parameters(model) == count_nonzero_parameters(image_model)
    graph = freeze(model, tmp_path / "g.pb")
    assert [(t.name, t.shape) for t in graph.inputs] == [("image", (1, 8, 8, 1))]
    assert [t.shape for t in graph.outputs] == [(1, 3)]


def test_several_inputs_and_outputs(keras: Any, tmp_path: Path) -> None:
    """Inputs and outputs go by the names of the signature."""
    ends = {name: keras.Input((size,), name=name) for name, size in (("zeta", 3), ("alpha", 2))}
    h = keras.layers.Concatenate()([ends["zeta"], ends["alpha"]])
    outputs = {name: keras.layers.Dense(n, name=name)(h) for name, n in (("one", 2), ("two", 4))}
    source = keras.Model(ends, outputs)
    source.export(tmp_path / "m", verbose=False)
    model = load_convertible(tmp_path / "m")
    assert {name: shape for name, (shape, _) in input_specs(model).items()} == {"alpha": (None, 2), "zeta": (None, 3)}
    assert output_names(model) == ["one", "two"]
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(3, n)).astype(np.float32) for name, n in (("alpha", 2), ("zeta", 3))}
    wanted = [np.asarray(source(x)[name]) for name in ("one", "two")]
    frozen = run_frozen(model, tmp_path / "g.pb", x)
    for name, value in zip(("one", "two"), wanted, strict=True):
        np.testing.assert_allclose(predict(model, x)[name], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(frozen[name], value[:1], rtol=1e-5, atol=1e-6)


def saved(path: Path, function: Any, *, spec: Any, signature: str = "serving_default", **held: Any) -> Path:
    """A SavedModel of a plain function."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in held.items():
        setattr(module, name, value)
    module.serve = tf.function(function, input_signature=[spec])
    tf.saved_model.save(module, str(path), signatures={signature: module.serve})
    return path


@pytest.fixture(scope="module")
def tf(keras: Any) -> Any:
    """TensorFlow, started quietly."""
    import tensorflow

    return tensorflow


def test_training_state_is_not_counted(tf: Any, tmp_path: Path) -> None:
    """Variables that the signature does not read, as an optimizer's slots, are not its parameters."""
    kernel, slots = tf.Variable(tf.ones((4, 3))), tf.Variable(tf.ones((400, 3)))
    spec = tf.TensorSpec((None, 4), name="x")
    path = saved(tmp_path / "m", lambda x: {"y": x @ kernel}, spec=spec, kernel=kernel, slots=slots)
    assert count_parameters(load_convertible(path)) == 12


def test_the_only_signature(tf: Any, tmp_path: Path) -> None:
    """A single signature is taken whatever it is called."""
    path = saved(tmp_path / "m", lambda x: {"y": x * 2}, spec=tf.TensorSpec((None, 2), name="x"), signature="mine")
    assert predict(load_convertible(path), {"x": np.ones((1, 2))})["y"].tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("shape", "told"),
    [((None, None), "open shape"), ((), "single number"), (None, "fixed rank")],
)
def test_shapes_that_do_not_fit(tf: Any, tmp_path: Path, shape: Any, told: str) -> None:
    """Open sizes, scalars and an open rank are refused with the input's name or the output's."""
    path = saved(tmp_path / "m", lambda x: {"y": x * 2}, spec=tf.TensorSpec(shape, name="x"))
    with pytest.raises(Unsupported, match=told):
        freeze(load_convertible(path), tmp_path / "g.pb")


def test_factors_of_one(tf: Any, tmp_path: Path) -> None:
    """What a converter may leave out is not asked of the file."""
    factor, many = tf.constant(1.0), tf.ones((2, 600))
    path = saved(tmp_path / "m", lambda x: {"y": x * factor * many}, spec=tf.TensorSpec((None, 600), name="x"))
    assert freeze(load_convertible(path), tmp_path / "g.pb").constants == 0


def test_files_and_python_are_refused(tf: Any, tmp_path: Path) -> None:
    """Operations that read or write files or run Python are refused, wherever they hide, unless trusted."""
    target = tmp_path / "written.txt"

    def writes(x: Any) -> Any:
        tf.io.write_file(str(target), "evil")
        return {"y": x}

    def reads(x: Any) -> Any:
        return {"y": x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)}

    def runs(x: Any) -> Any:
        return {"y": tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), (None, 2))}

    def hides(x: Any) -> Any:
        return {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: x, lambda: reads(x)["y"])}

    def prints(x: Any) -> Any:
        tf.print("evil", output_stream=f"file://{target}")
        return {"y": x}

    spec = tf.TensorSpec((None, 2), name="x")
    for made, word in (
        (writes, "WriteFile"),
        (reads, "ReadFile"),
        (runs, "PyFunc"),
        (hides, "ReadFile"),
        (prints, "Print"),
    ):
        path = saved(tmp_path / made.__name__, made, spec=spec)
        with pytest.raises(Unsupported, match=rf"operation \w*{word}.*--trust-code"):
            load_convertible(path)
    assert not target.exists()
    load_convertible(tmp_path / "reads", trust_code=True)


def test_an_offered_saver_is_refused(tf: Any, tmp_path: Path) -> None:
    """Writing a checkpoint is allowed to the functions that TensorFlow itself adds, and to no other."""

    def saves(x: Any) -> Any:
        tf.raw_ops.SaveV2(prefix=str(tmp_path / "evil"), tensor_names=["x"], shape_and_slices=[""], tensors=[x])
        return {"y": x}

    path = saved(tmp_path / "m", saves, spec=tf.TensorSpec((None, 2), name="x"))
    with pytest.raises(Unsupported, match="SaveV2"):
        load_convertible(path)


def edited(tmp_path: Path, folder: Path, edit: Any) -> Path:
    """A copy of a SavedModel with another graph."""
    import shutil

    from tensorflow.core.protobuf import saved_model_pb2

    path = tmp_path / "edited"
    shutil.copytree(folder, path)
    told = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    edit(told.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(told.SerializeToString())
    return path


def test_strange_folders(tmp_path: Path, folder: Path) -> None:
    """An unknown operation, an asset outside the folder, TensorFlow 1 and damage are told apart."""

    def unknown(graph: Any) -> None:
        graph.graph_def.library.function[0].node_def.add(name="n", op="SecretOp")

    def outside(graph: Any) -> None:
        graph.asset_file_def.add(filename="../../secret")

    def old(graph: Any) -> None:
        graph.ClearField("object_graph_def")

    cases = (
        (unknown, Unsupported, "SecretOp .* TensorFlow does not know"),
        (outside, InputError, "outside the folder"),
    )
    for number, (edit, kind, told) in enumerate((*cases, (old, Unsupported, "TensorFlow 1"))):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(kind, match=told):
            load_convertible(edited(place, folder, edit))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"\xff" * 50)
    with pytest.raises(InputError, match="is damaged"):
        load_convertible(broken)
    (broken / "saved_model.pb").write_bytes((folder / "saved_model.pb").read_bytes())
    with pytest.raises(InputError, match="cannot be loaded"):
        load_convertible(broken)


def test_not_a_number(tf: Any, tmp_path: Path) -> None:
    """NaN in a weight is refused as in Keras files."""
    kernel = tf.Variable([[np.nan, 1.0]])
    path = saved(tmp_path / "m", lambda x: {"y": x * kernel}, spec=tf.TensorSpec((None, 2), name="x"), kernel=kernel)
    with pytest.raises(InputError, match="NaN"):
        load_convertible(path)


@pytest.mark.parametrize("verb", ["prune", "groups", "finetune", "run"])
def test_verbs_that_need_layers(call: Any, work: Path, folder: Path, recipe: Any, verb: str) -> None:
    """prune, groups, finetune and run say in one line why a SavedModel is not for them."""
    arguments: dict[str, list[object]] = {
        "prune": [folder, "--sparsity", 0.5, "-o", work / "out.keras"],
        "groups": [folder],
        "finetune": [folder, "--train", work / "train.npz", "--epochs", 1, "-o", work / "out.keras"],
        "run": [recipe('[[steps]]\nkind = "prune"\nsparsity = 0.5\n', model=f'model = "{folder}"'), "--dry-run"],
    }
    call(verb, *arguments[verb]).error(3, "holds a computation, not layers", "model.save('name.keras')")


@pytest.mark.slow
@pytest.mark.usefixtures("one_converter")
def test_converting(call: Any, work: Path, folder: Path) -> None:
    """`edgeprune convert` takes a SavedModel, quantizes it and scores it."""
    done = call(
        *("convert", folder, "--to", "tflite", "--precision", "int8", "--calibration", work / "train.npz"),
        *("--data", work / "test.npz", "-o", work / "m.tflite", "-q"),
    )
    assert done.code == 0, done.err
    assert "accuracy of the exported file" in done.out


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the published models are not here")
@pytest.mark.parametrize(
    ("path", "inputs", "parameters"),
    [
        ("basic_pitch/saved_models/icassp_2022/nmp", {"input_2": ((None, 43844, 1), "float32")}, None),
        ("mlperf_tiny/keyword_spotting/kws_ref_model", {"input_1": ((None, 49, 10, 1), "float32")}, 24_908),
    ],
)
def test_published_folders(tmp_path: Path, path: str, inputs: Any, parameters: int | None) -> None:
    """Published SavedModels load without trust and freeze with a batch of one."""
    if not (SHARED / path).exists():
        pytest.skip("not here")
    model = load_convertible(SHARED / path)
    assert input_specs(model) == inputs
    assert parameters in (None, count_parameters(model))
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(1, *shape[1:])).astype(dtype) for name, (shape, dtype) in inputs.items()}
    frozen = run_frozen(model, tmp_path / "g.pb", x)
    for name, value in predict(model, x).items():
        np.testing.assert_allclose(frozen[name], value, rtol=1e-4, atol=1e-5)


def test_load_model_takes_keras_only(folder: Path) -> None:
    """`load_model` gives Keras models, so a SavedModel is not for it."""
    with pytest.raises(Unsupported, match="edgeprune convert"):
        load_model(folder)

"""Keras 2 files: weights bit-equal, outputs those of tf_keras, and a clear refusal of what Keras 3 cannot express."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT, TESTS

from edgeprune.errors import InputError, Unsupported
from edgeprune.maker.keras.keras2 import translate
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import clone, count_parameters, input_specs, leaf_layers, predict, save_model

MODELS = (
    *("operators", "ellipsis", "functions", "names", "recurrent", "convlstm", "states", "attention", "convolutions"),
    *("sequences", "masked", "sequential", "nested", "branches", "prepared", "activations", "named_ends", "others"),
    *("small_v2", "small_v3"),
)
FILES = [
    f"{name}{suffix}" for name in MODELS for suffix in (".h5", ".keras") if (name, suffix) != ("ellipsis", ".keras")
]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that tf_keras wrote, with inputs, outputs and weights beside them."""
    pytest.importorskip("tf_keras")
    folder = tmp_path_factory.mktemp("keras2")
    script = TESTS / "zoo" / "keras2_zoo.py"
    done = subprocess.run([sys.executable, "-P", str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def expected(file: Path, model: Any) -> tuple[dict[str, np.ndarray], list[np.ndarray], dict[str, np.ndarray]]:
    """Inputs under the names of the loaded model, outputs in order, weights by layer and index."""
    with np.load(file.with_suffix(".npz")) as arrays:
        told = dict(arrays)
    inputs = {name[3:]: value for name, value in told.items() if name.startswith("in_")}
    if len(inputs) == 1:
        inputs = dict.fromkeys(input_specs(model), next(iter(inputs.values())))
    outputs = [told[f"out_{index}"] for index in range(sum(name.startswith("out_") for name in told))]
    return inputs, outputs, {name[2:]: value for name, value in told.items() if name.startswith("w_")}


def distance(made: Any, wanted: list[np.ndarray]) -> float:
    """The largest difference as a share of the range of its output."""
    pairs = list(zip(made, wanted, strict=True))
    assert all(one.shape == other.shape for one, other in pairs)
    return max(float(np.abs(one.astype(float) - other).max() / np.ptp(other)) for one, other in pairs)


@pytest.mark.filterwarnings("ignore:.*mask attached")
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_keras_2(zoo: Path, name: str) -> None:
    """A model that tf_keras wrote has the same weights to the bit and computes the same, and so does its copy."""
    model = load_model(zoo / name)
    inputs, outputs, weights = expected(zoo / name, model)
    for layer in model.layers:
        # The order of Keras 2: a layer's trainable weights first, a model's layer by layer.
        order = layer.weights if hasattr(layer, "layers") else [*layer.trainable_weights, *layer.non_trainable_weights]
        for index, value in enumerate(map(np.asarray, order)):
            there = weights.pop(f"{layer.name}_{index}")
            assert np.array_equal(value, there), layer.name
    assert weights == {}
    assert distance(predict(model, inputs).values(), outputs) < 3e-6
    assert distance(predict(clone(model), inputs).values(), outputs) < 3e-6


@pytest.mark.parametrize("name", ["operators.h5", "nested.keras", "prepared.h5", "functions.keras"])
def test_saved_again(zoo: Path, tmp_path: Path, name: str) -> None:
    """What was a Keras 2 file can be written as a Keras 3 file, and computes the same."""
    model = load_model(zoo / name)
    inputs, outputs, _ = expected(zoo / name, model)
    save_model(model, tmp_path / "new.keras")
    again = load_model(tmp_path / "new.keras")
    assert distance(predict(again, inputs).values(), outputs) < 3e-6


def test_weights_that_do_not_fit(zoo: Path, tmp_path: Path) -> None:
    """A file whose weights have other shapes than its architecture is refused with the layer's name."""
    import h5py

    file = tmp_path / "m.h5"
    file.write_bytes((zoo / "branches.h5").read_bytes())
    with h5py.File(file, "r+") as opened:
        group = opened["model_weights/side"]
        name = group.attrs["weight_names"][0]
        del group[name]
        group[name] = np.zeros((4, 5), np.float32)
    with pytest.raises(InputError, match=r"layer 'side' has weights of the shapes \[\(4, 5\), \(4,\)\]"):
        load_model(file)


def test_a_missing_weight(zoo: Path, tmp_path: Path) -> None:
    """A file without the weights of a layer is refused: no weight keeps its initial value."""
    import h5py

    file = tmp_path / "m.h5"
    file.write_bytes((zoo / "branches.h5").read_bytes())
    with h5py.File(file, "r+") as opened:
        opened["model_weights/side"].attrs["weight_names"] = []
    with pytest.raises(InputError, match="no value for 2 weights, the first is 'side/kernel'"):
        load_model(file)


def test_pruning_wrappers_are_taken_off(zoo: Path, tmp_path: Path) -> None:
    """A layer that tensorflow-model-optimization wrapped is the layer inside, with its weights; that is said."""
    import h5py

    plain, file, notes = load_model(zoo / "branches.h5"), tmp_path / "m.h5", []
    file.write_bytes((zoo / "branches.h5").read_bytes())
    with h5py.File(file, "r+") as opened:
        config = json.loads(opened.attrs["model_config"])
        for item in config["config"]["layers"]:
            if item["name"] == "side":
                inner = {"class_name": "Dense", "config": item["config"]}
                item |= {"class_name": "PruneLowMagnitude", "name": "prune_side"}
                item["config"] = {"name": "prune_side", "layer": inner, "pruning_schedule": {}}
        config["config"]["output_layers"] = [
            ["prune_side", *rest] if name == "side" else [name, *rest]
            for name, *rest in config["config"]["output_layers"]
        ]
        opened.attrs["model_config"] = json.dumps(config)
        opened.move("model_weights/side", "model_weights/prune_side")
        group = opened["model_weights/prune_side"]
        group["prune_side/mask:0"] = np.ones((4, 4), np.float32)
        names = [*map(str, group.attrs["weight_names"]), "prune_side/mask:0"]
        group.attrs["weight_names"] = [name.encode() for name in names]
    model = load_model(file, on_note=notes.append)
    assert notes == ["m.h5: 1 pruning wrappers of tensorflow-model-optimization taken off"]
    assert [layer.name for layer in model.layers] == [layer.name for layer in plain.layers]
    for ours, theirs in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_training_state_stays_out(zoo: Path, tmp_path: Path, suffix: str) -> None:
    """Optimizer slots in a Keras 2 file are not loaded, not counted and not saved again."""
    counted = 65 * 64 + 65 * 3
    assert (zoo / f"trained{suffix}").stat().st_size > 2.5 * 4 * counted  # two slots a weight lie in the file
    model = load_model(zoo / f"trained{suffix}")
    assert count_parameters(model) == counted
    save_model(model, tmp_path / "saved.keras")
    assert (tmp_path / "saved.keras").stat().st_size < 1.5 * 4 * counted + 20_000


@pytest.mark.skipif(not SHARED.exists(), reason="the published models are not here")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "parameters"),
    [
        ("imagenet_models/efficientnet_lite0_imagenet.h5", 4_694_024),
        ("imagenet_models/mobilenet_v1_0.25_224.h5", 475_544),
        ("imagenet_models/mobilenet_v1_025_224_imagenet.keras", 475_544),
        ("mlperf_tiny/anomaly_detection/ad01.h5", 269_992),
        ("mlperf_tiny/image_classification/pretrainedResnet.h5", 78_666),
        ("mlperf_tiny/keyword_spotting/kws_ref_model_resaved_tfkeras.h5", 24_908),
        ("mlperf_tiny/streaming_wakeword/str_ww_ref_model.h5", 47_707),
    ],
)
def test_published_files(file: str, parameters: int) -> None:
    """Published Keras 2 models load, with all their parameters."""
    if not (SHARED / file).exists():
        pytest.skip("not here")
    assert count_parameters(load_model(SHARED / file)) == parameters


# Configurations without files: what the translation makes of them.


def sequential(kind: str, **settings: Any) -> dict[str, Any]:
    """A Sequential of one layer as Keras 2 writes it."""
    config = {"name": "it", "trainable": True, "dtype": "float32", "batch_input_shape": [None, 4, 4, 4], **settings}
    return {"class_name": "Sequential", "config": {"name": "m", "layers": [{"class_name": kind, "config": config}]}}


def operator(function: str, **keywords: Any) -> dict[str, Any]:
    """A graph of one operator."""
    end = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4], "name": "x"}, "name": "x"}
    node = {"class_name": "TFOpLambda", "config": {"name": "it", "function": function}, "name": "it"}
    layers = [{**end, "inbound_nodes": []}, {**node, "inbound_nodes": [["x", 0, 0, keywords]]}]
    config = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["it", 0, 0]]}
    return {"class_name": "Functional", "config": config}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (sequential("DepthwiseConv2D", groups=2), "layer 'it' (DepthwiseConv2D) has groups=2"),
        (sequential("LSTM", time_major=True), "layer 'it' (LSTM) has time_major=True"),
        (sequential("BatchNormalization", renorm=True), "has renorm=True, which has no equal in Keras 3"),
        (sequential("BatchNormalization", virtual_batch_size=8), "has virtual_batch_size=8"),
        (sequential("BatchNormalization", axis=[1, 2]), "normalises over the axes [1, 2]"),
        (sequential("MultiHeadAttention", softmax_robust_masking=True), "softmax_robust_masking=True"),
        (sequential("Dense", activation="hard_sigmoid"), "hard_sigmoid, which is clip(0.2 x + 0.5) in Keras 2"),
        (sequential("LSTM", recurrent_activation="hard_sigmoid"), "hard_sigmoid"),
        (sequential("Dense", activation="my_own"), "activation 'my_own'"),
        (sequential("InputLayer", ragged=True), "has ragged=True"),
        (sequential("ThresholdedReLU", theta=1.0), "layer 'it' is a ThresholdedReLU, a layer of Keras 2"),
        (sequential("QuantizeWrapperV2", layer={}), "'it' is of quantization-aware training in tensorflow-model-opt"),
        (sequential("TensorFlowOpLayer", node_def="{}"), "an operator as TensorFlow 2.0 to 2.3 wrote it"),
        (operator("nn.conv2d", filters=[1]), "layer 'it' is the operator tf.nn.conv2d, which has no equal in Keras 3"),
        (operator("os.system"), "tf.os.system, which has no equal"),
        (operator("math.add", y=1, spin=3), "tf.math.add with spin=3"),
        (operator("reshape", shape=[-1, ["x", 0, 0]]), "whose 'shape' is computed by the model"),
        (operator("transpose", perm=[1, 0], conjugate=True), "conjugate=True"),
        (operator("image.resize", size=[2, 2], method="gaussian"), "method='gaussian'"),
        (operator("image.resize", size=[2, 2], preserve_aspect_ratio=True), "preserve_aspect_ratio=True"),
        (operator("pad", paddings=[[0, 1]], mode="EDGE"), "mode='edge'"),
        (operator("linalg.matmul", b=["x", 0, 0], adjoint_b=True), "adjoint_b=True"),
        (operator("split", num_or_size_splits=[-1, 2]), "num_or_size_splits=[-1, 2]"),
        ({"class_name": "Dense", "config": {"name": "d"}}, "neither a Sequential nor a functional model"),
    ],
)
def test_no_equal_in_keras_3(config: dict[str, Any], told: str) -> None:
    """A setting or operator that Keras 3 does not have is an error that names it, never dropped."""
    with pytest.raises(Unsupported) as caught:
        translate(config)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["config"].pop("layers"),
        lambda c: c["config"].update(layers=3),
        lambda c: c["config"].update(input_layers=[["y", 0, 0]]),
        lambda c: c["config"]["layers"][1].update(inbound_nodes=[[["z", 0, 0, {}]]]),
        lambda c: c["config"]["layers"][1].pop("config"),
        lambda c: c.pop("class_name"),
    ],
)
def test_nonsense(spoil: Callable[[Any], Any]) -> None:
    """A configuration that no Keras wrote is bad input, not a crash."""
    config = operator("nn.relu")
    spoil(config)
    with pytest.raises(InputError, match="not one that Keras 2 writes"):
        translate(config)


def test_the_configuration_is_left_alone() -> None:
    """The translation makes a new configuration and leaves its argument as it was."""
    config = operator("math.add", y=2.0)
    before = copy.deepcopy(config)
    json.dumps(translate(config).config)
    assert config == before


def test_old_files_without_a_key() -> None:
    """A GRU written before `reset_after` existed is one without it; an old Sequential is a list of layers."""
    config = sequential("GRU", units=2)
    made = translate(config).config["config"]["layers"][1]["config"]
    assert made["reset_after"] is False
    assert translate({"class_name": "Sequential", "config": config["config"]["layers"]}).parts[0].kind == "GRU"


def test_policies_go_by_name() -> None:
    """A dtype policy becomes its name, wherever Keras 2 wrote it."""
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    inner = {"class_name": "Dense", "config": {"name": "d", "units": 2, "dtype": policy}}
    made = translate(sequential("TimeDistributed", layer=inner, dtype=policy)).config["config"]["layers"][1]["config"]
    assert made["dtype"] == made["layer"]["config"]["dtype"] == "mixed_float16"


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_code_of_keras_2(zoo: Path, suffix: str) -> None:
    """A Lambda of Keras 2 is refused, and with trust it runs and computes the same."""
    with pytest.raises(Unsupported, match=r"'doubled' is a Lambda.*--trust-code"):
        load_model(zoo / f"code{suffix}")
    model = load_model(zoo / f"code{suffix}", trust_code=True)
    inputs, outputs, _ = expected(zoo / "code.npz", model)
    assert distance(predict(model, inputs).values(), outputs) < 3e-6


def test_frozen_layers_stay_frozen(zoo: Path) -> None:
    """trainable = False of an inner model's layers is kept."""
    model = load_model(zoo / "nested.h5")
    frozen = {leaf.path for leaf in leaf_layers(model) if leaf.layer.weights and not leaf.layer.trainable}
    assert frozen == {"bare/a", "bare/dense_1"}

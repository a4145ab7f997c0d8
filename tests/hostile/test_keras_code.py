"""Keras files that try to run code, write files or open connections: nothing happens, and one line says why."""

from __future__ import annotations

import contextlib
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hostile_keras import FORMS, call_of, function, marshalled, model_config, named, tensor, write_keras

from edgeprune.errors import EdgepruneError, InputError, Unsupported
from edgeprune.maker.keras.admission import admit
from edgeprune.maker.keras.model_files import load_model
from edgeprune.maker.keras.models import predict

Config = dict[str, Any]
Payload = Callable[["Target"], Config]


class Target:
    """A file that must not come into being, and an address that nobody may call."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.marker, self.saved_model, self.calls = folder / "marker", folder / "saved", 0
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.listener = listener
        Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        """Count those who call, and hang up."""
        with contextlib.suppress(OSError):
            while True:
                caller = self.listener.accept()[0]
                self.calls += 1
                caller.close()

    def untouched(self) -> bool:
        """Whether nothing was written and nobody called."""
        return self.calls == 0 and not self.marker.exists()


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """Where an attack would show. Whoever fetches something from elsewhere comes by here, too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        made = Target(tmp_path, listener)
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, made.address)
        yield made
        listener.shutdown(socket.SHUT_RDWR)


def write_saved_model(target: Target) -> None:
    """A SavedModel that writes the marker while it is loaded."""
    import tensorflow as tf

    class Table(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
        def _create_resource(self) -> Any:
            return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="table")

        def _initialize(self) -> None:
            tf.io.write_file(str(target.marker), "x")

    module = tf.Module()
    module.table = Table()
    module.serve = tf.function(lambda x: x, input_signature=[tf.TensorSpec([None, 4])])
    tf.saved_model.save(module, str(target.saved_model))
    target.marker.unlink(missing_ok=True)


def lambda_of(function: object, **settings: object) -> Config:
    """A Lambda layer."""
    return named("keras.layers", "Lambda", {"name": "middle", "function": function, "output_shape": [4], **settings})


def code(target: Target) -> Config:
    """Marshalled Python (CVE-2024-3660, and CVE-2025-9905 in an .h5)."""
    text = marshalled(f"__import__('pathlib').Path({str(target.marker)!r}).touch() or x")
    return lambda_of({"class_name": "__lambda__", "config": {"code": text, "defaults": None, "closure": None}})


def any_function(target: Target) -> Config:
    """A function of any module (CVE-2025-1550)."""
    return named("pathlib", "function", "Path.touch", inbound_nodes=call_of(str(target.marker)), name="middle")


def function_in_lambda(target: Target) -> Config:
    """The same as the function of a Lambda."""
    return lambda_of(function("os", "mkdir"), arguments={"path": str(target.marker)})


def download(target: Target) -> Config:
    """A function of Keras that fetches and unpacks (CVE-2025-8747, CVE-2025-12060)."""
    settings = {"origin": target.address, "extract": True, "cache_dir": str(target.marker)}
    return lambda_of(function("keras.utils", "get_file"), arguments=settings)


def download_by_alias(target: Target) -> Config:
    """The same under the name of the module where it is defined."""
    return lambda_of(function("keras.src.utils.file_utils", "get_file"), arguments={"origin": target.address})


def download_in_a_call(target: Target) -> Config:
    """A function in the place of a layer, with its arguments in the call."""
    return {**function("keras.utils", "get_file"), "inbound_nodes": call_of("f", target.address), "name": "middle"}


def unsafe_mode(target: Target) -> Config:
    """Safe mode is switched off by the file itself (CVE-2025-9906)."""
    return {
        **function("keras.config", "enable_unsafe_deserialization"),
        "inbound_nodes": call_of(tensor("d1", 4)),
        "name": "middle",
    }


def alias(target: Target) -> Config:
    """A Lambda under a dotted name whose function is a class that loads a SavedModel, which writes a file meanwhile."""
    write_saved_model(target)
    made = lambda_of(function("keras.layers", "TFSMLayer"))
    path = str(target.saved_model)
    return {**made, "module": "keras", "class_name": "layers.Lambda", "inbound_nodes": call_of(inputs=path)}


def alias_of_a_download(target: Target) -> Config:
    """The same with a function that fetches a data set."""
    made = lambda_of(function("keras.datasets.mnist", "load_data"))
    return {**made, "module": "keras", "class_name": "layers.Lambda", "inbound_nodes": call_of(inputs="new.npz")}


def package(target: Target) -> Config:
    """A Lambda with a package before its name."""
    return {**code(target), "module": None, "class_name": "evil>Lambda", "registered_name": "evil>Lambda"}


def source_name(target: Target) -> Config:
    """A Lambda under the name of the module where it is defined."""
    return {**code(target), "module": "keras.src.layers.core.lambda_layer"}


def registered(target: Target) -> Config:
    """A Lambda that calls itself a Dense of somebody's."""
    return {**code(target), "registered_name": "mine>Dense"}


def saved_model(target: Target) -> Config:
    """A SavedModel elsewhere, which writes a file while it is loaded."""
    return named("keras.layers", "TFSMLayer", {"name": "middle", "filepath": str(target.saved_model)})


def saved_model_in_a_wrapper(target: Target) -> Config:
    """The same inside another layer."""
    return named("keras.layers", "TimeDistributed", {"name": "middle", "layer": saved_model(target)})


def torch_module(target: Target) -> Config:
    """A pickle."""
    return named("keras.layers", "TorchModuleWrapper", {"name": "middle", "module": {"class_name": "x", "config": {}}})


def activation(target: Target) -> Config:
    """A function of Keras that nobody lists, as an activation."""
    return named("keras.layers", "Activation", {"name": "middle", "activation": function("keras.utils", "get_file")})


def initializer(target: Target) -> Config:
    """Code in the place of an initializer."""
    settings = {"name": "middle", "units": 4, "kernel_initializer": code(target)}
    return named("keras.layers", "Dense", settings)


def build_state(target: Target) -> Config:
    """Code in what a layer is built with."""
    return named("keras.layers", "Identity", {"name": "middle"}, build_config={"input_shape": code(target)})


def call_argument(target: Target) -> Config:
    """Code among the arguments of a call."""
    made = named("keras.layers", "Identity", {"name": "middle"})
    return {**made, "inbound_nodes": call_of(tensor("d1", 4), mask=code(target))}


def vocabulary(target: Target) -> Config:
    """A file of the machine as a vocabulary (CVE-2025-12058)."""
    return named("keras.layers", "StringLookup", {"name": "middle", "vocabulary": "/etc/passwd"})


def tokens(target: Target) -> Config:
    """The same in the layer for texts."""
    return named("keras.layers", "TextVectorization", {"name": "middle", "vocabulary": target.address})


CVES: tuple[Payload, ...] = (code, any_function, function_in_lambda, download, download_by_alias, download_in_a_call)
OTHERS: tuple[Payload, ...] = (
    *(
        unsafe_mode,
        alias,
        alias_of_a_download,
        package,
        source_name,
        registered,
        saved_model,
        saved_model_in_a_wrapper,
        torch_module,
    ),
    *(activation, initializer, build_state, call_argument, vocabulary, tokens),
)


@pytest.mark.parametrize("form", ["keras", "h5"])
@pytest.mark.parametrize("payload", [*CVES, *OTHERS], ids=lambda payload: payload.__name__)
def test_nothing_of_a_file_runs(target: Target, tmp_path: Path, payload: Payload, form: str) -> None:
    """The file is refused before Keras sees it: no file is written, nobody is called, and the layer is named."""
    path = FORMS[form](tmp_path, model_config(payload(target)))
    with pytest.raises((Unsupported, InputError)) as told:
        load_model(path)
    assert target.untouched()
    assert "'middle'" in str(told.value)
    assert "\n" not in str(told.value)
    assert "cannot be loaded" not in str(told.value)  # by the list, and not by Keras


@pytest.mark.parametrize("payload", [code, package], ids=lambda payload: payload.__name__)
def test_nothing_of_a_keras_2_file_runs(target: Target, tmp_path: Path, payload: Payload) -> None:
    """The same for what Keras 2 wrote."""
    made = payload(target)
    held = made["config"]["function"]["config"]
    made["config"] |= {"function": [held["code"], None, None], "function_type": "lambda"}
    path = FORMS["keras2"](tmp_path, model_config(made))
    with pytest.raises(Unsupported, match=r"'middle' is a Lambda.*--trust-code"):
        load_model(path)
    assert target.untouched()


def test_a_package_in_keras_2(tmp_path: Path) -> None:
    """Somebody's layer that is called as one of Keras's is not taken for it."""
    middle = named(None, "mine>Dropout", {"name": "middle", "rate": 0.5})
    with pytest.raises(Unsupported, match=r"custom layer 'Dropout' \(named 'middle'\).*--custom FILE.py"):
        load_model(FORMS["keras2"](tmp_path, model_config(middle)))


@pytest.mark.parametrize(
    ("middle", "told"),
    [
        (
            named("mine.layers", "Twice", {"name": "middle"}),
            r"custom layer 'Twice' \(named 'middle'\).*--custom FILE.py",
        ),
        (
            named("keras.layers", "Twice", {"name": "middle"}),
            r"custom layer 'Twice' \(named 'middle'\).*--custom FILE.py",
        ),
        (named("keras.utils", "FeatureSpace", {"name": "middle"}), r"'keras.utils.FeatureSpace' \(in layer 'middle'\)"),
        (named("keras.layers", "JaxLayer", {"name": "middle"}), r"'middle' is a JaxLayer, .*--trust-code"),
        (named("keras.quantizers", "GPTQConfig", {}), r"keras.quantizers.GPTQConfig \(holds a data set.*--trust-code"),
        (
            named("keras.layers", "Activation", {"name": "middle", "activation": function("mine", "wave")}),
            r"custom function 'wave' \(named 'middle'\).*--custom FILE.py",
        ),
    ],
)
def test_what_to_do(middle: Config, told: str) -> None:
    """What is not on the list is told by name, with where it stands and what to add."""
    with pytest.raises(Unsupported, match=told):
        admit(model_config(middle), custom={})


def test_compile_state_is_left_behind() -> None:
    """The loss of a model is not even looked up, also in a model inside another."""
    config = model_config(named("keras", "Sequential", {"name": "middle", "layers": []}))
    config["compile_config"] = {"loss": function("mine", "loss")}
    config["config"]["layers"][2] |= {"compile_config": {"loss": function("keras.utils", "get_file")}}
    made = admit(config, custom={})
    assert "compile_config" not in made
    assert "compile_config" not in made["config"]["layers"][2]


def test_assets_of_the_archive(tmp_path: Path, keras: Any) -> None:
    """A vocabulary in the archive's assets is read."""
    words = keras.layers.TextVectorization(output_sequence_length=2)
    words.adapt(["b a", "b"])
    x = keras.Input((1,), dtype="string", name="x")
    keras.Model(x, words(x)).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert any(name.endswith("vocabulary.txt") for name in archive.namelist())
    loaded = load_model(tmp_path / "m.keras")
    assert loaded.layers[-1].get_vocabulary() == words.get_vocabulary()


@pytest.mark.parametrize("form", FORMS)
def test_these_files_load_without_the_attack(tmp_path: Path, form: str) -> None:
    """The same files with a plain layer in the middle load and compute: nothing else was wrong with them."""
    middle = named("keras.layers", "Activation", {"name": "middle", "activation": "relu"})
    model = load_model(FORMS[form](tmp_path, model_config(middle)))
    assert next(iter(predict(model, {"x": np.ones((1, 8))}).values())).tolist() == [[32, 32, 32]]


@pytest.mark.slow
def test_with_trust_the_code_runs(target: Target, tmp_path: Path) -> None:
    """The marker proves something: the code does write it where the user trusts it."""
    load_model(write_keras(tmp_path / "m.keras", model_config(code(target))), trust_code=True)
    assert target.marker.exists()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ([], "'middle' has a class whose name is no text"),
        (["Lambda"], "'middle' has a class whose name is no text"),
        ({"a": 1}, "'middle' has a class whose name is no text"),
        (None, "'middle' has a class whose name is no text"),
        (7, "'middle' has a class whose name is no text"),
        ("", "'middle' has a class whose name is no text"),
        ("layers.Dense", "no class has a dot in its name"),
        ("__other__", "'__other__'"),
    ],
)
def test_a_class_that_is_none(tmp_path: Path, kind: object, told: str) -> None:
    """A class that is no name is one line about a malformed file."""
    middle = {**named("keras.layers", "Identity", {"name": "middle"}), "class_name": kind}
    with pytest.raises(InputError, match=told):
        load_model(write_keras(tmp_path / "m.keras", model_config(middle)))


WRONG: dict[str, Config] = {
    "module": {"module": ["keras"]},
    "registered name": {"registered_name": {"a": 1}},
    "settings": {"config": [1]},
    "shared id": {"shared_object_id": {}},
    "calls": {"inbound_nodes": {"args": []}},
    "arguments": {"inbound_nodes": [{"args": {}, "kwargs": {}}]},
    "no tensor": {"inbound_nodes": call_of(3)},
    "a forged tensor": {"inbound_nodes": call_of({"class_name": "__keras_tensor__", "config": {"shape": 3}})},
    "a tensor of nowhere": {
        "inbound_nodes": call_of(
            {"class_name": "__keras_tensor__", "config": {"shape": [4], "dtype": "float32", "keras_history": None}}
        )
    },
    "an old call": {"inbound_nodes": [[["d1", 0]]]},
    "an array of text": {
        "inbound_nodes": call_of(tensor("d1", 4), {"class_name": "__numpy__", "config": {"value": "x", "dtype": "S9"}})
    },
    "half a character": {"config": {"name": "middle", "a": "\ud800"}},
    "a number without end": {"config": {"name": "middle", "rate": 10**30}},
    "settings unknown to it": {"config": {"name": "middle", "colour": "red"}},
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_types(tmp_path: Path, kind: str) -> None:
    """Values of other kinds than Keras writes are one line about a malformed file."""
    middle = named("keras.layers", "Dropout", {"name": "middle", "rate": 0.5}) | WRONG[kind]
    with pytest.raises(InputError) as told:
        load_model(write_keras(tmp_path / "m.keras", model_config(middle)))
    assert "\n" not in str(told.value)


def test_nested_without_end(tmp_path: Path) -> None:
    """A configuration that is nested a thousand times is refused, whatever is at its end."""
    settings: Any = 1
    for _ in range(900):
        settings = [settings]
    middle = named("keras.layers", "Dropout", {"name": "middle", "rate": settings})
    with pytest.raises(InputError, match="nested too deep"):
        load_model(write_keras(tmp_path / "m.keras", model_config(middle)))


@pytest.mark.parametrize("text", ["d1", "/etc/passwd", {"class_name": "__bytes__", "config": {"value": "/etc"}}])
@pytest.mark.parametrize("place", ["args", "kwargs"])
def test_texts_in_calls(tmp_path: Path, text: object, place: str) -> None:
    """No layer of Keras is called with a text, a path or bytes, however deep they lie."""
    calls = call_of(tensor("d1", 4), [[text]]) if place == "args" else call_of(tensor("d1", 4), training={"a": text})
    middle = {**named("keras.layers", "Dropout", {"name": "middle", "rate": 0.5}), "inbound_nodes": calls}
    with pytest.raises(EdgepruneError, match="'middle' is called with"):
        load_model(write_keras(tmp_path / "m.keras", model_config(middle)))

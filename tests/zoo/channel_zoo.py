"""Small models, one for each way in which channels can be tied together, with random weights and statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeprune.maker.keras.models import refresh

__all__ = ["ZOO", "inputs_for", "randomised"]

Builder = Callable[[Any, Any, Any], Any]


def randomised(model: Any, seed: int = 0) -> Any:
    """The same model with random weights: normalisation statistics away from the identity, biases away from zero."""
    rng = np.random.default_rng(seed)
    spread = {"gamma": (0.5, 1.5), "beta": (-0.5, 0.5), "moving_mean": (-0.5, 0.5), "moving_variance": (0.5, 1.5)}
    spread |= {"mean": (-0.5, 0.5), "variance": (0.5, 1.5)}  # of a Normalization layer
    for variable in model.weights:
        if variable.name in spread:
            variable.assign(rng.uniform(*spread[variable.name], variable.shape))
        elif variable.name == "count":
            continue
        elif variable.name == "bias":
            variable.assign(rng.normal(0, 0.3, variable.shape))
        elif variable.name in ("alpha", "scale"):
            variable.assign(rng.uniform(0.1, 0.4, variable.shape))
        else:
            taps = int(np.prod(variable.shape[:-2]))
            fan_in = taps if "depthwise" in variable.path else max(int(np.prod(variable.shape[:-1])), 1)
            variable.assign(rng.normal(0, fan_in**-0.5, variable.shape))
    refresh(model)
    return model


def inputs_for(model: Any, count: int = 3, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs by name: normal floats, indexes below 5."""
    rng = np.random.default_rng(seed)
    made = {}
    for tensor in model.inputs:
        shape = (count, *(size or 6 for size in tensor.shape[1:]))
        whole = "int" in str(tensor.dtype)
        if str(tensor.dtype) == "bool":
            made[tensor._keras_history.operation.name] = rng.random(shape) < 0.7
            continue
        made[tensor._keras_history.operation.name] = (
            rng.integers(0, 5, shape).astype(tensor.dtype) if whole else rng.normal(size=shape).astype(np.float32)
        )
    return made


def plain(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803  (keras.layers, everywhere in this file)
    x = keras.Input((12, 12, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 3, use_bias=False, name="a")(x)))
    y = L.MaxPooling2D()(L.Conv2D(24, 3, activation="relu", padding="same", name="b")(y))
    return keras.Model(x, L.Dense(5, name="scores")(L.GlobalAveragePooling2D()(y)))


def residual(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, padding="same", name="stem")(x)
    for n in range(2):
        z = L.ReLU()(L.BatchNormalization()(L.Conv2D(24, 3, padding="same", name=f"in{n}")(y)))
        z = L.BatchNormalization()(L.Conv2D(16, 3, padding="same", name=f"out{n}")(z))
        y = L.ReLU()(L.Add()([y, z]))
    return keras.Model(x, L.Dense(4)(L.GlobalMaxPooling2D()(y)))


def inverted_residual(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, padding="same", name="stem")(x)
    z = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(32, 1, use_bias=False, name="expand")(y)))
    z = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", name="depthwise")(z)))
    z = L.BatchNormalization()(L.Conv2D(16, 1, name="project")(z))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(L.Add()([y, z]))))


def squeeze_excite(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(24, 3, activation="swish", name="stem")(x)
    s = L.GlobalAveragePooling2D(keepdims=True)(y)
    s = L.Conv2D(24, 1, activation="sigmoid", name="gate")(L.Conv2D(8, 1, activation="relu", name="squeeze")(s))
    y = L.Conv2D(16, 1, name="after")(L.Multiply()([y, s]))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y)))


def dense_block(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, name="stem")(x)
    for n in range(3):
        z = L.ReLU()(L.BatchNormalization()(y))
        z = L.Conv2D(12, 3, padding="same", name=f"grow{n}")(z)
        y = L.Concatenate()([y, z])
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(L.BatchNormalization()(y))))


def grouped(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(48, 3, activation="relu", name="stem")(x)
    y = L.Conv2D(48, 3, groups=4, padding="same", name="wide_groups")(y)
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(y)))))


def resnext(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(32, 1, name="stem")(x)
    z = L.ReLU()(L.BatchNormalization()(L.Conv2D(32, 1, name="reduce")(y)))
    z = L.ReLU()(L.BatchNormalization()(L.Conv2D(32, 3, groups=8, padding="same", name="groups")(z)))
    z = L.BatchNormalization()(L.Conv2D(32, 1, name="restore")(z))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([y, z])))))


def shuffle_unit(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(32, 3, padding="same", name="stem")(x)
    for n in range(2):
        left, right = ops.split(y, 2, axis=-1)
        right = L.ReLU()(L.BatchNormalization()(L.Conv2D(16, 1, name=f"first{n}")(right)))
        right = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", name=f"depthwise{n}")(right))
        right = L.ReLU()(L.Conv2D(16, 1, name=f"second{n}")(right))
        y = L.Concatenate()([left, right])
        y = L.Reshape((8, 8, 2, 16))(y)
        y = L.Reshape((8, 8, 32))(L.Permute((1, 2, 4, 3))(y))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y)))


def u_net(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((16, 16, 2))
    a = L.Conv2D(16, 3, padding="same", activation="relu", name="down1")(x)
    b = L.Conv2D(32, 3, padding="same", activation="relu", name="down2")(L.MaxPooling2D()(a))
    c = L.Conv2DTranspose(16, 2, strides=2, activation="relu", name="up1")(b)
    c = L.Conv2D(16, 3, padding="same", name="merge")(L.Concatenate()([a, c]))
    d = L.Conv2D(8, 3, padding="same", name="late")(L.UpSampling2D()(L.AveragePooling2D(2)(c)))
    return keras.Model(x, L.Conv2D(2, 1, name="map")(d))


def separable(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((12, 12, 3))
    y = L.SeparableConv2D(16, 3, depth_multiplier=2, activation="relu", name="a")(x)
    y = L.PReLU(shared_axes=[1, 2])(L.SeparableConv2D(24, 3, depth_multiplier=2, name="b")(y))
    y = L.DepthwiseConv2D(3, depth_multiplier=2, name="c")(y)
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling2D()(y)))


def flatten(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((6, 6, 2))
    y = L.Conv2D(16, 3, activation="relu", name="a")(x)
    y = L.Dense(24, activation="relu", name="b")(L.Dropout(0.5)(L.Flatten()(y)))
    return keras.Model(x, L.Dense(3)(y))


def reshaped_back(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((20,))
    y = L.Dense(64, activation="relu", name="wide")(x)
    y = L.Conv1D(16, 2, name="conv")(L.Reshape((4, 16))(y))
    return keras.Model(x, L.Dense(3)(L.Flatten()(y)))


def keyword_spotter(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((30, 10))
    y = L.ReLU()(L.BatchNormalization()(L.Conv1D(24, 5, strides=2, padding="same", name="a")(x)))
    y = L.SeparableConv1D(32, 3, activation="relu", name="b")(L.ZeroPadding1D(1)(y))
    y = L.DepthwiseConv1D(3, name="c")(L.Cropping1D(1)(y))
    return keras.Model(x, L.Dense(4, activation="softmax")(L.GlobalMaxPooling1D()(L.MaxPooling1D()(y))))


def volume(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((6, 6, 6, 1))
    y = L.Conv3D(16, 3, activation="relu", padding="same", name="a")(x)
    y = L.Conv3DTranspose(16, 2, name="b")(L.AveragePooling3D(2)(y))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling3D()(y)))


def recurrent(kind: str) -> Builder:
    def build(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
        x = keras.Input((4, 6))  # steps are unrolled for the converters, and each costs as much as the others
        y = L.Dense(16, activation="relu", name="before")(x)
        y = getattr(L, kind)(24, return_sequences=True, name="first")(y)
        y = getattr(L, kind)(16, name="second")(y)
        return keras.Model(x, L.Dense(3)(y))

    return build


def bidirectional(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((4, 6))
    y = L.Bidirectional(L.LSTM(16, return_sequences=True), name="both")(x)
    y = L.Bidirectional(L.GRU(16), merge_mode="sum", name="summed")(y)
    return keras.Model(x, L.Dense(3)(y))


def time_distributed(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((5, 8, 8, 2))
    y = L.TimeDistributed(L.Conv2D(16, 3, activation="relu"), name="frames")(x)
    y = L.TimeDistributed(L.BatchNormalization(), name="norm")(y)
    y = L.TimeDistributed(L.GlobalAveragePooling2D(), name="pool")(y)
    return keras.Model(x, L.Dense(3)(L.LSTM(16, name="time")(y)))


def attention(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((9, 16))
    y = L.MultiHeadAttention(4, 8, name="heads")(x, x)
    y = L.LayerNormalization()(L.Add()([x, y]))
    z = L.Dense(16, name="shrink")(L.Dense(48, activation="gelu", name="widen")(y))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(L.Add()([y, z]))))


def cross_attention(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x, memory = keras.Input((9, 16), name="x"), keras.Input((5, 12), name="memory")
    m = L.Dense(24, name="encode")(memory)
    y = L.MultiHeadAttention(4, 8, output_shape=32, name="heads")(L.Dense(20, name="query")(x), m)
    return keras.Model([x, memory], L.Dense(3)(L.GlobalAveragePooling1D()(y)))


def ranking(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    user, item = keras.Input((1,), dtype="int32", name="user"), keras.Input((1,), dtype="int32", name="item")
    dense = keras.Input((6,), name="dense")
    u = L.Flatten()(L.Embedding(10, 16, name="users")(user))
    i = L.Flatten()(L.Embedding(20, 16, name="items")(item))
    y = L.Concatenate()([u, i, L.Multiply()([u, i]), L.Dense(16, activation="relu", name="bottom")(dense)])
    y = L.Dense(32, activation="relu", name="top")(y)
    return keras.Model([user, item, dense], L.Dense(1, activation="sigmoid")(y))


def shared_encoder(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    inner = keras.Input((8,))
    encoder = keras.Model(inner, L.Dense(16, activation="relu", name="e2")(L.Dense(24, name="e1")(inner)), name="enc")
    a, b = keras.Input((10,), name="a"), keras.Input((12,), name="b")
    left, right = (encoder(L.Dense(8, name=f"to{n}")(t)) for n, t in (("a", a), ("b", b)))
    return keras.Model([a, b], L.Dense(2)(L.Concatenate()([left, right, ops.abs(left - right)])))


def shared_layer(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, padding="same", name="stem")(x)
    twice = L.Conv2D(16, 3, padding="same", activation="relu", name="twice")
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(twice(twice(y)))))


def nested(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    inner = keras.Input((8, 8, 16))
    block = keras.Model(inner, L.Conv2D(24, 3, activation="relu", name="deep")(inner), name="block")
    tail = keras.Sequential([keras.Input((24,)), L.Dense(16, activation="relu", name="t1"), L.Dense(4)], name="tail")
    x = keras.Input((8, 8, 3))
    y = block(L.Conv2D(16, 3, padding="same", name="stem")(x))
    return keras.Model(x, tail(L.GlobalAveragePooling2D()(y)))


def sequential(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    inner = keras.Sequential([keras.Input((16,)), L.Dense(24, activation="relu"), L.Dense(16)], name="inner")
    return keras.Sequential(
        [keras.Input((10,)), L.Dense(32, activation="relu"), L.Dense(16), inner, L.LeakyReLU(), L.Dense(3)]
    )


def operators(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, padding="same", name="a")(x) / 2.0
    z = ops.relu(L.Conv2D(16, 3, padding="same", name="b")(y)) * 0.5 + y
    low, high = z[..., :8], z[:, :, :, 8:]
    y = ops.concatenate([ops.tanh(high), -low], axis=-1)
    y = ops.mean(y, axis=[1, 2], keepdims=True) * y
    y = ops.reshape(y, (-1, 64, 16))
    return keras.Model(x, L.Dense(3)(ops.max(ops.transpose(y, (0, 2, 1)), axis=-1)))


def sigmoid_between(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((6,))
    y = L.Dense(16, activation="sigmoid", name="a")(x)
    y = L.Dense(16, activation="softplus", name="b")(y)
    return keras.Model(x, L.Dense(3, name="c")(y))


def no_scale(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization(scale=False)(L.Conv2D(16, 3, name="a")(x)))
    y = L.ReLU()(L.BatchNormalization(center=False)(L.Conv2D(16, 3, name="b")(y)))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))


def mixer(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((9, 6))
    y = L.Dense(16, name="channels")(x)
    z = L.Dense(9, name="tokens")(L.Dense(16, activation="gelu", name="wide")(L.Permute((2, 1))(y)))
    y = L.Add()([y, L.Permute((2, 1))(z)])
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(y)))


def branches(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, activation="relu", name="trunk")(x)
    one = L.Dense(3, name="one")(L.GlobalAveragePooling2D()(L.Conv2D(16, 3, name="left")(y)))
    two = L.Conv2D(2, 1, name="two")(L.Conv2D(24, 1, activation="relu", name="right")(y))
    return keras.Model(x, {"one": one, "two": two})


def repeated(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((6,))
    y = L.RepeatVector(4)(L.Dense(16, activation="relu", name="code")(x))
    return keras.Model(x, L.TimeDistributed(L.Dense(2), name="out")(L.GRU(16, return_sequences=True)(y)))


def keyword_attention(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    query, memory = keras.Input((9, 16), name="query"), keras.Input((5, 12), name="memory")
    mask = keras.Input((9, 5), dtype="bool", name="mask")
    q, v = L.Dense(20, name="q")(query), L.Dense(24, name="v")(memory)
    k = L.Dense(12, name="k")(memory)
    y = L.MultiHeadAttention(4, 8, output_shape=16, name="heads")(value=v, query=q, key=k, attention_mask=mask)
    return keras.Model([query, memory, mask], L.Dense(3)(L.GlobalAveragePooling1D()(y)))


def masked_lstm(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((4,), dtype="int32")
    y = L.Embedding(12, 16, mask_zero=True, name="words")(x)
    y = L.LSTM(24, return_sequences=True, name="first")(y)
    return keras.Model(x, L.Dense(3)(L.GRU(16, name="second")(y)))


def average_of_three(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((6,))
    parts = [L.Dense(16, activation=a, name=a)(x) for a in ("sigmoid", "relu", "softplus")]
    return keras.Model(x, L.Dense(3)(L.Average()(parts)))


def two_sizes(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    inner = keras.Input((None, None, 16))
    tower = keras.Model(inner, L.GlobalAveragePooling2D()(L.Conv2D(24, 3, name="deep")(inner)), name="tower")
    stem = L.Conv2D(16, 3, padding="same", name="stem")
    small, large = keras.Input((8, 8, 3), name="small"), keras.Input((12, 12, 3), name="large")
    return keras.Model([small, large], L.Dense(2)(L.Concatenate()([tower(stem(small)), tower(stem(large))])))


def axes_of_one(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((16, 16))
    y = L.Conv1D(16, 1, activation="relu", name="a")(x)
    y = L.Conv2D(16, (1, 3), name="b")(ops.expand_dims(y, 1))
    return keras.Model(x, L.Dense(3)(L.GlobalMaxPooling1D()(ops.squeeze(y, axis=1))))


def group_norms(keras: Any, L: Any, ops: Any) -> Any:  # noqa: N803
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.GroupNormalization(groups=8, name="eight")(L.Conv2D(32, 3, name="a")(x)))
    y = L.ReLU()(L.GroupNormalization(groups=-1, name="instance")(L.Conv2D(16, 3, name="b")(y)))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(y)))


ZOO: dict[str, Builder] = {
    "plain": plain,
    "residual": residual,
    "inverted_residual": inverted_residual,
    "squeeze_excite": squeeze_excite,
    "dense_block": dense_block,
    "grouped": grouped,
    "resnext": resnext,
    "shuffle_unit": shuffle_unit,
    "u_net": u_net,
    "separable": separable,
    "flatten": flatten,
    "reshaped_back": reshaped_back,
    "keyword_spotter": keyword_spotter,
    "volume": volume,
    "lstm": recurrent("LSTM"),
    "gru": recurrent("GRU"),
    "simple_rnn": recurrent("SimpleRNN"),
    "bidirectional": bidirectional,
    "time_distributed": time_distributed,
    "attention": attention,
    "cross_attention": cross_attention,
    "ranking": ranking,
    "shared_encoder": shared_encoder,
    "shared_layer": shared_layer,
    "nested": nested,
    "sequential": sequential,
    "operators": operators,
    "sigmoid_between": sigmoid_between,
    "no_scale": no_scale,
    "mixer": mixer,
    "branches": branches,
    "repeated": repeated,
    "keyword_attention": keyword_attention,
    "masked_lstm": masked_lstm,
    "average_of_three": average_of_three,
    "two_sizes": two_sizes,
    "axes_of_one": axes_of_one,
    "group_norms": group_norms,
}

"""Writes small Keras 2 models with what they compute: `python -P keras2_zoo.py FOLDER`. A process of its own, since
tf_keras and Keras 3 do not share one."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers, models


def operators() -> Any:
    """Operators between tensors and constants, and slices."""
    x = keras.Input((4, 3), name="x")
    y = keras.Input((4, 3), name="y")
    a = x * 2.0 + y
    a = 1.0 - a
    a = tf.nn.relu(a) + tf.nn.relu6(x) / 2.0 - y * x
    b = tf.concat([a, x, y], axis=-1)
    c = tf.reshape(b, (-1, 6, 6))
    d = tf.transpose(c, perm=[0, 2, 1])
    e = tf.reduce_mean(d, axis=[1], keepdims=True) + tf.reduce_sum(d, 1, keepdims=True)
    f = d[:, 1:, ::2] * -e[:, :, 1::2]
    g = layers.Dense(3, name="after")(f[:, :, 0])
    h = tf.expand_dims(tf.sigmoid(g), 1) ** 2.0
    return keras.Model([x, y], [tf.squeeze(h, axis=1), tf.stack([g, tf.tanh(g)], axis=1), tf.maximum(g, 0.1)])


def ellipsis() -> Any:
    """Slices with an ellipsis and a new axis."""
    x = keras.Input((4, 3), name="x")
    return keras.Model(x, [x[..., 0], x[..., tf.newaxis, 1:]])


def functions() -> Any:
    """Functions of TensorFlow."""
    x = keras.Input((4, 6), name="x")
    p = tf.abs(x) + 0.5
    parts = tf.split(p, 3, axis=-1)
    q = tf.math.sqrt(parts[0]) + tf.math.exp(-parts[1]) + tf.math.log(parts[2])
    r = tf.pad(q, [[0, 0], [1, 1], [0, 2]]) + tf.constant([0.1, 0.2, 0.3, 0.4])
    s = tf.matmul(r, r, transpose_b=True)
    t = tf.clip_by_value(tf.tile(s, [1, 1, 2]), 0.1, 2.0)
    first, second = tf.unstack(tf.reshape(t, (-1, 2, 36)), axis=1)
    some, rest = tf.split(x, [2, 4], axis=2)
    outputs = [
        tf.nn.softmax(first) + tf.math.rsqrt(second),
        tf.cast(tf.math.greater(x, 0.1), tf.float32) + tf.where(x > 0.2, x, -x),
        tf.minimum(x, tf.reduce_max(x, axis=-1, keepdims=True) / 2.0) + tf.square(x),
        tf.nn.swish(x) + tf.nn.gelu(x) + tf.nn.silu(x) + tf.nn.elu(x) + tf.nn.leaky_relu(x, alpha=0.3),
        tf.math.l2_normalize(x, axis=-1) + tf.math.squared_difference(x, 0.5) + tf.nn.log_softmax(x),
        tf.math.pow(p, 0.5) + tf.math.erf(x) + tf.math.softplus(x) + tf.nn.selu(x) + tf.nn.softsign(x),
        tf.reduce_mean(rest, axis=2) - tf.reduce_min(some, axis=2) + tf.math.reduce_std(x, axis=-1),
        tf.gather(x, [3, 0, 2], axis=2) * tf.reverse(tf.stop_gradient(x)[:, :, :3], axis=[1]),
        tf.image.resize(tf.expand_dims(x, -1), (7, 3)),
        tf.nn.depth_to_space(tf.reshape(x, (-1, 2, 3, 4)), 2) + tf.math.floor(tf.reshape(x, (-1, 4, 6, 1))),
    ]
    return keras.Model(x, outputs)


def names() -> Any:
    """Names with a slash, two of them equal without it."""
    x = keras.Input((5,), name="in/x")
    a = layers.Dense(4, name="block/dense", activation=tf.nn.relu6)(x)
    b = layers.Dense(4, name="block_dense", activation="swish")(a)
    return keras.Model(x, layers.Add(name="block/add")([a, b]))


def recurrent() -> Any:
    """Recurrent layers and their wrappers."""
    x = keras.Input((6, 4), name="x")
    a = layers.LSTM(5, return_sequences=True)(x)
    a = layers.GRU(4, return_sequences=True)(a)
    a = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(a)
    a = layers.Bidirectional(layers.GRU(3, return_sequences=True, reset_after=False), merge_mode="sum")(a)
    a = layers.TimeDistributed(layers.Dense(4, activation="tanh"))(a)
    a = layers.SimpleRNN(4, return_sequences=True)(a)
    a = layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(4)]))(a)
    return keras.Model(x, a)


def convlstm() -> Any:
    """A recurrent convolution."""
    x = keras.Input((3, 6, 6, 2), name="x")
    a = layers.ConvLSTM2D(3, 3, padding="same", recurrent_activation="sigmoid")(x)
    return keras.Model(x, layers.GlobalAveragePooling2D()(a))


def states() -> Any:
    """States handed from one layer to the next."""
    x = keras.Input((5, 3), name="x")
    a, h, c = layers.LSTM(4, return_state=True, return_sequences=True)(x)
    b = layers.LSTM(4)(a, initial_state=[h, c])
    return keras.Model(x, [b, h])


def attention() -> Any:
    """Attention layers."""
    x = keras.Input((6, 8), name="x")
    a = layers.MultiHeadAttention(2, 4, name="attend")(x, x)
    a = layers.LayerNormalization()(layers.Add()([a, x]))
    b, scores = layers.MultiHeadAttention(2, 3, value_dim=5, use_bias=False)(
        a, x, return_attention_scores=True, use_causal_mask=True
    )
    c = layers.Attention(use_scale=True)([b, x]) + layers.AdditiveAttention()([x, b])
    return keras.Model(x, [layers.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d")(c), scores])


def convolutions() -> Any:
    """Convolutions, normalisation, activations."""
    x = keras.Input((12, 12, 4), name="x")
    a = layers.Conv2D(8, 3, groups=2, padding="same", activation="selu")(x)
    a = layers.BatchNormalization()(a)
    a = layers.LeakyReLU(alpha=0.2)(a)
    a = layers.PReLU(shared_axes=[1, 2])(a)
    a = layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same")(a)
    a = layers.ReLU(max_value=6.0, negative_slope=0.1, threshold=0.0)(a)
    a = layers.SeparableConv2D(6, 3, kernel_regularizer="l2")(a)
    a = layers.Conv2DTranspose(5, 3, strides=2, activation="elu")(a)
    a = layers.UpSampling2D(2, interpolation="bilinear")(a)
    a = layers.Cropping2D(1)(layers.ZeroPadding2D(((0, 1), (2, 0)))(a))
    a = layers.ELU()(layers.UnitNormalization()(layers.Dropout(0.3)(a)))
    a = layers.GroupNormalization(groups=5)(a)
    b = layers.GlobalMaxPooling2D(keepdims=True)(a)
    return keras.Model(x, layers.Softmax()(layers.Flatten()(layers.Multiply()([a, b]))))


def sequences() -> Any:
    """One-dimensional layers on an embedding."""
    x = keras.Input((7,), dtype="int32", name="tokens")
    a = layers.Embedding(11, 6, input_length=7, mask_zero=True)(x)
    a = layers.Conv1D(6, 3, padding="causal", dilation_rate=2)(layers.SpatialDropout1D(0.2)(a))
    a = layers.SeparableConv1D(4, 3)(a)
    a = layers.DepthwiseConv1D(2)(a)
    a = layers.Conv1DTranspose(4, 2)(layers.MaxPooling1D(2, padding="same")(a))
    return keras.Model(x, layers.Permute((2, 1))(layers.GaussianNoise(0.1)(a)))


def masked() -> Any:
    """A mask that the recurrent layer reads."""
    x = keras.Input((7,), dtype="int32", name="tokens")
    a = layers.Embedding(11, 6, mask_zero=True)(x)
    return keras.Model(x, layers.LSTM(4)(a))


def sequential() -> Any:
    """A Sequential without an input layer."""
    return models.Sequential(
        [layers.Dense(4, input_shape=(3,), activation="relu", kernel_constraint="non_neg"), layers.Dense(2)]
    )


def nested() -> Any:
    """Models inside a model, shared, frozen, with several outputs."""
    inner = models.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="a"), layers.BatchNormalization(name="b"), layers.Dense(4)],
        name="inner",
    )
    bare = models.Sequential([layers.Dense(4, name="a", input_shape=(4,)), layers.Dense(4)], name="bare")
    bare.trainable = False
    p = keras.Input((4,))
    one, two = layers.Dense(4, name="z")(p), layers.Dense(4, name="y")(layers.Dense(4, name="w")(p))
    deep = keras.Model(p, [two - one, one], name="deep")
    x = keras.Input((4,), name="x")
    shared = layers.Dense(4, name="shared")
    h = shared(inner(shared(x)))
    h = inner(h) + bare(h)
    up, down = deep(h)
    again, _ = deep(up * down)
    return keras.Model(x, layers.Dense(2)(bare(again)))


def branches() -> Any:
    """Branches that Keras 3 orders otherwise."""
    x = keras.Input((4,), name="x")
    a = layers.Dense(4, name="late")(layers.Dense(4, name="early")(x))
    b = layers.Dense(4, name="side")(x)
    c = layers.Dense(4, name="other")(x)
    return keras.Model(x, [b, layers.Add()([a, c]), c])


def prepared() -> Any:
    """Layers that prepare images."""
    x = keras.Input((16, 16, 3), name="image")
    norm = layers.Normalization(axis=-1)
    norm.adapt(np.random.default_rng(0).uniform(0, 255, (8, 16, 16, 3)).astype("float32"))
    a = layers.RandomFlip("horizontal")(layers.Rescaling(1 / 127.5, offset=-1)(norm(x)))
    a = layers.RandomRotation(0.1)(layers.CenterCrop(12, 12)(a))
    a = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])(layers.Resizing(8, 8)(a))
    return keras.Model(x, layers.AveragePooling2D(2)(a))


def activations() -> Any:
    """Activations by name and as functions of tf.nn."""
    x = keras.Input((6,), name="x")
    known = ("relu", "selu", "elu", "softplus", "softsign", "swish", "gelu", "mish", "tanh", "sigmoid", "softmax")
    made = [layers.Activation(n)(x) for n in (*known, "exponential", "linear")]
    made += [layers.Activation(f)(x) for f in (tf.nn.relu6, tf.nn.silu, tf.nn.leaky_relu, tf.nn.log_softmax)]
    return keras.Model(x, made)


def named_ends() -> Any:
    """Inputs and outputs in dictionaries."""
    ends = {"zeta": keras.Input((3,), name="zeta"), "alpha": keras.Input((2,), name="alpha")}
    h = layers.Concatenate()([ends["zeta"], ends["alpha"]])
    return keras.Model(ends, {"first": layers.Dense(2, name="first")(h), "last": layers.Dense(3, name="last")(h)})


def others() -> Any:
    """Merging, reshaping and three-dimensional layers, and wrappers with weights of their own."""
    x = keras.Input((6, 4), name="x")
    a = layers.SpectralNormalization(layers.Conv1D(4, 3, padding="same"))(layers.Masking(0.5)(x))
    b = layers.Average()([a, layers.Subtract()([x, a]), layers.Maximum()([x, a]), layers.Minimum()([x, a])])
    c = layers.Dot((2, 2), normalize=True)([b, x])
    d = layers.Conv3D(3, 2)(layers.Reshape((3, 4, 3, 1))(c))
    d = layers.MaxPooling3D((1, 2, 1), padding="same")(layers.AlphaDropout(0.1)(d))
    e = layers.TimeDistributed(models.Sequential([layers.Dense(3, input_shape=(6,)), layers.Dense(2)]))(c)
    f = layers.GlobalAveragePooling1D()(layers.UpSampling1D(2)(layers.ZeroPadding1D(1)(layers.Cropping1D(1)(e))))
    g = layers.RepeatVector(3)(layers.ActivityRegularization(0.1)(layers.GaussianDropout(0.1)(f)))
    return keras.Model(x, [layers.GlobalMaxPooling3D()(d), g])


def code() -> Any:
    """Code in the file."""
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Lambda(lambda v: v * 2.0, name="doubled")(x))


def trained() -> Any:
    """A model with an optimizer whose slots lie in the file."""
    model = models.Sequential([layers.Dense(64, input_shape=(64,)), layers.Dense(3)])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 64)), np.ones((4, 3)), verbose=0)
    return model


def small_v3() -> Any:
    """MobileNetV3."""
    return keras.applications.MobileNetV3Small((32, 32, 3), alpha=0.35, minimalistic=False, weights=None, classes=5)


def small_v2() -> Any:
    """MobileNetV2."""
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=5)


ZOO = (
    operators,
    ellipsis,
    functions,
    names,
    recurrent,
    convlstm,
    states,
    attention,
    convolutions,
    sequences,
    masked,
    sequential,
    nested,
    branches,
    prepared,
    activations,
    code,
    others,
    trained,
    named_ends,
    small_v3,
    small_v2,
)
H5_ONLY = (ellipsis,)  # tf_keras cannot write these as .keras


def fill(model: Any, seed: int) -> None:
    """Weights that tell one order from another and keep the outputs apart."""
    rng = np.random.default_rng(seed)
    made = []
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.name
        if not variable.dtype.is_floating:
            made.append(variable.numpy())
        elif "variance" in name or "gamma" in name:
            made.append(rng.uniform(0.5, 1.5, shape))
        elif len(shape) > 1:
            fan = shape[0] if "embeddings" in name else np.prod(shape[:-1])
            made.append(rng.normal(0, 1.5 / np.sqrt(fan), shape))
        else:
            made.append(rng.uniform(-0.2, 0.5, shape))
    model.set_weights(made)


def samples(model: Any, count: int) -> dict[str, np.ndarray]:
    """Inputs by the name of the input layer."""
    rng = np.random.default_rng(5)
    made = {}
    for name, tensor in zip(model.input_names, model.inputs, strict=True):
        shape = (count, *tensor.shape[1:])
        integer = tensor.dtype.is_integer
        made[name] = rng.integers(1, 9, shape).astype("int32") if integer else rng.normal(size=shape).astype("float32")
    return made


def write(name: str, model: Any, folder: Path, kinds: tuple[str, ...] = (".h5", ".keras")) -> None:
    """Save a model and what it computes."""
    inputs = samples(model, 3)
    flat = [inputs[n] for n in model.input_names]
    structured = dict(inputs) if isinstance(model.input, dict) else flat[0] if len(flat) == 1 else flat
    outputs = tf.nest.flatten(model(structured, training=False))
    arrays = {f"in_{key.replace('/', '_')}": value for key, value in inputs.items()}
    arrays |= {f"out_{index}": np.asarray(value) for index, value in enumerate(outputs)}
    plain = {layer.name for layer in model.layers if "/" not in layer.name}
    names = {
        name: name.replace("/", "_") + ("_1" if "/" in name and name.replace("/", "_") in plain else "")
        for name in (layer.name for layer in model.layers)
    }
    arrays |= {
        f"w_{names[layer.name]}_{index}": value
        for layer in model.layers
        for index, value in enumerate(layer.get_weights())
    }
    np.savez(folder / f"{name}.npz", **arrays)
    for kind in kinds:
        model.save(folder / f"{name}{kind}")


def main(folder: Path) -> None:
    """Write the whole zoo."""
    warnings.simplefilter("ignore")
    for seed, make in enumerate(ZOO):
        keras.backend.clear_session()
        model = make()
        if make is not prepared:  # its weights were learned from images
            fill(model, seed)
        write(make.__name__, model, folder, (".h5",) if make in H5_ONLY else (".h5", ".keras"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

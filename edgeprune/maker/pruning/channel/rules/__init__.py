"""How channels pass through each kind of layer and operation of Keras 3: one rule a kind, in one table.

A rule binds the weights of its layer to labels, joins what the operation ties together and returns the flows of the
outputs. What it cannot follow it fences off with a reason that the user reads.
"""

from __future__ import annotations

from edgeprune.maker.pruning.channel.rules.elements import (
    across_channels,
    batch_norm,
    elementwise,
    group_norm,
    layer_scale,
    prelu,
    same,
    softmax,
    whole_norm,
)
from edgeprune.maker.pruning.channel.rules.kernels import conv, conv_transpose, dense, depthwise, embedding, separable
from edgeprune.maker.pruning.channel.rules.merges import COMBINE, concatenate, merge, product
from edgeprune.maker.pruning.channel.rules.sequences import attention, bidirectional, recurrent, time_distributed
from edgeprune.maker.pruning.channel.rules.shapes import (
    get_item,
    global_pool,
    permute,
    reduce,
    repeat_vector,
    reshape,
    spatial,
    split,
    squeeze,
)
from edgeprune.maker.pruning.channel.trace import Rule

__all__ = ["RULES"]

KERAS_UNARY = (  # noqa: SIM905
    "Activation ReLU LeakyReLU ELU Relu Relu6 Sigmoid Silu Swish HardSigmoid HardSilu HardSwish Gelu Tanh Softplus "
    "Softsign Exp Log Log1p Expm1 Square Sqrt Rsqrt Abs Absolute Negative Elu Selu LeakyRelu Celu Identity Mish Sin "
    "Cos Tanhshrink SoftShrink HardTanh HardShrink Cast Clip Round Sign Floor Ceil LogSigmoid Threshold Erf"
).split()

KERAS_SAME = (  # noqa: SIM905
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout AlphaDropout "
    "ActivityRegularization StopGradient RandomFlip RandomRotation RandomZoom RandomTranslation RandomContrast"
).split()

KERAS_SPATIAL = (  # noqa: SIM905
    "MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D AveragePooling3D ZeroPadding1D "
    "ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D UpSampling1D UpSampling2D UpSampling3D"
).split()

# Class of a layer or operation -> its rule. Layers and operations of keras.ops of one name share a rule.
RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), conv),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), conv_transpose),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), separable),
    "Dense": dense,
    "Embedding": embedding,
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), recurrent),
    "Bidirectional": bidirectional,
    "TimeDistributed": time_distributed,
    "MultiHeadAttention": attention,
    "BatchNormalization": batch_norm,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), across_channels),
    **dict.fromkeys(("UnitNormalization", "Normalization", "Rescaling"), whole_norm),
    "GroupNormalization": group_norm,
    "PReLU": prelu,
    "LayerScale": layer_scale,
    **dict.fromkeys(KERAS_UNARY, elementwise),
    **dict.fromkeys(KERAS_SAME, same),
    **dict.fromkeys(KERAS_SPATIAL, spatial),
    **dict.fromkeys([f"Global{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)], global_pool),
    "Softmax": softmax,
    "RepeatVector": repeat_vector,
    **dict.fromkeys(("Flatten", "Reshape"), reshape),
    **dict.fromkeys(("Permute", "Transpose"), permute),
    "GetItem": get_item,
    "Split": split,
    **dict.fromkeys(("Squeeze", "ExpandDims"), squeeze),
    **dict.fromkeys(("Mean", "Max", "Min", "Sum", "Amax", "Amin"), reduce),
    **dict.fromkeys(COMBINE, merge),
    **dict.fromkeys(("Concatenate",), concatenate),
    **dict.fromkeys(("Dot", "Matmul", "Einsum"), product),
}

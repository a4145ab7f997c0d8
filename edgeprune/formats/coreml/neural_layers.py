"""Which fields of a Core ML neural network's layer hold weights, of which shape, and with channels on which axis.

Format: github.com/apple/coremltools, mlmodel/format/NeuralNetwork.proto (field numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeprune.formats.protobuf import Message
from edgeprune.formats.weights import Role

__all__ = ["FIRST_LAYER", "LAYERS", "LayerKind", "Place"]

Sizes = Callable[[Message], Sequence[int]]
FIRST_LAYER = 100  # smaller fields of a NeuralNetworkLayer are its name, inputs and outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A WeightParams at `keys` (the last one its own, those before of messages around it).

    `sizes` gives its shape from the layer's settings, 0 for a size that is not stated; None where it is flat.
    """

    keys: tuple[int, ...]
    name: str
    sizes: Sizes | None = None
    axis: int | None = 0

    @property
    def role(self) -> Role:
        """What it is for: kernels and matrices are weights; loaded constants steer."""
        if self.name == "data":
            return Role.STEERING
        return Role.WEIGHT if self.name == "weights" or self.name.lower().endswith("matrix") else Role.BIAS


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """A kind of layer: its name in the format, its weights, and the fields with networks inside."""

    name: str
    places: tuple[Place, ...] = ()
    networks: Mapping[int, str] = field(default_factory=dict)


def _numbers(*keys: int) -> Sizes:
    """Sizes that are integer fields of the layer."""
    return lambda layer: [layer.number(key) for key in keys]


def _listed(key: int) -> Sizes:
    """A shape that is a repeated field of the layer."""
    return lambda layer: layer.integers(key)


def _kernel(layer: Message) -> Sequence[int]:
    """ConvolutionLayerParams: (out, in / groups, height, width); of a deconvolution (in, out / groups, ..)."""
    groups = max(layer.number(10, 1), 1)
    sides = layer.integers(20) or [3, 3]  # the default that the format states
    out, kernel = layer.number(1), layer.number(2)
    return [kernel, out // groups, *sides] if layer.number(60) else [out, kernel, *sides]


def _kernel_3d(layer: Message) -> Sequence[int]:
    """Convolution3DLayerParams: (out, in / groups, depth, height, width); of a deconvolution (in, out / groups, ..)."""
    groups = max(layer.number(10, 1), 1)
    out, into = layer.number(1), layer.number(2)
    first = [into, out // groups] if layer.number(86) else [out, into // groups]
    return [*first, *(layer.number(key, 3) for key in (20, 21, 22))]


def _biases(key: int, size: int, name: str = "bias") -> Place:
    return Place(keys=(key,), name=name, sizes=_numbers(size))


_INPUT, _STATE, _VECTOR = _numbers(2, 1), _numbers(2, 2), _numbers(2)
_GATES = ("inputGate", "forgetGate", "blockInput", "outputGate")


def _lstm() -> tuple[Place, ...]:
    """LSTMWeightParams, in field 20 of an LSTM."""
    found = []
    for at, gate in enumerate(_GATES):
        found += [
            Place(keys=(20, 1 + at), name=f"{gate}WeightMatrix", sizes=_INPUT),
            Place(keys=(20, 20 + at), name=f"{gate}RecursionMatrix", sizes=_STATE),
            Place(keys=(20, 40 + at), name=f"{gate}BiasVector", sizes=_VECTOR),
        ]
    gates = (60, "inputGate"), (61, "forgetGate"), (62, "outputGate")
    peepholes = (Place(keys=(20, key), name=f"{gate}PeepholeVector", sizes=_VECTOR) for key, gate in gates)
    return (*found, *peepholes)


def _gru() -> tuple[Place, ...]:
    found = []
    for at, gate in enumerate(("updateGate", "resetGate", "outputGate")):
        found += [
            Place(keys=(30 + at,), name=f"{gate}WeightMatrix", sizes=_INPUT),
            Place(keys=(50 + at,), name=f"{gate}RecursionMatrix", sizes=_STATE),
            Place(keys=(70 + at,), name=f"{gate}BiasVector", sizes=_VECTOR),
        ]
    return tuple(found)


def _activations(*keys: int) -> tuple[Place, ...]:
    """ActivationParams at `keys` of a layer: PReLU and parametric softplus are learned."""
    slopes = (25, 1, "alpha"), (71, 1, "alpha"), (71, 2, "beta")
    return tuple(Place(keys=(*keys, kind, key), name=name) for kind, key, name in slopes)


_NORMALIZATION = tuple(
    Place(keys=(key,), name=name, sizes=_numbers(1))
    for key, name in ((15, "gamma"), (16, "beta"), (17, "mean"), (18, "variance"))
)
# NeuralNetworkLayer, the oneof "layer": number and name of the kinds without weights.
_BARE = """
120 pooling 165 mvn 170 l2normalize 175 softmax 180 lrn 190 crop 200 padding 210 upsample 211 resizeBilinear 212
cropResize 220 unary 230 add 231 multiply 240 average 260 max 261 min 270 dot 280 reduce 300 reshape 301 flatten 310
permute 320 concat 330 split 340 sequenceRepeat 345 reorganizeData 350 slice 600 copy 620 loopBreak 625 loopContinue
635 rangeStatic 640 rangeDynamic 660 clip 665 ceil 670 floor 680 sign 685 round 700 exp2 710 sin 715 cos 720 tan 730
asin 735 acos 740 atan 750 sinh 755 cosh 760 tanh 770 asinh 775 acosh 780 atanh 790 erf 795 gelu 815 equal 820
notEqual 825 lessThan 827 lessEqual 830 greaterThan 832 greaterEqual 840 logicalOr 845 logicalXor 850 logicalNot 855
logicalAnd 865 modBroadcastable 870 minBroadcastable 875 maxBroadcastable 880 addBroadcastable 885 powBroadcastable
890 divideBroadcastable 895 floorDivBroadcastable 900 multiplyBroadcastable 905 subtractBroadcastable 920 tile 925
stack 930 gather 935 scatter 940 gatherND 945 scatterND 950 softmaxND 952 gatherAlongAxis 954 scatterAlongAxis 960
reverse 965 reverseSeq 975 splitND 980 concatND 985 transpose 995 sliceStatic 1000 sliceDynamic 1005 slidingWindows
1015 topK 1020 argMin 1025 argMax 1065 getShape 1080 fillLike 1085 fillStatic 1090 fillDynamic 1100 broadcastToLike
1105 broadcastToStatic 1110 broadcastToDynamic 1120 squeeze 1125 expandDims 1130 flattenTo2D 1135 reshapeLike 1140
reshapeStatic 1145 reshapeDynamic 1150 rankPreservingReshape 1155 constantPad 1170 randomNormalLike 1175
randomNormalStatic 1180 randomNormalDynamic 1190 randomUniformLike 1195 randomUniformStatic 1200
randomUniformDynamic 1210 randomBernoulliLike 1215 randomBernoulliStatic 1220 randomBernoulliDynamic 1230
categoricalDistribution 1250 reduceL1 1255 reduceL2 1260 reduceMax 1265 reduceMin 1270 reduceSum 1275 reduceProd
1280 reduceMean 1285 reduceLogSum 1290 reduceSumSquare 1295 reduceLogSumExp 1313 whereNonZero 1315 matrixBandPart
1320 lowerTriangular 1325 upperTriangular 1330 whereBroadcastable 1400 NonMaximumSuppression 1450 oneHot 1455 cumSum
1460 clampedReLU 1461 argSort 1465 pooling3d 1466 globalPooling3d 1470 sliceBySize
"""
# The kinds with weights or networks inside.
LAYERS: Mapping[int, LayerKind] = {
    **{int(number): LayerKind(name=name) for number, name in zip(_BARE.split()[::2], _BARE.split()[1::2], strict=True)},
    100: LayerKind(name="convolution", places=(Place(keys=(90,), name="weights", sizes=_kernel), _biases(91, 1))),
    130: LayerKind(name="activation", places=_activations()),
    140: LayerKind(
        name="innerProduct", places=(Place(keys=(20,), name="weights", sizes=_numbers(2, 1)), _biases(21, 2))
    ),
    150: LayerKind(name="embedding", places=(Place(keys=(20,), name="weights", sizes=_numbers(2, 1)), _biases(21, 2))),
    160: LayerKind(name="batchnorm", places=_NORMALIZATION),
    245: LayerKind(
        name="scale",
        places=(
            Place(keys=(2,), name="scale", sizes=_listed(1)),
            Place(keys=(5,), name="bias", sizes=_listed(4)),
        ),
    ),
    250: LayerKind(name="bias", places=(Place(keys=(2,), name="bias", sizes=_listed(1)),)),
    290: LayerKind(name="loadConstant", places=(Place(keys=(2,), name="data", sizes=_listed(1), axis=None),)),
    400: LayerKind(
        name="simpleRecurrent",
        places=(
            Place(keys=(30,), name="weightMatrix", sizes=_INPUT),
            Place(keys=(31,), name="recursionMatrix", sizes=_STATE),
            Place(keys=(32,), name="biasVector", sizes=_VECTOR),
            *_activations(10),
        ),
    ),
    410: LayerKind(name="gru", places=(*_gru(), *_activations(10))),
    420: LayerKind(name="uniDirectionalLSTM", places=(*_lstm(), *_activations(10))),
    430: LayerKind(name="biDirectionalLSTM", places=(*_lstm(), *_activations(10), *_activations(11))),
    500: LayerKind(name="custom", places=(Place(keys=(20,), name="weights", axis=None),)),
    605: LayerKind(name="branch", networks={1: "ifBranch", 2: "elseBranch"}),
    615: LayerKind(name="loop", networks={3: "conditionNetwork", 4: "bodyNetwork"}),
    1040: LayerKind(
        name="embeddingND",
        places=(Place(keys=(20,), name="weights", sizes=_numbers(2, 1)), _biases(21, 2)),
    ),
    1045: LayerKind(
        name="batchedMatmul",
        places=(Place(keys=(8,), name="weights", sizes=_numbers(6, 5)), _biases(9, 6)),
    ),
    1070: LayerKind(name="loadConstantND", places=(Place(keys=(2,), name="data", sizes=_listed(1), axis=None),)),
    1350: LayerKind(
        name="layerNormalization",
        places=(
            Place(keys=(3,), name="gamma", sizes=_listed(1)),
            Place(keys=(4,), name="beta", sizes=_listed(1)),
        ),
    ),
    1471: LayerKind(name="convolution3d", places=(Place(keys=(60,), name="weights", sizes=_kernel_3d), _biases(61, 1))),
}

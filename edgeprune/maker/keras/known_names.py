"""What of Keras a model file may name: reviewed, name by name. What is not here does not come out of a file.

Reviewed for: opens a file or a connection, runs code or a graph that is stored somewhere, unpickles, changes a setting
of the process, calls a function that it is handed. Where a module has such members they are in `REFUSED`, with the
reason. A test holds both lists against the installed Keras, so that a name that a new Keras brings is looked at before
it is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ALLOWED", "CODE", "REFUSED"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Layers and items that hold or run code: what they are called in a message.
CODE: Mapping[str, str] = {
    "Lambda": "a Lambda, which runs code stored in the file",
    "__lambda__": "a Lambda, which runs code stored in the file",
    "TFSMLayer": "a TFSMLayer, which runs a SavedModel stored elsewhere",
    "TorchModuleWrapper": "a TorchModuleWrapper, which unpickles what is stored in the file",
    "JaxLayer": "a JaxLayer, which runs a function that it is given",
    "FlaxLayer": "a FlaxLayer, which runs a module that it is given",
}
_CALLS = "calls a function that it is given"
_LOOKS_UP = "looks up whatever it is asked for"
REFUSED: Mapping[str, Mapping[str, str]] = {
    "keras.layers": {name: words for name, words in CODE.items() if not name.startswith("_")},
    "keras.constraints": {"Constraint": "an abstract class"},
    "keras.quantizers": {
        "AWQConfig": "holds a data set and a tokenizer",
        "GPTQConfig": "holds a data set and a tokenizer",
        **dict.fromkeys(
            _names(
                """
                abs_max_quantize abs_max_quantize_grouped_with_zero_point compute_float8_amax_history
                compute_float8_scale fake_quant_with_min_max_vars pack_int4 quantize_and_dequantize unpack_int4
                """
            ),
            "a function that no layer takes",
        ),
    },
    "keras.src.ops.core": dict.fromkeys(
        _names("AssociativeScan Cond ForiLoop Map Scan Switch VectorizedMap WhileLoop"), _CALLS
    ),
    "keras.src.ops.linalg": {"JVP": _CALLS},
    "keras.src.ops.math": {"SegmentReduction": "an abstract class"},
    **{
        f"keras.{module}": dict.fromkeys(("deserialize", "get", "serialize"), _LOOKS_UP)
        for module in ("activations", "losses", "metrics")
    },
}
# Module -> names. A module of Keras's source (keras.src) stands for itself, the others are public.
ALLOWED: Mapping[str, tuple[str, ...]] = {
    "keras": _names(
        """
        DTypePolicy FloatDTypePolicy Model Sequential
        """
    ),
    "keras.layers": _names(
        """
        Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
        AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout Attention
        AugMix AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization
        Bidirectional CategoryEncoding CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization Conv1D
        Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D
        Cropping2D Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense
        Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D
        GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
        GroupNormalization GroupQueryAttention HashedCrossing Hashing Identity InputLayer IntegerLookup LSTM LSTMCell
        LayerNormalization LeakyReLU Masking MaxNumBoundingBoxes MaxPooling1D MaxPooling2D MaxPooling3D Maximum
        MelSpectrogram Minimum MixUp MultiHeadAttention Multiply Normalization PReLU Permute Pipeline RMSNormalization
        RNN RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
        RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
        RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
        RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram
        SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax Solarization SpatialDropout1D SpatialDropout2D
        SpatialDropout3D SpectralNormalization StackedRNNCells StringLookup Subtract TextVectorization TimeDistributed
        UnitNormalization UpSampling1D UpSampling2D UpSampling3D Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
        """
    ),
    "keras.initializers": _names(
        """
        Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
        RandomNormal RandomUniform STFT TruncatedNormal VarianceScaling Zeros
        """
    ),
    "keras.regularizers": _names(
        """
        L1 L1L2 L2 OrthogonalRegularizer
        """
    ),
    "keras.constraints": _names(
        """
        MaxNorm MinMaxNorm NonNeg UnitNorm
        """
    ),
    "keras.quantizers": _names(
        """
        AbsMaxQuantizer Float8QuantizationConfig Int4QuantizationConfig Int8QuantizationConfig QuantizationConfig
        """
    ),
    "keras.dtype_policies": _names(
        """
        AWQDTypePolicy DTypePolicyMap GPTQDTypePolicy Int4DTypePolicy QuantizedDTypePolicy QuantizedFloat8DTypePolicy
        """
    ),
    "keras.activations": _names(
        """
        celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear log_sigmoid
        log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid
        sparsemax squareplus tanh tanh_shrink threshold
        """
    ),
    "keras.losses": _names(
        """
        BinaryCrossentropy BinaryFocalCrossentropy CTC CategoricalCrossentropy CategoricalFocalCrossentropy
        CategoricalGeneralizedCrossEntropy CategoricalHinge Circle CosineSimilarity Dice Hinge Huber KLDivergence
        LogCosh MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError MeanSquaredLogarithmicError Poisson
        SparseCategoricalCrossentropy SquaredHinge Tversky categorical_generalized_cross_entropy circle
        cosine_similarity ctc dice huber log_cosh tversky
        """
    ),
    "keras.metrics": _names(
        """
        AUC Accuracy BinaryAccuracy BinaryCrossentropy BinaryIoU CategoricalAccuracy CategoricalCrossentropy
        CategoricalHinge ConcordanceCorrelation CosineSimilarity F1Score FBetaScore FalseNegatives FalsePositives
        Hinge IoU KLDivergence LogCoshError Mean MeanAbsoluteError MeanAbsolutePercentageError MeanIoU
        MeanMetricWrapper MeanSquaredError MeanSquaredLogarithmicError OneHotIoU OneHotMeanIoU PearsonCorrelation
        Poisson Precision PrecisionAtRecall R2Score Recall RecallAtPrecision RootMeanSquaredError
        SensitivityAtSpecificity SparseCategoricalAccuracy SparseCategoricalCrossentropy SparseTopKCategoricalAccuracy
        SpecificityAtSensitivity SquaredHinge Sum TopKCategoricalAccuracy TrueNegatives TruePositives binary_accuracy
        binary_crossentropy binary_focal_crossentropy categorical_accuracy categorical_crossentropy
        categorical_focal_crossentropy categorical_hinge concordance_correlation hinge kl_divergence
        mean_absolute_error mean_absolute_percentage_error mean_squared_error mean_squared_logarithmic_error
        pearson_correlation poisson sparse_categorical_accuracy sparse_categorical_crossentropy
        sparse_top_k_categorical_accuracy squared_hinge top_k_categorical_accuracy
        """
    ),
    "keras.random": _names(
        """
        SeedGenerator
        """
    ),
    "keras.src.activations.activations": _names(
        """
        Mish ReLU
        """
    ),
    "keras.src.ops.core": _names(
        """
        Cast ConvertToTensor SaturateCast Scatter ScatterUpdate Slice SliceUpdate StopGradient Unstack
        """
    ),
    "keras.src.ops.einops": _names(
        """
        Rearrange
        """
    ),
    "keras.src.ops.image": _names(
        """
        AffineTransform CropImages ElasticTransform ExtractPatches GaussianBlur HSVToRGB MapCoordinates PadImages
        PerspectiveTransform RGBToGrayscale RGBToHSV Resize SSIM ScaleAndTranslate SobelEdges
        """
    ),
    "keras.src.ops.linalg": _names(
        """
        Cholesky CholeskyInverse Det Eig Eigh Inv Lstsq LuFactor MatrixRank Norm Pinv Qr SVD Solve SolveTriangular
        """
    ),
    "keras.src.ops.math": _names(
        """
        CDist Erf Erfc Erfinv ExtractSequences FFT FFT2 IFFT2 IRFFT ISTFT InTopK Logdet Logsumexp RFFT Rsqrt STFT
        SegmentMax SegmentMin SegmentProd SegmentSum TopK ViewAsComplex ViewAsReal
        """
    ),
    "keras.src.ops.nn": _names(
        """
        AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm BinaryCrossentropy CTCDecode CTCLoss
        CategoricalCrossentropy Celu Conv ConvTranspose DepthToSpace DepthwiseConv DotProductAttention Elu Fold Gelu
        Glu HardShrink HardSigmoid HardSilu HardTanh LayerNorm LeakyRelu LogSigmoid LogSoftmax MaxPool Moments
        MultiHot Normalize OneHot PSNR Polar RMSNorm Relu Relu6 Selu SeparableConv Sigmoid Silu SoftShrink Softmax
        Softplus Softsign SpaceToDepth SparseCategoricalCrossentropy SparsePlus SparseSigmoid Sparsemax Squareplus
        TanhShrink Threshold Unfold
        """
    ),
    "keras.src.ops.numpy": _names(
        """
        Abs Absolute Add All AllClose Amax Amin Angle Any Append Arange Arccos Arccosh Arcsin Arcsinh Arctan Arctan2
        Arctanh Argmax Argmin Argpartition Argsort Array ArraySplit Average Bincount BitwiseAnd BitwiseInvert
        BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor BroadcastTo Cbrt Ceil Clip Concatenate Conj
        Conjugate Copy Corrcoef Correlate Cos Cosh CountNonzero Cross Cumprod Cumsum Deg2rad Diag Diagflat Diagonal
        Diff Digitize Divide DivideNoNan Dot Dsplit Dstack Einsum EmptyLike Equal Exp Exp2 ExpandDims Expm1 Fabs Flip
        Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod Full FullLike Gcd Geomspace GetItem Greater GreaterEqual
        Heaviside Histogram Hsplit Hstack Hypot I0 Imag Inner IsIn Isclose Isfinite Isinf Isnan Isneginf Isposinf
        Isreal Kron Lcm Ldexp LeftShift Less LessEqual Linspace Log Log10 Log1p Log2 Logaddexp Logaddexp2 LogicalAnd
        LogicalNot LogicalOr LogicalXor Logspace Matmul Max Maximum Mean Median Meshgrid Min Minimum Mod Moveaxis
        Multiply NanToNum Nanargmax Nanargmin Nancumprod Nancumsum Nanmax Nanmean Nanmedian Nanmin Nanpercentile
        Nanprod Nanquantile Nanstd Nansum Nanvar Ndim Negative Nextafter Nonzero NotEqual OnesLike Outer Pad
        Percentile Power Prod Ptp Quantile Rad2deg Ravel Real Reciprocal Repeat Reshape RightShift Roll Rot90 Round
        SearchSorted Select Sign Signbit Sin Sinc Sinh Size Slogdet Sort Split Sqrt Square Squeeze Stack Std Subtract
        Sum Swapaxes Take TakeAlongAxis Tan Tanh Tensordot Tile Trace Transpose Trapezoid Tril Triu TrueDivide Trunc
        Unique UnravelIndex Vander Var Vdot View Vsplit Vstack Where ZerosLike
        """
    ),
    "keras.src.applications.convnext": ("LayerScale", "StochasticDepth"),
    "keras.src.applications.inception_resnet_v2": ("CustomScaleLayer",),
    "keras.src.models.functional": ("Functional",),
}

"""How to train: the options, and the names that they are chosen from. Light, for the command line shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeprune.errors import UsageError
from edgeprune.host.toml_values import check_choice
from edgeprune.maker.training.data.words import check_class_weight

__all__ = ["DECAYS", "OPTIMIZERS", "QatOptions", "TrainOptions"]

DECAYS = ("cosine", "constant")
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}  # name -> its class in keras.optimizers


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train. The learning rate falls to zero along a half cosine (Loshchilov & Hutter, arXiv:1608.03983)
    unless `decay` is "constant". `patience` epochs without a better validation value end the training.

    `flip` and `shift` vary training images: mirrored left to right at random, moved by up to `shift` pixels.
    With `thaw` frozen layers are trained too. `distill` is the share of the loss that the answers of a teacher model
    have, at `temperature`, with what layers make beside them where `features` is above 0.
    """

    epochs: int
    """Passes over the training samples; a step that prunes does not train without it."""
    batch_size: int = 64
    """Samples in a step."""
    learning_rate: float = 1e-3
    """At the start, above 0 and below 10."""
    decay: str = "cosine"
    """`"cosine"`: the learning rate falls to zero along a half cosine; `"constant"`."""
    optimizer: str = "adam"
    """`"adam"`, `"adamw"` or `"sgd"`."""
    patience: int | None = None
    """Stop after so many epochs without a better validation value."""
    keep_from: float = 0.0
    """Share of the training before which no weights are kept as the best, nor scored unless `patience` is set:
    validation samples that are few choose by chance among many epochs."""
    flip: bool = False
    """Mirror training images left to right at random."""
    shift: int = 0
    """Move training images by up to so many pixels."""
    distill: float = 0.0
    """Share of the loss that the dense model's answers have, 0 to 1."""
    temperature: float = 3.0
    """Warmth of these answers, 0.1 to 100."""
    features: float = 0.0
    """Weight, beside these answers, of what up to 8 layers make against the dense model's, channel by channel of those
    that stayed (FitNets, arXiv:1412.6550); 1 suits."""
    renew_norms: bool = True
    """Estimate the statistics of batch normalization again, over up to 2,048 training samples, before a model is scored
    or kept."""
    thaw: bool = False
    """Train layers too that the model's file has frozen (`trainable=False`)."""
    class_weight: str | Mapping[str, float] | None = None
    """`"balanced"`: each class counts the same in the loss; or weights of classes, as in `{0 = 1.0, 3 = 4.0}`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.class_weight is not None:
            check_class_weight(self.class_weight)
        if self.shift < 0:
            raise UsageError(f"shift is a number of pixels, at least 0; got {self.shift}")
        if not 0 <= self.distill <= 1:
            raise UsageError(f"distill is the teacher's share of the loss, 0 to 1; got {self.distill:g}")
        if not 0.1 <= self.temperature <= 100:
            raise UsageError(f"temperature is 0.1 to 100; got {self.temperature:g}")
        if not 0 <= self.keep_from < 1:
            raise UsageError(f"keep_from is a share of the training, at least 0 and below 1; got {self.keep_from:g}")
        if not 0 <= self.features <= 100:
            raise UsageError(f"features is the weight of what layers make, 0 to 100; got {self.features:g}")
        if self.features and not self.distill:
            raise UsageError("features are a part of what the dense model teaches: set distill = 0.9 too")
        if self.epochs < 1 or self.batch_size < 1:
            name, value = ("epochs", self.epochs) if self.epochs < 1 else ("batch_size", self.batch_size)
            raise UsageError(f"{name} is at least 1; got {value}")
        if not 0 < self.learning_rate < 10:
            raise UsageError(f"learning_rate is above 0 and below 10; got {self.learning_rate:g}")
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("decay", self.decay, DECAYS)
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience is at least 1 epoch; got {self.patience}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QatOptions(TrainOptions):
    """How to train a model that computes in int8: gently, and by the answers of the dense model. Batch normalization
    is folded as in the file, so its statistics stay."""

    learning_rate: float = 1e-5
    """At the start, above 0 and below 10."""
    distill: float = 0.5
    """Share of the loss that the dense model's answers have, 0 to 1."""
    renew_norms: bool = False
    """Has to be `false`: batch normalization is folded, as in the file."""
    features: float = 0.0
    """Has to be 0: layers that are rounded make other numbers."""

    def __post_init__(self) -> None:
        # Written out: in a dataclass with slots super() without arguments means the class before it got them.
        TrainOptions.__post_init__(self)
        if self.features:
            raise UsageError("quantization-aware training compares no layers: leave out features")
        if self.renew_norms:
            raise UsageError("quantization-aware training folds batch normalization: leave out renew_norms")

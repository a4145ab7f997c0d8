"""What a Core ML package tells Xcode and the app beside the model: target, pictures, class labels, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import InputError, UsageError
from edgeprune.maker.training.datasets import InputSpecs

__all__ = ["TARGETS", "CoreMlOptions", "ImageInput", "check_ends", "read_labels"]

# Deployment target -> what its weights can be: constexpr operations came with iOS 16, two of them in a row with iOS 18
# (coremltools 9 guide, "Optimization overview").
TARGETS = {"iOS15": "plain", "iOS16": "compressed", "iOS17": "compressed", "iOS18": "joint"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """An input that the app feeds with pictures: the model gets `scale * pixel + bias` for pixels 0 to 255.

    `color`: RGB, BGR or GRAYSCALE, the order of the channels that the model was trained with. `bias` has one number, or
    one for each channel.
    """

    name: str
    scale: float = 1.0
    bias: tuple[float, ...] = (0.0,)
    color: str = "RGB"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMlOptions:
    """What the package tells Xcode and the app, beside the model itself."""

    target: str = "iOS16"
    image: ImageInput | None = None
    class_labels: tuple[str, ...] = ()
    author: str = ""
    license: str = ""
    description: str = ""
    version: str = ""

    def to_json(self) -> dict[str, Any]:
        """What the child process is told."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> CoreMlOptions:
        """The inverse of `to_json`."""
        image = told["image"] and ImageInput(**{**told["image"], "bias": tuple(told["image"]["bias"])})
        return cls(**{**told, "image": image, "class_labels": tuple(told["class_labels"])})


def read_labels(path: Path) -> tuple[str, ...]:
    """Class labels from a text file, one a line. Raises InputError with the line that is wrong."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"{path}: cannot be read as a text file with one label a line") from cause
    names = names[: len(names) - (names[-1:] == [""])]
    if not names or "" in names:
        line = names.index("") + 1 if "" in names else 1
        raise InputError(f"{path}: line {line} is empty; write one label a line, in the order of the model's outputs")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: the label {twice!r} stands there twice")
    return tuple(names)


def check_ends(specs: InputSpecs, outputs: Sequence[Sequence[int | None]], options: CoreMlOptions) -> None:
    """Raise UsageError where image input or class labels do not fit the model's inputs and output shapes."""
    image, labels = options.image, options.class_labels
    if image is not None:
        if image.name not in specs:
            raise UsageError(f"--image-input {image.name}: the model has no such input; it has {', '.join(specs)}")
        shape, dtype = specs[image.name]
        channels = 1 if image.color == "GRAYSCALE" else 3
        if len(shape) != 4 or shape[-1] != channels or not dtype.startswith("float"):
            raise UsageError(
                f"--image-input {image.name}: a {image.color} picture is [height, width, {channels}] of floats, the "
                f"input is {list(shape[1:])} of {dtype}" + ("; try --color GRAYSCALE" if shape[-1:] == (1,) else "")
            )
        if len(image.bias) not in (1, channels):
            raise UsageError(f"--image-bias has {len(image.bias)} numbers for {channels} channels")
    if labels:
        if len(outputs) != 1:
            raise UsageError(f"--class-labels is for models with one output; this one has {len(outputs)}")
        classes = outputs[0][-1]
        if len(labels) != classes:
            raise UsageError(f"--class-labels has {len(labels)} labels, the model's output {classes} classes")

"""What a Core ML package tells Xcode and the app beside the model: target, pictures, class labels, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.artifact import Color, DeploymentTarget
from edgeprune.errors import InputError, UsageError
from edgeprune.host.untrusted import read_text

__all__ = ["CoreMlOptions", "ImageInput", "PackageOptions", "bias_of", "check_ends", "read_labels"]

if TYPE_CHECKING:
    from edgeprune.maker.training.datasets import InputSpecs


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """An input that the app feeds with pictures: the model gets `scale * pixel + bias` for pixels 0 to 255.

    `color` is the order of the channels that the model was trained with. `bias` has one number, or one for each
    channel.
    """

    name: str
    scale: float = 1.0
    bias: tuple[float, ...] = (0.0,)
    color: Color = Color.RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMlOptions:
    """What the package tells Xcode and the app, beside the model itself."""

    target: str = DeploymentTarget.IOS16
    image: ImageInput | None = None
    class_labels: tuple[str, ...] = ()
    author: str = ""
    license: str = ""
    description: str = ""
    version: str = ""

    def to_json(self) -> dict[str, object]:
        """What the child process is told."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> CoreMlOptions:
        """The inverse of `to_json`."""
        image = told["image"] and ImageInput(
            **{**told["image"], "bias": tuple(told["image"]["bias"]), "color": Color(told["image"]["color"])}
        )
        return cls(**{**told, "image": image, "class_labels": tuple(told["class_labels"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageOptions:
    """What a recipe's export and the options of `convert` say of a Core ML package.

    `image_input` names the input that takes pictures, `color` is the order of their channels; `class_labels` is a text
    file with one label a line, which makes the package a classifier. `author`, `license`, `description` and `version`
    are shown by Xcode.
    """

    deployment_target: DeploymentTarget = DeploymentTarget.IOS16
    """The oldest iOS that must run the package: `iOS15`, `iOS16`, `iOS17` or `iOS18`."""
    image_input: str | None = None
    """This input takes pictures; in a recipe they are scaled like the data."""
    color: Color | None = None
    """Order of the channels of the pictures: `"RGB"`, `"BGR"` or `"GRAYSCALE"`; left out, RGB."""
    class_labels: Path | None = None
    """A text file with one label a line; the package becomes a classifier."""
    author: str = ""
    """Shown by Xcode."""
    license: str = ""
    """Shown by Xcode."""
    description: str = ""
    """Shown by Xcode."""
    version: str = ""
    """Shown by Xcode."""

    def given(self) -> tuple[str, ...]:
        """The names of the options that say something beside the deployment target."""
        usual = PackageOptions(deployment_target=self.deployment_target)
        return tuple(name for name, value in asdict(self).items() if value != getattr(usual, name))

    def below(self, folder: Path) -> PackageOptions:
        """The same with its file counted from `folder`."""
        return replace(self, class_labels=folder / self.class_labels) if self.class_labels else self

    def resolved(self, *, scale: float = 1.0, bias: tuple[float, ...] = (0.0,)) -> CoreMlOptions:
        """What the package is told, for pictures that the model gets as pixel * scale + bias.

        Raises UsageError for options that do not go together, InputError for bad class labels.
        """
        image = None
        if self.image_input is not None:
            if scale == 0:
                raise UsageError("--scale 0 makes every picture the same; give another number")
            image = ImageInput(name=self.image_input, scale=scale, bias=bias, color=self.color or Color.RGB)
        elif self.color is not None:
            raise UsageError("--color belongs to --image-input NAME (in a recipe: color, image_input); add it")
        return CoreMlOptions(
            target=self.deployment_target,
            image=image,
            class_labels=read_labels(self.class_labels) if self.class_labels else (),
            author=self.author,
            license=self.license,
            description=self.description,
            version=self.version,
        )


def bias_of(text: str) -> tuple[float, ...]:
    """The numbers of an option --image-bias. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as cause:
        raise UsageError(f"--image-bias is one number, or one for each channel with commas; got {text!r}") from cause


def read_labels(path: Path) -> tuple[str, ...]:
    """Class labels from a text file, one a line. Raises InputError with the line that is wrong."""
    names = [line.strip() for line in read_text(path, "a text file with one label a line").splitlines()]
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

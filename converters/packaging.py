"""What an exported file tells the app beside the model: target, pictures, class labels, metadata."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.artifact import Color, DeploymentTarget, Format
from edgeprune.errors import InputError, UsageError
from edgeprune.formats.metadata import ImageInput, MetadataOptions
from edgeprune.host.untrusted import read_text

__all__ = ["AppOptions", "PackageOptions", "check_words", "numbers_of", "read_labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppOptions(MetadataOptions):
    """What a file tells Xcode or Android's libraries and the app, beside the model; `target` is for Core ML only.

    With `softmax` the file ends in one: the output that the class labels name, or the only one, becomes probabilities.
    """

    target: str = DeploymentTarget.IOS16
    softmax: bool = False

    def to_json(self) -> dict[str, object]:
        """What the child process is told."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> AppOptions:
        """The inverse of `to_json`."""
        known = _with_tuples(told)
        if known["image"]:
            image = _with_tuples(known["image"])
            known["image"] = ImageInput(**{**image, "color": Color(image["color"])})
        return cls(**known)


def _with_tuples(told: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageOptions:
    """What a recipe's export and the options of `convert` want the file to tell the app.

    `image_input` names the input that takes pictures, `color` is the order of their channels; `class_labels` is a text
    file with one label a line, which makes a Core ML package a classifier and goes into a .tflite file; `softmax` makes
    logits probabilities. `author`, `license`, `description` and `version` are shown by Xcode, and stand in the metadata
    of a .tflite or .onnx file.
    """

    deployment_target: DeploymentTarget = DeploymentTarget.IOS16
    """coreml: the oldest iOS that must run the package, `iOS15`, `iOS16`, `iOS17` or `iOS18`."""
    image_input: str | None = None
    """This input takes pictures; in a recipe they are scaled like the data."""
    color: Color | None = None
    """Order of the channels of the pictures: `"RGB"`, `"BGR"` (coreml only) or `"GRAYSCALE"`; left out, RGB."""
    class_labels: Path | None = None
    """A text file with one label a line; a Core ML package becomes a classifier, a .tflite file holds the labels."""
    softmax: bool = False
    """A softmax behind the output that the labels name (the only one without labels), for models that give logits."""
    author: str = ""
    """Shown by Xcode; in the metadata of a .tflite or .onnx file."""
    license: str = ""
    """Shown by Xcode; in the metadata of a .tflite or .onnx file."""
    description: str = ""
    """Shown by Xcode; in the metadata of a .tflite or .onnx file."""
    version: str = ""
    """Shown by Xcode; in the metadata of a .tflite or .onnx file."""

    def below(self, folder: Path) -> PackageOptions:
        """The same with its file counted from `folder`."""
        return replace(self, class_labels=folder / self.class_labels) if self.class_labels else self

    def resolved(
        self, *, scale: float | tuple[float, ...] = 1.0, bias: tuple[float, ...] = (0.0,), pictures: bool = False
    ) -> AppOptions:
        """What the file is told, for pictures that the model gets as pixel * scale + bias; with `pictures` the only
        input takes them, where none is named.

        Raises UsageError for options that do not go together, InputError for bad class labels.
        """
        image = None
        if self.image_input is not None or pictures:
            if scale == 0:
                raise UsageError("--scale 0 makes every picture the same; give another number")
            image = ImageInput(name=self.image_input or "", scale=scale, bias=bias, color=self.color or Color.RGB)
        elif self.color is not None:
            raise UsageError("--color belongs to --image-input NAME (in a recipe: color, image_input); add it")
        return AppOptions(
            target=self.deployment_target,
            image=image,
            class_labels=read_labels(self.class_labels) if self.class_labels else (),
            softmax=self.softmax,
            author=self.author,
            license=self.license,
            description=self.description,
            version=self.version,
        )


def numbers_of(option: str, text: str) -> tuple[float, ...]:
    """The numbers of an option such as --image-bias. Raises UsageError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(math.isfinite(number) for number in found):
        raise UsageError(f"{option} is one number, or one for each channel with commas; got {text!r}")
    return found


_NAMES = ("name", "input_names", "input_descriptions", "output_names", "output_descriptions")


def check_words(model_format: Format, options: AppOptions) -> None:
    """Raise UsageError for what a format has no place for."""
    image = options.image
    if model_format is Format.TFLITE:
        if image is not None and image.color == Color.BGR:
            raise UsageError("--color BGR is for coreml; in a .tflite file pictures are RGB or GRAYSCALE")
        return
    if model_format is Format.ONNX:
        _check_onnx(options)
        return
    labels = options.class_labels
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UsageError(
            f"--class-labels: {twice!r} stands there twice; in a Core ML package each label has its own name"
        )
    if image is not None and isinstance(image.scale, tuple):
        raise UsageError("a Core ML package has one scale for all channels; give --std (or the scale) one number")
    for name in _NAMES:
        if getattr(options, name):
            raise UsageError(f"{name} is for a .tflite file; a Core ML package takes the names of the model")


def _check_onnx(options: AppOptions) -> None:
    """An .onnx file has room for its author, licence, description and version."""
    if options.image is not None:
        raise UsageError(
            "--image-input, --mean and --std are for tflite and coreml: an .onnx file takes what the model takes; "
            "scale in the app, and data with --scale and --offset"
        )
    if options.class_labels:
        raise UsageError("--class-labels is for tflite and coreml: an .onnx file has no place for labels; leave it out")
    for name in _NAMES:
        if getattr(options, name):
            raise UsageError(f"{name} is for a .tflite file; an .onnx file takes the names of the model")


def read_labels(path: Path) -> tuple[str, ...]:
    """Class labels from a text file, one a line. Raises InputError with the line that is wrong."""
    names = [line.strip() for line in read_text(path, "a text file with one label a line").splitlines()]
    names = names[: len(names) - (names[-1:] == [""])]
    if not names or "" in names:
        line = names.index("") + 1 if "" in names else 1
        raise InputError(f"{path}: line {line} is empty; write one label a line, in the order of the model's outputs")
    return tuple(names)

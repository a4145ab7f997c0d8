"""What a model file tells the app beside the model, whatever its format: pictures, class labels, descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from edgeprune.artifact import Color
from edgeprune.errors import UsageError

__all__ = ["ImageInput", "MetadataOptions", "check_ends", "labelled_output", "settled"]

Options = TypeVar("Options", bound="MetadataOptions")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """An input that the app feeds with pictures: the model gets `scale * pixel + bias` for pixels 0 to 255.

    `color` is the order of the channels that the model was trained with. `bias` has one number, or one for each
    channel; so has `scale` of a .tflite file, where both stand as `mean` and `std`.
    """

    name: str
    scale: float | tuple[float, ...] = 1.0
    bias: tuple[float, ...] = (0.0,)
    color: Color = Color.RGB

    @classmethod
    def normalized(
        cls, name: str, mean: tuple[float, ...], std: tuple[float, ...], color: Color = Color.RGB
    ) -> ImageInput:
        """The input that gets (pixel - mean) / std, one number each or one for each channel. Raises UsageError."""
        if 0 in std:
            raise UsageError("--std 0 makes every picture the same; give another number")
        if len(mean) != len(std) and 1 not in (len(mean), len(std)):
            raise UsageError(f"--mean has {len(mean)} numbers and --std {len(std)}; give one, or one for each channel")
        scale = tuple(1 / each for each in std)
        bias = tuple(-m / s for m, s in _pairs(mean, std))
        return cls(name=name, scale=scale[0] if len(scale) == 1 else scale, bias=bias, color=color)

    @property
    def channels(self) -> tuple[tuple[float, float], ...]:
        """(scale, bias) of all channels together, or of each."""
        return tuple(_pairs(self.scale if isinstance(self.scale, tuple) else (self.scale,), self.bias))

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from a pixel, one number or one for each channel: as many as there are in `std`."""
        return tuple(-bias / scale + 0.0 for scale, bias in self.channels)

    @property
    def std(self) -> tuple[float, ...]:
        """What a pixel without its mean is divided by."""
        return tuple(1 / scale for scale, _ in self.channels)


def _pairs(one: tuple[float, ...], other: tuple[float, ...]) -> Iterator[tuple[float, float]]:
    """Numbers of two tuples together; one number goes with each of the other tuple."""
    count = max(len(one), len(other))
    wide = [values * count if len(values) == 1 else values for values in (one, other)]
    return zip(*wide, strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataOptions:
    """What a model file should tell the app.

    `image` is the input that takes pictures, `class_labels` the names of the classes in the order of the output.
    .tflite only: `name` of the model, names and descriptions of inputs and outputs in the order of the file (names that
    are left out are those of the model).
    """

    image: ImageInput | None = None
    class_labels: tuple[str, ...] = ()
    author: str = ""
    license: str = ""
    description: str = ""
    version: str = ""
    name: str = ""
    input_names: tuple[str, ...] = ()
    input_descriptions: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    output_descriptions: tuple[str, ...] = ()

    @property
    def told(self) -> bool:
        """Whether anything is said."""
        return any(getattr(self, item.name) for item in fields(MetadataOptions))


def settled(options: Options, inputs: Sequence[str]) -> Options:
    """The options with a name for the input that takes pictures: without one it is the only input of the model.

    Raises UsageError where there are several.
    """
    if options.image is None or options.image.name:
        return options
    if len(inputs) != 1:
        raise UsageError(f"which input takes pictures? Add --image-input NAME: {', '.join(inputs)}")
    return replace(options, image=replace(options.image, name=inputs[0]))


def check_ends(
    specs: Mapping[str, tuple[Sequence[int | None], str]],
    outputs: Mapping[str, Sequence[int | None]],
    options: MetadataOptions,
    *,
    integers: bool = False,
) -> None:
    """Raise UsageError where image input or class labels do not fit a model's inputs, and outputs with their shapes.

    With `integers` pictures may go into an input of integers: that of a quantized file.
    """
    if options.image is not None:
        _check_image(specs, options.image, integers=integers)
    if options.class_labels:
        labelled_output(outputs, options.class_labels)


def labelled_output(outputs: Mapping[str, Sequence[int | None]], labels: Sequence[str]) -> str:
    """The output that class labels name, of outputs with their shapes: it has as many classes (its last size) as there
    are labels; where several have, the only one of them with two sizes. Raises UsageError."""
    classes = {name: shape[-1] if shape else 0 for name, shape in outputs.items()}
    fit = [name for name, count in classes.items() if count == len(labels)]
    flat = [name for name in fit if len(outputs[name]) == 2]
    chosen = fit if len(fit) == 1 else flat
    if len(chosen) == 1:
        return chosen[0]
    if len(outputs) == 1:
        raise UsageError(
            f"--class-labels has {len(labels)} labels, the model's output {next(iter(classes.values()))} classes"
        )
    told = ", ".join(f"{name} {count}" for name, count in classes.items() if not fit or name in fit)
    raise UsageError(
        f"--class-labels has {len(labels)} labels, and {'several outputs have' if fit else 'no output has'} as many "
        f"classes: {told}; give a model in which one output has"
    )


def _check_image(specs: Mapping[str, tuple[Sequence[int | None], str]], image: ImageInput, *, integers: bool) -> None:
    if image.name not in specs:
        raise UsageError(f"--image-input {image.name}: the model has no such input; it has {', '.join(specs)}")
    shape, dtype = specs[image.name]
    channels = 1 if image.color == Color.GRAYSCALE else 3
    whole = dtype == "uint8" and not integers  # of the model itself: it takes pixels as they are
    fits = whole or dtype.startswith("float") or (integers and dtype in ("int8", "uint8"))
    if len(shape) != 4 or shape[-1] != channels or not fits:
        raise UsageError(
            f"--image-input {image.name}: a {image.color} picture is [height, width, {channels}] of floats or uint8, "
            f"the input is {list(shape[1:])} of {dtype}"
            + ("; try --color GRAYSCALE" if tuple(shape[-1:]) == (1,) else "")
        )
    if whole and any(pair != (1.0, 0.0) for pair in image.channels):
        raise UsageError(
            f"--image-input {image.name}: the input is uint8 and takes pixels as they are; leave out --scale, "
            "--offset, --image-bias, --mean and --std"
        )
    scales = len(image.scale) if isinstance(image.scale, tuple) else 1
    for option, count in (("--image-bias (or --mean)", len(image.bias)), ("--std", scales)):
        if count not in (1, channels):
            raise UsageError(f"{option} has {count} numbers for {channels} channels")

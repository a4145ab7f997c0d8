"""What a model file tells the app beside the model, whatever its format: pictures, class labels, descriptions."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.artifact import Color
from edgeprune.errors import UsageError

__all__ = ["ImageInput", "MetadataOptions"]


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
        count = max(len(mean), len(std))
        wide = [values * count if len(values) == 1 else values for values in (mean, std)]
        bias = tuple(-m / s for m, s in zip(*wide, strict=True))
        return cls(name=name, scale=scale[0] if len(scale) == 1 else scale, bias=bias, color=color)

    @property
    def scales(self) -> tuple[float, ...]:
        """One number, or one for each channel."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from a pixel: one number, or one for each channel."""
        count = max(len(self.scales), len(self.bias))
        wide = [values * count if len(values) == 1 else values for values in (self.bias, self.scales)]
        return tuple(-b / s + 0.0 for b, s in zip(*wide, strict=True))

    @property
    def std(self) -> tuple[float, ...]:
        """What a pixel without its mean is divided by."""
        return tuple(1 / each for each in self.scales)


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

"""`edgeprune metadata`: what a .tflite file tells the app beside the model. Light imports only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.artifact import Color
from edgeprune.commands.options import PATH, common_options, echo_json, taken
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.formats.metadata import ImageInput, MetadataOptions

__all__ = ["metadata"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The options as they were typed."""

    name: str | None
    description: str | None
    version: str | None
    author: str | None
    license: str | None
    mean: str | None
    std: str | None
    color: str | None
    image_input: str | None
    class_labels: Path | None
    input_name: tuple[str, ...]
    input_description: tuple[str, ...]
    output_name: tuple[str, ...]
    output_description: tuple[str, ...]

    def options(self) -> MetadataOptions:
        """What is to be told."""
        from edgeprune.converters.packaging import read_labels
        from edgeprune.formats.metadata import MetadataOptions

        return MetadataOptions(
            name=self.name or "",
            description=self.description or "",
            version=self.version or "",
            author=self.author or "",
            license=self.license or "",
            image=self._image(),
            class_labels=read_labels(self.class_labels) if self.class_labels else (),
            input_names=self.input_name,
            input_descriptions=self.input_description,
            output_names=self.output_name,
            output_descriptions=self.output_description,
        )

    def _image(self) -> ImageInput | None:
        from edgeprune.converters.packaging import numbers_of
        from edgeprune.formats.metadata import ImageInput

        if self.mean is None and self.std is None and self.color is None and self.image_input is None:
            return None
        if self.mean is None or self.std is None:
            raise UsageError(
                "an input that takes pictures needs --mean and --std: the model gets (pixel - M) / S; "
                "--mean 0 --std 1 where it gets pixels as they are"
            )
        means, stds = numbers_of("--mean", self.mean), numbers_of("--std", self.std)
        return ImageInput.normalized(self.image_input or "", means, stds, Color(self.color or Color.RGB))


@click.command(cls=Verb)
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, help="The .tflite file to write; --overwrite alone replaces FILE.")
@click.option("--name", help="Name of the model.")
@click.option("--description", help="What the model does.")
@click.option("--version", help="Version of the model.")
@click.option("--author", help="Who made it.")
@click.option("--license", help="Licence of the model.")
@click.option("--mean", metavar="M[,M,M]", help="With --std: the model gets (pixel - M) / S for pixels 0 to 255.")
@click.option("--std", metavar="S[,S,S]", help="See --mean; one number, or one for each channel.")
@click.option(
    "--color",
    type=click.Choice([Color.RGB.value, Color.GRAYSCALE.value]),
    help="Order of the channels of the pictures.  [default: RGB]",
)
@click.option("--image-input", metavar="NAME", help="The input that takes pictures, where there are several.")
@click.option("--class-labels", "--labels", type=PATH, metavar="TXT", help="One label a line, in the output's order.")
@click.option("--input-name", multiple=True, metavar="NAME", help="Of an input; repeat it in the order of the file.")
@click.option("--input-description", multiple=True, metavar="TEXT", help="Of an input; likewise.")
@click.option("--output-name", multiple=True, metavar="NAME", help="Of an output; likewise.")
@click.option("--output-description", multiple=True, metavar="TEXT", help="Of an output; likewise.")
@click.option("--replace", "replaced", is_flag=True, help="Write only what is said here; drop what FILE tells already.")
@common_options("overwrite", "json")
def metadata(file: Path, output: Path | None, replaced: bool, overwrite: bool, as_json: bool, **options: object) -> int:
    """Show the TFLite metadata of a .tflite FILE, or write some: normalisation, labels, names and descriptions.

    The Task Library, ML Kit and MediaPipe Tasks read them. What is not said stays as it is in FILE, and the model in it
    stays the same, byte for byte. The labels go into the file behind the model, as labels.txt.

    \b
    Examples:
      edgeprune metadata model.tflite
      edgeprune metadata model.tflite --labels labels.txt --mean 127.5 --std 127.5 -o photo.tflite
      edgeprune metadata photo.tflite --description "Ten kinds of clothes" --author "A. Maker" --overwrite
    """
    from edgeprune.formats.tflite.metadata import read_metadata
    from edgeprune.report.metadata_report import metadata_json, metadata_text

    wanted = taken(_Wanted, options).options()
    if wanted.told or replaced:
        file = _written(file, output, wanted, replaced=replaced, overwrite=overwrite)
    elif output is not None or overwrite:
        raise UsageError("nothing to write; say what the file tells, for example --description TEXT")
    found = read_metadata(file)
    if as_json:
        echo_json(metadata_json(found))
    else:
        click.echo(metadata_text(found))
    return 0


def _written(file: Path, output: Path | None, wanted: MetadataOptions, *, replaced: bool, overwrite: bool) -> Path:
    from edgeprune.commands.calls import write_metadata

    if output is None and not overwrite:
        raise UsageError("where to? Add -o OUT.tflite, or --overwrite to replace the file itself")
    return write_metadata(file, output or file, wanted, replaced=replaced, overwrite=overwrite)

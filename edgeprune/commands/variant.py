"""`edgeprune variant`: another file of the same model, without another conversion. Light imports only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.artifact import Precision, sha256_of
from edgeprune.checker.sparse_kernels.options import STORED, Prefer, SparseOptions
from edgeprune.commands.options import PATH, common_options, echo_json, taken, with_note
from edgeprune.commands.screens import Verb
from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.converters.variants import VariantOptions
    from edgeprune.ledger import ArtifactEntry
    from edgeprune.maker.training.data.samples import Samples

__all__ = ["variant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The options as they were typed."""

    precision: str | None
    sparsity: float | None
    download_target: str | None
    sparse_kernels: bool
    prefer: str | None
    reversed_input: bool
    data: Path | None
    scale: float
    offset: float
    codecs: tuple[str, ...]
    overwrite: bool
    as_json: bool
    quiet: bool

    def options(self) -> VariantOptions:
        """What the new file is to be."""
        from edgeprune.converters.variants import VariantOptions

        if not self.sparse_kernels and (self.prefer or self.reversed_input):
            raise UsageError("--prefer and --reversed-input are about --sparse-kernels; add it, or leave them out")
        sparse = SparseOptions(prefer=Prefer(self.prefer or Prefer.DOWNLOAD), reversed_input=self.reversed_input)
        return VariantOptions(
            precision=Precision(self.precision) if self.precision else None,
            sparsity=self.sparsity,
            download_target=self.download_target,
            sparse=sparse if self.sparse_kernels else None,
            codecs=self.codecs,
        )


@click.command(cls=Verb)
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The .tflite file to write.")
@click.option(
    "--precision",
    type=click.Choice([word.value for word in STORED]),
    help="Of the weights: float16 and int8-weights (a scale per channel) are unpacked when the file is loaded, and "
    "computed with in float32.  [default: as in FILE]",
)
@click.option("--sparsity", type=float, help="Prune the smallest weights of every kernel to this share of zeros.")
@click.option(
    "--download-target",
    metavar="SIZE",
    help="With --precision int8-weights: coarser weights, by their own error, until the download is 0.2x of FILE's or "
    "80 kB.",
)
@click.option(
    "--sparse-kernels", is_flag=True, help="Rewrite the graph and store the weights so that XNNPACK's zeros are fast."
)
@click.option(
    "--prefer",
    type=click.Choice([word.value for word in Prefer]),
    help="With --sparse-kernels: which size decides whether a kernel is stored sparse.  [default: download]",
)
@click.option(
    "--reversed-input",
    is_flag=True,
    help="With --sparse-kernels: the app feeds the image turned by 180 degrees, where the file would turn it.",
)
@click.option(
    "--data",
    type=PATH,
    metavar="DATA",
    help="Samples that both files are run on, the first 64: an .npz with the inputs of FILE.  [default: at most 8 "
    "random ones, and 64 for the proof of --sparse-kernels]",
)
@common_options("codecs", "scale", "offset", "overwrite", "json", "quiet")
def variant(file: Path, output: Path, **options: object) -> int:
    """Make another file out of a float .tflite FILE: other precision, zeros, or ready for sparse kernels.

    The file itself is edited, without TensorFlow, in a hundredth of the time of a conversion; to run and weigh it takes
    longer. --sparse-kernels makes the graph one that XNNPACK runs with sparse kernels on Arm and in WebAssembly (not on
    x86 with AVX), by exact rewrites, each of which is listed and proved by running both files; exit code 3 with the
    condition and the layer where that cannot be done. The new file runs on every installed runtime and is held against
    FILE.

    \b
    Examples:
      edgeprune variant model.tflite --precision float16 -o half.tflite
      edgeprune variant model.tflite --precision int8-weights --download-target 0.2x -o coarse.tflite
      edgeprune variant pruned.tflite --sparse-kernels -o fast.tflite
      edgeprune variant model.tflite --sparsity 0.8 --sparse-kernels --precision int8-weights -o small.tflite
    """
    wanted = taken(_Wanted, options)
    entry = _made(file, output, wanted)
    if wanted.as_json:
        echo_json(
            {"schema_version": 1, "input": {"path": str(file), "sha256": sha256_of(file)}, "output": asdict(entry)}
        )
        return 0
    from edgeprune.report.agreement_report import export_text

    for line in entry.warnings:
        click.echo(f"edgeprune: warning: {line}", err=True)
    click.echo(export_text(entry, against=file.name))
    return 0


def _made(file: Path, output: Path, wanted: _Wanted) -> ArtifactEntry:
    from edgeprune.converters.variants import check_variant, variant
    from edgeprune.host.progress import Progress

    options = wanted.options()
    check_variant(options)
    samples = _samples(file, wanted) if wanted.data is not None else None
    progress = Progress(quiet=wanted.quiet)
    return variant(file, output, options, samples=samples, overwrite=wanted.overwrite, progress=progress)


def _samples(file: Path, wanted: _Wanted) -> Samples:
    from edgeprune.converters.variants import input_specs_of
    from edgeprune.formats import read_graph
    from edgeprune.maker.training.data.loading import load_samples

    assert wanted.data is not None
    specs = input_specs_of(read_graph(file))
    found = load_samples(
        wanted.data, specs, scale=wanted.scale, offset=wanted.offset, need_targets=False, other=["sample_weight"]
    )
    return with_note(found)

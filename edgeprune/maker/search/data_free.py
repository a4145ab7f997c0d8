"""Without any data: what can be made smaller by looking at the model alone, and what that cannot promise."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from edgeprune.artifact import Precision
from edgeprune.checker.size.codecs import BASE_CODEC
from edgeprune.converters.conversion import convert
from edgeprune.converters.session import Converter
from edgeprune.converters.slim_options import SlimOptions
from edgeprune.converters.variants import VariantOptions, variant
from edgeprune.errors import Unsupported
from edgeprune.host.progress import Progress
from edgeprune.host.scratch import scratch_folder
from edgeprune.ledger import ArtifactEntry, ChannelReport
from edgeprune.maker.keras.models import save_model
from edgeprune.maker.keras.types import Model
from edgeprune.maker.pruning.channel.lossless import prune_dead
from edgeprune.points import DataFreeReport

__all__ = ["shrink_data_free"]

# Of a package, the finest first: what is small enough is taken, and the last where nothing is.
PACKAGES = (Precision.FLOAT16, Precision.INT8, Precision.PALETTE6, Precision.PALETTE4, Precision.PALETTE2)


def shrink_data_free(
    model: Model, name: str, place: Path, progress: Progress, *, download: str | None = None
) -> DataFreeReport:
    """Leave `name`.keras without its dead channels, its .tflite file and, where coremltools is installed, its package
    in the folder `place`.

    `download` is "0.2x" of the dense float32 .tflite file or "80 kB": weights become as coarse as that asks for, by
    their own error; without it they become int8. Files are held against the model on random samples. Raises
    UsageError for a download that cannot be read.
    """
    slim = SlimOptions(download_target=download)
    progress.begin("remove dead channels")
    narrow, channels, why_not = _without_dead(model)
    save_model(narrow, place / f"{name}.keras")
    progress.end("" if channels is None else f"{channels.parameters_before - channels.parameters_after:,} parameters")
    with Converter() as converter, scratch_folder() as folder:
        dense = convert(model, folder / "dense.tflite", converter=converter, progress=progress)
        start = folder / f"{name}.tflite"
        if channels is not None:
            convert(narrow, start, converter=converter, progress=progress)
        else:
            start = Path(dense.path)
        dense_bytes = dense.download_bytes[BASE_CODEC]
        target = slim.target_bytes(dense_bytes)
        files = [_tflite(start, place / f"{name}.tflite", target, progress)]
        if importlib.util.find_spec("coremltools") is not None:
            made = _package(narrow, place / f"{name}.mlpackage", target, converter, progress)
            files.append(made)
    return DataFreeReport(
        tool_version=version("edgeprune"),
        model=name,
        dense_bytes=dense_bytes,
        download_bytes=target,
        channels=channels,
        files=tuple(replace(entry, path=Path(entry.path).name) for entry in files),
        reached={
            Path(entry.path).name: target is None or entry.download_bytes[BASE_CODEC] <= target for entry in files
        },
        said=(why_not,) if why_not else (),
    )


def _without_dead(model: Model) -> tuple[Model, ChannelReport | None, str]:
    """(The model without dead channels, what went, why nothing did)."""
    try:
        found = prune_dead(model)
    except Unsupported as cause:
        return model, None, f"no channels are removed: {cause}"
    if not found.report.removed:
        return model, None, "no channel is dead: none could be removed without any change"
    return found.model, found.report, ""


def _tflite(start: Path, out: Path, target: int | None, progress: Progress) -> ArtifactEntry:
    """float16 where that is small enough, else int8 weights, as coarse as needed."""

    def made(precision: Precision, aim: str | None) -> ArtifactEntry:
        options = VariantOptions(precision=precision, download_target=aim)
        return variant(start, out, options, overwrite=True, progress=progress)

    if target is not None:
        entry = made(Precision.FLOAT16, None)
        if entry.download_bytes[BASE_CODEC] <= target:
            return entry
    return made(Precision.INT8_WEIGHTS, None if target is None else f"{target} B")


def _package(model: Model, out: Path, target: int | None, converter: Converter, progress: Progress) -> ArtifactEntry:
    """The finest package that is small enough; int8 where nothing is asked."""
    for precision in PACKAGES if target is not None else (Precision.INT8,):
        entry = convert(model, out, precision=precision, overwrite=True, converter=converter, progress=progress)
        if target is None or entry.download_bytes[BASE_CODEC] <= target:
            break
    return entry
